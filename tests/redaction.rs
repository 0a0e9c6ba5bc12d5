//! Secrets planted in every place of every format: none is in the decoded bytes of a trace, in its name or in anything that is
//! printed; equal values stay equal where the key is the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use etherparse::PacketBuilder;
use serde_json::{Value, json};
use support::*;

/// A word that is in every secret planted here.
const S: &str = "plantedsecret";

/// Targets with a secret each.
fn targets() -> Vec<String> {
    vec![
        format!("/a?token={S}"),
        format!("/a?x=1&PassWord={S}#f"),
        format!("/a?user%5Bemail%5D={S}"),
        format!("/a;jsessionid={S}?q=1"),
        format!("/u/{S}%40shop.example/orders"),
        format!("/a?q={S}@shop.example"),
        format!("/a?next=%2Fr%3Ftoken%3D{S}"),
        format!("/t/eyJ{S}.{S}.{S}"),
        format!("/r/0123456789abcdef0123{S}"),
        format!("/a?filter=order{S}0123456789abcdef0123456789"),
    ]
}

/// Header lines with a secret each, but for the first two.
fn lines() -> Vec<(String, String)> {
    let line = |n: &str, v: String| (n.to_owned(), v);
    vec![
        line("Host", "shop.example".to_owned()),
        line("User-Agent", format!("bot (+{S}@shop.example)")),
        line("Authorization", format!("Bearer {S}")),
        line("Cookie", format!("sid={S}")),
        line("X-Api-Key", S.to_owned()),
        line("X-Forwarded-For", format!("{S}, 192.0.2.77")),
        line("Referer", format!("https://shop.example/?t={S}")),
        line("X-Invented-Yesterday", S.to_owned()),
        line("Proxy-Authorization", format!("Basic {S}")),
        line("Idempotency-Key", S.to_owned()),
    ]
}

fn head(target: &str) -> String {
    let lines: String = lines().iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
    let body = format!("secret={S}");
    format!("POST {target} HTTP/1.1\r\n{lines}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn answer() -> String {
    format!("HTTP/1.1 200 OK\r\nSet-Cookie: sid={S}\r\nContent-Length: {}\r\n\r\n{S}", S.len())
}

fn combined(dir: &Path) -> PathBuf {
    let line = |t: &String| {
        format!(
            "192.0.2.77 - {S} [26/Nov/2026:03:00:00 +0000] \"GET {t} HTTP/1.1\" 200 5 \"http://h/?t={S}\" \"x ({S}@shop.example)\"\n"
        )
    };
    let bad = format!(
        "192.0.2.77 - - [26/Nov/2026:03:00:00 +0000] \"GET /{S} {S} {S}\" 400 5 \"-\" \"-\"\n{S} is no line\n"
    );
    let file = dir.join("access.log");
    fs::write(&file, targets().iter().map(line).collect::<String>() + &bad).unwrap();
    file
}

fn caddy(dir: &Path) -> PathBuf {
    let headers: serde_json::Map<String, Value> = lines().into_iter().map(|(n, v)| (n, json!([v]))).collect();
    let line = |t: &String| {
        json!({
            "level": "info", "ts": 1_795_662_000.5, "logger": "http.log.access", "msg": "handled request", "user_id": S,
            "request": { "remote_ip": "192.0.2.77", "remote_port": "4711", "client_ip": "192.0.2.77", "proto": "HTTP/1.1",
                "method": "GET", "host": "shop.example", "uri": t, "headers": headers },
            "bytes_read": 0, "duration": 0.01, "size": 5, "status": 200, "resp_headers": { "Set-Cookie": [S] }
        })
        .to_string()
            + "\n"
    };
    let file = dir.join("caddy.log");
    fs::write(&file, targets().iter().map(line).collect::<String>()).unwrap();
    file
}

fn har(dir: &Path) -> PathBuf {
    let headers: Vec<Value> = lines().into_iter().map(|(n, v)| json!({ "name": n, "value": v })).collect();
    let entry = |t: &String| {
        json!({
            "startedDateTime": "2026-11-26T03:00:00.000Z", "time": 5, "serverIPAddress": "192.0.2.77", "connection": "4711",
            "request": { "method": "POST", "url": format!("http://{S}:{S}@shop.example{t}"), "httpVersion": "HTTP/1.1",
                "headers": headers, "cookies": [{ "name": "sid", "value": S }], "queryString": [{ "name": "t", "value": S }],
                "headersSize": 100, "bodySize": 3, "postData": { "mimeType": "text/plain", "text": S } },
            "response": { "status": 200, "statusText": "OK", "httpVersion": "HTTP/1.1", "headers": [{ "name": "Set-Cookie", "value": S }],
                "cookies": [], "content": { "size": 3, "mimeType": "text/plain", "text": S }, "redirectURL": "", "headersSize": 1, "bodySize": 3 },
            "cache": {}, "timings": { "send": 1, "wait": 3, "receive": 1 }
        })
    };
    let entries: Vec<Value> = targets().iter().map(entry).collect();
    let file = dir.join("browser.har");
    let log = json!({ "log": { "version": "1.2", "creator": { "name": "x", "version": "1" }, "entries": entries } });
    fs::write(&file, log.to_string()).unwrap();
    file
}

fn gor(dir: &Path) -> PathBuf {
    let mark = "\n\u{1f435}\u{1f648}\u{1f649}\n";
    let record = |(i, t): (usize, &String)| {
        let at = 1_795_662_000_000_000_000u64 + i as u64 * 1_000_000;
        format!("1 {i:024x} {at} 0\n{}{mark}2 {i:024x} {at} 1000\n{}{mark}", head(t), answer())
    };
    let file = dir.join("recorded.gor");
    fs::write(&file, targets().iter().enumerate().map(record).collect::<String>()).unwrap();
    file
}

/// A classic capture of one connection.
fn pcap(dir: &Path) -> PathBuf {
    let mut bytes = [0xa1b2_c3d4u32.to_le_bytes(), 0x0004_0002u32.to_le_bytes()].concat();
    bytes.extend([0u32, 0, 65_535, 101].iter().flat_map(|n| n.to_le_bytes()));
    let (mut at, mut seq, mut ack) = (0u32, 1_000u32, 9_000u32);
    let mut frame = |client: bool, seq: u32, ack: u32, syn: bool, payload: &str| {
        let (a, b) = ([192, 0, 2, 77], [192, 0, 2, 1]);
        let (from, to, ports) = if client { (a, b, (4711, 80)) } else { (b, a, (80, 4711)) };
        let tcp = PacketBuilder::ipv4(from, to, 64).tcp(ports.0, ports.1, seq, 500);
        let tcp = if syn { tcp.syn() } else { tcp.ack(ack) };
        let mut packet = Vec::new();
        tcp.write(&mut packet, payload.as_bytes()).unwrap();
        at += 1;
        let n = packet.len() as u32;
        bytes.extend([1_795_662_000, at, n, n].iter().flat_map(|n: &u32| n.to_le_bytes()));
        bytes.extend(packet);
    };
    frame(true, seq - 1, 0, true, "");
    for target in targets() {
        let (asked, told) = (head(&target), answer());
        frame(true, seq, ack, false, &asked);
        seq += asked.len() as u32;
        frame(false, ack, seq, false, &told);
        ack += told.len() as u32;
    }
    let file = dir.join("wire.pcap");
    fs::write(&file, bytes).unwrap();
    file
}

/// All bytes of a trace, its compressed sections unpacked (docs/TRACE_FORMAT.md, section 3).
fn decoded(trace: &Path) -> Vec<u8> {
    let bytes = fs::read(trace).unwrap();
    let (mut at, mut out) = (12, bytes[..12].to_vec());
    while at + 16 <= bytes.len() {
        let stored = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
        let section = &bytes[at + 16..(at + 16 + stored).min(bytes.len())];
        out.extend(zstd::decode_all(section).unwrap_or_else(|_| section.to_vec()));
        at += 16 + stored;
    }
    out
}

fn holds(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|w| w.eq_ignore_ascii_case(word.as_bytes()))
}

#[test]
fn no_planted_secret_leaves_any_format() {
    let dir = tempfile::tempdir().unwrap();
    for input in [combined(dir.path()), caddy(dir.path()), har(dir.path()), gor(dir.path()), pcap(dir.path())]
    {
        for more in [&[][..], &["--shape-only"]] {
            let name = input.display().to_string();
            let trace = dir.path().join("t.trace");
            let mut args = vec!["capture", &name, "-o", trace.to_str().unwrap()];
            args.extend(more);
            let out = replay(&args);
            assert_eq!(code(&out), 0, "{name}: {}", text(&out));
            let shown = |args: &[&str]| {
                let out = replay(args);
                assert_eq!(code(&out), 0, "{name}: {}", text(&out));
                [out.stdout, out.stderr].concat()
            };
            let path = trace.to_str().unwrap();
            let cat = shown(&["trace", "cat", path]);
            let requests = cat.iter().filter(|b| **b == b'\n').count();
            assert!(requests >= targets().len(), "{name}: {requests} requests");
            // What is looked for can be found: the template is there.
            assert!(holds(&decoded(&trace), "REDACTED-") && holds(&cat, "redacted_len"), "{name}");
            for (place, bytes) in [
                ("the trace", decoded(&trace)),
                ("the words of capture", [out.stdout.clone(), out.stderr.clone()].concat()),
                ("trace cat", cat.clone()),
                ("trace info", shown(&["trace", "info", path])),
                ("trace info --json", shown(&["trace", "info", "--json", path])),
            ] {
                for secret in [S, "192.0.2.77", "4711"] {
                    assert!(!holds(&bytes, secret), "{secret} in {place} of {name} {more:?}");
                }
            }
        }
    }
}

#[test]
fn rules_and_keys_are_files_and_are_told_in_the_trace() {
    let dir = tempfile::tempdir().unwrap();
    let path = |n: &str| dir.path().join(n).to_str().unwrap().to_owned();
    let log = combined(dir.path());
    let log = log.to_str().unwrap();
    fs::write(path("key"), "0123456789abcdef0123456789abcdef\n").unwrap();
    fs::write(path("rules.toml"), "[query]\nset = { token = 'demo' }\n").unwrap();
    let capture = |trace: &str, more: &[&str]| {
        let mut args = vec!["capture", log, "-o", trace];
        args.extend(more);
        let out = replay(&args);
        (code(&out), text(&out))
    };
    let targets = |trace: &str| {
        let out = replay(&["trace", "cat", trace]);
        let text = String::from_utf8(out.stdout).unwrap();
        let one = |l: &str| serde_json::from_str::<Value>(l).unwrap()["path"].as_str().unwrap().to_owned();
        let mut all: Vec<String> = text.lines().map(one).collect();
        all.sort();
        all
    };
    let (a, b, c) = (path("a.trace"), path("b.trace"), path("c.trace"));
    let (key, rules) = (path("key"), path("rules.toml"));
    for (trace, more) in
        [(&a, &["--redact-key", &key][..]), (&b, &["--redact-key", &key, "--redact", &rules]), (&c, &[])]
    {
        let (exit, words) = capture(trace, more);
        assert_eq!(exit, 0, "{words}");
    }
    // The same key gives the same hashes; the rule gives a value, which can be sent.
    let differ = targets(&b).iter().filter(|t| !targets(&a).contains(t)).count();
    assert!(
        differ == 1 && targets(&b).contains(&"/a?token=demo".to_owned()),
        "{:?} {:?}",
        targets(&a),
        targets(&b)
    );
    assert!(
        targets(&a).iter().all(|t| !targets(&c).contains(t)),
        "a key that nobody knows gives other hashes"
    );
    let info = |trace: &str| {
        let json: Value =
            serde_json::from_slice(&replay(&["trace", "info", "--json", trace]).stdout).unwrap();
        (json["redaction"].as_str().unwrap().to_owned(), json["coverage"].clone())
    };
    let ((plain, _), (ruled, coverage)) = (info(&a), info(&b));
    let fingerprint = plain.split("key ").nth(1).unwrap();
    assert!(ruled.contains(fingerprint) && ruled.ends_with("rules of a file: 1"), "{plain} / {ruled}");
    assert!(coverage["needs_credentials"].as_u64().unwrap() > 0, "the log names a user");
    let (exit, words) = capture(&a, &["--redact-key", "/dev/null"]);
    assert!(exit == 2 && words.contains("at least 16 random ones"), "{words}");
    fs::write(path("rules.toml"), "[headers]\nkeep = ['Cookie']\n").unwrap();
    let (exit, words) = capture(&a, &["--redact", &rules]);
    assert!(exit == 2 && words.contains("rules.toml") && words.contains("Cookie"), "{words}");
}
