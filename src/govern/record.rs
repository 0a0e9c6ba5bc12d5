//! What a journal holds: every input and decision of a run, so that it can be explained and re-decided.
//!
//! Only the nouns are here; `engine::journal` writes them, `report::explain` and `simulate` read them.

use serde::{Deserialize, Serialize};

use super::guard::Thresholds;
use super::inputs::Inputs;
use super::settings::Settings;
use super::state::{Grant, State};
use super::step::{Effect, step};
use crate::units::{RunTime, WallTime};

/// One line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "nearly all lines are ticks")]
pub enum Line {
    /// The first line: what the governor was told once.
    Start {
        /// Run id.
        run: String,
        /// Host and port of the target.
        target: String,
        /// Wall-clock time of run time zero.
        at: WallTime,
        /// Settings.
        settings: Settings,
    },
    /// A guard's limits were fixed relative to its baseline.
    Baseline {
        /// When.
        at: RunTime,
        /// Index of the guard.
        guard: usize,
        /// The baseline.
        baseline: f64,
        /// The limits that follow.
        thresholds: Thresholds,
    },
    /// A drill moved the limits of a guard.
    Shifted {
        /// When.
        at: RunTime,
        /// Index of the guard.
        guard: usize,
    },
    /// Something that decided nothing but belongs to the story.
    Noted {
        /// When.
        at: RunTime,
        /// What, in words.
        what: String,
    },
    /// One tick: what it saw and what it decided.
    Tick {
        /// Inputs.
        inputs: Inputs,
        /// The state after.
        state: State,
        /// What changed.
        effects: Vec<Effect>,
        /// What was granted.
        grant: Grant,
    },
    /// The last line: the run ended in good order.
    End,
}

/// Where a re-decided journal first says something else, if it does.
#[derive(Debug, Clone, PartialEq)]
pub struct Divergence {
    /// Number of the tick, from 0.
    pub tick: usize,
    /// Its time.
    pub at: RunTime,
    /// Phase in the journal and phase when decided again.
    pub phases: (&'static str, &'static str),
}

/// Decides all ticks again from their inputs and compares (invariant 14).
#[must_use]
pub fn redecide<'a>(
    settings: &Settings,
    ticks: impl IntoIterator<Item = (&'a Inputs, &'a State)>,
) -> Option<Divergence> {
    let mut state = State::start(settings);
    for (tick, (inputs, recorded)) in ticks.into_iter().enumerate() {
        state = step(settings, &state, inputs).0;
        if state != *recorded {
            let phases = (recorded.phase.name(), state.phase.name());
            return Some(Divergence { tick, at: inputs.now, phases });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::step::tests::{FINE, inputs, settings};
    use super::*;

    #[test]
    fn a_journal_that_was_not_written_by_this_machine_diverges() {
        let s = settings();
        let mut states = Vec::new();
        let mut state = State::start(&s);
        for tick in 0..20 {
            let i = inputs(tick * 100, FINE);
            state = step(&s, &state, &i).0;
            states.push((i, state.clone()));
        }
        let again = |states: &[(Inputs, State)]| redecide(&s, states.iter().map(|(i, s)| (i, s)));
        assert_eq!(again(&states), None);
        let (phase, at) = (states[7].1.phase.name(), states[7].0.now);
        states[7].1.cuts += 1;
        assert_eq!(again(&states), Some(Divergence { tick: 7, at, phases: (phase, phase) }));
    }
}
