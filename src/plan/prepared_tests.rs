//! Requests as they are written: as recorded but for what rules, marks and hops change.

use super::*;
use crate::trace::shape::{Credentials, Header, Scheme};
use crate::wire::head::Version;

fn kept(name: &str, value: &str) -> Header {
    Header { name: name.into(), value: HeaderValue::Kept(value.into()) }
}

fn shape(headers: Vec<Header>) -> RequestShape {
    RequestShape {
        method: b"GET"[..].into(),
        scheme: Scheme::Http,
        authority: Some(b"recorded.example"[..].into()),
        target: b"/a?b=1|2"[..].into(),
        version: Version::Http11,
        headers: headers.into(),
        credentials: Credentials::default(),
        target_redacted: false,
    }
}

fn marking() -> Marking {
    Marking {
        authority: "target.example".into(),
        agent_suffix: "replay/0 (run 7)".into(),
        run_id: "7".into(),
        trace_seed: 1,
        ..Marking::default()
    }
}

fn planned(shape: &RequestShape) -> PlannedRequest {
    PlannedRequest {
        shape: std::sync::Arc::new(shape.clone()),
        body_len: None,
        expected: None,
        route: 0,
        cap: None,
        prepared: std::sync::OnceLock::new(),
    }
}

fn prepared(shape: &RequestShape) -> Option<Prepared> {
    Prepared::of(&planned(shape), &marking())
}

fn written(shape: &RequestShape, number: u64) -> String {
    let mut out = b"what was there".to_vec();
    let session = SessionState::default();
    prepared(shape).unwrap().write(&marking(), number, &session, RunTime::START, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn order_case_and_duplicates_are_those_of_the_recording() {
    let recorded = vec![
        kept("ACCEPT", "*/*"),
        kept("hOST", "recorded.example"),
        kept("x-b", "1"),
        kept("User-Agent", "Mozilla"),
        kept("X-B", "2"),
        kept("X-Forwarded-For", "203.0.113.9"),
        kept("Connection", "keep-alive"),
        kept("Content-Length", "0"),
        Header { name: b"Cookie".to_vec(), value: HeaderValue::Redacted { len: 9, hash: None } },
    ];
    let text = written(&shape(recorded), 3);
    let (head, trace) = text.split_once("traceparent: ").unwrap();
    assert_eq!(
        head,
        "GET /a?b=1|2 HTTP/1.1\r\nACCEPT: */*\r\nhOST: target.example\r\nx-b: 1\r\n\
         User-Agent: Mozilla replay/0 (run 7)\r\nX-B: 2\r\nConnection: keep-alive\r\nContent-Length: 0\r\nX-Replay-Run: 7\r\n"
    );
    let parts: Vec<&str> = trace.trim_end().split('-').collect();
    assert_eq!(parts.iter().map(|p| p.len()).collect::<Vec<_>>(), [2, 32, 16, 2]);
    assert!(parts[0] == "00" && parts[3] == "00" && text.ends_with("\r\n\r\n"));
    let other = written(&shape(Vec::new()), 4);
    let id = |t: &str| t.split_once("traceparent: 00-").unwrap().1[..32].to_owned();
    assert_ne!(id(&text)[16..], id(&other)[16..], "each request has its own");
    assert_eq!(id(&text)[..16], id(&other)[..16], "and a run has one half in common");
}

#[test]
fn what_a_log_does_not_know_is_added() {
    let text = written(&shape(Vec::new()), 1);
    let start = "GET /a?b=1|2 HTTP/1.1\r\nHost: target.example\r\nUser-Agent: - replay/0 (run 7)\r\nX-Replay-Run: 7\r\n";
    assert!(text.starts_with(start), "{text}");
    let two = written(&shape(vec![kept("Host", "a"), kept("Host", "b")]), 1);
    assert_eq!(two.matches("target.example").count(), 1, "one Host, whatever was recorded: {two}");
}

#[test]
fn nothing_follows_a_request_that_asks_for_the_end() {
    for (version, lines, closes) in [
        (Version::Http11, vec![], false),
        (Version::Http11, vec![kept("Connection", "Close")], true),
        (Version::Http11, vec![kept("Connection", "keep-alive")], false),
        (Version::Http10, vec![], true),
        (Version::Http10, vec![kept("connection", "Keep-Alive")], false),
    ] {
        let s = RequestShape { version, ..shape(lines) };
        assert_eq!(prepared(&s).unwrap().closes, closes, "{s:?}");
    }
}

#[test]
fn what_one_hop_owns_is_not_passed_on() {
    for (name, value) in [
        ("Transfer-Encoding", "chunked"),
        ("Connection", "Upgrade, HTTP2-Settings"),
        ("Upgrade", "h2c"),
        ("TE", "trailers"),
        ("Expect", "100-continue"),
        ("Content-Length", "5"),
        ("tracestate", "a=b"),
        ("X-Replay-Run", "other"),
    ] {
        let text = written(&shape(vec![kept(name, value)]), 1);
        assert!(!text.contains(&format!("{name}: {value}")), "{text}");
    }
}

#[test]
fn nothing_that_could_be_read_as_two_is_made() {
    let with = |f: &dyn Fn(&mut RequestShape)| {
        let mut s = shape(Vec::new());
        f(&mut s);
        prepared(&s).is_some()
    };
    assert!(with(&|_| ()));
    assert!(!with(&|s| s.target = b"/a HTTP/1.1\r\nX: y"[..].into()));
    assert!(!with(&|s| s.target = b"/a\tb"[..].into()));
    assert!(!with(&|s| s.target = [].into()));
    assert!(!with(&|s| s.method = b"GE T"[..].into()));
    assert!(!with(&|s| s.headers = [kept("A: b\r\nC", "d")].into()));
    assert!(!with(&|s| s.headers = [kept("A", "b\r\nC: d")].into()));
    assert!(!with(&|s| s.headers = [kept("", "b")].into()));
    assert!(
        with(&|s| s.target = "/ü?x=\"<>".as_bytes().into()),
        "bytes that URLs should not have, as recorded"
    );
}
