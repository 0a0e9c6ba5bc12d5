//! Laws of the format: what goes in comes out, and a cut loses only what came after it.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::trace::writer::TraceWriter;
use crate::trace::{
    ConnectionEvent, Credentials, EventKind, Fact, Header, HeaderValue, Item, Provenance, RequestFacts,
    RequestShape, Scheme, SessionRef,
};
use crate::units::TraceTime;
use crate::wire::cache::CacheStatus;
use crate::wire::head::Version;

fn meta() -> TraceMeta {
    TraceMeta {
        started_at: WallTime(1_700_000_000_123_456_789),
        sources: vec![Source { name: "a.pcap".into(), format: "pcap".into() }],
        redaction: "default-1".into(),
        resolution_ns: 1_000,
        spread_seed: None,
        made_by: "replay 0".into(),
    }
}

prop_compose! {
    fn shape()(method in "[A-Z]{1,8}", target in prop::collection::vec(any::<u8>(), 0..40), https in any::<bool>(),
               authority in prop::option::of("[a-z.]{1,12}"), names in prop::collection::vec("[A-Za-z-]{1,10}", 0..5),
               redact in 0u32..9, cookie in any::<bool>(), old in any::<bool>()) -> Arc<RequestShape> {
        let value = |i: usize| if i.is_multiple_of(2) { HeaderValue::Kept(vec![b'v'; i]) } else { HeaderValue::Redacted { len: redact, hash: (redact % 2 == 1).then_some(redact) } };
        Arc::new(RequestShape {
            method: method.into_bytes().into(), scheme: if https { Scheme::Https } else { Scheme::Http },
            authority: authority.map(|a| a.into_bytes().into()), target: target.into(),
            version: if old { Version::Http10 } else { Version::Http11 },
            headers: names.into_iter().enumerate().map(|(i, n)| Header { name: n.into_bytes(), value: value(i) }).collect(),
            credentials: Credentials { cookie, ..Credentials::default() }, target_redacted: redact == 3,
        })
    }
}

prop_compose! {
    fn event()(gap in 0u64..5_000_000_000, key in 0u64..6, connection in 0u16..7, kind in 0u8..5, shape in shape(),
               status in prop::option::of(100u16..600), len in prop::option::of(any::<u32>())) -> (u64, TraceEvent) {
        let open = ConnectionEvent { arrival: Provenance::Recorded };
        let kind = match kind {
            0 => EventKind::Open(open),
            1 => EventKind::Close(ConnectionEvent { arrival: Provenance::Inferred }),
            _ => EventKind::Request(RequestFacts {
                shape, arrival: Provenance::Derived, connection: Provenance::Inferred,
                body_len: Fact::with(len.map(u64::from), Provenance::Recorded),
                status: Fact::with(status, Provenance::Recorded),
                response_len: Fact::with(len.map(|l| u64::from(l) * 3), Provenance::Derived),
                duration_ns: Fact::absent(),
                cache: Fact::with(len.and_then(|l| CacheStatus::from_code((l % 3) as u8)), Provenance::Recorded),
            }),
        };
        let session = SessionRef { key: key.wrapping_mul(0x9e37_79b9_7f4a_7c15), ordinal: key };
        (gap, TraceEvent { at: TraceTime(0), session, connection, kind })
    }
}

pub(in crate::trace) fn write(events: &[TraceEvent]) -> Vec<u8> {
    let mut writer = TraceWriter::new(Vec::new(), &meta()).unwrap();
    for event in events {
        writer.push(event).unwrap();
    }
    let mut ledger = Ledger::default();
    ledger.add(Item::Gaps, 7);
    let (bytes, written) = writer.finish(&ledger).unwrap();
    assert_eq!(written.bytes, bytes.len() as u64);
    bytes
}

fn read(bytes: &[u8]) -> (Vec<TraceEvent>, End) {
    let mut reader = TraceReader::new(bytes).unwrap();
    let mut events = Vec::new();
    while let Some(event) = reader.next_event().unwrap() {
        events.push(event);
    }
    let end = reader.end().unwrap().clone();
    (events, end)
}

fn in_time(rows: Vec<(u64, TraceEvent)>) -> Vec<TraceEvent> {
    let mut at = 0;
    let place = |(gap, event): (u64, TraceEvent)| {
        at += gap;
        TraceEvent { at: TraceTime(at), ..event }
    };
    rows.into_iter().map(place).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_goes_in_comes_out(rows in prop::collection::vec(event(), 0..200)) {
        let events = in_time(rows);
        let (got, end) = read(&write(&events));
        prop_assert_eq!(got, events);
        let End::Whole { ledger, .. } = end else { panic!("{end:?}") };
        prop_assert_eq!(ledger.get(Item::Gaps), Some(7));
    }

    /// A file cut at any byte past its header gives a prefix of its events and says that it is cut.
    #[test]
    fn a_cut_trace_reads_to_its_last_whole_block(rows in prop::collection::vec(event(), 1..60), cut in 0.0f64..1.0) {
        let events = in_time(rows);
        let bytes = write(&events);
        let at = (cut * bytes.len() as f64) as usize;
        match TraceReader::new(&bytes[..at]) {
            Err(TraceError::NotATrace { .. } | TraceError::BadHeader { .. }) => {}
            Err(other) => prop_assert!(false, "{other}"),
            Ok(_) => {
                let (got, end) = read(&bytes[..at]);
                prop_assert!(events.starts_with(&got));
                prop_assert!(matches!(end, End::Cut { .. }), "{:?}", end);
            }
        }
    }

    /// A flipped bit anywhere never panics and never yields an event that was not written.
    #[test]
    fn a_damaged_trace_never_lies(rows in prop::collection::vec(event(), 1..40), bit in 0usize..100_000) {
        let events = in_time(rows);
        let mut bytes = write(&events);
        let bit = bit % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(mut reader) = TraceReader::new(bytes.as_slice()) {
            let mut got = Vec::new();
            while let Ok(Some(event)) = reader.next_event() { got.push(event); }
            prop_assert!(events.starts_with(&got));
        }
    }
}

#[test]
fn several_blocks_are_read_one_by_one() {
    let session = SessionRef { key: 1, ordinal: 0 };
    let kind = EventKind::Open(ConnectionEvent { arrival: Provenance::Recorded });
    let event = |i: u64| TraceEvent { at: TraceTime(i), session, connection: 0, kind: kind.clone() };
    let events: Vec<_> = (0..20_000).map(event).collect();
    let bytes = write(&events);
    assert_eq!(read(&bytes).0, events);
    let (got, end) = read(&bytes[..bytes.len() - 5]);
    assert_eq!(got.len(), 20_000, "only the last bytes are cut");
    assert!(matches!(end, End::Cut { blocks: 3, .. }), "{end:?}");
}

/// A block taken out of the middle leaves valid sections behind; the index knows better.
#[test]
fn a_missing_block_is_noticed() {
    let session = SessionRef { key: 1, ordinal: 0 };
    let kind = EventKind::Open(ConnectionEvent { arrival: Provenance::Recorded });
    let event = |i: u64| TraceEvent { at: TraceTime(i), session, connection: 0, kind: kind.clone() };
    let bytes = write(&(0..20_000).map(event).collect::<Vec<_>>());
    let first = bytes.windows(4).position(|w| w == [b'B', 0, 0, 0]).unwrap();
    let stored = u32::from_le_bytes(bytes[first + 4..first + 8].try_into().unwrap()) as usize;
    let without = [&bytes[..first], &bytes[first + 16 + stored..]].concat();
    assert!(matches!(read(&without).1, End::Cut { blocks: 2, .. }));
}

#[test]
fn time_never_goes_back() {
    let mut writer = TraceWriter::new(Vec::new(), &meta()).unwrap();
    let session = SessionRef { key: 1, ordinal: 0 };
    let kind = EventKind::Open(ConnectionEvent { arrival: Provenance::Recorded });
    let event = |at| TraceEvent { at: TraceTime(at), session, connection: 0, kind: kind.clone() };
    writer.push(&event(10)).unwrap();
    let error = writer.push(&event(9)).unwrap_err().to_string();
    assert!(error.contains("9 ns") && error.contains("10 ns"), "{error}");
}

#[test]
fn other_files_are_refused_by_name() {
    for bytes in [&b""[..], b"GIF89a", b"\x0a\x0d\x0d\x0a"] {
        let error = TraceReader::new(bytes).unwrap_err().to_string();
        assert!(error.contains("not a trace"), "{error}");
    }
    let mut newer = write(&[]);
    newer[8] = 9;
    assert!(TraceReader::new(newer.as_slice()).unwrap_err().to_string().contains("version 9"));
}
