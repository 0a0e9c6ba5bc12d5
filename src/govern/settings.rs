//! What the governor is told once, before the run: checked numbers, never words.
//!
//! `policy` makes these from a policy file and the plan. They do not change during a run.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::guard::GuardSpec;
use crate::units::{Rate, RunTime, Share};

/// Settings of one run of the governor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The planned peak second times the scale: the rate that a share of one stands for.
    pub target: Rate,
    /// Highest share allowed: below one when a limit of the policy is below the target.
    pub share_max: Share,
    /// Share of the probe.
    pub probe_share: Share,
    /// Share below which a cut ends the run.
    pub floor: Share,
    /// Growth per step in the ramp; half of it in recovery.
    pub step: Share,
    /// Shortest time between two steps.
    pub step_hold: Duration,
    /// Shortest time in back-off before recovery or another cut.
    pub cooldown: Duration,
    /// Longest hold before it becomes a back-off.
    pub hold_max: Duration,
    /// Guards must be healthy this long before anything is sent.
    pub preflight_clean: Duration,
    /// Longest preflight before the run is refused.
    pub preflight_max: Duration,
    /// Longest probe before the run is given up.
    pub probe_max: Duration,
    /// Back-off entries allowed.
    pub max_backoffs: u32,
    /// Two entries within this time end the run.
    pub backoff_window: Duration,
    /// A required guard without data for this long ends the run.
    pub no_data_abort: Duration,
    /// Largest lag of any guard.
    pub lag: Duration,
    /// Time for requests in flight after the last departure.
    pub drain_timeout: Duration,
    /// Time for requests in flight after an abort.
    pub abort_grace: Duration,
    /// Whether there is a lead-in (probe and ramp) before the trace.
    pub lead_in: bool,
    /// Longest lead-in; one that neither proves the target nor fails is given up.
    pub lead_in_max: Duration,
    /// How long the guards are watched after the load: as late as they are, at least.
    pub aftercare: Duration,
    /// Time that the measure phase needs: no growth that would leave it no room in the window.
    pub measure_len: Duration,
    /// End of the window, run time; nothing is granted past it.
    pub window_end: Option<RunTime>,
    /// Longest time from the probe's start until our traffic must have been seen.
    pub visible_within: Duration,
    /// Organic users and ours together stay at this rate.
    pub organic: Option<OrganicRule>,
    /// The guards, in the order of the readings.
    pub guards: Vec<GuardSpec>,
}

/// Organic-aware target: users and ours together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrganicRule {
    /// The guard whose value is the organic rate.
    pub guard: usize,
    /// Rate of users and ours together that is never exceeded on purpose.
    pub hold_total: Option<Rate>,
    /// More users than this at the start mean that the window is not what its author thought.
    pub expected_below: Option<Rate>,
}

/// Share of the achieved rate that broke which recovery may reach.
pub const RECOVER_CAP: f64 = 0.8;

/// Share of the planned requests that must have been sent for a step to prove anything.
pub const ACHIEVED_MIN: f64 = 0.8;

/// Share of the allowed rate below which a hold freezes what was achieved instead: within it the difference
/// is the draw of sessions.
pub const HOLD_ACHIEVED_MIN: f64 = 0.9;

/// Requests below which a share of them is noise.
pub const SAMPLE_MIN: u64 = 50;

/// Shortest time between two cuts because a guard got worse: one local window, so that a cut is judged
/// by what came after it.
pub const CUT_SETTLE: Duration = Duration::from_secs(1);
