//! The real `step` under a model checker: every state that any history of inputs can reach, with timers as bounded
//! counters of whole seconds.
//!
//! Time stands still and the past moves away: after each step all times of the state are put one second further
//! back, as far as the longest timer, so that the states are finite in number. Properties are those of
//! docs/GOVERNOR.md, "Invariants".
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]

use std::hash::{Hash, Hasher};
use std::time::Duration;

use replay::govern::guard::{GuardSpec, Level, Origin, Side, Thresholds, View};
use replay::govern::inputs::{Baseline, Finish, Inputs, Order};
use replay::govern::latch::StopCause;
use replay::govern::reading::{NoData, Reading};
use replay::govern::settings::{OrganicRule, Settings};
use replay::govern::state::{Phase, State};
use replay::govern::step::{Effect, step};
use replay::units::{Rate, RunTime, Share};
use stateright::{Checker, Model, Property};

/// The moment at which time stands still.
const NOW: RunTime = RunTime::from_millis(1_000_000);

/// Seconds after which a time of the past is as good as any earlier one: longer than every timer below.
const PAST_S: u64 = 9;

fn settings() -> Settings {
    let secs = Duration::from_secs;
    let spec = |name: &str, origin| GuardSpec {
        name: name.to_owned(),
        origin,
        unit: "ratio".to_owned(),
        thresholds: Thresholds {
            side: Side::Above,
            hold: Some(0.005),
            back_off: Some(0.01),
            abort: Some(0.05),
            clear: 0.004,
        },
        required: true,
        harm: true,
        min_samples: 0,
        need_traffic: false,
        neutral_blocks: true,
        confirm: 1,
        confirm_of: 1,
        max_age: secs(1),
        clear_for: secs(1),
        lag: secs(1),
    };
    Settings {
        target: Rate::per_sec(1_000),
        share_max: Share::ONE,
        probe_share: Share::from_f64(0.01),
        floor: Share::from_f64(0.02),
        step: Share::from_f64(0.25),
        step_hold: secs(2),
        cooldown: secs(2),
        hold_max: secs(2),
        preflight_clean: secs(1),
        preflight_max: secs(3),
        probe_max: secs(3),
        max_backoffs: 1,
        backoff_window: secs(3),
        no_data_abort: secs(3),
        lag: secs(1),
        drain_timeout: secs(2),
        abort_grace: secs(1),
        lead_in: true,
        lead_in_max: secs(8),
        aftercare: secs(1),
        measure_len: secs(1),
        window_end: None,
        visible_within: secs(2),
        organic: Some(OrganicRule { guard: 0, hold_total: Some(Rate::per_sec(1_200)), expected_below: None }),
        guards: vec![spec("asked", Origin::Prometheus), spec("local", Origin::Local)],
    }
}

/// The same machine without users: small enough to be walked to its end.
fn small() -> Settings {
    Settings { organic: None, ..settings() }
}

/// What may happen in one second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Event {
    /// The guard that asks reads this; the local one is good.
    Asked(Level),
    /// The local one backs off.
    Local,
    /// Both are good and many users are here, or few.
    Users(bool),
    /// A person says this, for good until the next word.
    Order(Order2),
    Stop,
    Finish,
    Budget,
    Skew,
    /// Answers are in flight.
    InFlight,
}

/// [`Order`] with a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Order2 {
    Go,
    Freeze,
    Pause,
}

impl Order2 {
    fn get(self) -> Order {
        match self {
            Self::Go => Order::Go,
            Self::Freeze => Order::Freeze,
            Self::Pause => Order::Pause,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
struct World {
    state: State,
    order: Order2,
    /// Seconds without data, and of clean readings, of the guard that asks.
    blind_s: u64,
    clean_s: u64,
    many_users: bool,
    latched: bool,
    /// A rule of transitions was broken.
    broken_rule: Option<&'static str>,
}

impl Eq for World {}

impl Hash for World {
    fn hash<H: Hasher>(&self, h: &mut H) {
        // The state has floats in it, which have no hash; its text has.
        serde_json::to_string(&self.state).unwrap().hash(h);
        (self.order, self.blind_s, self.clean_s, self.many_users, self.latched, self.broken_rule).hash(h);
    }
}

fn view(level: Level, blind_s: u64, clean_s: u64) -> View {
    let reading = match level {
        Level::Good => Reading::Good(0.0),
        Level::Neutral => Reading::Neutral,
        Level::Suspect | Level::BackOff => Reading::BackOff(0.02),
        Level::Hold => Reading::Hold(0.006),
        Level::NoData => Reading::NoData(NoData::Empty),
        Level::Abort => Reading::Abort(0.9),
        Level::Fault => Reading::Fault(replay::govern::reading::Fault::Auth),
    };
    View { level, reading, no_data_ms: blind_s * 1_000, clean_ms: clean_s * 1_000 }
}

/// Puts a time one second further back, as far as it matters.
fn older(t: RunTime, past_s: u64) -> RunTime {
    let age = NOW.since(t) + Duration::from_secs(1);
    RunTime(NOW.0 - age.min(Duration::from_secs(past_s)).as_nanos() as u64)
}

fn age(state: &mut State, past_s: u64) {
    let s = state;
    for t in [&mut s.entered, &mut s.step_began, &mut s.lead_in_began, &mut s.cut_at, &mut s.organic_at] {
        *t = older(*t, past_s);
    }
    s.entries.iter_mut().for_each(|t| *t = older(*t, past_s));
    s.experiments.iter_mut().for_each(|e| e.at = older(e.at, past_s));
    // What is reported and decides nothing would only multiply states.
    s.experiments.clear();
    (s.load_ended, s.calm_at, s.cuts, s.step_counts) = (None, None, 0, (0, 0, 0));
    // As coarse as the shares are.
    s.proven = Rate::per_sec(s.proven.mrps / 250_000 * 250);
    s.calm_values.iter_mut().for_each(|v| *v = None);
}

/// A person's pause sends nothing and lasts as long as the person wants, or the plan or the window.
fn is_paused(w: &World) -> bool {
    w.order == Order2::Pause || (w.state.phase == Phase::Paused && w.order != Order2::Go)
}

struct Governor {
    settings: Settings,
    past_s: u64,
    /// Every event, or those that differ in kind.
    every: bool,
}

impl Governor {
    fn next(&self, last: &World, event: Event) -> World {
        let mut w = last.clone();
        let level = if let Event::Asked(level) = event { level } else { Level::Good };
        if let Event::Order(order) = event {
            w.order = order;
        }
        if let Event::Users(many) = event {
            w.many_users = many;
        }
        w.blind_s = if level == Level::NoData { (w.blind_s + 1).min(3) } else { 0 };
        w.clean_s = if level == Level::Good { (w.clean_s + 1).min(1) } else { 0 };
        let local = if event == Event::Local { Level::BackOff } else { Level::Good };
        let sent = if w.state.phase.is_sending() { 100 } else { 0 };
        let inputs = Inputs {
            now: NOW,
            tick_late_ms: 0,
            clock_jump_ms: 0,
            worker_silent_ms: 0,
            stop: (event == Event::Stop).then_some(StopCause::KillFile),
            guards: vec![
                view(level, w.blind_s, w.clean_s),
                view(local, 0, if local == Level::Good { 3 } else { 0 }),
            ],
            // All of what is allowed is sent.
            sent_1s: (w.state.allowed().as_f64() * 1_000.0) as u64,
            offered_1s: (w.state.allowed().as_f64() * 1_000.0) as u64,
            due_1s: 1_000,
            due: sent,
            sent,
            offered: sent,
            achieved_max: self.settings.target.times(w.state.allowed()),
            in_flight: u64::from(event == Event::InFlight),
            finish: (event == Event::Finish).then_some(Finish::TraceEnd),
            saturated: false,
            quiet_until: RunTime::START,
            order: w.order.get(),
            budget: (event == Event::Budget).then_some(replay::govern::budget::BudgetKind::FailedRequests),
            window_left_ms: None,
            baseline: Baseline::Ready,
            visible: None,
            organic: Some(Rate::per_sec(if w.many_users { 900 } else { 100 })),
            skew_ms: if event == Event::Skew { 5_000 } else { 0 },
            connections: 0,
        };
        let before = w.state.grant(&self.settings, NOW);
        let (state, effects) = step(&self.settings, &w.state, &inputs);
        let after = state.grant(&self.settings, NOW);
        let entering = w.state.phase == Phase::Baseline;
        let clean = inputs.guards.iter().all(|v| v.level == Level::Good) && inputs.skew_ms == 0;
        w.broken_rule = if after.share > before.share && !clean && !entering {
            Some("the share rose without every guard good")
        } else if after.share > before.share
            && !entering
            && after.share.ppm() - before.share.ppm() > self.settings.step.ppm()
        {
            Some("the share rose by more than a step")
        } else if last.state.phase == Phase::Done && state != last.state {
            Some("a terminal was left")
        } else {
            None
        };
        w.latched |= effects.contains(&Effect::Latch);
        w.state = state;
        if w.state.phase != Phase::Done {
            age(&mut w.state, self.past_s);
        }
        w
    }

    /// Whether the same event for ever ends the run.
    fn ends_under(&self, world: &World, event: Event) -> bool {
        let mut w = world.clone();
        for _ in 0..200 {
            if w.state.phase == Phase::Done {
                return true;
            }
            w = self.next(&w, event);
        }
        false
    }
}

impl Model for Governor {
    type State = World;
    type Action = Event;

    fn init_states(&self) -> Vec<World> {
        let mut state = State::start(&self.settings);
        (state.entered, state.step_began) = (NOW, NOW);
        vec![World {
            state,
            order: Order2::Go,
            blind_s: 0,
            clean_s: 0,
            many_users: false,
            latched: false,
            broken_rule: None,
        }]
    }

    fn actions(&self, _state: &World, actions: &mut Vec<Event>) {
        use Level::{Abort, BackOff, Fault, Good, Hold, Neutral, NoData, Suspect};
        if !self.every {
            actions.extend([Good, Neutral, Hold, NoData, BackOff, Abort].map(Event::Asked));
            actions.extend([Event::Order(Order2::Go), Event::Order(Order2::Pause)]);
            actions.extend([Event::Local, Event::Stop, Event::Finish, Event::InFlight]);
            return;
        }
        actions.extend([Good, Neutral, Suspect, Hold, NoData, BackOff, Abort, Fault].map(Event::Asked));
        actions.extend([Order2::Go, Order2::Freeze, Order2::Pause].map(Event::Order));
        actions.extend([Event::Users(true), Event::Users(false)]);
        actions.extend([
            Event::Local,
            Event::Stop,
            Event::Finish,
            Event::Budget,
            Event::Skew,
            Event::InFlight,
        ]);
    }

    fn next_state(&self, last: &World, event: Event) -> Option<World> {
        Some(self.next(last, event))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("4: after the latch nothing is granted", |m, w: &World| {
                !w.latched || w.state.grant(&m.settings, NOW).ceiling == Rate::ZERO
            }),
            Property::always("2: nothing before the probe", |m, w: &World| {
                w.state.sent_anything || w.state.grant(&m.settings, NOW).ceiling == Rate::ZERO
            }),
            Property::always("3: draining, aftercare, aborting, paused, done never send", |m, w: &World| {
                w.state.phase.is_sending() || w.state.grant(&m.settings, NOW).ceiling == Rate::ZERO
            }),
            Property::always("5, 12: growth and terminals", |_, w: &World| w.broken_rule.is_none()),
            Property::always("7: recovery stays below 0.8 of what broke", |m, w: &World| {
                w.state.broken.is_none_or(|b| {
                    let cap =
                        (b.mrps as f64 * 0.8) as u64 + m.settings.target.times(m.settings.probe_share).mrps;
                    w.state.grant(&m.settings, NOW).ceiling.mrps <= cap
                })
            }),
            Property::always("8: back-offs are limited", |m, w: &World| {
                w.state.entries.len() <= m.settings.max_backoffs as usize + 1
            }),
            Property::always("users and ours stay at their total", |m, w: &World| {
                let users = if w.many_users { 900 } else { 100 };
                let Some(total) = m.settings.organic.and_then(|o| o.hold_total) else { return true };
                // The rate of users is a second old when the share follows.
                !w.state.phase.is_sending()
                    || w.state.grant(&m.settings, NOW).ceiling.mrps + users * 1_000 <= total.mrps
            }),
            Property::always("11: harm for ever ends it", |m, w: &World| {
                is_paused(w) || m.ends_under(w, Event::Asked(Level::BackOff))
            }),
            Property::always("11: silence for ever ends it", |m, w: &World| {
                is_paused(w) || m.ends_under(w, Event::Asked(Level::NoData))
            }),
            Property::always("11: the end of the plan ends it from everywhere", |m, w: &World| {
                // Before anything was sent the plan has not begun, and a run that may not begin gives up.
                m.ends_under(w, Event::Finish) || !w.state.sent_anything
            }),
            Property::always("a kill switch ends it from everywhere", |m, w: &World| {
                m.ends_under(w, Event::Stop)
            }),
            Property::sometimes("a run can complete", |_, w: &World| {
                w.state.terminal == Some(replay::govern::state::Terminal::Completed)
            }),
            Property::sometimes("a run can recover", |_, w: &World| w.state.phase == Phase::Recover),
        ]
    }
}

fn walk(name: &str, governor: Governor, limit: usize) -> bool {
    let checker = governor.checker().threads(2).target_state_count(limit).spawn_bfs().join();
    let whole = checker.state_count() < limit;
    eprintln!(
        "{name}: {} unique states of {} generated, depth {}, {}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        if whole { "all that can be reached" } else { "up to the limit" }
    );
    checker.assert_properties();
    whole
}

#[test]
fn every_state_of_the_small_machine_keeps_the_invariants() {
    let governor = Governor { settings: small(), past_s: PAST_S, every: false };
    assert!(walk("small", governor, 40_000_000), "it was not walked to its end");
}

#[test]
fn the_machine_with_users_and_every_event_keeps_them_too() {
    let limit = std::env::var("MODEL_STATES").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    walk("with users", Governor { settings: settings(), past_s: PAST_S, every: true }, limit);
}
