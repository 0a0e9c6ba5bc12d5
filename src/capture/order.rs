//! Puts raw events into time order and gives sessions their keys.
//!
//! Events come out of pairing when they are complete, which is not when they began. A heap bounded by
//! count holds them back; what is still too late then is counted, never written out of order.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::{RawEvent, mix64};
use crate::limits::REORDER_EVENTS_MAX;
use crate::trace::{Item, Ledger, SessionRef, TraceEvent};
use crate::units::{TraceTime, WallTime};

#[derive(Debug)]
struct Queued {
    at: WallTime,
    seq: u64,
    event: RawEvent,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.seq) == (other.at, other.seq)
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.seq).cmp(&(other.at, other.seq))
    }
}

/// The heap and the session numbering.
#[derive(Debug, Default)]
pub struct Orderer {
    heap: BinaryHeap<Reverse<Queued>>,
    seq: u64,
    start: Option<WallTime>,
    last: WallTime,
    sessions: BTreeMap<u64, SessionRef>,
}

impl Orderer {
    /// Takes one event.
    pub fn push(&mut self, event: RawEvent) {
        self.seq += 1;
        self.heap.push(Reverse(Queued { at: event.at, seq: self.seq, event }));
    }

    /// The next event that is certain enough to be in order; `all` at the end of input.
    pub fn pop(&mut self, all: bool, ledger: &mut Ledger) -> Option<TraceEvent> {
        loop {
            if !all && self.heap.len() <= REORDER_EVENTS_MAX {
                return None;
            }
            let Reverse(queued) = self.heap.pop()?;
            let start = *self.start.get_or_insert(queued.at);
            if queued.at < self.last {
                ledger.count(Item::LateEvents);
                continue;
            }
            self.last = queued.at;
            let event = queued.event;
            let session = self.session(event.owner, queued.at);
            let at = TraceTime(queued.at.0 - start.0);
            return Some(TraceEvent { at, session, connection: event.connection, kind: event.kind });
        }
    }

    /// Keys depend on order and start time only: nothing about a client can be recovered from them.
    fn session(&mut self, owner: u64, at: WallTime) -> SessionRef {
        let ordinal = self.sessions.len() as u64;
        let key = mix64(mix64(at.0) ^ ordinal);
        *self.sessions.entry(owner).or_insert(SessionRef { key, ordinal })
    }

    /// Wall-clock time of trace time zero: that of the first event that came out, or would.
    #[must_use]
    pub fn start(&self) -> Option<WallTime> {
        self.start.or_else(|| self.heap.peek().map(|Reverse(q)| q.at))
    }
}
