//! The trace: what was recorded, as a compact file of self-contained blocks.
//!
//! Pure: it reads and writes any `Read` and `Write`, and opens no file. The format is specified in
//! `docs/TRACE_FORMAT.md`, byte tables first. It refuses to keep credentials, client addresses or bodies:
//! the types have no place for them.

pub mod block;
mod codec;
pub mod event;
pub mod json;
pub mod ledger;
pub mod meta;
pub mod outline;
pub mod reader;
pub mod shape;
pub mod summary;
pub mod writer;

pub use event::{
    AnswerFacts, ConnectionEvent, EventKind, Fact, Provenance, RequestFacts, SessionRef, TraceEvent,
};
pub use ledger::{Item, Ledger, Position};
pub use meta::{Source, Spreading, TraceMeta};
pub use shape::{Credentials, Header, HeaderValue, RequestShape, Scheme};

/// Why a trace cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The file does not begin with the magic of a trace.
    #[error("not a trace: the first bytes are {found:02x?}, a trace begins with {:02x?}", codec::MAGIC)]
    NotATrace {
        /// First bytes found.
        found: Vec<u8>,
    },
    /// A version that this program does not know.
    #[error("trace version {found} is not supported; this program reads version {}", codec::VERSION)]
    Version {
        /// Version found.
        found: u16,
    },
    /// A length in the file is above its limit.
    #[error("offset {offset}: {what} of {found} bytes is above the limit of {max}")]
    TooLarge {
        /// Where.
        offset: u64,
        /// What the length belongs to.
        what: &'static str,
        /// Length found.
        found: u64,
        /// Limit.
        max: u64,
    },
    /// The header facts are damaged or cut off, so nothing can be read.
    #[error("offset {offset}: {what}; nothing in this file can be read")]
    BadHeader {
        /// Where.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// Events must be written in time order.
    #[error("event at {at_ns} ns comes after one at {last_ns} ns; events are written in time order")]
    OutOfOrder {
        /// Time of the event.
        at_ns: u64,
        /// Time of the one before.
        last_ns: u64,
    },
    /// One event is too large for a block.
    #[error("an event of {found} bytes is above the limit of {max}")]
    EventTooLarge {
        /// Size.
        found: usize,
        /// Limit.
        max: usize,
    },
    /// Encoding failed.
    #[error("cannot encode: {0}")]
    Encode(String),
    /// The medium failed.
    #[error("cannot read or write the trace")]
    Io(#[from] std::io::Error),
}
