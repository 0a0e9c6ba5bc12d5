//! What a request costs in the core, each figure beside a peer measured in the same run.
//!
//! No test depends on these numbers: machines differ and drift. Quote ratios. Run with `make bench`.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods, missing_docs)]

use std::hint::black_box;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use governor::{Quota, RateLimiter};
use replay::govern::bucket::Bucket;
use replay::govern::gate::{Gate, GateLimits};
use replay::govern::latch::Latch;
use replay::units::{Rate, RunTime};

/// Nanoseconds per call, the median of five rounds.
fn time(calls: u32, mut f: impl FnMut(u32)) -> f64 {
    let mut rounds: Vec<f64> = (0..5)
        .map(|_| {
            let start = Instant::now();
            (0..calls).for_each(&mut f);
            start.elapsed().as_nanos() as f64 / f64::from(calls)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[2]
}

fn main() {
    let calls = 1_000_000;
    let far = RunTime::from_millis(1_000_000_000);
    let bucket = Bucket::default();
    bucket.publish(RunTime::START, Rate::per_sec(1_000_000), far);
    let take = time(calls, |i| {
        black_box(bucket.try_take(RunTime(u64::from(i) * 2_000)));
    });
    let gate =
        Gate::new(Latch::new(), GateLimits::of_rate(Rate::per_sec(1_000_000), Rate::per_sec(1_000), 1_000));
    gate.publish(RunTime::START, Rate::per_sec(1_000_000), Rate::per_sec(10), far);
    let mut now = 0;
    let permit = time(calls, |_| {
        now += 2_000;
        black_box(gate.permit(RunTime(now)).and_then(|p| p.spend(RunTime(now))).is_ok());
    });
    let peer = RateLimiter::direct(Quota::per_second(NonZeroU32::new(1_000_000).unwrap()));
    let check = time(calls, |_| {
        black_box(peer.check().is_ok());
    });
    println!("bucket take            {take:7.1} ns   {:.2} x the governor crate's check", take / check);
    println!("gate permit and spend  {permit:7.1} ns   {:.2} x the governor crate's check", permit / check);
    println!("governor crate check   {check:7.1} ns   1.00 (clock read included)");
    let start = Instant::now();
    let input = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/captures/demo.pcap")).unwrap();
    let mut rounds = 0u64;
    while start.elapsed() < Duration::from_secs(2) {
        let mut recorder =
            replay::capture::recorder::Recorder::new(replay::capture::redact::Redactor::with_key(b"bench"));
        replay::edge::intake::capture_file::read(std::io::Cursor::new(input.clone()), &mut recorder, |_| ())
            .unwrap();
        black_box(recorder.finish().0.len());
        rounds += 1;
    }
    let megabytes = rounds as f64 * input.len() as f64 / 1e6;
    println!("capture of packets     {:7.1} MB/s", megabytes / start.elapsed().as_secs_f64());
}
