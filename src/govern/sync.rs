//! The atomics of the safety core, named in one place.
//!
//! `latch`, `bucket` and `gate` take their atomics from here and nowhere else, so that `tests/loom` can compile
//! the very same files against loom's atomics and walk through every interleaving of their threads.

pub(super) use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering, fence};
