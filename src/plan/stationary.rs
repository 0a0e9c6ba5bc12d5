//! The stationary plan: the recorded mix at a steady rate, for as long as it is asked for.
//!
//! Sessions are drawn from a sample of the trace by seed and started evenly. It begins in the middle: as if
//! sessions had been starting for ever, so that the rate is steady from the first second and not only when
//! the longest session has had its time. Used by the lead-in and by `--rate`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::alike::Alike;
use super::draw::{Salt, below, hash64};
use super::screen::{RouteNames, Screen};
use super::stream::EventSource;
use super::{CapCounter, Departure, DepartureKind, Instance, PlannedRequest};
use crate::limits::{
    STATIONARY_EVENTS_MAX, STATIONARY_REQUESTS_MAX, STATIONARY_REQUESTS_MIN, STATIONARY_SESSION_MAX,
};
use crate::trace::{AnswerFacts, EventKind};
use crate::units::{NANOS_PER_SEC, Rate};

/// One recorded request of the sample: offset in its session, connection, what.
#[derive(Debug, Clone)]
struct Step {
    offset_ns: u64,
    connection: u16,
    request: Arc<PlannedRequest>,
    recorded: AnswerFacts,
}

/// Sessions to draw from.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    sessions: Vec<Vec<Step>>,
    requests: u64,
    routes: RouteNames,
    caps: Option<CapCounter>,
}

impl Sample {
    /// Gathers the sessions of a part of a trace, as far as they may be sent.
    ///
    /// # Errors
    /// When the trace cannot be read.
    pub fn gather(
        source: &mut impl EventSource,
        screen: &Screen,
        from_ns: u64,
        to_ns: u64,
    ) -> anyhow::Result<Self> {
        source.seek(from_ns)?;
        let mut sample = Self { caps: Some(CapCounter::new(&screen.routes)), ..Self::default() };
        let mut open: std::collections::BTreeMap<u64, (u64, usize)> = std::collections::BTreeMap::new();
        let mut alike = Alike::default();
        let mut looked = 0;
        while let Some(event) = source.next_event()? {
            looked += u64::from(event.at.0 >= from_ns);
            // A handful of requests is no mix: then it is read on.
            let tired = looked > STATIONARY_EVENTS_MAX && sample.requests >= STATIONARY_REQUESTS_MIN;
            let enough = sample.requests >= STATIONARY_REQUESTS_MAX as u64 || tired;
            if event.at.0 >= to_ns || enough {
                break;
            }
            let EventKind::Request(r) = &event.kind else { continue };
            if event.at.0 < from_ns {
                continue;
            }
            let Ok(request) = alike.planned(screen, &mut sample.routes, r, 0) else { continue };
            let next = sample.sessions.len();
            let (start, index) = *open.entry(event.session.key).or_insert((event.at.0, next));
            if index == next {
                sample.sessions.push(Vec::new());
            }
            let offset_ns = event.at.0 - start;
            if offset_ns > STATIONARY_SESSION_MAX.as_nanos() as u64 {
                continue;
            }
            sample.sessions[index].push(Step {
                offset_ns,
                connection: event.connection,
                request,
                recorded: r.answer(),
            });
            sample.requests += 1;
        }
        source.seek(from_ns)?;
        Ok(sample)
    }

    /// Whether nothing can be drawn.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requests == 0
    }

    /// Names of the routes in the sample.
    #[must_use]
    pub fn routes(&self) -> &RouteNames {
        &self.routes
    }

    fn longest_ns(&self) -> u64 {
        self.sessions.iter().filter_map(|s| s.last().map(|l| l.offset_ns)).max().unwrap_or(0)
    }
}

/// An endless plan at a steady rate.
#[derive(Debug)]
pub struct StationaryPlan {
    sample: Arc<Sample>,
    seed: u64,
    interval_ns: f64,
    /// Session starts are counted from here: the first lies one longest session before zero.
    started: u64,
    lead_ns: u64,
    heap: BinaryHeap<Reverse<(u64, u64, usize, usize)>>,
    live: std::collections::BTreeMap<u64, Instance>,
    caps: Option<CapCounter>,
}

impl StationaryPlan {
    /// A plan of `rate` requests per second. `None` when there is nothing to send or the rate is zero.
    #[must_use]
    pub fn new(sample: Arc<Sample>, rate: Rate, seed: u64) -> Option<Self> {
        if sample.is_empty() || rate == Rate::ZERO {
            return None;
        }
        let mean = sample.requests as f64 / sample.sessions.len() as f64;
        let interval_ns = mean / rate.rps() * NANOS_PER_SEC as f64;
        let lead_ns = sample.longest_ns();
        let (heap, live) = (BinaryHeap::new(), std::collections::BTreeMap::new());
        let caps = sample.caps.clone();
        Some(Self { sample, seed, interval_ns, started: 0, lead_ns, heap, live, caps })
    }

    fn start_of(&self, n: u64) -> u64 {
        (n as f64 * self.interval_ns) as u64
    }

    fn start_next(&mut self) {
        let n = self.started;
        self.started += 1;
        let hash = hash64(self.seed ^ n, Salt::Stationary);
        let session = below(hash, self.sample.sessions.len() as u64) as usize;
        self.live.insert(n, Instance(hash64(hash ^ n, Salt::Instance)));
        self.heap.push(Reverse((self.start_of(n), n, session, 0)));
    }
}

impl Iterator for StationaryPlan {
    type Item = Departure;

    fn next(&mut self) -> Option<Departure> {
        loop {
            let next_start = self.start_of(self.started);
            if self.heap.peek().is_none_or(|Reverse((at, ..))| next_start <= *at) {
                self.start_next();
                continue;
            }
            let Reverse((at, n, session, step)) = self.heap.pop()?;
            let steps = &self.sample.sessions[session];
            let instance = *self.live.get(&n)?;
            let Some(this) = steps.get(step) else {
                self.live.remove(&n);
                // The session is over: close its connections.
                if at < self.lead_ns {
                    continue;
                }
                let kind = DepartureKind::Close;
                return Some(Departure { due_ns: at - self.lead_ns, instance, connection: u16::MAX, kind });
            };
            let (request, connection, recorded) = (Arc::clone(&this.request), this.connection, this.recorded);
            let after = steps.get(step + 1).map_or(at, |s| self.start_of(n) + s.offset_ns);
            self.heap.push(Reverse((after.max(at), n, session, step + 1)));
            if at < self.lead_ns {
                continue;
            }
            let over = self.caps.as_mut().is_some_and(|c| c.is_over(&request, at - self.lead_ns));
            if over {
                continue;
            }
            let kind = DepartureKind::Request(request, recorded);
            return Some(Departure { due_ns: at - self.lead_ns, instance, connection, kind });
        }
    }
}
