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
use crate::trace::{EventKind, Item, Ledger, SessionRef, TraceEvent};
use crate::units::{TraceTime, WallTime};

/// Bytes of a shape, those of its allocations among them, by the share of one of those that hold it.
#[must_use]
pub fn shape_bytes(shape: &SharedShape) -> usize {
    let holders = Arc::strong_count(shape).saturating_sub(1).max(1);
    (shape.weight() + 48 * (2 * shape.headers.len() + 4)) / holders
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

    /// The next event that is certain enough to be in order; `all` at the end of input.
    pub fn pop(&mut self, all: bool, ledger: &mut Ledger) -> Option<TraceEvent> {
        loop {
            let (mut at, event) = self.waiting.pop(all)?;
            let start = *self.start.get_or_insert(at);
            // That a connection was closed is often known late; a little later does no harm, and never would.
            if matches!(event.kind, EventKind::Close(_)) {
                at = at.max(self.last);
            }
            if at < self.last {
                ledger.count(Item::LateEvents);
                continue;
            }
            self.last = at;
            let session = self.session(&event, at);
            let at = TraceTime(at.0 - start.0);
            return Some(TraceEvent { at, session, connection: event.connection, kind: event.kind });
        }
    }

    /// Keys depend on order and start time only: nothing about a client can be recovered from them.
    fn session(&mut self, event: &RawEvent, at: WallTime) -> SessionRef {
        let next = &mut self.next_ordinal;
        let known = self.sessions.get_or_insert_with(event.owner, || {
            let ordinal = *next;
            *next += 1;
            Known { session: SessionRef { key: mix64(mix64(at.0) ^ ordinal), ordinal }, open: 0 }
        });
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
