//! One run from prepared parts to its report: starts the threads, waits, gathers.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;

use super::feeder::{Feeder, MeasurePlan};
use super::governor::{Governor, GovernorEnd, Snapshot, Told};
use super::identity;
use super::journal::{Journal, Line};
use super::shared::{Shared, Stage};
use super::worker::{self, WorkerSettings};
use crate::edge::clock::{Clock, wait, wall};
use crate::edge::host::kill_file::KillFile;
use crate::edge::host::signals;
use crate::edge::watch::poll::{self, Board, PollContext};
use crate::govern::gate::Gate;
use crate::govern::guard::GuardSpec;
use crate::govern::latch::Latch;
use crate::govern::settings::Settings;
use crate::govern::step::Effect;
use crate::limits::{FEED_BATCHES_MAX, WORKERS_MAX};
use crate::measure::tally::Tally;
use crate::plan::forecast::Forecast;
use crate::plan::stationary::Sample;
use crate::plan::stream::{EventSource, PlanSettings, PlanStream};
use crate::policy::Policy;
use crate::policy::settings::{in_flight_max, local_guards};
use crate::policy::target::Target;
use crate::report::json::{EventJson, Facts, Report, RunJson, report};
use crate::units::{Rate, WallTime};

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
    /// A steady rate instead of the trace, for this many nanoseconds.
    pub steady: Option<(Rate, u64)>,
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
}

/// Shows live numbers while a run is under way.
pub type Live<'a> = &'a mut dyn FnMut(&Snapshot);

/// Number of workers for a rate: one does thousands of requests a second.
#[must_use]
pub fn workers_for(target: Rate) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let wanted = (target.rps() / 2_000.0).ceil() as usize;
    wanted.clamp(1, cores.min(WORKERS_MAX))
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
    let kill_file = p.policy.kill_file.as_deref().map(|k| KillFile::new(Path::new(k))).transpose()?;
    let started = wall();
    let clock = Clock::start();
    let gate = Gate::new(latch.clone(), p.policy.rate.max_rps, in_flight_max(&p.policy, p.settings.target));
    let shared = Shared::new(clock, gate, conduct.workers.clamp(1, WORKERS_MAX));
    let first = Line::Start { run: p.words.id.clone(), at: started, settings: p.settings.clone() };
    let journal = Journal::start(&folder.join("journal.jsonl"), &first, latch.clone()).context(NotStarted)?;
    if conduct.signals {
        signals::stop_on_signals(&latch)?;
    }
    let tls = needs_tls(&p).then(crate::edge::trust::client_config).transpose()?;
    let board = Board::new(p.policy.guards.len());
    let watch = start_watch(&p, &shared, board.clone(), tls.clone())?;
    let (senders, workers) = start_workers(&p, &shared, tls)?;
    let snapshot = Arc::new(Mutex::new(Snapshot::default()));
    let local: Vec<_> = local_guards(&p.policy).into_iter().map(|(m, _)| m).collect();
    let governor = Governor {
        shared: Arc::clone(&shared),
        settings: p.settings.clone(),
        local,
        board,
        kill_file,
        connects: p.policy.rate.max_new_connections,
        journal,
        snapshot: Arc::clone(&snapshot),
    };
    let governor = spawn("governor", move || governor.run())?;
    let sample_names = p.sample.routes().names().to_vec();
    let plan_names = if p.steady.is_some() { sample_names.clone() } else { p.forecast.route_names.clone() };
    let names = (sample_names, plan_names);
    let feeder = start_feeder(
        p.source,
        &p.plan,
        p.duration_ns,
        p.sample,
        p.steady,
        p.settings.target,
        &shared,
        senders,
    )?;
    while shared.stage().0 != Stage::Ended {
        wait(Duration::from_millis(100));
        live(&snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone());
    }
    let end = governor.join().map_err(|_| anyhow::anyhow!("the governor thread panicked"))?;
    if let Some(error) = &end.journal_error {
        // The report is still worth having; the latch has ended the run, or will be missed by nobody.
        writeln!(std::io::stderr(), "replay: the journal is not whole: {error}")?;
    }
    let (lead_in, measure) = gather(workers);
    feeder.join().map_err(|_| anyhow::anyhow!("the feeder thread panicked"))?;
    drop(watch);
    let words = RunJson {
        started_at: started.rfc3339(),
        duration_s: (clock.now().as_secs_f64() * 1e3).round() / 1e3,
        ..p.words
    };
    let report = make_report(words, &p.settings, &p.forecast, end, &lead_in, &measure, &names);
    write_files(folder, &report, &lead_in, &measure)?;
    Ok(report)
}

fn needs_tls<S>(p: &Prepared<S>) -> bool {
    let guards = p.policy.guards.iter().any(|g| match &g.query {
        crate::policy::GuardQuery::Scrape(q) => q.url.starts_with("https:"),
        crate::policy::GuardQuery::Prometheus(_) => false,
    });
    p.target.https() || guards || p.policy.prometheus.as_ref().is_some_and(|p| p.url.starts_with("https:"))
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
    shared: &Arc<Shared>,
    board: Board,
    tls: Option<Arc<rustls::ClientConfig>>,
) -> anyhow::Result<WatchRuntime> {
    if p.policy.guards.is_empty() {
        return Ok(WatchRuntime { runtime: None });
    }
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).thread_name("watch").enable_all().build()?;
    let context = PollContext { board, clock: shared.clock, prometheus: p.policy.prometheus.clone(), tls };
    for (index, guard) in p.policy.guards.iter().enumerate() {
        drop(runtime.spawn(poll::poll(context.clone(), index, guard.clone())));
    }
    Ok(WatchRuntime { runtime: Some(runtime) })
}

type Tallies = anyhow::Result<(Tally, Tally)>;
type Senders = Vec<tokio::sync::mpsc::Sender<super::feeder::Batch>>;

fn start_workers<S>(
    p: &Prepared<S>,
    shared: &Arc<Shared>,
    tls: Option<Arc<rustls::ClientConfig>>,
) -> anyhow::Result<(Senders, Vec<JoinHandle<Tallies>>)> {
    let settings = WorkerSettings {
        target: p.target.clone(),
        connect_to: p.connect_to.clone(),
        tls,
        marking: identity::marking(&p.policy, &p.target, &p.words.id, p.plan.seed),
        request_timeout: p.policy.rate.request_timeout,
        connect_timeout: p.policy.rate.connect_timeout,
        session_blocked_max: p.policy.rate.session_blocked_max,
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
    shared: &Arc<Shared>,
    workers: Senders,
) -> anyhow::Result<JoinHandle<()>> {
    let measure = match steady {
        Some((rate, until)) => MeasurePlan::Steady(rate, until),
        None => MeasurePlan::Trace(Box::new(PlanStream::new(source, plan.clone(), duration_ns))),
    };
    let (shared, sample, seed) = (Arc::clone(shared), Arc::new(sample), plan.seed);
    let feeder = Feeder { shared, workers, sample, target, seed, plan: measure };
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

fn make_report(
    run: RunJson,
    settings: &Settings,
    forecast: &Forecast,
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
        terminal: end.terminal,
        guards: guards.collect(),
        events: events(&end.told, &settings.guards),
        timeline: end.timeline,
        lead_in,
        measure,
        forecast,
        route_names: (&names.0, &names.1),
    };
    report(&facts)
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
        Effect::StartLeadIn
        | Effect::StartMeasure
        | Effect::StopSending
        | Effect::Latch
        | Effect::Finished(_) => None,
    };
    let one = |t: &Told| words(t).map(|what| EventJson { t: (t.at.as_secs_f64() * 1e3).round() / 1e3, what });
    told.iter().filter_map(one).collect()
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
