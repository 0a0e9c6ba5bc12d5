//! HTTP/1 as bytes: heads, body framing and message streams, for capture and for the senders.
//!
//! Pure. It never guesses a boundary: an ambiguous message (two different Content-Lengths, a
//! Content-Length beside chunked) is malformed, because every tool that guesses guesses differently
//! (RFC 9112, section 6.3 and 11.2).

pub mod answer;
pub mod body;
pub mod cache;
pub mod head;
pub mod http2;
pub mod stream;
