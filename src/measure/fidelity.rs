//! Whether the run was what it claims to be: how close the sent shape is to the planned one.

use schemars::JsonSchema;
use serde::Serialize;

use super::tally::Tally;
use crate::govern::gate::ShedReason;
use crate::limits::LAG_LIMIT;

/// Share of due requests that may be lost to ourselves before a run is invalid.
const OWN_LOSS_MAX: f64 = 0.001;

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
}

/// Judges a measure phase.
#[must_use]
pub fn judge(t: &Tally) -> Fidelity {
    let due = t.counts.due;
    let of = |reason: ShedReason| t.counts.shed.get(&reason).copied().unwrap_or(0);
    let p99 = t.send_lag.quantile_ms(0.99);
    let mut ours = Vec::new();
    let late = of(ShedReason::TooLate);
    if late as f64 > due as f64 * OWN_LOSS_MAX {
        ours.push(format!("{late} requests were shed because this machine was late"));
    }
    if let Some(p99) = p99.filter(|p| *p > LAG_LIMIT.as_secs_f64() * 1e3) {
        ours.push(format!("the 99th percentile of our own send lag was {p99:.1} ms"));
    }
    let mut theirs = Vec::new();
    for reason in ShedReason::ALL.into_iter().filter(|r| *r != ShedReason::TooLate) {
        let n = of(reason);
        if n as f64 > due as f64 * 0.01 {
            theirs.push(format!("{n} of {due} due requests were shed: {}", reason.name()));
        }
    }
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let run = |shed: &[(ShedReason, u64)], lag_ms: u64| {
            let mut t = Tally::default();
            for _ in 0..1_000 {
                t.due();
                t.sent();
                t.send_lag.add(std::time::Duration::from_millis(lag_ms));
            }
            for (reason, n) in shed {
                (0..*n).for_each(|_| t.due());
                (0..*n).for_each(|_| t.shed(*reason));
            }
            judge(&t).verdict
        };
        assert_eq!(run(&[], 1), "valid");
        assert_eq!(run(&[(ShedReason::Thinned, 500)], 1), "reduced");
        assert_eq!(run(&[(ShedReason::TooLate, 20)], 1), "invalid");
        assert_eq!(run(&[], 500), "invalid");
        assert_eq!(judge(&Tally::default()).verdict, "invalid");
    }
}
