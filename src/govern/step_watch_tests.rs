//! What is noted in every step, at its edges: room beside users, experiments, the guards after the load.

use std::time::Duration;

use super::super::guard::{Level, Origin, View};
use super::super::inputs::{Inputs, Order};
use super::super::reading::{NoData, Reading};
use super::super::settings::Settings;
use super::super::state::{Attribution, Experiment, HeldFrom, Phase, State};
use super::tests::{FINE, at, beside_users, inputs, settings, view};
use super::{Effect, step};
use crate::limits::EXPERIMENTS_MAX;
use crate::units::{Rate, RunTime, Share};

/// A run at 40 % because users left no room for more, who have since gone: 10 s later a half step may come back.
fn squeezed(phase: Phase) -> State {
    State {
        organic_cap: Share::from_f64(0.4),
        organic_at: RunTime::from_millis(100_000),
        proven: Rate::per_sec(400),
        ..at(phase, 1.0)
    }
}

fn freed(ms: u64) -> Inputs {
    let mut i = inputs(ms, FINE);
    (i.organic, i.sent_1s, i.due_1s) = (Some(Rate::per_sec(200)), 400, 1_000);
    // 40 % of 10,000 due were offered and sent in the step.
    (i.due, i.offered, i.sent) = (110_000, 104_000, 104_000);
    i
}

#[test]
fn room_comes_back_by_half_steps_only_in_a_proven_run_that_may_grow() {
    let s = beside_users(1_200, 900);
    let cap = |state: &State, i: &Inputs| step(&s, state, i).0.organic_cap;
    for phase in [Phase::Ramp, Phase::Measure, Phase::Recover] {
        assert_eq!(cap(&squeezed(phase), &freed(109_999)), Share::from_f64(0.4), "{phase:?}: not yet a step");
        assert_eq!(cap(&squeezed(phase), &freed(110_000)), Share::from_f64(0.5), "{phase:?}");
    }
    let measure = squeezed(Phase::Measure);
    type Change = fn(&mut State, &mut Inputs);
    let table: [(&str, Change); 6] = [
        ("a frozen rate", |_, i| i.order = Order::Freeze),
        ("a step that was not clean", |s, _| s.step_clean = false),
        ("a guard that is not good", |_, i| i.guards[0] = view(Level::Suspect)),
        ("nothing sent", |_, i| (i.sent, i.offered) = (100_000, 100_000)),
        ("a step begun late", |s, _| s.step_began = RunTime::from_millis(105_000)),
        ("room that changed late", |s, _| s.organic_at = RunTime::from_millis(105_000)),
    ];
    for (why, change) in table {
        let (mut state, mut i) = (measure.clone(), freed(110_000));
        change(&mut state, &mut i);
        assert_eq!(cap(&state, &i), Share::from_f64(0.4), "{why}");
    }
    for phase in [Phase::Probe, Phase::Hold(HeldFrom::Measure), Phase::BackOff] {
        assert_eq!(cap(&squeezed(phase), &freed(110_000)), Share::from_f64(0.4), "{phase:?} does not grow");
    }
    // Where it does not bind, or nothing is sent, it is only a number and follows at once.
    let small = State { share: Share::from_f64(0.4), ..measure.clone() };
    assert_eq!(cap(&small, &freed(100_100)), Share::ONE, "the share itself is what binds");
    assert_eq!(cap(&squeezed(Phase::Paused), &freed(100_100)), Share::ONE);
    // And down it goes at once, in every phase.
    let mut crowded = freed(100_100);
    crowded.organic = Some(Rate::per_sec(1_000));
    assert_eq!(cap(&measure, &crowded), Share::from_f64(0.2));
    let mut unknown = freed(110_000);
    unknown.organic = None;
    assert_eq!(cap(&measure, &unknown), Share::from_f64(0.4), "users unknown: nothing grows");
}

#[test]
fn a_room_that_grew_begins_a_step_and_one_that_did_not_bind_does_not() {
    let s = beside_users(1_200, 900);
    let grown = step(&s, &squeezed(Phase::Measure), &freed(110_000)).0;
    assert_eq!(
        (grown.step_began, grown.organic_at),
        (RunTime::from_millis(110_000), RunTime::from_millis(110_000))
    );
    let small = State { share: Share::from_f64(0.4), ..squeezed(Phase::Measure) };
    let free = step(&s, &small, &freed(100_100)).0;
    assert_eq!(
        (free.step_began, free.organic_at),
        (RunTime::from_millis(100_000), RunTime::from_millis(100_000))
    );
    let mut crowded = freed(100_100);
    crowded.organic = Some(Rate::per_sec(1_000));
    let shrunk = step(&s, &squeezed(Phase::Measure), &crowded).0;
    assert_eq!(shrunk.organic_at, RunTime::from_millis(100_000), "shrinking takes no step");
    // While the trace is sent nothing else begins a step: room that waits begins one where the last was not clean.
    let dirty = State { step_clean: false, ..squeezed(Phase::Measure) };
    assert_eq!(step(&s, &dirty, &freed(105_000)).0.step_began, RunTime::from_millis(105_000));
    let mut bad = freed(105_000);
    bad.guards[0] = view(Level::Suspect);
    assert_eq!(
        step(&s, &dirty, &bad).0.step_began,
        RunTime::from_millis(100_000),
        "not while a guard is bad"
    );
    let ramp = State { step_clean: false, ..squeezed(Phase::Ramp) };
    assert_eq!(
        step(&s, &ramp, &freed(105_000)).0.step_began,
        RunTime::from_millis(100_000),
        "a ramp has its own"
    );
}

#[test]
fn what_is_proven_was_sent_in_health() {
    let s = settings();
    let proven = |phase: Phase, levels: [Level; 2]| {
        let mut i = inputs(100_100, levels);
        i.sent_1s = 70;
        step(&s, &at(phase, 0.4), &i).0.proven
    };
    assert_eq!(proven(Phase::Measure, FINE), Rate::per_sec(70));
    assert_eq!(proven(Phase::Measure, [Level::Suspect, Level::Good]), Rate::ZERO);
    assert_eq!(proven(Phase::Draining, FINE), Rate::ZERO);
}

#[test]
fn an_optional_guard_bars_nothing_by_silence_and_a_required_one_does() {
    for (required, blocks, levels, grows) in [
        (true, true, [Level::NoData, Level::Good], false),
        (false, true, [Level::NoData, Level::Good], true),
        (true, true, [Level::Neutral, Level::Good], false),
        (true, false, [Level::Neutral, Level::Good], true),
        (false, true, [Level::Neutral, Level::Good], true),
    ] {
        let mut s = settings();
        (s.guards[0].required, s.guards[0].neutral_blocks, s.guards[0].harm) = (required, blocks, false);
        let mut i = inputs(110_000, levels);
        i.window_left_ms = None;
        let next = step(&s, &at(Phase::Ramp, 0.4), &i).0;
        assert_eq!(next.share > Share::from_f64(0.4), grows, "{required} {blocks} {levels:?}");
        // The same in a hold: what must be clean, and for how long.
        let held = at(Phase::Hold(HeldFrom::Ramp), 0.4);
        let left = step(&s, &held, &i).0.phase == Phase::Ramp;
        assert_eq!(left, grows, "hold: {required} {blocks} {levels:?}");
    }
    // A neutral guard that blocks is clean all the same once it has been long enough.
    let s = settings();
    let mut i = inputs(110_000, [Level::Neutral, Level::Good]);
    i.guards[0].clean_ms = 10_000;
    assert_eq!(step(&s, &at(Phase::Hold(HeldFrom::Ramp), 0.4), &i).0.phase, Phase::Ramp);
    i.guards[0].clean_ms = 9_999;
    assert_eq!(step(&s, &at(Phase::Hold(HeldFrom::Ramp), 0.4), &i).0.phase, Phase::Hold(HeldFrom::Ramp));
}

#[test]
fn inside_back_off_only_new_evidence_cuts() {
    // required, harm, before, level now, reading; a cut a second after the last.
    let good = Reading::Good(0.001);
    let (bad, none) = (Reading::BackOff(0.02), Reading::NoData(NoData::Empty));
    for (required, harm, before, level, reading, cuts) in [
        (true, true, Some(0.02), Level::NoData, none, true),
        (false, true, Some(0.02), Level::NoData, none, false),
        (true, false, Some(0.02), Level::NoData, none, false),
        (true, true, None, Level::NoData, none, false),
        (true, true, None, Level::BackOff, bad, true),
        (true, true, None, Level::Suspect, bad, false),
        (true, true, None, Level::Good, good, false),
        (true, true, Some(0.01), Level::Suspect, bad, false),
        (true, true, Some(0.01), Level::BackOff, bad, true),
    ] {
        let mut s = settings();
        (s.guards[0].required, s.guards[0].harm) = (required, harm);
        let state = State { cut_values: vec![before, Some(0.001)], ..at(Phase::BackOff, 0.4) };
        let mut i = inputs(101_000, FINE);
        i.guards[0] = View { level, reading, no_data_ms: 0, clean_ms: 0 };
        let cut = step(&s, &state, &i).0.cuts == 1;
        assert_eq!(cut, cuts, "{required} {harm} {before:?} {level:?}");
    }
    // A local guard that had nothing to say at the cut is judged by its own lag alone.
    let s = settings();
    let state = State { cut_values: vec![Some(0.001), None], ..at(Phase::BackOff, 0.4) };
    let mut i = inputs(101_000, [Level::Good, Level::BackOff]);
    assert_eq!(step(&s, &state, &i).0.cuts, 0);
    i.now = RunTime::from_millis(101_201);
    assert_eq!(step(&s, &state, &i).0.cuts, 1);
}

#[test]
fn an_experiment_is_open_once_and_judged_in_time() {
    let s = settings();
    let breach = |ms: u64| inputs(ms, [Level::BackOff, Level::Good]);
    let open = |state: &State| state.experiments.iter().filter(|e| e.verdict == Attribution::Open).count();
    let first = step(&s, &at(Phase::Measure, 0.8), &breach(110_000)).0;
    assert_eq!(open(&first), 1);
    // A second cut by the same guard while the first is open is the same experiment.
    let again = State { phase: Phase::Measure, entries: Vec::new(), ..first.clone() };
    assert_eq!(step(&s, &again, &breach(112_000)).0.experiments.len(), 1);
    let other = Experiment { guard: 1, at: RunTime::from_millis(100_000), verdict: Attribution::Open };
    let beside = State { experiments: vec![other], ..at(Phase::Measure, 0.8) };
    assert_eq!(step(&s, &beside, &breach(105_000)).0.experiments.len(), 2, "another guard's is another");
    let local = step(&s, &at(Phase::Measure, 0.8), &inputs(110_000, [Level::Good, Level::BackOff])).0;
    assert_eq!(open(&local), 0, "a local guard proves nothing by recovering: it sees us alone");
    let done = Experiment { verdict: Attribution::Coincident, ..other };
    let full = State { experiments: vec![done; EXPERIMENTS_MAX], ..at(Phase::Measure, 0.8) };
    assert_eq!(step(&s, &full, &breach(110_000)).0.experiments.len(), EXPERIMENTS_MAX);
    let room = State { experiments: vec![done; EXPERIMENTS_MAX - 1], ..at(Phase::Measure, 0.8) };
    assert_eq!(step(&s, &room, &breach(110_000)).0.experiments.len(), EXPERIMENTS_MAX);
    // Lag 10 s and one age of 4 s: good until then is ours, after it is not.
    assert_eq!(s.guards[0].origin, Origin::Prometheus);
    let verdict = |ms: u64, level: Level| {
        let state = State { phase: Phase::BackOff, ..first.clone() };
        step(&s, &state, &inputs(ms, [level, Level::Good])).0.experiments[0].verdict
    };
    assert_eq!(verdict(110_000, Level::Good), Attribution::Open, "the very moment of the cut");
    assert_eq!(verdict(110_001, Level::Good), Attribution::CausedByThisRun);
    assert_eq!(verdict(124_000, Level::Good), Attribution::CausedByThisRun);
    assert_eq!(verdict(124_000, Level::Hold), Attribution::Open);
    assert_eq!(verdict(124_001, Level::Good), Attribution::Coincident);
    assert_eq!(verdict(124_001, Level::Hold), Attribution::Coincident);
}

#[test]
fn after_the_load_each_guard_is_calm_in_its_own_way() {
    let calm = |f: &dyn Fn(&mut Settings, &mut State, &mut View)| {
        let mut s = Settings { aftercare: Duration::from_secs(60), ..settings() };
        let mut state = State { calm_values: vec![Some(0.004), None], ..at(Phase::Aftercare, 0.0) };
        let mut slow = view(Level::Good);
        f(&mut s, &mut state, &mut slow);
        let mut i = inputs(101_000, FINE);
        i.guards[0] = slow;
        let (next, effects) = step(&s, &state, &i);
        assert_eq!(next.calm_at.is_some(), effects.contains(&Effect::Calm));
        next.calm_at.is_some()
    };
    let reads = |level: Level, reading: Reading| {
        move |_: &mut Settings, _: &mut State, v: &mut View| (v.level, v.reading) = (level, reading)
    };
    assert!(calm(&reads(Level::Good, Reading::Good(0.004))), "below clear");
    assert!(calm(&reads(Level::Good, Reading::Good(0.0048))), "as before, within a fifth");
    assert!(!calm(&reads(Level::Good, Reading::Good(0.00481))), "good, but worse than it was");
    assert!(!calm(&reads(Level::Hold, Reading::Hold(0.006))));
    assert!(calm(&reads(Level::Neutral, Reading::Neutral)), "an idle night has nothing to say");
    let none = Reading::NoData(NoData::Empty);
    assert!(!calm(&reads(Level::NoData, none)));
    assert!(calm(&|s, _, v| {
        s.guards[0].required = false;
        (v.level, v.reading) = (Level::NoData, none);
    }));
    assert!(
        !calm(&|_, state, v| {
            state.calm_values = vec![None, None];
            v.reading = Reading::Good(0.0045);
        }),
        "without a value from before only clear is calm"
    );
}
