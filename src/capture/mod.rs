//! Capture: bytes of frames or lines of logs in, events of a trace out.
//!
//! Pure. It never opens a file or a device, never drops anything without counting it in the ledger, and
//! never lets a credential, a client address or a body through: redaction happens where a request head
//! becomes a shape ([`redact`]), before anything can be written.
//!
//! ```text
//! frame -> Segment -> Reassembler -> MessageStream x 2 -> pairing -> redact -> order -> events
//! log line -> LogLine -> spread, session -> redact -> order -> events
//! ```

pub mod access_log;
pub mod calendar;
pub mod flow;
pub mod fragments;
pub mod frame;
pub mod gor;
pub mod http2;
pub mod order;
pub mod pairing;
pub mod recorder;
pub mod redact;
pub mod tls;
pub mod twins;
pub mod vantage;

use crate::trace::EventKind;
use crate::units::WallTime;

/// An event before it has a place in a trace: wall-clock time and the number of its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawEvent {
    /// When.
    pub at: WallTime,
    /// Number of the connection or inferred session that made it, unique in this capture.
    pub owner: u64,
    /// Connection within the session.
    pub connection: u16,
    /// What.
    pub kind: EventKind,
    /// Bytes of memory that it holds and no other is reckoned to hold, beside its own.
    pub bytes: u32,
    /// For whom a proxy asked, where the request says so: a keyed hash of the first forwarded address and the user agent.
    pub client: Option<u64>,
}

/// Mixes a number into a well-spread 64-bit key (the finaliser of SplitMix64; Steele and others, 2014).
#[must_use]
pub fn mix64(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
