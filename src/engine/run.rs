//! One run from prepared parts to its report: starts the threads, waits, gathers.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;

use super::feeder::{Feeder, MeasurePlan, Planned};
use super::governor::{Governor, GovernorEnd, Snapshot, Told};
use super::handle::Handle;
use super::identity;
use super::journal::Journal;
use super::open::{budget_lock, gate_limits, needs_tls, open_control, open_spending, window_end};
pub use super::open::{target_name, token};
use super::shared::{Shared, Stage};
use super::sight::Sight;
use super::worker::{self, WorkerSettings};
use crate::edge::clock::{Clock, wait, wall};
use crate::edge::host::control::Orders;
use crate::edge::host::kill_file::{KillFile, KillWatch};
use crate::edge::host::metrics_page::{Metrics, MetricsPage};
use crate::edge::host::notify::Watchdog;
use crate::edge::host::panic_stop::PanicStop;
use crate::edge::host::policy_file::PolicyFile;
use crate::edge::host::signals;
use crate::edge::host::window::Opening;
use crate::edge::watch::baseline::{self, Baselines};
use crate::edge::watch::poll::{self, Board, PollContext};
use crate::govern::gate::Gate;
use crate::govern::guard::GuardSpec;
use crate::govern::latch::Latch;
use crate::govern::record::Line;
use crate::govern::settings::Settings;
use crate::govern::state::Attribution;
use crate::govern::step::Effect;
use crate::limits::{FEED_BATCHES_MAX, POLICY_LOOK, WORKERS_MAX};
use crate::measure::tally::Tally;
use crate::plan::connections::Connections;
use crate::plan::forecast::Forecast;
use crate::plan::pacing::Pacing;
use crate::plan::prepared::Marking;
use crate::plan::session::Accounts;
use crate::plan::stationary::Sample;
use crate::plan::stream::{EventSource, PlanCounts, PlanSettings, PlanStream};
use crate::policy::settings::{in_flight_max, local_guards};
use crate::policy::target::Target;
use crate::policy::{BUILT_IN, Policy};
use crate::report::json::{AftercareJson, EventJson, Facts, Report, RunJson, report};
use crate::units::{Rate, RunTime, WallTime};

/// Everything a run is made of, checked.
pub struct Prepared<S> {
    /// Policy.
    pub policy: Policy,
    /// Target.
    pub target: Target,
    /// Other address to connect to.
    pub connect_to: Option<(String, u16)>,
    /// Governor's settings.
    pub settings: Settings,
    /// Plan.
    pub plan: PlanSettings,
    /// Trace.
    pub source: S,
    /// Length of the chosen part, nanoseconds.
    pub duration_ns: u64,
    /// Forecast.
    pub forecast: Forecast,
    /// Sessions for the stationary plan.
    pub sample: Sample,
    /// When workers wake.
    pub pacing: Pacing,
    /// Whose connections they are.
    pub connections: Connections,
    /// Local addresses that connections come from.
    pub source_ips: Vec<core::net::IpAddr>,
    /// What this machine may run short of, in words.
    pub scarce: Vec<String>,
    /// Accounts that sessions log in with.
    pub accounts: Arc<Accounts>,
    /// TLS to the target, for https.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// A steady rate instead of the trace, for this many nanoseconds.
    pub steady: Option<(Rate, u64)>,
    /// The opening of the policy's window that holds now.
    pub opening: Option<Opening>,
    /// What the report says of the request.
    pub words: RunJson,
}

/// The run was refused before the first request because it could not have been recorded.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("refused: the run cannot be recorded")]
pub struct NotStarted;

/// How a run is carried out.
#[derive(Debug, Clone)]
pub struct Conduct {
    /// Folder of the run.
    pub out: PathBuf,
    /// Worker threads.
    pub workers: usize,
    /// Whether signals of this process stop the run.
    pub signals: bool,
    /// Whether a control socket is opened.
    pub control: bool,
    /// A handle for a drill.
    pub handle: Option<Arc<Handle>>,
}

impl Conduct {
    /// A run into `out` with signals and a control socket.
    #[must_use]
    pub fn into(out: PathBuf, workers: usize) -> Self {
        Self { out, workers, signals: true, control: true, handle: None }
    }
}

/// Shows live numbers while a run is under way.
pub type Live<'a> = &'a mut dyn FnMut(&Snapshot);

/// Number of workers for a rate: one does thousands of requests a second. A pool's connections are whole.
#[must_use]
pub fn workers_for(target: Rate, connections: Connections) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let wanted = (target.rps() / 2_000.0).ceil() as usize;
    let most = match connections {
        Connections::Recorded => WORKERS_MAX,
        Connections::Pool(n) => WORKERS_MAX.min(n as usize),
    };
    wanted.clamp(1, cores.min(most).max(1))
}

/// Runs to the end.
///
/// # Errors
/// When something of ours fails before the start, or the journal or the report cannot be written.
pub fn run<S: EventSource + Send + 'static>(
    p: Prepared<S>,
    conduct: &Conduct,
    live: Live<'_>,
) -> anyhow::Result<Report> {
    let folder = &conduct.out;
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot create {}", folder.display()))
        .context(NotStarted)?;
    let latch = Latch::new();
    let _panic_stop = PanicStop::watch(&latch);
    let kill_file = p.policy.kill_file.as_deref().map(|k| KillFile::new(Path::new(k))).transpose()?;
    let started = wall();
    let clock = Clock::start();
    let mut p = p;
    p.settings.window_end = window_end(&p, started);
    let in_flight = in_flight_max(&p.policy, p.settings.target);
    let _budget_lock = budget_lock(&p.policy).context(NotStarted)?;
    let spending = open_spending(&p, started, in_flight, &latch).context(NotStarted)?;
    let gate = Gate::new(latch.clone(), gate_limits(&p, spending.as_ref(), in_flight));
    let shared = Shared::new(clock, gate, conduct.workers.clamp(1, WORKERS_MAX));
    let (run, target) = (p.words.id.clone(), target_name(&p.target));
    let metrics = Metrics::new(&target, &run)?;
    let page = p.policy.metrics_listen.as_deref().map(|l| MetricsPage::open(l, metrics.clone())).transpose();
    let _page = page.context(NotStarted)?;
    let first = Line::Start { run, target, at: started, settings: p.settings.clone() };
    let journal = Journal::start(&folder.join("journal.jsonl"), &first, latch.clone()).context(NotStarted)?;
    if conduct.signals {
        signals::stop_on_signals(&latch)?;
    }
    // Without a watch of the kernel's the file is still looked at every tick.
    let _kill_watch = kill_file.clone().and_then(|f| KillWatch::start(f, latch.clone()).ok());
    let tls = needs_tls(&p).then(crate::edge::trust::client_config).transpose()?;
    let board = Board::new(p.policy.guards.len());
    let ours = Arc::default();
    let baselines = Baselines::new(&p.policy.guards);
    let sight = Sight::new(&p.policy, baselines.clone(), Arc::clone(&ours));
    let context = PollContext {
        exported: p.policy.metrics_listen.is_some(),
        board: board.clone(),
        clock,
        prometheus: p.policy.prometheus.clone(),
        tls,
        token: token(&p.policy).context(NotStarted)?,
        ours,
        questions: Arc::default(),
        run: p.words.id.clone(),
        target: target_name(&p.target),
    };
    let watch = start_watch(&p, &context, &baselines)?;
    let (senders, workers) = start_workers(&p, &shared)?;
    let snapshot = Arc::new(Mutex::new(Snapshot::default()));
    let local: Vec<_> = local_guards(&p.policy).into_iter().map(|(m, _)| m).collect();
    let orders = Orders::default();
    let control = conduct.control.then(|| open_control(&p, &orders, &latch, &snapshot)).transpose();
    let _control = control.context(NotStarted)?;
    if let Some(handle) = &conduct.handle {
        handle.fill(&shared);
    }
    let governor = Governor {
        shared: Arc::clone(&shared),
        settings: p.settings.clone(),
        local,
        board,
        kill_file,
        connects: p.policy.rate.max_new_connections,
        journal,
        snapshot: Arc::clone(&snapshot),
        sight,
        spending,
        orders: orders.clone(),
        metrics,
        handle: conduct.handle.clone(),
        watchdog: Watchdog::of_environment(),
        spins: p.pacing == Pacing::Spin,
    };
    let governor = spawn("governor", move || governor.run())?;
    let sample_names = p.sample.routes().names().to_vec();
    let feeder = start_feeder(
        p.source,
        &p.plan,
        p.duration_ns,
        p.sample,
        p.steady,
        p.settings.target,
        identity::marking(&p.policy, &p.target, &p.words.id, p.plan.seed, &p.plan.screen.rewrite),
        &shared,
        senders,
    )?;
    watch_policy(&p.policy, &shared)?;
    while shared.stage().0 != Stage::Ended {
        wait(Duration::from_millis(100));
        // Not within the call: a blocked terminal must not hold the governor's numbers.
        let now = snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone();
        live(&now);
    }
    let end = governor.join().map_err(|_| anyhow::anyhow!("the governor thread panicked"))?;
    if let Some(error) = &end.journal_error {
        // The report is still worth having; the latch has ended the run, or will be missed by nobody.
        writeln!(std::io::stderr(), "replay: the journal is not whole: {error}")?;
    }
    let (lead_in, measure) = gather(workers);
    let planned = feeder.join().map_err(|_| anyhow::anyhow!("the feeder thread panicked"))?;
    drop(watch);
    let words = RunJson {
        started_at: started.rfc3339(),
        duration_s: (clock.now().as_secs_f64() * 1e3).round() / 1e3,
        ..p.words
    };
    let names = (sample_names.clone(), planned.as_ref().map_or(sample_names, |p| p.names.clone()));
    let plan = WholePlan::of(p.forecast, planned);
    let report = make_report(words, &p.settings, &plan, end, &lead_in, &measure, &names);
    write_files(folder, &report, &lead_in, &measure)?;
    Ok(report)
}

/// Tells once that the policy's file is not what it was. On a thread of its own: a file on a mount that hangs must not
/// hold up the report.
fn watch_policy(policy: &Policy, shared: &Arc<Shared>) -> anyhow::Result<()> {
    let path = Path::new(&policy.origin);
    // A pipe can be read once, and the built-in ones are no files.
    if policy.origin.starts_with(BUILT_IN) || !path.is_file() {
        return Ok(());
    }
    let (file, shared) = (PolicyFile::new(path, &policy.hash), Arc::clone(shared));
    let watch = move || {
        while shared.stage().0 != Stage::Ended {
            if let Some(what) = file.difference() {
                drop(writeln!(std::io::stderr(), "replay: {what}"));
                shared.note(what);
                return;
            }
            wait(POLICY_LOOK);
        }
    };
    spawn("policy", watch).map(drop)
}

fn spawn<T: Send + 'static>(
    name: &str,
    f: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<JoinHandle<T>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(f)
        .with_context(|| format!("cannot start the {name} thread"))
}

/// The runtime of the guard pollers; dropping it ends them.
struct WatchRuntime {
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for WatchRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn start_watch<S>(
    p: &Prepared<S>,
    context: &PollContext,
    baselines: &Baselines,
) -> anyhow::Result<WatchRuntime> {
    if p.policy.guards.is_empty() {
        return Ok(WatchRuntime { runtime: None });
    }
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).thread_name("watch").enable_all().build()?;
    for (index, guard) in p.policy.guards.iter().enumerate() {
        if !guard.baselines.is_empty() {
            drop(runtime.spawn(baseline::find(context.clone(), baselines.clone(), index, guard.clone())));
        }
        drop(runtime.spawn(poll::poll(context.clone(), index, guard.clone())));
    }
    Ok(WatchRuntime { runtime: Some(runtime) })
}

type Tallies = anyhow::Result<(Tally, Tally)>;
type Senders = Vec<tokio::sync::mpsc::Sender<super::feeder::Batch>>;

fn start_workers<S>(
    p: &Prepared<S>,
    shared: &Arc<Shared>,
) -> anyhow::Result<(Senders, Vec<JoinHandle<Tallies>>)> {
    let settings = WorkerSettings {
        target: p.target.clone(),
        connect_to: p.connect_to.clone(),
        resolvers: p.policy.resolvers.clone(),
        tls: p.tls.clone(),
        server_name: p.policy.tls.server_name.clone(),
        resumption: p.policy.tls.resumption,
        http2: p.policy.http2,
        marking: identity::marking(&p.policy, &p.target, &p.words.id, p.plan.seed, &p.plan.screen.rewrite),
        request_timeout: p.policy.rate.request_timeout,
        connect_timeout: p.policy.rate.connect_timeout,
        session_blocked_max: p.policy.rate.session_blocked_max,
        pacing: p.pacing,
        connections: p.connections,
        source_ips: p.source_ips.clone(),
        accounts: Arc::clone(&p.accounts),
    };
    let (mut senders, mut handles) = (Vec::new(), Vec::new());
    for index in 0..shared.ports.len() {
        let (sender, receiver) = tokio::sync::mpsc::channel(FEED_BATCHES_MAX);
        senders.push(sender);
        let (shared, settings) = (Arc::clone(shared), settings.clone());
        // Until the thread is up its port must not look silent.
        shared.ports[index].put(shared.clock.now(), crate::edge::send::book::Beat::default());
        handles.push(spawn(&format!("worker-{index}"), move || {
            worker::run(&shared, index, settings, receiver)
        })?);
    }
    Ok((senders, handles))
}

#[allow(
    clippy::too_many_arguments,
    reason = "the parts of one struct, taken apart because they move to two places"
)]
fn start_feeder<S: EventSource + Send + 'static>(
    source: S,
    plan: &PlanSettings,
    duration_ns: u64,
    sample: Sample,
    steady: Option<(Rate, u64)>,
    target: Rate,
    marking: Marking,
    shared: &Arc<Shared>,
    workers: Senders,
) -> anyhow::Result<JoinHandle<Option<Planned>>> {
    let measure = match steady {
        Some((rate, until)) => MeasurePlan::Steady(rate, until),
        None => MeasurePlan::Trace(Box::new(PlanStream::new(source, plan.clone(), duration_ns))),
    };
    let (shared, sample, seed) = (Arc::clone(shared), Arc::new(sample), plan.seed);
    let feeder = Feeder { shared, workers, sample, target, seed, marking, plan: measure, ended: false };
    spawn("feeder", move || feeder.run())
}

fn gather(workers: Vec<JoinHandle<Tallies>>) -> (Tally, Tally) {
    let (mut lead_in, mut measure) = (Tally::default(), Tally::default());
    for worker in workers {
        // A worker that is gone has ended the run already; the report of the others is still true.
        match worker.join() {
            Ok(Ok((l, m))) => {
                lead_in.merge(&l);
                measure.merge(&m);
            }
            Ok(Err(error)) => drop(writeln!(std::io::stderr(), "replay: a worker failed: {error:#}")),
            Err(_) => drop(writeln!(std::io::stderr(), "replay: a worker panicked; its counts are lost")),
        }
    }
    (lead_in, measure)
}

/// What the report says was planned: all of it where that was known before, else what was planned on the way.
struct WholePlan {
    counts: PlanCounts,
    whole: bool,
}

impl WholePlan {
    fn of(forecast: Forecast, planned: Option<Planned>) -> Self {
        match planned.filter(|_| forecast.sounded) {
            None => Self { counts: forecast.counts, whole: true },
            Some(p) => Self { counts: p.counts, whole: p.ended },
        }
    }
}

fn make_report(
    run: RunJson,
    settings: &Settings,
    plan: &WholePlan,
    end: GovernorEnd,
    lead_in: &Tally,
    measure: &Tally,
    names: &(Vec<String>, Vec<String>),
) -> Report {
    let guards = settings
        .guards
        .iter()
        .enumerate()
        .map(|(i, spec)| (spec, end.worst.get(i).copied().flatten(), end.views.get(i).copied()));
    let facts = Facts {
        run,
        own: end.seconds.clone(),
        terminal: end.terminal,
        guards: guards.collect(),
        events: with_notes(events(&end.told, &settings.guards), &end.noted),
        aftercare: aftercare(&end),
        timeline: end.timeline,
        lead_in,
        measure,
        plan: &plan.counts,
        plan_whole: plan.whole,
        route_names: (&names.0, &names.1),
    };
    report(&facts)
}

/// What the guards did after the load.
fn aftercare(end: &GovernorEnd) -> AftercareJson {
    let Some(ended) = end.state.load_ended else { return AftercareJson::default() };
    let watched = end.state.entered.since(ended).as_secs_f64();
    let back = end.state.calm_at.map(|at| (at.since(ended).as_secs_f64() * 10.0).round() / 10.0);
    AftercareJson { watched_s: (watched * 10.0).round() / 10.0, back_after_s: back }
}

/// What the governor did, in words.
fn events(told: &[Told], guards: &[GuardSpec]) -> Vec<EventJson> {
    let percent = |s: crate::units::Share| format!("{:.1} %", s.as_f64() * 100.0);
    let words = |t: &Told| match t.effect {
        Effect::Entered { from, to } => Some(format!("{} → {}", from.name(), to.name())),
        Effect::Cut { from, to, guard } => {
            let why = guard.and_then(|g| {
                let value = t.views.get(g).and_then(|v| v.reading.value());
                let spec = guards.get(g)?;
                let value = value.map_or_else(|| "no data".to_owned(), |v| format!("{v:.4}"));
                Some(format!(" because of {:?} ({value} {})", spec.name, spec.unit))
            });
            Some(format!("share cut {} → {}{}", percent(from), percent(to), why.unwrap_or_default()))
        }
        Effect::Grown { from, to } => Some(format!("share grown {} → {}", percent(from), percent(to))),
        Effect::Attributed { guard, verdict } => {
            let name = guards.get(guard).map_or("a guard", |g| g.name.as_str());
            match verdict {
                Attribution::Open => None,
                Attribution::CausedByThisRun => {
                    Some(format!("{name:?} recovered after the cut: caused by this run"))
                }
                Attribution::Coincident => {
                    Some(format!("{name:?} did not recover after the cut: coincident, or not only this run"))
                }
            }
        }
        // Small moves of users are in the timeline; here they would drown the rest.
        Effect::Room { from, to } if from.ppm().abs_diff(to.ppm()) < 50_000 => None,
        Effect::Room { from, to } => {
            Some(format!("room beside organic users {} → {} of the plan", percent(from), percent(to)))
        }
        Effect::Calm => Some("the guards are back where they were before the load".to_owned()),
        Effect::StartLeadIn
        | Effect::StartMeasure
        | Effect::StopSending
        | Effect::Latch
        | Effect::Finished(_) => None,
    };
    let one = |t: &Told| words(t).map(|what| EventJson { t: (t.at.as_secs_f64() * 1e3).round() / 1e3, what });
    told.iter().filter_map(one).collect()
}

/// What was noted, among the events in the order of time.
fn with_notes(mut events: Vec<EventJson>, noted: &[(RunTime, String)]) -> Vec<EventJson> {
    let seconds = |at: &RunTime| (at.as_secs_f64() * 1e3).round() / 1e3;
    events.extend(noted.iter().map(|(at, what)| EventJson { t: seconds(at), what: what.clone() }));
    events.sort_by(|a, b| a.t.total_cmp(&b.t));
    events
}

fn write_files(folder: &Path, report: &Report, lead_in: &Tally, measure: &Tally) -> anyhow::Result<()> {
    let path = folder.join("report.json");
    let mut file =
        std::fs::File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    serde_json::to_writer_pretty(&mut file, report)?;
    file.write_all(b"\n")?;
    for (phase, tally) in [("lead_in", lead_in), ("measure", measure)] {
        for (name, latency) in tally.latency.rows().into_iter().filter(|(_, l)| l.count() > 0) {
            let path = folder.join(format!("{phase}-{name}.hdr"));
            std::fs::write(&path, latency.serialized())
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(())
}

/// A fresh run id for now.
#[must_use]
pub fn fresh_id(seed: u64) -> (String, WallTime) {
    let now = wall();
    (identity::run_id(now, seed ^ u64::from(std::process::id())), now)
}
