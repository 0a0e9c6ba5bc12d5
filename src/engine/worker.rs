//! A worker: one thread, one current-thread runtime, its share of the sessions.
//!
//! It wakes when the next departure is due, by a timer finer than tokio's, at most once per pacing quantum:
//! wake-ups, not HTTP, decide the cost below saturation. Open loop: it never waits for an answer.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tokio::task::LocalSet;

use super::feeder::Batch;
use super::pool::Pool;
use super::queue::{Planned, Queue};
use super::sessions::Sessions;
use super::shared::{Shared, Stage};
use crate::edge::host::timer::FineTimer;
use crate::edge::send::book::Book;
use crate::edge::send::connect::{Connector, Sources};
use crate::edge::send::dns::Resolver;
use crate::edge::send::lane::{Lane, LaneContext};
use crate::edge::send::mux::Alpn;
use crate::edge::send::session::Session;
use crate::govern::gate::ShedReason;
use crate::govern::latch::StopCause;
use crate::limits::{CLOSE_ALL, CLOSE_EACH, LANES_MAX, PLANNED_CONNECTIONS_MAX, TOO_LATE};
use crate::measure::outcome::RunPhase;
use crate::measure::tally::Tally;
use crate::plan::connections::Connections;
use crate::plan::pacing::{Pacer, Pacing};
use crate::plan::prepared::Marking;
use crate::plan::session::{AccountPool, Accounts};
use crate::plan::thin::Thinner;
use crate::plan::{Departure, DepartureKind, Instance};
use crate::policy::Http2;
use crate::policy::target::Target;
use crate::policy::tls::Resumption;
use crate::units::RunTime;
use crate::wire::head::Version;

/// Requests handed to lanes before the worker looks at its answers: about half of the tasks that the runtime polls
/// between two turns of the worker, so that reading keeps up with sending.
const DISPATCH_MAX: u64 = 30;

/// Longest sleep of a worker: it must beat well within the governor's patience.
const BEAT: Duration = Duration::from_millis(50);

/// And while something is in flight: time-outs are found at a beat.
const BEAT_BUSY: Duration = Duration::from_millis(10);

/// What a worker needs to know of the run.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// Target.
    pub target: Target,
    /// Other address to connect to.
    pub connect_to: Option<(String, u16)>,
    /// Name servers asked instead of the machine's own.
    pub resolvers: Vec<core::net::SocketAddr>,
    /// TLS.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Name in the handshake; else the target's host.
    pub server_name: Option<String>,
    /// TLS resumption.
    pub resumption: Resumption,
    /// Which connections speak HTTP/2.
    pub http2: Http2,
    /// Marking.
    pub marking: Marking,
    /// Longest time of one request.
    pub request_timeout: Duration,
    /// Longest time to connect.
    pub connect_timeout: Duration,
    /// Longest wait for the previous answer.
    pub session_blocked_max: Duration,
    /// When it wakes.
    pub pacing: Pacing,
    /// Whose connections they are.
    pub connections: Connections,
    /// Local addresses that connections come from.
    pub source_ips: Vec<core::net::IpAddr>,
    /// Accounts that sessions log in with.
    pub accounts: Arc<Accounts>,
}

/// Sets the latch if a worker ends other than by the end of the run.
struct Alive(Arc<Shared>);

impl Drop for Alive {
    fn drop(&mut self) {
        if self.0.stage().0 != Stage::Ended {
            self.0.gate.latch().set(StopCause::WorkerGone);
        }
    }
}

/// Runs worker `index` to the end of the run and returns its tallies.
///
/// # Errors
/// When the runtime or the timer cannot be made.
pub fn run(
    shared: &Arc<Shared>,
    index: usize,
    settings: WorkerSettings,
    batches: Receiver<Batch>,
) -> anyhow::Result<(Tally, Tally)> {
    let _alive = Alive(Arc::clone(shared));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let clock = shared.clock;
    let book = Book::new(clock);
    let connector = Connector {
        resolver: Resolver::new(&settings.target, settings.connect_to.as_ref(), &settings.resolvers, clock),
        server_name: settings.server_name,
        resumption: settings.resumption,
        tls: settings.tls.filter(|_| settings.target.https()).map(Alpn::of),
        sources: Sources::new(&settings.source_ips),
        timeout: settings.connect_timeout,
        target: settings.target,
        clock,
    };
    let context = Rc::new(LaneContext {
        gate: Arc::clone(&shared.gate),
        clock,
        book: book.clone(),
        connector,
        marking: settings.marking,
        request_timeout: settings.request_timeout,
        session_blocked_max: settings.session_blocked_max,
        number: std::cell::Cell::new((index as u64) << 48),
        scratch: LaneContext::scratch(),
        learns: settings.connections == Connections::Recorded,
        accounts: RefCell::new(AccountPool::new(settings.accounts, index, shared.ports.len())),
    });
    let local = LocalSet::new();
    let worker = Worker {
        shared: Arc::clone(shared),
        index,
        context,
        queue: Queue::default(),
        lanes: BTreeMap::new(),
        planned: BTreeSet::new(),
        pool: settings.connections.share_of(index, shared.ports.len()).map(Pool::new),
        sessions: Sessions::default(),
        http2: settings.http2,
        thinner: Thinner::default(),
        last_beat: RunTime::START,
        epoch: 0,
        stage: Stage::Waiting,
        stage_epoch: u64::MAX,
        pacer: Pacer::new(settings.pacing),
        closing: None,
    };
    let result = local.block_on(&runtime, worker.work(batches));
    // Requests under way are dropped here and count themselves as cancelled.
    drop(local);
    shared.ports[index].put(clock.now(), book.take_beat());
    result.map(|()| book.take_tallies())
}

struct Worker {
    shared: Arc<Shared>,
    index: usize,
    context: Rc<LaneContext>,
    queue: Queue,
    lanes: BTreeMap<(Instance, u16), Lane>,
    /// Connections under way that the plan asked for and that are counted.
    planned: BTreeSet<(Instance, u16)>,
    /// Instead of them.
    pool: Option<Pool>,
    sessions: Sessions,
    http2: Http2,
    thinner: Thinner,
    last_beat: RunTime,
    /// Number of the stage that the lanes belong to.
    epoch: u64,
    /// The stage as last seen, and its number.
    stage: Stage,
    stage_epoch: u64,
    pacer: Pacer,
    /// When closing began, and how many lanes there were then.
    closing: Option<(RunTime, usize)>,
}

impl Worker {
    async fn work(mut self, mut batches: Receiver<Batch>) -> anyhow::Result<()> {
        let timer = FineTimer::new()?;
        loop {
            while let Ok(batch) = batches.try_recv() {
                self.queue.take(batch);
            }
            if self.shared.epoch() != self.stage_epoch {
                (self.stage, self.stage_epoch) = self.shared.stage();
            }
            if self.stage == Stage::Ended {
                return Ok(());
            }
            let more = self.dispatch(self.stage, self.stage_epoch);
            let now = self.shared.clock.now();
            self.beat(now);
            if more {
                // Answers want to be read before the rest goes.
                tokio::task::yield_now().await;
            } else {
                self.sleep(&timer, now).await?;
            }
        }
    }

    /// Until the next departure by the pacing, but never longer than a beat.
    async fn sleep(&self, timer: &FineTimer, now: RunTime) -> std::io::Result<()> {
        if self.pacer.spins() {
            tokio::task::yield_now().await;
            return Ok(());
        }
        let sending = self.stage.phase().is_some();
        let beat = if self.context.gate.in_flight() > 0 { BEAT_BUSY } else { BEAT };
        let next = self.queue.front().filter(|_| sending).map(|(_, due)| self.pacer.wake_at(due).since(now));
        match next {
            // Overdue: answers are read before the next one goes.
            Some(Duration::ZERO) => tokio::task::yield_now().await,
            Some(next) => timer.wait(next.min(beat)).await?,
            None => timer.wait(beat).await?,
        }
        Ok(())
    }

    fn beat(&mut self, now: RunTime) {
        if now.since(self.last_beat) >= Duration::from_millis(10) {
            self.last_beat = now;
            for lane in self.context.book.overdue(now, self.context.request_timeout) {
                lane.time_out();
            }
            let mut beat = self.context.book.take_beat();
            beat.now.connections = self.open_lanes() as u64;
            self.sessions.sweep(now, &self.context.accounts);
            self.shared.ports[self.index].put(now, beat);
        }
    }

    /// After the load connections are closed one after the other: thousands of closes in one moment are work
    /// for the balancer, too.
    fn close_some(&mut self, now: RunTime) {
        let (since, all) = *self.closing.get_or_insert((now, self.open_lanes()));
        let whole = CLOSE_EACH.saturating_mul(u32::try_from(all).unwrap_or(u32::MAX)).min(CLOSE_ALL);
        let passed = now.since(since).as_secs_f64() / whole.as_secs_f64().max(1e-9);
        let keep = (all as f64 * (1.0 - passed)).max(0.0) as usize;
        if let Some(pool) = &mut self.pool {
            pool.close_to(keep);
        }
        while self.lanes.len() > keep {
            if let Some(((instance, _), _)) = self.lanes.pop_first() {
                self.sessions.leave(instance, now);
            }
        }
    }

    fn open_lanes(&self) -> usize {
        self.lanes.len() + self.pool.as_ref().map_or(0, Pool::len)
    }

    /// Sends off what is due; whether more of it is left for the next turn.
    fn dispatch(&mut self, stage: Stage, epoch: u64) -> bool {
        if stage == Stage::Stopped {
            self.close_some(self.shared.clock.now());
        } else if self.epoch != epoch {
            // Fresh sessions on fresh connections; what the old lanes hold they finish.
            // A pool stays as it is: nobody's sessions are on it, and old and new together would be more than it may have.
            self.lanes.clear();
            self.planned.clear();
            self.sessions.clear(&self.context.accounts);
        }
        self.epoch = epoch;
        let sending = stage.phase().is_some();
        let (mut now, mut sent, mut all) = (self.shared.clock.now(), 0, 0);
        let first = self.queue.front().map_or(now, |(_, due)| due);
        while let Some((stage_of, due)) = self.queue.front() {
            let old = stage_of < epoch;
            if !old && (due > now || stage_of > epoch || !sending) {
                break;
            }
            if let Some(planned) = self.queue.pop() {
                let handed = if old { self.gone(planned, now) } else { self.one(planned, now) };
                sent += u64::from(handed);
            }
            all += 1;
            now = self.shared.clock.now();
            if sent >= DISPATCH_MAX {
                break;
            }
        }
        self.pacer.woke(now, first, all);
        sent >= DISPATCH_MAX
    }

    /// What belonged to a stage that is over: it is not sent, and counted if its time had come.
    fn gone(&mut self, p: Planned, now: RunTime) -> bool {
        if let (DepartureKind::Request(planned, recorded), true) = (p.departure.kind, p.due <= now) {
            let reason =
                if self.shared.gate.latch().is_set() { ShedReason::Latched } else { ShedReason::TooLate };
            self.context.book.due(p.due, p.phase, planned, recorded).shed(reason);
        }
        false
    }

    /// Deals with one departure; whether a request went to a lane.
    fn one(&mut self, p: Planned, now: RunTime) -> bool {
        let phase = p.phase;
        let Departure { instance, connection, kind, .. } = p.departure;
        match kind {
            // A pool's connections come and go with its work.
            DepartureKind::Open { .. } | DepartureKind::Close if self.pool.is_some() => {}
            DepartureKind::Open { http2 } => {
                self.plan_connection((instance, connection), phase);
                if self.thinner.keeps(instance, now, self.shared.share())
                    && let Some(lane) = self.lane(instance, connection, http2, phase)
                {
                    lane.open(phase);
                }
            }
            DepartureKind::Close if connection == u16::MAX => {
                self.lanes.retain(|(i, _), _| *i != instance);
                self.planned.retain(|(i, _)| *i != instance);
                self.sessions.end(instance, &self.context.accounts);
            }
            DepartureKind::Close => {
                self.planned.remove(&(instance, connection));
                if self.lanes.remove(&(instance, connection)).is_some() {
                    self.sessions.leave(instance, now);
                }
            }
            DepartureKind::Request(planned, recorded) => {
                let http2 = planned.shape.version == Version::Http2;
                let due = self.context.book.due(p.due, phase, planned, recorded);
                let Some(reason) = self.sheds(instance, p.due, now) else {
                    match self.lane(instance, connection, http2, phase) {
                        Some(lane) => {
                            lane.request(due);
                            return true;
                        }
                        None => due.shed(ShedReason::Connecting),
                    }
                    return false;
                };
                if matches!(reason, ShedReason::Latched | ShedReason::TooLate) {
                    due.lag();
                }
                self.plan_connection((instance, connection), phase);
                due.shed(reason);
            }
        }
        false
    }

    /// Why a due request is not sent, if it is not.
    fn sheds(&mut self, instance: Instance, due: RunTime, now: RunTime) -> Option<ShedReason> {
        if self.shared.gate.latch().is_set() {
            return Some(ShedReason::Latched);
        }
        if now.since(due) > TOO_LATE {
            return Some(ShedReason::TooLate);
        }
        (!self.thinner.keeps(instance, now, self.shared.share())).then_some(ShedReason::Thinned)
    }

    /// A connection that the plan asks for is counted once, whatever becomes of its requests. A pool plans none.
    fn plan_connection(&mut self, key: (Instance, u16), phase: RunPhase) {
        if self.pool.is_none() && self.planned.len() < PLANNED_CONNECTIONS_MAX && self.planned.insert(key) {
            self.context.book.lane(phase);
        }
    }

    fn lane(
        &mut self,
        instance: Instance,
        connection: u16,
        recorded_http2: bool,
        phase: RunPhase,
    ) -> Option<&Lane> {
        let tries = self.http2.tries(recorded_http2, self.context.marking.https);
        let key = (instance, connection);
        if self.pool.is_none() && !self.lanes.contains_key(&key) {
            if self.lanes.len() >= LANES_MAX {
                return None;
            }
            self.plan_connection(key, phase);
            let session = self.sessions.enter(instance);
            self.lanes.insert(key, Lane::start(Rc::clone(&self.context), session, tries));
        }
        if let Some(pool) = &mut self.pool {
            let context = &self.context;
            return pool.lane(tries, || Lane::start(Rc::clone(context), Session::default(), tries));
        }
        self.lanes.get(&key)
    }
}
