//! The streaming plan: trace events in, departures out, in the order of their due times.
//!
//! Memory is bounded by the jitter window, not by the trace: a clone is never earlier than its original,
//! so everything due before the original of the event at hand is final.

use core::ops::Range;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ahead::Ahead;
use super::alike::Alike;
use super::draw::{Salt, below, hash64};
use super::screen::{RouteNames, Screen};
use super::{CapCounter, Departure, DepartureKind, DropReason, Instance, PlannedRequest};
use crate::limits::{CLONE_JITTER_MAX, OPEN_AHEAD_MAX, OPEN_CONNECTIONS_MAX, PLAN_AHEAD_MAX};
use crate::trace::{EventKind, RequestFacts, TraceEvent};
use crate::units::{Scale, Speed};
use crate::wire::head::Version;

/// Where trace events come from; can be read again from the start.
pub trait EventSource {
    /// The next event, in time order.
    ///
    /// # Errors
    /// When the trace cannot be read.
    fn next_event(&mut self) -> anyhow::Result<Option<TraceEvent>>;
    /// Goes back to the start.
    ///
    /// # Errors
    /// When the trace cannot be opened again.
    fn rewind(&mut self) -> anyhow::Result<()>;
    /// Goes to a place from which all events at and after `at_ns` follow; earlier ones may come first.
    ///
    /// # Errors
    /// When the trace cannot be opened again.
    fn seek(&mut self, _at_ns: u64) -> anyhow::Result<()> {
        self.rewind()
    }
}

/// What to make of a trace.
#[derive(Debug, Clone)]
pub struct PlanSettings {
    /// Clones per session.
    pub scale: Scale,
    /// Speed of trace time.
    pub speed: Speed,
    /// First trace time used, nanoseconds.
    pub from_ns: u64,
    /// Trace time at which to stop, nanoseconds.
    pub to_ns: u64,
    /// Again from the start when the end is reached.
    pub repeat: bool,
    /// Run time at which to stop, nanoseconds.
    pub for_ns: u64,
    /// Seed of jitter and draws.
    pub seed: u64,
    /// This shard and how many there are.
    pub shard: (u64, u64),
    /// What may be sent.
    pub screen: Screen,
}

impl PlanSettings {
    /// Clones of a session, the original included: whole ones for all, the fraction by a stable hash.
    #[must_use]
    pub fn clones(&self, session_key: u64) -> u64 {
        let (whole, fraction) = (self.scale.milli / 1000, self.scale.milli % 1000);
        whole + u64::from(below(hash64(session_key, Salt::Scale), 1000) < fraction)
    }

    fn in_shard(&self, session_key: u64) -> bool {
        let (mine, of) = self.shard;
        of <= 1 || below(hash64(session_key, Salt::Shard), of) == mine
    }

    /// Start jitter of a clone in trace nanoseconds: none for the original, else below a 200th of the
    /// trace and at most [`CLONE_JITTER_MAX`].
    fn jitter(&self, instance: Instance, clone: u64, duration_ns: u64) -> u64 {
        let most = (duration_ns / 200).min(CLONE_JITTER_MAX.as_nanos() as u64);
        if clone == 0 { 0 } else { below(hash64(instance.0 ^ self.seed, Salt::Jitter), most) }
    }
}

/// Identity of the `clone`-th copy of a session in the `round`-th pass.
#[must_use]
pub fn instance(session_key: u64, clone: u64, round: u64) -> Instance {
    if clone == 0 && round == 0 {
        return Instance(session_key);
    }
    // The multiplication keeps `key ^ hash` from cancelling out where keys were made by the same hash.
    let spread = session_key.wrapping_mul(0xd6e8_feb8_6659_fd93);
    Instance(hash64(spread ^ hash64(clone ^ (round << 32), Salt::Instance), Salt::Instance))
}

/// What planning counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanCounts {
    /// Requests of the trace in the chosen part, before scaling.
    pub recorded: u64,
    /// The same times their clones, in this shard.
    pub scaled: u64,
    /// Planned.
    pub due: u64,
    /// Dropped, by reason.
    pub dropped: BTreeMap<DropReason, u64>,
}

impl PlanCounts {
    /// Adds all of `o`.
    pub fn add(&mut self, o: &Self) {
        self.recorded += o.recorded;
        self.scaled += o.scaled;
        self.due += o.due;
        o.dropped.iter().for_each(|(r, n)| *self.dropped.entry(*r).or_default() += n);
    }

    /// The planning identity: `recorded x scale = due + dropped`.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        self.scaled == self.due + self.dropped.values().sum::<u64>()
    }
}

/// The departures of a plan.
pub struct PlanStream<S> {
    source: S,
    settings: PlanSettings,
    /// Length of the chosen part of the trace, nanoseconds.
    duration_ns: u64,
    ahead: Ahead,
    round: u64,
    /// Due time up to which everything is final; `None` at the end of the trace.
    final_ns: Option<u64>,
    counts: PlanCounts,
    routes: RouteNames,
    caps: CapCounter,
    alike: Alike,
    /// Connections whose open was read, with its place in the trace, and no request that may be sent yet.
    unopened: BTreeMap<Connection, u64>,
    /// Connections with such a request.
    open: BTreeSet<Connection>,
}

/// A connection of the trace: key of its session, and its number there.
type Connection = (u64, u16);

impl<S: EventSource> PlanStream<S> {
    /// A plan over `source`; `duration_ns` is the length of the chosen part of the trace.
    pub fn new(source: S, settings: PlanSettings, duration_ns: u64) -> Self {
        let caps = CapCounter::new(&settings.screen.routes);
        Self {
            source,
            settings,
            duration_ns,
            ahead: Ahead::default(),
            round: 0,
            final_ns: Some(0),
            counts: PlanCounts::default(),
            routes: RouteNames::default(),
            alike: Alike::default(),
            caps,
            unopened: BTreeMap::new(),
            open: BTreeSet::new(),
        }
    }

    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> &PlanCounts {
        &self.counts
    }

    /// What was counted of departures that were handed out: what is held ahead of its time is left out, so that the
    /// planning identity holds at any moment.
    #[must_use]
    pub fn counts_told(&self) -> PlanCounts {
        let is_request = |d: &&Departure| matches!(d.kind, DepartureKind::Request(..));
        let ahead = self.ahead.iter().filter(is_request).count() as u64;
        PlanCounts { scaled: self.counts.scaled - ahead, ..self.counts.clone() }
    }

    /// Names of the routes met so far.
    #[must_use]
    pub fn routes(&self) -> &RouteNames {
        &self.routes
    }

    /// Gives the source back.
    pub fn into_source(self) -> S {
        self.source
    }

    /// The next departure in the order of due times, or `None` at the end of the plan.
    ///
    /// # Errors
    /// When the trace cannot be read, or the look-ahead exceeds its limit.
    pub fn next_departure(&mut self) -> anyhow::Result<Option<Departure>> {
        loop {
            let ready = self.ahead.next_due_ns().is_some_and(|due| self.final_ns.is_none_or(|f| due <= f));
            if ready || self.final_ns.is_none() {
                let Some(departure) = self.ahead.pop() else { return Ok(None) };
                if self.is_over_cap(&departure) {
                    *self.counts.dropped.entry(DropReason::RouteCap).or_default() += 1;
                    continue;
                }
                return Ok(Some(departure));
            }
            self.read()?;
            if self.ahead.len() > PLAN_AHEAD_MAX {
                anyhow::bail!(
                    "the plan needs to look more than {PLAN_AHEAD_MAX} departures ahead; use a smaller --scale"
                );
            }
        }
    }

    /// Counts a request as due, or as over the cap of its route. In the order of due times: clones of one
    /// request lie in different seconds.
    fn is_over_cap(&mut self, departure: &Departure) -> bool {
        let DepartureKind::Request(request, _) = &departure.kind else { return false };
        let over = self.caps.is_over(request, departure.due_ns);
        self.counts.due += u64::from(!over);
        over
    }

    fn read(&mut self) -> anyhow::Result<()> {
        let event = self.source.next_event()?;
        let Some(event) = event.filter(|e| e.at.0 < self.settings.to_ns) else { return self.end_of_trace() };
        if event.at.0 < self.settings.from_ns {
            return Ok(());
        }
        let offset = event.at.0 - self.settings.from_ns;
        let base = self.due(offset);
        if base >= self.settings.for_ns {
            self.final_ns = None;
            return Ok(());
        }
        // Opens wait for their first request, and are told at the latest so far ahead of it.
        self.final_ns = Some(base.saturating_sub(OPEN_AHEAD_MAX.as_nanos() as u64));
        self.plan(&event, offset);
        Ok(())
    }

    /// Due time of a moment of the trace in this round.
    fn due(&self, offset_ns: u64) -> u64 {
        let before = u128::from(self.duration_ns) * u128::from(self.round);
        let total = u64::try_from(before + u128::from(offset_ns)).unwrap_or(u64::MAX);
        self.settings.speed.run_nanos(total)
    }

    fn end_of_trace(&mut self) -> anyhow::Result<()> {
        let more = self.settings.repeat && self.duration_ns > 0 && self.counts.recorded > 0;
        if more && self.due(self.duration_ns) < self.settings.for_ns {
            self.round += 1;
            self.unopened.clear();
            self.open.clear();
            self.source.seek(self.settings.from_ns)
        } else {
            self.final_ns = None;
            Ok(())
        }
    }

    fn plan(&mut self, event: &TraceEvent, offset: u64) {
        let key = event.session.key;
        self.counts.recorded += u64::from(event.request().is_some());
        if !self.settings.in_shard(key) {
            return;
        }
        let (clones, connection) = (self.settings.clones(key), (key, event.connection));
        match &event.kind {
            EventKind::Open(_) => {
                if self.unopened.len() < OPEN_CONNECTIONS_MAX {
                    self.unopened.insert(connection, offset);
                }
            }
            EventKind::Close(_) => {
                self.unopened.remove(&connection);
                if self.open.remove(&connection) {
                    self.push(connection, 0..clones, offset, &DepartureKind::Close);
                }
            }
            EventKind::Request(r) => {
                self.counts.scaled += clones;
                if self.settings.screen.rewrite.shifts.is_empty() {
                    let Some(planned) = self.request(r, 0, clones) else { return };
                    self.sent_on(connection, clones, planned.shape.version);
                    self.push(connection, 0..clones, offset, &DepartureKind::Request(planned, r.answer()));
                    return;
                }
                for clone in 0..clones {
                    let Some(planned) = self.request(r, clone, 1) else { continue };
                    self.sent_on(connection, clones, planned.shape.version);
                    let kind = DepartureKind::Request(planned, r.answer());
                    self.push(connection, clone..clone + 1, offset, &kind);
                }
            }
        }
    }

    /// A connection carries something that is sent: from now on it is open.
    fn sent_on(&mut self, connection: Connection, clones: u64, version: Version) {
        if let Some(opened) = self.unopened.remove(&connection) {
            let kind = DepartureKind::Open { http2: version == Version::Http2 };
            self.push(connection, 0..clones, opened, &kind);
        }
        if self.open.len() < OPEN_CONNECTIONS_MAX {
            self.open.insert(connection);
        }
    }

    /// Plans what clones of a session do at `offset`, but nothing that would be in the past.
    fn push(&mut self, (key, connection): Connection, clones: Range<u64>, offset: u64, kind: &DepartureKind) {
        for clone in clones {
            let instance = instance(key, clone, self.round);
            let due_ns = self.due(offset + self.settings.jitter(instance, clone, self.duration_ns));
            let due_ns = due_ns.max(self.final_ns.unwrap_or(0));
            let departure = Departure { due_ns, instance, connection, kind: kind.clone() };
            self.ahead.push(departure);
        }
    }

    /// The request as `clone` sends it; where it is dropped, it is for `clones` of them.
    fn request(&mut self, r: &RequestFacts, clone: u64, clones: u64) -> Option<Arc<PlannedRequest>> {
        match self.alike.planned(&self.settings.screen, &mut self.routes, r, clone) {
            Ok(planned) => Some(planned),
            Err(reason) => {
                *self.counts.dropped.entry(reason).or_default() += clones;
                None
            }
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
pub(crate) mod tests;
