//! Whether the report tells the truth about the run: another application than the recorded one, a cold cache, a
//! generator at its own limit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(clippy::disallowed_methods, reason = "tests measure real time against real servers")]

#[path = "support/steady_trace.rs"]
mod steady_trace;
mod support;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use replay::trace::ledger::Ledger;
use replay::trace::meta::TraceMeta;
use replay::trace::shape::{Credentials, RequestShape, Scheme};
use replay::trace::writer::TraceWriter;
use replay::trace::{EventKind, Fact, Provenance, RequestFacts, SessionRef, TraceEvent};
use replay::units::{TraceTime, WallTime};
use replay::wire::cache::CacheStatus;
use replay::wire::head::Version;
use support::*;

/// Target, recorded body bytes, whether it came from a cache when recorded.
type Recorded = (&'static str, u64, Option<CacheStatus>);

/// 100 requests for each of them, one after the other, all of status 200.
fn record(path: &Path, what: &[Recorded]) -> String {
    let meta = TraceMeta {
        started_at: WallTime(1_700_000_000_000_000_000),
        sources: Vec::new(),
        redaction: String::new(),
        resolution_ns: 1,
        spread_seed: None,
        made_by: "test".to_owned(),
    };
    let mut writer = TraceWriter::new(File::create(path).unwrap(), &meta).unwrap();
    for n in 0..100 * what.len() as u64 {
        let (target, len, cache) = what[n as usize % what.len()];
        let shape = RequestShape {
            method: b"GET"[..].into(),
            scheme: Scheme::Http,
            authority: None,
            target: target.replace("{n}", &n.to_string()).into_bytes().into(),
            version: Version::Http11,
            headers: [].into(),
            credentials: Credentials::default(),
            target_redacted: false,
        };
        let facts = RequestFacts {
            shape: Arc::new(shape),
            arrival: Provenance::Recorded,
            connection: Provenance::Recorded,
            body_len: Fact::recorded(0),
            status: Fact::recorded(200),
            response_len: Fact::recorded(len),
            duration_ns: Fact::absent(),
            cache: cache.map_or_else(Fact::absent, Fact::recorded),
        };
        let session = SessionRef { key: n % 10 * 77 + 5, ordinal: n % 10 };
        let kind = EventKind::Request(facts);
        writer.push(&TraceEvent { at: TraceTime(n * 5_000_000), session, connection: 0, kind }).unwrap();
    }
    writer.finish(&Ledger::default()).unwrap();
    path.display().to_string()
}

fn run(dir: &Path, trace: &str, port: u16) -> (i32, serde_json::Value) {
    let (url, out) = (format!("http://127.0.0.1:{port}"), dir.join("run"));
    let out_text = out.display().to_string();
    let args = ["--trace", trace, "--target", &url, "--lead-in", "none", "--out", &out_text, "--quiet"];
    let done = replay(&args);
    println!("{}", text(&done));
    let r = report(&out);
    assert_identities(&r);
    (code(&done), r)
}

/// A real cache in front of a real origin, warm for one page and never for the other; one page has grown, one wants a
/// log-in now.
#[test]
fn answers_that_are_not_the_recorded_ones_are_told_route_by_route() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path().display();
    let origin = free_port();
    let page = "x".repeat(4_000);
    let servers = |port: u16| {
        format!(
            "proxy_cache_path {d}/cache keys_zone=c:1m;\n\
             server {{ listen 127.0.0.1:{origin}; location / {{ return 200 \"{page}\"; }} }}\n\
             server {{ listen 127.0.0.1:{port}; proxy_cache c; proxy_cache_valid 200 1m; add_header X-Cache-Status $upstream_cache_status;\n\
             location / {{ proxy_pass http://127.0.0.1:{origin}; }}\n\
             location /account {{ return 302 /login; }} }}"
        )
    };
    let Some(nginx) = Nginx::start_with(dir.path(), servers) else { return };
    let hit = Some(CacheStatus::Hit);
    let mut what: Vec<Recorded> = vec![
        ("/grown", 1_000, None),
        ("/account", 4_000, None),
        ("/unique?{n}", 4_000, hit),
        ("/unknown", 4_000, None),
    ];
    // Most of it is as it was: else the governor would not let it go on.
    what.extend([("/same", 4_000, hit); 6]);
    let trace = record(&dir.path().join("a.trace"), &what);
    let (exit, r) = run(dir.path(), &trace, nginx.port);
    assert_eq!(exit, 0);
    let drift: Vec<_> =
        r["fidelity"]["drift"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
    assert_eq!(
        drift,
        [
            "GET /grown: answers had 4000 bytes on average, when recorded 1000 (x 4.00)",
            "GET /account: 100 % of the answers were 3xx, when recorded 0 %",
            "GET /unique: 0 % of the answers came from a cache, when recorded 100 %",
        ]
    );
    assert_eq!(r["fidelity"]["verdict"], "reduced", "{}", r["fidelity"]);
    let route =
        |name: &str| r["routes"].as_array().unwrap().iter().find(|x| x["name"] == name).unwrap().clone();
    let same = route("GET /same");
    assert_eq!(
        (&same["due"], &same["ok"], &same["sizes"]["received"]),
        (&600.into(), &600.into(), &2_400_000.into())
    );
    assert!(same["cache"]["hit_share"].as_f64().unwrap() >= 0.9, "{same}");
    assert_eq!(route("GET /account")["by_end"]["3xx"]["count"], 100);
    assert_eq!(route("GET /unknown")["cache"]["recorded_hit_share"], serde_json::Value::Null);
    let shape = &r["fidelity"]["shape"];
    assert_eq!((&shape["connections_planned"], &shape["connections_opened"]), (&10.into(), &10.into()));
    assert_eq!(shape["route_mix_difference"], 0.0);
    assert_eq!(shape["response_bytes_ratio"], 1.0909, "of those with the recorded status: {shape}");
}

/// Others have the processor that we run on: whatever the figures say, they are about us, and the report says so.
#[test]
fn a_generator_at_its_limit_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let Some(nginx) = Nginx::start(dir.path()) else { return };
    let path = dir.path().join("much.trace");
    steady_trace::write(&path, 200_000, 5, 64);
    let policy = dir.path().join("p.toml");
    let words = "version = 1\nname = \"much\"\n[target]\nallow = [\"127.0.0.0/8\"]\n[rate]\nmax_rps = 1000000\nmax_new_connections_per_s = 1000\n";
    std::fs::write(&policy, words).unwrap();
    let (taskset, log) = (Path::new("taskset"), dir.path().join("others.log"));
    let spin = ["-c", "0", "sh", "-c", "while :; do :; done"];
    let _others: Vec<Process> = (0..4).map(|_| Process::start(taskset, &spin, &log)).collect();
    let (trace, policy, out) =
        (path.display().to_string(), policy.display().to_string(), dir.path().join("run"));
    let (url, out_text) = (format!("http://127.0.0.1:{}", nginx.port), out.display().to_string());
    let ours =
        ["-c", "0", REPLAY, "--trace", &trace, "--target", &url, "--policy", &policy, "--pacing", "1ms"];
    let ours = [&ours[..], &["--lead-in", "none", "--out", &out_text, "--quiet"]].concat();
    let mut process = Process::start(taskset, &ours, &dir.path().join("replay.out"));
    let exit = wait_for_end(&mut process, Duration::from_secs(60));
    let r = report(&out);
    assert_identities(&r);
    assert_ne!(exit, 0, "{}", r["fidelity"]);
    assert_eq!(r["fidelity"]["verdict"], "invalid", "{}", r["fidelity"]);
    let own = &r["fidelity"]["generator"];
    assert!(own["saturated_s"].as_u64().unwrap() >= 3, "{own}");
    assert!(!own["reasons"].as_array().unwrap().is_empty(), "{own}");
    let told =
        |e: &serde_json::Value| e["what"].as_str().unwrap().starts_with("the generator is at its limit: ");
    assert!(r["events"].as_array().unwrap().iter().any(told), "{}", r["events"]);
    println!("{}", r["fidelity"]["reasons"]);
}

/// 2.1 million requests: the run begins without reading them all, and what it says of them is marked as an estimate until
/// they were reached.
#[test]
fn a_long_trace_starts_before_it_was_read() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::ok();
    let path = dir.path().join("long.trace");
    steady_trace::write(&path, 100, 21_000, 20);
    let trace = path.display().to_string();
    let url = sink.url();
    let dry = replay(&["--trace", &trace, "--target", &url, "--scale", "2x", "--dry-run"]);
    let said = text(&dry);
    assert_eq!(code(&dry), 0, "{said}");
    assert!(said.contains("plan       about 4200000 requests in 40 sessions over 21000.5 s"), "{said}");
    assert!(said.contains("peak second 200.0/s") || said.contains("peak second 201.0/s"), "{said}");
    assert!(said.contains("the peak is that of its densest stretches, the rest is estimated"), "{said}");

    // A part of its time, and more than its time, are estimated as such.
    let dry =
        |more: &[&str]| text(&replay(&[&["--trace", &trace, "--target", &url, "--dry-run"], more].concat()));
    let said = dry(&["--for", "3000s"]);
    assert!(said.contains("about 3000") && said.contains("in 20 sessions over 3000.0 s"), "{said}");
    let said = dry(&["--loop", "--for", "42000s"]);
    assert!(said.contains("about 4199") || said.contains("about 4200"), "{said}");
    assert!(said.contains("over 42000.0 s: mean 100.0/s"), "{said}");
    // What the bucket would shed is a share of what was looked at.
    let tight = dir.path().join("tight.toml");
    let words = "version = 1\nname = \"tight\"\n[target]\nallow = [\"127.0.0.0/8\"]\n[rate]\nmax_rps = 50\nmax_new_connections_per_s = 100\n";
    std::fs::write(&tight, words).unwrap();
    let said = dry(&["--policy", &tight.display().to_string()]);
    assert!(said.contains("that were looked at (") && said.contains("G030"), "{said}");

    let out = dir.path().join("run").display().to_string();
    let args = ["--trace", &trace, "--target", &url, "--lead-in", "none", "--out", &out, "--quiet"];
    let mut process = start_replay(dir.path(), &args);
    wait_until("some requests", Duration::from_secs(20), || sink.count() > 100);
    process.signal("TERM");
    assert_eq!(wait_for_end(&mut process, Duration::from_secs(20)), 6);
    let r = report(&dir.path().join("run"));
    assert_identities(&r);
    assert_eq!(r["coverage"]["whole"], false, "{}", r["coverage"]);
    assert!(r["coverage"]["planned"].as_u64().unwrap() < 2_000, "{}", r["coverage"]);
    std::fs::remove_dir_all(dir.path().join("run")).unwrap();

    // What is wanted of it was reached, so it is known.
    let args = [
        "--trace",
        &trace,
        "--target",
        &url,
        "--lead-in",
        "none",
        "--for",
        "2s",
        "--from",
        "9000s",
        "--out",
        &out,
    ];
    let done = replay(&args);
    assert_eq!(code(&done), 0, "{}", text(&done));
    let r = report(&dir.path().join("run"));
    assert_identities(&r);
    assert_eq!((&r["coverage"]["whole"], &r["coverage"]["planned"]), (&true.into(), &200.into()));
}

/// Damage that nobody could see before the start ends the run where it is reached; it is not the end of the trace.
#[test]
fn damage_in_a_long_trace_is_not_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::ok();
    let path = dir.path().join("long.trace");
    steady_trace::write(&path, 40_000, 70, 200);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() * 2 / 5;
    bytes[at] ^= 0x10;
    std::fs::write(&path, bytes).unwrap();
    let (trace, url, out) = (path.display().to_string(), sink.url(), dir.path().join("run"));
    let out_text = out.display().to_string();
    let part = ["--from", "13s", "--shard", "0/50", "--lead-in", "none", "--out", &out_text, "--quiet"];
    let done = replay(&[&["--trace", &trace, "--target", &url], &part[..]].concat());
    let said = text(&done);
    assert!(said.contains("the plan cannot be read any further"), "{said}");
    assert!(said.contains("the trace is cut off or damaged at byte"), "{said}");
    let r = report(&out);
    assert_identities(&r);
    assert_eq!((code(&done), &r["state"]), (1, &"aborted".into()), "{}", r["cause"]);
}

/// What stands behind damage is lost, also for a run that would begin there: its index leads nowhere.
#[test]
fn nothing_is_planned_behind_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("damaged.trace");
    steady_trace::write(&path, 1_000, 120, 50);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() / 5;
    bytes[at] ^= 0x10;
    std::fs::write(&path, bytes).unwrap();
    let trace = path.display().to_string();
    for more in [&["--from", "90s"][..], &["--from", "90s", "--loop", "--for", "100s"]] {
        let args = ["--trace", &trace, "--target", "http://127.0.0.1:9", "--dry-run"];
        let done = replay(&[&args, more].concat());
        let said = text(&done);
        assert_eq!(code(&done), 3, "{more:?}: {said}");
        assert!(said.contains("no request in the chosen part") && said.contains("damaged"), "{said}");
    }
}
