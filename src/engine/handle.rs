//! A handle on a run under way, for drills: what it shares, and a guard to trip.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::shared::Shared;

const NONE: usize = usize::MAX;

/// The handle. One run fills it.
#[derive(Debug)]
pub struct Handle {
    shared: OnceLock<Arc<Shared>>,
    shift: AtomicUsize,
}

impl Default for Handle {
    fn default() -> Self {
        Self { shared: OnceLock::new(), shift: AtomicUsize::new(NONE) }
    }
}

impl Handle {
    /// Called by the run when its threads start.
    pub(super) fn fill(&self, shared: &Arc<Shared>) {
        let _only_once = self.shared.set(Arc::clone(shared)).is_err();
    }

    /// What the run shares, once it has started.
    #[must_use]
    pub fn shared(&self) -> Option<&Arc<Shared>> {
        self.shared.get()
    }

    /// Trips guard `index` (of the settings) at the next tick.
    pub fn trip(&self, index: usize) {
        self.shift.store(index, Ordering::SeqCst);
    }

    pub(super) fn take_shift(&self) -> Option<usize> {
        Some(self.shift.swap(NONE, Ordering::SeqCst)).filter(|i| *i != NONE)
    }
}
