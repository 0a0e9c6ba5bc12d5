//! Access logs: lines to events.
//!
//! A log has coarse stamps, no connections and few headers. What is missing is spread by seed or inferred
//! by rule, and marked so in the trace: nothing here pretends to be recorded.
//!
//! This version reads the common and combined formats of Apache and nginx, with or without a virtual host
//! in front, and `$request_time` as the field after the user agent.

pub mod line;
pub mod session;
pub mod spread;

use std::sync::Arc;

use self::line::{LineError, LogLine};
use self::session::Sessions;
use self::spread::Spread;
use super::{RawEvent, redact};
use crate::trace::{EventKind, Fact, Item, Ledger, Provenance, RequestFacts, Scheme};
use crate::units::WallTime;
use crate::wire::head::{HeaderLine, RequestHead};

/// Turns the lines of one or more logs into raw events.
#[derive(Debug)]
pub struct LogRecorder {
    spread: Spread,
    sessions: Sessions,
    ledger: Ledger,
    lines: Vec<(WallTime, LogLine)>,
}

/// Most lines of one log held to be put in order.
const LINES_MAX: usize = 20_000_000;

impl LogRecorder {
    /// A recorder that spreads coarse stamps by `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let (spread, sessions) = (Spread::new(seed), Sessions::default());
        Self { spread, sessions, ledger: Ledger::default(), lines: Vec::new() }
    }

    /// Takes one line without its end. Returns why it was not used, where it was not.
    ///
    /// # Errors
    /// [`LineError`], already counted in the ledger; never fatal.
    pub fn line(&mut self, text: &[u8]) -> Result<(), LineError> {
        self.ledger.count(Item::Lines);
        self.ledger.add(Item::Bytes, text.len() as u64 + 1);
        let trimmed = text.trim_ascii();
        if trimmed.is_empty() || trimmed.starts_with(b"#") {
            return Ok(());
        }
        let parsed = line::parse(trimmed)
            .and_then(|l| if self.lines.len() >= LINES_MAX { Err(LineError::TooMany) } else { Ok(l) });
        match parsed {
            Ok(parsed) => {
                self.lines.push((parsed.start(), parsed));
                Ok(())
            }
            Err(error) => {
                self.ledger.count(if error == LineError::Request {
                    Item::MalformedLines
                } else {
                    Item::UnparsedLines
                });
                Err(error)
            }
        }
    }

    /// The ledger so far.
    pub fn ledger_mut(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// Orders, spreads and pairs all lines with sessions.
    #[must_use]
    pub fn finish(mut self) -> (Vec<RawEvent>, Ledger) {
        // Stable: lines of one second keep the order of the file.
        self.lines.sort_by_key(|(at, _)| at.0 / self.spread.resolution_ns());
        let stamps: Vec<u64> = self.lines.iter().map(|(at, _)| at.0).collect();
        let times = self.spread.times(&stamps);
        let mut order: Vec<usize> = (0..times.len()).collect();
        order.sort_by_key(|i| times[*i]);
        let mut out = Vec::with_capacity(times.len());
        for i in order {
            event(&mut self.sessions, WallTime(times[i]), &self.lines[i].1, &mut out);
        }
        self.sessions.finish(&mut out);
        (out, self.ledger)
    }
}

fn event(sessions: &mut Sessions, at: WallTime, line: &LogLine, out: &mut Vec<RawEvent>) {
    let place = sessions.place(at, line, out);
    let field = |name: &str, value: &Option<Vec<u8>>| {
        value.as_ref().map(|v| HeaderLine { name: name.as_bytes().to_vec(), value: v.clone() })
    };
    let headers =
        [field("Host", &line.host), field("User-Agent", &line.user_agent), field("Referer", &line.referer)];
    let mut headers: Vec<HeaderLine> = headers.into_iter().flatten().collect();
    if line.user.is_some() {
        // The log says that somebody was logged in; the request needed a credential that it does not show.
        headers.push(HeaderLine { name: b"Authorization".to_vec(), value: b"-".to_vec() });
    }
    let head = RequestHead {
        method: line.method.clone(),
        target: line.target.clone(),
        version: line.version,
        headers,
    };
    let mut shape = redact::shape(&head, Scheme::Http);
    shape.headers.retain(|h| h.name != b"Authorization");
    let facts = RequestFacts {
        shape: Arc::new(shape),
        arrival: Provenance::Inferred,
        connection: Provenance::Inferred,
        body_len: Fact::absent(),
        status: Fact::recorded(line.status),
        response_len: Fact::with(line.response_len, Provenance::Recorded),
        duration_ns: Fact::with(line.duration_ns, Provenance::Recorded),
        cache: Fact::absent(),
    };
    out.push(RawEvent {
        at,
        owner: place.session,
        connection: place.connection,
        kind: EventKind::Request(facts),
    });
}
