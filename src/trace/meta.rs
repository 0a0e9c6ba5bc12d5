//! Facts about a whole trace, written at its start.

use super::ledger::Position;
use crate::units::WallTime;

/// One input of a capture. Only the file's own name is kept, never its folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// File name, or `-`.
    pub name: String,
    /// What it was read as, such as `pcap` or `access-log/combined`; `/behind-proxy` where its connections are a proxy's.
    pub format: String,
}

/// A place in one of `sources`, in words.
#[must_use]
pub fn place(sources: &[Source], at: Position) -> String {
    let Some(source) = sources.get(at.source as usize) else { return format!("number {}", at.number) };
    let unit = match source.format.split('/').next() {
        Some("pcap" | "pcapng" | "live") => "frame",
        Some("har" | "gor") => "record",
        _ => "line",
    };
    format!("{}, {unit} {}", source.name, at.number)
}

/// Facts about a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceMeta {
    /// Wall-clock time of trace time zero.
    pub started_at: WallTime,
    /// Inputs.
    pub sources: Vec<Source>,
    /// The redaction that was applied.
    pub redaction: String,
    /// Resolution of the stamps, nanoseconds.
    pub resolution_ns: u64,
    /// Seed with which coarse stamps were spread, where they were.
    pub spread_seed: Option<u64>,
    /// Program that wrote the trace.
    pub made_by: String,
}
