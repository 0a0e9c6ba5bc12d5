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
        AnswerFacts::new(self.response_len.value, self.cache.value)
    }
}

/// What the recording says of the answer to one request: to compare with, not to send. In eight bytes, because a plan
/// holds hundreds of thousands of them: the length plus one above two bits for the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AnswerFacts(u64);

impl AnswerFacts {
    /// Body bytes (those above 2^62 are not kept), and whether the answer came from a cache.
    #[must_use]
    pub fn new(response_len: Option<u64>, cache: Option<CacheStatus>) -> Self {
        let len = response_len.and_then(|l| l.checked_add(1)).filter(|l| *l < 1 << 62).unwrap_or(0);
        Self(len << 2 | u64::from(CacheStatus::code(cache)))
    }

    /// Body bytes.
    #[must_use]
    pub fn response_len(self) -> Option<u64> {
        (self.0 >> 2).checked_sub(1)
    }

    /// Whether it came from a cache.
    #[must_use]
    pub fn cache(self) -> Option<CacheStatus> {
        CacheStatus::from_code((self.0 & 3) as u8)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_facts_come_out_as_they_went_in() {
        for len in [None, Some(0), Some(1), Some((1 << 62) - 2)] {
            for cache in [None, Some(CacheStatus::Hit), Some(CacheStatus::Miss)] {
                let facts = AnswerFacts::new(len, cache);
                assert_eq!((facts.response_len(), facts.cache()), (len, cache));
            }
        }
        assert_eq!(AnswerFacts::new(Some(u64::MAX), None), AnswerFacts::default());
        assert_eq!(AnswerFacts::new(Some((1 << 62) - 1), None).response_len(), None);
    }
}
