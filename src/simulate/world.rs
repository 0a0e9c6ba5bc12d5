//! Governor, guards and plant, tick by tick.

use std::collections::VecDeque;
use std::time::Duration;

use super::plant::{Chance, Plant};
use super::scenario::{PrometheusModel, Scenario};
use crate::govern::guard::{Guard, Sample, View};
use crate::govern::inputs::{Baseline, Finish, Inputs, Order};
use crate::govern::local::{Bins, LocalBucket, LocalCounts, LocalNow, LocalWindow};
use crate::govern::reading::{Answer, NoData};
use crate::govern::state::{Phase, State, Terminal};
use crate::govern::step::{Effect, step};
use crate::limits::TICK;
use crate::units::{Rate, RunTime};

/// One tick.
#[derive(Debug, Clone)]
pub struct Tick {
    /// Inputs.
    pub inputs: Inputs,
    /// State after.
    pub state: State,
    /// Effects.
    pub effects: Vec<Effect>,
    /// Users and ours, requests a second.
    pub total_rps: f64,
    /// What the plant carries.
    pub capacity_rps: f64,
}

/// What a simulation came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// How it ended; none when time was up first.
    pub terminal: Option<Terminal>,
    /// Highest second of users and ours over capacity: chance among thousands of seconds is in it.
    pub peak_over_capacity: f64,
    /// Highest mean of ten seconds over capacity: what a service feels.
    pub sustained_over_capacity: f64,
    /// Failed requests of all, users and ours, over all.
    pub failed_ratio: f64,
    /// Failed requests of users alone.
    pub users_failed: f64,
    /// Seconds at whose end the mean of the last ten was more than is carried.
    pub over_capacity_s: f64,
    /// Back-offs entered.
    pub back_offs: usize,
    /// Mean of what we sent over the last quarter, requests a second.
    pub settled_rps: f64,
}

/// Counters that a Prometheus scrapes: cumulative, at a time.
#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    at_s: f64,
    all: f64,
    failed: f64,
    users: f64,
    users_failed: f64,
}

struct Scraper {
    model: PrometheusModel,
    samples: VecDeque<Counters>,
    next_scrape_s: f64,
    next_poll_s: f64,
    seq: u64,
}

impl Scraper {
    /// Growth of the counters over the range, as a rate query would see it; none below two samples.
    fn rates(&self, now_s: f64) -> Option<Counters> {
        let inside: Vec<&Counters> =
            self.samples.iter().filter(|c| now_s - c.at_s <= self.model.range_s).collect();
        let (first, last) = (inside.first()?, inside.last()?);
        let dt = last.at_s - first.at_s;
        (dt > 0.0).then(|| Counters {
            at_s: last.at_s,
            all: (last.all - first.all) / dt,
            failed: (last.failed - first.failed) / dt,
            users: (last.users - first.users) / dt,
            users_failed: (last.users_failed - first.users_failed) / dt,
        })
    }

    fn look(&mut self, now_s: f64, counters: Counters) {
        if now_s >= self.next_scrape_s {
            self.next_scrape_s += self.model.scrape_s;
            self.samples.push_back(counters);
            while self.samples.len() > 1_000 {
                self.samples.pop_front();
            }
        }
    }

    /// The answers to both questions, if it is time to ask.
    fn poll(&mut self, now_s: f64) -> Option<(u64, Answer, Answer)> {
        if now_s < self.next_poll_s {
            return None;
        }
        self.next_poll_s += self.model.poll_s;
        self.seq += 1;
        if now_s >= self.model.blind_from_s {
            let none = Answer::NoData(NoData::Timeout);
            return Some((self.seq, none, none));
        }
        let Some(r) = self.rates(now_s) else {
            // A service that nobody asks has no errors; that is what its counters say at the start.
            let fine =
                if self.samples.len() < 2 { Answer::NoData(NoData::Empty) } else { Answer::number(0.0) };
            return Some((self.seq, fine, Answer::NoData(NoData::Empty)));
        };
        let (part, whole) = if self.model.organic { (r.users_failed, r.users) } else { (r.failed, r.all) };
        let errors =
            if whole > 0.0 { Answer::number(part / whole) } else { Answer::Value { value: 0.0, samples: 0 } };
        Some((self.seq, errors, Answer::number(r.users)))
    }
}

fn at(table: &[(f64, f64)], now_s: f64) -> f64 {
    table.iter().rev().find(|(from, _)| now_s >= *from).map_or(0.0, |(_, v)| *v)
}

struct World<'a> {
    s: &'a Scenario,
    plant: Plant,
    chance: Chance,
    window: LocalWindow,
    guards: Vec<Guard>,
    scraper: Option<Scraper>,
    counters: Counters,
    sent: VecDeque<f64>,
    due: VecDeque<f64>,
    sent_total: f64,
    due_total: f64,
    offered_total: f64,
    best: VecDeque<f64>,
    row: usize,
}

/// Runs a scenario to the end of the governor's run or of its time.
#[must_use]
pub fn run(s: &Scenario) -> (Vec<Tick>, Outcome) {
    let mut world = World {
        s,
        plant: Plant::new(at(&s.capacity, 0.0), s.service_s, s.timeout_s),
        chance: Chance::new(s.seed),
        window: LocalWindow::default(),
        guards: s.settings.guards.iter().map(|_| Guard::default()).collect(),
        scraper: s.prometheus.map(|model| Scraper {
            model,
            samples: VecDeque::new(),
            next_scrape_s: 0.0,
            next_poll_s: 0.0,
            seq: 0,
        }),
        counters: Counters::default(),
        sent: VecDeque::new(),
        due: VecDeque::new(),
        sent_total: 0.0,
        due_total: 0.0,
        offered_total: 0.0,
        best: VecDeque::new(),
        row: 0,
    };
    let mut state = State::start(&s.settings);
    let mut ticks = Vec::new();
    let all = s.duration.as_millis() as u64 / TICK.as_millis() as u64;
    for n in 1..=all {
        let now = RunTime::from_millis(n * TICK.as_millis() as u64);
        let (inputs, total_rps) = world.tick(&state, now, n == all);
        let (next, effects) = step(&s.settings, &state, &inputs);
        state = next;
        if effects.iter().any(|e| matches!(e, Effect::Cut { .. })) {
            world.window.forget();
        }
        let done = state.phase == Phase::Done;
        let capacity_rps = world.plant.capacity_rps;
        ticks.push(Tick { inputs, state: state.clone(), effects, total_rps, capacity_rps });
        if done {
            break;
        }
    }
    let outcome = outcome(&ticks, &world.counters, &state);
    (ticks, outcome)
}

impl World<'_> {
    /// What happens within one tick under the grant of `state`, and what the governor sees of it.
    fn tick(&mut self, state: &State, now: RunTime, last: bool) -> (Inputs, f64) {
        let dt = TICK.as_secs_f64();
        let now_s = now.as_secs_f64();
        let grant = state.grant(&self.s.settings, now);
        self.plant.set_capacity(at(&self.s.capacity, now_s));
        let due = if state.phase.is_sending() { self.s.settings.target.rps() * dt } else { 0.0 };
        let offered = self.chance.poisson(due * grant.share.as_f64());
        // The bucket lets short bursts pass, as the real one does, and no more.
        let ours = offered.min(grant.ceiling.rps() * dt + 16.0);
        let users = self.chance.poisson(at(&self.s.users, now_s) * dt);
        let served = self.plant.step(ours + users, dt);
        let all = ours + users;
        let bad =
            if served.ok + served.failed > 0.0 { served.failed / (served.ok + served.failed) } else { 0.0 };
        let (from, share) = self.s.failing;
        let own_trouble = if now_s >= from { users * share } else { 0.0 };
        self.counters.at_s = now_s;
        self.counters.all += all;
        self.counters.failed += all * bad + own_trouble;
        self.counters.users += users;
        self.counters.users_failed += users * bad + own_trouble;
        self.see(ours, bad, served.latency_s, served.queue * ours / all.max(1.0));
        self.count(ours, due, offered, grant.share.as_f64());
        (self.inputs(now, last), all / dt)
    }

    /// The local window, from our own requests alone.
    fn see(&mut self, ours: f64, bad: f64, latency_s: f64, waiting: f64) {
        let done = ours.round() as u64;
        let failed = (ours * bad).round() as u64;
        let mut bucket = LocalBucket {
            counts: LocalCounts { done, timeouts: failed.min(done), ..LocalCounts::default() },
            ..LocalBucket::default()
        };
        for _ in 0..done - failed.min(done) {
            bucket.service.add((latency_s * 1e9) as u64);
        }
        let now = LocalNow {
            in_flight: waiting.round() as u64,
            in_flight_max: u64::MAX,
            oldest_ns: if waiting >= 1.0 { (latency_s * 1e9) as u64 } else { 0 },
            ages: Bins::default(),
            failures_in_a_row: if bad > 0.99 && done > 0 { done } else { 0 },
            connections: 0,
        };
        self.window.push(bucket, now);
    }

    fn count(&mut self, ours: f64, due: f64, offered: f64, share: f64) {
        let keep = |q: &mut VecDeque<f64>, v: f64, n: usize| {
            q.push_back(v);
            while q.len() > n {
                q.pop_front();
            }
        };
        keep(&mut self.sent, ours, 10);
        // What was due and what the share left of it must speak of the same draw.
        keep(&mut self.due, if share > 0.0 { offered / share } else { due }, 10);
        self.sent_total += ours;
        self.due_total += due;
        self.offered_total += offered;
        let lag = (self.s.settings.lag.as_millis() / TICK.as_millis()) as usize;
        let second = self.sent.iter().sum();
        keep(&mut self.best, second, lag.max(1));
    }

    fn inputs(&mut self, now: RunTime, last: bool) -> Inputs {
        self.ask(now);
        let views: Vec<View> =
            self.guards.iter().zip(&self.s.settings.guards).map(|(g, spec)| g.view(spec, now)).collect();
        let organic = self.s.settings.organic.and_then(|o| views.get(o.guard)?.reading.value());
        let round = |q: &VecDeque<f64>| q.iter().sum::<f64>().round() as u64;
        self.row += 1;
        Inputs {
            now,
            tick_late_ms: 0,
            clock_jump_ms: 0,
            worker_silent_ms: 0,
            stop: None,
            sent_1s: round(&self.sent),
            offered_1s: round(&self.sent),
            due_1s: round(&self.due),
            due: self.due_total as u64,
            sent: self.sent_total as u64,
            offered: self.offered_total as u64,
            achieved_max: Rate::from_rps_f64(self.best.iter().copied().fold(0.0, f64::max)),
            in_flight: 0,
            finish: last.then_some(Finish::TraceEnd),
            saturated: false,
            quiet_until: RunTime::START,
            order: Order::Go,
            budget: None,
            window_left_ms: None,
            baseline: Baseline::Ready,
            visible: None,
            organic: organic.map(Rate::from_rps_f64),
            skew_ms: 0,
            connections: 0,
            guards: views,
        }
    }

    fn ask(&mut self, now: RunTime) {
        let specs = &self.s.settings.guards;
        for (i, metric) in self.s.local.iter().enumerate() {
            let sample = Sample { seq: now.0, requested_at: now, answer: metric.answer(&self.window) };
            if let (Some(guard), Some(spec)) = (self.guards.get_mut(i), specs.get(i)) {
                guard.observe(spec, now, sample);
            }
        }
        let Some(scraper) = &mut self.scraper else { return };
        let now_s = now.as_secs_f64();
        scraper.look(now_s, self.counters);
        let Some((seq, errors, users)) = scraper.poll(now_s) else { return };
        let (error_guard, user_guard) = scraper.model.guards;
        for (index, answer) in [(Some(error_guard), errors), (user_guard, users)] {
            let Some(index) = index else { continue };
            if let (Some(guard), Some(spec)) = (self.guards.get_mut(index), specs.get(index)) {
                guard.observe(spec, now, Sample { seq, requested_at: now, answer });
            }
        }
    }
}

fn outcome(ticks: &[Tick], counters: &Counters, state: &State) -> Outcome {
    let tick_s = TICK.as_secs_f64();
    let (mut over, mut peak, mut sustained) = (Duration::ZERO, 0.0_f64, 0.0_f64);
    let rates: Vec<f64> = ticks.iter().map(|t| t.total_rps).collect();
    let mean = |n: usize, ticks: usize| {
        let last = rates.get(n.saturating_sub(ticks - 1)..=n).unwrap_or_default();
        last.iter().sum::<f64>() / last.len().max(1) as f64
    };
    for (n, t) in ticks.iter().enumerate() {
        let capacity = t.capacity_rps.max(1e-9);
        peak = peak.max(mean(n, 10) / capacity);
        let long = mean(n, 100) / capacity;
        sustained = sustained.max(long);
        if long > 1.0 {
            over += TICK;
        }
    }
    let quarter = ticks.len() / 4;
    let late = ticks.get(ticks.len() - quarter..).unwrap_or_default();
    let sent: f64 = late.iter().map(|t| t.inputs.sent_1s as f64 * tick_s).sum();
    Outcome {
        terminal: state.terminal.filter(|_| state.phase == Phase::Done),
        peak_over_capacity: peak,
        sustained_over_capacity: sustained,
        failed_ratio: counters.failed / counters.all.max(1.0),
        users_failed: counters.users_failed,
        over_capacity_s: over.as_secs_f64(),
        back_offs: state.entries.len(),
        settled_rps: sent / (quarter as f64 * tick_s).max(1e-9),
    }
}
