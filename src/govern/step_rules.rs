//! The rules of the governor, highest priority first. Each says whether it acted.
//!
//! Numbers in the comments are those of `docs/GOVERNOR.md`, section "Priority".

use std::time::Duration;

use super::guard::{Level, Origin};
use super::inputs::Order;
use super::settings::{CUT_SETTLE, HOLD_ACHIEVED_MIN, RECOVER_CAP, SAMPLE_MIN};
use super::state::{Cause, HeldFrom, Phase};
use super::step::{Change, Effect};
use super::step_watch::begin_experiment;
use crate::limits::{CLOCK_JUMP_ABORT, SKEW_HOLD, TICK_LATE_ABORT, WORKER_SILENT_ABORT, WORKER_SILENT_HOLD};
use crate::units::{Rate, Share};

/// Whether what we measure ourselves and the clocks can be relied on: our own sending is in time, no worker is slow,
/// the source of the guards has our time.
fn is_reliable(c: &Change) -> bool {
    let slow = c.inputs.worker_silent_ms > WORKER_SILENT_HOLD.as_millis() as u64;
    let skewed = c.inputs.skew_ms > SKEW_HOLD.as_millis() as u64;
    !slow && !skewed && !c.inputs.saturated
}

/// Whether every guard that matters for growth is good (or neutral where that is no obstacle).
pub(super) fn all_good(c: &Change) -> bool {
    let fine = |(i, view): (usize, &super::guard::View)| match view.level {
        Level::Good => true,
        Level::Neutral => !c.settings.guards.get(i).is_some_and(|g| g.required && g.neutral_blocks),
        Level::NoData => !c.settings.guards.get(i).is_some_and(|g| g.required),
        Level::Suspect | Level::Hold | Level::BackOff | Level::Abort | Level::Fault => false,
    };
    // A missing view is missing information: never good.
    is_reliable(c)
        && c.inputs.guards.len() == c.settings.guards.len()
        && c.inputs.guards.iter().enumerate().all(fine)
}

/// Whether every guard allows a start: good or neutral (an idle night must not mean "never").
pub(super) fn all_startable(c: &Change) -> bool {
    let fine = |(i, view): (usize, &super::guard::View)| match view.level {
        Level::Good | Level::Neutral => true,
        Level::NoData => !c.settings.guards.get(i).is_some_and(|g| g.required),
        Level::Suspect | Level::Hold | Level::BackOff | Level::Abort | Level::Fault => false,
    };
    is_reliable(c)
        && c.inputs.guards.len() == c.settings.guards.len()
        && c.inputs.guards.iter().enumerate().all(fine)
}

/// Whether every guard has been clean for its own `clear_for`. Neutral guards that do not block count.
pub(super) fn all_clean(c: &Change) -> bool {
    let clean = |(i, view): (usize, &super::guard::View)| {
        let Some(spec) = c.settings.guards.get(i) else { return false };
        let long = Duration::from_millis(view.clean_ms) >= spec.clear_for;
        match view.level {
            Level::Good => long,
            Level::Neutral => long || !(spec.required && spec.neutral_blocks),
            Level::NoData => !spec.required,
            Level::Suspect | Level::Hold | Level::BackOff | Level::Abort | Level::Fault => false,
        }
    };
    let calm = c.now() >= c.inputs.quiet_until && is_reliable(c);
    calm && c.inputs.guards.len() == c.settings.guards.len() && c.inputs.guards.iter().enumerate().all(clean)
}

fn first(c: &Change, level: Level) -> Option<usize> {
    c.inputs.guards.iter().position(|v| v.level == level)
}

/// Rule 1: latch, signals, kill file, late ticks, clock jumps, silent workers. Everywhere.
pub(super) fn stop(c: &mut Change) -> bool {
    let ms = |d: Duration| d.as_millis() as u64;
    let cause = if let Some(stop) = c.inputs.stop {
        Cause::Stop(stop)
    } else if c.inputs.tick_late_ms > ms(TICK_LATE_ABORT) {
        Cause::TickLate
    } else if c.inputs.clock_jump_ms > ms(CLOCK_JUMP_ABORT) {
        Cause::ClockJump
    } else if c.inputs.worker_silent_ms > ms(WORKER_SILENT_ABORT) {
        Cause::WorkerSilent
    } else {
        return false;
    };
    if c.state.phase == Phase::Aborting {
        return false;
    }
    c.abort(cause);
    true
}

/// Rule 2: an abort reading or a guard that is wrong. Everywhere but while aborting.
pub(super) fn guard_abort(c: &mut Change) -> bool {
    if c.state.phase == Phase::Aborting {
        return false;
    }
    let fault = first(c, Level::Fault).map(Cause::GuardFault);
    let Some(cause) = first(c, Level::Abort).map(Cause::GuardAbort).or(fault) else { return false };
    c.abort(cause);
    true
}

/// Rule 3: a budget is used up. Sending states.
pub(super) fn budget(c: &mut Change) -> bool {
    let Some(kind) = c.inputs.budget.filter(|_| c.state.phase.is_sending()) else { return false };
    c.abort(Cause::Budget(kind));
    true
}

/// Rule 3: the plan, the window or the request budget has ended. Sending states and pauses; a run that has not
/// sent anything yet when its window closes is refused.
pub(super) fn finish(c: &mut Change) -> bool {
    let waiting = matches!(c.state.phase, Phase::Preflight | Phase::Baseline);
    if waiting && !c.state.resuming {
        let closed = c.inputs.window_left_ms == Some(0);
        if closed {
            c.abort(Cause::WindowClosed);
        }
        return closed;
    }
    let running = c.state.phase.is_sending() || c.state.phase == Phase::Paused || waiting;
    let Some(finish) = c.inputs.finish.filter(|_| running) else { return false };
    c.state.share = Share::ZERO;
    // Cut short is not complete, whatever was sent until then went well.
    c.state.capped |= finish != super::inputs::Finish::TraceEnd;
    c.effects.push(Effect::StopSending);
    c.enter(Phase::Draining);
    true
}

/// The lead-in has a limit: an endless climb at half the target is load that nobody asked for.
pub(super) fn lead_in_limit(c: &mut Change) -> bool {
    let climbing = c.state.phase.is_sending() && !c.state.measuring && c.settings.lead_in;
    let over = climbing && c.now().since(c.state.lead_in_began) >= c.settings.lead_in_max;
    if over {
        c.abort(Cause::LeadInTooLong);
    }
    over
}

/// Rule 4: a required guard has no data. Sending states.
pub(super) fn no_data(c: &mut Change) -> bool {
    if !c.state.phase.is_sending() {
        return false;
    }
    let blind = |c: &Change, harm: bool| {
        c.inputs.guards.iter().enumerate().position(|(i, v)| {
            let spec = &c.settings.guards.get(i);
            v.level == Level::NoData && spec.is_some_and(|s| s.required && (s.harm || !harm))
        })
    };
    let too_long = c.inputs.guards.iter().enumerate().position(|(i, v)| {
        let required = c.settings.guards.get(i).is_some_and(|s| s.required);
        required && Duration::from_millis(v.no_data_ms) >= c.settings.no_data_abort
    });
    if let Some(guard) = too_long {
        c.abort(Cause::GuardNoData(guard));
        return true;
    }
    if blind(c, false).is_none() {
        return false;
    }
    match c.state.phase {
        // Nothing to cut at the probe rate and nothing to freeze: growth is barred anyway, time decides.
        Phase::Probe | Phase::BackOff => false,
        Phase::Hold(_) if c.state.share <= c.settings.probe_share => false,
        // A breach elsewhere is worse than blindness here.
        _ if first(c, Level::BackOff).is_some() => false,
        _ => match blind(c, true) {
            Some(guard) if c.state.share > c.settings.probe_share => {
                cut(c, Some(guard), true);
                true
            }
            _ => hold_now(c),
        },
    }
}

/// Rule 5 and 6: a confirmed breach, or the target asking for quiet.
pub(super) fn back_off(c: &mut Change) -> bool {
    let breach = first(c, Level::BackOff);
    let quiet = c.now() < c.inputs.quiet_until;
    match c.state.phase {
        Phase::Probe => {
            let Some(guard) = breach else { return false };
            c.abort(Cause::ProbeBreach(guard));
            true
        }
        Phase::Ramp | Phase::Measure | Phase::Hold(_) | Phase::Recover => {
            if breach.is_none() && !quiet {
                return false;
            }
            cut(c, breach, true);
            true
        }
        Phase::BackOff => cut_again(c),
        // Nothing is left to cut, but harm that shows late must not end as a pass.
        Phase::Draining | Phase::Aftercare => {
            c.state.capped |= breach.is_some();
            false
        }
        Phase::Preflight | Phase::Baseline | Phase::Paused | Phase::Aborting | Phase::Done => false,
    }
}

/// Inside back-off: a local breach judged after its own lag, any guard 20 % worse than at the cut, or one
/// that has gone blind since, cuts again; a slow guard that is merely still high does not.
fn cut_again(c: &mut Change) -> bool {
    let since_cut = c.now().since(c.state.cut_at);
    if since_cut < CUT_SETTLE {
        return false;
    }
    let again = c.inputs.guards.iter().enumerate().position(|(i, view)| {
        let Some(spec) = c.settings.guards.get(i) else { return true };
        let local = spec.origin == Origin::Local && view.level == Level::BackOff && since_cut > spec.lag;
        let before = c.state.cut_values.get(i).copied().flatten();
        let worse = match (view.reading.value(), before) {
            (Some(v), Some(b)) => view.level == Level::BackOff && spec.thresholds.is_worse(v, b),
            // Blind where it could see at the cut: no gentler than worse.
            (None, Some(_)) => view.level == Level::NoData && spec.required && spec.harm,
            // It had nothing to say at the cut and has now.
            (Some(_), None) => view.level == Level::BackOff && spec.origin != Origin::Local,
            (None, None) => false,
        };
        local || worse
    });
    let Some(guard) = again else { return false };
    cut(c, Some(guard), false);
    true
}

/// Halves what was achieved. `entry` enters back-off and counts; otherwise it is a further cut inside.
pub(super) fn cut(c: &mut Change, guard: Option<usize>, entry: bool) {
    let from = c.state.allowed();
    if let Some(guard) =
        guard.filter(|g| c.inputs.guards.get(*g).is_some_and(|v| v.reading.value().is_some()))
    {
        // A cut for blindness says nothing about harm, so nothing can be learnt from it.
        begin_experiment(c, guard);
    }
    let achieved = achieved_share(c);
    let to = achieved.halved();
    note_broken(c);
    // What broke bounds the grant too, so the floor must hold for the smaller of both.
    let to = to.min(c.state.share_cap);
    c.state.cuts = c.state.cuts.saturating_add(1);
    c.state.cut_at = c.now();
    c.state.cut_values = c.inputs.guards.iter().map(|v| v.reading.value()).collect();
    c.state.capped = true;
    if entry {
        c.state.entries.push(c.now());
    }
    let close = match c.state.entries.as_slice() {
        [.., a, b] => b.since(*a) < c.settings.backoff_window,
        _ => false,
    };
    let many = c.state.entries.len() > c.settings.max_backoffs as usize;
    if entry && (many || close) {
        c.abort(Cause::TooManyBackOffs);
    } else if to < c.settings.floor {
        c.abort(Cause::BelowFloor);
    } else {
        c.state.share = to;
        c.effects.push(Effect::Cut { from, to, guard });
        if entry {
            c.enter(Phase::BackOff);
        }
    }
}

/// The share that was really sent in the last second: never above the share allowed.
fn achieved_share(c: &Change) -> Share {
    let (sent, due) = (c.inputs.sent_1s, c.inputs.due_1s);
    if due < SAMPLE_MIN {
        return c.state.allowed();
    }
    Share::from_f64(sent as f64 / due as f64).min(c.state.allowed())
}

fn note_broken(c: &mut Change) {
    let now = c.inputs.achieved_max;
    if now == Rate::ZERO {
        return; // nothing was sent, so no rate broke
    }
    let broken = c.state.broken.map_or(now, |b| b.min(now));
    c.state.broken = Some(broken);
    c.state.share_cap = c.state.share_cap.min(recover_cap(broken, c.settings.target));
}

fn recover_cap(broken: Rate, target: Rate) -> Share {
    if target == Rate::ZERO {
        return Share::ZERO;
    }
    Share::from_f64(RECOVER_CAP * broken.mrps as f64 / target.mrps as f64)
}

/// Rule 7: a hold reading, our own lateness, a worker that is slow to answer.
pub(super) fn hold(c: &mut Change) -> bool {
    if first(c, Level::Hold).is_none() && is_reliable(c) {
        return false;
    }
    hold_now(c)
}

fn hold_now(c: &mut Change) -> bool {
    let from = match c.state.phase {
        Phase::Ramp => HeldFrom::Ramp,
        Phase::Measure => HeldFrom::Measure,
        Phase::Recover => HeldFrom::Recover,
        Phase::Preflight
        | Phase::Baseline
        | Phase::Probe
        | Phase::Hold(_)
        | Phase::BackOff
        | Phase::Paused
        | Phase::Draining
        | Phase::Aftercare
        | Phase::Aborting
        | Phase::Done => return false,
    };
    freeze_achieved(c);
    c.enter(Phase::Hold(from));
    true
}

/// A hold keeps what was achieved, not what was allowed: a rise within an unused allowance is a rise.
fn freeze_achieved(c: &mut Change) {
    let (allowed, achieved) = (c.state.allowed(), achieved_share(c));
    if achieved.as_f64() < HOLD_ACHIEVED_MIN * allowed.as_f64() {
        c.state.share = achieved.max(c.settings.probe_share.min(allowed));
        c.state.capped |= c.state.measuring;
    }
}

/// A person's standing order. Below every safety rule, above growth.
pub(super) fn order(c: &mut Change) -> bool {
    match (c.inputs.order, c.state.phase) {
        (Order::Pause, phase) if phase.is_sending() => {
            c.state.share = Share::ZERO;
            c.state.capped = true;
            c.enter(Phase::Paused);
            true
        }
        // Only the word to go on goes on: a freeze given to a paused run does not start it.
        (Order::Go, Phase::Paused) => {
            c.state.resuming = true;
            c.enter(Phase::Preflight);
            true
        }
        (Order::Freeze, Phase::Ramp | Phase::Measure | Phase::Recover) => hold_now(c),
        (Order::Go | Order::Freeze | Order::Pause, _) => false,
    }
}
