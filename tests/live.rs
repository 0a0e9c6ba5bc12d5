//! Capturing from the loopback interface while real nginx answers: every request of its log is in the traces, privileges are
//! given up, traces follow one another without losing a request between them, and a stop ends them whole.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use support::*;

/// Whether this process may capture; a loud word where not.
fn may_capture() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let caps = status.lines().find_map(|l| l.strip_prefix("CapEff:")).unwrap();
    let may = u64::from_str_radix(caps.trim(), 16).unwrap() >> 13 & 1 == 1;
    assert!(may || std::env::var_os("CI").is_none(), "these tests need CAP_NET_RAW");
    if !may {
        eprintln!("SKIPPED: capturing needs CAP_NET_RAW");
    }
    may
}

/// Starts a capture of `port` on lo and waits until it sees frames.
fn capture(dir: &Path, port: u16, more: &[&str]) -> Process {
    let (output, filter) = (dir.join("live.trace"), format!("tcp port {port}"));
    let mut args =
        vec!["capture", "--live", "lo", "--filter", &filter, "-o", output.to_str().unwrap(), "--json"];
    args.extend(more);
    let log = dir.join("capture.log");
    let process = Process::start(Path::new(REPLAY), &args, &log);
    wait_until("the capture begins", Duration::from_secs(10), || {
        fs::read_to_string(&log).unwrap().contains("capturing on lo")
    });
    process
}

/// `n` requests on one connection, all answered.
fn ask(port: u16, n: usize) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut answer = [0; 4096];
    for i in 0..n {
        stream.write_all(format!("GET /live?n={i} HTTP/1.1\r\nHost: live\r\n\r\n").as_bytes()).unwrap();
        let mut got = Vec::new();
        while !got.windows(4).any(|w| w == b"\r\n\r\n") {
            let n = stream.read(&mut answer).unwrap();
            assert!(n > 0);
            got.extend_from_slice(&answer[..n]);
        }
    }
}

fn server(dir: &Path) -> Option<Nginx> {
    Nginx::start_with(dir, |port| {
        format!("server {{ listen 127.0.0.1:{port}; location / {{ return 204; }} }}")
    })
}

/// What the capture said of each trace.
fn traces(dir: &Path) -> Vec<Value> {
    let log = fs::read_to_string(dir.join("capture.log")).unwrap();
    log.lines().filter_map(|l| serde_json::from_str(l).ok()).collect()
}

fn requests(trace: &Value) -> Vec<String> {
    let out = replay(&["trace", "cat", trace["trace"].as_str().unwrap()]);
    let one = |l: &str| serde_json::from_str::<Value>(l).unwrap()["path"].as_str().unwrap().to_owned();
    String::from_utf8(out.stdout).unwrap().lines().map(one).collect()
}

#[test]
fn every_logged_request_is_captured_and_privileges_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let Some(nginx) = server(dir.path()).filter(|_| may_capture()) else { return };
    let mut process = capture(dir.path(), nginx.port, &[]);
    let status = fs::read_to_string(format!("/proc/{}/status", process.0.id())).unwrap();
    let of = |key: &str| status.lines().find_map(|l| l.strip_prefix(key)).unwrap().trim().to_owned();
    for key in ["CapEff:", "CapPrm:", "CapInh:", "CapAmb:"] {
        assert_eq!(u64::from_str_radix(&of(key), 16).unwrap(), 0, "{key}");
    }
    assert_eq!(of("NoNewPrivs:"), "1");
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let port = nginx.port;
            std::thread::spawn(move || ask(port, 500))
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    wait_until("nginx has logged all", Duration::from_secs(10), || nginx.logged() >= 2_000);
    process.signal("TERM");
    assert_eq!(wait_for_end(&mut process, Duration::from_secs(10)), 0);
    let all = traces(dir.path());
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(all[0]["requests"], 2_000, "{all:?}");
    assert_eq!(all[0]["ledger"]["kernel_drops"], 0, "known, and none");
    assert_eq!(all[0]["sessions"], 4);
    let mut seen = requests(&all[0]);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 500, "each target four times");
}

#[test]
fn traces_follow_one_another_and_lose_nothing_between_them() {
    let dir = tempfile::tempdir().unwrap();
    let Some(nginx) = server(dir.path()).filter(|_| may_capture()) else { return };
    let mut process = capture(dir.path(), nginx.port, &["--rotate", "1s", "--keep", "100"]);
    let (port, mut asked) = (nginx.port, 0);
    // One connection all along: it goes on in each trace as a session of its own.
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut answer = [0; 4096];
    wait_until("three traces are ended", Duration::from_secs(30), || {
        stream.write_all(format!("GET /live?n={asked} HTTP/1.1\r\nHost: live\r\n\r\n").as_bytes()).unwrap();
        assert!(stream.read(&mut answer).unwrap() > 0);
        asked += 1;
        traces(dir.path()).len() >= 3
    });
    drop(stream);
    process.signal("INT");
    assert_eq!(wait_for_end(&mut process, Duration::from_secs(10)), 0);
    let all = traces(dir.path());
    let mut seen: Vec<String> = all.iter().flat_map(requests).collect();
    assert_eq!(seen.len(), asked, "{all:?}");
    assert!(seen.windows(2).all(|w| w[0] != w[1]));
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), asked);
    for trace in &all {
        let path = trace["trace"].as_str().unwrap();
        assert_eq!(code(&replay(&["trace", "check", path])), 0, "{path}");
        let events: Value =
            serde_json::from_slice(&replay(&["trace", "info", "--json", path]).stdout).unwrap();
        assert_eq!(events["sessions"], 1, "{events}");
    }
    assert!(all.iter().all(|t| t["ledger"]["unpaired_requests"] == 0), "{all:?}");
}

#[test]
fn one_privilege_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let Some(nginx) = server(dir.path()).filter(|_| may_capture()) else { return };
    if std::process::Command::new("setpriv").arg("--version").output().is_err() {
        eprintln!("SKIPPED: no setpriv here");
        return;
    }
    // As the system's unit starts it: nobody, with CAP_NET_RAW.
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let output = folder.path().join("live.trace");
    let (filter, log) = (format!("tcp port {}", nginx.port), dir.path().join("capture.log"));
    let privileges = [
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=-all,+net_raw",
        "--ambient-caps=-all,+net_raw",
        "--bounding-set=-all,+net_raw",
    ];
    let mut args: Vec<&str> = privileges.to_vec();
    // The program must be where nobody can reach it.
    let program = folder.path().join("replay");
    fs::copy(REPLAY, &program).unwrap();
    args.extend([program.to_str().unwrap(), "capture", "--live", "lo", "--filter", &filter, "--json"]);
    args.extend(["-o", output.to_str().unwrap()]);
    let mut process = Process::start(Path::new("setpriv"), &args, &log);
    wait_until("the capture begins", Duration::from_secs(10), || {
        let said = fs::read_to_string(&log).unwrap();
        assert!(!said.contains("cannot"), "{said}");
        said.contains("capturing on lo")
    });
    ask(nginx.port, 20);
    process.signal("TERM");
    assert_eq!(wait_for_end(&mut process, Duration::from_secs(10)), 0);
    assert_eq!(traces(dir.path())[0]["requests"], 20);
}

#[test]
fn what_cannot_be_captured_is_said() {
    if !may_capture() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("t.trace");
    let output = output.to_str().unwrap();
    for (args, words) in [
        (&["--live", "no-such-interface"][..], "There are: "),
        (&["--live", "lo", "--filter", "tcp prt 80"], "--filter"),
        (&["--live", "lo", "--keep", "3"], "--rotate"),
        (&["--live", "lo", "some.pcap"], "cannot be used with"),
    ] {
        let mut all = vec!["capture", "-o", output, "--for", "1s"];
        all.extend(args);
        let out = replay(&all);
        assert!(code(&out) == 2 && text(&out).contains(words), "{args:?}: {}", text(&out));
    }
    let out = replay(&["capture", "--live", "lo", "--for", "1s", "-o", "/no/such/folder/t.trace"]);
    assert!(code(&out) == 2 && text(&out).contains("/no/such/folder"), "{}", text(&out));
}
