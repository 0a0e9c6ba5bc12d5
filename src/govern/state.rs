//! The governor's state: phases, terminals, causes, exit codes and the grant that follows.
//!
//! The table is in `docs/GOVERNOR.md`. No edge leaves a terminal, and nothing here decides: decisions are
//! in [`super::step`].

use serde::{Deserialize, Serialize};

use super::budget::BudgetKind;
use super::latch::StopCause;
use super::settings::Settings;
use crate::limits::GRANT_TTL;
use crate::units::{Rate, RunTime, Share};

/// Where a hold returns to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldFrom {
    /// The ramp.
    Ramp,
    /// The trace.
    Measure,
    /// The recovery.
    Recover,
}

/// What the governor is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Looking at guards; nothing is sent.
    Preflight,
    /// Freezing baselines; nothing is sent.
    Baseline,
    /// A trickle, to prove that guards see us.
    Probe,
    /// Growing step by step on the stationary plan.
    Ramp,
    /// Sending the trace.
    Measure,
    /// Frozen until clean.
    Hold(HeldFrom),
    /// Cut, waiting for health.
    BackOff,
    /// Growing again, below what broke.
    Recover,
    /// Stopped by a person, may resume.
    Paused,
    /// Nothing more to send; answers are awaited.
    Draining,
    /// Watching the guards after the load.
    Aftercare,
    /// Latched; answers are awaited for a short time.
    Aborting,
    /// Over.
    Done,
}

impl Phase {
    /// Whether requests may leave in this phase.
    #[must_use]
    pub fn is_sending(self) -> bool {
        match self {
            Self::Probe | Self::Ramp | Self::Measure | Self::Hold(_) | Self::BackOff | Self::Recover => true,
            Self::Preflight
            | Self::Baseline
            | Self::Paused
            | Self::Draining
            | Self::Aftercare
            | Self::Aborting
            | Self::Done => false,
        }
    }

    /// The word for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::Baseline => "baseline",
            Self::Probe => "probe",
            Self::Ramp => "ramp",
            Self::Measure => "measure",
            Self::Hold(_) => "hold",
            Self::BackOff => "back_off",
            Self::Recover => "recover",
            Self::Paused => "paused",
            Self::Draining => "draining",
            Self::Aftercare => "aftercare",
            Self::Aborting => "aborting",
            Self::Done => "done",
        }
    }
}

/// Why a run was refused, stopped or aborted. Guards are named by their index in the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The latch.
    Stop(StopCause),
    /// The governor's own tick came too late.
    TickLate,
    /// The wall clock jumped.
    ClockJump,
    /// A worker fell silent.
    WorkerSilent,
    /// A guard passed its abort threshold.
    GuardAbort(usize),
    /// A guard is wrong (bad query, no access).
    GuardFault(usize),
    /// A required guard had no data for too long.
    GuardNoData(usize),
    /// A guard was breached already at the probe rate.
    ProbeBreach(usize),
    /// The probe proved nothing in its time.
    ProbeUnproven,
    /// The guards were not healthy in time before the start.
    PreflightTimeout,
    /// The lead-in neither proved the target nor failed within its limit.
    LeadInTooLong,
    /// Too many back-offs, or two too close.
    TooManyBackOffs,
    /// A cut would fall below the floor.
    BelowFloor,
    /// Back-off did not bring health back.
    NeverRecovered,
    /// A budget is used up.
    Budget(BudgetKind),
    /// The guards do not see what we send.
    NotVisible,
    /// A guard has no baseline to be measured against.
    NoBaseline(usize),
    /// A guard is too far from its baseline before anything was sent.
    Abnormal(usize),
    /// More organic users than the window expects, or as many as users and ours together may be.
    OrganicTooHigh,
    /// The window was closed before anything was sent.
    WindowClosed,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Terminal {
    /// All of the plan was offered at full share.
    Completed,
    /// The plan was offered, but not at full share throughout.
    CompletedCapped,
    /// A person said stop.
    Stopped(Cause),
    /// Aborted.
    Aborted(Cause),
    /// Never started.
    Refused(Cause),
}

impl Terminal {
    /// The terminal that `cause` leads to; `sent_anything` tells refusal from abortion.
    #[must_use]
    pub fn of(cause: Cause, sent_anything: bool) -> Self {
        match cause {
            Cause::Stop(StopCause::Signal | StopCause::KillFile | StopCause::Control) => Self::Stopped(cause),
            _ if sent_anything => Self::Aborted(cause),
            _ => Self::Refused(cause),
        }
    }

    /// Exit code (contract: 0 passed, 1 our fault, 3 refused, 4 production said stop, 5 capped, 6 a person,
    /// 7 blind or slow).
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Completed => 0,
            Self::CompletedCapped => 5,
            Self::Stopped(_) => 6,
            Self::Refused(_) => 3,
            Self::Aborted(cause) => match cause {
                Cause::Stop(StopCause::Signal | StopCause::KillFile | StopCause::Control) => 6,
                Cause::Stop(
                    StopCause::HardCeiling
                    | StopCause::Journal
                    | StopCause::Plan
                    | StopCause::BudgetStore
                    | StopCause::Panic,
                ) => 1,
                Cause::Stop(StopCause::TargetSaidStop | StopCause::Governor)
                | Cause::GuardAbort(_)
                | Cause::ProbeBreach(_)
                | Cause::TooManyBackOffs
                | Cause::BelowFloor
                | Cause::NeverRecovered
                | Cause::Budget(_)
                | Cause::Abnormal(_)
                | Cause::OrganicTooHigh => 4,
                Cause::Stop(StopCause::GovernorGone | StopCause::WorkerGone)
                | Cause::TickLate
                | Cause::ClockJump
                | Cause::WorkerSilent
                | Cause::GuardFault(_)
                | Cause::GuardNoData(_)
                | Cause::ProbeUnproven
                | Cause::LeadInTooLong
                | Cause::NotVisible
                | Cause::NoBaseline(_)
                | Cause::WindowClosed
                | Cause::PreflightTimeout => 7,
            },
        }
    }

    /// The word in `report.json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::CompletedCapped => "completed_capped",
            Self::Stopped(_) => "stopped",
            Self::Aborted(_) => "aborted",
            Self::Refused(_) => "refused",
        }
    }

    /// Why, where there is a why.
    #[must_use]
    pub fn cause(self) -> Option<Cause> {
        match self {
            Self::Completed | Self::CompletedCapped => None,
            Self::Stopped(c) | Self::Aborted(c) | Self::Refused(c) => Some(c),
        }
    }
}

/// The whole memory of the governor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// What it is doing.
    pub phase: Phase,
    /// Share of the plan allowed now.
    pub share: Share,
    /// Highest share allowed from now on.
    pub share_cap: Share,
    /// When this phase was entered.
    pub entered: RunTime,
    /// When the current step, or the stretch of health in preflight, began.
    pub step_began: RunTime,
    /// No required guard was anything but good since the step began.
    pub step_clean: bool,
    /// Sent, offered and due when the step began.
    pub step_counts: (u64, u64, u64),
    /// When the lead-in began.
    pub lead_in_began: RunTime,
    /// The trace is under way (absolute schedule): recovery returns to it, not to the ramp.
    pub measuring: bool,
    /// Full share was not reached or not kept.
    pub capped: bool,
    /// A person paused the run: after preflight comes recovery.
    pub resuming: bool,
    /// Anything may have been sent.
    pub sent_anything: bool,
    /// The probe has been passed.
    pub probed: bool,
    /// The highest second of ours with every guard good.
    pub proven: Rate,
    /// The highest rate achieved before a breach, the lowest such one.
    pub broken: Option<Rate>,
    /// When back-off was entered, each time.
    pub entries: Vec<RunTime>,
    /// Cuts, the entries included.
    pub cuts: u32,
    /// When the share was last cut.
    pub cut_at: RunTime,
    /// Guard values at the last cut.
    pub cut_values: Vec<Option<f64>>,
    /// Highest share that leaves room for organic users.
    pub organic_cap: Share,
    /// When that share last rose.
    pub organic_at: RunTime,
    /// Cuts under observation: did the guard recover because of them?
    pub experiments: Vec<Experiment>,
    /// Values of the guards before anything was sent.
    pub calm_values: Vec<Option<f64>>,
    /// When the load ended.
    pub load_ended: Option<RunTime>,
    /// When the guards were back to those values after the load, and stayed so.
    pub calm_at: Option<RunTime>,
    /// How the run ends, known from Aborting or Draining on.
    pub terminal: Option<Terminal>,
}

/// What became of a cut that a slow guard asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attribution {
    /// Not known yet.
    Open,
    /// The guard recovered within its lag after the cut: caused by this run.
    CausedByThisRun,
    /// It did not: something else was the matter, too or only.
    Coincident,
}

/// A cut under observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Experiment {
    /// The guard that asked for the cut.
    pub guard: usize,
    /// When it was made.
    pub at: RunTime,
    /// What came of it.
    pub verdict: Attribution,
}

/// What the governor allows until `not_after`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Share of the plan; the rest is thinned by session.
    pub share: Share,
    /// Ceiling of the bucket.
    pub ceiling: Rate,
    /// End of the lease.
    pub not_after: RunTime,
}

impl State {
    /// The first state of a run.
    #[must_use]
    pub fn start(settings: &Settings) -> Self {
        Self {
            phase: Phase::Preflight,
            share: Share::ZERO,
            share_cap: settings.share_max,
            entered: RunTime::START,
            step_began: RunTime::START,
            step_clean: true,
            step_counts: (0, 0, 0),
            lead_in_began: RunTime::START,
            measuring: false,
            capped: settings.share_max < Share::ONE,
            resuming: false,
            sent_anything: false,
            probed: false,
            proven: Rate::ZERO,
            broken: None,
            entries: Vec::new(),
            cuts: 0,
            cut_at: RunTime::START,
            cut_values: vec![None; settings.guards.len()],
            organic_cap: Share::ONE,
            organic_at: RunTime::START,
            experiments: Vec::new(),
            calm_values: vec![None; settings.guards.len()],
            load_ended: None,
            calm_at: None,
            terminal: None,
        }
    }

    /// The share that may be sent while sending: what was proved, below what broke, beside the users.
    #[must_use]
    pub fn allowed(&self) -> Share {
        self.share.min(self.share_cap).min(self.organic_cap)
    }

    /// What this state allows from `now` on. Past the end of the window nothing is.
    #[must_use]
    pub fn grant(&self, settings: &Settings, now: RunTime) -> Grant {
        let lease = RunTime(now.0.saturating_add(GRANT_TTL.as_nanos() as u64));
        let not_after = settings.window_end.map_or(lease, |end| lease.min(end));
        let open = self.phase.is_sending() && not_after > now;
        let share = if open { self.allowed() } else { Share::ZERO };
        Grant { share, ceiling: settings.target.times(share), not_after }
    }
}
