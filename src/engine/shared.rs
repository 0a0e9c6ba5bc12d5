//! What the threads of a run share. Small, and each field with one writer.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::edge::clock::Clock;
use crate::edge::send::book::Beat;
use crate::govern::gate::Gate;
use crate::measure::outcome::RunPhase;
use crate::units::{RunTime, Share};

/// What is being sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Nothing yet.
    Waiting,
    /// The stationary plan, from this moment on.
    LeadIn(RunTime),
    /// The trace, from this moment on.
    Measure(RunTime),
    /// Nothing any more; answers are awaited.
    Stopped,
    /// Over: all threads end.
    Ended,
}

impl Stage {
    /// The phase of requests in this stage.
    #[must_use]
    pub fn phase(self) -> Option<(RunPhase, RunTime)> {
        match self {
            Self::LeadIn(start) => Some((RunPhase::LeadIn, start)),
            Self::Measure(start) => Some((RunPhase::Measure, start)),
            Self::Waiting | Self::Stopped | Self::Ended => None,
        }
    }
}

/// A worker's letter box: its beats, and when it last beat.
#[derive(Debug, Default)]
pub struct Port {
    beat: Mutex<Beat>,
    last: AtomicU64,
}

impl Port {
    /// Called by the worker.
    pub fn put(&self, now: RunTime, newer: Beat) {
        self.beat.lock().unwrap_or_else(PoisonError::into_inner).absorb(newer);
        self.last.store(now.0, Ordering::Release);
    }

    /// Called by the governor: what happened since, and when the worker last beat.
    #[must_use]
    pub fn take(&self) -> (Beat, RunTime) {
        let mut beat = self.beat.lock().unwrap_or_else(PoisonError::into_inner);
        let last = RunTime(self.last.load(Ordering::Acquire));
        // What is true now stays true until the worker says otherwise: a late beat is not good news.
        let now = beat.now.clone();
        let taken = std::mem::replace(&mut *beat, Beat { now, ..Beat::default() });
        (taken, last)
    }
}

/// Shared by all threads of a run.
#[derive(Debug)]
pub struct Shared {
    /// Clock of the run.
    pub clock: Clock,
    /// The gate.
    pub gate: Arc<Gate>,
    stage: Mutex<(Stage, u64)>,
    /// Changes with the stage, so that what was planned for another stage is not sent.
    epoch: AtomicU64,
    share_ppm: AtomicU32,
    /// Letter boxes, one per worker.
    pub ports: Vec<Port>,
    plan_ended: AtomicBool,
    notes: Mutex<Vec<String>>,
}

impl Shared {
    /// Shared state for `workers` workers.
    #[must_use]
    pub fn new(clock: Clock, gate: Arc<Gate>, workers: usize) -> Arc<Self> {
        Arc::new(Self {
            clock,
            gate,
            stage: Mutex::new((Stage::Waiting, 0)),
            epoch: AtomicU64::new(0),
            share_ppm: AtomicU32::new(0),
            ports: (0..workers).map(|_| Port::default()).collect(),
            plan_ended: AtomicBool::new(false),
            notes: Mutex::default(),
        })
    }

    /// What is being sent, and its number.
    #[must_use]
    pub fn stage(&self) -> (Stage, u64) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the stage alone: one load, for every departure.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Changes the stage.
    pub fn set_stage(&self, stage: Stage) {
        let mut now = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        *now = (stage, now.1 + 1);
        self.epoch.store(now.1, Ordering::SeqCst);
    }

    /// The share granted.
    #[must_use]
    pub fn share(&self) -> Share {
        Share::from_f64(f64::from(self.share_ppm.load(Ordering::Relaxed)) / f64::from(Share::PPM))
    }

    /// Grants a share.
    pub fn set_share(&self, share: Share) {
        self.share_ppm.store(share.ppm(), Ordering::Relaxed);
    }

    /// Something for the journal and the report, in words.
    pub fn note(&self, what: String) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    /// Called by the governor: what was noted since.
    #[must_use]
    pub fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether every departure of the trace has been dispatched.
    #[must_use]
    pub fn plan_ended(&self) -> bool {
        self.plan_ended.load(Ordering::SeqCst)
    }

    /// The last departure of the trace has been handed over and its time has come.
    pub fn set_plan_ended(&self) {
        self.plan_ended.store(true, Ordering::SeqCst);
    }
}
