//! Everything the governor may look at in one tick. Journalled, so that a run can be re-decided offline.

use serde::{Deserialize, Serialize};

use super::budget::BudgetKind;
use super::guard::View;
use super::latch::StopCause;
use crate::units::{Rate, RunTime};

/// A person's standing order. It holds until another one is given, so none can be lost between two ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Go on; after a pause through preflight and recovery.
    #[default]
    Go,
    /// Keep the rate as it is: no growth.
    Freeze,
    /// Rate to zero.
    Pause,
}

/// The baselines that limits hang on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Baseline {
    /// Known, or none is needed.
    Ready,
    /// Not known yet.
    Pending,
    /// This guard has none: too few clean points.
    Missing(usize),
    /// What this guard shows now is too far from its baseline.
    Abnormal(usize),
}

/// Why the sending ends in good order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The trace has been sent to its end.
    TraceEnd,
    /// The window has closed.
    WindowEnd,
    /// The request budget is used up.
    RequestBudget,
}

/// One tick's inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inputs {
    /// Time of this tick.
    pub now: RunTime,
    /// How late this tick is against its schedule, in milliseconds.
    pub tick_late_ms: u64,
    /// Disagreement of wall clock and monotonic clock since the last tick, in milliseconds.
    pub clock_jump_ms: u64,
    /// Longest silence of a worker, in milliseconds.
    pub worker_silent_ms: u64,
    /// The latch, the signals, the kill file.
    pub stop: Option<StopCause>,
    /// One view per guard, in the order of the settings.
    pub guards: Vec<View>,
    /// Requests sent in the last second.
    pub sent_1s: u64,
    /// Requests due and not thinned in the last second.
    pub offered_1s: u64,
    /// Requests due in the last second, those left out by the share among them.
    pub due_1s: u64,
    /// Requests due since the start, those left out by the share among them.
    pub due: u64,
    /// Requests sent since the start.
    pub sent: u64,
    /// Requests due and not thinned since the start.
    pub offered: u64,
    /// Highest rate achieved within the last L.
    pub achieved_max: Rate,
    /// Requests in flight.
    pub in_flight: u64,
    /// The end of the plan, once reached.
    pub finish: Option<Finish>,
    /// The generator has been at its own limit for three seconds in a row.
    pub saturated: bool,
    /// The target asked for quiet (Retry-After) until then.
    pub quiet_until: RunTime,
    /// A person's standing order.
    pub order: Order,
    /// A budget that is used up and ends the run at once.
    pub budget: Option<BudgetKind>,
    /// Time left in the window, milliseconds; none without a window.
    pub window_left_ms: Option<u64>,
    /// The baselines.
    pub baseline: Baseline,
    /// Whether our traffic was seen by the guards; none where the policy does not ask.
    pub visible: Option<bool>,
    /// Rate of organic users, where it is known.
    pub organic: Option<Rate>,
    /// Prometheus's clock against ours, milliseconds.
    pub skew_ms: u64,
    /// Connections open.
    pub connections: u64,
}
