//! Spending of one run: the pure budget and the store that keeps it, as the governor uses them.

use std::path::Path;

use crate::edge::host::budget_store::{self, BudgetStore};
use crate::govern::budget::{Amounts, Budget, BudgetKind, BudgetLimits};
use crate::govern::latch::Latch;
use crate::limits::RESERVE_BYTES_PER_SECOND;
use crate::units::{Rate, WallTime};

/// What one run spends, second by second.
#[derive(Debug)]
pub struct Spending {
    budget: Budget,
    store: BudgetStore,
    /// The worst case of one second.
    second: Amounts,
    /// Bytes at the last look, for their rate.
    bytes_seen: u64,
}

/// The worst case of one second at `rate` with at most `in_flight` requests that may fail at once.
fn second(rate: Rate, connects: Rate, in_flight: u64) -> Amounts {
    let per_second = |r: Rate| r.rps().ceil() as u64 + 16;
    let requests = per_second(rate);
    Amounts {
        requests,
        failed_requests: requests + in_flight,
        bytes_received: RESERVE_BYTES_PER_SECOND,
        connections: per_second(connects),
    }
}

impl Spending {
    /// Opens the budget of `policy` for the period from `start`, with the first second reserved on the disk.
    ///
    /// # Errors
    /// When the store cannot be read or written: then there is no run.
    pub fn open(
        folder: &Path,
        policy: &str,
        start: WallTime,
        limits: BudgetLimits,
        (rate, connects, in_flight): (Rate, Rate, u64),
        latch: Latch,
    ) -> anyhow::Result<Self> {
        let spent = budget_store::load(folder, policy, start)?;
        let mut budget = Budget::open(limits, spent);
        let second = second(rate, connects, in_flight);
        let first = budget.to_reserve(second).unwrap_or(spent);
        let store = BudgetStore::start(folder, policy, start, first, latch)?;
        budget.stored(first);
        Ok(Self { budget, store, second, bytes_seen: 0 })
    }

    /// What is left of one kind.
    #[must_use]
    pub fn left(&self, kind: BudgetKind) -> Option<u64> {
        self.budget.left(kind)
    }

    /// What is used up.
    #[must_use]
    pub fn used_up(&self) -> Option<BudgetKind> {
        self.budget.used_up()
    }

    /// Takes this run's totals; `false` when more was spent than the disk knows.
    #[must_use]
    pub fn note(&mut self, requests: u64, failed: u64, bytes: u64, connections: u64) -> bool {
        self.budget.note(Amounts { requests, failed_requests: failed, bytes_received: bytes, connections });
        // Ten ticks make a second; twice what came in this one is the next one's worst case.
        let fast = bytes.saturating_sub(self.bytes_seen).saturating_mul(20);
        self.bytes_seen = bytes;
        self.second.bytes_received = self.second.bytes_received.max(fast);
        self.budget.stored(self.store.stored());
        if let Some(ask) = self.budget.to_reserve(self.second) {
            self.store.reserve(ask);
        }
        !self.budget.is_beyond_reserve()
    }

    /// Writes what was really spent, `given_up` requests without an answer among the failed ones.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn finish(self, given_up: u64) -> anyhow::Result<()> {
        let given_up = Amounts { failed_requests: given_up, ..Amounts::default() };
        self.store.finish(self.budget.spent().plus(given_up))
    }
}
