//! What became of one request.

use serde::{Deserialize, Serialize};

use crate::trace::AnswerFacts;
use crate::units::RunTime;
use crate::wire::cache::CacheStatus;

/// Phase of the run a request belongs to. Percentiles never mix them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunPhase {
    /// The stationary climb.
    LeadIn,
    /// The trace.
    Measure,
}

/// Kind of a failure after the request was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The connection was closed before or inside the answer.
    Closed,
    /// The connection was reset.
    Reset,
    /// The answer is not HTTP/1.
    Protocol,
    /// The answer is larger than the limit.
    TooLarge,
    /// gRPC: answered, with another status than 0 or with none.
    Grpc,
    /// Anything else.
    Other,
}

impl ErrorKind {
    /// Name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Protocol => "protocol",
            Self::TooLarge => "too_large",
            Self::Grpc => "grpc",
            Self::Other => "other",
        }
    }
}

/// How a request that was sent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Its head was never handed to the kernel.
    FailedBeforeWrite,
    /// A whole answer with this status.
    Answered(u16),
    /// No usable answer.
    Error(ErrorKind),
    /// The time-out passed.
    Timeout,
    /// We gave it up at the end of the run.
    Cancelled,
}

/// One sent request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Phase.
    pub phase: RunPhase,
    /// Route number.
    pub route: u16,
    /// Status when recorded.
    pub expected: Option<u16>,
    /// What else the recording says of the answer.
    pub recorded: AnswerFacts,
    /// Whether the answer came from a cache, where it says so.
    pub cache: Option<CacheStatus>,
    /// When it was due.
    pub due: RunTime,
    /// When its head had been written.
    pub written: Option<RunTime>,
    /// First byte of the answer.
    pub first_byte: Option<RunTime>,
    /// End.
    pub done: RunTime,
    /// Body bytes of the answer.
    pub bytes: u64,
    /// How it ended.
    pub ending: Ending,
}

/// Whether a status means what the recording meant: the same class, or below 400 where there is none.
#[must_use]
pub fn is_expected(recorded: Option<u16>, got: u16) -> bool {
    // A recorded 304 answered a validator that is not kept: the whole document is as good.
    let revalidated = recorded == Some(304) && (200..300).contains(&got);
    revalidated || recorded.map_or(got < 400, |r| r / 100 == got / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ok_means_what_it_meant_when_recorded() {
        let table = [
            (Some(200), 204, true),
            (Some(404), 404, true),
            (Some(404), 200, false),
            (Some(200), 302, false), // a run of log-in redirects is fast, green and worthless
            (Some(200), 503, false),
            (Some(304), 200, true), // the validator was not kept
            (Some(304), 404, false),
            (None, 302, true),
            (None, 404, false),
        ];
        for (recorded, got, want) in table {
            assert_eq!(is_expected(recorded, got), want, "{recorded:?} {got}");
        }
    }
}
