//! Whether the run was what it claims to be: how close the sent shape is to the planned one, whether we were able to
//! send it, and whether the target answered as it did when it was recorded.

use schemars::JsonSchema;
use serde::Serialize;

use super::route;
use super::saturation::Seconds;
use super::tally::Tally;
use crate::govern::gate::ShedReason;
use crate::limits::LAG_LIMIT;

/// Share of due requests that may be lost to ourselves before a run is invalid.
const OWN_LOSS_MAX: f64 = 0.001;

/// Share of the measured seconds in which the generator may be at its limit.
const SATURATED_MAX: f64 = 0.01;

/// Requests by which the seconds may differ, over those planned.
const DIFFERENCE_MAX: f64 = 0.05;

/// Planned requests below which their seconds are not judged: one that leaves at the edge of a second is two.
const DIFFERENCE_REQUESTS_MIN: u64 = 500;

/// Share of the requests that may have gone to another route than planned.
const MIX_MAX: f64 = 0.02;

/// Routes told of in words.
const DRIFT_TOLD_MAX: usize = 20;

/// The verdict on a measure phase.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Fidelity {
    /// `valid`, `reduced` (the governor or the target changed the shape) or `invalid` (we did).
    pub verdict: String,
    /// Why it is not `valid`.
    pub reasons: Vec<String>,
    /// Requests sent over requests due, in the measure phase.
    pub sent_share: Option<f64>,
    /// Lateness of our own sending against the plan, milliseconds, median.
    pub send_lag_p50_ms: Option<f64>,
    /// The same, 99th percentile.
    pub send_lag_p99_ms: Option<f64>,
    /// The same, largest.
    pub send_lag_max_ms: Option<f64>,
    /// Planned against sent.
    pub shape: ShapeJson,
    /// How the answers differ from the recorded ones, in words, route by route; empty where they do not, and where
    /// fewer than 50 can be compared.
    pub drift: Vec<String>,
    /// Ourselves.
    pub generator: GeneratorJson,
}

/// Planned against sent, in the measure phase.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct ShapeJson {
    /// Requests by which the seconds of plan and truth differ, over those planned.
    pub per_second_difference: Option<f64>,
    /// The second that differs most: second of the run, planned, sent.
    pub worst_second: Option<WorstSecondJson>,
    /// Largest difference between the distributions of gaps, planned and sent, 0 to 1 (Kolmogorov and Smirnov's
    /// distance). Gaps shorter than the pacing quantum are lost by design.
    pub gap_distance: Option<f64>,
    /// Median gap between neighbours on one worker as planned, milliseconds.
    pub gap_p50_planned_ms: Option<f64>,
    /// The same as sent.
    pub gap_p50_sent_ms: Option<f64>,
    /// Share of the requests that would have to change their route to make the mix the planned one.
    pub route_mix_difference: Option<f64>,
    /// Connections that the plan asked for, whatever became of their requests; null for a pool, which plans none.
    pub connections_planned: Option<u64>,
    /// Connections opened.
    pub connections_opened: u64,
    /// Requests due over connections planned.
    pub requests_per_connection_planned: Option<f64>,
    /// Requests written over connections opened.
    pub requests_per_connection: Option<f64>,
    /// Body bytes of answers over those recorded, where both are known and the status is the recorded one.
    pub response_bytes_ratio: Option<f64>,
}

/// The second in which plan and truth differ most.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct WorstSecondJson {
    /// Second of the run.
    pub second: u64,
    /// Requests due in it.
    pub planned: u32,
    /// Requests sent in it.
    pub sent: u32,
}

/// How the generator itself was.
#[derive(Debug, Clone, PartialEq, Default, Serialize, JsonSchema)]
pub struct GeneratorJson {
    /// Seconds of the measure phase in which it was at its limit (three in a row and more).
    pub saturated_s: u64,
    /// Why.
    pub reasons: Vec<String>,
    /// Highest share of a second that one of our threads ran; null where it cannot be read.
    pub thread_busy_max: Option<f64>,
    /// Highest share of a second that the host took from this machine; null where it cannot be read.
    pub steal_max: Option<f64>,
}

fn round(v: f64) -> f64 {
    (v * 1e4).round() / 1e4
}

fn over(a: u64, b: u64) -> Option<f64> {
    (b > 0).then(|| round(a as f64 / b as f64))
}

fn shape(t: &Tally) -> ShapeJson {
    let (due, sent) = t.routes.iter().fold((0, 0), |(d, s), r| (d + r.due, s + r.written));
    let differs = |r: &route::RouteTally| (r.due as f64 / due as f64 - r.written as f64 / sent as f64).abs();
    let (sizes, gaps) = (t.routes.iter().map(|r| r.sizes), t.pace.gaps_p50_ms());
    let bytes =
        sizes.fold((0u64, 0u64), |(a, b), s| (a.saturating_add(s.received), b.saturating_add(s.recorded)));
    ShapeJson {
        per_second_difference: t.pace.difference().map(round),
        worst_second: t.pace.worst().map(|w| WorstSecondJson {
            second: w.second,
            planned: w.planned,
            sent: w.sent,
        }),
        gap_distance: t.pace.gap_distance().map(round),
        gap_p50_planned_ms: gaps.0.map(round),
        gap_p50_sent_ms: gaps.1.map(round),
        route_mix_difference: (due > 0 && sent > 0)
            .then(|| round(t.routes.iter().map(differs).sum::<f64>() / 2.0)),
        connections_planned: (t.lanes > 0).then_some(t.lanes),
        connections_opened: t.connections,
        requests_per_connection_planned: over(t.counts.due, t.lanes),
        requests_per_connection: over(t.counts.written, t.connections),
        response_bytes_ratio: over(bytes.0, bytes.1),
    }
}

/// What was our own doing.
fn ours(t: &Tally, own: &Seconds, p99: Option<f64>) -> Vec<String> {
    let mut out = Vec::new();
    let late = t.counts.shed.get(&ShedReason::TooLate).copied().unwrap_or(0);
    if late as f64 > t.counts.due as f64 * OWN_LOSS_MAX {
        out.push(format!("{late} requests were shed because this machine was late"));
    }
    if let Some(p99) = p99.filter(|p| *p > LAG_LIMIT.as_secs_f64() * 1e3) {
        out.push(format!("the 99th percentile of our own send lag was {p99:.1} ms"));
    }
    if own.saturated as f64 > own.measured as f64 * SATURATED_MAX {
        let (bad, all) = (own.saturated, own.measured);
        let why = own.reasons.join("; ");
        out.push(format!("the generator was at its limit in {bad} of {all} seconds: {why}"));
    }
    out
}

/// What the governor or the target changed.
fn theirs(t: &Tally, shape: &ShapeJson, differences: usize) -> Vec<String> {
    let (due, mut out) = (t.counts.due, Vec::new());
    for reason in ShedReason::ALL.into_iter().filter(|r| *r != ShedReason::TooLate) {
        let n = t.counts.shed.get(&reason).copied().unwrap_or(0);
        if n as f64 > due as f64 * 0.01 {
            out.push(format!("{n} of {due} due requests were shed: {}", reason.name()));
        }
    }
    let differs = |d: &f64| *d > DIFFERENCE_MAX && due >= DIFFERENCE_REQUESTS_MIN;
    if let (Some(d), Some(w)) = (shape.per_second_difference.filter(differs), &shape.worst_second) {
        let (percent, WorstSecondJson { second, planned, sent }) = (d * 1e2, w);
        out.push(format!("the seconds differ from the plan by {percent:.1} %; most in second {second}: {planned} planned, {sent} sent"));
    }
    if let Some(d) = shape.route_mix_difference.filter(|d| *d > MIX_MAX) {
        out.push(format!("the mix of routes differs from the plan by {:.1} %", d * 1e2));
    }
    if differences > 0 {
        out.push(format!(
            "the target does not answer as it did when it was recorded (differences: {differences})"
        ));
    }
    out
}

/// Judges a measure phase.
#[must_use]
pub fn judge(t: &Tally, route_names: &[String], own: &Seconds) -> Fidelity {
    let due = t.counts.due;
    let p99 = t.send_lag.quantile_ms(0.99);
    let named =
        t.routes.iter().enumerate().map(|(i, r)| (route_names.get(i).map_or("other", String::as_str), r));
    let mut drift: Vec<String> = named.flat_map(|(name, r)| route::drift(name, r)).collect();
    let differences = drift.len();
    drift.truncate(DRIFT_TOLD_MAX);
    let shape = shape(t);
    let (ours, theirs) = (ours(t, own, p99), theirs(t, &shape, differences));
    let verdict = match (ours.is_empty(), theirs.is_empty()) {
        (false, _) => "invalid",
        (true, false) => "reduced",
        (true, true) => "valid",
    };
    Fidelity {
        verdict: if due == 0 { "invalid".to_owned() } else { verdict.to_owned() },
        reasons: if due == 0 {
            vec!["nothing was due".to_owned()]
        } else {
            ours.into_iter().chain(theirs).collect()
        },
        sent_share: (due > 0).then(|| t.counts.sent as f64 / due as f64),
        send_lag_p50_ms: t.send_lag.quantile_ms(0.5),
        send_lag_p99_ms: p99,
        send_lag_max_ms: t.send_lag.max_ms(),
        shape,
        drift,
        generator: GeneratorJson {
            saturated_s: own.saturated,
            reasons: own.reasons.clone(),
            thread_busy_max: own.ran_max.map(round),
            steal_max: own.steal_max.map(round),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::RunTime;

    fn tally(shed: &[(ShedReason, u64)], lag_ms: u64) -> Tally {
        let mut t = Tally::default();
        let mut at = (0..).map(|i| RunTime::from_millis(i * 10));
        for _ in 0..1_000 {
            let now = at.next().unwrap();
            t.due(now, 0);
            t.sent(now);
            t.send_lag.add(std::time::Duration::from_millis(lag_ms));
        }
        for (reason, n) in shed {
            (0..*n).for_each(|_| t.due(at.next().unwrap(), 0));
            (0..*n).for_each(|_| t.shed(*reason));
        }
        t
    }

    #[test]
    fn verdicts() {
        let run = |shed: &[(ShedReason, u64)], lag_ms| {
            judge(&tally(shed, lag_ms), &[], &Seconds::default()).verdict
        };
        assert_eq!(run(&[], 1), "valid");
        assert_eq!(run(&[(ShedReason::Thinned, 500)], 1), "reduced");
        assert_eq!(run(&[(ShedReason::TooLate, 20)], 1), "invalid");
        assert_eq!(run(&[], 500), "invalid");
        assert_eq!(judge(&Tally::default(), &[], &Seconds::default()).verdict, "invalid");
    }

    #[test]
    fn a_generator_at_its_limit_makes_a_run_invalid_and_says_why() {
        let reasons = vec!["thread worker-0 had no time left: busy 99 % of the time".to_owned()];
        let mut own = Seconds { measured: 1_000, saturated: 10, reasons, ..Seconds::default() };
        assert_eq!(judge(&tally(&[], 1), &[], &own).verdict, "valid");
        own.saturated = 11;
        let f = judge(&tally(&[], 1), &[], &own);
        assert_eq!(f.verdict, "invalid");
        assert_eq!(
            f.reasons,
            [
                "the generator was at its limit in 11 of 1000 seconds: thread worker-0 had no time left: busy 99 % of the time"
            ]
        );
    }

    #[test]
    fn a_curve_that_is_not_the_planned_one_is_told_by_its_worst_second() {
        let f = judge(&tally(&[(ShedReason::Bucket, 100)], 1), &[], &Seconds::default());
        let words = "the seconds differ from the plan by 9.1 %; most in second 10: 100 planned, 0 sent";
        assert_eq!(f.reasons, ["100 of 1100 due requests were shed: bucket", words]);
        assert_eq!(f.shape.per_second_difference, Some(0.0909));
    }
}
