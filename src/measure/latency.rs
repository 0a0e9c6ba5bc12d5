//! Mergeable HDR histograms with a count of what they could not see.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Smallest and largest latency kept, nanoseconds (1 us to 1 h), at three significant digits.
const LOW_NS: u64 = 1_000;
const HIGH_NS: u64 = 3_600_000_000_000;

/// A latency distribution.
#[derive(Debug, Clone)]
pub struct Latency {
    hist: Histogram<u64>,
    censored: u64,
    sum_ns: u128,
}

impl Default for Latency {
    fn default() -> Self {
        // The bounds are constants that the constructor accepts; a plain histogram is the same but grows.
        let hist = Histogram::new_with_bounds(LOW_NS, HIGH_NS, 3).unwrap_or_else(|_| Histogram::from_empty());
        Self { hist, censored: 0, sum_ns: 0 }
    }
}

/// A histogram of default shape, used only if the constants above were ever wrong.
trait Empty {
    fn from_empty() -> Self;
}

impl Empty for Histogram<u64> {
    #[allow(clippy::expect_used, reason = "three significant digits are valid by the crate's documentation")]
    fn from_empty() -> Self {
        Self::new(3).expect("three significant digits are allowed")
    }
}

impl Latency {
    /// Counts one latency; above an hour it counts as an hour.
    pub fn add(&mut self, d: Duration) {
        let ns = u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        self.hist.saturating_record(ns.max(LOW_NS));
        self.sum_ns += u128::from(ns);
    }

    /// Counts one request whose latency is at least what was seen, but unknown.
    pub fn censor(&mut self) {
        self.censored += 1;
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        // Same bounds, so it cannot fail; were they to differ, the loss would show as a missing count.
        if self.hist.add(&other.hist).is_ok() {
            self.sum_ns += other.sum_ns;
        }
        self.censored += other.censored;
    }

    /// Latencies counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.hist.len()
    }

    /// Requests not seen to their end.
    #[must_use]
    pub fn censored(&self) -> u64 {
        self.censored
    }

    /// The `q` quantile in milliseconds.
    #[must_use]
    pub fn quantile_ms(&self, q: f64) -> Option<f64> {
        (self.count() > 0).then(|| self.hist.value_at_quantile(q) as f64 / 1e6)
    }

    /// Mean in milliseconds.
    #[must_use]
    pub fn mean_ms(&self) -> Option<f64> {
        (self.count() > 0).then(|| self.sum_ns as f64 / self.count() as f64 / 1e6)
    }

    /// Largest in milliseconds.
    #[must_use]
    pub fn max_ms(&self) -> Option<f64> {
        (self.count() > 0).then(|| self.hist.max() as f64 / 1e6)
    }

    /// Largest difference between the two cumulative distributions, 0 to 1; none while one of them is empty.
    #[must_use]
    pub fn distance(&self, o: &Self) -> Option<f64> {
        let (mine, theirs) = (self.count(), o.count());
        if mine == 0 || theirs == 0 {
            return None;
        }
        let steps = |h: &Histogram<u64>, sign: f64, all: u64| -> Vec<(u64, f64)> {
            let step = |v: hdrhistogram::iterators::IterationValue<u64>| {
                (v.value_iterated_to(), sign * v.count_since_last_iteration() as f64 / all as f64)
            };
            h.iter_recorded().map(step).collect()
        };
        let mut all = steps(&self.hist, 1.0, mine);
        all.extend(steps(&o.hist, -1.0, theirs));
        all.sort_by_key(|(value, _)| *value);
        let (mut between, mut most) = (0.0f64, 0.0f64);
        for (i, (value, step)) in all.iter().enumerate() {
            between += step;
            if all.get(i + 1).is_none_or(|(next, _)| next != value) {
                most = most.max(between.abs());
            }
        }
        Some((most * 1e6).round() / 1e6)
    }

    /// The histogram in the V2 interchange format of HdrHistogram, for merging elsewhere.
    #[must_use]
    pub fn serialized(&self) -> Vec<u8> {
        use hdrhistogram::serialization::{Serializer, V2Serializer};
        let mut bytes = Vec::new();
        match V2Serializer::new().serialize(&self.hist, &mut bytes) {
            Ok(_) => bytes,
            Err(_) => Vec::new(),
        }
    }
}

/// A latency distribution at two significant digits: an eighth of the memory, for tallies per route.
#[derive(Debug, Clone)]
pub struct CoarseLatency(Latency);

impl Default for CoarseLatency {
    fn default() -> Self {
        let hist = Histogram::new_with_bounds(LOW_NS, HIGH_NS, 2).unwrap_or_else(|_| Histogram::from_empty());
        Self(Latency { hist, censored: 0, sum_ns: 0 })
    }
}

impl CoarseLatency {
    /// Counts one latency.
    pub fn add(&mut self, d: Duration) {
        self.0.add(d);
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.0.merge(&other.0);
    }

    /// The distribution.
    #[must_use]
    pub fn get(&self) -> &Latency {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_merge() {
        let (mut a, mut b) = (Latency::default(), Latency::default());
        (1..=500u64).for_each(|ms| a.add(Duration::from_millis(ms)));
        (501..=1000u64).for_each(|ms| b.add(Duration::from_millis(ms)));
        b.censor();
        a.merge(&b);
        let near = |q: f64, want: f64| (a.quantile_ms(q).unwrap() - want).abs() <= want * 0.002;
        assert!(near(0.5, 500.0) && near(0.99, 990.0) && near(0.999, 999.0));
        assert!((a.mean_ms().unwrap() - 500.5).abs() < 0.01);
        assert_eq!((a.count(), a.censored()), (1000, 1));
        assert_eq!(Latency::default().quantile_ms(0.5), None, "nothing is not zero");
        assert!(!a.serialized().is_empty());
    }
}
