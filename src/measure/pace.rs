//! Planned against sent, second by second and gap by gap: whether the shape that left is the one that was recorded.
//!
//! Gaps are those between neighbours on one worker: a worker carries whole sessions, chosen by hash, so the gaps of all
//! workers together are a fair sample of the whole, though not the gaps that the target sees.

use super::latency::CoarseLatency;
use crate::units::{NANOS_PER_SEC, RunTime};

/// Requests per second of the run, from its first second on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PerSecond(Vec<u32>);

impl PerSecond {
    fn add(&mut self, at: RunTime) {
        let second = (at.0 / NANOS_PER_SEC) as usize;
        if second >= self.0.len() {
            self.0.resize(second + 1, 0);
        }
        self.0[second] = self.0[second].saturating_add(1);
    }

    fn merge(&mut self, o: &Self) {
        self.0.resize(self.0.len().max(o.0.len()), 0);
        self.0.iter_mut().zip(&o.0).for_each(|(a, b)| *a = a.saturating_add(*b));
    }

    fn get(&self, second: usize) -> u32 {
        self.0.get(second).copied().unwrap_or(0)
    }
}

/// One second in which plan and truth differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Second {
    /// Second of the run.
    pub second: u64,
    /// Requests due in it.
    pub planned: u32,
    /// Requests sent in it.
    pub sent: u32,
}

/// What was planned and what left.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    planned: PerSecond,
    sent: PerSecond,
    planned_gaps: CoarseLatency,
    sent_gaps: CoarseLatency,
    last_due: Option<RunTime>,
    last_sent: Option<RunTime>,
}

impl Pace {
    /// A request was due. In the order of due times.
    pub fn due(&mut self, due: RunTime) {
        self.planned.add(due);
        if let Some(last) = self.last_due.replace(due) {
            self.planned_gaps.add(due.since(last));
        }
    }

    /// A request left.
    pub fn sent(&mut self, at: RunTime) {
        self.sent.add(at);
        if let Some(last) = self.last_sent.replace(at) {
            self.sent_gaps.add(at.since(last));
        }
    }

    /// Adds all of another worker's.
    pub fn merge(&mut self, o: &Self) {
        self.planned.merge(&o.planned);
        self.sent.merge(&o.sent);
        self.planned_gaps.merge(&o.planned_gaps);
        self.sent_gaps.merge(&o.sent_gaps);
    }

    /// Requests by which the seconds differ, over those planned; 0 is the same curve.
    #[must_use]
    pub fn difference(&self) -> Option<f64> {
        let planned: u64 = self.planned.0.iter().map(|n| u64::from(*n)).sum();
        let differs: u64 = self.seconds().map(|s| u64::from(s.planned.abs_diff(s.sent))).sum();
        (planned > 0).then(|| differs as f64 / planned as f64)
    }

    /// The second in which most is missing or too much.
    #[must_use]
    pub fn worst(&self) -> Option<Second> {
        self.seconds().filter(|s| s.planned != s.sent).max_by_key(|s| s.planned.abs_diff(s.sent))
    }

    fn seconds(&self) -> impl Iterator<Item = Second> + '_ {
        (0..self.planned.0.len().max(self.sent.0.len())).map(|second| Second {
            second: second as u64,
            planned: self.planned.get(second),
            sent: self.sent.get(second),
        })
    }

    /// Largest difference of the two distributions of gaps (Kolmogorov and Smirnov's distance), 0 to 1.
    #[must_use]
    pub fn gap_distance(&self) -> Option<f64> {
        self.planned_gaps.get().distance(self.sent_gaps.get())
    }

    /// Median gap: planned, sent; milliseconds.
    #[must_use]
    pub fn gaps_p50_ms(&self) -> (Option<f64>, Option<f64>) {
        (self.planned_gaps.get().quantile_ms(0.5), self.sent_gaps.get().quantile_ms(0.5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(planned_ms: &[u64], sent_ms: &[u64]) -> Pace {
        let mut p = Pace::default();
        planned_ms.iter().for_each(|ms| p.due(RunTime::from_millis(*ms)));
        sent_ms.iter().for_each(|ms| p.sent(RunTime::from_millis(*ms)));
        p
    }

    #[test]
    fn seconds_and_gaps_are_compared() {
        let even: Vec<u64> = (0..1_000).map(|i| 500 + i * 10).collect();
        let same = pace(&even, &even);
        assert_eq!((same.difference(), same.worst(), same.gap_distance()), (Some(0.0), None, Some(0.0)));

        // Ten at a time, every 100 ms: the seconds agree but for the edges, the gaps do not.
        let bursts: Vec<u64> = (0..1_000).map(|i| 500 + (i / 10) * 100).collect();
        let p = pace(&even, &bursts);
        assert!(p.difference().unwrap() < 0.02, "{:?}", p.difference());
        assert!(p.gap_distance().unwrap() > 0.85, "{:?}", p.gap_distance());
        assert_eq!(p.gaps_p50_ms().1.map(|ms| ms < 0.01), Some(true));

        let lost: Vec<u64> = even.iter().copied().filter(|ms| !(3_000..4_000).contains(ms)).collect();
        let p = pace(&even, &lost);
        assert_eq!(p.worst(), Some(Second { second: 3, planned: 100, sent: 0 }));
        assert!((p.difference().unwrap() - 0.1).abs() < 1e-9);
        assert_eq!(Pace::default().difference(), None);
        assert_eq!(Pace::default().gap_distance(), None);
    }

    #[test]
    fn workers_add_up() {
        let (mut a, b) = (pace(&[100, 1_100], &[100]), pace(&[200, 5_000], &[200, 5_000]));
        a.merge(&b);
        assert_eq!(a.worst(), Some(Second { second: 1, planned: 1, sent: 0 }));
        assert_eq!(a.difference(), Some(0.25));
    }
}
