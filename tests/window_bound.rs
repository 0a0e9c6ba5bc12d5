//! Invariant 1 over real runs: in any window no more requests leave than the allowance grew, plus one cap.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(clippy::disallowed_methods, reason = "tests measure real time")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use replay::govern::gate::{Gate, GateLimits};
use replay::govern::latch::Latch;
use replay::units::{Rate, RunTime};

/// A number from a seed.
fn draw(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

/// Depth of the bucket at a rate: 100 ms of it, at least 16 requests.
fn cap(rps: u64) -> f64 {
    if rps == 0 { 0.0 } else { (rps as f64 / 10.0).max(16.0) }
}

/// Two threads take as fast as they can for twelve seconds while the rate changes every second between 1/s and
/// 10,000/s (and 0); a million random windows of the permits' own times are looked at.
#[test]
fn no_window_holds_more_than_was_earned_and_one_cap() {
    let limits = GateLimits::of_rate(Rate::per_sec(20_000), Rate::per_sec(10), u64::MAX);
    let gate = Gate::new(Latch::new(), limits);
    let (start, ended) = (Instant::now(), Arc::new(AtomicBool::new(false)));
    let now = move || RunTime::from_duration(start.elapsed());
    let takers: Vec<_> = (0..2)
        .map(|_| {
            let (gate, ended) = (Arc::clone(&gate), Arc::clone(&ended));
            std::thread::spawn(move || {
                let mut times = Vec::new();
                while !ended.load(Ordering::Relaxed) {
                    let at = now();
                    if let Ok(permit) = gate.permit(at) {
                        times.push(at.0);
                        drop(permit);
                    }
                    std::hint::spin_loop();
                }
                times
            })
        })
        .collect();
    // The governor: a tick every 100 ms, a new rate every second. What it published is the law.
    let published: Arc<Mutex<Vec<(u64, u64)>>> = Arc::default();
    let mut seed = 20_261_125;
    let mut rps = 0;
    for tick in 0..120u64 {
        if tick % 10 == 0 {
            // Over all orders of magnitude.
            rps = match draw(&mut seed) % 5 {
                0 => draw(&mut seed) % 10,
                1 => draw(&mut seed) % 100,
                2 => draw(&mut seed) % 1_000,
                _ => draw(&mut seed) % 10_001,
            };
        }
        let at = now();
        gate.publish(at, Rate::per_sec(rps), Rate::ZERO, at.plus(Duration::from_millis(500)));
        published.lock().unwrap().push((at.0, rps));
        let next = Duration::from_millis((tick + 1) * 100);
        std::thread::sleep(next.saturating_sub(start.elapsed())); // the tick is what is tested
    }
    ended.store(true, Ordering::Relaxed);
    let mut times: Vec<u64> = takers.into_iter().flat_map(|t| t.join().unwrap()).collect();
    times.sort_unstable();
    let segments = published.lock().unwrap().clone();
    // Allowance earned up to a time, in requests, and the largest cap within a window.
    let earned = |at: u64| -> f64 {
        let mut sum = 0.0;
        for (i, (from, rps)) in segments.iter().enumerate() {
            let to = segments.get(i + 1).map_or(u64::MAX, |s| s.0).min(from + 500_000_000).min(at);
            sum += *rps as f64 * to.saturating_sub(*from) as f64 / 1e9;
        }
        sum
    };
    let at_permit: Vec<f64> = times.iter().map(|t| earned(*t)).collect();
    let segment_of = |t: u64| segments.partition_point(|(from, _)| *from <= t).saturating_sub(1);
    let (mut worst, mut violations, windows) = (f64::MIN, 0u32, 1_000_000u32);
    assert!(times.len() > 5_000, "{} permits", times.len());
    for _ in 0..windows {
        let n = times.len() as u64;
        let (a, b) = ((draw(&mut seed) % n) as usize, (draw(&mut seed) % n) as usize);
        let (a, b) = (a.min(b), a.max(b));
        let most =
            (segment_of(times[a])..=segment_of(times[b])).map(|s| cap(segments[s].1)).fold(0.0, f64::max);
        // A permit's time is read a moment before it is taken, and a segment may be published in that moment.
        let excess = (b - a + 1) as f64 - (at_permit[b] - at_permit[a]) - most - 1.0;
        worst = worst.max(excess);
        violations += u32::from(excess > 0.0);
    }
    eprintln!(
        "{} permits, {windows} windows, {violations} violations, closest {worst:.2} requests from the bound",
        times.len()
    );
    assert_eq!(violations, 0, "worst excess {worst}");
}
