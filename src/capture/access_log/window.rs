//! Puts the lines of a log into the order of their arrivals, in bounded memory.
//!
//! All servers write a line when they are done, so lines are out of order by as much as requests last. Stamps cut to the
//! second wait until their second is whole, and are spread over it ([`super::spread`]); then every line goes through a
//! calendar bounded by count. What is still too late is counted, never written out of order.

use std::collections::BTreeMap;

use super::session::Who;
use super::spread::Spread;
use super::template::Mark;
use crate::capture::calendar::Calendar;
use crate::capture::order::Until;
use crate::limits::{LOG_LATE, LOG_WINDOW_BYTES_MAX, LOG_WINDOW_LINES_MAX};
use crate::trace::Provenance;
use crate::trace::shape::SharedShape;
use crate::units::{NANOS_PER_SEC, WallTime};
use crate::wire::cache::CacheStatus;

/// A line, as far as it is needed from here on.
#[derive(Debug, Clone)]
pub struct Held {
    /// When the request began; until it is spread, the stamp.
    pub at: WallTime,
    /// How that is known.
    pub arrival: Provenance,
    /// Whose it is.
    pub who: Who,
    /// Shape.
    pub shape: SharedShape,
    /// Bytes of the shape that nothing else is reckoned to hold.
    pub bytes: u32,
    /// Status.
    pub status: Option<u16>,
    /// Body bytes of the request.
    pub request_body: Option<u64>,
    /// Body bytes of the answer.
    pub response_len: Option<u64>,
    /// Duration.
    pub duration_ns: Option<u64>,
    /// Whether a cache had it.
    pub cache: Option<CacheStatus>,
}

/// Lines in a row that must be far ahead before all others are taken as late.
const AHEAD_LINES: u32 = 16;

fn bytes_of(held: &Held) -> usize {
    std::mem::size_of::<Held>() + 16 + held.bytes as usize
}

/// Lines that wait for their place.
#[derive(Debug)]
pub struct Window {
    spread: Spread,
    /// Lines stamped to the second, by that second.
    seconds: BTreeMap<u64, Vec<(Mark, Held, usize)>>,
    waiting: usize,
    newest: u64,
    calendar: Calendar<Held>,
    /// Bytes of the lines that wait for their second.
    bytes: usize,
    /// Lines in a row that are far ahead of the others: one alone may be a clock that was wrong.
    ahead: u32,
    /// The latest second that was spread; what comes for it or an earlier one is spread with a salt of its own.
    spread_to: Option<u64>,
    rounds: u64,
}

impl Window {
    /// An empty window.
    #[must_use]
    pub fn new(spread: Spread) -> Self {
        Self {
            spread,
            seconds: BTreeMap::new(),
            waiting: 0,
            newest: 0,
            calendar: Calendar::new(LOG_WINDOW_LINES_MAX, LOG_WINDOW_BYTES_MAX),
            bytes: 0,
            ahead: 0,
            spread_to: None,
            rounds: 0,
        }
    }

    /// Takes a line whose stamp is of `mark` and cut to `resolution_ns`.
    pub fn push(&mut self, held: Held, mark: Mark, resolution_ns: u64) {
        if resolution_ns < NANOS_PER_SEC {
            let bytes = bytes_of(&held);
            return self.place(held, mark, true, bytes);
        }
        let second = held.at.0 / NANOS_PER_SEC;
        let late = LOG_LATE.as_secs();
        self.ahead = if second > self.newest.saturating_add(late) { self.ahead + 1 } else { 0 };
        if self.newest == 0 || self.ahead == 0 || self.ahead >= AHEAD_LINES {
            self.newest = self.newest.max(second);
        }
        let bytes = bytes_of(&held);
        self.bytes += bytes;
        self.seconds.entry(second).or_default().push((mark, held, bytes));
        self.waiting += 1;
        while let Some((&oldest, _)) = self.seconds.first_key_value()
            && (oldest + late < self.newest
                || self.waiting > LOG_WINDOW_LINES_MAX
                || self.bytes > LOG_WINDOW_BYTES_MAX)
        {
            self.spread_first();
        }
    }

    /// The oldest second is whole.
    fn spread_first(&mut self) {
        let Some((second, lines)) = self.seconds.pop_first() else { return };
        self.waiting -= lines.len();
        let again = self.spread_to.is_some_and(|to| second <= to);
        self.rounds += u64::from(again);
        let clients = lines.iter().map(|(_, held, _)| held.who.key);
        let places = self.spread.places(second, clients, if again { self.rounds } else { 0 });
        self.spread_to = self.spread_to.max(Some(second));
        for ((mark, mut held, bytes), place) in lines.into_iter().zip(places) {
            self.bytes -= bytes;
            held.at = WallTime(second * NANOS_PER_SEC + place);
            self.place(held, mark, false, bytes);
        }
    }

    /// Derives the arrival and puts the line into the calendar. `exact` where the stamp was not spread.
    fn place(&mut self, mut held: Held, mark: Mark, exact: bool, bytes: usize) {
        let ended = mark == Mark::End;
        held.arrival = match (exact, ended, held.duration_ns) {
            (true, false, _) => Provenance::Recorded,
            (true, true, Some(_)) => Provenance::Derived,
            // Spread over a second, or late by as long as the request took.
            (true, true, None) | (false, ..) => Provenance::Inferred,
        };
        if ended {
            held.at = WallTime(held.at.0.saturating_sub(held.duration_ns.unwrap_or(0)));
        }
        self.calendar.push(held.at, held, bytes);
    }

    /// The next line whose place is certain enough; all of them at the end.
    pub fn pop(&mut self, until: Until) -> Option<Held> {
        while until == Until::End && !self.seconds.is_empty() {
            self.spread_first();
        }
        self.calendar.pop(until).map(|(_, held)| held)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::trace::{RequestShape, Scheme, Spreading};
    use crate::wire::head::Version;

    fn line(second: u64, n: u64) -> Held {
        let shape = RequestShape {
            method: b"GET"[..].into(),
            scheme: Scheme::Http,
            authority: None,
            target: format!("/{n}").into_bytes().into(),
            version: Version::Http11,
            headers: [].into(),
            credentials: crate::trace::Credentials::default(),
            target_redacted: false,
        };
        Held {
            at: WallTime(second * NANOS_PER_SEC),
            arrival: Provenance::Inferred,
            who: Who { key: (n, 0), recorded: false, shared: false },
            bytes: crate::capture::order::shape_bytes(&shape),
            shape: Arc::new(shape),
            status: None,
            request_body: None,
            response_len: None,
            duration_ns: None,
            cache: None,
        }
    }

    /// One stamp of a clock that was wrong must not make a herd of all that follow.
    #[test]
    fn a_stamp_far_ahead_collapses_nothing() {
        for ahead in [1u64, 40] {
            let mut w = Window::new(Spread::new(1, Spreading::Uniform));
            (0..ahead).for_each(|n| w.push(line(10_000 + n, n), Mark::Start, NANOS_PER_SEC));
            (0..100u64).for_each(|n| w.push(line(5_000 + n / 10, n), Mark::Start, NANOS_PER_SEC));
            let mut times: Vec<u64> = std::iter::from_fn(|| w.pop(Until::End)).map(|h| h.at.0).collect();
            assert_eq!(times.len() as u64, 100 + ahead);
            times.sort_unstable();
            times.dedup();
            assert_eq!(times.len() as u64, 100 + ahead, "each at a time of its own");
        }
    }

    #[test]
    fn what_waits_is_bounded_in_bytes() {
        let mut w = Window::new(Spread::new(1, Spreading::Uniform));
        for n in 0..200_000u64 {
            w.push(line(n / 50_000, n), Mark::Start, NANOS_PER_SEC);
            while w.pop(Until::Full).is_some() {}
            assert!(w.bytes <= LOG_WINDOW_BYTES_MAX + 1_000);
        }
    }
}
