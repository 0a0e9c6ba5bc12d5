//! A block: events to columns and back. Self-contained, with its own dictionary.

use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use foldhash::quality::FixedState;

use super::codec::{BlockRecord, HeaderRecord, ShapeRecord, ValueRecord};
use super::event::{ConnectionEvent, EventKind, Fact, Provenance, RequestFacts, SessionRef, TraceEvent};
use super::shape::{Credentials, Header, HeaderValue, Headers, RequestShape, Scheme, SharedShape, Text};
use crate::limits::{BLOCK_EVENTS_MAX, BLOCK_HELD_BYTES_MAX, BLOCK_RAW_BYTES_TARGET};
use crate::lookup::Lookup;
use crate::units::TraceTime;
use crate::wire::cache::CacheStatus;
use crate::wire::head::Version;

const OPEN: u8 = 0;
const REQUEST: u8 = 1;
const CLOSE: u8 = 2;

/// What a shape that is kept takes beside its bytes.
const OVERHEAD: usize = 256;

/// Collects events into columns.
#[derive(Debug, Default)]
pub(super) struct BlockBuilder {
    record: BlockRecord,
    strings: Numbers,
    shapes: Numbers,
    /// The same by the place of the shape in memory: most events share one with another.
    shared: Lookup<usize, (SharedShape, u32)>,
    /// Header lines by their place in memory: most shapes share them with others.
    lists: Lookup<usize, (Headers, Arc<[HeaderRecord]>)>,
    sessions: Lookup<SessionRef, u32>,
    last_ns: u64,
    /// Bytes before compression, roughly, never much below the truth.
    weight: usize,
    /// Bytes of the shapes that are kept while the block is open, roughly.
    held: usize,
}

impl BlockBuilder {
    pub(super) fn len(&self) -> usize {
        self.record.kinds.len()
    }

    pub(super) fn requests(&self) -> usize {
        self.record.shape.len()
    }

    /// Whether the block is to be closed: it has as many events as may be, or as many bytes.
    pub(super) fn is_full(&self) -> bool {
        self.len() >= BLOCK_EVENTS_MAX
            || self.weight >= BLOCK_RAW_BYTES_TARGET
            || self.held >= BLOCK_HELD_BYTES_MAX
    }

    pub(super) fn first_ns(&self) -> u64 {
        self.record.first_ns
    }

    pub(super) fn last_ns(&self) -> u64 {
        self.last_ns
    }

    /// The block so far; the next one begins, in the same memory.
    pub(super) fn take(&mut self) -> BlockRecord {
        self.strings.0.clear();
        self.shapes.0.clear();
        self.shared.clear();
        self.lists.clear();
        self.sessions.clear();
        (self.weight, self.held) = (0, 0);
        std::mem::take(&mut self.record)
    }

    /// Adds an event; the caller keeps time order.
    ///
    /// # Errors
    /// The weight of its shape, where it is above `most`. Nothing is added then.
    pub(super) fn push(&mut self, event: &TraceEvent, most: usize) -> Result<(), usize> {
        let shape = event.request().map(|r| self.shared(&r.shape, most)).transpose()?.unwrap_or(0);
        if self.record.kinds.is_empty() {
            self.record.first_ns = event.at.0;
            self.last_ns = event.at.0;
        }
        self.record.deltas_ns.push(event.at.0 - self.last_ns);
        self.last_ns = event.at.0;
        let session = self.session(event.session);
        self.record.sessions.push(session);
        self.record.connections.push(event.connection);
        self.weight += 16;
        let (kind, provenance) = match &event.kind {
            EventKind::Open(c) => (OPEN, c.arrival.code()),
            EventKind::Close(c) => (CLOSE, c.arrival.code()),
            EventKind::Request(r) => (REQUEST, self.request(r, shape)),
        };
        self.record.kinds.push(kind);
        self.record.provenance.push(provenance);
        Ok(())
    }

    fn request(&mut self, r: &RequestFacts, shape: u32) -> u16 {
        let plus_one = |v: Option<u64>| v.map_or(0, |v| v.saturating_add(1));
        let columns = &mut self.record;
        columns.shape.push(shape);
        columns.body_len.push(plus_one(r.body_len.value));
        columns.status.push(r.status.value.map_or(0, |s| s.saturating_add(1)));
        columns.response_len.push(plus_one(r.response_len.value));
        columns.duration_ns.push(plus_one(r.duration_ns.value));
        columns.cache.push(CacheStatus::code(r.cache.value));
        self.weight += 37;
        let facts = [
            r.arrival,
            r.connection,
            r.body_len.provenance,
            r.status.provenance,
            r.response_len.provenance,
            r.duration_ns.provenance,
            r.cache.provenance,
        ];
        facts.iter().enumerate().fold(0, |bits, (i, p)| bits | p.code() << (2 * i))
    }

    fn session(&mut self, session: SessionRef) -> u32 {
        let next = self.record.session_keys.len() as u32;
        if let Some(found) = self.sessions.get(&session) {
            return *found;
        }
        self.sessions.insert(session, next);
        self.record.session_keys.push(session.key);
        self.record.session_ordinals.push(session.ordinal);
        self.weight += 16;
        next
    }

    fn string(&mut self, bytes: &[u8]) -> u32 {
        self.text_or(bytes, || bytes.into())
    }

    fn text(&mut self, text: &Text) -> u32 {
        self.text_or(text, || Arc::clone(text))
    }

    fn text_or(&mut self, bytes: &[u8], text: impl FnOnce() -> Text) -> u32 {
        let (number, new) = self.strings.of(bytes, &self.record.strings, |s| s[..] == *bytes);
        if new {
            self.record.strings.push(text());
            self.weight += bytes.len() + 8;
        }
        number
    }

    fn shared(&mut self, shape: &SharedShape, most: usize) -> Result<u32, usize> {
        let place = Arc::as_ptr(shape).addr();
        if let Some((_, found)) = self.shared.get(&place) {
            return Ok(*found);
        }
        let weight = shape.weight();
        if weight > most {
            return Err(weight);
        }
        self.held += weight + OVERHEAD;
        let found = self.shape(shape);
        // Kept, so that nothing else can take its place in memory.
        self.shared.insert(place, (Arc::clone(shape), found));
        Ok(found)
    }

    fn headers(&mut self, headers: &Headers) -> Arc<[HeaderRecord]> {
        let place = headers.as_ptr().addr();
        if let Some((_, found)) = self.lists.get(&place) {
            return Arc::clone(found);
        }
        let list: Arc<[HeaderRecord]> = headers.iter().map(|h| self.header(h)).collect();
        self.lists.insert(place, (Arc::clone(headers), Arc::clone(&list)));
        list
    }

    fn header(&mut self, h: &Header) -> HeaderRecord {
        let name = self.string(&h.name);
        let value = match &h.value {
            HeaderValue::Kept(v) => ValueRecord::Kept(self.string(v)),
            HeaderValue::Redacted { len, hash: None } => ValueRecord::Redacted(*len),
            HeaderValue::Redacted { len, hash: Some(hash) } => ValueRecord::Hashed(*len, *hash),
        };
        HeaderRecord { name, value }
    }

    fn shape(&mut self, shape: &RequestShape) -> u32 {
        let record = ShapeRecord {
            method: self.text(&shape.method),
            https: shape.scheme == Scheme::Https,
            authority: shape.authority.as_ref().map(|a| self.text(a)),
            target: self.text(&shape.target),
            version: match shape.version {
                Version::Http11 => 0,
                Version::Http10 => 1,
                Version::Http2 => 2,
            },
            headers: self.headers(&shape.headers),
            credentials: shape.credentials.bits(),
            target_redacted: shape.target_redacted,
        };
        let (number, new) = self.shapes.of(&record, &self.record.shapes, |s| *s == record);
        if new {
            self.weight += 24 + record.headers.len() * 12;
            self.record.shapes.push(record);
        }
        number
    }
}

/// Numbers of values, by their hashes: the values themselves are kept once, in their column.
#[derive(Debug, Default)]
struct Numbers(Lookup<u64, u32>);

impl Numbers {
    /// The number of `value` among `all`, and whether it is a new one, which the caller then adds to them.
    fn of<T>(&mut self, value: &(impl Hash + ?Sized), all: &[T], same: impl Fn(&T) -> bool) -> (u32, bool) {
        let mut place = FixedState::with_seed(0x7ace).hash_one(value);
        while let Some(found) = self.0.get(&place) {
            if all.get(*found as usize).is_some_and(&same) {
                return (*found, false);
            }
            // Another value with this hash.
            place = place.wrapping_add(1);
        }
        let next = all.len() as u32;
        self.0.insert(place, next);
        (next, true)
    }
}

/// Why columns do not make events. Only a bug or a forged file can cause it: the checksum was right.
fn broken(what: &str) -> String {
    format!("a block is inconsistent: {what}")
}

/// Turns columns into events.
///
/// # Errors
/// A description of the inconsistency; nothing of the block is used then.
pub(super) fn events(record: &BlockRecord) -> Result<Vec<TraceEvent>, String> {
    let n = record.kinds.len();
    let per_event =
        [record.deltas_ns.len(), record.sessions.len(), record.connections.len(), record.provenance.len()];
    if per_event.iter().any(|len| *len != n) || n > crate::limits::BLOCK_EVENTS_MAX {
        return Err(broken("event columns differ in length"));
    }
    let mut shared = Shared { record, lists: Lookup::default() };
    let shapes = record.shapes.iter().map(|s| shared.shape(s)).collect::<Result<Vec<_>, _>>()?;
    let (mut at, mut requests, mut out) = (record.first_ns, 0, Vec::with_capacity(n));
    for i in 0..n {
        at = at.checked_add(record.deltas_ns[i]).ok_or_else(|| broken("time overflows"))?;
        let session = record.sessions[i] as usize;
        let key = record.session_keys.get(session).ok_or_else(|| broken("session index"))?;
        let ordinal = record.session_ordinals.get(session).ok_or_else(|| broken("session index"))?;
        let arrival = Provenance::from_code(record.provenance[i]);
        let kind = match record.kinds[i] {
            OPEN => EventKind::Open(ConnectionEvent { arrival }),
            CLOSE => EventKind::Close(ConnectionEvent { arrival }),
            REQUEST => {
                requests += 1;
                EventKind::Request(request(record, &shapes, requests - 1, record.provenance[i])?)
            }
            _ => return Err(broken("unknown event kind")),
        };
        let session = SessionRef { key: *key, ordinal: *ordinal };
        out.push(TraceEvent { at: TraceTime(at), session, connection: record.connections[i], kind });
    }
    Ok(out)
}

fn request(
    r: &BlockRecord,
    shapes: &[SharedShape],
    i: usize,
    provenance: u16,
) -> Result<RequestFacts, String> {
    let missing = || broken("request columns differ in length");
    let p = |n: u16| Provenance::from_code(provenance >> (2 * n));
    let minus_one = |v: &u64| v.checked_sub(1);
    let shape = *r.shape.get(i).ok_or_else(missing)? as usize;
    Ok(RequestFacts {
        shape: Arc::clone(shapes.get(shape).ok_or_else(|| broken("shape index"))?),
        arrival: p(0),
        connection: p(1),
        body_len: Fact::with(r.body_len.get(i).ok_or_else(missing).map(minus_one)?, p(2)),
        status: Fact::with(r.status.get(i).ok_or_else(missing)?.checked_sub(1), p(3)),
        response_len: Fact::with(r.response_len.get(i).ok_or_else(missing).map(minus_one)?, p(4)),
        duration_ns: Fact::with(r.duration_ns.get(i).ok_or_else(missing).map(minus_one)?, p(5)),
        cache: Fact::with(CacheStatus::from_code(*r.cache.get(i).ok_or_else(missing)?), p(6)),
    })
}

/// What the shapes of a block share: each string and each list of header lines is in memory once.
struct Shared<'r> {
    record: &'r BlockRecord,
    lists: Lookup<&'r [HeaderRecord], Headers>,
}

impl<'r> Shared<'r> {
    fn string(&self, i: u32) -> Result<&'r Text, String> {
        self.record.strings.get(i as usize).ok_or_else(|| broken("string index"))
    }

    fn headers(&mut self, lines: &'r [HeaderRecord]) -> Result<Headers, String> {
        if let Some(found) = self.lists.get(lines) {
            return Ok(Arc::clone(found));
        }
        let header = |h: &HeaderRecord| {
            let value = match h.value {
                ValueRecord::Kept(i) => HeaderValue::Kept(self.string(i)?.to_vec()),
                ValueRecord::Redacted(len) => HeaderValue::Redacted { len, hash: None },
                ValueRecord::Hashed(len, hash) => HeaderValue::Redacted { len, hash: Some(hash) },
            };
            Ok::<_, String>(Header { name: self.string(h.name)?.to_vec(), value })
        };
        let made: Headers = lines.iter().map(header).collect::<Result<_, _>>()?;
        self.lists.insert(lines, Arc::clone(&made));
        Ok(made)
    }

    fn shape(&mut self, s: &'r ShapeRecord) -> Result<SharedShape, String> {
        Ok(Arc::new(RequestShape {
            method: Arc::clone(self.string(s.method)?),
            scheme: if s.https { Scheme::Https } else { Scheme::Http },
            authority: s.authority.map(|a| self.string(a).cloned()).transpose()?,
            target: Arc::clone(self.string(s.target)?),
            version: match s.version {
                0 => Version::Http11,
                1 => Version::Http10,
                2 => Version::Http2,
                _ => return Err(broken("version of a shape")),
            },
            headers: self.headers(&s.headers)?,
            credentials: Credentials::from_bits(s.credentials),
            target_redacted: s.target_redacted,
        }))
    }
}
