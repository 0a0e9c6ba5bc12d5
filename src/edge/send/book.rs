//! What one worker has to tell: tallies for the report, a bucket for the governor.
//!
//! One thread writes it, so it needs no lock; the worker hands copies over at its heart-beat. Every due
//! request is a [`Due`], which can be resolved once only and resolves itself when it is dropped: the
//! identities hold however a run ends.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;

use super::lane::Held;
use crate::edge::clock::Clock;
use crate::govern::gate::{ShedReason, Slot};
use crate::govern::local::{Bins, LocalBucket, LocalNow};
use crate::measure::outcome::{Ending, Outcome, RunPhase, is_expected};
use crate::measure::tally::{ConnectTimes, Tally};
use crate::plan::PlannedRequest;
use crate::trace::AnswerFacts;
use crate::units::RunTime;
use crate::wire::cache::CacheStatus;

/// Counts of one stretch of time, for the governor and the timeline.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flow {
    /// Due.
    pub due: u64,
    /// Left out by the share.
    pub thinned: u64,
    /// Cut for any other reason.
    pub shed: u64,
    /// Sent.
    pub sent: u64,
    /// Ended well.
    pub ok: u64,
    /// Ended otherwise.
    pub bad: u64,
}

/// What a worker tells the governor at a heart-beat.
#[derive(Debug, Default)]
pub struct Beat {
    /// Since the last one.
    pub bucket: LocalBucket,
    /// Since the last one.
    pub flow: Flow,
    /// Since the last one.
    pub lag: Bins,
    /// Now.
    pub now: LocalNow,
    /// The target asked for quiet until then.
    pub quiet_until: RunTime,
}

impl Beat {
    /// Adds what happened since; what is true now replaces.
    pub fn absorb(&mut self, newer: Self) {
        self.bucket.merge(&newer.bucket);
        self.flow.due += newer.flow.due;
        self.flow.thinned += newer.flow.thinned;
        self.flow.shed += newer.flow.shed;
        self.flow.sent += newer.flow.sent;
        self.flow.ok += newer.flow.ok;
        self.flow.bad += newer.flow.bad;
        self.lag.merge(&newer.lag);
        self.now = newer.now;
        self.quiet_until = self.quiet_until.max(newer.quiet_until);
    }
}

#[derive(Debug, Default)]
struct Inner {
    lead_in: Tally,
    measure: Tally,
    beat: Beat,
    in_flight: Slab<InFlight>,
    failures_in_a_row: u64,
}

/// A request in flight: since when, and on which lane.
#[derive(Debug)]
struct InFlight {
    since: RunTime,
    lane: Weak<Held>,
}

impl Inner {
    fn tally(&mut self, phase: RunPhase) -> &mut Tally {
        match phase {
            RunPhase::LeadIn => &mut self.lead_in,
            RunPhase::Measure => &mut self.measure,
        }
    }
}

/// The book of one worker.
#[derive(Debug, Clone)]
pub struct Book {
    inner: Rc<RefCell<Inner>>,
    clock: Clock,
}

impl Book {
    /// An empty book.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { inner: Rc::default(), clock }
    }

    /// A request is due.
    #[must_use]
    pub fn due(
        &self,
        due: RunTime,
        phase: RunPhase,
        planned: Arc<PlannedRequest>,
        recorded: AnswerFacts,
    ) -> Due {
        let mut inner = self.inner.borrow_mut();
        inner.tally(phase).due(due, planned.route);
        inner.beat.flow.due += 1;
        Due {
            book: self.clone(),
            due,
            phase,
            planned,
            recorded,
            cache: None,
            sent: None,
            slot: None,
            written: None,
            first_byte: None,
            resolved: false,
        }
    }

    /// The plan asks for a connection.
    pub fn lane(&self, phase: RunPhase) {
        self.inner.borrow_mut().tally(phase).lanes += 1;
    }

    /// A connection was opened.
    pub fn connected(&self, phase: RunPhase, times: ConnectTimes, again: bool) {
        let mut inner = self.inner.borrow_mut();
        inner.beat.bucket.counts.connects += 1;
        let tally = inner.tally(phase);
        tally.connected(times);
        tally.reopened += u64::from(again);
    }

    /// A connection could not be opened.
    pub fn connect_failed(&self, phase: RunPhase, why: &str) {
        let mut inner = self.inner.borrow_mut();
        inner.beat.bucket.counts.connects += 1;
        inner.beat.bucket.counts.connect_failures += 1;
        inner.failures_in_a_row += 1;
        inner.tally(phase).connect_failed(why);
    }

    /// Bytes of an answer came.
    pub fn received(&self, bytes: u64) {
        self.inner.borrow_mut().beat.bucket.counts.bytes += bytes;
    }

    /// The target asked for quiet.
    pub fn quiet_until(&self, until: RunTime) {
        let mut inner = self.inner.borrow_mut();
        inner.beat.quiet_until = inner.beat.quiet_until.max(until);
    }

    /// What happened since the last call, and what is true now.
    #[must_use]
    pub fn take_beat(&self) -> Beat {
        let now = self.clock.now();
        let mut inner = self.inner.borrow_mut();
        let mut beat = std::mem::take(&mut inner.beat);
        beat.now.in_flight = inner.in_flight.len() as u64;
        beat.now.failures_in_a_row = inner.failures_in_a_row;
        for (_, flight) in &inner.in_flight {
            let age = now.since(flight.since).as_nanos() as u64;
            beat.now.oldest_ns = beat.now.oldest_ns.max(age);
            beat.now.ages.add(age);
        }
        beat
    }

    /// Lanes whose request has been in flight for `limit`.
    #[must_use]
    pub fn overdue(&self, now: RunTime, limit: Duration) -> Vec<Rc<Held>> {
        let inner = self.inner.borrow();
        let late = inner.in_flight.iter().filter(|(_, f)| now.since(f.since) >= limit);
        late.filter_map(|(_, f)| f.lane.upgrade()).collect()
    }

    /// The tallies of both phases, at the end.
    #[must_use]
    pub fn take_tallies(&self) -> (Tally, Tally) {
        let mut inner = self.inner.borrow_mut();
        (std::mem::take(&mut inner.lead_in), std::mem::take(&mut inner.measure))
    }
}

/// A due request. It ends in exactly one way.
#[derive(Debug)]
pub struct Due {
    book: Book,
    /// When it was due.
    pub due: RunTime,
    /// Phase.
    pub phase: RunPhase,
    /// What to send.
    pub planned: Arc<PlannedRequest>,
    /// What the recording says of the answer.
    recorded: AnswerFacts,
    /// Whether the answer came from a cache.
    pub cache: Option<CacheStatus>,
    /// Its number in flight, once sent.
    sent: Option<usize>,
    /// Its place in flight: given back when it ends.
    slot: Option<Slot>,
    /// When the head had been handed to the kernel.
    pub written: Option<RunTime>,
    /// First byte of the answer.
    pub first_byte: Option<RunTime>,
    resolved: bool,
}

impl Due {
    /// It is cut.
    pub fn shed(mut self, reason: ShedReason) {
        self.resolve_shed(reason);
    }

    /// It is cut after it has waited for its connection: whatever the reason, it would have been slow.
    pub fn shed_late(mut self, reason: ShedReason) {
        self.book.inner.borrow_mut().tally(self.phase).censor_unless(reason);
        self.resolve_shed(reason);
    }

    fn resolve_shed(&mut self, reason: ShedReason) {
        self.resolved = true;
        let mut inner = self.book.inner.borrow_mut();
        inner.tally(self.phase).shed(reason);
        if reason == ShedReason::Thinned {
            inner.beat.flow.thinned += 1;
        } else {
            inner.beat.flow.shed += 1;
        }
    }

    /// Records how late we are with it. Called once for each request: when it is handed to an idle
    /// connection, or else when it was dispatched, because what comes after that is not our lateness.
    pub fn lag(&self) {
        let late = self.book.clock.now().since(self.due);
        let mut inner = self.book.inner.borrow_mut();
        inner.tally(self.phase).send_lag.add(late);
        inner.beat.lag.add(late.as_nanos() as u64);
    }

    /// It is handed to its connection under a permit, which became `slot`.
    pub fn sent(&mut self, now: RunTime, slot: Slot, lane: Weak<Held>, own_lag: bool) {
        let mut inner = self.book.inner.borrow_mut();
        let number = inner.in_flight.insert(InFlight { since: now, lane });
        inner.beat.flow.sent += 1;
        let tally = inner.tally(self.phase);
        tally.sent(now);
        if own_lag {
            let late = now.since(self.due);
            tally.send_lag.add(late);
            inner.beat.lag.add(late.as_nanos() as u64);
        }
        drop(inner);
        (self.sent, self.slot) = (Some(number), Some(slot));
    }

    /// A sent request ended.
    pub fn ended(self, ending: Ending, bytes: u64) {
        let now = self.book.clock.now();
        self.ended_at(now, ending, bytes);
    }

    /// It ended when this was noticed.
    pub fn ended_at(mut self, now: RunTime, ending: Ending, bytes: u64) {
        self.resolve_ended(now, ending, bytes);
    }

    fn resolve_ended(&mut self, now: RunTime, ending: Ending, bytes: u64) {
        self.resolved = true;
        let Some(number) = self.sent.take() else { return };
        self.slot = None;
        let outcome = Outcome {
            phase: self.phase,
            route: self.planned.route,
            expected: self.planned.expected,
            recorded: self.recorded,
            cache: self.cache,
            due: self.due,
            written: self.written,
            first_byte: self.first_byte,
            done: now,
            bytes,
            ending,
        };
        let mut inner = self.book.inner.borrow_mut();
        drop(inner.in_flight.try_remove(number));
        inner.tally(self.phase).ended(&outcome);
        inner.note(&outcome);
    }
}

impl Inner {
    /// Tells the governor's bucket.
    fn note(&mut self, o: &Outcome) {
        let counts = &mut self.beat.bucket.counts;
        // What we refused ourselves at the first write says nothing about the target.
        if matches!(o.ending, Ending::Cancelled | Ending::FailedBeforeWrite) {
            return;
        }
        counts.done += 1;
        let mut failed = true;
        match o.ending {
            Ending::Answered(status) => {
                let refused = status >= 500 || status == 429;
                let blocked = matches!(status, 401 | 403) && o.expected != Some(status);
                failed = refused;
                counts.refused += u64::from(refused);
                counts.server_errors += u64::from(status >= 500);
                counts.blocked += u64::from(blocked);
                counts.unexpected += u64::from(!is_expected(o.expected, status));
            }
            Ending::Timeout => counts.timeouts += 1,
            Ending::Error(_) | Ending::FailedBeforeWrite | Ending::Cancelled => counts.errors += 1,
        }
        if let (Some(written), Ending::Answered(_) | Ending::Timeout) = (o.written, o.ending) {
            self.beat.bucket.service.add(o.done.since(written).as_nanos() as u64);
        }
        // A kept connection that the target closed while it was idle is no failure to answer.
        let failed = failed && o.written.is_some();
        self.failures_in_a_row = if failed { self.failures_in_a_row + 1 } else { 0 };
        let good = matches!(o.ending, Ending::Answered(s) if is_expected(o.expected, s));
        self.beat.flow.ok += u64::from(good);
        self.beat.flow.bad += u64::from(!good);
    }
}

impl Drop for Due {
    fn drop(&mut self) {
        if self.resolved {
            return;
        }
        if self.sent.is_none() {
            self.resolve_shed(ShedReason::Latched);
        } else {
            let whole = self.written.is_some();
            let ending = if whole { Ending::Cancelled } else { Ending::FailedBeforeWrite };
            self.resolve_ended(self.book.clock.now(), ending, 0);
        }
    }
}
