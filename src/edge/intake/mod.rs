//! Files in: captures, access logs, traces. Tells them apart by their first bytes, never by name.

pub mod capture_file;
pub mod follow;
pub mod gor_file;
pub mod har_file;
#[cfg(feature = "live")]
pub mod live;
mod log_chunk;
pub mod log_file;
pub mod open;
pub mod position_file;
pub mod rotation;
pub mod secrets;
pub mod trace_file;
