//! One request as a JSON line: `replay trace cat`.

use serde_json::{Value, json};

use super::event::{RequestFacts, TraceEvent};
use super::meta::TraceMeta;
use super::shape::{Header, HeaderValue};
use crate::units::WallTime;

/// Bytes as text. Bytes that are not UTF-8 are shown as Latin-1, so that each stays visible.
fn text(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| bytes.iter().map(|b| char::from(*b)).collect(), str::to_owned)
}

fn header(h: &Header) -> Value {
    match &h.value {
        HeaderValue::Kept(v) => json!([text(&h.name), text(v)]),
        HeaderValue::Redacted { len, hash: None } => json!([text(&h.name), { "redacted_len": len }]),
        HeaderValue::Redacted { len, hash: Some(hash) } => {
            json!([text(&h.name), { "redacted_len": len, "hash": format!("{hash:08x}") }])
        }
    }
}

/// The line of one request. `first_ns` is the trace time of the first request.
#[must_use]
pub fn line(meta: &TraceMeta, event: &TraceEvent, request: &RequestFacts, first_ns: u64) -> Value {
    let shape = &request.shape;
    let micros = (event.at.0 - first_ns.min(event.at.0)) / 1_000;
    json!({
        "t": micros as f64 / 1e6,
        "at": WallTime(meta.started_at.0.saturating_add(event.at.0)).rfc3339(),
        "session": event.session.ordinal,
        "session_key": format!("{:016x}", event.session.key),
        "connection": event.connection,
        "method": text(&shape.method),
        "scheme": shape.scheme.text(),
        "authority": shape.authority.as_deref().map(text),
        "path": text(&shape.target),
        "version": shape.version.text(),
        "headers": shape.headers.iter().map(header).collect::<Vec<_>>(),
        "credentials": shape.credentials.any(),
        "redacted": shape.target_redacted,
        "body_len": request.body_len.value,
        "status": request.status.value,
        "response_len": request.response_len.value,
        "duration_ms": request.duration_ns.value.map(|ns| (ns / 1_000) as f64 / 1e3),
        "cache": request.cache.value,
    })
}
