//! Coordinated omission: a target that stands still for most of a second, and percentiles that say so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(clippy::disallowed_methods, reason = "tests measure real time against real servers")]

#[path = "support/steady_trace.rs"]
mod steady_trace;
mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::*;

const RATE: u64 = 500;
const SESSIONS: u64 = 64;
const SECONDS: u64 = 10;

/// How long it stands still: below the second after which a run backs off by itself.
const STALL: Duration = Duration::from_millis(800);

/// Answers at once, but for [`STALL`], which begins five seconds after its first request.
fn stalling() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let first: Arc<OnceLock<Instant>> = Arc::default();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let first = Arc::clone(&first);
            std::thread::spawn(move || {
                stream.set_nodelay(true).unwrap();
                let (mut head, mut byte) = (Vec::new(), [0u8; 1024]);
                while let Ok(n @ 1..) = stream.read(&mut byte) {
                    head.extend_from_slice(&byte[..n]);
                    if !head.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    head.clear();
                    let stall = *first.get_or_init(Instant::now) + Duration::from_secs(5);
                    let now = Instant::now();
                    if (stall..stall + STALL).contains(&now) {
                        std::thread::sleep(stall + STALL - now);
                    }
                    if stream.write_all(OK.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    addr
}

fn run(blocked_max: &str) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let (trace, policy, out) =
        (dir.path().join("t.trace"), dir.path().join("p.toml"), dir.path().join("run"));
    steady_trace::write(&trace, RATE, SECONDS, SESSIONS);
    // The stall itself must not be cut short: this is about measuring.
    let words = format!(
        "version = 1\nname = \"stall\"\n[target]\nallow = [\"127.0.0.0/8\"]\nhosts = [\"*\"]\n\
         [rate]\nmax_rps = 2000\nmax_new_connections_per_s = 500\nsession_blocked_max = \"{blocked_max}\"\n\
         [local]\np95 = {{ back_off_above = \"9s\" }}\nerror_ratio = {{ back_off_above = \"90%\" }}\n"
    );
    fs::write(&policy, words).unwrap();
    let url = format!("http://{}", stalling());
    let path = |p: &Path| p.display().to_string();
    let done = replay(&[
        "--trace",
        &path(&trace),
        "--policy",
        &path(&policy),
        "--target",
        &url,
        "--lead-in",
        "none",
        "--quiet",
        "--out",
        &path(&out),
    ]);
    let r = report(&out);
    assert_identities(&r);
    eprintln!("{blocked_max}: {} {} {}", r["state"], r["counts"]["shed"], r["latency"]["response"]);
    assert!(matches!(code(&done), 0 | 5), "{}", text(&done));
    r
}

/// Late requests are counted from when they were due: of 10 s 0.8 s were lost, so 1 % waited 0.7 s and more, and one in a
/// thousand 0.79 s.
#[test]
fn a_stall_is_in_the_percentiles() {
    let r = run("3s");
    // The bucket lets no burst follow the stall: what it cuts had waited, and is said to be missing.
    let counts = &r["counts"];
    assert_eq!(counts["due"], RATE * SECONDS, "{counts}");
    let (censored, shed) = (r["latency"]["response"]["censored"].as_u64().unwrap(), sum(&counts["shed"]));
    // One that came to an idle connection in that very moment was in time, and is not slow.
    assert!(censored <= shed && censored * 10 >= shed * 9, "{censored} of {counts}");
    let response = &r["latency"]["response"];
    let ms = |key: &str| response[key].as_f64().unwrap_or_else(|| panic!("{key} in {response}"));
    let within = |got: f64, truth: f64| (got - truth).abs() <= truth * 0.02;
    assert!(within(ms("p99_ms"), 700.0) && within(ms("p999_ms"), 790.0), "{response}");
    // From when they were sent only those show that stood in the target, one of each connection, which hides the wait of
    // the others.
    let service = &r["latency"]["service"];
    assert!(service["mean_ms"].as_f64().unwrap() < ms("mean_ms") * 0.9, "{service}");
}

/// With a short limit on waiting the rest is shed: not hidden, counted, and said to be missing from the percentiles.
#[test]
fn what_was_not_sent_because_of_a_stall_is_said() {
    let r = run("200ms");
    let shed = r["counts"]["shed"]["session_blocked"].as_u64().unwrap();
    assert!(shed > 100, "{}", r["counts"]);
    let censored = r["latency"]["response"]["censored"].as_u64().unwrap();
    assert!(censored >= shed, "{censored} of {shed}");
}
