//! One row a second, for reports and pictures.

use schemars::JsonSchema;
use serde::Serialize;

/// One second of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
pub struct Row {
    /// Second of the run.
    pub second: u64,
    /// State of the governor at its end.
    pub state: String,
    /// Share of the plan allowed at its end.
    pub share: f64,
    /// Ceiling of the bucket at its end, requests per second.
    pub ceiling_rps: f64,
    /// Requests due.
    pub due: u64,
    /// Requests left out by the share.
    pub thinned: u64,
    /// Requests cut for any other reason.
    pub shed: u64,
    /// Requests sent.
    pub sent: u64,
    /// Requests that ended well.
    pub ok: u64,
    /// Requests that ended otherwise.
    pub bad: u64,
    /// In flight at its end.
    pub in_flight: u64,
    /// 95th percentile of service time in its window, milliseconds; none without samples.
    pub p95_ms: Option<f64>,
}
