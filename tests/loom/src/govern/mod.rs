//! The safety core on loom's atomics.

/// The atomics, from loom.
mod sync {
    pub(super) use loom::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering, fence};

    /// A reader that gives up early refuses early: the law must hold then, too.
    pub(super) const SEQLOCK_SPINS: u32 = 2;

    pub(super) fn spin() {
        loom::thread::yield_now();
    }
}

/// Always says yes.
pub mod ceiling {
    use crate::units::{Rate, RunTime};

    #[derive(Debug)]
    pub struct HardCeiling(Rate);

    impl HardCeiling {
        pub fn new(rate: Rate) -> Self {
            Self(rate)
        }
        pub fn rate(&self) -> Rate {
            self.0
        }
        pub fn allows(&self, _now: RunTime) -> bool {
            true
        }
    }
}

#[path = "../../../../src/govern/bucket.rs"]
pub mod bucket;
#[path = "../../../../src/govern/gate.rs"]
pub mod gate;
#[path = "../../../../src/govern/latch.rs"]
pub mod latch;
