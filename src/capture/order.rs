//! Puts raw events into time order and gives sessions their keys.
//!
//! Events come out of pairing when they are complete, which is not when they began. A calendar bounded
//! by count holds them back; what is still too late then is counted, never written out of order.

use std::sync::Arc;

use super::calendar::Calendar;
use super::{RawEvent, mix64};
use crate::limits::{REORDER_BYTES_MAX, REORDER_EVENTS_MAX};
use crate::lookup::Lookup;
use crate::trace::shape::SharedShape;
use crate::trace::{ConnectionEvent, EventKind, Item, Ledger, Provenance, SessionRef, TraceEvent};
use crate::units::{TraceTime, WallTime};

/// Bytes of a shape, those of its allocations among them, by the share of one of those that hold it.
#[must_use]
pub fn shape_bytes(shape: &SharedShape) -> usize {
    let holders = Arc::strong_count(shape).saturating_sub(1).max(1);
    (shape.weight() + 48 * (2 * shape.headers.len() + 4)) / holders
}

/// Which events leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Until {
    /// The oldest, when more wait than may.
    Full,
    /// Those before a time too.
    Before(WallTime),
    /// All.
    End,
}

/// The calendar and the session numbering.
#[derive(Debug)]
pub struct Orderer {
    waiting: Calendar<RawEvent>,
    start: Option<WallTime>,
    last: WallTime,
    sessions: Lookup<u64, Known>,
    next_ordinal: u64,
}

/// A session under way.
#[derive(Debug)]
struct Known {
    session: SessionRef,
    /// Connections open.
    open: u32,
    /// It began in the trace before this one, and has not been seen in this one yet.
    resumed: bool,
}

impl Default for Orderer {
    fn default() -> Self {
        Self {
            waiting: Calendar::new(REORDER_EVENTS_MAX, REORDER_BYTES_MAX),
            start: None,
            last: WallTime(0),
            sessions: Lookup::default(),
            next_ordinal: 0,
        }
    }
}

impl Orderer {
    /// Takes one event.
    pub fn push(&mut self, event: RawEvent) {
        let bytes = std::mem::size_of::<RawEvent>()
            + match &event.kind {
                EventKind::Request(r) => shape_bytes(&r.shape),
                EventKind::Open(_) | EventKind::Close(_) => 0,
            };
        self.waiting.push(event.at, event, bytes);
    }

    /// The next event whose place is certain enough. Its time is never before the last one's.
    pub fn next(&mut self, until: Until, ledger: &mut Ledger) -> Option<RawEvent> {
        loop {
            let (_, mut event) = self.waiting.pop(until)?;
            self.start.get_or_insert(event.at);
            match &mut event.kind {
                // That a connection was closed is often known late; a little later does no harm, and never would.
                EventKind::Close(_) => event.at = event.at.max(self.last),
                // Opened long before its first request: the request is worth more than the wait.
                EventKind::Open(open) if event.at < self.last => {
                    (event.at, open.arrival) = (self.last, Provenance::Inferred);
                }
                EventKind::Open(_) => {}
                EventKind::Request(_) if event.at < self.last => {
                    ledger.count(Item::LateEvents);
                    continue;
                }
                EventKind::Request(_) => {}
            }
            self.last = event.at;
            return Some(event);
        }
    }

    /// An event of the trace; before it the opening of its connection, where that was open when the trace began.
    pub fn place(&mut self, event: RawEvent) -> [Option<TraceEvent>; 2] {
        let start = self.start.unwrap_or(event.at);
        let at = TraceTime(event.at.0.saturating_sub(start.0));
        let is_request = matches!(event.kind, EventKind::Request(_));
        // What goes on from the trace before shows itself by a request; that it ended without one is no news.
        let resumed = self.sessions.get(&event.owner).is_some_and(|k| k.resumed);
        if resumed && !is_request {
            self.sessions.remove(&event.owner);
            return [None, None];
        }
        let session = self.session(&event);
        let placed = |kind| TraceEvent { at, session, connection: event.connection, kind };
        let opened = ConnectionEvent { arrival: Provenance::Inferred };
        [resumed.then(|| placed(EventKind::Open(opened))), Some(placed(event.kind))]
    }

    /// Another trace begins at `at`. Connections that are open go on in it, as sessions of their own.
    pub fn restart(&mut self, at: WallTime) {
        self.start = Some(at);
        self.next_ordinal = 0;
        self.sessions.for_each_sorted(|_, known| known.resumed = true);
    }

    /// Keys depend on order and start time only: nothing about a client can be recovered from them.
    fn session(&mut self, event: &RawEvent) -> SessionRef {
        let next = &mut self.next_ordinal;
        let mut number = || {
            let ordinal = *next;
            *next += 1;
            SessionRef { key: mix64(mix64(event.at.0) ^ ordinal), ordinal }
        };
        let known = self.sessions.get_or_insert_with(event.owner, || Known {
            session: number(),
            open: 0,
            resumed: false,
        });
        if known.resumed {
            *known = Known { session: number(), open: known.open, resumed: false };
        }
        let session = known.session;
        match event.kind {
            EventKind::Open(_) => known.open += 1,
            EventKind::Close(_) => known.open = known.open.saturating_sub(1),
            EventKind::Request(_) => {}
        }
        // The last connection of a session closes when the session ends: it need not be remembered.
        if known.open == 0 && matches!(event.kind, EventKind::Close(_)) {
            self.sessions.remove(&event.owner);
        }
        session
    }

    /// Wall-clock time of trace time zero: that of the first event that came out, or would.
    #[must_use]
    pub fn start(&self) -> Option<WallTime> {
        self.start.or_else(|| self.waiting.first())
    }
}
