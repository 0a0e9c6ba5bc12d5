//! The bytes of a request's head: as recorded (order, case, duplicate lines), but for what one hop owns, for what would
//! be forged, and for the marks of our traffic.
//!
//! Made ahead of time, so that sending copies bytes and fills in one number. It refuses to make a head out of anything
//! that could be read as two.

use super::draw::{Salt, hash64};
use crate::trace::shape::{HeaderValue, RequestShape};
use crate::wire::body::Asked;
use crate::wire::head::{Version, is_token};

/// Lines that belong to one hop, that we set ourselves, or that must never be forged.
const LEFT_OUT: [&str; 17] = [
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
    "http2-settings",
    "x-forwarded-for",
    "forwarded",
    "x-real-ip",
    "traceparent",
    "tracestate",
    "b3",
    "x-request-id",
    "x-replay-run",
    "x-replay-stop",
];

/// How replayed traffic is marked.
#[derive(Debug, Clone)]
pub struct Marking {
    /// Host header.
    pub authority: String,
    /// Suffix of the user agent, with run, owner and run-book.
    pub agent_suffix: String,
    /// Run id, sent as `X-Replay-Run`.
    pub run_id: String,
    /// Seed of trace ids.
    pub trace_seed: u64,
}

/// A head, ready but for the number of its trace id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    bytes: Box<[u8]>,
    /// Where the second half of the trace id begins.
    trace_at: usize,
    /// What its answer answers.
    pub asked: Asked,
    /// It asks for the connection to end with its answer (RFC 9112, section 9.6): nothing may follow on it.
    pub closes: bool,
}

/// Digits of half a trace id, and of a span id.
const HEX_HALF: usize = 16;

/// Whether `target` can stand in a request line: no space, no control byte (RFC 9112, section 3.2).
#[must_use]
pub fn is_sendable_target(target: &[u8]) -> bool {
    !target.is_empty() && target.iter().all(|b| *b > b' ' && *b != 0x7f)
}

/// Whether all of a shape can be written as one head.
#[must_use]
pub fn is_sendable(shape: &RequestShape) -> bool {
    let name = |n: &[u8]| !n.is_empty() && n.iter().all(|b| is_token(*b));
    let value = |v: &[u8]| v.iter().all(|b| (*b >= b' ' && *b != 0x7f) || *b == b'\t');
    let line = |h: &crate::trace::shape::Header| match &h.value {
        HeaderValue::Kept(v) => name(&h.name) && value(v),
        HeaderValue::Redacted { .. } => true,
    };
    name(&shape.method) && is_sendable_target(&shape.target) && shape.headers.iter().all(line)
}

impl Prepared {
    /// Makes the head; `None` for a shape that is not one request ([`is_sendable`]).
    #[must_use]
    pub fn of(shape: &RequestShape, marking: &Marking) -> Option<Self> {
        if !is_sendable(shape) {
            return None;
        }
        let mut out = Vec::with_capacity(512);
        let version = shape.version.text();
        for part in [&shape.method[..], b" ", &shape.target, b" HTTP/", version.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
        let line = |out: &mut Vec<u8>, name: &[u8], value: &[&[u8]]| {
            out.extend_from_slice(name);
            out.extend_from_slice(b": ");
            value.iter().for_each(|v| out.extend_from_slice(v));
            out.extend_from_slice(b"\r\n");
        };
        let (mut host, mut agent, mut lasting) = (false, false, shape.version != Version::Http10);
        let suffix = marking.agent_suffix.as_bytes();
        // HTTP/1.1 needs a Host, and it comes first (RFC 9110, section 7.2) unless it stood elsewhere.
        if !shape.headers.iter().any(|h| h.name.eq_ignore_ascii_case(b"host")) {
            line(&mut out, b"Host", &[marking.authority.as_bytes()]);
            host = true;
        }
        for header in &shape.headers {
            let is = |n: &str| header.name.eq_ignore_ascii_case(n.as_bytes());
            match &header.value {
                _ if is("host") => {
                    if !host {
                        line(&mut out, &header.name, &[marking.authority.as_bytes()]);
                    }
                    host = true;
                }
                HeaderValue::Kept(value) if is("user-agent") && !agent => {
                    line(&mut out, &header.name, &[value, b" ", suffix]);
                    agent = true;
                }
                HeaderValue::Kept(value) if is("connection") => {
                    if value.eq_ignore_ascii_case(b"close") || value.eq_ignore_ascii_case(b"keep-alive") {
                        line(&mut out, &header.name, &[value]);
                        lasting = value.eq_ignore_ascii_case(b"keep-alive");
                    }
                }
                HeaderValue::Kept(value) if is("content-length") => {
                    // Only requests without a body are sent.
                    if value == b"0" {
                        line(&mut out, &header.name, &[value]);
                    }
                }
                HeaderValue::Kept(value) if !LEFT_OUT.iter().any(|l| is(l)) && !is("user-agent") => {
                    line(&mut out, &header.name, &[value]);
                }
                HeaderValue::Kept(_) | HeaderValue::Redacted { .. } => {}
            }
        }
        if !agent {
            line(&mut out, b"User-Agent", &[b"- ", suffix]);
        }
        line(&mut out, b"X-Replay-Run", &[marking.run_id.as_bytes()]);
        // A W3C trace context that asks not to be sampled (flags 00).
        out.extend_from_slice(b"traceparent: 00-");
        push_hex(&mut out, hash64(marking.trace_seed, Salt::Trace));
        let trace_at = out.len();
        out.extend_from_slice(b"0000000000000000-0000000000000000-00\r\n\r\n");
        let asked = Asked::by(&shape.method);
        Some(Self { bytes: out.into_boxed_slice(), trace_at, asked, closes: !lasting })
    }

    /// Writes the head of request `number` into `out`, in place of what was there.
    pub fn write(&self, marking: &Marking, number: u64, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.bytes);
        let trace = hash64(marking.trace_seed ^ number, Salt::Trace);
        // A span id of zero is invalid.
        let span = hash64(trace, Salt::Trace) | 1;
        fill_hex(out, self.trace_at, trace);
        fill_hex(out, self.trace_at + HEX_HALF + 1, span);
    }
}

fn hex(value: u64) -> [u8; HEX_HALF] {
    let mut digits = [0; HEX_HALF];
    for (i, digit) in digits.iter_mut().enumerate() {
        let nibble = (value >> (60 - 4 * i)) & 0xf;
        *digit = b"0123456789abcdef"[nibble as usize];
    }
    digits
}

fn push_hex(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&hex(value));
}

fn fill_hex(out: &mut [u8], at: usize, value: u64) {
    if let Some(place) = out.get_mut(at..at + HEX_HALF) {
        place.copy_from_slice(&hex(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::shape::{Credentials, Header, Scheme};

    fn kept(name: &str, value: &str) -> Header {
        Header { name: name.into(), value: HeaderValue::Kept(value.into()) }
    }

    fn shape(headers: Vec<Header>) -> RequestShape {
        RequestShape {
            method: b"GET".to_vec(),
            scheme: Scheme::Http,
            authority: Some(b"recorded.example".to_vec()),
            target: b"/a?b=1|2".to_vec(),
            version: Version::Http11,
            headers,
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
        }
    }

    fn written(shape: &RequestShape, number: u64) -> String {
        let mut out = b"what was there".to_vec();
        Prepared::of(shape, &marking()).unwrap().write(&marking(), number, &mut out);
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
            Header { name: b"Cookie".to_vec(), value: HeaderValue::Redacted { len: 9 } },
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
            assert_eq!(Prepared::of(&s, &marking()).unwrap().closes, closes, "{s:?}");
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
            Prepared::of(&s, &marking()).is_some()
        };
        assert!(with(&|_| ()));
        assert!(!with(&|s| s.target = b"/a HTTP/1.1\r\nX: y".to_vec()));
        assert!(!with(&|s| s.target = b"/a\tb".to_vec()));
        assert!(!with(&|s| s.target.clear()));
        assert!(!with(&|s| s.method = b"GE T".to_vec()));
        assert!(!with(&|s| s.headers = vec![kept("A: b\r\nC", "d")]));
        assert!(!with(&|s| s.headers = vec![kept("A", "b\r\nC: d")]));
        assert!(!with(&|s| s.headers = vec![kept("", "b")]));
        assert!(
            with(&|s| s.target = "/ü?x=\"<>".as_bytes().to_vec()),
            "bytes that URLs should not have, as recorded"
        );
    }
}
