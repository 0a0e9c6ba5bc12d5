//! Replays against real servers and against a sink that remembers: counts, marking, stops, stalls.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(clippy::disallowed_methods, reason = "tests measure real time against real servers")]

mod support;

use std::fs;
use std::time::{Duration, Instant};

use support::*;

/// The number in the server's own log is the number that we say we wrote.
#[test]
fn through_haproxy_to_nginx_every_written_request_is_logged() {
    let dir = tempfile::tempdir().unwrap();
    let Some(nginx) = Nginx::start(dir.path()) else { return };
    let Some(haproxy) = Haproxy::start(dir.path(), nginx.port) else { return };
    let before = nginx.logged();
    let trace = trace_of(dir.path(), "demo.pcap");
    let out = dir.path().join("run");
    let url = format!("http://127.0.0.1:{}", haproxy.port);
    let args = [
        "--trace",
        &trace,
        "--target",
        &url,
        "--scale",
        "2x",
        "--loop",
        "--for",
        "8s",
        "--lead-in",
        "none",
        "--out",
        &out.display().to_string(),
        "--quiet",
    ];
    let done = replay(&args);
    assert_eq!(code(&done), 0, "{}", text(&done));
    let r = report(&out);
    assert_identities(&r);
    let written = r["counts"]["written"].as_u64().unwrap();
    assert!(written > 1_000, "{written}");
    wait_until("the log", Duration::from_secs(5), || nginx.logged() - before >= written);
    assert_eq!(nginx.logged() - before, written);
    assert_eq!(r["counts"]["ok"].as_u64(), Some(written));
    // All was sent as planned; but this server answers three bytes where there were more.
    let reasons = r["fidelity"]["reasons"].as_array().unwrap();
    let other = |v: &serde_json::Value| {
        !v.as_str().unwrap().starts_with("the target does not answer as it did when it was recorded")
    };
    assert!(!reasons.iter().any(other), "{}", r["fidelity"]);
    assert_eq!(r["fidelity"]["verdict"], "reduced");
    assert!(r["latency"]["connect"]["count"].as_u64().unwrap() > 0);
    assert_eq!(r["counts"]["recorded"].as_u64().unwrap() % 2, 0, "two of each session");
}

/// The lead-in climbs, and what the trace holds is still sent whole after it.
#[test]
fn a_lead_in_climbs_before_the_trace_and_does_not_eat_it() {
    let dir = tempfile::tempdir().unwrap();
    let (sink, out) = (Sink::ok(), dir.path().join("run"));
    let trace = trace_of(dir.path(), "demo.pcap");
    let done =
        replay(&["--trace", &trace, "--target", &sink.url(), "--out", &out.display().to_string(), "--quiet"]);
    assert_eq!(code(&done), 0, "{}", text(&done));
    let r = report(&out);
    assert_identities(&r);
    assert_eq!(r["phases"]["measure"]["due"].as_u64(), Some(473), "the whole trace");
    assert!(r["phases"]["lead_in"]["sent"].as_u64().unwrap() > 100);
    let grown = r["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|e| e["what"].as_str().unwrap().starts_with("share grown"))
        .count();
    assert!(grown >= 3, "{}", r["events"]);
    assert_eq!(sink.count() as u64, r["counts"]["written"].as_u64().unwrap());
}

#[test]
fn traffic_is_marked_and_carries_no_secret_or_client_address() {
    let dir = tempfile::tempdir().unwrap();
    let (sink, out) = (Sink::ok(), dir.path().join("run"));
    let trace = trace_of(dir.path(), "shop-backend.pcap"); // with X-Forwarded-For of every client
    let args = [
        "--trace",
        &trace,
        "--target",
        &sink.url(),
        "--out",
        &out.display().to_string(),
        "--lead-in",
        "none",
        "--speed",
        "10x",
        "--quiet",
    ];
    let done = replay(&args);
    assert!([0, 5].contains(&code(&done)), "{}", text(&done));
    let heads = sink.heads();
    assert!(heads.len() > 50, "{}", heads.len());
    let host = format!("host: {}", sink.addr);
    for head in &heads {
        let lower = head.to_ascii_lowercase();
        assert!(lower.contains(&host), "{head}");
        assert!(
            lower.contains("x-replay-run: ")
                && lower.contains("traceparent: 00-")
                && lower.contains("-00\r\n"),
            "{head}"
        );
        assert!(lower.contains("replay/") && lower.contains("run="), "{head}");
        for never in ["authorization", "cookie", "x-forwarded-for", "127.0.0.1 ", "seeded-secret"] {
            assert!(!lower.contains(never), "{never} in {head}");
        }
        let method = head.split(' ').next().unwrap();
        assert!(["GET", "HEAD", "OPTIONS"].contains(&method), "{head}");
    }
    let r = report(&out);
    assert_identities(&r);
    for reason in ["method", "route", "needs_credentials"] {
        assert!(
            r["counts"]["dropped"][reason].as_u64().unwrap_or(0) > 0,
            "{reason}: {}",
            r["counts"]["dropped"]
        );
    }
}

/// A policy for loopback with a kill file.
fn policy_with_kill_file(dir: &std::path::Path) -> (String, std::path::PathBuf) {
    let kill = dir.join("STOP");
    let text = fs::read_to_string(root().join("policies/default.toml")).unwrap();
    let path = dir.join("policy.toml");
    fs::write(&path, format!("{text}\n[stop]\nkill_file = {:?}\n", kill.display().to_string())).unwrap();
    (path.display().to_string(), kill)
}

/// Time from `stop` to the last request that the sink saw.
fn stop_run(sink: &Sink, stop: impl FnOnce(&Process), exit: i32, state: &str, cause: &str) -> Duration {
    let dir = tempfile::tempdir().unwrap();
    let trace = trace_of(dir.path(), "demo.pcap");
    let (policy, _) = policy_with_kill_file(dir.path());
    stop_run_with(dir.path(), &trace, &policy, sink, stop, exit, state, cause)
}

#[allow(clippy::too_many_arguments, reason = "one helper for three stops")]
fn stop_run_with(
    dir: &std::path::Path,
    trace: &str,
    policy: &str,
    sink: &Sink,
    stop: impl FnOnce(&Process),
    exit: i32,
    state: &str,
    cause: &str,
) -> Duration {
    let out = dir.join("run");
    let (url, folder) = (sink.url(), out.display().to_string());
    let args = [
        "--trace",
        trace,
        "--target",
        &url,
        "--policy",
        policy,
        "--scale",
        "4x",
        "--loop",
        "--for",
        "60s",
        "--lead-in",
        "none",
        "--out",
        &folder,
        "--quiet",
    ];
    let mut process = start_replay(dir, &args);
    wait_until("traffic", Duration::from_secs(20), || sink.count() > 300);
    stop(&process);
    let stopped = Instant::now();
    let got = wait_for_end(&mut process, Duration::from_secs(20));
    assert_eq!(got, exit, "{}", fs::read_to_string(dir.join("replay.out")).unwrap());
    let r = report(&out);
    assert_identities(&r);
    assert_eq!(r["state"], state, "{}", r["cause"]);
    assert!(r["cause"].as_str().unwrap().contains(cause), "{}", r["cause"]);
    let last = sink.times().into_iter().max().unwrap();
    last.saturating_duration_since(stopped)
}

#[test]
fn a_signal_stops_at_once() {
    let took = stop_run(&Sink::ok(), |p| p.signal("TERM"), 6, "stopped", "signal");
    eprintln!("SIGTERM: last request after {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn the_kill_file_stops_within_a_tick() {
    let dir = tempfile::tempdir().unwrap();
    let trace = trace_of(dir.path(), "demo.pcap");
    let (policy, kill) = policy_with_kill_file(dir.path());
    let touch = |_: &Process| fs::write(&kill, "").unwrap();
    let took = stop_run_with(dir.path(), &trace, &policy, &Sink::ok(), touch, 6, "stopped", "kill file");
    eprintln!("kill file: last request after {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn the_target_can_stop_us() {
    let sink = Sink::start(|n| {
        let stop = if n >= 400 { "X-Replay-Stop: 1\r\n" } else { "" };
        format!("HTTP/1.1 200 OK\r\n{stop}Content-Length: 2\r\n\r\nok")
    });
    stop_run(&sink, |_| (), 4, "aborted", "X-Replay-Stop");
    let times = sink.times();
    let after = times.last().unwrap().duration_since(times[400]);
    eprintln!("X-Replay-Stop: {} more requests, the last after {after:?}", times.len() - 401);
    assert!(after < Duration::from_secs(1), "{after:?}");
}

/// The most requests that the sink saw in any window of 100 ms.
fn busiest_100ms(times: &[Instant]) -> usize {
    let mut times = times.to_vec();
    times.sort_unstable();
    let end =
        |i: usize| times[i..].partition_point(|t| t.duration_since(times[i]) < Duration::from_millis(100));
    (0..times.len()).map(end).max().unwrap_or(0)
}

fn stalled_run(stall: Duration) -> (i32, serde_json::Value, usize, usize) {
    let dir = tempfile::tempdir().unwrap();
    let (sink, out) = (Sink::ok(), dir.path().join("run"));
    let trace = trace_of(dir.path(), "demo.pcap");
    let (url, folder) = (sink.url(), out.display().to_string());
    let args = [
        "--trace",
        &trace,
        "--target",
        &url,
        "--scale",
        "4x",
        "--loop",
        "--for",
        "12s",
        "--lead-in",
        "none",
        "--out",
        &folder,
        "--quiet",
    ];
    let mut process = start_replay(dir.path(), &args);
    wait_until("traffic", Duration::from_secs(20), || sink.count() > 600);
    let before = busiest_100ms(&sink.times());
    process.signal("STOP");
    std::thread::sleep(stall); // the length of the stall is what is tested
    let seen = sink.count();
    process.signal("CONT");
    let exit = wait_for_end(&mut process, Duration::from_secs(60));
    let after = busiest_100ms(&sink.times()[seen..]);
    (exit, report(&out), before, after)
}

#[test]
fn a_short_stall_sheds_and_does_not_burst() {
    let (exit, r, before, after) = stalled_run(Duration::from_millis(1_500));
    assert_identities(&r);
    let shed = sum(&r["counts"]["shed"]);
    eprintln!(
        "1.5 s stall: exit {exit}, shed {}, busiest 100 ms {before} before, {after} after",
        r["counts"]["shed"]
    );
    assert!(r["state"].as_str().unwrap().starts_with("completed"), "{} {}", r["state"], r["cause"]);
    assert!(shed > 200, "{shed} of about 600 that were due in the stall");
    // The ceiling is the peak second, so a catch-up would show as several times the busiest stretch.
    assert!(after <= before * 2 + 20, "{after} in 100 ms after the stall, {before} before it");
}

#[test]
fn a_long_stall_aborts() {
    let (exit, r, ..) = stalled_run(Duration::from_secs(5));
    assert_identities(&r);
    assert_eq!((exit, r["state"].as_str()), (7, Some("aborted")), "{}", r["cause"]);
    assert!(r["cause"].as_str().unwrap().contains("stalled"), "{}", r["cause"]);
}

/// The journal holds every input: fed again into the core it gives the same states.
#[test]
fn a_journal_re_decides_its_run() {
    use replay::govern::record::Line;
    use replay::govern::state::State;
    use replay::govern::step::step;
    let dir = tempfile::tempdir().unwrap();
    let (sink, out) = (Sink::ok(), dir.path().join("run"));
    let trace = trace_of(dir.path(), "demo.pcap");
    let done =
        replay(&["--trace", &trace, "--target", &sink.url(), "--out", &out.display().to_string(), "--quiet"]);
    assert_eq!(code(&done), 0, "{}", text(&done));
    let journal = fs::read_to_string(out.join("journal.jsonl")).unwrap();
    let mut lines = journal.lines().map(|l| serde_json::from_str::<Line>(l).unwrap());
    let Some(Line::Start { settings, .. }) = lines.next() else { panic!("no first line") };
    let (mut now, mut ticks, mut ended) = (State::start(&settings), 0, false);
    for line in lines {
        match line {
            Line::Tick { inputs, state, effects, .. } => {
                assert_eq!(step(&settings, &now, &inputs), (state.clone(), effects), "tick {ticks}");
                now = state;
                ticks += 1;
            }
            Line::Baseline { .. } | Line::Shifted { .. } | Line::Noted { .. } => {}
            Line::End => ended = true,
            Line::Start { .. } => panic!("two first lines"),
        }
    }
    assert!(ticks > 100 && ended, "{ticks} ticks");
}

/// Two runs against one target on one host would add up.
#[test]
fn one_run_per_target() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::ok();
    let trace = trace_of(dir.path(), "demo.pcap");
    let (url, folder) = (sink.url(), dir.path().join("run").display().to_string());
    let args = [
        "--trace",
        &trace,
        "--target",
        &url,
        "--out",
        &folder,
        "--lead-in",
        "none",
        "--loop",
        "--for",
        "30s",
        "--quiet",
    ];
    let first = start_replay(dir.path(), &args);
    wait_until("traffic", Duration::from_secs(20), || sink.count() > 10);
    let second = replay(&args);
    assert_eq!(code(&second), 3, "{}", text(&second));
    assert!(text(&second).contains("another run"), "{}", text(&second));
    drop(first);
}

/// An overloaded target: errors are harm, and harm ends or caps the run, never the other way round.
#[test]
fn errors_back_off_and_abort() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::start(|n| {
        let status = if n > 300 { "503 Service Unavailable" } else { "200 OK" };
        format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok")
    });
    let trace = trace_of(dir.path(), "demo.pcap");
    let (url, out) = (sink.url(), dir.path().join("run"));
    let args = [
        "--trace",
        &trace,
        "--target",
        &url,
        "--out",
        &out.display().to_string(),
        "--lead-in",
        "none",
        "--scale",
        "2x",
        "--loop",
        "--for",
        "30s",
        "--quiet",
    ];
    let done = replay(&args);
    assert_eq!(code(&done), 4, "{}", text(&done));
    let r = report(&out);
    assert_identities(&r);
    assert!(r["counts"]["unexpected"]["200→503"].as_u64().unwrap() > 0, "{}", r["counts"]);
    assert!(r["cause"].as_str().unwrap().contains("local"), "{}", r["cause"]);
    assert!(sink.count() < 600, "{} requests reached a target that was failing", sink.count());
}

/// A hang completes nothing; that must look like harm and not like peace.
#[test]
fn a_hang_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::start(|n| {
        if n > 300 {
            std::thread::sleep(Duration::from_secs(30));
        }
        OK.to_owned()
    });
    let trace = trace_of(dir.path(), "demo.pcap");
    let (url, out) = (sink.url(), dir.path().join("run"));
    let args = [
        "--trace",
        &trace,
        "--target",
        &url,
        "--out",
        &out.display().to_string(),
        "--lead-in",
        "none",
        "--scale",
        "2x",
        "--loop",
        "--for",
        "30s",
        "--quiet",
    ];
    let done = replay(&args);
    assert_eq!(code(&done), 4, "{}", text(&done));
    let r = report(&out);
    assert_identities(&r);
    let cut =
        r["events"].as_array().unwrap().iter().any(|e| e["what"].as_str().unwrap().starts_with("share cut"));
    assert!(cut, "{}", r["events"]);
}

/// With a coarse quantum many are due in one wake-up. Once no more than 64 of them left, and the rest waited for the next.
#[test]
fn a_coarse_quantum_sends_all_that_is_due() {
    let dir = tempfile::tempdir().unwrap();
    let (sink, out) = (Sink::ok(), dir.path().join("run"));
    let trace = trace_of(dir.path(), "demo.pcap");
    let policy = dir.path().join("p.toml");
    fs::write(
        &policy,
        "version = 1\nname = \"quantum\"\n[target]\nallow = [\"127.0.0.0/8\"]\nhosts = [\"*\"]\n\
         [rate]\nmax_scale = 10\nmax_rps = 20000\nmax_new_connections_per_s = 2000\nmax_in_flight = 5000\n",
    )
    .unwrap();
    let args = [
        "--target",
        &sink.url(),
        "--rate",
        "8000/s",
        "--for",
        "2s",
        "--lead-in",
        "none",
        "--pacing",
        "10ms",
        "--quiet",
    ];
    let mut all =
        vec!["--trace", &trace, "--policy", policy.to_str().unwrap(), "--out", out.to_str().unwrap()];
    all.extend(args);
    let done = replay(&all);
    let r = report(&out);
    let late = r["counts"]["shed"]["too_late"].as_u64().unwrap_or(0);
    assert!(late < 100, "{late} were late: {}\n{}", r["fidelity"], text(&done));
    assert!(r["counts"]["due"].as_u64().unwrap() > 10_000, "{}", r["counts"]);
}
