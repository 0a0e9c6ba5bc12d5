//! Where the events of a capture go: into the order of their times, and into one trace or into many, one after the other.

use std::path::PathBuf;
use std::thread::JoinHandle;

use anyhow::Context;

use crate::capture::RawEvent;
use crate::capture::order::{Orderer, Until};
use crate::edge::intake::rotation::Rotation;
use crate::edge::intake::trace_file::{self, NewTrace};
use crate::trace::writer::{EVENT_BYTES_MAX, Written};
use crate::trace::{EventKind, Item, Ledger, TraceMeta};
use crate::units::WallTime;

/// The names that traces get.
pub(super) enum Files {
    /// One trace.
    One(PathBuf),
    /// One after the other.
    #[allow(dead_code)]
    Many(Rotation),
}

/// A trace that got its name.
#[derive(Debug, Clone)]
pub(crate) struct Finished {
    pub(crate) path: PathBuf,
    pub(crate) ledger: Ledger,
    pub(crate) written: Written,
}

/// Orders events and writes them.
pub(super) struct Sink {
    order: Orderer,
    meta: TraceMeta,
    files: Files,
    trace: Option<(NewTrace, PathBuf)>,
    /// When the trace that is being written ends, in a rotation by time.
    ends: Option<WallTime>,
    /// The last one, on its way to the disk: that must not keep anybody waiting who reads from a network.
    closing: Option<JoinHandle<anyhow::Result<Finished>>>,
    /// Counts since the last trace was ended.
    pub(super) ledger: Ledger,
}

impl Sink {
    pub(super) fn new(meta: TraceMeta, files: Files) -> Self {
        let (order, ledger) = (Orderer::default(), Ledger::default());
        Self { order, meta, files, trace: None, ends: None, closing: None, ledger }
    }

    /// Events that are complete.
    pub(super) fn take(&mut self, events: Vec<RawEvent>) {
        events.into_iter().for_each(|e| self.order.push(e));
    }

    /// Whether a trace was begun.
    pub(super) fn has_begun(&self) -> bool {
        self.trace.is_some()
    }

    /// Writes the events whose place is certain. Traces that were ended meanwhile go to `done`.
    pub(super) fn drain_into(&mut self, until: Until, done: &mut Vec<Finished>) -> anyhow::Result<()> {
        while let Some(event) = self.order.next(until, &mut self.ledger) {
            // Redaction makes some targets longer; one request must not end the capture of all others.
            if matches!(&event.kind, EventKind::Request(r) if r.shape.weight() > EVENT_BYTES_MAX) {
                self.ledger.count(Item::TooLarge);
                continue;
            }
            if self.is_due(event.at) {
                self.close(done)?;
                self.order.restart(event.at);
            }
            let at = event.at;
            let placed = self.order.place(event);
            let trace = self.begin(at)?;
            placed.into_iter().flatten().try_for_each(|event| trace.push(event))?;
        }
        Ok(())
    }

    /// The same, where there is one trace only.
    pub(super) fn drain(&mut self, until: Until) -> anyhow::Result<()> {
        self.drain_into(until, &mut Vec::new())
    }

    /// Whether an event at `at` belongs to another trace than the one that is being written.
    fn is_due(&self, at: WallTime) -> bool {
        let (Files::Many(rotation), Some((trace, _))) = (&self.files, &self.trace) else { return false };
        self.ends.is_some_and(|end| at >= end) || rotation.is_full(trace.bytes())
    }

    fn begin(&mut self, at: WallTime) -> anyhow::Result<&mut NewTrace> {
        let (order, meta, files, ends) = (&self.order, &mut self.meta, &self.files, &mut self.ends);
        match &mut self.trace {
            Some((trace, _)) => Ok(trace),
            none => {
                meta.started_at = order.start().unwrap_or(at);
                let path = match files {
                    Files::One(path) => path.clone(),
                    Files::Many(rotation) => {
                        *ends = rotation.end_of(at);
                        rotation.name(at)
                    }
                };
                let trace = trace_file::create(&path, meta)?;
                Ok(&mut none.insert((trace, path)).0)
            }
        }
    }

    /// Ends the trace that is being written, in a thread of its own.
    fn close(&mut self, done: &mut Vec<Finished>) -> anyhow::Result<()> {
        self.settle(done)?;
        let Some((trace, path)) = self.trace.take() else { return Ok(()) };
        let ledger = std::mem::take(&mut self.ledger);
        let end = move || {
            let written = trace.finish(&ledger)?;
            Ok(Finished { path, ledger, written })
        };
        self.closing = Some(std::thread::Builder::new().name("trace-end".to_owned()).spawn(end)?);
        Ok(())
    }

    /// Waits for the trace that is on its way to the disk, and removes the oldest where there are too many.
    fn settle(&mut self, done: &mut Vec<Finished>) -> anyhow::Result<()> {
        let Some(closing) = self.closing.take() else { return Ok(()) };
        let finished = closing.join().map_err(|_| anyhow::anyhow!("the thread that ends traces died"))??;
        done.push(finished);
        if let Files::Many(rotation) = &self.files {
            rotation.prune().context("cannot remove old traces")?;
        }
        Ok(())
    }

    /// Writes all that is left and ends the last trace; an empty one where there was none and one was asked for.
    pub(super) fn finish(mut self, rest: &Ledger) -> anyhow::Result<Vec<Finished>> {
        let mut done = Vec::new();
        self.drain_into(Until::End, &mut done)?;
        self.ledger.merge(rest);
        if self.trace.is_none() && matches!(self.files, Files::One(_)) {
            self.begin(WallTime::default())?;
        }
        self.close(&mut done)?;
        self.settle(&mut done)?;
        Ok(done)
    }
}
