//! Visibility: do the guards see the traffic that we send, and no more than that?
//!
//! The rate of the target's own request counter must rise by what we send (wrong Prometheus, wrong cluster,
//! wrong label, mirrored metrics all fail here), and must never rise by much more (retries on the way would
//! multiply every request of ours). Both are statements about noise, so both are made against three standard
//! deviations of what was seen while nothing was sent. Pure; refuses to guess: too little is not proven.

use std::collections::VecDeque;
use std::time::Duration;

use super::reading::{Answer, NoData};
use crate::limits::{OWN_TRAFFIC_TICKS_MAX, VISIBILITY_SAMPLES_MIN};
use crate::units::RunTime;

/// Share of our own rate that the target's counter must rise by.
pub const RISE_MIN: f64 = 0.5;

/// Polls in a row that must show the rise.
const PROOF_POLLS: u32 = 2;

/// Requests of ours in the window below which amplification cannot be told from noise.
const AMPLIFICATION_SAMPLES_MIN: f64 = 20.0;

/// What we sent in one stretch of time, requests per second.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Own {
    /// Sent.
    pub sent_rps: f64,
    /// Of these, answered with 5xx: what the target counts as errors, too.
    pub failed_rps: f64,
}

/// Our own traffic over time: totals at each tick of the governor.
#[derive(Debug, Clone, Default)]
pub struct OwnTraffic {
    ticks: VecDeque<(RunTime, u64, u64)>,
}

impl OwnTraffic {
    /// Takes the totals at `now`.
    pub fn push(&mut self, now: RunTime, sent: u64, failed: u64) {
        self.ticks.push_back((now, sent, failed));
        while self.ticks.len() > OWN_TRAFFIC_TICKS_MAX {
            self.ticks.pop_front();
        }
    }

    /// Totals at `at`: those of the last tick up to it, zero before the first.
    fn totals(&self, at: RunTime) -> (u64, u64) {
        let n = self.ticks.partition_point(|(t, _, _)| *t <= at);
        n.checked_sub(1).and_then(|i| self.ticks.get(i)).map_or((0, 0), |(_, s, f)| (*s, *f))
    }

    /// Mean rates over `range` up to `age` before `now`.
    #[must_use]
    pub fn over(&self, now: RunTime, age: Duration, range: Duration) -> Own {
        let back =
            |d: Duration| RunTime(now.0.saturating_sub(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)));
        let (from, to) = (self.totals(back(age + range)), self.totals(back(age)));
        let seconds = range.as_secs_f64().max(1e-9);
        Own {
            sent_rps: to.0.saturating_sub(from.0) as f64 / seconds,
            failed_rps: to.1.saturating_sub(from.1) as f64 / seconds,
        }
    }

    /// The rates that a query over `range` may show now: its newest sample is up to one scrape and one poll
    /// old, so the largest and the smallest of several alignments.
    #[must_use]
    pub fn aligned(&self, now: RunTime, behind: Duration, range: Duration) -> (Own, Own) {
        let mut low = self.over(now, Duration::ZERO, range);
        let mut high = low;
        for age in [behind / 2, behind] {
            let own = self.over(now, age, range);
            low = Own {
                sent_rps: low.sent_rps.min(own.sent_rps),
                failed_rps: low.failed_rps.min(own.failed_rps),
            };
            high = Own {
                sent_rps: high.sent_rps.max(own.sent_rps),
                failed_rps: high.failed_rps.max(own.failed_rps),
            };
        }
        (low, high)
    }
}

/// Organic errors over organic requests: what the server counts less what is ours.
///
/// Our own errors are taken at their lowest alignment and our own requests at their highest, so that noise
/// never hides harm to users: it makes the ratio larger, not smaller. Nothing left, or less than nothing, is
/// no data.
#[must_use]
pub fn organic_ratio(errors_rps: f64, requests_rps: f64, low: Own, high: Own) -> Answer {
    let requests = requests_rps - high.sent_rps;
    if requests <= 0.0 {
        return Answer::NoData(NoData::Empty);
    }
    let errors = errors_rps - low.failed_rps;
    // Less than nothing, beyond what two clocks explain: the two do not count the same thing.
    if errors < -(low.failed_rps * 0.1 + 0.5) {
        return Answer::NoData(NoData::Empty);
    }
    Answer::number((errors.max(0.0) / requests).min(1.0))
}

/// Proof of visibility and watch for amplification.
#[derive(Debug, Clone, Default)]
pub struct Visibility {
    /// Seconds that a query looks back.
    range_s: f64,
    baseline: VecDeque<f64>,
    streak: u32,
    proven: bool,
}

impl Visibility {
    /// For a query over `range`.
    #[must_use]
    pub fn new(range: Duration) -> Self {
        Self { range_s: range.as_secs_f64().max(1.0), ..Self::default() }
    }

    /// A rate seen while nothing of ours is under way.
    pub fn calm(&mut self, seen_rps: f64) {
        self.baseline.push_back(seen_rps);
        while self.baseline.len() > 1_000 {
            self.baseline.pop_front();
        }
    }

    /// Whether enough was seen before the start.
    #[must_use]
    pub fn has_baseline(&self) -> bool {
        self.baseline.len() >= VISIBILITY_SAMPLES_MIN
    }

    /// Mean of the baseline and one standard deviation, never below what chance alone gives a count.
    #[must_use]
    pub fn noise(&self, level_rps: f64) -> (f64, f64) {
        let n = self.baseline.len().max(1) as f64;
        let mean = self.baseline.iter().sum::<f64>() / n;
        let variance = self.baseline.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        // A Poisson count over the window has this spread, however few samples show less.
        let chance = level_rps.max(mean) / self.range_s;
        (mean, variance.max(chance).sqrt())
    }

    /// A rate seen while we send. `organic_rps` is the rate of users now, where a query tells it.
    ///
    /// Returns the amplification: how much more than the baseline is surely seen, over what is ours.
    pub fn observe(&mut self, seen_rps: f64, organic_rps: Option<f64>, high: Own) -> Answer {
        if !self.has_baseline() {
            return Answer::NoData(NoData::TooFewSamples);
        }
        let (mean, sigma) = self.noise(seen_rps);
        let rise = seen_rps - organic_rps.unwrap_or(mean);
        let ours = high.sent_rps;
        let seen = ours > 0.0 && rise >= RISE_MIN * ours && rise >= 3.0 * sigma;
        self.streak = if seen { self.streak + 1 } else { 0 };
        self.proven |= self.streak >= PROOF_POLLS;
        if ours * self.range_s < AMPLIFICATION_SAMPLES_MIN {
            return Answer::Value { value: 0.0, samples: 0 };
        }
        Answer::number(((rise - 3.0 * sigma) / ours).max(0.0))
    }

    /// Whether our traffic was proved to be seen, and is seen now.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.proven && self.streak > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> RunTime = RunTime::from_millis;

    fn own(rps: f64) -> Own {
        Own { sent_rps: rps, failed_rps: 0.0 }
    }

    #[test]
    fn own_rates_are_taken_over_the_window_asked_for() {
        let mut own = OwnTraffic::default();
        for tick in 0..=100 {
            own.push(MS(tick * 100), tick * 5, tick); // 50/s, 10/s failed
        }
        let got = own.over(MS(10_000), Duration::ZERO, Duration::from_secs(4));
        assert!((got.sent_rps - 50.0).abs() < 0.01 && (got.failed_rps - 10.0).abs() < 0.01, "{got:?}");
        let long = own.over(MS(10_000), Duration::ZERO, Duration::from_secs(20));
        assert!((long.sent_rps - 25.0).abs() < 0.01, "nothing was sent before the start: {long:?}");
        let (low, high) = own.aligned(MS(10_000), Duration::from_secs(8), Duration::from_secs(4));
        assert!(low.sent_rps < 30.0 && high.sent_rps > 49.0, "{low:?} {high:?}");
    }

    #[test]
    fn the_look_back_is_bounded_and_keeps_the_newest() {
        let mut own = OwnTraffic::default();
        let all = OWN_TRAFFIC_TICKS_MAX as u64 + 100;
        (0..all).for_each(|tick| own.push(MS(tick * 100), tick, 0));
        assert_eq!(own.ticks.len(), OWN_TRAFFIC_TICKS_MAX);
        assert_eq!(own.ticks.back().copied(), Some((MS((all - 1) * 100), all - 1, 0)));
        let mut v = Visibility::new(Duration::from_secs(60));
        (0..1_005).for_each(|n| v.calm(f64::from(n)));
        assert_eq!((v.baseline.len(), v.baseline.back().copied()), (1_000, Some(1_004.0)));
    }

    #[test]
    fn the_half_way_alignment_counts_too() {
        // A burst of one second, 4 s ago: over one second only the alignment in the middle sees it.
        let mut own = OwnTraffic::default();
        for tick in 0..=100u64 {
            own.push(MS(tick * 100), tick.clamp(50, 60) * 10, 0);
        }
        let (low, high) = own.aligned(MS(10_000), Duration::from_secs(8), Duration::from_secs(1));
        assert!(low.sent_rps < 1e-9 && (high.sent_rps - 100.0).abs() < 1e-9, "{low:?} {high:?}");
    }

    #[test]
    fn noise_is_the_spread_of_the_baseline_or_of_chance() {
        let mut v = Visibility::new(Duration::from_secs(100));
        [30.0, 40.0, 50.0].into_iter().for_each(|b| v.calm(b));
        let (mean, sigma) = v.noise(0.0);
        assert!((mean - 40.0).abs() < 1e-9 && (sigma - 10.0).abs() < 1e-9, "{mean} {sigma}");
        // 40,000 in 100 s are 400/s with a spread of 2/s by chance alone: less is not believed.
        let (_, sigma) = v.noise(40_000.0);
        assert!((sigma - 20.0).abs() < 1e-9, "{sigma}");
    }

    #[test]
    fn less_than_nothing_is_forgiven_as_far_as_clocks_explain_it() {
        let failing = Own { sent_rps: 100.0, failed_rps: 50.0 };
        let of = |errors| organic_ratio(errors, 200.0, failing, failing);
        // A tenth of ours and half a request a second: 5.5 below.
        assert_eq!(of(44.5), Answer::number(0.0));
        assert_eq!(of(44.4), Answer::NoData(NoData::Empty));
        let calm = Own { sent_rps: 100.0, failed_rps: 0.0 };
        assert_eq!(organic_ratio(-0.5, 200.0, calm, calm), Answer::number(0.0));
        assert_eq!(organic_ratio(-0.6, 200.0, calm, calm), Answer::NoData(NoData::Empty));
    }

    #[test]
    fn a_rise_must_be_half_of_ours_and_beyond_noise() {
        #[rustfmt::skip]
        let table = [
            // baseline, seen, ours, proven after two polls
            (vec![40.0, 41.0, 39.0, 40.0, 40.0], 50.0, 10.0, true),
            (vec![40.0, 41.0, 39.0, 40.0, 40.0], 44.0, 10.0, false),   // less than half of ours
            (vec![40.0, 60.0, 20.0, 40.0, 40.0], 50.0, 10.0, false),   // lost in the noise of users
            (vec![0.0; 5], 10.0, 10.0, true),                    // an idle night
            (vec![0.0; 5], 10.0, 0.0, false),                    // not ours
            (vec![40.0], 50.0, 10.0, false),                     // no baseline
        ];
        for (baseline, seen, ours, proven) in table {
            let mut v = Visibility::new(Duration::from_secs(60));
            baseline.iter().for_each(|b| v.calm(*b));
            v.observe(seen, None, own(ours));
            assert!(!v.is_proven(), "one poll proves nothing");
            v.observe(seen, None, own(ours));
            assert_eq!(v.is_proven(), proven, "{baseline:?} {seen} {ours}");
        }
    }

    #[test]
    fn proof_is_lost_with_sight_and_noise_counts_three_times() {
        let spread = || {
            let mut v = Visibility::new(Duration::from_secs(1_000));
            [30.0, 40.0, 50.0, 30.0, 40.0, 50.0].into_iter().for_each(|b| v.calm(b));
            v
        };
        // The spread is 8.9: a rise of 26 is lost in it, one of 27 is not.
        for (seen, proven) in [(66.0, false), (67.0, true)] {
            let mut v = spread();
            v.observe(seen, None, own(20.0));
            v.observe(seen, None, own(20.0));
            assert_eq!(v.is_proven(), proven, "{seen}");
        }
        let mut v = spread();
        v.observe(100.0, None, own(20.0));
        v.observe(100.0, None, own(20.0));
        assert!(v.is_proven());
        v.observe(41.0, None, own(20.0));
        assert!(!v.is_proven(), "what was seen before is not seen now");
        v.observe(100.0, None, own(20.0));
        assert!(v.is_proven(), "and is again");
        // 60 above the mean, less 26.8 of noise, over 20 of ours.
        let Answer::Value { value, .. } = spread().observe(100.0, None, own(20.0)) else { panic!() };
        assert!((value - (60.0 - 3.0 * 80.0_f64.sqrt()) / 20.0).abs() < 1e-9, "{value}");
    }

    #[test]
    fn amplification_is_what_is_surely_more_than_ours() {
        let mut v = Visibility::new(Duration::from_secs(60));
        (0..6).for_each(|_| v.calm(40.0));
        let value = |a: Answer| match a {
            Answer::Value { value, samples } => (value, samples),
            other => panic!("{other:?}"),
        };
        assert!(value(v.observe(240.0, None, own(200.0))).0 < 1.0, "as much as ours");
        assert!(value(v.observe(640.0, None, own(200.0))).0 > 2.5, "three times ours");
        assert!(value(v.observe(640.0, Some(440.0), own(200.0))).0 < 1.0, "users came");
        assert_eq!(value(v.observe(43.0, None, own(0.2))).1, 0, "too little of ours to say");
    }

    #[test]
    fn dilution_does_not_hide_users() {
        // 40 of users, 8 of them failing, under 1160 of ours that all succeed.
        let (low, high) = (own(1_160.0), own(1_160.0));
        let Answer::Value { value, .. } = organic_ratio(8.0, 1_200.0, low, high) else { panic!() };
        assert!((value - 0.2).abs() < 1e-9, "{value}");
        assert_eq!(organic_ratio(0.0, 1_160.0, low, high), Answer::NoData(NoData::Empty));
        assert_eq!(
            organic_ratio(5.0, 1_000.0, low, high),
            Answer::NoData(NoData::Empty),
            "less than nothing"
        );
        let failing = Own { sent_rps: 100.0, failed_rps: 50.0 };
        let of = |errors| organic_ratio(errors, 200.0, failing, failing);
        assert_eq!(of(20.0), Answer::NoData(NoData::Empty), "the two do not count the same errors");
        assert_eq!(of(49.0), Answer::number(0.0), "two clocks");
    }
}
