//! The feeder: turns the plan into departures a little ahead of their time, and deals them to workers.
//!
//! It never runs more than [`HORIZON`] ahead, so memory is bounded by time and a stop leaves little behind.
//! Sessions stay with one worker, by hash.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{Sender, error::TrySendError};

use super::shared::{Shared, Stage};
use crate::edge::clock::wait;
use crate::govern::latch::StopCause;
use crate::limits::{FEED_BATCH_MAX, HORIZON};
use crate::measure::outcome::RunPhase;
use crate::plan::draw::{Salt, below, hash64};
use crate::plan::prepared::{Marking, Prepared};
use crate::plan::stationary::{Sample, StationaryPlan};
use crate::plan::stream::{EventSource, PlanCounts, PlanStream};
use crate::plan::{Departure, DepartureKind};
use crate::units::{Rate, RunTime};

/// Departures for one worker, all of one stage.
#[derive(Debug)]
pub struct Batch {
    /// Number of the stage they belong to.
    pub epoch: u64,
    /// Run time of the stage's start.
    pub start: RunTime,
    /// Phase of the requests in it.
    pub phase: RunPhase,
    /// In the order of due times.
    pub departures: Vec<Departure>,
}

/// How long the feeder rests when it is far enough ahead.
const REST: Duration = Duration::from_millis(20);

/// What the measure phase sends.
pub enum MeasurePlan<S> {
    /// The trace.
    Trace(Box<PlanStream<S>>),
    /// The recorded mix at a steady rate, until the run's duration is over.
    Steady(Rate, u64),
}

/// Everything the feeder needs.
pub struct Feeder<S> {
    /// Shared state.
    pub shared: Arc<Shared>,
    /// Workers.
    pub workers: Vec<Sender<Batch>>,
    /// Sessions for the stationary plan.
    pub sample: Arc<Sample>,
    /// Rate of the stationary plan at a share of one.
    pub target: Rate,
    /// Seed.
    pub seed: u64,
    /// How traffic is marked.
    pub marking: Marking,
    /// The measure phase.
    pub plan: MeasurePlan<S>,
    /// The plan of the measure phase was dealt to its end.
    pub ended: bool,
}

/// What was planned of a trace.
#[derive(Debug, Clone, Default)]
pub struct Planned {
    /// Counts.
    pub counts: PlanCounts,
    /// Names of routes by number.
    pub names: Vec<String>,
    /// To its end.
    pub ended: bool,
}

/// Sets the latch if the feeder ends other than by the end of the run.
struct Alive(Arc<Shared>);

impl Drop for Alive {
    fn drop(&mut self) {
        if self.0.stage().0 != Stage::Ended {
            self.0.gate.latch().set(StopCause::Plan);
        }
    }
}

impl<S: EventSource> Feeder<S> {
    /// Feeds until the run has ended. Sets the latch when the plan cannot be read to its end. What was planned, where a
    /// trace was.
    pub fn run(mut self) -> Option<Planned> {
        let _alive = Alive(Arc::clone(&self.shared));
        if let Err(error) = self.feed() {
            use std::io::Write;
            self.shared.gate.latch().set(StopCause::Plan);
            drop(writeln!(std::io::stderr(), "replay: the plan cannot be read any further: {error:#}"));
        }
        let MeasurePlan::Trace(plan) = &self.plan else { return None };
        let (counts, names) = (plan.counts_told(), plan.routes().names().to_vec());
        Some(Planned { counts, names, ended: self.ended })
    }

    fn feed(&mut self) -> anyhow::Result<()> {
        let mut stationary: Option<(u64, StationaryPlan)> = None;
        let mut dealt = Dealt::default();
        let mut of_epoch = u64::MAX;
        loop {
            let (stage, epoch) = self.shared.stage();
            if of_epoch != epoch {
                (of_epoch, dealt) = (epoch, Dealt::default());
            }
            let start = match stage {
                Stage::Ended => return Ok(()),
                Stage::Waiting | Stage::Stopped => {
                    wait(REST);
                    continue;
                }
                Stage::LeadIn(start) | Stage::Measure(start) => start,
            };
            let measure = matches!(stage, Stage::Measure(_));
            let phase = if measure { RunPhase::Measure } else { RunPhase::LeadIn };
            let of = Of { epoch, start, phase };
            let steady = match &self.plan {
                MeasurePlan::Steady(rate, until) if measure => Some((*rate, *until)),
                MeasurePlan::Steady(..) | MeasurePlan::Trace(_) if measure => None,
                MeasurePlan::Steady(..) | MeasurePlan::Trace(_) => Some((self.target, u64::MAX)),
            };
            let ended = if let Some((rate, until)) = steady {
                if stationary.as_ref().is_none_or(|(e, _)| *e != epoch) {
                    let plan = StationaryPlan::new(Arc::clone(&self.sample), rate, self.seed ^ epoch);
                    stationary = plan.map(|p| (epoch, p));
                }
                let Some((_, plan)) = &mut stationary else {
                    anyhow::bail!("no request of the trace may be sent")
                };
                let mut next = || Ok(plan.next().filter(|d| d.due_ns < until));
                deal(&self.shared, &self.workers, &self.marking, of, &mut dealt, &mut next)?
            } else if let MeasurePlan::Trace(plan) = &mut self.plan {
                {
                    let mut next = || plan.next_departure();
                    deal(&self.shared, &self.workers, &self.marking, of, &mut dealt, &mut next)?
                }
            } else {
                None
            };
            if let Some(last) = ended {
                self.ended |= measure;
                self.wait_for_end(epoch, last);
            }
            wait(REST);
        }
    }

    /// All departures are dealt: waits until the last one is due, then says so.
    fn wait_for_end(&self, epoch: u64, last: RunTime) {
        while self.shared.epoch() == epoch && self.shared.clock.now() < last.plus(Duration::from_millis(50)) {
            wait(REST);
        }
        if self.shared.epoch() == epoch {
            self.shared.set_plan_ended();
        }
        while self.shared.epoch() == epoch {
            wait(REST);
        }
    }
}

/// The stage that departures belong to.
#[derive(Debug, Clone, Copy)]
struct Of {
    epoch: u64,
    start: RunTime,
    phase: RunPhase,
}

/// What has been dealt of a stage.
#[derive(Debug, Default)]
struct Dealt {
    /// A departure behind the horizon, kept for the next time.
    held: Option<Departure>,
    /// When the last departure that was dealt is due.
    last: RunTime,
}

/// Deals all departures within the horizon. Returns the time of the last one at the end of the plan.
fn deal(
    shared: &Shared,
    workers: &[Sender<Batch>],
    marking: &Marking,
    of: Of,
    dealt: &mut Dealt,
    next: &mut dyn FnMut() -> anyhow::Result<Option<Departure>>,
) -> anyhow::Result<Option<RunTime>> {
    let mut batches: Vec<Vec<Departure>> = workers.iter().map(|_| Vec::new()).collect();
    let mut ended = None;
    let horizon = shared.clock.now().plus(HORIZON);
    loop {
        let departure = match dealt.held.take() {
            Some(d) => d,
            None => match next()? {
                Some(d) => d,
                None => {
                    ended = Some(dealt.last.max(of.start));
                    break;
                }
            },
        };
        let due = RunTime(of.start.0.saturating_add(departure.due_ns));
        if due > horizon {
            dealt.held = Some(departure);
            break;
        }
        dealt.last = due;
        if let DepartureKind::Request(planned, _) = &departure.kind {
            // Here, ahead of time and on another thread than the one that sends.
            planned.prepared.get_or_init(|| Prepared::of(planned, marking));
        }
        let worker = below(hash64(departure.instance.0, Salt::Worker), workers.len() as u64) as usize;
        batches[worker].push(departure);
        if batches[worker].len() >= FEED_BATCH_MAX {
            send(shared, &workers[worker], of, std::mem::take(&mut batches[worker]));
        }
    }
    for (worker, departures) in workers.iter().zip(batches) {
        if !departures.is_empty() {
            send(shared, worker, of, departures);
        }
    }
    Ok(ended)
}

/// Sends a batch; waits while the worker's queue is full, unless the stage changes meanwhile.
fn send(shared: &Shared, worker: &Sender<Batch>, of: Of, departures: Vec<Departure>) {
    let Of { epoch, start, phase } = of;
    let mut batch = Batch { epoch, start, phase, departures };
    loop {
        match worker.try_send(batch) {
            Ok(()) | Err(TrySendError::Closed(_)) => return,
            Err(TrySendError::Full(back)) if shared.epoch() == epoch => {
                batch = back;
                wait(Duration::from_millis(1));
            }
            Err(TrySendError::Full(_)) => return,
        }
    }
}
