//! The governor's thread: gathers readings every 100 ms, asks the pure core, carries out what it says.
//!
//! It runs on an OS thread of its own, so that no amount of work on the senders' runtimes can delay it. If
//! it dies, its guard sets the latch, and even without that the lease runs out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::handle::Handle;
use super::journal::Journal;
use super::shared::{Shared, Stage};
use super::sight::Sight;
use super::spending::Spending;
use crate::edge::clock::{wait, wall};
use crate::edge::host::control::Orders;
use crate::edge::host::kill_file::KillFile;
use crate::edge::host::metrics_page::{Metrics, Numbers};
use crate::edge::host::notify::Watchdog;
use crate::edge::host::own_load::OwnLoadMeter;
use crate::edge::send::book::{Beat, Flow};
use crate::edge::watch::poll::Board;
use crate::govern::budget::BudgetKind;
use crate::govern::guard::{Guard, Sample, View};
use crate::govern::inputs::{Finish, Inputs};
use crate::govern::latch::StopCause;
use crate::govern::local::{Bins, LocalNow, LocalWindow};
use crate::govern::local_rules::LocalMetric;
use crate::govern::record::Line;
use crate::govern::settings::Settings;
use crate::govern::state::{Phase, State, Terminal};
use crate::govern::step::{Effect, step};
use crate::limits::TICK;
use crate::measure::saturation::{self, Seconds};
use crate::measure::timeline::Row;
use crate::units::{NANOS_PER_SEC, Rate, RunTime};

/// What the live line shows.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The newest second.
    pub row: Row,
    /// Rate that the share stands for now.
    pub target_rps: f64,
    /// Time of the run.
    pub at: RunTime,
    /// Views of the guards.
    pub views: Vec<View>,
}

/// A change worth telling.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// When.
    pub at: RunTime,
    /// What.
    pub effect: Effect,
    /// Guards with their readings at that moment.
    pub views: Vec<View>,
}

/// What the governor leaves behind.
#[derive(Debug)]
pub struct GovernorEnd {
    /// How the run ended.
    pub terminal: Terminal,
    /// The last state.
    pub state: State,
    /// One row a second.
    pub timeline: Vec<Row>,
    /// What it did and when.
    pub told: Vec<Told>,
    /// Worst value of each guard.
    pub worst: Vec<Option<f64>>,
    /// Last view of each guard.
    pub views: Vec<View>,
    /// What was told to it in words, and when.
    pub noted: Vec<(RunTime, String)>,
    /// Seconds in which we were at our own limit.
    pub seconds: Seconds,
    /// Why the journal is not whole, if it is not.
    pub journal_error: Option<String>,
}

/// Everything the governor needs.
pub struct Governor {
    /// Shared state.
    pub shared: Arc<Shared>,
    /// Settings.
    pub settings: Settings,
    /// Metrics of the local guards, which come first in the settings.
    pub local: Vec<LocalMetric>,
    /// Samples of the other guards.
    pub board: Board,
    /// Kill file.
    pub kill_file: Option<KillFile>,
    /// Rate of new connections at a share of one.
    pub connects: Rate,
    /// Journal.
    pub journal: Journal,
    /// Live numbers.
    pub snapshot: Arc<Mutex<Snapshot>>,
    /// What hangs on the past and on our own traffic: baselines, visibility.
    pub sight: Sight,
    /// Budgets.
    pub spending: Option<Spending>,
    /// A person's standing order.
    pub orders: Orders,
    /// Our own metrics.
    pub metrics: Metrics,
    /// What a drill does to this run.
    pub handle: Option<Arc<Handle>>,
    /// The watchdog of systemd.
    pub watchdog: Watchdog,
    /// Workers spin between departures.
    pub spins: bool,
}

/// Sets the latch when the governor's thread ends for whatever reason.
struct Alive(Arc<Shared>);

impl Drop for Alive {
    fn drop(&mut self) {
        if self.0.stage().0 != Stage::Ended {
            self.0.gate.latch().set(StopCause::GovernorGone);
            self.0.set_stage(Stage::Ended);
        }
    }
}

/// Numbers of the last second, tick by tick.
#[derive(Debug, Default)]
struct Recent {
    flows: VecDeque<Flow>,
    /// Sent per second, one entry a tick, over the last L.
    rates: VecDeque<u64>,
    sent: u64,
    offered: u64,
    due: u64,
    failed: u64,
    server_errors: u64,
    bytes: u64,
    connects: u64,
}

impl Recent {
    fn push(&mut self, flow: Flow, lag_ticks: usize) {
        self.flows.push_back(flow);
        while self.flows.len() > 10 {
            self.flows.pop_front();
        }
        self.sent += flow.sent;
        self.due += flow.due;
        self.offered += flow.due.saturating_sub(flow.thinned);
        self.rates.push_back(self.sent_1s());
        while self.rates.len() > lag_ticks.max(1) {
            self.rates.pop_front();
        }
    }

    fn sent_1s(&self) -> u64 {
        self.flows.iter().map(|f| f.sent).sum()
    }

    fn due_1s(&self) -> u64 {
        self.flows.iter().map(|f| f.due).sum()
    }

    fn offered_1s(&self) -> u64 {
        self.flows.iter().map(|f| f.due.saturating_sub(f.thinned)).sum()
    }
}

struct Watch {
    guards: Vec<Guard>,
    window: LocalWindow,
    recent: Recent,
    lag_second: Bins,
    meter: OwnLoadMeter,
    seconds: Seconds,
    quiet_until: RunTime,
    silent: Duration,
    connections: u64,
}

impl Watch {
    /// A second is over: were we at our own limit in it? What to tell, if that begins to count.
    fn end_second(&mut self, now: RunTime, stage: Stage, spins: bool) -> Option<String> {
        let load = self.meter.look(now);
        let p99 = std::mem::take(&mut self.lag_second).plain_quantile(0.99).map(Duration::from_secs_f64);
        // Nothing is measured while nothing is sent.
        let bad = saturation::judge(&load, p99, spins).filter(|_| stage.phase().is_some());
        self.seconds.end(&load, bad, matches!(stage, Stage::Measure(_)))
    }
}

impl Governor {
    /// Governs to the end of the run.
    #[must_use]
    pub fn run(mut self) -> GovernorEnd {
        let _alive = Alive(Arc::clone(&self.shared));
        let mut state = State::start(&self.settings);
        let mut watch = Watch {
            guards: self.settings.guards.iter().map(|_| Guard::default()).collect(),
            window: LocalWindow::default(),
            recent: Recent::default(),
            lag_second: Bins::default(),
            meter: OwnLoadMeter::default(),
            seconds: Seconds::default(),
            quiet_until: RunTime::START,
            silent: Duration::ZERO,
            connections: 0,
        };
        // What the guards said when it was decided, not what they say when the last answer is in.
        let mut evidence: Option<Vec<View>> = None;
        let (mut timeline, mut told, mut row) = (Vec::new(), Vec::new(), Row::default());
        let mut noted = Vec::new();
        let clock = self.shared.clock;
        let (mut due, mut last) = (clock.now(), (clock.now(), wall()));
        loop {
            wait(due.since(clock.now()));
            let (now, wall_now) = (clock.now(), wall());
            let late = now.since(due);
            let jump = clock_jump(last, (now, wall_now));
            last = (now, wall_now);
            due = due.plus(TICK).max(now);
            self.watchdog.feed(now);
            let flow = self.gather(&mut watch, now);
            self.shift();
            for what in self.shared.take_notes() {
                self.journal.put(Line::Noted { at: now, what: what.clone() });
                noted.push((now, what));
            }
            let inputs = self.inputs(&mut watch, &state, now, late, jump);
            let (next, effects) = step(&self.settings, &state, &inputs);
            state = next;
            self.carry_out(&state, &effects, now);
            if effects.iter().any(|e| matches!(e, Effect::Cut { .. })) {
                // A cut is judged by what comes after it.
                watch.window.forget();
            }
            if effects.contains(&Effect::Latch) {
                evidence.get_or_insert_with(|| inputs.guards.clone());
            }
            told.extend(effects.iter().map(|e| Told { at: now, effect: *e, views: inputs.guards.clone() }));
            self.row(&mut row, &mut timeline, flow, &state, &mut watch, now);
            let grant = state.grant(&self.settings, now);
            let views = inputs.guards.clone();
            self.journal.put(Line::Tick { inputs, state: state.clone(), effects, grant });
            if state.phase == Phase::Done {
                timeline.push(row);
                self.shared.set_stage(Stage::Ended);
                self.metrics.show(Numbers { active: false, ..self.numbers(&watch, &state, now) });
                // What is given up unanswered may have failed, and counts so.
                let given_up = self.shared.gate.in_flight();
                let spending_error = self.spending.take().and_then(|s| s.finish(given_up).err());
                let journal_error = self.journal.finish().err().or(spending_error).map(|e| format!("{e:#}"));
                let terminal =
                    state.terminal.unwrap_or(Terminal::Aborted(crate::govern::state::Cause::TickLate));
                let worst = watch.guards.iter().map(Guard::worst).collect();
                let views = evidence.unwrap_or(views);
                return GovernorEnd {
                    terminal,
                    state,
                    timeline,
                    told,
                    worst,
                    views,
                    noted,
                    seconds: watch.seconds,
                    journal_error,
                };
            }
        }
    }

    /// Takes the beats of all workers into the windows.
    fn gather(&self, watch: &mut Watch, now: RunTime) -> Flow {
        let mut all = Beat::default();
        let (mut live, mut failures) = (LocalNow::default(), 0);
        watch.silent = Duration::ZERO;
        for port in &self.shared.ports {
            let (beat, last) = port.take();
            watch.silent = watch.silent.max(now.since(last));
            live.in_flight += beat.now.in_flight;
            live.oldest_ns = live.oldest_ns.max(beat.now.oldest_ns);
            live.ages.merge(&beat.now.ages);
            live.connections += beat.now.connections;
            failures = failures.max(beat.now.failures_in_a_row);
            all.absorb(beat);
        }
        let c = &all.bucket.counts;
        watch.recent.failed += c.errors + c.timeouts + c.refused;
        watch.recent.server_errors += c.server_errors;
        watch.recent.bytes += c.bytes;
        watch.recent.connects += c.connects;
        watch.connections = live.connections;
        live.failures_in_a_row = failures;
        live.in_flight = live.in_flight.max(self.shared.gate.in_flight());
        live.in_flight_max = self.shared.gate.in_flight_max();
        watch.window.push(all.bucket, live);
        watch.quiet_until = watch.quiet_until.max(all.quiet_until);
        watch.lag_second.merge(&all.lag);
        let lag_ticks = (self.settings.lag.as_millis() / TICK.as_millis()) as usize;
        watch.recent.push(all.flow, lag_ticks);
        self.sight.sent(now, watch.recent.sent, watch.recent.server_errors);
        all.flow
    }

    fn inputs(
        &mut self,
        watch: &mut Watch,
        state: &State,
        now: RunTime,
        late: Duration,
        jump: Duration,
    ) -> Inputs {
        self.observe(watch, state, now);
        self.spend(watch);
        let latch = self.shared.gate.latch();
        if self.kill_file.as_ref().is_some_and(KillFile::says_stop) {
            latch.set(StopCause::KillFile);
        }
        let ms = |d: Duration| d.as_millis() as u64;
        let views: Vec<View> =
            watch.guards.iter().zip(&self.settings.guards).map(|(g, s)| g.view(s, now)).collect();
        let best = watch.recent.rates.iter().max().copied().unwrap_or(0);
        // The latch that we set ourselves when aborting is no new reason.
        let stop = latch.cause().filter(|c| *c != StopCause::Governor);
        let organic = self.settings.organic.and_then(|rule| views.get(rule.guard)?.reading.value());
        let used_up = self.spending.as_ref().and_then(Spending::used_up);
        Inputs {
            now,
            tick_late_ms: ms(late),
            clock_jump_ms: ms(jump),
            worker_silent_ms: ms(watch.silent),
            stop,
            sent_1s: watch.recent.sent_1s(),
            offered_1s: watch.recent.offered_1s(),
            due_1s: watch.recent.due_1s(),
            due: watch.recent.due,
            sent: watch.recent.sent,
            offered: watch.recent.offered,
            achieved_max: Rate::per_sec(best),
            in_flight: self.shared.gate.in_flight(),
            finish: self.finish(now),
            saturated: watch.seconds.is_saturated(),
            quiet_until: watch.quiet_until,
            order: self.orders.get(),
            budget: used_up.filter(|k| *k != BudgetKind::Requests),
            window_left_ms: self.settings.window_end.map(|end| ms(end.since(now))),
            baseline: self.sight.baseline(self.local.len(), &self.settings.guards, &views),
            visible: self.sight.visible(),
            organic: organic.map(Rate::from_rps_f64),
            skew_ms: self.board.skew_ms(),
            connections: watch.connections,
            guards: views,
        }
    }

    /// Why the sending ends in good order now, if it does.
    fn finish(&self, now: RunTime) -> Option<Finish> {
        if self.settings.window_end.is_some_and(|end| now >= end) {
            Some(Finish::WindowEnd)
        } else if self.shared.gate.requests_left() == 0 {
            Some(Finish::RequestBudget)
        } else {
            self.shared.plan_ended().then_some(Finish::TraceEnd)
        }
    }

    /// Counts what was spent and sees to it that the next second is on the disk before it flows.
    fn spend(&mut self, watch: &Watch) {
        let Some(spending) = &mut self.spending else { return };
        let r = &watch.recent;
        if !spending.note(r.sent, r.failed, r.bytes, r.connects) {
            self.shared.gate.latch().set(StopCause::BudgetStore);
        }
    }

    /// A drill asked for a guard to be tripped: its limits move so that whatever it reads is a breach.
    fn shift(&mut self) {
        let Some(guard) = self.handle.as_ref().and_then(|h| h.take_shift()) else { return };
        if let Some(spec) = self.settings.guards.get_mut(guard) {
            spec.thresholds = spec.thresholds.tripped();
            self.journal.put(Line::Shifted { at: self.shared.clock.now(), guard });
        }
    }

    fn observe(&mut self, watch: &mut Watch, state: &State, now: RunTime) {
        let seq = now.0;
        for (i, metric) in self.local.iter().enumerate() {
            let sample = Sample { seq, requested_at: now, answer: metric.answer(&watch.window) };
            if let (Some(guard), Some(spec)) = (watch.guards.get_mut(i), self.settings.guards.get(i)) {
                guard.observe(spec, now, sample);
            }
        }
        let offset = self.local.len();
        for fixed in self.sight.fix_limits(offset, &mut self.settings.guards, now) {
            if let Line::Baseline { guard, .. } = &fixed
                && let Some(guard) = watch.guards.get_mut(*guard)
            {
                // What was said under the loosest limit says nothing under this one.
                *guard = Guard::default();
            }
            self.journal.put(fixed);
        }
        for (i, sample) in self.board.read().into_iter().enumerate() {
            let Some(sample) = sample else { continue };
            let sample = self.sight.translate(i, sample, state.sent_anything, now);
            if let (Some(guard), Some(spec)) =
                (watch.guards.get_mut(offset + i), self.settings.guards.get(offset + i))
            {
                guard.observe(spec, now, sample);
            }
        }
    }

    fn numbers(&self, watch: &Watch, state: &State, now: RunTime) -> Numbers {
        let grant = state.grant(&self.settings, now);
        Numbers {
            active: !matches!(state.phase, Phase::Preflight | Phase::Baseline | Phase::Done),
            share: grant.share.as_f64(),
            ceiling_rps: grant.ceiling.rps(),
            sent: watch.recent.sent as f64,
            failed: watch.recent.failed as f64,
            in_flight: self.shared.gate.in_flight() as f64,
        }
    }

    fn carry_out(&self, state: &State, effects: &[Effect], now: RunTime) {
        for effect in effects {
            match effect {
                Effect::Latch => self.shared.gate.latch().set(StopCause::Governor),
                Effect::StopSending => self.shared.set_stage(Stage::Stopped),
                // A moment ahead, so that the first departures are not late already.
                Effect::StartLeadIn => self.shared.set_stage(Stage::LeadIn(now.plus(TICK * 2))),
                Effect::StartMeasure => self.shared.set_stage(Stage::Measure(now.plus(TICK * 3))),
                Effect::Entered { .. }
                | Effect::Cut { .. }
                | Effect::Grown { .. }
                | Effect::Attributed { .. }
                | Effect::Room { .. }
                | Effect::Calm
                | Effect::Finished(_) => {}
            }
        }
        let grant = state.grant(&self.settings, now);
        self.shared.set_share(grant.share);
        // Handshakes are cut with the share, but never to nothing while requests may go.
        let connects = self.connects.times(grant.share).max(Rate::per_sec(1)).min(self.connects);
        self.shared.gate.publish(now, grant.ceiling, connects, grant.not_after);
    }

    fn row(
        &self,
        row: &mut Row,
        all: &mut Vec<Row>,
        flow: Flow,
        state: &State,
        watch: &mut Watch,
        now: RunTime,
    ) {
        let second = now.0 / NANOS_PER_SEC;
        if second != row.second {
            if let Some(what) = watch.end_second(now, self.shared.stage().0, self.spins) {
                self.shared.note(what);
            }
            self.metrics.show(self.numbers(watch, state, now));
            let fresh = Row { second, ..Row::default() };
            all.push(std::mem::replace(row, fresh));
        }
        let grant = state.grant(&self.settings, now);
        row.state = state.phase.name().to_owned();
        row.share = grant.share.as_f64();
        row.ceiling_rps = grant.ceiling.rps();
        row.due += flow.due;
        row.thinned += flow.thinned;
        row.shed += flow.shed;
        row.sent += flow.sent;
        row.ok += flow.ok;
        row.bad += flow.bad;
        row.in_flight = self.shared.gate.in_flight();
        row.p95_ms = watch.window.quantile(0.95, 20).0.map(|s| s * 1e3);
        let mut snapshot = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = watch.recent.sent_1s();
        let views = watch.guards.iter().zip(&self.settings.guards).map(|(g, s)| g.view(s, now)).collect();
        let row = Row { sent, ..row.clone() };
        *snapshot = Snapshot { row, target_rps: grant.ceiling.rps(), at: now, views };
    }
}

/// How far wall clock and monotonic clock have gone apart between two moments.
fn clock_jump(a: (RunTime, crate::units::WallTime), b: (RunTime, crate::units::WallTime)) -> Duration {
    let mono = i128::from(b.0.0) - i128::from(a.0.0);
    let wall = i128::from(b.1.0) - i128::from(a.1.0);
    Duration::from_nanos(u64::try_from((mono - wall).abs()).unwrap_or(u64::MAX))
}
