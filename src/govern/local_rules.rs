//! The local guards: which number each looks at, and the ones that are always on.
//!
//! A policy sets thresholds for the first group ([`LocalMetric::SETTABLE`]); the second group has fixed
//! thresholds that no policy can switch off, because they are what makes an unwatched run safe.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::guard::{GuardSpec, Origin, Side, Thresholds};
use super::local::LocalWindow;
use super::reading::Answer;
use crate::limits::TICK;

/// Buckets of the ordinary local window: one second.
pub const WINDOW_BUCKETS: usize = 10;

/// Samples that a local ratio needs.
pub const RATIO_SAMPLES_MIN: u64 = 20;

/// What a local guard looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LocalMetric {
    /// Requests without a usable answer or with 5xx, over all that ended.
    ErrorRatio,
    /// Answers whose status class is not the recorded one, over all that ended.
    Unexpected,
    /// Answers 5xx or 429, over all that ended.
    Refused,
    /// Failed connections over attempted ones.
    ConnectFailures,
    /// Time-outs over all that ended.
    Timeouts,
    /// 95th percentile of service time, seconds.
    P95,
    /// 99th percentile of service time, seconds.
    P99,
    /// Failures since the last success.
    FailuresInARow,
    /// Age of the oldest request in flight, seconds.
    OldestInFlight,
    /// Seconds without a completion while something is in flight.
    Stalled,
    /// Seconds in which a target that answered before completes nothing of much in flight.
    Outage,
    /// Requests in flight over the most allowed.
    InFlight,
    /// Answers 401 or 403 that the recording did not have, over all that ended.
    Blocked,
    /// Bytes of answers received in the last second, as Mbit/s.
    Received,
}

impl LocalMetric {
    /// Those that a policy sets thresholds for.
    pub const SETTABLE: [Self; 7] = [
        Self::ErrorRatio,
        Self::Unexpected,
        Self::Refused,
        Self::ConnectFailures,
        Self::Timeouts,
        Self::P95,
        Self::P99,
    ];

    /// Those that are always on.
    pub const ALWAYS: [Self; 6] = [
        Self::FailuresInARow,
        Self::OldestInFlight,
        Self::Stalled,
        Self::Outage,
        Self::InFlight,
        Self::Blocked,
    ];

    /// Name in reports; for settable ones also the key in the policy.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ErrorRatio => "error_ratio",
            Self::Unexpected => "unexpected",
            Self::Refused => "refused",
            Self::ConnectFailures => "connect_failures",
            Self::Timeouts => "timeouts",
            Self::P95 => "p95",
            Self::P99 => "p99",
            Self::FailuresInARow => "failures_in_a_row",
            Self::OldestInFlight => "oldest_in_flight",
            Self::Stalled => "stalled",
            Self::Outage => "outage",
            Self::InFlight => "in_flight",
            Self::Blocked => "blocked",
            Self::Received => "received",
        }
    }

    /// Whether thresholds are seconds (otherwise ratios or counts).
    #[must_use]
    pub fn is_latency(self) -> bool {
        matches!(self, Self::P95 | Self::P99)
    }

    /// The quantile, for latency guards.
    #[must_use]
    pub fn quantile(self) -> Option<f64> {
        match self {
            Self::P95 => Some(0.95),
            Self::P99 => Some(0.99),
            _ => None,
        }
    }

    /// Unit for people.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::P95 | Self::P99 | Self::OldestInFlight | Self::Stalled | Self::Outage => "seconds",
            Self::FailuresInARow => "requests",
            Self::Received => "Mbit/s",
            Self::ErrorRatio
            | Self::Unexpected
            | Self::Refused
            | Self::ConnectFailures
            | Self::Timeouts
            | Self::InFlight
            | Self::Blocked => "ratio",
        }
    }

    /// Samples needed: 5/(1-q) for a quantile, [`RATIO_SAMPLES_MIN`] for a ratio, none for the rest.
    #[must_use]
    pub fn min_samples(self) -> u64 {
        match self {
            Self::P95 => 100,
            Self::P99 => 500,
            Self::ErrorRatio | Self::Unexpected | Self::Refused | Self::Timeouts | Self::Blocked => {
                RATIO_SAMPLES_MIN
            }
            Self::ConnectFailures => 5,
            Self::FailuresInARow
            | Self::OldestInFlight
            | Self::Stalled
            | Self::Outage
            | Self::InFlight
            | Self::Received => 0,
        }
    }

    /// The guard's value now.
    #[must_use]
    pub fn answer(self, window: &LocalWindow) -> Answer {
        let min = self.min_samples();
        let ratio = |part: fn(&super::local::LocalCounts) -> u64,
                     of: fn(&super::local::LocalCounts) -> u64| {
            let counts = window.counts(|c| of(c) >= min);
            let samples = of(&counts);
            let value = if samples == 0 { 0.0 } else { part(&counts) as f64 / samples as f64 };
            Answer::Value { value, samples }
        };
        let plain = |value: f64| Answer::Value { value, samples: u64::MAX };
        match self {
            Self::ErrorRatio => ratio(|c| c.errors + c.timeouts + c.refused, |c| c.done),
            Self::Unexpected => ratio(|c| c.unexpected, |c| c.done),
            Self::Refused => ratio(|c| c.refused, |c| c.done),
            Self::Timeouts => ratio(|c| c.timeouts, |c| c.done),
            Self::Blocked => ratio(|c| c.blocked, |c| c.done),
            Self::ConnectFailures => ratio(|c| c.connect_failures, |c| c.connects),
            Self::P95 | Self::P99 => {
                let (value, samples) = window.quantile(self.quantile().unwrap_or(1.0), min);
                Answer::Value { value: value.unwrap_or(0.0), samples }
            }
            Self::FailuresInARow => plain(window.now().failures_in_a_row as f64),
            Self::OldestInFlight => plain(window.now().oldest_ns as f64 / 1e9),
            Self::Stalled => plain(window.stalled_buckets() as f64 * TICK.as_secs_f64()),
            Self::Outage => plain(window.silent_buckets() as f64 * TICK.as_secs_f64()),
            Self::Received => {
                let bytes = window.counts(|_| true).bytes;
                plain(bytes as f64 * 8.0 / 1e6 / (WINDOW_BUCKETS as f64 * TICK.as_secs_f64()))
            }
            Self::InFlight => {
                let now = window.now();
                plain(if now.in_flight_max == 0 {
                    1.0
                } else {
                    now.in_flight as f64 / now.in_flight_max as f64
                })
            }
        }
    }

    /// Fixed thresholds of the guards that are always on; `timeout` is the request time-out.
    ///
    /// Five failures in a row back off and twenty abort; a second without any completion while requests
    /// are in flight backs off; so does a request older than nine tenths of its time-out; a surge of
    /// 401/403 that the recording did not have means that somebody blocks us, which ends the run.
    #[must_use]
    pub fn fixed(self, timeout: Duration) -> Option<Thresholds> {
        let above = |hold, back_off: Option<f64>, abort| Thresholds {
            side: Side::Above,
            hold,
            back_off,
            abort,
            clear: back_off.or(hold).or(abort).unwrap_or(0.0) * 0.8,
        };
        match self {
            Self::FailuresInARow => Some(above(None, Some(4.5), Some(19.5))),
            Self::OldestInFlight => Some(above(None, Some(timeout.as_secs_f64() * 0.9), None)),
            Self::Stalled => Some(above(None, Some(0.95), None)),
            // A second of silence is evidence; a second and a half later it is over.
            Self::Outage => Some(above(None, None, Some(2.35))),
            Self::InFlight => Some(above(Some(0.9), None, None)),
            Self::Blocked => Some(above(None, None, Some(0.5))),
            Self::ErrorRatio
            | Self::Unexpected
            | Self::Refused
            | Self::ConnectFailures
            | Self::Timeouts
            | Self::P95
            | Self::P99
            | Self::Received => None,
        }
    }

    /// Thresholds of [`LocalMetric::Received`] for a ceiling in Mbit/s: hold at nine tenths, halve above it.
    #[must_use]
    pub fn receive_limits(mbit_per_s: f64) -> Thresholds {
        Thresholds {
            side: Side::Above,
            hold: Some(mbit_per_s * 0.9),
            back_off: Some(mbit_per_s),
            abort: None,
            clear: mbit_per_s * 0.8,
        }
    }

    /// The full guard with these thresholds.
    ///
    /// Local guards are always required and count as user harm. Being neutral forbids growth only for the
    /// error ratio: a probe of a few requests a second can fill that window but not one of 500 samples.
    #[must_use]
    pub fn spec(self, thresholds: Thresholds, clear_for: Duration) -> GuardSpec {
        GuardSpec {
            name: format!("local {}", self.name()),
            origin: Origin::Local,
            unit: self.unit().to_owned(),
            thresholds,
            required: true,
            harm: true,
            min_samples: self.min_samples(),
            need_traffic: false,
            neutral_blocks: self == Self::ErrorRatio,
            confirm: 1,
            confirm_of: 1,
            max_age: TICK * 5,
            clear_for,
            lag: TICK * (WINDOW_BUCKETS as u32 + 2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::govern::local::{LocalBucket, LocalNow};
    use crate::govern::reading::Reading;

    fn read(metric: LocalMetric, bucket: LocalBucket, now: LocalNow) -> Reading {
        let mut window = LocalWindow::default();
        window.push(bucket, now);
        let fixed = metric.fixed(Duration::from_secs(10));
        let ratio =
            Thresholds { side: Side::Above, hold: None, back_off: Some(0.05), abort: Some(0.3), clear: 0.04 };
        metric.spec(fixed.unwrap_or(ratio), Duration::ZERO).read(metric.answer(&window))
    }

    #[test]
    fn each_metric_reads_its_own_counter() {
        let counts = |f: fn(&mut LocalBucket)| {
            let mut b = LocalBucket::default();
            b.counts.done = 100;
            b.counts.connects = 100;
            f(&mut b);
            b
        };
        let now = LocalNow::default;
        let half = [
            (LocalMetric::ErrorRatio, counts(|b| b.counts.errors = 50)),
            (LocalMetric::ErrorRatio, counts(|b| b.counts.refused = 50)),
            (LocalMetric::Unexpected, counts(|b| b.counts.unexpected = 50)),
            (LocalMetric::Refused, counts(|b| b.counts.refused = 50)),
            (LocalMetric::Timeouts, counts(|b| b.counts.timeouts = 50)),
            (LocalMetric::ConnectFailures, counts(|b| b.counts.connect_failures = 50)),
        ];
        for (metric, bucket) in half {
            assert_eq!(read(metric, bucket, now()), Reading::Abort(0.5), "{metric:?}");
            assert_eq!(read(metric, counts(|_| ()), now()), Reading::Good(0.0), "{metric:?}");
        }
    }

    #[test]
    fn a_wait_a_silence_and_a_stream_are_numbers_in_their_units() {
        let mut window = LocalWindow::default();
        let busy = LocalNow { in_flight: 30, oldest_ns: 1_500_000_000, ..LocalNow::default() };
        let mut answered = LocalBucket::default();
        (answered.counts.done, answered.counts.bytes) = (1, 2_500_000);
        window.push(answered, busy.clone());
        (0..4).for_each(|_| window.push(LocalBucket::default(), busy.clone()));
        let value = |metric: LocalMetric| match metric.answer(&window) {
            Answer::Value { value, samples } => {
                assert_eq!(samples, u64::MAX, "{metric:?} needs no samples");
                value
            }
            other => panic!("{metric:?}: {other:?}"),
        };
        let is =
            |metric, want: f64| assert!((value(metric) - want).abs() < 1e-9, "{metric:?} {}", value(metric));
        is(LocalMetric::Stalled, 0.4);
        is(LocalMetric::Outage, 0.4);
        is(LocalMetric::OldestInFlight, 1.5);
        // 2.5 MB in the window of one second are 20 Mbit/s.
        is(LocalMetric::Received, 20.0);
        is(LocalMetric::FailuresInARow, 0.0);
    }

    #[test]
    fn errors_of_every_kind_are_added_and_ratios_need_their_samples() {
        let mut bucket = LocalBucket::default();
        bucket.counts.done = 100;
        (bucket.counts.errors, bucket.counts.timeouts, bucket.counts.refused) = (10, 20, 30);
        bucket.counts.blocked = 60;
        assert_eq!(read(LocalMetric::ErrorRatio, bucket.clone(), LocalNow::default()), Reading::Abort(0.6));
        assert_eq!(read(LocalMetric::Blocked, bucket.clone(), LocalNow::default()), Reading::Abort(0.6));
        bucket.counts.blocked = 50;
        assert_eq!(read(LocalMetric::Blocked, bucket, LocalNow::default()), Reading::Good(0.5));
        // The window stretches back until the ratio has its samples.
        let mut window = LocalWindow::default();
        let mut old = LocalBucket::default();
        (old.counts.done, old.counts.errors) = (RATIO_SAMPLES_MIN, RATIO_SAMPLES_MIN);
        window.push(old, LocalNow::default());
        (0..WINDOW_BUCKETS).for_each(|_| window.push(LocalBucket::default(), LocalNow::default()));
        let answer = LocalMetric::ErrorRatio.answer(&window);
        assert_eq!(answer, Answer::Value { value: 1.0, samples: RATIO_SAMPLES_MIN });
        let idle = LocalMetric::ErrorRatio.answer(&LocalWindow::default());
        assert_eq!(idle, Answer::Value { value: 0.0, samples: 0 });
    }

    #[test]
    fn quantiles_read_their_own_rank() {
        let mut bucket = LocalBucket::default();
        (0..970).for_each(|_| bucket.service.add(1_000_000));
        (0..30).for_each(|_| bucket.service.add(1_000_000_000));
        let mut window = LocalWindow::default();
        window.push(bucket, LocalNow::default());
        let value = |metric: LocalMetric| match metric.answer(&window) {
            Answer::Value { value, samples: 1_000 } => value,
            other => panic!("{other:?}"),
        };
        assert!(value(LocalMetric::P95) < 0.002 && value(LocalMetric::P99) >= 1.0);
        assert_eq!((LocalMetric::P95.quantile(), LocalMetric::P99.quantile()), (Some(0.95), Some(0.99)));
        for metric in LocalMetric::SETTABLE.into_iter().chain(LocalMetric::ALWAYS) {
            let quantile = matches!(metric, LocalMetric::P95 | LocalMetric::P99);
            assert_eq!(
                (metric.is_latency(), metric.quantile().is_some()),
                (quantile, quantile),
                "{metric:?}"
            );
        }
    }

    #[test]
    fn limits_that_follow_from_one_number() {
        let t = LocalMetric::receive_limits(100.0);
        assert_eq!((t.hold, t.back_off, t.abort, t.clear), (Some(90.0), Some(100.0), None, 80.0));
        let fixed = |m: LocalMetric| m.fixed(Duration::from_secs(10)).unwrap();
        assert_eq!(fixed(LocalMetric::OldestInFlight).back_off, Some(9.0));
        for m in LocalMetric::ALWAYS {
            let t = fixed(m);
            let first = t.back_off.or(t.hold).or(t.abort).unwrap();
            assert!((t.clear - first * 0.8).abs() < 1e-9, "{m:?}");
        }
        let spec = LocalMetric::P99.spec(t, Duration::from_secs(7));
        assert_eq!((spec.lag, spec.max_age), (Duration::from_millis(1_200), Duration::from_millis(500)));
        assert_eq!((spec.clear_for, spec.min_samples), (Duration::from_secs(7), 500));
        assert!(spec.required && spec.harm && !spec.neutral_blocks && !spec.need_traffic);
        assert!(LocalMetric::ErrorRatio.spec(t, Duration::ZERO).neutral_blocks);
    }

    #[test]
    fn few_samples_are_neutral_not_healthy() {
        let mut bucket = LocalBucket::default();
        bucket.counts.done = RATIO_SAMPLES_MIN - 1;
        bucket.counts.errors = RATIO_SAMPLES_MIN - 1;
        assert_eq!(read(LocalMetric::ErrorRatio, bucket, LocalNow::default()), Reading::Neutral);
        assert_eq!(read(LocalMetric::P99, LocalBucket::default(), LocalNow::default()), Reading::Neutral);
    }

    #[test]
    fn the_guards_that_are_always_on_have_fixed_thresholds() {
        #[rustfmt::skip]
        let table = [
            (LocalMetric::FailuresInARow, LocalNow { failures_in_a_row: 4, ..LocalNow::default() }, Reading::Good(4.0)),
            (LocalMetric::FailuresInARow, LocalNow { failures_in_a_row: 5, ..LocalNow::default() }, Reading::BackOff(5.0)),
            (LocalMetric::FailuresInARow, LocalNow { failures_in_a_row: 20, ..LocalNow::default() }, Reading::Abort(20.0)),
            (LocalMetric::OldestInFlight, LocalNow { oldest_ns: 9_500_000_000, ..LocalNow::default() }, Reading::BackOff(9.5)),
            (LocalMetric::InFlight, LocalNow { in_flight: 95, in_flight_max: 100, ..LocalNow::default() }, Reading::Hold(0.95)),
            (LocalMetric::InFlight, LocalNow::default(), Reading::Hold(1.0)),
        ];
        for (metric, now, want) in table {
            assert_eq!(read(metric, LocalBucket::default(), now.clone()), want, "{metric:?} {now:?}");
        }
        for metric in LocalMetric::ALWAYS {
            assert!(metric.fixed(Duration::from_secs(1)).is_some(), "{metric:?}");
        }
    }
}
