//! Why a run ended, in words, with the evidence: what the guards said last, and their limits.
//!
//! For a tired person at 03:00: a cause about guards names the guard, its reading and its limits.

use crate::govern::guard::{GuardSpec, Level, View};
use crate::govern::reading::Reading;
use crate::govern::state::{Cause, Terminal};
use crate::measure::fidelity::Fidelity;
use crate::policy::sources;

/// A cause in words; guards by their names.
#[must_use]
pub fn cause_words(cause: Cause, guards: &[&GuardSpec]) -> String {
    let guard = |i: usize| guards.get(i).map_or("a guard", |g| g.name.as_str());
    match cause {
        Cause::Stop(stop) => stop.words().to_owned(),
        Cause::TickLate => "this machine stalled: the governor was late for more than 2 s".to_owned(),
        Cause::ClockJump => "the wall clock jumped by more than 2 s".to_owned(),
        Cause::WorkerSilent => "a worker thread was silent for more than 2 s".to_owned(),
        Cause::GuardAbort(i) => format!("guard {:?} passed its abort limit", guard(i)),
        Cause::GuardFault(i) => {
            format!("guard {:?} is wrong: its source refuses the query or the access", guard(i))
        }
        Cause::GuardNoData(i) => format!("guard {:?} had no data for too long", guard(i)),
        Cause::ProbeBreach(i) => format!("guard {:?} was breached at the probe rate already", guard(i)),
        Cause::ProbeUnproven => "the probe proved nothing: too few answers or guards without data".to_owned(),
        Cause::LeadInTooLong => {
            "the lead-in neither reached the target nor failed within its limit".to_owned()
        }
        Cause::PreflightTimeout => "the guards were not healthy in time before the start".to_owned(),
        Cause::TooManyBackOffs => "too many back-offs, or two too close together".to_owned(),
        Cause::BelowFloor => "another cut would have fallen below the floor".to_owned(),
        Cause::NeverRecovered => "the guards did not recover after the back-off".to_owned(),
        Cause::Budget(kind) => format!("the budget of {} is used up", kind.name()),
        Cause::NotVisible => {
            "the guards do not see what we send: the visibility query did not rise with the probe (wrong Prometheus, cluster or label?)".to_owned()
        }
        Cause::NoBaseline(i) => {
            format!("guard {:?} has no baseline: too few points of the past, runs of ours left out", guard(i))
        }
        Cause::Abnormal(i) if guard(i) == sources::VISIBILITY => {
            "the visibility query showed less than expect_min_rps before anything was sent: is this the right Prometheus?".to_owned()
        }
        Cause::Abnormal(i) => {
            format!("guard {:?} was too far from its baseline before anything was sent", guard(i))
        }
        Cause::OrganicTooHigh => {
            "more organic users than the window expects, or than leave any room below hold_total".to_owned()
        }
        Cause::WindowClosed => "the window closed before anything was sent".to_owned(),
    }
}

/// What the guards said last, where a cause is about guards.
pub(super) fn evidence(cause: Cause, guards: &[(&GuardSpec, Option<f64>, Option<View>)]) -> String {
    let one = |(spec, _, view): &(&GuardSpec, Option<f64>, Option<View>)| {
        let reading = view.as_ref().map_or_else(|| "no reading".to_owned(), |v| reading_words(v.reading));
        format!("{:?} {reading}", spec.name)
    };
    let bad = |(_, _, view): &&(&GuardSpec, Option<f64>, Option<View>)| {
        !view.as_ref().is_some_and(|v| matches!(v.level, Level::Good | Level::Neutral))
    };
    match cause {
        Cause::GuardAbort(i)
        | Cause::GuardFault(i)
        | Cause::GuardNoData(i)
        | Cause::ProbeBreach(i)
        | Cause::NoBaseline(i)
        | Cause::Abnormal(i) => guards
            .get(i)
            .map_or_else(String::new, |g| format!(" ({}, limits: {})", one(g), limits_words(g.0))),
        Cause::PreflightTimeout
        | Cause::ProbeUnproven
        | Cause::TooManyBackOffs
        | Cause::BelowFloor
        | Cause::NeverRecovered
        | Cause::LeadInTooLong => {
            let names: Vec<String> = guards.iter().filter(bad).map(one).collect();
            if names.is_empty() { String::new() } else { format!(" (at the end: {})", names.join("; ")) }
        }
        Cause::NotVisible | Cause::OrganicTooHigh => {
            let asked = |g: &&(&GuardSpec, Option<f64>, Option<View>)| {
                matches!(g.0.name.as_str(), sources::VISIBILITY | sources::ORGANIC)
            };
            let said: Vec<String> = guards.iter().filter(asked).map(one).collect();
            format!(" ({})", said.join("; "))
        }
        Cause::Stop(_)
        | Cause::TickLate
        | Cause::ClockJump
        | Cause::WorkerSilent
        | Cause::Budget(_)
        | Cause::WindowClosed => String::new(),
    }
}

/// The limits of a guard in words.
#[must_use]
pub fn limits_words(spec: &GuardSpec) -> String {
    let t = spec.thresholds;
    let rows = [("hold", t.hold), ("back off", t.back_off), ("abort", t.abort)];
    let shown: Vec<String> = rows.iter().filter_map(|(n, v)| v.map(|v| format!("{n} {v}"))).collect();
    format!("{} {}", shown.join(", "), spec.unit)
}

/// A reading in words, such as `was 0.31` or `had no data: timeout`.
pub(super) fn reading_words(reading: Reading) -> String {
    match (reading.value(), reading) {
        (Some(v), _) => format!("was {v:.4}"),
        (None, Reading::NoData(why)) => format!("had no data: {why:?}"),
        (None, Reading::Fault(why)) => format!("is wrong: {why:?}"),
        (None, _) => "had too few samples".to_owned(),
    }
}

/// Why a run that came to its end did not pass.
pub(super) fn shortfall(terminal: Terminal, exit_code: u8, fidelity: &Fidelity) -> Option<String> {
    match terminal {
        Terminal::CompletedCapped => Some("full scale was not reached, or not kept, or allowed".to_owned()),
        Terminal::Completed if exit_code != 0 => {
            let why = fidelity.reasons.first().cloned().unwrap_or_default();
            Some(format!("the result is not to be trusted: {why}"))
        }
        Terminal::Completed | Terminal::Stopped(_) | Terminal::Aborted(_) | Terminal::Refused(_) => None,
    }
}
