//! The fixed outer ceiling: the `governor` crate, built once, with no way to raise it.
//!
//! It stands behind our own bucket and should never say no, because our ceiling is clamped below its
//! rate and our cap below its burst. If it does say no, our bucket has a bug and the run must end. That
//! is why it is somebody else's code. It is told the time, like everything here.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::governor::clock::{Clock, Reference};
use ::governor::middleware::NoOpMiddleware;
use ::governor::nanos::Nanos;
use ::governor::state::{InMemoryState, NotKeyed};
use ::governor::{Quota, RateLimiter};

use crate::limits::{BURST_MIN_REQUESTS, BURST_TIME, RATE_MAX_RPS};
use crate::units::{Rate, RunTime};

/// A clock that is told the time and never goes back.
#[derive(Debug, Clone, Default)]
struct ToldClock(Arc<AtomicU64>);

impl Clock for ToldClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(self.0.load(Ordering::Relaxed))
    }
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, ToldClock, NoOpMiddleware<Nanos>>;

/// The outer ceiling of one run.
#[derive(Debug)]
pub struct HardCeiling {
    limiter: Limiter,
    clock: ToldClock,
    rate: Rate,
}

impl HardCeiling {
    /// A ceiling at `rate`, rounded up to whole requests per second and at most
    /// [`RATE_MAX_RPS`]. Its burst is twice our own cap, so only a broken bucket can meet it.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        let rps = rate.mrps.div_ceil(1000).clamp(1, RATE_MAX_RPS);
        let cap = (rps * BURST_TIME.as_millis() as u64 / 1000).max(BURST_MIN_REQUESTS);
        let per_second = NonZeroU32::new(u32::try_from(rps).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
        let burst =
            NonZeroU32::new(u32::try_from(cap * 2 + 2).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
        let clock = ToldClock::default();
        let limiter =
            RateLimiter::direct_with_clock(Quota::per_second(per_second).allow_burst(burst), clock.clone());
        Self { limiter, clock, rate: Rate::per_sec(rps) }
    }

    /// The highest rate that the governor may ever publish in this run.
    #[must_use]
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Whether one more request at `now` is below the ceiling.
    #[must_use]
    pub fn allows(&self, now: RunTime) -> bool {
        self.clock.0.fetch_max(now.0, Ordering::Relaxed);
        self.limiter.check().is_ok()
    }
}

/// Keeps the trait in scope for the clock's associated type.
const fn _reference<R: Reference>() {}
const _: () = _reference::<Nanos>();

#[cfg(test)]
mod tests {
    use super::*;
    use crate::govern::bucket::{Bucket, Take};

    #[test]
    fn stands_above_our_own_bucket_at_full_rate() {
        for rps in [1u64, 7, 100, 5_000, 333_333] {
            let hard = HardCeiling::new(Rate::per_sec(rps));
            let bucket = Bucket::default();
            for tick in 0..200u64 {
                let now = RunTime::from_millis(tick * 100);
                bucket.publish(now, hard.rate(), RunTime::from_millis(tick * 100 + 500));
                while bucket.try_take(now) == Take::Taken {
                    assert!(hard.allows(now), "{rps}/s at tick {tick}");
                }
            }
        }
    }

    #[test]
    fn refuses_what_a_broken_bucket_would_send() {
        let hard = HardCeiling::new(Rate::per_sec(100));
        let sent = (0..1_000).filter(|_| hard.allows(RunTime::from_millis(1_000))).count();
        assert!(sent < 60, "{sent}");
    }
}
