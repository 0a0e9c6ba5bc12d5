//! Puts raw events into time order and gives sessions their keys.
//!
//! Events come out of pairing when they are complete, which is not when they began. A calendar bounded
//! by count holds them back; what is still too late then is counted, never written out of order.

use super::calendar::Calendar;
use super::{RawEvent, mix64};
use crate::limits::{REORDER_BYTES_MAX, REORDER_EVENTS_MAX};
use crate::lookup::Lookup;
use crate::trace::{
    ConnectionEvent, EventKind, Item, Ledger, Provenance, RequestShape, SessionRef, TraceEvent,
};
use crate::units::{TraceTime, WallTime};

/// Bytes of a shape that nothing else shares, those of its allocations among them.
#[must_use]
pub fn shape_bytes(shape: &RequestShape) -> u32 {
    u32::try_from(shape.weight() + 48 * (2 * shape.headers.len() + 4)).unwrap_or(u32::MAX)
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
    /// Those of them that this trace has seen opened, a bit each; all above 62 share one.
    shown: u64,
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
        let bytes = std::mem::size_of::<RawEvent>() + event.bytes as usize;
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

    /// An event of the trace; before it the opening of its connection, where that was open when the trace began. That a
    /// connection ends which this trace has not seen is no news, and gives nothing.
    pub fn place(&mut self, event: RawEvent) -> [Option<TraceEvent>; 2] {
        let start = self.start.unwrap_or(event.at);
        let at = TraceTime(event.at.0.saturating_sub(start.0));
        let bit = 1u64 << event.connection.min(63);
        if matches!(event.kind, EventKind::Close(_)) {
            let Some(known) = self.sessions.get_mut(&event.owner) else { return [None, None] };
            known.open = known.open.saturating_sub(1);
            let (shown, session, over) = (known.shown & bit != 0, known.session, known.open == 0);
            known.shown &= !bit;
            // The last connection of a session closes when the session ends: it need not be remembered.
            if over {
                self.sessions.remove(&event.owner);
            }
            let connection = event.connection;
            return [None, shown.then_some(TraceEvent { at, session, connection, kind: event.kind })];
        }
        let is_open = matches!(event.kind, EventKind::Open(_));
        let known = self.known(&event);
        let reopened = !is_open && known.shown & bit == 0;
        known.open += u32::from(is_open || (reopened && known.open == 0));
        known.shown |= bit;
        let session = known.session;
        let placed = |kind| TraceEvent { at, session, connection: event.connection, kind };
        let opened = ConnectionEvent { arrival: Provenance::Inferred };
        [reopened.then(|| placed(EventKind::Open(opened))), Some(placed(event.kind))]
    }

    /// Another trace begins at `at`. Connections that are open go on in it, as sessions of their own.
    pub fn restart(&mut self, at: WallTime) {
        self.start = Some(at);
        self.next_ordinal = 0;
        self.sessions.for_each_sorted(|_, known| (known.resumed, known.shown) = (true, 0));
    }

    /// Keys depend on order and start time only: nothing about a client can be recovered from them.
    fn known(&mut self, event: &RawEvent) -> &mut Known {
        let next = &mut self.next_ordinal;
        let mut number = || {
            let ordinal = *next;
            *next += 1;
            SessionRef { key: mix64(mix64(event.at.0) ^ ordinal), ordinal }
        };
        let known = self.sessions.get_or_insert_with(event.owner, || Known {
            session: number(),
            open: 0,
            shown: 0,
            resumed: false,
        });
        if known.resumed {
            *known = Known { session: number(), open: known.open, shown: 0, resumed: false };
        }
        known
    }

    /// Wall-clock time of trace time zero: that of the first event that came out, or would.
    #[must_use]
    pub fn start(&self) -> Option<WallTime> {
        self.start.or_else(|| self.waiting.first())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::capture::redact::Redactor;
    use crate::trace::{Fact, RequestFacts, Scheme};
    use crate::wire::head::{RequestHead, Version};

    fn event(s: u64, connection: u16, kind: char) -> RawEvent {
        let there = ConnectionEvent { arrival: Provenance::Recorded };
        let kind = match kind {
            'o' => EventKind::Open(there),
            'c' => EventKind::Close(there),
            _ => {
                let (method, target) = (b"GET".to_vec(), b"/".to_vec());
                let head = RequestHead { method, target, version: Version::Http11, headers: Vec::new() };
                EventKind::Request(RequestFacts {
                    shape: Arc::new(Redactor::with_key(b"k").shape(&head, Scheme::Http)),
                    arrival: Provenance::Recorded,
                    connection: Provenance::Recorded,
                    body_len: Fact::absent(),
                    status: Fact::absent(),
                    response_len: Fact::absent(),
                    duration_ns: Fact::absent(),
                    cache: Fact::absent(),
                })
            }
        };
        RawEvent { at: WallTime(s * 1_000_000_000), owner: 7, connection, kind, bytes: 0, client: None }
    }

    /// What comes out of one session, and a new trace from the second list on: `o`pened, `r`equest, `c`losed, by connection.
    fn traces(one: &[(u16, char)], two: &[(u16, char)]) -> [Vec<(u16, char)>; 2] {
        let (mut order, mut ledger, mut at) = (Orderer::default(), Ledger::default(), 0);
        [one, two].map(|events| {
            let mut out = Vec::new();
            for (n, (connection, kind)) in events.iter().enumerate() {
                at += 1;
                order.push(event(at, *connection, *kind));
                let event = order.next(Until::End, &mut ledger).unwrap();
                if n == 0 {
                    order.restart(event.at);
                }
                for e in order.place(event).into_iter().flatten() {
                    assert_eq!(e.session.ordinal, 0, "one session in each trace");
                    let kind = match e.kind {
                        EventKind::Open(_) => 'o',
                        EventKind::Close(_) => 'c',
                        EventKind::Request(_) => 'r',
                    };
                    out.push((e.connection, kind));
                }
            }
            out
        })
    }

    #[test]
    fn connections_that_are_open_are_opened_in_the_next_trace() {
        let first = [(0, 'o'), (0, 'r'), (1, 'o'), (1, 'r')];
        type Rows = &'static [(u16, char)];
        let table: [(Rows, Rows); 5] = [
            (&[(0, 'r'), (1, 'r'), (0, 'r')], &[(0, 'o'), (0, 'r'), (1, 'o'), (1, 'r'), (0, 'r')]),
            (&[(2, 'o'), (2, 'r'), (1, 'r')], &[(2, 'o'), (2, 'r'), (1, 'o'), (1, 'r')]),
            (&[(0, 'c'), (1, 'r'), (1, 'c')], &[(1, 'o'), (1, 'r'), (1, 'c')]),
            (&[(0, 'c'), (1, 'c')], &[]),
            (&[(0, 'r'), (0, 'c'), (1, 'c')], &[(0, 'o'), (0, 'r'), (0, 'c')]),
        ];
        for (second, want) in table {
            let [one, two] = traces(&first, second);
            assert_eq!((one.as_slice(), two.as_slice()), (&first[..], want), "{second:?}");
        }
    }
}
