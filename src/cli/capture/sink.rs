//! Where the events of a capture go: into the order of their times, and into one trace or into many, one after the other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::Context;

use crate::capture::RawEvent;
use crate::capture::order::{Orderer, Until};
use crate::capture::twins::Sample;
use crate::capture::vantage::Vantage;
use crate::edge::intake::follow::Position;
use crate::edge::intake::position_file::PositionFile;
use crate::edge::intake::rotation::Rotation;
use crate::edge::intake::trace_file::{self, NewTrace};
use crate::trace::writer::{EVENT_BYTES_MAX, Written};
use crate::trace::{EventKind, Item, Ledger, Source, TraceMeta};
use crate::units::WallTime;

/// Behind the format of a source whose connections are a proxy's.
pub(super) const BEHIND_PROXY: &str = "/behind-proxy";

/// The names that traces get.
pub(super) enum Files {
    /// One trace.
    One(PathBuf),
    /// One after the other.
    Many(Rotation),
    /// The same, but only the caller ends them.
    Stepwise(Rotation),
}

impl Files {
    /// Whether a trace could be written now.
    pub(super) fn try_place(&self) -> anyhow::Result<()> {
        let path = match self {
            Self::One(path) => path.clone(),
            Self::Many(rotation) | Self::Stepwise(rotation) => rotation.name(WallTime::default()),
        };
        trace_file::try_place(&path)
    }
}

/// A trace that got its name.
#[derive(Debug, Clone)]
pub(crate) struct Finished {
    pub(crate) path: PathBuf,
    pub(crate) ledger: Ledger,
    pub(crate) written: Written,
    pub(crate) sources: Vec<Source>,
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
    samples: BTreeMap<u32, Sample>,
    finished: Vec<Finished>,
    requests: u64,
    /// Counts since the last trace was ended.
    pub(super) ledger: Ledger,
    /// Counts of all traces that were ended.
    pub(super) all: Ledger,
}

impl Sink {
    pub(super) fn new(meta: TraceMeta, files: Files) -> Self {
        let (order, finished, ledger) = (Orderer::default(), Vec::new(), Ledger::default());
        let all = Ledger::default();
        Self {
            order,
            meta,
            files,
            trace: None,
            ends: None,
            closing: None,
            samples: BTreeMap::new(),
            finished,
            requests: 0,
            ledger,
            all,
        }
    }

    /// Events that are complete.
    pub(super) fn take(&mut self, events: Vec<RawEvent>) {
        events.into_iter().for_each(|e| self.order.push(e));
    }

    /// The same, of which input is remembered; where there are several, so that the same traffic in two of them is noticed.
    pub(super) fn take_from(&mut self, input: u32, events: Vec<RawEvent>) {
        if self.meta.sources.len() > 1 {
            self.samples.entry(input).or_default().add(&events);
        }
        self.take(events);
    }

    /// The same of packets, whose vantage point decides what their sessions are.
    pub(super) fn take_seen(&mut self, input: u32, events: Vec<RawEvent>, end: bool, vantage: &mut Vantage) {
        let known = vantage.behind_proxy().is_some();
        let known_now = vantage.take(events, end);
        if !known
            && vantage.behind_proxy() == Some(true)
            && let Some(source) = self.meta.sources.get_mut(input as usize)
        {
            source.format.push_str(BEHIND_PROXY);
        }
        self.take_from(input, known_now);
    }

    /// Two inputs that hold the same traffic, and how many of how many rare requests say so.
    pub(super) fn twins(&self) -> Option<(u32, u32, (usize, usize))> {
        let all: Vec<_> = self.samples.iter().collect();
        let pairs = all.iter().enumerate().flat_map(|(i, a)| all[i + 1..].iter().map(move |b| (a, b)));
        pairs.into_iter().find_map(|((a, x), (b, y))| x.same_as(y).map(|found| (**a, **b, found)))
    }

    /// Gives the trace up: nothing of it stays.
    pub(super) fn abandon(&mut self) {
        if let Some((trace, _)) = self.trace.take() {
            trace.abandon();
        }
    }

    /// Whether a trace was begun.
    pub(super) fn has_begun(&self) -> bool {
        self.trace.is_some()
    }

    /// Requests written so far.
    pub(super) fn requests(&self) -> u64 {
        self.requests
    }

    /// What was counted so far, in all traces.
    pub(super) fn total(&self, item: Item) -> u64 {
        [&self.ledger, &self.all].into_iter().filter_map(|l| l.get(item)).sum()
    }

    /// What the traces are made from.
    pub(super) fn sources(&self) -> &[Source] {
        &self.meta.sources
    }

    /// The traces that were ended since this was last asked.
    pub(super) fn take_finished(&mut self) -> anyhow::Result<Vec<Finished>> {
        if self.closing.as_ref().is_some_and(JoinHandle::is_finished) {
            self.settle()?;
        }
        Ok(std::mem::take(&mut self.finished))
    }

    /// Writes the events whose place is certain.
    pub(super) fn drain(&mut self, until: Until) -> anyhow::Result<()> {
        while let Some(event) = self.order.next(until, &mut self.ledger) {
            // Redaction makes some targets longer; one request must not end the capture of all others. Those of logs were looked at.
            let may_be = event.bytes as usize > EVENT_BYTES_MAX;
            if matches!(&event.kind, EventKind::Request(r) if may_be && r.shape.weight() > EVENT_BYTES_MAX) {
                self.ledger.count(Item::TooLarge);
                continue;
            }
            if self.is_due(event.at) {
                self.close()?;
                self.order.restart(event.at);
            }
            self.requests += u64::from(matches!(event.kind, EventKind::Request(_)));
            let at = event.at;
            let placed = self.order.place(event);
            if placed.iter().any(Option::is_some) {
                let trace = self.begin(at)?;
                placed.into_iter().flatten().try_for_each(|event| trace.push(event))?;
            }
        }
        Ok(())
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
                    Files::Stepwise(rotation) => rotation.name(at),
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
    fn close(&mut self) -> anyhow::Result<()> {
        self.close_with(|_| Ok(()))
    }

    /// The same, with something to be done when the trace is on the disk but has no name yet.
    fn close_with(
        &mut self,
        before: impl FnOnce(&Path) -> anyhow::Result<()> + Send + 'static,
    ) -> anyhow::Result<()> {
        self.settle()?;
        let Some((trace, path)) = self.trace.take() else { return Ok(()) };
        let (ledger, sources) = (std::mem::take(&mut self.ledger), self.meta.sources.clone());
        let end = move || {
            let written = trace.finish_with(&ledger, || before(&path))?;
            Ok(Finished { path, ledger, written, sources })
        };
        self.closing = Some(std::thread::Builder::new().name("trace-end".to_owned()).spawn(end)?);
        Ok(())
    }

    /// Waits for the trace that is on its way to the disk, and removes the oldest where there are too many.
    fn settle(&mut self) -> anyhow::Result<()> {
        let Some(closing) = self.closing.take() else { return Ok(()) };
        let finished = closing.join().map_err(|_| anyhow::anyhow!("the thread that ends traces died"))??;
        self.all.merge(&finished.ledger);
        self.finished.push(finished);
        if let Files::Many(rotation) | Files::Stepwise(rotation) = &self.files {
            rotation.prune().context("cannot remove old traces")?;
        }
        Ok(())
    }

    /// Whether the trace that is being written is long enough.
    pub(super) fn is_full(&self) -> bool {
        match (&self.files, &self.trace) {
            (Files::Stepwise(rotation), Some((trace, _))) => rotation.is_full(trace.bytes()),
            _ => false,
        }
    }

    /// Writes all that is left, ends the trace, and with it moves the positions of logs. Another trace may follow. Without a
    /// request there is no trace, and the positions stay.
    pub(super) fn finish_with(
        &mut self,
        rest: &Ledger,
        positions: &PositionFile,
        left: Vec<Position>,
    ) -> anyhow::Result<()> {
        self.drain(Until::End)?;
        self.ledger.merge(rest);
        self.order = Orderer::default();
        if self.trace.is_none() {
            return Ok(());
        }
        let file = positions.clone();
        self.close_with(move |trace| file.prepare(trace, left))?;
        self.settle()?;
        positions.adopt()
    }

    /// Writes all that is left and ends the trace; an empty one where there was none and one was asked for.
    pub(super) fn finish(&mut self, rest: &Ledger) -> anyhow::Result<()> {
        self.drain(Until::End)?;
        self.ledger.merge(rest);
        if self.trace.is_none() && matches!(self.files, Files::One(_)) {
            self.begin(WallTime::default())?;
        }
        self.close()?;
        self.settle()
    }
}
