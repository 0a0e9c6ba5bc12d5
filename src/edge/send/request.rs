//! From a shape to a request: what is kept of the recording, what is left out, how the traffic is marked.

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::header::{HeaderName, HeaderValue as HyperValue};
use hyper::{Method, Request, Uri, Version as HyperVersion};

use crate::plan::PlannedRequest;
use crate::trace::shape::HeaderValue;
use crate::wire::head::Version;

/// Headers of one hop, or that we set ourselves, or that must never be forged.
const LEFT_OUT: [&str; 20] = [
    "host",
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "expect",
    "http2-settings",
    "user-agent",
    "x-forwarded-for",
    "forwarded",
    "x-real-ip",
    "traceparent",
    "tracestate",
    "b3",
    "x-request-id",
    "x-replay-run",
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

/// Builds a request. `number` makes its trace id unique.
///
/// # Errors
/// When the recorded target or a header cannot be sent; planning has already dropped such requests.
pub fn build(
    planned: &PlannedRequest,
    marking: &Marking,
    number: u64,
) -> anyhow::Result<Request<Empty<Bytes>>> {
    let shape = &planned.shape;
    let mut request = Request::new(Empty::new());
    *request.method_mut() = Method::from_bytes(&shape.method)?;
    *request.uri_mut() = Uri::try_from(shape.target.as_slice())?;
    *request.version_mut() = match shape.version {
        Version::Http10 => HyperVersion::HTTP_10,
        Version::Http11 => HyperVersion::HTTP_11,
    };
    let headers = request.headers_mut();
    headers.insert("host", HyperValue::from_str(&marking.authority)?);
    let recorded = shape.header("user-agent").unwrap_or(b"-");
    let agent = [recorded, b" ", marking.agent_suffix.as_bytes()].concat();
    headers.insert("user-agent", HyperValue::from_bytes(&agent)?);
    for header in &shape.headers {
        let HeaderValue::Kept(value) = &header.value else { continue };
        let left_out = LEFT_OUT.iter().any(|l| header.name.eq_ignore_ascii_case(l.as_bytes()));
        if !left_out {
            headers.append(HeaderName::from_bytes(&header.name)?, HyperValue::from_bytes(value)?);
        }
    }
    headers.insert("x-replay-run", HyperValue::from_str(&marking.run_id)?);
    headers.insert("traceparent", HyperValue::from_str(&traceparent(marking.trace_seed, number))?);
    Ok(request)
}

/// A W3C trace context that asks not to be sampled (`00` flags).
fn traceparent(seed: u64, number: u64) -> String {
    let (a, b) = (crate::capture::mix64(seed), crate::capture::mix64(seed ^ number));
    let span = crate::capture::mix64(b) | 1;
    format!("00-{a:016x}{b:016x}-{span:016x}-00")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::trace::shape::{Credentials, Header, RequestShape, Scheme};

    #[test]
    fn what_is_sent_and_what_is_not() {
        let kept = |n: &str, v: &str| Header { name: n.into(), value: HeaderValue::Kept(v.into()) };
        let shape = RequestShape {
            method: b"GET".to_vec(),
            scheme: Scheme::Http,
            authority: Some(b"recorded.example".to_vec()),
            target: b"/a?b=1".to_vec(),
            version: Version::Http11,
            headers: vec![
                kept("Host", "recorded.example"),
                kept("ACCEPT", "*/*"),
                kept("User-Agent", "Mozilla"),
                kept("X-Forwarded-For", "203.0.113.9"),
                kept("Connection", "keep-alive"),
                Header { name: b"Cookie".to_vec(), value: HeaderValue::Redacted { len: 9 } },
            ],
            credentials: Credentials::default(),
            target_redacted: false,
        };
        let planned = PlannedRequest { shape: Arc::new(shape), expected: None, route: 0, cap: None };
        let marking = Marking {
            authority: "target.example".into(),
            agent_suffix: "replay/0 (run 7)".into(),
            run_id: "7".into(),
            trace_seed: 1,
        };
        let request = build(&planned, &marking, 3).unwrap();
        let text = format!("{:?}", request.headers());
        assert_eq!(request.headers()["host"], "target.example");
        assert_eq!(request.headers()["user-agent"], "Mozilla replay/0 (run 7)");
        assert_eq!(request.headers()["accept"], "*/*");
        assert!(request.headers()["traceparent"].to_str().unwrap().ends_with("-00"));
        for absent in ["recorded.example", "203.0.113.9", "keep-alive", "cookie"] {
            assert!(!text.contains(absent), "{absent} in {text}");
        }
    }
}
