//! Access logs: lines to events.
//!
//! A log has coarse stamps, seldom connections and few headers. What is missing is spread by seed or inferred
//! by rule, and marked so in the trace: nothing here pretends to be recorded.
//!
//! ```text
//! line -> Format (template, JSON, W3C) -> Row -> shape -> Window (spread, order) -> Sessions -> events
//! ```

pub mod apache;
pub mod clock;
pub mod escape;
pub mod format;
pub mod json;
pub mod nginx;
pub mod presets;
pub mod row;
pub mod session;
pub mod spread;
pub mod template;
pub mod w3c;
pub mod window;
pub mod wrapper;

use std::sync::Arc;

use self::format::Format;
use self::row::{LineError, Row};
use self::session::{Hash128, Sessions, Who, hash128};
use self::window::{Held, Window};
use super::RawEvent;
use super::order::Until;
use super::redact::Redactor;
use crate::limits::{LOG_LINE_BYTES_MAX, LOG_SHAPES_MAX};
use crate::lookup::Lookup;
use crate::trace::shape::SharedShape;
use crate::trace::{EventKind, Fact, Item, Ledger, Position, Provenance, RequestFacts, Scheme};
use crate::units::WallTime;
use crate::wire::head::{HeaderLine, RequestHead, Version};

/// One log of a capture.
#[derive(Debug, Clone, Default)]
pub struct LogSource {
    /// Its format.
    pub format: Format,
    /// It was written behind a proxy that says whom it asks for.
    pub behind_proxy: bool,
    /// Which of the trace's sources it is.
    number: u32,
    /// Lines taken from it.
    lines: u64,
}

impl LogSource {
    /// A log that is the trace's source `number`.
    #[must_use]
    pub fn new(format: Format, behind_proxy: bool, number: u32) -> Self {
        Self { format, behind_proxy, number, lines: 0 }
    }
}

/// Turns the lines of one or more logs into raw events.
#[derive(Debug)]
pub struct LogRecorder {
    redactor: Redactor,
    sources: Vec<LogSource>,
    seed: u64,
    window: Window,
    sessions: Sessions,
    shapes: Lookup<Hash128, SharedShape>,
    ledger: Ledger,
    out: Vec<RawEvent>,
    last: WallTime,
    /// Coarsest stamp seen, nanoseconds.
    resolution_ns: u64,
}

impl LogRecorder {
    /// A recorder that spreads coarse stamps by `seed`.
    #[must_use]
    pub fn new(seed: u64, redactor: Redactor) -> Self {
        Self {
            redactor,
            sources: Vec::new(),
            seed,
            window: Window::new(seed),
            sessions: Sessions::default(),
            shapes: Lookup::default(),
            ledger: Ledger::default(),
            out: Vec::new(),
            last: WallTime(0),
            resolution_ns: 1,
        }
    }

    /// A recorder of packets that were captured behind a proxy: their sessions are inferred like those of lines.
    #[must_use]
    pub fn of_packets(redactor: Redactor) -> Self {
        Self { sessions: Sessions::of_packets(), ..Self::new(0, redactor) }
    }

    /// What its requests are redacted with.
    #[must_use]
    pub fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// Adds a log; the number returned goes with its lines.
    pub fn add_source(&mut self, source: LogSource) -> usize {
        self.sources.push(source);
        self.sources.len() - 1
    }

    /// Takes one line of a log without its end. Returns its stamp, if it was a request's.
    ///
    /// # Errors
    /// Why it was not used: [`LineError`], already counted in the ledger; never fatal.
    pub fn line(&mut self, source: usize, text: &[u8]) -> Result<Option<WallTime>, LineError> {
        if let Some(place) = self.sources.get_mut(source) {
            place.lines += 1;
            self.ledger.at(Position { source: place.number, number: place.lines });
        }
        self.ledger.count(Item::Lines);
        self.ledger.add(Item::Bytes, text.len() as u64 + 1);
        let line = text.trim_ascii();
        if line.is_empty() {
            return Ok(None);
        }
        let taken = self.take(source, line);
        if let Err(error) = taken {
            self.count_bad(error);
        }
        taken
    }

    /// Takes a request that was read elsewhere, with an exact stamp of its beginning.
    pub fn held(&mut self, held: Held) {
        self.window.push(held, template::Mark::Start, 1);
        self.drain(Until::Full);
    }

    /// Takes one object of an HTTP archive. See [`Self::line`].
    ///
    /// # Errors
    /// [`LineError`], already counted.
    pub fn entry(&mut self, source: usize, value: &serde_json::Value) -> Result<Option<WallTime>, LineError> {
        let Some(place) = self.sources.get_mut(source) else { return Err(LineError::Missing("format")) };
        place.lines += 1;
        self.ledger.at(Position { source: place.number, number: place.lines });
        self.ledger.count(Item::Lines);
        let behind_proxy = place.behind_proxy;
        let read = place.format.parse_value(value);
        match read {
            Ok((row, mark)) => Ok(self.hold(source, &row, mark, behind_proxy)),
            Err(error) => {
                self.count_bad(error);
                Err(error)
            }
        }
    }

    /// Counts what was not used, by its reason.
    pub fn count_bad(&mut self, error: LineError) {
        self.ledger.count(match error {
            LineError::Request => Item::MalformedLines,
            LineError::Other => Item::OtherLines,
            _ => Item::UnparsedLines,
        });
    }

    fn take(&mut self, source: usize, line: &[u8]) -> Result<Option<WallTime>, LineError> {
        if line.len() > LOG_LINE_BYTES_MAX {
            return Err(LineError::TooLong);
        }
        let Some(place) = self.sources.get_mut(source) else { return Err(LineError::Missing("format")) };
        let behind_proxy = place.behind_proxy;
        // Out of its place, because rows borrow from it while the rest of this is used.
        let mut format = std::mem::take(&mut place.format);
        let taken = if format.comment(line) {
            Ok(None)
        } else {
            format.parse(line).map(|(row, mark)| self.hold(source, &row, mark, behind_proxy))
        };
        if let Some(place) = self.sources.get_mut(source) {
            place.format = format;
        }
        taken
    }

    fn hold(
        &mut self,
        source: usize,
        row: &Row<'_>,
        mark: template::Mark,
        behind_proxy: bool,
    ) -> Option<WallTime> {
        let (stamp, mark) = match (row.start_stamp, row.stamp) {
            (Some(start), _) => (start, template::Mark::Start),
            (None, Some(stamp)) => (stamp, mark),
            (None, None) => return None,
        };
        self.resolution_ns = self.resolution_ns.max(stamp.resolution_ns);
        let held = Held {
            at: stamp.at,
            arrival: Provenance::Inferred,
            who: Who::of(row, self.seed, source as u64, behind_proxy),
            shape: self.shape(row),
            status: row.status,
            request_body: row.request_body,
            response_len: row.response_len,
            duration_ns: row.duration_ns,
            cache: row.cache,
        };
        self.window.push(held, mark, stamp.resolution_ns);
        self.drain(Until::Full);
        Some(stamp.at)
    }

    /// The shape of a line's request. Lines that are alike share one, which is made once.
    fn shape(&mut self, row: &Row<'_>) -> SharedShape {
        let version = row.version.unwrap_or(Version::Http11);
        let flags = [
            version as u8,
            u8::from(row.user) | u8::from(row.cookie) << 1 | u8::from(row.authorization) << 2,
            row.scheme.map_or(0, |s| 1 + s as u8),
        ];
        let known: [&[u8]; 6] = [&flags, &row.method, &row.target, &row.host, &row.user_agent, &row.referer];
        let key = if row.headers.is_empty() {
            hash128(self.seed, &known)
        } else {
            hash128(self.seed, &(known, &row.headers))
        };
        if let Some(shape) = self.shapes.get(&key) {
            return Arc::clone(shape);
        }
        // A log whose targets never repeat must not fill the memory.
        if self.shapes.len() >= LOG_SHAPES_MAX {
            self.shapes.clear();
        }
        let shape = Arc::new(make_shape(row, &self.redactor));
        self.shapes.insert(key, Arc::clone(&shape));
        shape
    }

    fn drain(&mut self, until: Until) {
        while let Some(held) = self.window.pop(until) {
            if held.at < self.last {
                self.ledger.count(Item::LateEvents);
                continue;
            }
            self.last = held.at;
            let place = self.sessions.place(held.at, held.who, held.duration_ns, &mut self.out);
            let facts = RequestFacts {
                shape: held.shape,
                arrival: held.arrival,
                connection: if held.who.recorded { Provenance::Recorded } else { Provenance::Inferred },
                body_len: Fact::with(held.request_body, Provenance::Recorded),
                status: Fact::with(held.status, Provenance::Recorded),
                response_len: Fact::with(held.response_len, Provenance::Recorded),
                duration_ns: Fact::with(held.duration_ns, Provenance::Recorded),
                cache: Fact::with(held.cache, Provenance::Recorded),
            };
            let kind = EventKind::Request(facts);
            self.out.push(RawEvent {
                at: held.at,
                owner: place.session,
                connection: place.connection,
                kind,
                client: None,
            });
        }
    }

    /// Places what has an exact stamp and lies before `at`: nothing earlier will come any more.
    pub fn drain_before(&mut self, at: WallTime) {
        self.drain(Until::Before(at));
    }

    /// Events that are complete.
    pub fn take_events(&mut self) -> Vec<RawEvent> {
        std::mem::take(&mut self.out)
    }

    /// The ledger so far.
    pub fn ledger_mut(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// The coarsest stamp so far, nanoseconds.
    #[must_use]
    pub fn resolution_ns(&self) -> u64 {
        self.resolution_ns
    }

    /// Places all lines that wait, ends all sessions, and begins anew with the same logs.
    pub fn renew(&mut self) -> (Vec<RawEvent>, Ledger) {
        let mut next = Self::new(self.seed, self.redactor.clone());
        next.sources = std::mem::take(&mut self.sources);
        next.resolution_ns = self.resolution_ns;
        std::mem::replace(self, next).finish()
    }

    /// Places all lines that wait and ends all sessions.
    #[must_use]
    pub fn finish(mut self) -> (Vec<RawEvent>, Ledger) {
        self.drain(Until::End);
        self.sessions.finish(&mut self.out);
        (self.out, self.ledger)
    }
}

/// The shape of a line's request, redacted.
#[must_use]
pub fn make_shape(row: &Row<'_>, redactor: &Redactor) -> crate::trace::RequestShape {
    let version = row.version.unwrap_or(Version::Http11);
    let field = |name: &str, value: &[u8]| {
        (!value.is_empty()).then(|| HeaderLine { name: name.as_bytes().to_vec(), value: value.to_vec() })
    };
    let known =
        [field("Host", &row.host), field("User-Agent", &row.user_agent), field("Referer", &row.referer)];
    let mut headers: Vec<HeaderLine> = known.into_iter().flatten().collect();
    headers.extend(
        row.headers.iter().map(|(name, value)| HeaderLine { name: name.clone(), value: value.to_vec() }),
    );
    let before = headers.len();
    // The log says that somebody was logged in, or sent cookies: the request needed what it does not show.
    if row.user || row.authorization {
        headers.extend(field("Authorization", b"-"));
    }
    if row.cookie {
        headers.extend(field("Cookie", b"-"));
    }
    let secure = row.scheme == Some(Scheme::Https) || row.target.starts_with(b"https://");
    let head = RequestHead { method: row.method.to_vec(), target: row.target.to_vec(), version, headers };
    let mut shape = redactor.shape(&head, if secure { Scheme::Https } else { Scheme::Http });
    shape.headers.truncate(before);
    shape
}
