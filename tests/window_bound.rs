//! Invariant 1 over real runs: in any window no more requests leave than the allowance grew, plus one cap.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(clippy::disallowed_methods, reason = "tests measure real time")]

mod support;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use support::*;

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

/// The same at the other end of the wire: a whole run with a climb, its arrivals at a sink against the grants in its
/// journal. Between a permit and an arrival lie our own write, the kernel and the sink's thread: that is the epsilon,
/// and it is measured.
#[test]
fn at_the_sink_the_bound_holds_within_a_measured_epsilon() {
    let dir = tempfile::tempdir().unwrap();
    let (sink, trace, out) = (Sink::ok(), trace_of(dir.path(), "demo.pcap"), dir.path().join("run"));
    let folder = out.display().to_string();
    let args = [
        "--trace",
        &trace,
        "--target",
        &sink.url(),
        "--rate",
        "400/s",
        "--for",
        "5s",
        "--out",
        &folder,
        "--quiet",
    ];
    let done = replay(&args);
    assert_eq!(code(&done), 0, "{}", text(&done));
    let journal = fs::read_to_string(out.join("journal.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = journal.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let began = lines[0]["start"]["at"].as_u64().unwrap() as f64 / 1e9;
    // Time of the run of each arrival, by the wall clock of both.
    let (now, wall) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64());
    let mut times: Vec<f64> =
        sink.times().iter().map(|t| wall - now.duration_since(*t).as_secs_f64() - began).collect();
    times.sort_by(f64::total_cmp);
    let grants: Vec<(f64, f64)> = lines
        .iter()
        .filter_map(|l| {
            let tick = l.get("tick")?;
            Some((tick["inputs"]["now"].as_f64()? / 1e9, tick["grant"]["ceiling"].as_f64()? / 1e3))
        })
        .collect();
    let mut sums = vec![0.0];
    for pair in grants.windows(2) {
        sums.push(sums[sums.len() - 1] + pair[0].1 * (pair[1].0 - pair[0].0).min(0.5));
    }
    let at = |t: f64| grants.partition_point(|(from, _)| *from <= t).saturating_sub(1);
    let earned = |t: f64| sums[at(t)] + grants[at(t)].1 * (t - grants[at(t)].0).clamp(0.0, 0.5);
    let at_arrival: Vec<f64> = times.iter().map(|t| earned(*t)).collect();
    let (mut seed, windows, mut epsilon) = (7, 1_000_000, f64::MIN);
    for _ in 0..windows {
        let n = times.len() as u64;
        let (a, b) = ((draw(&mut seed) % n) as usize, (draw(&mut seed) % n) as usize);
        let (a, b) = (a.min(b), a.max(b));
        let most = (at(times[a])..=at(times[b])).map(|s| cap(grants[s].1 as u64)).fold(0.0, f64::max);
        epsilon = epsilon.max((b - a + 1) as f64 - (at_arrival[b] - at_arrival[a]) - most);
    }
    eprintln!(
        "{} arrivals, {windows} windows: at most {epsilon:.1} requests over allowance and one cap",
        times.len()
    );
    assert!(times.len() > 1_000, "{}", times.len());
    // 25 ms of the highest rate for the way between permit and arrival.
    assert!(epsilon <= 400.0 * 0.025, "{epsilon}");
}
