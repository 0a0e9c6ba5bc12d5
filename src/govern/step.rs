//! One step of the governor: `(settings, state, inputs) -> (state, effects)`.
//!
//! Pure and total: no clock, no I/O, no randomness; the same inputs give the same states, which is how a
//! journal is re-decided. The rules are tried in order of priority and the first that matches wins, so a
//! reason to stop is looked at before any reason to go on, in every state.

use serde::{Deserialize, Serialize};

use super::inputs::Inputs;
use super::settings::Settings;
use super::state::{Attribution, Phase, State, Terminal};
use super::step_rules as rules;
use crate::units::{RunTime, Share};

/// What the engine must do because of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// The phase changed.
    Entered {
        /// From this phase.
        from: Phase,
        /// To this one.
        to: Phase,
    },
    /// The share was cut.
    Cut {
        /// Before.
        from: Share,
        /// After.
        to: Share,
        /// The guard that asked for it, if one did.
        guard: Option<usize>,
    },
    /// The share grew.
    Grown {
        /// Before.
        from: Share,
        /// After.
        to: Share,
    },
    /// What became of a cut that this guard had asked for.
    Attributed {
        /// The guard.
        guard: usize,
        /// The verdict.
        verdict: Attribution,
    },
    /// Users left less room, or more again.
    Room {
        /// Highest share before.
        from: Share,
        /// And now.
        to: Share,
    },
    /// After the load the guards were back where they had been before it.
    Calm,
    /// Start the stationary plan.
    StartLeadIn,
    /// Start the trace.
    StartMeasure,
    /// Stop sending; answers are awaited.
    StopSending,
    /// Set the latch: the run is over for good.
    Latch,
    /// The run has ended.
    Finished(Terminal),
}

/// The state under change in one step, with the effects so far.
pub(super) struct Change<'a> {
    pub(super) settings: &'a Settings,
    pub(super) inputs: &'a Inputs,
    pub(super) state: State,
    pub(super) effects: Vec<Effect>,
}

impl Change<'_> {
    pub(super) fn now(&self) -> RunTime {
        self.inputs.now
    }

    /// Moves to `to` and begins a step there.
    pub(super) fn enter(&mut self, to: Phase) {
        let from = self.state.phase;
        self.state.phase = to;
        self.state.entered = self.now();
        if to == Phase::Draining {
            self.state.load_ended = Some(self.now());
        }
        self.begin_step();
        self.effects.push(Effect::Entered { from, to });
    }

    pub(super) fn begin_step(&mut self) {
        self.state.step_began = self.now();
        self.state.step_clean = true;
        self.state.step_counts = (self.inputs.sent, self.inputs.offered, self.inputs.due);
    }

    /// Sets the latch and awaits answers.
    pub(super) fn abort(&mut self, cause: super::state::Cause) {
        self.state.terminal = Some(Terminal::of(cause, self.state.sent_anything));
        self.state.share = Share::ZERO;
        self.effects.push(Effect::Latch);
        self.effects.push(Effect::StopSending);
        self.enter(Phase::Aborting);
    }
}

/// The next state.
#[must_use]
pub fn step(settings: &Settings, state: &State, inputs: &Inputs) -> (State, Vec<Effect>) {
    let mut change = Change { settings, inputs, state: state.clone(), effects: Vec::new() };
    if change.state.phase == Phase::Done {
        return (change.state, change.effects);
    }
    change.state.step_clean &= rules::all_good(&change);
    super::step_watch::note(&mut change);
    let rules = [
        rules::stop,
        rules::guard_abort,
        rules::budget,
        rules::finish,
        rules::lead_in_limit,
        rules::no_data,
        rules::back_off,
        rules::hold,
        rules::order,
    ];
    // `any` stops at the first rule that acts: that is the priority.
    if !rules.iter().any(|rule| rule(&mut change)) {
        super::step_edges::progress(&mut change);
    }
    (change.state, change.effects)
}

#[cfg(test)]
#[path = "step_tests.rs"]
pub(super) mod tests;

#[cfg(test)]
#[path = "step_boundary_tests.rs"]
mod boundary_tests;

#[cfg(test)]
#[path = "step_watch_tests.rs"]
mod watch_tests;
