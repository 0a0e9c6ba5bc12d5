//! Budgets: absolute amounts that a policy may spend, over all its runs in one period.
//!
//! Pure: what was spent is an argument. Spending is reserved ahead of time: before a second of load may
//! flow, its worst case is on the disk as spent, so that a crash can lose evidence of a request but never
//! forget one. It refuses to refund: what a crash left reserved counts as spent.

use serde::{Deserialize, Serialize};

/// What a budget limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetKind {
    /// Requests sent. Used up, the run ends in good order.
    Requests,
    /// Requests that failed: no usable answer, 5xx or 429. Used up, the run is aborted.
    FailedRequests,
    /// Bytes of answers received. Used up, the run is aborted.
    BytesReceived,
    /// Connections attempted. Used up, the run is aborted.
    Connections,
}

impl BudgetKind {
    /// All kinds, the ones that abort first.
    pub const ALL: [Self; 4] = [Self::FailedRequests, Self::BytesReceived, Self::Connections, Self::Requests];

    /// The key in a policy.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::FailedRequests => "failed_requests",
            Self::BytesReceived => "bytes_received",
            Self::Connections => "connections",
        }
    }
}

/// One amount per kind: requests, requests, bytes, connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Amounts {
    /// Requests sent.
    pub requests: u64,
    /// Requests that failed.
    pub failed_requests: u64,
    /// Bytes of answers received.
    pub bytes_received: u64,
    /// Connections attempted.
    pub connections: u64,
}

impl Amounts {
    /// The amount of one kind.
    #[must_use]
    pub fn of(&self, kind: BudgetKind) -> u64 {
        match kind {
            BudgetKind::Requests => self.requests,
            BudgetKind::FailedRequests => self.failed_requests,
            BudgetKind::BytesReceived => self.bytes_received,
            BudgetKind::Connections => self.connections,
        }
    }

    fn zip(self, other: Self, f: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            requests: f(self.requests, other.requests),
            failed_requests: f(self.failed_requests, other.failed_requests),
            bytes_received: f(self.bytes_received, other.bytes_received),
            connections: f(self.connections, other.connections),
        }
    }

    /// The sum, saturating.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.zip(other, u64::saturating_add)
    }

    /// The larger of each.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        self.zip(other, u64::max)
    }

    /// Whether every amount is at most the other's.
    #[must_use]
    pub fn fits(self, other: Self) -> bool {
        BudgetKind::ALL.iter().all(|k| self.of(*k) <= other.of(*k))
    }
}

/// Limits per kind; `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BudgetLimits {
    /// Most requests sent.
    pub requests: Option<u64>,
    /// Most failed requests.
    pub failed_requests: Option<u64>,
    /// Most bytes received.
    pub bytes_received: Option<u64>,
    /// Most connections attempted.
    pub connections: Option<u64>,
}

impl BudgetLimits {
    /// The limit of one kind.
    #[must_use]
    pub fn of(&self, kind: BudgetKind) -> Option<u64> {
        match kind {
            BudgetKind::Requests => self.requests,
            BudgetKind::FailedRequests => self.failed_requests,
            BudgetKind::BytesReceived => self.bytes_received,
            BudgetKind::Connections => self.connections,
        }
    }

    /// Whether nothing is limited.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        BudgetKind::ALL.iter().all(|k| self.of(*k).is_none())
    }

    /// The lower of both limits, kind by kind.
    #[must_use]
    pub fn lowered(self, other: Self) -> Self {
        let low = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Self {
            requests: low(self.requests, other.requests),
            failed_requests: low(self.failed_requests, other.failed_requests),
            bytes_received: low(self.bytes_received, other.bytes_received),
            connections: low(self.connections, other.connections),
        }
    }
}

/// One run's view of the budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    limits: BudgetLimits,
    /// Spent by earlier runs of the period.
    before: Amounts,
    /// Spent by this run.
    run: Amounts,
    /// What the disk says is spent, this run's reserve included.
    reserved: Amounts,
}

impl Budget {
    /// A budget of which `stored` has been spent already.
    #[must_use]
    pub fn open(limits: BudgetLimits, stored: Amounts) -> Self {
        Self { limits, before: stored, run: Amounts::default(), reserved: stored }
    }

    /// Takes this run's totals so far. A total that went back is a fault of ours and changes nothing.
    pub fn note(&mut self, run: Amounts) {
        self.run = self.run.max(run);
    }

    /// Spent in all.
    #[must_use]
    pub fn spent(&self) -> Amounts {
        self.before.plus(self.run)
    }

    /// What is left of one kind; `None` without a limit.
    #[must_use]
    pub fn left(&self, kind: BudgetKind) -> Option<u64> {
        self.limits.of(kind).map(|limit| limit.saturating_sub(self.spent().of(kind)))
    }

    /// The first kind that is used up, those that abort before the one that ends the run in good order.
    #[must_use]
    pub fn used_up(&self) -> Option<BudgetKind> {
        BudgetKind::ALL.into_iter().find(|k| self.left(*k) == Some(0))
    }

    /// What must be written to the disk now so that the next second is covered, or `None` if it is.
    ///
    /// `second` is the worst case of one second. Two are reserved at a time, so that a write a second is
    /// enough.
    #[must_use]
    pub fn to_reserve(&self, second: Amounts) -> Option<Amounts> {
        let needed = self.spent().plus(second);
        (!needed.fits(self.reserved)).then(|| needed.plus(second).max(self.reserved))
    }

    /// The disk has it.
    pub fn stored(&mut self, reserved: Amounts) {
        self.reserved = self.reserved.max(reserved);
    }

    /// Whether more was spent than the disk knows: the store has failed us and the run must end.
    #[must_use]
    pub fn is_beyond_reserve(&self) -> bool {
        let spent = self.spent();
        BudgetKind::ALL.iter().any(|k| self.limits.of(*k).is_some() && spent.of(*k) > self.reserved.of(*k))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn amounts(n: u64) -> Amounts {
        Amounts { requests: n, failed_requests: n / 10, bytes_received: n * 100, connections: n / 5 }
    }

    #[test]
    fn used_up_names_what_aborts_first() {
        let limits =
            BudgetLimits { requests: Some(100), failed_requests: Some(10), ..BudgetLimits::default() };
        let mut budget = Budget::open(limits, amounts(40));
        assert_eq!((budget.used_up(), budget.left(BudgetKind::Requests)), (None, Some(60)));
        budget.note(amounts(59));
        assert_eq!(budget.used_up(), None);
        budget.note(amounts(60));
        assert_eq!(budget.used_up(), Some(BudgetKind::FailedRequests), "both are: the abort goes first");
        assert_eq!(budget.left(BudgetKind::BytesReceived), None);
    }

    #[test]
    fn the_lower_limit_counts_kind_by_kind() {
        let a = BudgetLimits { requests: Some(5), failed_requests: Some(9), ..BudgetLimits::default() };
        let b = BudgetLimits { requests: Some(7), connections: Some(3), ..BudgetLimits::default() };
        let want = BudgetLimits {
            requests: Some(5),
            failed_requests: Some(9),
            bytes_received: None,
            connections: Some(3),
        };
        assert_eq!((a.lowered(b), b.lowered(a)), (want, want));
        assert!(BudgetLimits::default().is_unlimited() && !want.is_unlimited());
        let only_bytes = BudgetLimits { bytes_received: Some(1), ..BudgetLimits::default() };
        assert!(!only_bytes.is_unlimited());
    }

    #[test]
    fn what_is_not_on_the_disk_is_beyond_the_reserve() {
        let limits = BudgetLimits { requests: Some(1_000), ..BudgetLimits::default() };
        let mut budget = Budget::open(limits, Amounts::default());
        let ask = budget.to_reserve(amounts(50)).unwrap();
        assert_eq!(ask, amounts(50).plus(amounts(50)));
        budget.stored(ask);
        budget.note(amounts(50));
        assert_eq!(budget.to_reserve(amounts(50)), None, "the second half covers the next second");
        budget.note(amounts(100));
        assert!(!budget.is_beyond_reserve(), "all of it and no more");
        budget.note(amounts(101));
        assert!(budget.is_beyond_reserve(), "the disk knows of 100");
    }

    proptest! {
        /// Invariant 9: whatever happens and wherever the program dies, what the disk says is spent never
        /// falls and is never below what was really spent while the reserve was kept.
        #[test]
        fn spent_is_monotone_over_crashes(
            runs in prop::collection::vec((prop::collection::vec(0u64..200, 0..20), any::<bool>()), 1..8)
        ) {
            let limits = BudgetLimits { requests: Some(u64::MAX), ..BudgetLimits::default() };
            let (mut disk, mut truth) = (Amounts::default(), Amounts::default());
            for (seconds, crash) in runs {
                let mut budget = Budget::open(limits, disk);
                let mut run = Amounts::default();
                for n in seconds {
                    if let Some(ask) = budget.to_reserve(amounts(200)) {
                        prop_assert!(disk.fits(ask), "never falls");
                        disk = ask;
                        budget.stored(ask);
                    }
                    run = run.plus(amounts(n));
                    budget.note(run);
                    prop_assert!(!budget.is_beyond_reserve());
                    prop_assert!(truth.plus(run).fits(disk), "the disk knows of all of it");
                }
                truth = truth.plus(run);
                if !crash {
                    // A run that ends in good order writes what it spent, never less than was spent before.
                    let exact = budget.spent();
                    prop_assert!(truth.fits(exact));
                    disk = exact;
                }
            }
        }
    }
}
