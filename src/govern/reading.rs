//! What one look at a guard says.
//!
//! `NoData` is a reading of its own: not good, not bad, and never a number. Every tool we read gets one
//! case of this wrong (`docs/GOVERNOR.md`); the table in the tests of `edge::watch::prometheus` holds us
//! to it.

use serde::{Deserialize, Serialize};

/// Why a guard has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoData {
    /// The source refused the connection or the name did not resolve.
    Unreachable,
    /// No answer within the deadline, or the last answer is too old.
    Timeout,
    /// An HTTP status that is not success and not our fault.
    Http(u16),
    /// The body is not what the interface promises.
    BadJson,
    /// The value is not a number.
    BadValue,
    /// No series.
    Empty,
    /// Not a number, such as 0/0.
    NaN,
    /// Infinite.
    Inf,
    /// More than one series and no rule to reduce them.
    Multi,
    /// A matrix or a string where a number belongs.
    WrongType,
    /// The source says that its answer is incomplete (warnings).
    Partial,
    /// The data behind the value is old.
    Stale,
    /// The source's clock is too far from ours.
    Skew,
    /// Too few samples, for a guard that must have traffic.
    TooFewSamples,
    /// An answer to another question: late, swapped, or out of a cache.
    Superseded,
    /// No reading has arrived yet.
    NotYet,
}

/// A guard that is wrong, not blind: it will never work, so the run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The source says that the query is wrong (400, 422).
    BadQuery,
    /// The source says that we may not ask (401, 403).
    Auth,
    /// Not the source that the policy expects.
    WrongSource,
}

/// One look at a guard, classified against its thresholds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    /// Below every threshold.
    Good(f64),
    /// Stop growing.
    Hold(f64),
    /// Halve.
    BackOff(f64),
    /// Stop for good.
    Abort(f64),
    /// Too few samples to say.
    Neutral,
    /// No value.
    NoData(NoData),
    /// The guard is wrong.
    Fault(Fault),
}

impl Reading {
    /// The value behind the reading, where there is one.
    #[must_use]
    pub fn value(self) -> Option<f64> {
        match self {
            Self::Good(v) | Self::Hold(v) | Self::BackOff(v) | Self::Abort(v) => Some(v),
            Self::Neutral | Self::NoData(_) | Self::Fault(_) => None,
        }
    }
}

/// What a source answered, before any threshold is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// A finite number and how many samples stand behind it (`u64::MAX` where that has no meaning).
    Value {
        /// The number.
        value: f64,
        /// Samples behind it.
        samples: u64,
    },
    /// No value.
    NoData(NoData),
    /// The guard is wrong.
    Fault(Fault),
}

impl Answer {
    /// A value from outside: anything that is not finite becomes [`NoData`], never a number.
    #[must_use]
    pub fn number(value: f64) -> Self {
        if value.is_nan() {
            Self::NoData(NoData::NaN)
        } else if value.is_infinite() {
            Self::NoData(NoData::Inf)
        } else {
            Self::Value { value, samples: u64::MAX }
        }
    }
}
