//! A recorded run decided again under other limits: what would this policy have done with those readings?
//!
//! The readings are the recorded ones. Once the new decisions differ from the old ones, the traffic would have
//! been different and so would the readings: from there on it is an approximation, and its callers say so.

use crate::govern::guard::{Guard, GuardSpec, Sample, View};
use crate::govern::inputs::Inputs;
use crate::govern::reading::{Answer, Reading};
use crate::govern::settings::Settings;
use crate::govern::state::State;
use crate::govern::step::{Effect, step};

/// What came of it.
#[derive(Debug)]
pub struct Again {
    /// Inputs with views classified anew, states and effects.
    pub ticks: Vec<(Inputs, State, Vec<Effect>)>,
    /// The first tick that comes out otherwise.
    pub differs_at: Option<usize>,
}

/// The answer that a recorded reading came from, as far as it is known.
fn answer(reading: Reading, min_samples: u64) -> Answer {
    match reading {
        Reading::Good(v) | Reading::Hold(v) | Reading::BackOff(v) | Reading::Abort(v) => Answer::number(v),
        Reading::Neutral => Answer::Value { value: 0.0, samples: min_samples.saturating_sub(1) },
        Reading::NoData(why) => Answer::NoData(why),
        Reading::Fault(why) => Answer::Fault(why),
    }
}

/// Classifies recorded views under `spec`: a reading counts once when it changes, and once per `max_age` while it
/// stays.
struct Replayed<'a> {
    spec: &'a GuardSpec,
    guard: Guard,
    last: Option<(Reading, u64)>,
}

impl Replayed<'_> {
    fn view(&mut self, i: &Inputs, old: View) -> View {
        let due = |at: u64| i.now.0.saturating_sub(at) >= self.spec.max_age.as_nanos() as u64 / 3;
        if self.last.is_none_or(|(r, at)| r != old.reading || due(at)) {
            self.last = Some((old.reading, i.now.0));
            let answer = answer(old.reading, self.spec.min_samples.max(1));
            self.guard.observe(self.spec, i.now, Sample { seq: i.now.0, requested_at: i.now, answer });
        }
        self.guard.view(self.spec, i.now)
    }
}

/// Decides `ticks` again under `settings`, whose guards are matched to the recorded ones by name.
///
/// # Errors
/// When a guard has no recorded readings.
pub fn decide(
    settings: &Settings,
    recorded: &Settings,
    ticks: &[(&Inputs, &State)],
) -> Result<Again, String> {
    let mut sources = Vec::new();
    for spec in &settings.guards {
        match recorded.guards.iter().position(|g| g.name == spec.name) {
            Some(index) => sources.push((index, Replayed { spec, guard: Guard::default(), last: None })),
            None => return Err(format!("the journal has no readings of guard {:?}", spec.name)),
        }
    }
    let mut state = State::start(settings);
    let mut out = Vec::with_capacity(ticks.len());
    let mut differs_at = None;
    for (n, (inputs, old)) in ticks.iter().enumerate() {
        let mut again = (*inputs).clone();
        again.guards =
            sources.iter_mut().filter_map(|(i, r)| Some(r.view(inputs, *inputs.guards.get(*i)?))).collect();
        let (next, effects) = step(settings, &state, &again);
        state = next;
        if differs_at.is_none() && (state.phase != old.phase || state.share != old.share) {
            differs_at = Some(n);
        }
        out.push((again, state.clone(), effects));
    }
    Ok(Again { ticks: out, differs_at })
}
