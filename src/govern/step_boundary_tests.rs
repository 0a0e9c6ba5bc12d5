//! Where each edge and rule begins and ends: tables with the value on either side.

use std::time::Duration;

use super::super::guard::{Level, View};
use super::super::inputs::{Baseline, Finish, Inputs, Order};
use super::super::reading::Reading;
use super::super::settings::{OrganicRule, Settings};
use super::super::state::{Cause, HeldFrom, Phase, State, Terminal};
use super::super::step_edges::achieved;
use super::tests::{FINE, at, inputs, settings, view};
use super::{Change, Effect, step};
use crate::units::{Rate, RunTime, Share};

const BLIND: [Level; 2] = [Level::NoData, Level::Good];

/// Phase and cause after one tick.
fn after(s: &Settings, state: &State, i: &Inputs) -> (Phase, Option<Cause>) {
    let next = step(s, state, i).0;
    (next.phase, next.terminal.and_then(Terminal::cause))
}

fn changed(s: &Settings, state: &State, f: impl FnOnce(&mut Inputs)) -> State {
    let mut i = inputs(100_000, FINE);
    f(&mut i);
    step(s, state, &i).0
}

#[test]
fn answers_and_connections_are_awaited_for_so_long_and_no_longer() {
    // phase, in flight, connections, ms in the phase, over
    let table = [
        (Phase::Draining, 0, 0, 0, true),
        (Phase::Draining, 1, 0, 14_999, false),
        (Phase::Draining, 0, 1, 14_999, false),
        (Phase::Draining, 1, 1, 15_000, true),
        (Phase::Aborting, 0, 0, 0, true),
        (Phase::Aborting, 1, 0, 4_999, false),
        (Phase::Aborting, 0, 1, 4_999, false),
        (Phase::Aborting, 1, 1, 5_000, true),
    ];
    for (phase, in_flight, connections, ms, over) in table {
        let mut i = inputs(100_000 + ms, FINE);
        (i.in_flight, i.connections) = (in_flight, connections);
        let mut state = at(phase, 0.0);
        state.terminal = (phase == Phase::Aborting).then_some(Terminal::Aborted(Cause::TickLate));
        let next = step(&settings(), &state, &i).0;
        assert_eq!(next.phase != phase, over, "{phase:?} {in_flight} {connections} {ms}");
        if phase == Phase::Aborting {
            assert_eq!(next.terminal, Some(Terminal::Aborted(Cause::TickLate)), "the cause is kept");
        }
    }
    let s = Settings { aftercare: Duration::from_secs(5), ..settings() };
    for (ms, over) in [(4_999, false), (5_000, true)] {
        let state = at(Phase::Aftercare, 0.0);
        assert_eq!(after(&s, &state, &inputs(100_000 + ms, FINE)).0 == Phase::Done, over, "{ms}");
    }
}

#[test]
fn a_start_needs_health_that_lasts() {
    let s = settings();
    for (phase, next) in [(Phase::Preflight, Phase::Baseline), (Phase::Baseline, Phase::Probe)] {
        let state = at(phase, 0.0);
        for (ms, levels, to) in [
            (299, FINE, phase),
            (300, FINE, next),
            (299_900, BLIND, phase),
            (300, [Level::Neutral, Level::Good], next),
            (300, [Level::Hold, Level::Good], phase),
            (300, [Level::Suspect, Level::Good], phase),
        ] {
            assert_eq!(after(&s, &state, &inputs(100_000 + ms, levels)).0, to, "{phase:?} {ms} {levels:?}");
        }
        // One tick of blindness begins the time anew.
        let blinded = step(&s, &state, &inputs(100_200, BLIND)).0;
        assert_eq!(after(&s, &blinded, &inputs(100_499, FINE)).0, phase);
        assert_eq!(after(&s, &blinded, &inputs(100_500, FINE)).0, next);
        let late = inputs(400_000, BLIND);
        assert_eq!(after(&s, &state, &late), (Phase::Aborting, Some(Cause::PreflightTimeout)));
    }
    let mut waiting = inputs(399_999, FINE);
    waiting.baseline = Baseline::Pending;
    assert_eq!(after(&s, &at(Phase::Baseline, 0.0), &waiting).0, Phase::Baseline);
    waiting.now = RunTime::from_millis(400_000);
    assert_eq!(after(&s, &at(Phase::Baseline, 0.0), &waiting).1, Some(Cause::PreflightTimeout));
    let mut paused = inputs(399_999, FINE);
    paused.order = Order::Pause;
    assert_eq!(after(&s, &at(Phase::Baseline, 0.0), &paused).0, Phase::Baseline);
    paused.now = RunTime::from_millis(400_000);
    assert_eq!(after(&s, &at(Phase::Baseline, 0.0), &paused).1, Some(Cause::PreflightTimeout));
}

#[test]
fn users_at_the_very_limit_are_as_many_as_expected() {
    let rule = |total, expected| OrganicRule {
        guard: 0,
        hold_total: Some(Rate::per_sec(total)),
        expected_below: Some(Rate::per_sec(expected)),
    };
    // total, expected, users, starts; the probe needs 10/s of room.
    for (total, expected, users, starts) in
        [(500, 100, 100, true), (500, 100, 101, false), (110, 200, 100, true), (109, 200, 100, false)]
    {
        let s = Settings { organic: Some(rule(total, expected)), ..settings() };
        let mut i = inputs(100_300, FINE);
        i.organic = Some(Rate::per_sec(users));
        let (phase, cause) = after(&s, &at(Phase::Baseline, 0.0), &i);
        assert_eq!(phase == Phase::Probe, starts, "{total} {expected} {users}: {cause:?}");
        assert_eq!(cause, (!starts).then_some(Cause::OrganicTooHigh));
    }
}

#[test]
fn what_the_guards_read_before_the_load_is_kept_once() {
    let s = settings();
    let first = step(&s, &at(Phase::Baseline, 0.0), &inputs(100_300, FINE)).0;
    assert_eq!(first.calm_values, [Some(0.001), Some(0.001)]);
    let mut again = at(Phase::Baseline, 0.0);
    (again.resuming, again.calm_values) = (true, vec![Some(0.5), None]);
    let resumed = step(&s, &again, &inputs(100_300, FINE)).0;
    assert_eq!(resumed.calm_values, [Some(0.5), None], "a resumed run has load behind it");
    assert!(!resumed.resuming);
}

#[test]
fn a_step_proves_something_only_when_it_was_really_sent() {
    let s = settings();
    let table = [
        // share, sent, offered and due since the step began, enough
        (0.5, 0, 0, 0, false),
        (0.5, 80, 100, 200, true),
        (0.5, 79, 100, 200, false),
        // Little was offered of what the share should have been: the trace may be in a valley, but a draw is not.
        (0.2, 160, 160, 1_000, true),
        (0.2, 159, 159, 1_000, false),
        // Below 50 requests a share of them is noise, but what was offered must still have gone out.
        (0.2, 10, 10, 249, true),
        (0.2, 10, 10, 250, false),
        (0.2, 7, 10, 249, false),
    ];
    for (share, sent, offered, due, enough) in table {
        let mut i = inputs(100_000, FINE);
        (i.sent, i.offered, i.due) = (100_000 + sent, 100_000 + offered, 100_000 + due);
        let c = Change { settings: &s, inputs: &i, state: at(Phase::Ramp, share), effects: Vec::new() };
        assert_eq!(achieved(&c), enough, "{share} {sent} {offered} {due}");
    }
}

/// Inputs at `ms` in which a whole step was sent.
fn sent(ms: u64) -> Inputs {
    Inputs { window_left_ms: Some(10_000_000), ..inputs(ms, FINE) }
}

#[test]
fn the_probe_is_passed_only_seen_sent_and_calm() {
    let s = settings();
    let state = at(Phase::Probe, 1.0);
    assert_eq!(after(&s, &state, &sent(109_999)).0, Phase::Probe, "not yet L");
    assert_eq!(after(&s, &state, &sent(110_000)).0, Phase::Ramp);
    let grown = step(&s, &at(Phase::Probe, 0.01), &sent(110_000)).0;
    assert_eq!((grown.share, grown.probed), (Share::from_f64(0.21), true));
    let other = |f: &dyn Fn(&mut Inputs)| {
        let mut i = sent(110_000);
        f(&mut i);
        after(&s, &state, &i)
    };
    assert_eq!(other(&|i| i.visible = Some(true)).0, Phase::Ramp);
    assert_eq!(other(&|i| i.visible = Some(false)).0, Phase::Probe);
    assert_eq!(other(&|i| i.order = Order::Freeze).0, Phase::Probe);
    assert_eq!(other(&|i| i.sent = 100_000).0, Phase::Probe);
    assert_eq!(
        other(&|i| i.window_left_ms = Some(85_000)).0,
        Phase::Probe,
        "no room for step, drain, measure"
    );
    assert_eq!(other(&|i| i.window_left_ms = Some(85_001)).0, Phase::Ramp);
    // Bad or not calm: the time begins anew.
    for levels in [BLIND, [Level::Suspect, Level::Good]] {
        let bad = step(&s, &state, &inputs(105_000, levels)).0;
        assert_eq!((bad.phase, bad.step_began), (Phase::Probe, RunTime::from_millis(105_000)), "{levels:?}");
    }
    let mut loud = inputs(105_000, FINE);
    loud.quiet_until = RunTime::from_millis(105_001);
    assert_eq!(step(&s, &state, &loud).0.step_began, RunTime::from_millis(105_000));
    loud.quiet_until = RunTime::from_millis(105_000);
    assert_eq!(step(&s, &state, &loud).0.step_began, RunTime::from_millis(100_000));
    // Not seen, or not proved, for too long.
    let unseen = |ms, visible| {
        let mut i = inputs(ms, FINE);
        (i.visible, i.sent) = (visible, 100_000);
        after(&s, &state, &i)
    };
    assert_eq!(unseen(119_999, Some(false)).0, Phase::Probe);
    assert_eq!(unseen(120_000, Some(false)).1, Some(Cause::NotVisible));
    assert_eq!(unseen(399_999, None).0, Phase::Probe);
    assert_eq!(unseen(400_000, None).1, Some(Cause::ProbeUnproven));
}

#[test]
fn a_step_is_whole_and_clean_or_begins_again() {
    let s = settings();
    let state = at(Phase::Ramp, 0.4);
    let at_ms = |ms: u64| step(&s, &state, &sent(ms)).0;
    assert_eq!(at_ms(109_999).share, Share::from_f64(0.4));
    assert_eq!(at_ms(110_000).share, Share::from_f64(0.6));
    let idle = step(&s, &state, &Inputs { sent: 100_000, ..sent(110_000) }).0;
    assert_eq!((idle.share, idle.step_began), (Share::from_f64(0.4), RunTime::from_millis(110_000)));
    let unseen = step(&s, &state, &Inputs { visible: Some(false), ..sent(110_000) }).0;
    assert_eq!((unseen.share, unseen.step_began), (Share::from_f64(0.4), RunTime::from_millis(110_000)));
    let dirty = State { step_clean: false, ..state.clone() };
    assert_eq!(step(&s, &dirty, &sent(110_000)).0.share, Share::from_f64(0.4));
    // At the top the trace begins; beside users the top is where their room ends.
    let top = State { share: Share::ONE, ..state.clone() };
    let next = step(&s, &top, &sent(110_000)).0;
    assert!(next.phase == Phase::Measure && next.measuring);
    let beside = State { organic_cap: Share::from_f64(0.4), ..state };
    assert_eq!(step(&s, &beside, &sent(110_000)).0.phase, Phase::Measure);
}

#[test]
fn recovery_ends_at_its_cap_and_grows_by_half_steps() {
    let s = settings();
    let recovering = |share: f64, measuring: bool| State {
        share_cap: Share::from_f64(0.5),
        measuring,
        ..at(Phase::Recover, share)
    };
    assert_eq!(step(&s, &recovering(0.2, true), &sent(109_999)).0.share, Share::from_f64(0.2));
    assert_eq!(step(&s, &recovering(0.2, true), &sent(110_000)).0.share, Share::from_f64(0.3));
    assert_eq!(
        step(&s, &recovering(0.45, true), &sent(110_000)).0.share,
        Share::from_f64(0.5),
        "not past it"
    );
    assert_eq!(after(&s, &recovering(0.5, true), &sent(100_100)).0, Phase::Measure);
    assert_eq!(after(&s, &recovering(0.5, false), &sent(100_100)).0, Phase::Ramp);
    let beside = State { organic_cap: Share::from_f64(0.2), ..recovering(0.2, true) };
    let next = step(&s, &beside, &sent(100_100)).0;
    assert_eq!((next.phase, next.share), (Phase::Measure, Share::from_f64(0.5)));
}

#[test]
fn a_hold_ends_clean_or_in_a_cut() {
    let s = settings();
    let held = |from, share| at(Phase::Hold(from), share);
    let dirty = |ms: u64| {
        let mut i = sent(ms);
        i.guards[0].clean_ms = 9_999;
        i
    };
    for (from, share, to) in [
        (HeldFrom::Ramp, 0.4, Phase::Ramp),
        (HeldFrom::Measure, 0.4, Phase::Recover),
        (HeldFrom::Measure, 1.0, Phase::Measure),
        (HeldFrom::Recover, 0.4, Phase::Recover),
    ] {
        assert_eq!(after(&s, &held(from, share), &sent(100_100)).0, to, "{from:?}");
        assert_eq!(after(&s, &held(from, share), &dirty(399_999)).0, Phase::Hold(from));
        assert_eq!(after(&s, &held(from, share), &dirty(400_000)).0, Phase::BackOff, "{from:?}");
    }
    let mut frozen = dirty(100_100);
    frozen.order = Order::Freeze;
    assert_eq!(after(&s, &held(HeldFrom::Measure, 1.0), &frozen).0, Phase::Hold(HeldFrom::Measure));
    let mut frozen = sent(900_000);
    frozen.order = Order::Freeze;
    let next = after(&s, &held(HeldFrom::Measure, 1.0), &frozen).0;
    assert_eq!(next, Phase::Hold(HeldFrom::Measure), "a person's hold has no end while all is well");
}

#[test]
fn back_off_lasts_its_cool_down_and_what_is_still_bad_is_cut_again() {
    let s = settings();
    let state = State { cut_values: vec![Some(0.02), Some(0.02)], ..at(Phase::BackOff, 0.4) };
    let share = |i: &Inputs| step(&s, &state, i).0.share;
    assert_eq!(after(&s, &state, &sent(119_999)).0, Phase::BackOff);
    assert_eq!(after(&s, &state, &sent(120_000)).0, Phase::Recover);
    let unclean = |ms: u64, level: Level| {
        let mut i = inputs(ms, [level, Level::Good]);
        i.guards[0].clean_ms = 0;
        i
    };
    for level in [Level::Hold, Level::Suspect, Level::BackOff] {
        assert_eq!(share(&unclean(119_999, level)), Share::from_f64(0.4), "{level:?}");
        assert!(share(&unclean(120_000, level)) < Share::from_f64(0.4), "{level:?}");
    }
    // Good but not for long enough: neither recovery nor another cut, until it has taken too long.
    assert_eq!(after(&s, &state, &unclean(419_999, Level::Good)).0, Phase::BackOff);
    assert_eq!(share(&unclean(419_999, Level::Good)), Share::from_f64(0.4));
    assert_eq!(after(&s, &state, &unclean(420_000, Level::Good)).1, Some(Cause::NeverRecovered));
    // A guard that is not required may be blind; a required one that is blind is still bad.
    let mut optional = settings();
    optional.guards[0].required = false;
    let blind_before = State { cut_values: vec![None, None], ..state.clone() };
    let blind = unclean(120_000, Level::NoData);
    assert_eq!(after(&optional, &blind_before, &blind).0, Phase::Recover);
    assert_eq!(step(&optional, &blind_before, &blind).0.cuts, 0);
    assert_eq!(step(&s, &blind_before, &blind).0.cuts, 1);
    let both = inputs(120_000, [Level::Hold, Level::Good]);
    assert_eq!(step(&optional, &blind_before, &both).0.cuts, 1, "an optional guard that can see is heard");
}

#[test]
fn only_past_its_limit_is_a_machine_too_slow_or_a_clock_off() {
    let s = settings();
    let state = at(Phase::Measure, 1.0);
    type Set = fn(&mut Inputs, u64);
    let table: [(Set, u64, Cause); 3] = [
        (|i, v| i.tick_late_ms = v, 2_000, Cause::TickLate),
        (|i, v| i.clock_jump_ms = v, 2_000, Cause::ClockJump),
        (|i, v| i.worker_silent_ms = v, 2_000, Cause::WorkerSilent),
    ];
    for (set, limit, cause) in table {
        assert_ne!(changed(&s, &state, |i| set(i, limit)).phase, Phase::Aborting, "{cause:?}");
        let over = changed(&s, &state, |i| set(i, limit + 1));
        assert_eq!(over.terminal, Some(Terminal::Aborted(cause)));
    }
    let holds: [(Set, u64); 2] = [(|i, v| i.worker_silent_ms = v, 500), (|i, v| i.skew_ms = v, 2_000)];
    for (set, limit) in holds {
        assert_eq!(changed(&s, &state, |i| set(i, limit)).phase, Phase::Measure);
        assert_eq!(changed(&s, &state, |i| set(i, limit + 1)).phase, Phase::Hold(HeldFrom::Measure));
    }
    assert_eq!(changed(&s, &state, |i| i.saturated = true).phase, Phase::Hold(HeldFrom::Measure));
}

#[test]
fn entering_a_phase_begins_a_step_and_only_draining_ends_the_load() {
    let s = settings();
    let dirty = State { step_clean: false, ..at(Phase::Measure, 1.0) };
    let mut i = inputs(150_000, FINE);
    i.finish = Some(Finish::TraceEnd);
    let drained = step(&s, &dirty, &i).0;
    assert_eq!(drained.load_ended, Some(RunTime::from_millis(150_000)));
    assert!(drained.step_clean && drained.entered == RunTime::from_millis(150_000));
    let held = step(&s, &dirty, &inputs(150_000, [Level::Hold, Level::Good])).0;
    assert_eq!((held.load_ended, held.step_counts), (None, (150_000, 150_000, 150_000)));
    // A step is clean only while every tick of it is.
    let clean = step(&s, &at(Phase::Ramp, 0.4), &inputs(101_000, [Level::Suspect, Level::Good])).0;
    assert!(!clean.step_clean);
    assert!(!step(&s, &clean, &inputs(102_000, FINE)).0.step_clean, "and stays unclean");
}

/// A view that reads `value` at `level`.
fn reads(level: Level, value: f64) -> View {
    View {
        reading: if level == Level::Good { Reading::Good(value) } else { Reading::BackOff(value) },
        ..view(level)
    }
}

#[test]
fn cuts_inside_back_off_wait_for_the_evidence_of_the_last() {
    let s = settings();
    let state = State { cut_values: vec![Some(0.02), Some(0.02)], ..at(Phase::BackOff, 0.4) };
    let cuts = |ms: u64, slow: View, local: View| {
        let mut i = inputs(100_000 + ms, FINE);
        i.guards = vec![slow, local];
        step(&s, &state, &i).0.cuts
    };
    let (good, bad) = (reads(Level::Good, 0.001), reads(Level::BackOff, 0.02));
    assert_eq!(cuts(1_199, good, bad), 0);
    assert_eq!(cuts(1_200, good, bad), 0, "its own lag is not over");
    assert_eq!(cuts(1_201, good, bad), 1, "a local breach after its own lag");
    assert_eq!(cuts(5_000, bad, good), 0, "a slow guard merely still high");
    let worse = reads(Level::BackOff, 0.1);
    assert_eq!(cuts(999, worse, good), 0, "a cut is judged by what came after it");
    assert_eq!(cuts(1_000, worse, good), 1);
    assert_eq!(cuts(1_000, view(Level::NoData), good), 1, "blind since");
    let cut = Effect::Cut { from: Share::from_f64(0.4), to: Share::from_f64(0.2), guard: Some(0) };
    let mut i = inputs(101_000, FINE);
    (i.guards[0], i.sent_1s, i.due_1s) = (worse, 400, 1_000);
    assert!(step(&s, &state, &i).1.contains(&cut));
}

#[test]
fn blindness_cuts_where_there_is_something_to_cut() {
    // The first guard is required; harm says whether its blindness is treated like harm.
    let with = |required: bool, harm: bool| {
        let mut s = settings();
        (s.guards[0].required, s.guards[0].harm) = (required, harm);
        s
    };
    let harmful = with(true, true);
    let next = |s: &Settings, phase: Phase, share: f64, levels: [Level; 2]| {
        step(s, &at(phase, share), &inputs(100_100, levels)).0.phase
    };
    let local_breach = [Level::NoData, Level::BackOff];
    let held = Phase::Hold(HeldFrom::Measure);
    let table = [
        (&harmful, Phase::Measure, 0.4, BLIND, Phase::BackOff),
        (&harmful, Phase::Measure, 0.01, BLIND, held),
        (&harmful, held, 0.4, BLIND, Phase::BackOff),
        (&harmful, held, 0.01, BLIND, held),
        (&harmful, Phase::Probe, 0.01, BLIND, Phase::Probe),
        (&harmful, Phase::Measure, 0.4, local_breach, Phase::BackOff),
        (&harmful, held, 0.01, local_breach, Phase::BackOff),
        (&with(true, false), Phase::Measure, 0.4, BLIND, held),
        (&with(true, false), Phase::Ramp, 0.4, BLIND, Phase::Hold(HeldFrom::Ramp)),
        (&with(false, true), Phase::Measure, 0.4, BLIND, Phase::Measure),
    ];
    for (n, (s, phase, share, levels, to)) in table.into_iter().enumerate() {
        assert_eq!(next(s, phase, share, levels), to, "row {n}: {phase:?} {share} {levels:?}");
    }
    // The guard that is named is the one that is blind, unless another one breaches.
    let cut_by = |levels| {
        let effects = step(&harmful, &at(Phase::Measure, 0.4), &inputs(100_100, levels)).1;
        effects.into_iter().find_map(|e| if let Effect::Cut { guard, .. } = e { guard } else { None })
    };
    assert_eq!((cut_by(BLIND), cut_by(local_breach)), (Some(0), Some(1)));
    // Too long is too long, for a required guard alone.
    for (ms, required, ends) in [(29_999, true, false), (30_000, true, true), (90_000, false, false)] {
        let mut i = inputs(100_100, BLIND);
        i.guards[0].no_data_ms = ms;
        let ended = step(&with(required, true), &at(Phase::Measure, 0.4), &i).0.terminal;
        assert_eq!(ended.is_some(), ends, "{ms} {required}: {ended:?}");
    }
}

#[test]
fn quiet_that_the_target_asked_for_is_kept_to_its_last_moment() {
    let s = settings();
    for phase in [Phase::Ramp, Phase::Measure, Phase::Hold(HeldFrom::Measure), Phase::Recover] {
        for (until, cut) in [(100_100, false), (100_101, true)] {
            let mut i = inputs(100_100, FINE);
            i.quiet_until = RunTime::from_millis(until);
            let next = step(&s, &at(phase, 0.4), &i).0;
            assert_eq!(next.phase == Phase::BackOff, cut, "{phase:?} {until}");
        }
    }
    // And nothing recovers before it is over.
    let mut i = sent(130_000);
    i.quiet_until = RunTime::from_millis(130_001);
    assert_eq!(after(&s, &at(Phase::BackOff, 0.4), &i).0, Phase::BackOff);
}

#[test]
fn a_cut_halves_what_was_sent_of_a_busy_second_and_what_was_allowed_of_an_idle_one() {
    let s = settings();
    let cut = |share: f64, sent: u64, due: u64| {
        let mut i = inputs(100_100, [Level::BackOff, Level::Good]);
        (i.sent_1s, i.due_1s, i.achieved_max) = (sent, due, Rate::ZERO);
        step(&s, &at(Phase::Measure, share), &i).0
    };
    assert_eq!(cut(0.8, 20, 50).share, Share::from_f64(0.2), "of what was sent");
    assert_eq!(cut(0.8, 20, 49).share, Share::from_f64(0.4), "49 are a draw");
    assert_eq!(cut(0.4, 50, 50).share, Share::from_f64(0.2), "never more than was allowed");
    assert_eq!(cut(0.01, 10, 1_000).share, Share::from_f64(0.005), "at the floor");
    let below = cut(0.0098, 98, 10_000);
    assert_eq!(below.terminal, Some(Terminal::Aborted(Cause::BelowFloor)));
    assert_eq!(
        (cut(0.8, 20, 50).broken, cut(0.8, 20, 50).share_cap),
        (None, Share::ONE),
        "nothing sent broke nothing"
    );
}

#[test]
fn back_offs_too_many_or_too_close_end_the_run() {
    let s = settings();
    let ms = RunTime::from_millis;
    let breach = inputs(2_000_000, [Level::BackOff, Level::Good]);
    let with = |entries: &[u64]| {
        let state = State { entries: entries.iter().map(|t| ms(*t)).collect(), ..at(Phase::Measure, 0.4) };
        step(&s, &state, &breach).0.terminal.and_then(Terminal::cause)
    };
    assert_eq!(with(&[1_400_000]), None, "exactly the window apart");
    assert_eq!(with(&[1_400_001]), Some(Cause::TooManyBackOffs), "closer");
    assert_eq!(with(&[100_000, 800_000]), None);
    assert_eq!(with(&[100_000, 700_000, 1_300_000]), Some(Cause::TooManyBackOffs), "the fourth of three");
}

#[test]
fn an_endless_climb_is_given_up() {
    let s = settings();
    for (ms, lead_in, measuring, ends) in [
        (1_299_999, true, false, false),
        (1_300_000, true, false, true),
        (1_300_000, false, false, false),
        (1_300_000, true, true, false),
    ] {
        let s = Settings { lead_in, ..s.clone() };
        let mut state = State { measuring, ..at(Phase::Ramp, 0.4) };
        state.entered = RunTime::from_millis(ms);
        let ended = step(&s, &state, &inputs(ms, FINE)).0.terminal;
        assert_eq!(
            ended == Some(Terminal::Aborted(Cause::LeadInTooLong)),
            ends,
            "{ms} {lead_in} {measuring}"
        );
    }
}

#[test]
fn a_hold_keeps_what_was_achieved() {
    let s = settings();
    let held = |share: f64, sent: u64, due: u64, measuring: bool| {
        let mut i = inputs(100_100, [Level::Hold, Level::Good]);
        (i.sent_1s, i.due_1s) = (sent, due);
        let phase = if measuring { Phase::Measure } else { Phase::Ramp };
        let next = step(&s, &at(phase, share), &i).0;
        (next.share, next.capped)
    };
    assert_eq!(held(0.5, 450, 1_000, true), (Share::from_f64(0.5), false), "nine tenths are all of it");
    assert_eq!(held(0.5, 449, 1_000, true), (Share::from_f64(0.449), true));
    assert_eq!(held(0.5, 449, 1_000, false), (Share::from_f64(0.449), false), "the climb is not the result");
    assert_eq!(held(0.5, 0, 1_000, true).0, Share::from_f64(0.01), "not below the probe");
}
