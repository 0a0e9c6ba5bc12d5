//! The token bucket: cumulative allowance under a lease, shared by all workers.
//!
//! The governor publishes a segment (t0, A0, rate, not_after, cap) under a seqlock. The allowance at t is
//! `A(t) = A0 + rate * (min(t, not_after) - t0)`; a worker takes one request by compare-and-swap on
//! `taken`, after forgetting all credit older than `cap`. So
//! - it starts empty: a run cannot open with a burst;
//! - a dead governor stops it: past `not_after` nothing is earned, and nothing is given;
//! - time lost while stalled earns at most `cap`: a stall is never followed by a flood;
//! - credit earned at a low rate is never priced at a high one (an arrival-time bucket does that).
//!
//! It differs from the `governor` crate, which is used only as the fixed outer ceiling
//! ([`super::ceiling`]), because that cannot change its rate, rounds it up, and starts full.

use super::sync::{AtomicU64, Ordering, SEQLOCK_SPINS, fence, spin};
use crate::limits::{BURST_MIN_REQUESTS, BURST_TIME};
use crate::units::{NANOS_PER_SEC, Rate, RunTime};

/// One request in the bucket's own unit (millionths of a request).
const ONE: u64 = 1_000_000;

/// What the governor publishes each tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    /// Start of the segment, run time in nanoseconds.
    t0: u64,
    /// Allowance at `t0`, in millionths of a request since the start of the run.
    a0: u64,
    /// Rate in thousandths of a request per second.
    mrps: u64,
    /// End of the lease, run time in nanoseconds.
    not_after: u64,
    /// Credit that may be saved up, in millionths of a request.
    cap: u64,
}

impl Segment {
    const CLOSED: Self = Self { t0: 0, a0: 0, mrps: 0, not_after: 0, cap: 0 };

    /// Allowance at `now`, in millionths of a request. Never falls; time going backwards earns nothing.
    fn allowance(&self, now: u64) -> u64 {
        let dt = now.min(self.not_after).saturating_sub(self.t0);
        let earned = u128::from(self.mrps) * u128::from(dt) / u128::from(NANOS_PER_SEC / 1000);
        self.a0.saturating_add(u64::try_from(earned).unwrap_or(u64::MAX))
    }
}

/// Depth of the bucket at `rate`, in millionths of a request: [`BURST_TIME`] of rate but at least
/// [`BURST_MIN_REQUESTS`]; zero when the rate is zero.
fn cap_for(rate: Rate, burst_min: u64) -> u64 {
    if rate == Rate::ZERO {
        return 0;
    }
    let timed = u128::from(rate.mrps) * BURST_TIME.as_millis();
    u64::try_from(timed).unwrap_or(u64::MAX).max(burst_min.saturating_mul(ONE))
}

/// The shared bucket. One writer (the governor), any number of takers.
#[derive(Debug)]
pub struct Bucket {
    seq: AtomicU64,
    t0: AtomicU64,
    a0: AtomicU64,
    mrps: AtomicU64,
    not_after: AtomicU64,
    cap: AtomicU64,
    taken: AtomicU64,
    burst_min: u64,
}

impl Default for Bucket {
    fn default() -> Self {
        Self::new(BURST_MIN_REQUESTS)
    }
}

impl Bucket {
    /// An empty, closed bucket whose depth is never below `burst_min` requests while it is open.
    #[must_use]
    pub fn new(burst_min: u64) -> Self {
        let z = || AtomicU64::new(0);
        Self { seq: z(), t0: z(), a0: z(), mrps: z(), not_after: z(), cap: z(), taken: z(), burst_min }
    }

    /// Publishes a new rate from `now`, valid until `not_after`. Only the governor calls this.
    ///
    /// Everything up to `now` is settled under the old rate first, so a change never reprices the past.
    pub fn publish(&self, now: RunTime, rate: Rate, not_after: RunTime) {
        let old = self.load().unwrap_or(Segment::CLOSED);
        let start = now.0.max(old.t0);
        let new = Segment {
            t0: start,
            a0: old.allowance(start),
            mrps: rate.mrps,
            not_after: not_after.0.max(start),
            cap: cap_for(rate, self.burst_min),
        };
        let seq = self.seq.load(Ordering::Relaxed);
        self.seq.store(seq.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.t0.store(new.t0, Ordering::Relaxed);
        self.a0.store(new.a0, Ordering::Relaxed);
        self.mrps.store(new.mrps, Ordering::Relaxed);
        self.not_after.store(new.not_after, Ordering::Relaxed);
        self.cap.store(new.cap, Ordering::Relaxed);
        self.seq.store(seq.wrapping_add(2), Ordering::Release);
    }

    fn load(&self) -> Option<Segment> {
        for _ in 0..SEQLOCK_SPINS {
            let before = self.seq.load(Ordering::Acquire);
            let segment = Segment {
                t0: self.t0.load(Ordering::Relaxed),
                a0: self.a0.load(Ordering::Relaxed),
                mrps: self.mrps.load(Ordering::Relaxed),
                not_after: self.not_after.load(Ordering::Relaxed),
                cap: self.cap.load(Ordering::Relaxed),
            };
            fence(Ordering::Acquire);
            if before & 1 == 0 && self.seq.load(Ordering::Relaxed) == before {
                return Some(segment);
            }
            spin();
        }
        None
    }

    /// Whether a lease is in force at `now`.
    #[must_use]
    pub fn is_leased(&self, now: RunTime) -> bool {
        self.load().is_some_and(|s| s.mrps > 0 && now.0 < s.not_after)
    }

    /// Takes one request at `now`, or says no.
    pub fn try_take(&self, now: RunTime) -> Take {
        let Some(segment) = self.load() else { return Take::NoGrant };
        if segment.mrps == 0 || now.0 >= segment.not_after {
            return Take::NoGrant;
        }
        let allowance = segment.allowance(now.0);
        let mut taken = self.taken.load(Ordering::Relaxed);
        loop {
            let base = taken.max(allowance.saturating_sub(segment.cap));
            let Some(next) = base.checked_add(ONE).filter(|n| *n <= allowance) else { return Take::Empty };
            match self.taken.compare_exchange_weak(taken, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Take::Taken,
                Err(seen) => taken = seen,
            }
        }
    }
}

/// Answer of [`Bucket::try_take`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// One request may go.
    Taken,
    /// The rate does not allow one now.
    Empty,
    /// No lease is in force: before the first grant, after the governor fell silent, or at rate zero.
    NoGrant,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(ms: u64) -> RunTime {
        RunTime::from_millis(ms)
    }

    #[test]
    fn starts_closed_and_empty() {
        let bucket = Bucket::default();
        assert_eq!(bucket.try_take(ms(0)), Take::NoGrant);
        bucket.publish(ms(0), Rate::per_sec(1000), ms(500));
        assert_eq!(bucket.try_take(ms(0)), Take::Empty, "no opening burst");
        assert_eq!(bucket.try_take(ms(1)), Take::Taken);
        assert_eq!(bucket.try_take(ms(1)), Take::Empty);
    }

    #[test]
    fn a_silent_governor_stops_it_within_the_lease() {
        let bucket = Bucket::default();
        bucket.publish(ms(0), Rate::per_sec(1000), ms(500));
        assert_eq!(bucket.try_take(ms(499)), Take::Taken);
        assert_eq!(bucket.try_take(ms(500)), Take::NoGrant);
        assert_eq!(bucket.try_take(ms(60_000)), Take::NoGrant);
    }

    #[test]
    fn a_stall_earns_at_most_the_cap() {
        let bucket = Bucket::default();
        bucket.publish(ms(0), Rate::per_sec(1000), ms(10_000));
        let burst = (0..10_000).filter(|_| bucket.try_take(ms(5_000)) == Take::Taken).count();
        assert_eq!(burst, 100, "100 ms of 1000/s, whatever the stall");
    }

    #[test]
    fn rate_zero_forgets_all_credit() {
        let bucket = Bucket::default();
        bucket.publish(ms(0), Rate::per_sec(1000), ms(500));
        bucket.publish(ms(400), Rate::ZERO, ms(900));
        assert_eq!(bucket.try_take(ms(401)), Take::NoGrant);
    }

    proptest! {
        /// Over any window of any run: taken <= allowance(b) - allowance(a) + one cap (invariant 1).
        #[test]
        fn never_gives_more_than_was_earned(
            steps in prop::collection::vec((0u64..400, 0u64..3_000, 0usize..60), 1..120)
        ) {
            let bucket = Bucket::default();
            let (mut now, mut earned, mut rate, mut not_after) = (0u64, 0.0f64, Rate::ZERO, 0u64);
            let mut takes: Vec<(f64, f64)> = Vec::new(); // allowance at the take, cap then
            for (dt, rps, tries) in steps {
                let next = now + dt;
                earned += rate.rps() * (next.min(not_after).saturating_sub(now)) as f64 / 1000.0;
                now = next;
                rate = Rate::per_sec(rps);
                not_after = now + 500;
                bucket.publish(ms(now), rate, ms(not_after));
                for _ in 0..tries {
                    if bucket.try_take(ms(now)) == Take::Taken {
                        takes.push((earned, cap_for(rate, BURST_MIN_REQUESTS) as f64 / ONE as f64));
                    }
                }
            }
            for a in 0..takes.len() {
                let mut cap = 0.0f64;
                for b in a..takes.len() {
                    cap = cap.max(takes[b].1);
                    let allowed = takes[b].0 - takes[a].0 + cap + 1e-6;
                    prop_assert!((b - a + 1) as f64 <= allowed, "window {a}..{b}: {} > {allowed}", b - a + 1);
                }
            }
        }

        /// A lower rate published at the same moments never allows more (invariant 16).
        #[test]
        fn a_lower_rate_never_gives_more(steps in prop::collection::vec((1u64..300, 1u64..2_000), 1..60)) {
            let (high, low) = (Bucket::default(), Bucket::default());
            let (mut now, mut got_high, mut got_low) = (0, 0u32, 0u32);
            for (dt, rps) in steps {
                high.publish(ms(now), Rate::per_sec(rps * 2), ms(now + 500));
                low.publish(ms(now), Rate::per_sec(rps), ms(now + 500));
                now += dt;
                while high.try_take(ms(now)) == Take::Taken { got_high += 1; }
                while low.try_take(ms(now)) == Take::Taken { got_low += 1; }
                prop_assert!(got_low <= got_high);
            }
        }
    }

    #[test]
    fn many_takers_share_one_allowance() {
        let bucket = Bucket::default();
        bucket.publish(ms(0), Rate::per_sec(100_000), ms(1_000));
        let total: usize = std::thread::scope(|scope| {
            let worker = || (0..20_000u64).filter(|_| bucket.try_take(ms(50)) == Take::Taken).count();
            let handles: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
            handles.into_iter().map(|h| h.join().unwrap()).sum()
        });
        assert_eq!(total, 5_000, "50 ms of 100000/s, however many threads take");
    }
}
