//! Captures against independent counts: tshark on our own files, the corpus of real captures, seeded
//! secrets, and traces cut at random bytes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use replay::capture::access_log::escape::{Escape, unescape};
use serde_json::Value;
use support::*;

fn capture(input: &Path, trace: &Path) -> (i32, Value, String) {
    let out =
        replay(&["capture", &input.display().to_string(), "-o", &trace.display().to_string(), "--json"]);
    let json = serde_json::from_slice(&out.stdout).unwrap_or(Value::Null);
    (code(&out), json, text(&out))
}

fn cat(trace: &Path) -> Vec<Value> {
    let out = replay(&["trace", "cat", &trace.display().to_string()]);
    assert_eq!(code(&out), 0, "{}", text(&out));
    String::from_utf8(out.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// Method, target and time of each request, as tshark sees them.
fn tshark(input: &Path) -> Option<Vec<(String, String)>> {
    let program = tool("tshark")?;
    let out = std::process::Command::new(program)
        .args(["-r", &input.display().to_string(), "-2", "-o", "tcp.reassemble_out_of_order:TRUE"])
        .args(["-d", "tcp.port==18090,http", "-d", "tcp.port==18091,http", "-Y", "http.request"])
        .args(["-T", "fields", "-e", "http.request.method", "-e", "http.request.uri"])
        .output()
        .unwrap();
    // A pipelined pair is one row with values joined by commas; none of our paths has a comma.
    let rows = String::from_utf8_lossy(&out.stdout).into_owned();
    let split = |line: &str| {
        let (methods, uris) = line.split_once('\t').unwrap_or((line, ""));
        let pairs: Vec<_> =
            methods.split(',').zip(uris.split(',')).map(|(m, u)| (m.to_owned(), u.to_owned())).collect();
        pairs
    };
    Some(rows.lines().flat_map(split).collect())
}

#[test]
fn our_captures_agree_with_tshark_request_by_request() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["shop-edge.pcap", "shop-backend.pcap", "shop-edge.pcapng", "demo.pcap"] {
        let input = root().join("captures").join(name);
        let Some(want) = tshark(&input) else { return };
        let trace = dir.path().join("t");
        let (exit, _, words) = capture(&input, &trace);
        assert_eq!(exit, 0, "{words}");
        let plain = |v: &Value| {
            let path = v["path"].as_str().unwrap().to_owned();
            // What was redacted cannot be compared.
            (
                v["method"].as_str().unwrap().to_owned(),
                if v["redacted"] == true { String::new() } else { path },
            )
        };
        let mut got: Vec<_> = cat(&trace).iter().map(plain).collect();
        let mut want: Vec<_> = want
            .into_iter()
            .map(|(m, u)| if u.contains("seeded-secret") { (m, String::new()) } else { (m, u) })
            .collect();
        got.sort();
        want.sort();
        assert_eq!(got, want, "{name}");
    }
}

#[test]
fn both_sides_of_the_balancer_and_the_logs_tell_the_same_story() {
    let dir = tempfile::tempdir().unwrap();
    let mut methods = Vec::new();
    for name in [
        "shop-edge.pcap",
        "shop-backend.pcap",
        "shop-nginx-combined.log",
        "shop-nginx-combined.log.gz",
        "shop-nginx-timed.log",
    ] {
        let trace = dir.path().join("t");
        let (exit, _, words) = capture(&root().join("captures").join(name), &trace);
        assert_eq!(exit, 0, "{words}");
        let info = replay(&["trace", "info", "--json", &trace.display().to_string()]);
        let info: Value = serde_json::from_slice(&info.stdout).unwrap();
        assert_eq!(info["requests"], 270, "{name}");
        let duration = info["duration_s"].as_f64().unwrap();
        assert!((18.0..22.0).contains(&duration), "{name}: {duration}");
        methods.push(info["methods"].clone());
        let spread = name.contains("log");
        assert_eq!(info["spread_seed"].is_u64(), spread, "{name}");
        assert_eq!(
            info["provenance"]["arrival"][if spread { "inferred" } else { "recorded" }],
            270,
            "{name}"
        );
        assert!(info["bytes_per_request"].as_f64().unwrap() < 60.0, "{name}: {}", info["bytes_per_request"]);
    }
    assert!(methods.iter().all(|m| m == &methods[0]), "{methods:?}");
}

/// However the stamps of a second are spread, each request stays in its second and behind the one before it, and the trace says
/// how it was done.
#[test]
fn stamps_are_spread_in_the_way_that_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (trace, log) =
        (dir.path().join("t").display().to_string(), root().join("captures/shop-nginx-combined.log"));
    let mut orders = Vec::new();
    for (way, words) in [("uniform", "uniformly"), ("even", "evenly"), ("cascade", "in bursts")] {
        let out = replay(&["capture", &log.display().to_string(), "-o", &trace, "--spread", way]);
        assert_eq!(code(&out), 0, "{}", text(&out));
        let info = replay(&["trace", "info", "--json", &trace]);
        let info: Value = serde_json::from_slice(&info.stdout).unwrap();
        assert_eq!((&info["spread"], &info["provenance"]["arrival"]["inferred"]), (&way.into(), &270.into()));
        assert!(text(&replay(&["trace", "info", &trace])).contains(words));
        // What is redacted is hashed with a key of each capture.
        let path = |v: &Value| v["path"].as_str().unwrap().split('?').next().unwrap().to_owned();
        let request = |v: &Value| (v["at"].as_str().unwrap()[..19].to_owned(), path(v));
        orders.push(cat(Path::new(&trace)).iter().map(request).collect::<Vec<_>>());
    }
    assert!(orders[0].len() == 270 && orders[1..].iter().all(|o| *o == orders[0]));
    for (wrong, why) in [
        (["--spread", "front", "x.log"], "[possible values: uniform, even, cascade]"),
        (["--threads", "2", "--follow"], "cannot be used with '--follow"),
    ] {
        let args = [&["capture", "-o", &trace], &wrong[..], &["y.log"]].concat();
        let out = replay(&args);
        assert!(code(&out) == 2 && text(&out).contains(why), "{}", text(&out));
    }
}

/// Secrets that captures/README.md lists are in none of the outputs.
#[test]
fn no_seeded_secret_leaves_the_capture() {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(root().join("captures")).unwrap() {
        let input = entry.unwrap().path();
        let name = input.file_name().unwrap().to_string_lossy().into_owned();
        if !(name.ends_with(".pcap") || name.ends_with(".pcapng") || name.contains(".log"))
            || name.contains("haproxy")
        {
            continue;
        }
        let trace = dir.path().join("t");
        let (exit, _, words) = capture(&input, &trace);
        assert_eq!(exit, 0, "{words}");
        let all: Vec<String> = cat(&trace).iter().map(Value::to_string).collect();
        let all = all.join("\n") + &words;
        for secret in ["seeded-secret", "c2VlZGVkLXNlY3JldC11c2Vy", "correct-horse", "127.0.0."] {
            assert!(!all.contains(secret), "{secret} in {name}");
        }
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&trace).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn the_same_traffic_twice_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = |n: &str| root().join("captures").join(n).display().to_string();
    let trace = dir.path().join("t").display().to_string();
    let edge = file("shop-edge.pcap");
    for other in ["shop-nginx-timed.log", "shop-backend.pcap", "shop-nginx-combined.log.gz"] {
        let other = file(other);
        let out = replay(&["capture", &edge, &other, "-o", &trace]);
        assert!(code(&out) == 2 && text(&out).contains("hold the same traffic"), "{other}: {}", text(&out));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
        let out = replay(&["capture", &edge, &other, "-o", &trace, "--same-traffic-ok", "--json"]);
        let json: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!((code(&out), json["requests"].as_u64()), (0, Some(540)), "{}", text(&out));
        fs::remove_file(&trace).unwrap();
    }
    // Other traffic is another matter.
    let out = replay(&["capture", &edge, &file("demo.pcap"), "-o", &trace]);
    assert_eq!(code(&out), 0, "{}", text(&out));
}

/// Half of the lines say for whom a proxy asked: a person on a terminal is asked what that means, a daemon is warned.
#[test]
fn where_it_was_captured_is_asked_on_a_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let (log, trace) = (dir.path().join("a.log"), dir.path().join("t"));
    let line = |n: u32| {
        let forwarded = if n.is_multiple_of(2) { "-".to_owned() } else { format!("192.0.2.{n}") };
        format!(
            "10.0.0.{n} - - [26/Nov/2026:03:00:00 +0000] \"GET /a HTTP/1.1\" 200 5 \"-\" \"a/1\" \"{forwarded}\"\n"
        )
    };
    fs::write(&log, (0..100).map(line).collect::<String>()).unwrap();
    let format = || {
        let out = replay(&["trace", "info", "--json", &trace.display().to_string()]);
        let info: Value = serde_json::from_slice(&out.stdout).unwrap();
        info["sources"][0]["format"].as_str().unwrap().to_owned()
    };
    let command = format!("{REPLAY} capture {} -o {}", log.display(), trace.display());
    for (says, behind) in [("p\n", true), ("e\n", false), ("\n", false)] {
        let mut terminal = std::process::Command::new("script")
            .args(["-qec", &command, "/dev/null"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // The end of what is typed ends the terminal: the pipe stays open until the program is done.
        let mut typed = terminal.stdin.take().unwrap();
        std::io::Write::write_all(&mut typed, says.as_bytes()).unwrap();
        let out = terminal.wait_with_output().unwrap();
        drop(typed);
        let words = text(&out);
        assert!(out.status.success() && words.contains("50 of 100 requests name a forwarded"), "{words}");
        assert!(words.contains("(e)dge or behind a (p)roxy? [E/p]"), "{words}");
        assert_eq!(format().ends_with("/behind-proxy"), behind, "{says:?}");
    }
    let (exit, _, words) = capture(&log, &trace);
    assert!(exit == 0 && words.contains("which is a guess") && words.contains("--captured-at"), "{words}");
    assert!(!format().ends_with("/behind-proxy"));
}

#[test]
fn the_first_case_of_a_reason_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (log, trace) = (dir.path().join("a.log"), dir.path().join("t"));
    let line = "1.2.3.4 - - [26/Nov/2026:03:00:00 +0000] \"GET /a HTTP/1.1\" 200 5 \"-\" \"-\"\n";
    fs::write(&log, format!("{line}{line}no line\n{line}\"x\nstill none\n")).unwrap();
    let (exit, json, words) = capture(&log, &trace);
    assert_eq!((exit, json["requests"].as_u64()), (0, Some(3)), "{words}");
    assert_eq!(json["first"]["unparsed_lines"], "a.log, line 3", "{json}");
    let path = trace.display().to_string();
    let info: Value = serde_json::from_slice(&replay(&["trace", "info", "--json", &path]).stdout).unwrap();
    assert_eq!(info["ledger_first"]["unparsed_lines"], "a.log, line 3", "{info}");
    let said = text(&replay(&["trace", "info", &path]));
    assert!(said.contains("(first: a.log, line 3)"), "{said}");
    // A run may ask for more than the capture could give.
    let policy = dir.path().join("p.toml");
    let run = |min: f64| {
        let words = format!(
            "version = 1\nname = \"t\"\n[target]\nallow = [\"127.0.0.0/8\"]\n[trace]\nmin_completeness = {min:?}\n"
        );
        fs::write(&policy, words).unwrap();
        let policy = policy.display().to_string();
        let out =
            replay(&["--trace", &path, "--policy", &policy, "--target", "http://127.0.0.1:9", "--dry-run"]);
        (code(&out), text(&out))
    };
    let (exit, words) = run(0.51);
    assert!(exit == 3 && words.contains("50.00 %") && words.contains("min_completeness"), "{words}");
    assert_eq!(run(0.5).0, 0);
    let (exit, words) = run(1.1);
    assert!(exit != 0 && words.contains("trace.min_completeness"), "{words}");
}

/// Offsets at which the blocks of a trace end, read off its section headers (docs/TRACE_FORMAT.md).
fn block_ends(bytes: &[u8]) -> Vec<usize> {
    let (mut at, mut ends) = (12, Vec::new());
    while at + 16 <= bytes.len() {
        let stored = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
        let kind = bytes[at];
        at += 16 + stored;
        if kind == b'B' {
            ends.push(at);
        }
    }
    ends
}

#[test]
fn a_trace_cut_at_any_byte_reads_to_its_last_whole_block() {
    let dir = tempfile::tempdir().unwrap();
    let (log, trace) = (dir.path().join("big.log"), dir.path().join("t"));
    let line = |i: u32| {
        let (second, client) = (i / 500, i % 251);
        format!(
            "10.0.0.{client} - - [10/Oct/2000:13:{:02}:{:02} +0000] \"GET /p/{i} HTTP/1.1\" 200 5\n",
            second / 60,
            second % 60
        )
    };
    fs::write(&log, (0..30_000).map(line).collect::<String>()).unwrap();
    capture(&log, &trace);
    let bytes = fs::read(&trace).unwrap();
    let (whole, ends) = (cat(&trace), block_ends(&bytes));
    assert!(whole.len() == 30_000 && ends.len() >= 3, "{} in {} blocks", whole.len(), ends.len());
    // How many requests each whole prefix of blocks holds, by cutting exactly at its end.
    let read = |at: usize| {
        let cut = dir.path().join("cut");
        fs::write(&cut, &bytes[..at]).unwrap();
        let check = replay(&["trace", "check", &cut.display().to_string()]);
        assert_eq!(code(&check), 2, "cut at {at}: {}", text(&check));
        let says = text(&check);
        assert!(
            ["cut off", "not a trace", "nothing in this file", "is missing"].iter().any(|w| says.contains(w)),
            "cut at {at}: {says}"
        );
        let out = replay(&["trace", "cat", &cut.display().to_string()]);
        let lines: Vec<Value> =
            String::from_utf8_lossy(&out.stdout).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert!(whole.starts_with(&lines), "cut at {at}");
        lines.len()
    };
    let at_ends: Vec<usize> = ends.iter().map(|e| read(*e)).collect();
    assert!(at_ends.is_sorted_by(|a, b| a < b) && at_ends.last() == Some(&30_000), "{at_ends:?}");
    let seed = 20_261_123u64;
    println!("seed {seed}, {} blocks", ends.len());
    for i in 0..20u64 {
        let at = (replay::capture::mix64(seed ^ i) % bytes.len() as u64) as usize;
        let blocks = ends.iter().filter(|e| **e <= at).count();
        let want = if blocks == 0 { 0 } else { at_ends[blocks - 1] };
        assert_eq!(read(at), want, "cut at {at}, behind {blocks} blocks");
    }
}

#[test]
fn unreadable_inputs_are_named_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let cases = [
        (file("empty", b""), "empty"),
        (file("elf", b"\x7fELF\x02\x01\x01\x00\x00\x00"), "not a format"),
        (dir.path().join("absent"), "cannot open"),
    ];
    for (input, why) in cases {
        let trace = dir.path().join("t");
        let (exit, _, words) = capture(&input, &trace);
        assert_eq!(exit, 2, "{words}");
        assert!(words.contains(why) && words.contains(&input.display().to_string()), "{words}");
        assert!(!trace.exists());
    }
    let log = file(
        "bad.log",
        b"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] \"GET / HTTP/1.1\" 200 5\nnonsense here\n",
    );
    let (exit, json, words) = capture(&log, &dir.path().join("t"));
    assert_eq!(
        (exit, json["requests"].as_u64(), json["ledger"]["unparsed_lines"].as_u64()),
        (0, Some(1), Some(1))
    );
    assert!(words.contains("bad.log:2 (byte 64)") && !words.contains("nonsense"), "{words}");
}

/// Redaction makes some targets longer than a trace takes: that is one request, counted, and no reason to lose the others.
#[test]
fn one_request_that_is_too_large_costs_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let line =
        |target: &str| format!("1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] \"GET {target} HTTP/1.1\" 200 5\n");
    let log = dir.path().join("large.log");
    fs::write(&log, line("/a") + &line(&format!("/?{}", "ip=1&".repeat(12_800))) + &line("/b")).unwrap();
    let (exit, json, words) = capture(&log, &dir.path().join("t"));
    assert_eq!(
        (exit, json["requests"].as_u64(), json["ledger"]["too_large"].as_u64()),
        (0, Some(2), Some(1)),
        "{words}"
    );
}

/// The corpus, where there is one. A folder that is named but missing fails.
fn corpus() -> Option<PathBuf> {
    let Some(dir) = std::env::var_os("REPLAY_CORPUS") else {
        eprintln!("SKIPPED: REPLAY_CORPUS names no folder with real captures");
        return None;
    };
    let dir = PathBuf::from(dir);
    assert!(dir.join("MANIFEST.tsv").exists(), "REPLAY_CORPUS = {} holds no MANIFEST.tsv", dir.display());
    Some(dir)
}

/// Files where we differ from the oracle on purpose: how many requests fewer (or, below zero, more) we find, and why.
const DIFFERENT: [(&str, i64, &str); 16] = [
    ("derived-dup20us-methods.pcap", 18, METHODS),
    ("derived-midstream-methods.pcap", 15, METHODS),
    ("derived-portreuse1h-methods.pcap", 36, METHODS),
    ("derived-queueorder-methods.pcap", 18, METHODS),
    ("http_http-09-content-length-confusion.pcap", 1, "HTTP/0.9: no version, no head; it cannot be replayed"),
    ("pcaps__evilprogram.pcap", 1, SPACE),
    (
        "http-event-chunk_input.pcap",
        1,
        "chunk data that ends in a bare line feed: two readers see two bodies",
    ),
    ("http_connect-with-smtp.pcap", 1, SPACE),
    ("http_no-uri.pcap", 1, "a request line without a target"),
    ("http-uri-spaces_input.pcap", 1, SPACE),
    ("bug-5437-02_input.pcap", 2, SPACE),
    ("arkime__gre-erspan-vxlan.pcap", 1, SPACE),
    ("detect-pcre-04_input.pcap", 2, SPACE),
    (
        "firewall_tcp-session-decode-malformed-ipv4_input.pcap",
        -1,
        "REQ /x HTTP/1.1 on port 443 is a request: content decides, not port",
    ),
    (
        "unidirectional_tcp_stream_with_missing_packet.pcap",
        -1,
        "the second request begins behind the hole, and its head is whole",
    ),
    ("vxlan-overlapping-http-get.pcap", -1, "the third connection is outside both tunnels"),
];

const METHODS: &str =
    "request lines made to be wrong (GET/HTTP/1.1, HTTP/1.): counted as malformed or as no HTTP";
const SPACE: &str = "a blank in the target: counted as malformed";

/// Files where a request's time differs from the oracle's, within these microseconds, and why.
const OTHER_TIMES: [(&str, u64, &str); 2] = [
    (
        "http-protocol-nodup_input.pcap",
        2_000,
        "tshark has the first frame of a run of pipelined requests, we each one's own first byte",
    ),
    (
        "pcap2har__out-of-order.pcap",
        100,
        "tshark has the first frame seen, we the frame with the first byte, which came later",
    ),
];

/// A row of tshark's: microseconds, method, target.
type FrameRow = (u64, String, String);

fn frame_oracle(file: &Path, protocol: &str) -> Vec<FrameRow> {
    let text = fs::read_to_string(format!("{}.tshark.tsv", file.display())).unwrap_or_default();
    let row = |line: &str| {
        let f: Vec<&str> = line.split('\t').collect();
        let (seconds, fraction) = f[2].split_once('.').unwrap_or((f[2], "0"));
        let micros = format!("{fraction:0<6}")[..6].parse::<u64>().unwrap();
        (seconds.parse::<u64>().unwrap() * 1_000_000 + micros, f[10].to_owned(), f[12].to_owned())
    };
    text.lines().skip(1).filter(|l| l.split('\t').next() == Some(protocol)).map(row).collect()
}

/// How many rows of the oracle are requests of ours: the same first byte's time, method and target.
fn matched_rows(want: &[FrameRow], got: &[Value], slack_us: u64) -> usize {
    let mut ours: Vec<(u64, String, String, bool)> = got
        .iter()
        .map(|r| {
            let at: jiff::Timestamp = r["at"].as_str().unwrap().parse().unwrap();
            let word = |key: &str| r[key].as_str().unwrap().to_owned();
            (at.as_microsecond() as u64, word("method"), word("path"), r["redacted"] == true)
        })
        .collect();
    let mut matched = 0;
    for (at, method, target) in want {
        let same = |o: &(u64, String, String, bool)| {
            let path = o.3
                || target == &o.2
                || (target.contains("://") && target.ends_with(&o.2))
                || method == "CONNECT";
            o.0.abs_diff(*at) <= slack_us && &o.1 == method && path
        };
        if let Some(i) = ours.iter().position(same) {
            ours.swap_remove(i);
            matched += 1;
        }
    }
    matched
}

/// Every file of the corpus whose oracles agree: as many requests, none invented, each at the time of its first byte.
#[test]
fn the_corpus_of_real_captures_agrees() {
    let Some(dir) = corpus() else { return };
    let manifest = fs::read_to_string(dir.join("MANIFEST.tsv")).unwrap();
    let tmp = tempfile::tempdir().unwrap();
    let (mut files, mut requests, mut rows, mut matched, mut wrong) = (0, 0u64, 0, 0, Vec::new());
    for line in manifest.lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        let (file, category, oracle) = (fields[0], fields[5], fields[7]);
        let sure = oracle.contains("HIGH expect=") || oracle.contains("ADJUDICATED expect=");
        // HTTP/2 has a test of its own.
        if !sure || !category.starts_with("pcap/") || category == "pcap/h2c" {
            continue;
        }
        let want: i64 = oracle.split("expect=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        let fewer = DIFFERENT.iter().find(|(f, ..)| file.ends_with(f)).map_or(0, |d| d.1);
        let trace = tmp.path().join("t");
        let (exit, json, words) = capture(&dir.join(file), &trace);
        let got = json["requests"].as_i64().unwrap_or(-1);
        (files, requests) = (files + 1, requests + want as u64);
        if exit != 0 || got != want - fewer {
            wrong.push(format!("{file}: want {}, got {got} ({exit}) {words}", want - fewer));
            continue;
        }
        if oracle.contains("HIGH") && fewer == 0 {
            let oracle = frame_oracle(&dir.join(file), "h1");
            rows += oracle.len();
            let slack = OTHER_TIMES.iter().find(|(f, ..)| file.ends_with(f)).map_or(0, |t| t.1);
            matched += matched_rows(&oracle, &cat(&trace), slack);
        }
    }
    println!(
        "{files} real captures, {requests} requests; {matched} of {rows} rows matched by time, method and target"
    );
    assert!(files > 250 && rows > 900, "{files} {rows}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(matched as f64 >= rows as f64 * 0.995, "{matched} of {rows}");
}

/// HTTP/2 in the clear, stream by stream: by prior knowledge and by upgrade, with continuations and large heads.
#[test]
fn the_corpus_of_http2_agrees() {
    let Some(dir) = corpus() else { return };
    let tmp = tempfile::tempdir().unwrap();
    let (mut rows, mut matched) = (0, 0);
    for entry in fs::read_dir(dir.join("pcap/h2c")).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|e| e != "pcap") {
            continue;
        }
        let trace = tmp.path().join("t");
        let (exit, json, words) = capture(&file, &trace);
        assert_eq!(exit, 0, "{}: {words}", file.display());
        assert_eq!(json["ledger"]["http2_lost"], 0, "{}", file.display());
        let oracle: Vec<FrameRow> = [frame_oracle(&file, "h1"), frame_oracle(&file, "h2")].concat();
        let got = cat(&trace);
        // Of two of them tshark reads nothing, because of their ports.
        assert!(
            oracle.is_empty() || oracle.len() == got.len(),
            "{}: {} of {}",
            file.display(),
            got.len(),
            oracle.len()
        );
        rows += oracle.len();
        matched += matched_rows(&oracle, &got, 0);
        assert_eq!(json["ledger"]["connections_http2"], 1, "{}", file.display());
    }
    println!("{matched} of {rows} requests over HTTP/2 matched by time, method and target");
    assert!(rows >= 40 && matched == rows, "{matched} of {rows}");
}

/// Logs where we differ from the oracle on purpose: how many requests more we find, and why.
const MORE_LINES: [(&str, usize, &str); 1] = [(
    "npm.log",
    3,
    "the oracle's pattern does not know lines of Nginx Proxy Manager whose cache column says HIT, MISS or BYPASS",
)];

/// A row of an oracle: stamp, method, target, status.
type LogRow = (f64, String, String, Option<u64>);

fn log_oracle(log: &Path) -> Vec<LogRow> {
    let plain = PathBuf::from(format!("{}.oracle.tsv", log.display()));
    let text = fs::read_to_string(&plain).unwrap_or_else(|_| {
        let packed = fs::File::open(format!("{}.gz", plain.display())).unwrap();
        std::io::read_to_string(flate2::read::GzDecoder::new(packed)).unwrap()
    });
    let row = |line: &str| {
        let f: Vec<&str> = line.split('\t').collect();
        (f[1].parse().unwrap(), f[3].to_owned(), f[4].to_owned(), f[6].parse().ok().filter(|s| *s >= 100))
    };
    text.lines().skip(1).filter(|l| !l.is_empty()).map(row).collect()
}

/// Whether `target` may have become `parts` with something redacted between each.
fn is_redacted_form(target: &str, parts: &[&str]) -> bool {
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return false };
    let Some(mut rest) = target.strip_prefix(first).and_then(|t| t.strip_suffix(last)) else { return false };
    parts[1..parts.len().max(2) - 1].iter().all(|part| {
        let found = rest.find(part);
        rest = found.map_or(rest, |i| &rest[i + part.len()..]);
        found.is_some()
    })
}

/// Takes the rows of `want` that are requests of ours, and returns how many of ours are none of them. First by target, in
/// the same second, then within the duration of the logged stamp; what was redacted at last, by what is left of its target.
fn unmatched(want: &mut Vec<LogRow>, got: &[Value], any_time: bool) -> usize {
    type Key = (String, String, Option<u64>);
    // The oracle keeps escapes as the server wrote them, and absolute targets whole.
    let origin = |t: &str| {
        let whole = ["http://", "https://", "wss://", "ws://"].iter().find_map(|s| t.strip_prefix(s));
        let rest = whole.map_or(t, |r| r.find('/').map_or("/", |i| &r[i..]));
        String::from_utf8_lossy(&unescape(rest.as_bytes(), Escape::Backslash)).into_owned()
    };
    let mut rows: BTreeMap<Key, Vec<f64>> = BTreeMap::new();
    for (at, method, target, status) in want.drain(..) {
        rows.entry((method, origin(&target), status)).or_default().push(at);
    }
    let at = |r: &Value| {
        r["at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_nanosecond() as f64 / 1e9
    };
    let word = |r: &Value, key: &str| r[key].as_str().unwrap().to_owned();
    let mut left: Vec<&Value> = got.iter().collect();
    for exact in [true, false] {
        left.retain(|r| {
            let slack = r["duration_ms"].as_f64().unwrap_or(0.0) / 1e3 + 1.001;
            let near = |row: f64| {
                if exact { row.floor() as i64 == at(r).floor() as i64 } else { (row - at(r)).abs() <= slack }
            };
            let key = (word(r, "method"), word(r, "path"), r["status"].as_u64());
            let Some(times) = rows.get_mut(&key) else { return true };
            let found = times.iter().position(|t| any_time || near(*t));
            found.map(|i| times.swap_remove(i)).is_none()
        });
    }
    // Those of which most is left first: they fit the fewest rows.
    left.sort_by_key(|r| {
        (word(r, "path").matches("REDACTED-").count(), std::cmp::Reverse(word(r, "path").len()))
    });
    let mut rest: Vec<(Key, f64)> =
        rows.into_iter().flat_map(|(k, t)| t.into_iter().map(move |t| (k.clone(), t))).collect();
    for exact in [true, false] {
        left.retain(|r| {
            let path = word(r, "path");
            // Behind each mark stand twelve digits of a hash.
            let behind = |(i, part): (usize, &'_ str)| if i == 0 { part } else { &part[12..] }.to_owned();
            let parts: Vec<String> = path.split("REDACTED-").enumerate().map(behind).collect();
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            let slack = r["duration_ms"].as_f64().unwrap_or(0.0) / 1e3 + 1.001;
            let near = |row: f64| {
                if exact { row.floor() as i64 == at(r).floor() as i64 } else { (row - at(r)).abs() <= slack }
            };
            let fits = |((method, target, status), t): &(Key, f64)| {
                r["redacted"] == true
                    && *method == word(r, "method")
                    && is_redacted_form(target, &parts)
                    && *status == r["status"].as_u64()
                    && near(*t)
            };
            rest.iter().position(fits).map(|i| rest.swap_remove(i)).is_none()
        });
    }
    want.extend(rest.into_iter().map(|((m, t, s), at)| (at, m, t, s)));
    left.len()
}

/// Every format of the corpus, request by request: method, target and status, and an arrival that lies within the
/// duration and the resolution of the logged stamp.
#[test]
fn the_corpus_of_access_logs_agrees() {
    let Some(dir) = corpus() else { return };
    let tmp = tempfile::tempdir().unwrap();
    let (mut logs, mut rows, mut matched) = (0, 0, 0);
    let mut files: Vec<PathBuf> = Vec::new();
    for format in fs::read_dir(dir.join("logs")).unwrap() {
        files.extend(fs::read_dir(format.unwrap().path()).unwrap().map(|e| e.unwrap().path()));
    }
    files.sort();
    for path in files.iter().filter(|p| PathBuf::from(format!("{}.oracle.json", p.display())).exists()) {
        let mut want = log_oracle(path);
        let trace = tmp.path().join("t");
        let (exit, json, words) = capture(path, &trace);
        assert!(!words.contains("panicked"), "{}: {words}", path.display());
        logs += 1;
        if want.is_empty() {
            assert!(exit == 2 && json.is_null(), "{}: {words}", path.display());
            continue;
        }
        assert_eq!(exit, 0, "{}: {words}", path.display());
        let name = path.file_name().unwrap().to_string_lossy();
        let more = MORE_LINES.iter().find(|(n, ..)| *n == name).map_or(0, |m| m.1);
        rows += want.len();
        let (before, got) = (want.len(), cat(&trace));
        // The oracle has a load balancer's time of the answer, we the time at which the request was received.
        let extra = unmatched(&mut want, &got, name == "cs-alb.log");
        matched += before - want.len();
        assert!(
            extra <= more,
            "{}: {extra} requests that the oracle has not; not found: {:?}",
            path.display(),
            want.first()
        );
        assert!(want.is_empty(), "{}: not found {:?}", path.display(), &want[..want.len().min(5)]);
    }
    println!("{logs} logs, {matched} of {rows} requests matched by time, method, target and status");
    assert!(logs >= 40 && rows > 69_000, "{logs} {rows}");
}

/// Malformed files: no crash, no request out of thin air.
#[test]
fn the_corpus_of_broken_files_is_survived() {
    let Some(dir) = corpus() else { return };
    let tmp = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(dir.join("robust")).unwrap() {
        let path = entry.unwrap().path();
        let (exit, json, words) = capture(&path, &tmp.path().join("t"));
        assert!([0, 2].contains(&exit), "{}: {exit} {words}", path.display());
        assert!(json.is_null() || json["requests"] == 0, "{}: {json}", path.display());
        assert!(!words.contains("panicked"), "{}: {words}", path.display());
    }
}
