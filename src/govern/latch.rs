//! The latch: once set, nothing is sent for the rest of the run.
//!
//! One atomic, set-only. Every kill switch ends here, and every gate looks here. The first cause wins,
//! because the first cause is the true one; later ones are consequences. It refuses to be reset: a run
//! that stopped needs a person and a new run.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::sync::{AtomicU8, AtomicUsize, Ordering};

/// Why everything stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopCause {
    /// SIGINT or SIGTERM.
    Signal,
    /// The kill file appeared, or could not be looked at.
    KillFile,
    /// An answer of the target carried `X-Replay-Stop`.
    TargetSaidStop,
    /// The governor decided to abort.
    Governor,
    /// The governor's thread ended or panicked.
    GovernorGone,
    /// A worker thread ended or panicked.
    WorkerGone,
    /// The journal could not be written.
    Journal,
    /// The fixed outer ceiling refused what our own bucket had allowed: a bug of ours.
    HardCeiling,
    /// The plan could not be read to its end.
    Plan,
    /// A person said `replay stop`.
    Control,
    /// The budget store could not be written ahead of the load.
    BudgetStore,
    /// A thread of ours panicked.
    Panic,
}

const CAUSES: [StopCause; 12] = [
    StopCause::Signal,
    StopCause::KillFile,
    StopCause::TargetSaidStop,
    StopCause::Governor,
    StopCause::GovernorGone,
    StopCause::WorkerGone,
    StopCause::Journal,
    StopCause::HardCeiling,
    StopCause::Plan,
    StopCause::Control,
    StopCause::BudgetStore,
    StopCause::Panic,
];

impl StopCause {
    fn code(self) -> u8 {
        CAUSES.iter().position(|c| *c == self).map_or(u8::MAX, |i| i as u8 + 1)
    }

    /// One line for people.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Signal => "stopped by a signal",
            Self::KillFile => "the kill file is present (or cannot be looked at)",
            Self::TargetSaidStop => "the target answered with X-Replay-Stop",
            Self::Governor => "the governor aborted",
            Self::GovernorGone => "the governor thread ended unexpectedly",
            Self::WorkerGone => "a worker thread ended unexpectedly",
            Self::Journal => "the journal could not be written",
            Self::HardCeiling => "the fixed outer ceiling refused a request our bucket allowed (a bug)",
            Self::Plan => "the plan could not be read to its end",
            Self::Control => "stopped by `replay stop`",
            Self::BudgetStore => "the budget store could not be written ahead of the load",
            Self::Panic => "a thread of this program panicked (a bug)",
        }
    }
}

/// Set-only stop flag shared by every thread of a run.
#[derive(Debug, Clone, Default)]
pub struct Latch {
    cause: Arc<AtomicU8>,
    signal: Arc<AtomicUsize>,
}

impl Latch {
    /// An open latch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops the run. The first cause is kept.
    pub fn set(&self, cause: StopCause) {
        // Losing the race means that an earlier cause is kept.
        let _first = self.cause.compare_exchange(0, cause.code(), Ordering::SeqCst, Ordering::SeqCst).is_ok();
    }

    /// Whether the run has been stopped. Two loads: cheap enough for every write.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.cause.load(Ordering::SeqCst) != 0 || self.signal.load(Ordering::SeqCst) != 0
    }

    /// Why the run was stopped, if it was.
    #[must_use]
    pub fn cause(&self) -> Option<StopCause> {
        match self.cause.load(Ordering::SeqCst) {
            0 if self.signal.load(Ordering::SeqCst) != 0 => Some(StopCause::Signal),
            0 => None,
            code => CAUSES.get(usize::from(code) - 1).copied().or(Some(StopCause::GovernorGone)),
        }
    }

    /// The flag that a signal handler sets directly, without waiting for any thread of ours.
    #[must_use]
    pub fn signal_flag(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.signal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cause_is_kept() {
        for first in CAUSES {
            for second in CAUSES {
                let latch = Latch::new();
                assert!(!latch.is_set());
                latch.set(first);
                latch.set(second);
                assert!(latch.is_set());
                assert_eq!(latch.cause(), Some(first));
            }
        }
    }

    #[test]
    fn an_open_latch_has_no_cause() {
        assert_eq!(Latch::new().cause(), None);
        for cause in CAUSES {
            assert!(cause.words().len() > 10, "{cause:?}");
        }
    }

    #[test]
    fn a_signal_sets_it_without_help() {
        let latch = Latch::new();
        latch.signal_flag().store(15, Ordering::SeqCst);
        assert!(latch.is_set());
        assert_eq!(latch.cause(), Some(StopCause::Signal));
        latch.set(StopCause::Governor);
        assert_eq!(latch.cause(), Some(StopCause::Governor), "a governor's cause is more precise");
    }
}
