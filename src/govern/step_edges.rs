//! The ordinary edges of each phase, when no rule of [`super::step_rules`] acted: progress, growth, endings.
//!
//! Numbers in the comments are those of `docs/GOVERNOR.md`, section "Priority". Growth is the only thing
//! here that can raise a rate, and it needs a whole clean step that was really sent.

use std::time::Duration;

use super::guard::{Level, View};
use super::inputs::{Baseline, Order};
use super::settings::{ACHIEVED_MIN, SAMPLE_MIN};
use super::state::{Cause, HeldFrom, Phase, Terminal};
use super::step::{Change, Effect};
use super::step_rules::{all_clean, all_good, all_startable, cut};
use super::step_watch::room_beside;
use crate::units::Share;

/// Rule 8 and the ordinary edges of each phase.
pub(super) fn progress(c: &mut Change) {
    let in_phase = c.now().since(c.state.entered);
    match c.state.phase {
        Phase::Preflight => preflight(c, in_phase),
        Phase::Baseline => baseline(c, in_phase),
        Phase::Probe => probe(c, in_phase),
        Phase::Ramp => ramp(c),
        Phase::Hold(from) => leave_hold(c, from, in_phase),
        Phase::BackOff => leave_back_off(c),
        Phase::Recover => recover(c),
        Phase::Draining
            if (c.inputs.in_flight == 0 && c.inputs.connections == 0)
                || in_phase >= c.settings.drain_timeout =>
        {
            c.enter(Phase::Aftercare);
        }
        Phase::Aftercare if in_phase >= c.settings.aftercare => {
            let done = if c.state.capped { Terminal::CompletedCapped } else { Terminal::Completed };
            finish_with(c, done);
        }
        Phase::Aborting
            if (c.inputs.in_flight == 0 && c.inputs.connections == 0)
                || in_phase >= c.settings.abort_grace =>
        {
            let cause = Cause::Stop(super::latch::StopCause::Governor);
            let terminal = c.state.terminal.unwrap_or(Terminal::Aborted(cause));
            finish_with(c, terminal);
        }
        Phase::Measure
        | Phase::Draining
        | Phase::Aftercare
        | Phase::Aborting
        | Phase::Paused
        | Phase::Done => {}
    }
}

fn finish_with(c: &mut Change, terminal: Terminal) {
    c.state.terminal = Some(terminal);
    c.enter(Phase::Done);
    c.effects.push(Effect::Finished(terminal));
}

fn preflight(c: &mut Change, in_phase: Duration) {
    if !all_startable(c) {
        c.begin_step();
    }
    if c.now().since(c.state.step_began) >= c.settings.preflight_clean && all_startable(c) {
        c.enter(Phase::Baseline);
    } else if in_phase >= c.settings.preflight_max {
        c.abort(Cause::PreflightTimeout);
    }
}

/// Limits that hang on a baseline must be known, and the users be as few as the window expects.
fn baseline(c: &mut Change, in_phase: Duration) {
    match c.inputs.baseline {
        Baseline::Missing(guard) => return c.abort(Cause::NoBaseline(guard)),
        Baseline::Abnormal(guard) => return c.abort(Cause::Abnormal(guard)),
        Baseline::Pending => return give_up(c, in_phase),
        Baseline::Ready if !all_startable(c) => {
            c.begin_step();
            return give_up(c, in_phase);
        }
        // One good reading after none is not health; and a person who said pause is not asked to say it again.
        Baseline::Ready if c.now().since(c.state.step_began) < c.settings.preflight_clean => return,
        Baseline::Ready if c.inputs.order == Order::Pause => return give_up(c, in_phase),
        Baseline::Ready => {}
    }
    let probe = c.settings.probe_share.min(c.state.share_cap);
    if let Some(rule) = c.settings.organic {
        let Some(organic) = c.inputs.organic else { return give_up(c, in_phase) };
        let many = rule.expected_below.is_some_and(|max| organic > max);
        let full = rule.hold_total.is_some_and(|t| room_beside(c.settings.target, t, organic) < probe);
        if many || full {
            return c.abort(Cause::OrganicTooHigh);
        }
    }
    if !c.state.resuming {
        c.state.calm_values = c.inputs.guards.iter().map(|v| v.reading.value()).collect();
    }
    leave_baseline(c, probe);
}

fn give_up(c: &mut Change, in_phase: Duration) {
    if in_phase >= c.settings.preflight_max {
        c.abort(Cause::PreflightTimeout);
    }
}

fn leave_baseline(c: &mut Change, probe: Share) {
    if c.state.resuming {
        c.state.resuming = false;
        c.state.share = probe;
        // A pause is no way around the probe and its proof.
        let proved = c.state.probed || !c.settings.lead_in;
        c.enter(if proved { Phase::Recover } else { Phase::Probe });
    } else if c.settings.lead_in {
        c.state.share = probe;
        c.state.sent_anything = true;
        c.state.lead_in_began = c.now();
        c.effects.push(Effect::StartLeadIn);
        c.enter(Phase::Probe);
    } else {
        start_measure(c);
    }
}

fn start_measure(c: &mut Change) {
    c.state.share = c.state.share_cap;
    c.state.sent_anything = true;
    c.state.measuring = true;
    c.effects.push(Effect::StartMeasure);
    c.enter(Phase::Measure);
}

/// Whether enough of what the plan offered since the step began was really sent.
pub(super) fn achieved(c: &Change) -> bool {
    let sent = c.inputs.sent.saturating_sub(c.state.step_counts.0);
    let offered = c.inputs.offered.saturating_sub(c.state.step_counts.1);
    let due = c.inputs.due.saturating_sub(c.state.step_counts.2);
    // What this share of the plan should have been; with few requests the draw of sessions is noise.
    let planned = due as f64 * c.state.allowed().as_f64();
    let enough = planned < SAMPLE_MIN as f64 || sent as f64 >= ACHIEVED_MIN * planned;
    offered > 0 && sent as f64 >= ACHIEVED_MIN * offered as f64 && enough
}

fn probe(c: &mut Change, in_phase: Duration) {
    // Guards must have been good for all of L, and calm: one good reading at its end proves nothing.
    let calm = c.now() >= c.inputs.quiet_until;
    if !c.state.step_clean || !calm {
        c.begin_step();
    }
    let seen = c.now().since(c.state.step_began) >= c.settings.lag;
    let visible = c.inputs.visible != Some(false);
    let free = c.inputs.order == Order::Go && has_room(c);
    if seen && visible && free && all_good(c) && achieved(c) {
        c.state.probed = true;
        c.enter(Phase::Ramp);
        grow(c, c.settings.step);
    } else if !visible && in_phase >= c.settings.visible_within {
        c.abort(Cause::NotVisible);
    } else if in_phase >= c.settings.probe_max {
        c.abort(Cause::ProbeUnproven);
    }
}

fn grow(c: &mut Change, step: Share) {
    let from = c.state.share;
    let to = from.grown(step, c.state.share_cap);
    c.state.share = to;
    c.begin_step();
    c.effects.push(Effect::Grown { from, to });
}

/// Whether the window leaves time for another step and for what must come after it.
fn has_room(c: &Change) -> bool {
    let measure = if c.state.measuring { Duration::ZERO } else { c.settings.measure_len };
    let needed = c.settings.step_hold + c.settings.drain_timeout + measure;
    c.inputs.window_left_ms.is_none_or(|left| Duration::from_millis(left) > needed)
}

/// Whether a whole step has passed; begins it again when it was not clean or proved nothing.
fn step_proved(c: &mut Change) -> bool {
    if c.now().since(c.state.step_began) < c.settings.step_hold || !has_room(c) {
        return false;
    }
    let proved = c.state.step_clean && achieved(c) && c.inputs.visible != Some(false);
    if !proved {
        c.begin_step();
    }
    proved
}

fn ramp(c: &mut Change) {
    if !step_proved(c) {
        return;
    }
    // Beside many users the climb ends where their room ends; measure goes on below it.
    let top = c.state.share_cap.min(c.state.organic_cap);
    if c.state.share >= top { start_measure(c) } else { grow(c, c.settings.step) }
}

fn recover(c: &mut Change) {
    let at_cap = c.state.share >= c.state.share_cap.min(c.state.organic_cap);
    if at_cap {
        c.state.share = c.state.share_cap;
        let to = if c.state.measuring { Phase::Measure } else { Phase::Ramp };
        c.enter(to);
    } else if step_proved(c) {
        grow(c, c.settings.step.halved());
    }
}

fn leave_hold(c: &mut Change, from: HeldFrom, in_phase: Duration) {
    // A person who froze the rate is the one to let it go; but a freeze does not outlast bad news.
    let frozen = c.inputs.order == Order::Freeze;
    if frozen && all_good(c) {
        return;
    }
    if all_clean(c) && !frozen {
        // What a hold froze below the cap grows back like any growth.
        let below = c.state.share < c.state.share_cap;
        let to = match from {
            HeldFrom::Ramp => Phase::Ramp,
            HeldFrom::Measure if below => Phase::Recover,
            HeldFrom::Measure => Phase::Measure,
            HeldFrom::Recover => Phase::Recover,
        };
        c.enter(to);
    } else if in_phase >= c.settings.hold_max {
        cut(c, None, true);
    }
}

fn leave_back_off(c: &mut Change) {
    let since_cut = c.now().since(c.state.cut_at);
    if since_cut < c.settings.cooldown.max(c.settings.lag) {
        return;
    }
    let bad = |v: &View| matches!(v.level, Level::Hold | Level::BackOff | Level::Suspect | Level::NoData);
    let still = c.inputs.guards.iter().enumerate().position(|(i, v)| {
        bad(v) && (v.level != Level::NoData || c.settings.guards.get(i).is_some_and(|g| g.required))
    });
    if all_clean(c) {
        c.enter(Phase::Recover);
    } else if still.is_some() {
        cut(c, still, false);
    } else if c.now().since(c.state.entered) >= c.settings.cooldown + c.settings.hold_max {
        c.abort(Cause::NeverRecovered);
    }
}
