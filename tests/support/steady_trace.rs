//! A trace for tests and benches: requests for `/` evenly spaced, dealt to the sessions in turn, each session one
//! connection. Shared by `examples/steady_trace.rs` and `tests/stall.rs`.
#![allow(unreachable_pub, missing_docs)]

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;

use replay::trace::event::{
    ConnectionEvent, EventKind, Fact, Provenance, RequestFacts, SessionRef, TraceEvent,
};
use replay::trace::ledger::Ledger;
use replay::trace::meta::TraceMeta;
use replay::trace::shape::{Credentials, RequestShape, Scheme};
use replay::trace::writer::TraceWriter;
use replay::units::{TraceTime, WallTime};
use replay::wire::head::Version;

/// Writes `rate` requests a second for `seconds` of `sessions`.
pub fn write(file: &Path, rate: u64, seconds: u64, sessions: u64) {
    let meta = TraceMeta {
        started_at: WallTime(1_700_000_000_000_000_000),
        sources: Vec::new(),
        redaction: String::new(),
        resolution_ns: 1,
        spread_seed: None,
        made_by: "steady_trace".to_owned(),
    };
    let mut writer = TraceWriter::new(BufWriter::new(File::create(file).unwrap()), &meta).unwrap();
    let shape = Arc::new(RequestShape {
        method: b"GET"[..].into(),
        scheme: Scheme::Http,
        authority: None,
        target: b"/"[..].into(),
        version: Version::Http11,
        headers: [].into(),
        credentials: Credentials::default(),
        target_redacted: false,
    });
    let mut push = |at: u64, session: u64, kind: EventKind| {
        let session = SessionRef { key: session.wrapping_mul(0x9e37_79b9_7f4a_7c15), ordinal: session };
        writer.push(&TraceEvent { at: TraceTime(at), session, connection: 0, kind }).unwrap();
    };
    for session in 0..sessions {
        push(0, session, EventKind::Open(ConnectionEvent { arrival: Provenance::Recorded }));
    }
    // Handshakes are over before the first request.
    let start = 500_000_000;
    for n in 0..rate * seconds {
        let facts = RequestFacts {
            shape: Arc::clone(&shape),
            arrival: Provenance::Recorded,
            connection: Provenance::Recorded,
            body_len: Fact::recorded(0),
            status: Fact::recorded(200),
            response_len: Fact::recorded(2),
            duration_ns: Fact::absent(),
            cache: Fact::absent(),
        };
        let at = start + u64::try_from(u128::from(n) * 1_000_000_000 / u128::from(rate)).unwrap();
        push(at, n % sessions, EventKind::Request(facts));
    }
    writer.finish(&Ledger::default()).unwrap();
}
