//! Access logs: lines to events.
//!
//! A log has coarse stamps, seldom connections and few headers. What is missing is spread by seed or inferred
//! by rule, and marked so in the trace: nothing here pretends to be recorded.
//!
//! ```text
//! line -> Format (template, JSON, W3C) -> Row -> Shapes -> Window (spread, order) -> Sessions -> events
//! ```

pub mod apache;
pub mod clock;
pub mod escape;
pub mod format;
pub mod json;
pub mod nginx;
pub mod partial;
pub mod presets;
pub mod row;
pub mod session;
pub mod shapes;
pub mod spread;
pub mod template;
pub mod w3c;
pub mod window;
pub mod wrapper;

use self::format::Format;
use self::partial::Partial;
use self::row::{LineError, Row};
use self::session::{Sessions, Who};
pub use self::shapes::{Shapes, make_shape};
use self::spread::Spread;
use self::window::{Held, Window};
use super::RawEvent;
use super::order::Until;
use super::redact::Redactor;
use crate::limits::LOG_LINE_BYTES_MAX;
use crate::trace::{EventKind, Fact, Item, Ledger, Position, Provenance, RequestFacts, Spreading};
use crate::units::WallTime;

/// One log of a capture.
#[derive(Debug, Clone, Default)]
pub struct LogSource {
    /// Its format.
    pub format: Format,
    /// It was written behind a proxy that says whom it asks for.
    pub behind_proxy: bool,
    /// Which of the trace's sources it is.
    number: u32,
    /// Which of the logs it is.
    index: u64,
    /// Lines taken from it.
    lines: u64,
    /// Parts of a line whose end is still to come.
    partial: Partial,
}

/// What a line said, before it has a place among the others.
#[derive(Debug)]
pub struct Line {
    held: Held,
    mark: template::Mark,
    resolution_ns: u64,
}

impl LogSource {
    /// A log that is the trace's source `number`.
    #[must_use]
    pub fn new(format: Format, behind_proxy: bool, number: u32) -> Self {
        Self { format, behind_proxy, number, index: 0, lines: 0, partial: Partial::default() }
    }

    /// Takes from whole lines the parts whose end is still to come, and nothing else.
    pub fn pass_parts(&mut self, lines: &[u8]) {
        self.partial.pass(lines);
    }

    /// Forgets the parts of a line whose end will not come; says whether there were any.
    pub fn give_up_parts(&mut self) -> bool {
        self.partial.give_up()
    }

    /// Takes from whole lines what they say of the lines behind them. They are read elsewhere.
    pub fn pass(&mut self, lines: &[u8]) {
        self.pass_parts(lines);
        if self.format.has_headers() {
            let lines = lines.split(|b| *b == b'\n').map(<[u8]>::trim_ascii);
            lines.filter(|line| line.len() <= LOG_LINE_BYTES_MAX).for_each(|line| {
                self.format.comment(line);
            });
        }
    }

    /// Reads a line without its end; `None` where it is one that says nothing. Depends on the line, on the parts of it and the
    /// headers of the log before it, and, where a line has more than one form of its format, on the form that fitted last: who
    /// reads chunks side by side begins each of them with a source as it was at first, but for those parts and headers
    /// ([`Self::pass`]).
    ///
    /// # Errors
    /// Why it is not used: [`LineError`]; never fatal.
    pub fn read(&mut self, text: &[u8], shapes: &mut Shapes) -> Result<Option<Line>, LineError> {
        let Some(text) = self.partial.join(text) else { return Ok(None) };
        let line = text.trim_ascii();
        if line.is_empty() {
            return Ok(None);
        }
        if line.len() > LOG_LINE_BYTES_MAX {
            return Err(LineError::TooLong);
        }
        if self.format.comment(line) {
            return Ok(None);
        }
        let (row, mark) = self.format.parse(line)?;
        hold(&row, mark, (self.index, self.behind_proxy), shapes)
    }
}

/// What a row says of a request, made by a log of this index, which was written behind a proxy or not.
fn hold(
    row: &Row<'_>,
    mark: template::Mark,
    (index, behind_proxy): (u64, bool),
    shapes: &mut Shapes,
) -> Result<Option<Line>, LineError> {
    let (stamp, mark) = match (row.start_stamp, row.stamp) {
        (Some(start), _) => (start, template::Mark::Start),
        (None, Some(stamp)) => (stamp, mark),
        (None, None) => return Ok(None),
    };
    let (shape, bytes) = shapes.of(row)?;
    let held = Held {
        at: stamp.at,
        arrival: Provenance::Inferred,
        who: Who::of(row, shapes.seed(), index, behind_proxy),
        shape,
        bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
        status: row.status,
        request_body: row.request_body,
        response_len: row.response_len,
        duration_ns: row.duration_ns,
        cache: row.cache,
    };
    Ok(Some(Line { held, mark, resolution_ns: stamp.resolution_ns }))
}

/// Turns the lines of one or more logs into raw events.
#[derive(Debug)]
pub struct LogRecorder {
    sources: Vec<LogSource>,
    window: Window,
    way: Spreading,
    sessions: Sessions,
    shapes: Shapes,
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
            sources: Vec::new(),
            window: Window::new(Spread::new(seed, Spreading::default())),
            way: Spreading::default(),
            sessions: Sessions::default(),
            shapes: Shapes::new(seed, redactor),
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

    /// Spreads coarse stamps in this way, not uniformly.
    #[must_use]
    pub fn spreading(self, way: Spreading) -> Self {
        let window = Window::new(Spread::new(self.shapes.seed(), way));
        Self { window, way, ..self }
    }

    /// What its requests are redacted with.
    #[must_use]
    pub fn redactor(&self) -> &Redactor {
        self.shapes.redactor()
    }

    /// Adds a log; the number returned goes with its lines.
    pub fn add_source(&mut self, mut source: LogSource) -> usize {
        source.index = self.sources.len() as u64;
        self.sources.push(source);
        self.sources.len() - 1
    }

    /// Takes one line of a log without its end. Returns its stamp, if it was a request's.
    ///
    /// # Errors
    /// Why it was not used: [`LineError`], already counted in the ledger; never fatal.
    pub fn line(&mut self, source: usize, text: &[u8]) -> Result<Option<WallTime>, LineError> {
        let Some(place) = self.sources.get_mut(source) else { return Err(LineError::Missing("format")) };
        let read = place.read(text, &mut self.shapes);
        self.take(source, text.len(), read)
    }

    /// A memory of shapes like its own, to read lines elsewhere.
    #[must_use]
    pub fn shapes(&self) -> Shapes {
        Shapes::new(self.shapes.seed(), self.redactor().clone())
    }

    /// A log as it is now, to read lines of it elsewhere.
    #[must_use]
    pub fn source(&self, source: usize) -> LogSource {
        self.sources.get(source).cloned().unwrap_or_default()
    }

    /// Takes what was read of a line of so many bytes. See [`Self::line`].
    ///
    /// # Errors
    /// The line's, counted.
    pub fn take(
        &mut self,
        source: usize,
        bytes: usize,
        read: Result<Option<Line>, LineError>,
    ) -> Result<Option<WallTime>, LineError> {
        if let Some(place) = self.sources.get_mut(source) {
            place.lines += 1;
            self.ledger.at(Position { source: place.number, number: place.lines });
        }
        self.ledger.count(Item::Lines);
        self.ledger.add(Item::Bytes, bytes as u64 + 1);
        self.place(read)
    }

    fn place(&mut self, read: Result<Option<Line>, LineError>) -> Result<Option<WallTime>, LineError> {
        match read {
            Ok(Some(line)) => {
                let at = line.held.at;
                self.resolution_ns = self.resolution_ns.max(line.resolution_ns);
                self.window.push(line.held, line.mark, line.resolution_ns);
                self.drain(Until::Full);
                Ok(Some(at))
            }
            Ok(None) => Ok(None),
            Err(error) => {
                self.count_bad(error);
                Err(error)
            }
        }
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
        let of = (place.index, place.behind_proxy);
        let read =
            place.format.parse_value(value).and_then(|(row, mark)| hold(&row, mark, of, &mut self.shapes));
        self.place(read)
    }

    /// What comes next of a log is no more of what came: parts of a line that wait for their end are counted as a line that
    /// cannot be read. Says whether there were any.
    pub fn give_up_parts(&mut self, source: usize) -> bool {
        let any = self.sources.get_mut(source).is_some_and(LogSource::give_up_parts);
        if any {
            self.count_unended(source);
        }
        any
    }

    /// Counts parts of a line whose end is not there, at the last line of their log.
    pub fn count_unended(&mut self, source: usize) {
        if let Some(place) = self.sources.get(source) {
            self.ledger.at(Position { source: place.number, number: place.lines });
        }
        self.count_bad(LineError::Unended);
    }

    /// Counts what was not used, by its reason.
    pub fn count_bad(&mut self, error: LineError) {
        self.ledger.count(match error {
            LineError::Request => Item::MalformedLines,
            LineError::Other => Item::OtherLines,
            LineError::Grown => Item::TooLarge,
            _ => Item::UnparsedLines,
        });
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
                bytes: held.bytes,
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
        let mut next = Self::new(self.shapes.seed(), self.redactor().clone()).spreading(self.way);
        next.sources = std::mem::take(&mut self.sources);
        next.resolution_ns = self.resolution_ns;
        std::mem::replace(self, next).finish()
    }

    /// Places all lines that wait and ends all sessions.
    #[must_use]
    pub fn finish(mut self) -> (Vec<RawEvent>, Ledger) {
        (0..self.sources.len()).for_each(|source| {
            self.give_up_parts(source);
        });
        self.drain(Until::End);
        self.sessions.finish(&mut self.out);
        (self.out, self.ledger)
    }
}
