//! Laws that must hold in every interleaving.

use std::sync::Arc;

use loom::thread;
use replay_loom::govern::bucket::{Bucket, Take};
use replay_loom::govern::gate::{Gate, GateLimits};
use replay_loom::govern::latch::{Latch, StopCause};
use replay_loom::units::{Rate, RunTime};

const MS: fn(u64) -> RunTime = RunTime::from_millis;

fn model(f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    // Three switches between threads are enough for every known bug of this kind, and end within seconds.
    builder.preemption_bound = Some(3);
    builder.check(f);
}

/// The first cause is kept, whoever comes first, and everybody sees that it is set.
#[test]
fn one_cause_wins_the_latch() {
    model(|| {
        let latch = Latch::new();
        let (a, b) = (latch.clone(), latch.clone());
        let first = thread::spawn(move || a.set(StopCause::KillFile));
        let second = thread::spawn(move || b.set(StopCause::Control));
        first.join().unwrap();
        second.join().unwrap();
        assert!(latch.is_set());
        assert!(matches!(latch.cause(), Some(StopCause::KillFile | StopCause::Control)));
    });
}

/// A gate that has seen the latch lets no write pass: a permit taken before is worth nothing once it is set.
#[test]
fn after_the_latch_no_permit_is_spent() {
    model(|| {
        let latch = Latch::new();
        let gate = Gate::new(latch.clone(), GateLimits::of_rate(Rate::per_sec(1_000), Rate::per_sec(10), 4));
        gate.publish(MS(0), Rate::per_sec(1_000), Rate::per_sec(10), MS(500));
        let stop = latch.clone();
        let stopper = thread::spawn(move || stop.set(StopCause::Signal));
        let writing = Arc::clone(&gate);
        let writer = thread::spawn(move || {
            let permit = writing.permit(MS(100)).ok();
            // Whoever looks here and finds it set must not be able to write afterwards.
            let seen = writing.latch().is_set();
            let spent = permit.is_some_and(|p| p.spend(MS(100)).is_ok());
            assert!(!(seen && spent), "a write after the latch was seen");
        });
        stopper.join().unwrap();
        writer.join().unwrap();
        assert!(gate.permit(MS(200)).is_err() && gate.connect(MS(200)).is_err());
        assert_eq!(gate.in_flight(), 0, "every slot came back");
    });
}

/// Two takers and a governor that changes the rate: never more than was earned, whatever half of a segment is read.
#[test]
fn a_torn_segment_gives_nothing_away() {
    model(|| {
        let bucket = Arc::new(Bucket::new(1));
        bucket.publish(MS(0), Rate::per_sec(20), MS(500));
        let governor = Arc::clone(&bucket);
        // From 100 ms on nothing more is earned: 2 requests in all.
        let publisher = thread::spawn(move || governor.publish(MS(100), Rate::ZERO, MS(600)));
        let take = |b: &Bucket| (0..2).filter(|_| b.try_take(MS(100)) == Take::Taken).count();
        let taking = Arc::clone(&bucket);
        let taker = thread::spawn(move || take(&taking));
        let mine = take(&bucket);
        let theirs = taker.join().unwrap();
        publisher.join().unwrap();
        assert!(mine + theirs <= 2, "{mine} + {theirs}");
        assert_eq!(bucket.try_take(MS(550)), Take::NoGrant);
    });
}

/// The budget of requests is exact under any race.
#[test]
fn a_budget_is_never_overspent() {
    model(|| {
        let mut limits = GateLimits::of_rate(Rate::per_sec(1_000), Rate::per_sec(10), 4);
        limits.requests = Some(1);
        let gate = Gate::new(Latch::new(), limits);
        gate.publish(MS(0), Rate::per_sec(1_000), Rate::per_sec(10), MS(500));
        let other = Arc::clone(&gate);
        let taker = thread::spawn(move || u32::from(other.permit(MS(100)).is_ok()));
        let mine = u32::from(gate.permit(MS(100)).is_ok());
        assert_eq!(mine + taker.join().unwrap(), 1);
    });
}
