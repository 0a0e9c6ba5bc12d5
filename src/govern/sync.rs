//! The atomics of the safety core, named in one place.
//!
//! `latch`, `bucket` and `gate` take their atomics from here and nowhere else, so that `tests/loom` can compile
//! the very same files against loom's atomics and walk through every interleaving of their threads.

pub(super) use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering, fence};

/// Looks of a seqlock reader before it gives up; loom's are few, because it walks through each.
pub(super) const SEQLOCK_SPINS: u32 = crate::limits::SEQLOCK_SPINS_MAX;

/// Waits a moment for the writer.
pub(super) fn spin() {
    std::hint::spin_loop();
}
