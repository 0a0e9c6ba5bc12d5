//! Events of a trace: connections opened and closed, requests, each fact with where it comes from.

use super::shape::SharedShape;
use crate::units::TraceTime;
use crate::wire::cache::CacheStatus;

/// Where a fact comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Provenance {
    /// There is no such fact.
    #[default]
    Absent,
    /// Seen on the wire or written in the log.
    Recorded,
    /// Computed from recorded facts (an end stamp minus a duration).
    Derived,
    /// Assumed by a stated rule (a session from client and user agent).
    Inferred,
}

impl Provenance {
    /// All, in the order of their codes.
    pub const ALL: [Self; 4] = [Self::Absent, Self::Recorded, Self::Derived, Self::Inferred];

    /// Word in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Recorded => "recorded",
            Self::Derived => "derived",
            Self::Inferred => "inferred",
        }
    }

    pub(crate) fn code(self) -> u16 {
        match self {
            Self::Absent => 0,
            Self::Recorded => 1,
            Self::Derived => 2,
            Self::Inferred => 3,
        }
    }

    pub(crate) fn from_code(code: u16) -> Self {
        Self::ALL[usize::from(code & 3)]
    }
}

/// A value that may be absent, with its provenance. Absent is never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fact<T> {
    /// The value.
    pub value: Option<T>,
    /// Where it comes from; [`Provenance::Absent`] exactly when there is no value.
    pub provenance: Provenance,
}

impl<T> Fact<T> {
    /// No such fact.
    #[must_use]
    pub fn absent() -> Self {
        Self { value: None, provenance: Provenance::Absent }
    }

    /// Seen or written.
    #[must_use]
    pub fn recorded(value: T) -> Self {
        Self { value: Some(value), provenance: Provenance::Recorded }
    }

    /// Computed.
    #[must_use]
    pub fn derived(value: T) -> Self {
        Self { value: Some(value), provenance: Provenance::Derived }
    }

    pub(crate) fn with(value: Option<T>, provenance: Provenance) -> Self {
        if value.is_none() { Self::absent() } else { Self { value, provenance } }
    }
}

/// A session: one client's ordered requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionRef {
    /// Stable key: scaling, thinning and sharding hash this. Says nothing about the client.
    pub key: u64,
    /// Number in order of appearance, from 0.
    pub ordinal: u64,
}

/// What is known about a connection event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionEvent {
    /// How the time is known.
    pub arrival: Provenance,
}

/// What is known about a request beside its shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestFacts {
    /// Shape.
    pub shape: SharedShape,
    /// How the arrival time is known.
    pub arrival: Provenance,
    /// How session and connection are known.
    pub connection: Provenance,
    /// Body bytes of the request.
    pub body_len: Fact<u64>,
    /// Status of the answer.
    pub status: Fact<u16>,
    /// Body bytes of the answer.
    pub response_len: Fact<u64>,
    /// First byte of the request to last byte of the answer, nanoseconds.
    pub duration_ns: Fact<u64>,
    /// Whether the answer came from a cache, where it said so.
    pub cache: Fact<CacheStatus>,
}

impl RequestFacts {
    /// What the recording says of the answer.
    #[must_use]
    pub fn answer(&self) -> AnswerFacts {
        AnswerFacts { response_len: self.response_len.value, cache: self.cache.value }
    }
}

/// What the recording says of the answer to one request: to compare with, not to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AnswerFacts {
    /// Body bytes.
    pub response_len: Option<u64>,
    /// Whether it came from a cache.
    pub cache: Option<CacheStatus>,
}

/// Kind of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKind {
    /// A connection was opened.
    Open(ConnectionEvent),
    /// A request began.
    Request(RequestFacts),
    /// A connection was closed.
    Close(ConnectionEvent),
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceEvent {
    /// When, since the start of the trace. For a request: its first byte.
    pub at: TraceTime,
    /// Whose.
    pub session: SessionRef,
    /// Connection within the session, from 0.
    pub connection: u16,
    /// What.
    pub kind: EventKind,
}

impl TraceEvent {
    /// The request, if this is one.
    #[must_use]
    pub fn request(&self) -> Option<&RequestFacts> {
        match &self.kind {
            EventKind::Request(r) => Some(r),
            EventKind::Open(_) | EventKind::Close(_) => None,
        }
    }
}
