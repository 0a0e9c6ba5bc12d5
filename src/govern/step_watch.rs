//! What the governor notes in every step before any rule acts: room beside the users, what became of a cut,
//! and whether the guards are back where they were.
//!
//! None of it decides a phase. The only number here that bears on a rate is the room beside organic users,
//! and it falls at once while it rises like any growth: a half step at a time, on a whole clean step.

use super::guard::{Level, Origin, View};
use super::inputs::Order;
use super::reading::Reading;
use super::settings::OrganicRule;
use super::state::{Attribution, Experiment, Phase};
use super::step::{Change, Effect};
use super::step_edges::achieved;
use super::step_rules::all_good;
use crate::limits::EXPERIMENTS_MAX;
use crate::units::{Rate, Share};

/// Notes what this tick shows.
pub(super) fn note(c: &mut Change) {
    if c.state.phase.is_sending() && all_good(c) {
        c.state.proven = c.state.proven.max(Rate::per_sec(c.inputs.sent_1s));
    }
    if let Some(rule) = c.settings.organic {
        room(c, rule);
    }
    experiments(c);
    if c.state.phase == Phase::Aftercare {
        aftercare(c);
    }
}

/// The share of the plan that fits beside `organic` users.
pub(super) fn room_beside(target: Rate, total: Rate, organic: Rate) -> Share {
    let left = total.mrps.saturating_sub(organic.mrps);
    if target == Rate::ZERO { Share::ZERO } else { Share::from_f64(left as f64 / target.mrps as f64) }
}

/// Without a rate of users nothing changes here: their guard has no data then, and that rule acts.
fn room(c: &mut Change, rule: OrganicRule) {
    let (Some(total), Some(organic)) = (rule.hold_total, c.inputs.organic) else { return };
    let (from, room) = (c.state.organic_cap, room_beside(c.settings.target, total, organic));
    // While the share itself is lower, room more or less changes nothing that is sent.
    let binds = c.state.share.min(c.state.share_cap) > from;
    let to = if room <= from || !c.state.phase.is_sending() || !binds {
        room
    } else {
        // Nothing else begins a step while the trace is sent.
        if c.state.phase == Phase::Measure && !c.state.step_clean && all_good(c) {
            c.begin_step();
        }
        let since = c.state.organic_at.max(c.state.step_began);
        let long = c.now().since(since) >= c.settings.step_hold;
        let growing = matches!(c.state.phase, Phase::Ramp | Phase::Measure | Phase::Recover);
        let may = growing && c.inputs.order == Order::Go && c.state.step_clean && all_good(c) && achieved(c);
        // In a valley of the trace a share proves little: never far above what was really sent.
        let proven = Rate { mrps: c.state.proven.mrps.saturating_mul(5) / 4 };
        let proven = room_beside(c.settings.target, proven, Rate::ZERO);
        if long && may { from.grown(c.settings.step.halved(), room.min(proven.max(from))) } else { from }
    };
    if to == from {
        return;
    }
    if to > from && binds {
        c.state.organic_at = c.now();
        c.begin_step();
    }
    c.state.organic_cap = to;
    c.effects.push(Effect::Room { from, to });
}

/// A cut on a slow guard is an experiment: did the guard recover within its lag?
pub(super) fn begin_experiment(c: &mut Change, guard: usize) {
    let slow = c.settings.guards.get(guard).is_some_and(|g| g.origin != Origin::Local);
    let open = |e: &Experiment| e.guard == guard && e.verdict == Attribution::Open;
    if slow && c.state.experiments.len() < EXPERIMENTS_MAX && !c.state.experiments.iter().any(open) {
        c.state.experiments.push(Experiment { guard, at: c.now(), verdict: Attribution::Open });
    }
}

fn experiments(c: &mut Change) {
    let (now, settings, inputs) = (c.now(), c.settings, c.inputs);
    for e in c.state.experiments.iter_mut().filter(|e| e.verdict == Attribution::Open) {
        let (Some(spec), Some(view)) = (settings.guards.get(e.guard), inputs.guards.get(e.guard)) else {
            continue;
        };
        // The lag, and the polls that a confirmed reading needs on top.
        let due = spec.lag + spec.max_age;
        e.verdict = match view.level {
            Level::Good if now > e.at && now.since(e.at) <= due => Attribution::CausedByThisRun,
            _ if now.since(e.at) > due => Attribution::Coincident,
            _ => continue,
        };
        c.effects.push(Effect::Attributed { guard: e.guard, verdict: e.verdict });
    }
}

/// Whether a guard reads as it did before the load, or is on the good side of its clear limit.
fn is_calm(spec: &super::guard::GuardSpec, view: &View, before: Option<f64>) -> bool {
    match (view.level, view.reading) {
        (Level::Good, Reading::Good(v)) => {
            spec.thresholds.is_clear(v) || before.is_some_and(|b| !spec.thresholds.is_worse(v, b))
        }
        (Level::Neutral, _) => true,
        (Level::NoData, _) => !spec.required,
        _ => false,
    }
}

fn aftercare(c: &mut Change) {
    let calm = c.settings.guards.iter().enumerate().all(|(i, spec)| {
        let before = c.state.calm_values.get(i).copied().flatten();
        // Nothing is sent any more, so our own measurements have nothing to say.
        spec.origin == Origin::Local || c.inputs.guards.get(i).is_some_and(|v| is_calm(spec, v, before))
    });
    match (calm, c.state.calm_at) {
        (true, None) => {
            c.state.calm_at = Some(c.now());
            c.effects.push(Effect::Calm);
        }
        (false, Some(_)) => c.state.calm_at = None,
        (true, Some(_)) | (false, None) => {}
    }
}
