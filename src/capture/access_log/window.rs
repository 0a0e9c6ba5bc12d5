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
use crate::limits::{LOG_LATE, LOG_WINDOW_LINES_MAX};
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

/// Lines that wait for their place.
#[derive(Debug)]
pub struct Window {
    spread: Spread,
    /// Lines stamped to the second, by that second.
    seconds: BTreeMap<u64, Vec<(Mark, Held)>>,
    waiting: usize,
    newest: u64,
    calendar: Calendar<Held>,
}

impl Window {
    /// An empty window that spreads by `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            spread: Spread::new(seed),
            seconds: BTreeMap::new(),
            waiting: 0,
            newest: 0,
            calendar: Calendar::new(LOG_WINDOW_LINES_MAX),
        }
    }

    /// Takes a line whose stamp is of `mark` and cut to `resolution_ns`.
    pub fn push(&mut self, held: Held, mark: Mark, resolution_ns: u64) {
        if resolution_ns < NANOS_PER_SEC {
            return self.place(held, mark, true);
        }
        let second = held.at.0 / NANOS_PER_SEC;
        self.newest = self.newest.max(second);
        self.seconds.entry(second).or_default().push((mark, held));
        self.waiting += 1;
        let late = LOG_LATE.as_secs();
        while let Some((&oldest, _)) = self.seconds.first_key_value()
            && (oldest + late < self.newest || self.waiting > LOG_WINDOW_LINES_MAX)
        {
            self.spread_first();
        }
    }

    /// The oldest second is whole.
    fn spread_first(&mut self) {
        let Some((second, lines)) = self.seconds.pop_first() else { return };
        self.waiting -= lines.len();
        let places = self.spread.places(second, lines.len());
        for ((mark, mut held), place) in lines.into_iter().zip(places) {
            held.at = WallTime(second * NANOS_PER_SEC + place);
            self.place(held, mark, false);
        }
    }

    /// Derives the arrival and puts the line into the calendar. `exact` where the stamp was not spread.
    fn place(&mut self, mut held: Held, mark: Mark, exact: bool) {
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
        self.calendar.push(held.at, held);
    }

    /// The next line whose place is certain enough; all of them at the end.
    pub fn pop(&mut self, all: bool) -> Option<Held> {
        while all && !self.seconds.is_empty() {
            self.spread_first();
        }
        self.calendar.pop(all).map(|(_, held)| held)
    }
}
