//! What we see ourselves: a ring of 100 ms buckets with counts and a latency histogram.
//!
//! Local guards react in under a second, long before any scrape. A window is the last second, stretched
//! back until enough samples are in it, at most 30 s. Ages of requests in flight count as latency,
//! because a hang completes nothing and would otherwise look like peace.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::limits::{LOCAL_BUCKETS_MAX, OUTAGE_IN_FLIGHT_MIN};

/// Bins of the latency histogram.
pub const BINS: usize = 300;

/// Bins per doubling of latency: 12 gives steps of 6 %.
const BINS_PER_DOUBLING: f64 = 12.0;

/// Upper edge of the first bin, seconds.
const FIRST_BIN_S: f64 = 0.000_05;

/// The bin of a latency: log-spaced from 50 us, 6 % wide, the last one open (above 15 minutes).
#[must_use]
pub fn bin_of(nanos: u64) -> usize {
    let ratio = nanos as f64 / 1e9 / FIRST_BIN_S;
    if ratio <= 1.0 {
        return 0;
    }
    ((ratio.log2() * BINS_PER_DOUBLING) as usize + 1).min(BINS - 1)
}

/// Upper edge of a bin, in seconds: a quantile is never reported lower than it was.
#[must_use]
pub fn bin_top_s(bin: usize) -> f64 {
    FIRST_BIN_S * (bin as f64 / BINS_PER_DOUBLING).exp2()
}

/// A compact latency histogram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bins(Vec<u32>);

impl Default for Bins {
    fn default() -> Self {
        Self(vec![0; BINS])
    }
}

impl Bins {
    /// Counts one latency.
    pub fn add(&mut self, nanos: u64) {
        if let Some(n) = self.0.get_mut(bin_of(nanos)) {
            *n = n.saturating_add(1);
        }
    }

    /// Adds all counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine = mine.saturating_add(*theirs);
        }
    }

    /// Number of latencies counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().map(|n| u64::from(*n)).sum()
    }

    /// The `q` quantile in seconds, upper bin edge.
    #[must_use]
    pub fn plain_quantile(&self, q: f64) -> Option<f64> {
        self.value_at(q, self.count(), None)
    }

    /// Counts in bins above the one that holds `seconds`.
    fn above(&self, seconds: f64) -> u64 {
        let top = |(i, _): &(usize, &u32)| bin_top_s(*i) > seconds;
        self.0.iter().enumerate().filter(top).map(|(_, n)| u64::from(*n)).sum()
    }

    /// The `q` quantile in seconds, upper bin edge, with `beyond` more samples above all bins up to it.
    fn quantile(&self, q: f64, beyond: &Self) -> Option<f64> {
        let done = self.value_at(q, self.count(), None)?;
        let older = beyond.above(done);
        self.value_at(q, self.count() + older, Some((beyond, done)))
    }

    fn value_at(&self, q: f64, total: u64, extra: Option<(&Self, f64)>) -> Option<f64> {
        if total == 0 {
            return None;
        }
        let rank = ((q * total as f64).ceil() as u64).clamp(1, total);
        let mut seen = 0;
        for (i, n) in self.0.iter().enumerate() {
            let late = extra.filter(|(_, from)| bin_top_s(i) > *from).and_then(|(b, _)| b.0.get(i));
            seen += u64::from(*n) + late.map_or(0, |n| u64::from(*n));
            if seen >= rank {
                return Some(bin_top_s(i));
            }
        }
        None
    }
}

/// Counts of one stretch of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalCounts {
    /// Requests that ended, however.
    pub done: u64,
    /// Ended without a usable answer: reset, refused, protocol error.
    pub errors: u64,
    /// Ran into the request time-out.
    pub timeouts: u64,
    /// Answers whose status class is not the recorded one.
    pub unexpected: u64,
    /// Answers 5xx or 429.
    pub refused: u64,
    /// Answers 401 or 403 where the recording had none.
    pub blocked: u64,
    /// Connections attempted.
    pub connects: u64,
    /// Connections that failed.
    pub connect_failures: u64,
    /// Bytes of answers received.
    pub bytes: u64,
    /// Answers 5xx alone: what the target counts as its errors, too.
    pub server_errors: u64,
}

impl LocalCounts {
    fn merge(&mut self, o: &Self) {
        self.done += o.done;
        self.errors += o.errors;
        self.timeouts += o.timeouts;
        self.unexpected += o.unexpected;
        self.refused += o.refused;
        self.blocked += o.blocked;
        self.connects += o.connects;
        self.connect_failures += o.connect_failures;
        self.bytes += o.bytes;
        self.server_errors += o.server_errors;
    }
}

/// One 100 ms bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalBucket {
    /// Counts.
    pub counts: LocalCounts,
    /// Service times of answers.
    pub service: Bins,
}

impl LocalBucket {
    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.counts.merge(&other.counts);
        self.service.merge(&other.service);
    }
}

/// What is true right now, beside the buckets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalNow {
    /// Requests in flight.
    pub in_flight: u64,
    /// Most allowed in flight.
    pub in_flight_max: u64,
    /// Age of the oldest request in flight, nanoseconds.
    pub oldest_ns: u64,
    /// Ages of all requests in flight.
    pub ages: Bins,
    /// Failures since the last success.
    pub failures_in_a_row: u64,
    /// Connections open, idle ones among them.
    pub connections: u64,
}

/// The ring.
#[derive(Debug, Clone, Default)]
pub struct LocalWindow {
    buckets: VecDeque<LocalBucket>,
    now: LocalNow,
    /// Buckets in a row without a completion while something was in flight.
    stalled: u64,
    /// Buckets in a row without a completion while much was in flight, after the target had answered before.
    silent: u64,
    answered: bool,
}

impl LocalWindow {
    /// Adds the bucket of the tick that just ended.
    pub fn push(&mut self, bucket: LocalBucket, now: LocalNow) {
        let idle = bucket.counts.done == 0 && now.in_flight > 0;
        self.stalled = if idle { self.stalled + 1 } else { 0 };
        let silent = idle && self.answered && now.in_flight >= OUTAGE_IN_FLIGHT_MIN;
        self.silent = if silent { self.silent + 1 } else { 0 };
        self.answered |= bucket.counts.done > bucket.counts.timeouts + bucket.counts.errors;
        self.buckets.push_back(bucket);
        while self.buckets.len() > LOCAL_BUCKETS_MAX {
            self.buckets.pop_front();
        }
        self.now = now;
    }

    /// Forgets what was: after a cut, old failures would cut again and again.
    pub fn forget(&mut self) {
        self.buckets.clear();
        self.stalled = 0;
    }

    /// What is true now.
    #[must_use]
    pub fn now(&self) -> &LocalNow {
        &self.now
    }

    /// Buckets in a row without a completion while something was in flight.
    #[must_use]
    pub fn stalled_buckets(&self) -> u64 {
        self.stalled
    }

    /// Buckets in a row in which the target, having answered before, completed nothing of much in flight. A cut does
    /// not begin it anew: what hangs goes on hanging.
    #[must_use]
    pub fn silent_buckets(&self) -> u64 {
        self.silent
    }

    /// Counts of the last second, stretched back until `enough` is true or the ring ends.
    #[must_use]
    pub fn counts(&self, enough: impl Fn(&LocalCounts) -> bool) -> LocalCounts {
        let mut sum = LocalCounts::default();
        for (i, bucket) in self.buckets.iter().rev().enumerate() {
            if i >= super::local_rules::WINDOW_BUCKETS && enough(&sum) {
                break;
            }
            sum.merge(&bucket.counts);
        }
        sum
    }

    /// The `q` quantile of service time in seconds over at least `min_samples` if the ring has them, and
    /// the number of samples. Requests in flight that are already older than it count as samples.
    #[must_use]
    pub fn quantile(&self, q: f64, min_samples: u64) -> (Option<f64>, u64) {
        let mut sum = Bins::default();
        for (i, bucket) in self.buckets.iter().rev().enumerate() {
            if i >= super::local_rules::WINDOW_BUCKETS && sum.count() >= min_samples {
                break;
            }
            sum.merge(&bucket.service);
        }
        (sum.quantile(q, &self.now.ages), sum.count())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_bin_never_reads_lower_than_what_went_in(nanos in 0u64..900_000_000_000) {
            let top = bin_top_s(bin_of(nanos));
            prop_assert!(top + 1e-9 >= nanos as f64 / 1e9);
            prop_assert!(top <= (nanos as f64 / 1e9).max(FIRST_BIN_S) * 1.07);
        }
    }

    #[test]
    fn bins_are_six_percent_wide_from_fifty_microseconds() {
        for (nanos, bin) in [(0, 0), (50_000, 0), (50_001, 1), (52_900, 1), (53_000, 2), (100_000, 12)] {
            assert!(bin_of(nanos).abs_diff(bin) <= usize::from(nanos == 100_000), "{nanos}");
        }
        assert_eq!((bin_of(100_001), bin_of(u64::MAX)), (13, BINS - 1));
        assert!((bin_top_s(12) - 0.000_1).abs() < 1e-9 && (bin_top_s(24) - 0.000_2).abs() < 1e-9);
    }

    #[test]
    fn a_quantile_is_the_value_of_its_rank() {
        let mut bins = Bins::default();
        assert_eq!(bins.plain_quantile(0.5), None);
        (0..90).for_each(|_| bins.add(1_000_000));
        (0..10).for_each(|_| bins.add(1_000_000_000));
        let near = |q: f64, s: f64| {
            let v = bins.plain_quantile(q).unwrap();
            assert!(v >= s && v < s * 1.07, "{q}: {v} for {s}");
        };
        near(0.0, 0.001);
        near(0.90, 0.001);
        near(0.91, 1.0);
        near(1.0, 1.0);
        // What is in flight counts only where it is older than what was answered.
        let mut ages = Bins::default();
        (0..100).for_each(|_| ages.add(500_000));
        assert_eq!(bins.quantile(0.9, &ages), bins.plain_quantile(0.9), "young requests say nothing yet");
        (0..10).for_each(|_| ages.add(30_000_000_000));
        let hung = bins.quantile(0.92, &ages).unwrap();
        assert!(hung >= 30.0, "the 102nd of 110 is one that hangs: {hung}");
        let same = bins.plain_quantile(0.9).unwrap();
        assert_eq!(bins.above(same), 10, "above, not at");
    }

    #[test]
    fn all_counts_of_two_buckets_are_added() {
        let one = |n: u64| LocalCounts {
            done: n,
            errors: n + 1,
            timeouts: n + 2,
            unexpected: n + 3,
            refused: n + 4,
            blocked: n + 5,
            connects: n + 6,
            connect_failures: n + 7,
            bytes: n + 8,
            server_errors: n + 9,
        };
        let mut a = LocalBucket { counts: one(1), ..LocalBucket::default() };
        let mut b = LocalBucket { counts: one(100), ..LocalBucket::default() };
        b.service.add(5);
        a.merge(&b);
        let sum = LocalCounts {
            done: 101,
            errors: 103,
            timeouts: 105,
            unexpected: 107,
            refused: 109,
            blocked: 111,
            connects: 113,
            connect_failures: 115,
            bytes: 117,
            server_errors: 119,
        };
        assert_eq!((a.counts, a.service.count()), (sum, 1));
    }

    #[test]
    fn the_ring_forgets_what_is_old_and_what_was_before_a_cut() {
        let mut window = LocalWindow::default();
        for _ in 0..LOCAL_BUCKETS_MAX + 5 {
            window.push(bucket(&[10]), LocalNow::default());
        }
        assert_eq!(window.counts(|_| false).done, LOCAL_BUCKETS_MAX as u64);
        window.push(bucket(&[]), LocalNow { in_flight: 1, ..LocalNow::default() });
        window.forget();
        assert_eq!((window.counts(|_| false).done, window.stalled_buckets()), (0, 0));
        window.push(bucket(&[10]), LocalNow::default());
        assert_eq!(window.counts(|_| false).done, 1);
    }

    #[test]
    fn answers_that_all_failed_are_no_answers() {
        let busy = || LocalNow { in_flight: 20, ..LocalNow::default() };
        for (errors, timeouts, answered) in
            [(0, 0, true), (1, 0, true), (1, 1, false), (2, 0, false), (0, 2, false)]
        {
            let mut window = LocalWindow::default();
            let mut b = bucket(&[10, 10]);
            (b.counts.errors, b.counts.timeouts) = (errors, timeouts);
            window.push(b, busy());
            window.push(bucket(&[]), busy());
            assert_eq!(window.silent_buckets(), u64::from(answered), "{errors} {timeouts}");
        }
    }

    fn bucket(latencies_ms: &[u64]) -> LocalBucket {
        let mut b = LocalBucket::default();
        for ms in latencies_ms {
            b.service.add(ms * 1_000_000);
            b.counts.done += 1;
        }
        b
    }

    #[test]
    fn the_window_stretches_back_for_samples() {
        let mut window = LocalWindow::default();
        for _ in 0..50 {
            window.push(bucket(&[10]), LocalNow::default());
        }
        assert_eq!(window.counts(|c| c.done >= 5).done, 10, "one second is enough");
        assert_eq!(window.counts(|c| c.done >= 30).done, 30);
        assert_eq!(window.counts(|c| c.done >= 1_000).done, 50, "never more than there is");
        assert_eq!(window.quantile(0.5, 20).1, 20);
    }

    #[test]
    fn a_hang_shows_in_the_quantile() {
        let mut window = LocalWindow::default();
        let mut now = LocalNow { in_flight: 50, ..LocalNow::default() };
        (0..50).for_each(|_| now.ages.add(3_000_000_000));
        window.push(bucket(&[10; 50]), LocalNow::default());
        let (calm, _) = window.quantile(0.95, 1);
        window.push(bucket(&[]), now);
        let (hung, _) = window.quantile(0.95, 1);
        assert!(calm.unwrap() < 0.02 && hung.unwrap() >= 3.0, "{calm:?} {hung:?}");
    }

    #[test]
    fn an_outage_is_silence_of_a_target_that_answered_before() {
        let mut window = LocalWindow::default();
        let busy = |n: u64| LocalNow { in_flight: n, ..LocalNow::default() };
        (0..30).for_each(|_| window.push(bucket(&[]), busy(50)));
        assert_eq!(window.silent_buckets(), 0, "it has not answered yet: other guards look at that");
        window.push(bucket(&[10]), busy(50));
        (0..7).for_each(|_| window.push(bucket(&[]), busy(19)));
        assert_eq!(window.silent_buckets(), 0, "a few slow requests are no outage");
        (0..7).for_each(|_| window.push(bucket(&[]), busy(20)));
        window.forget();
        window.push(bucket(&[]), busy(20));
        assert_eq!(window.silent_buckets(), 8, "a cut does not begin it anew");
    }

    #[test]
    fn stalls_are_counted_in_buckets() {
        let mut window = LocalWindow::default();
        let busy = LocalNow { in_flight: 1, ..LocalNow::default() };
        for want in 1..=3 {
            window.push(bucket(&[]), busy.clone());
            assert_eq!(window.stalled_buckets(), want);
        }
        window.push(bucket(&[1]), busy);
        assert_eq!(window.stalled_buckets(), 0);
        window.push(bucket(&[]), LocalNow::default());
        assert_eq!(window.stalled_buckets(), 0, "nothing in flight is peace, not a stall");
    }
}
