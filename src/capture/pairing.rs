//! One connection: requests paired with their responses.
//!
//! HTTP/1 answers in order, so a queue is enough. An interim response (1xx) is not an answer. After a
//! loss the pairs could shift by one, which would be worse than no pairs: what waited then is emitted
//! without an answer, and so is what follows, until or unless it is certain (`pairing/certainty.rs`).

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use super::flow::{Mark, Piece, Standing};
use super::http2;
use super::order::shape_bytes;
use super::redact::Redactor;
use super::{RawEvent, flow::FlowCounts};
use crate::limits::{ONE_SIDED_AFTER, PIPELINE_MAX};
use crate::trace::{
    ConnectionEvent, EventKind, Fact, Item, Ledger, Provenance, RequestFacts, RequestShape, Scheme,
};
use crate::units::WallTime;
use crate::wire::body::Asked;
use crate::wire::cache::{CacheLines, CacheStatus};
use crate::wire::head::HeaderLine;
use crate::wire::stream::{Direction, Event, Loss, MessageStream, Over};

mod answers;
mod certainty;
mod streams;

use certainty::{Begun, Certainty};
use streams::Streams;

#[derive(Debug)]
struct Pending {
    at: WallTime,
    /// What its first byte's segment acknowledged of the server: its answer stands behind that.
    acked: Option<u32>,
    shape: RequestShape,
    client: Option<u64>,
    asked: Asked,
    /// Body length, once the request is whole.
    body_len: Option<u64>,
    status: Option<u16>,
    /// What the answer said of caches.
    cache: Option<CacheStatus>,
    /// Response length and end, once the answer is whole.
    answer: Option<(u64, WallTime)>,
}

/// Bytes of the shortest request: `A / HTTP/1.1` and two line ends.
const REQUEST_BYTES_MIN: u64 = 16;

/// When a message began, and where.
type Start = (WallTime, Option<Mark>);

/// Bytes of the preface of HTTP/2 that tell it from a request: its request line.
const PREFACE_KNOWN: usize = 16;

fn cache_of(headers: &[HeaderLine]) -> Option<CacheStatus> {
    let mut lines = CacheLines::default();
    for h in headers {
        if let Ok(name) = std::str::from_utf8(&h.name) {
            lines.take(name, &h.value);
        }
    }
    lines.status()
}

/// The messages of one connection.
#[derive(Debug)]
pub struct Pairing {
    owner: u64,
    redactor: Redactor,
    /// What its requests came by.
    scheme: Scheme,
    requests: MessageStream,
    responses: MessageStream,
    waiting: VecDeque<Pending>,
    request_began: Option<Start>,
    /// Sequence number of the first byte of the answer under way, where that is known.
    answer_seq: Option<u32>,
    opened: (WallTime, Provenance),
    open_sent: bool,
    last_at: WallTime,
    over: bool,
    /// Something of the server's side was seen.
    heard_server: bool,
    /// Which answers can be told apart.
    certainty: Certainty,
    /// How far the server was seen when what comes next of the client was captured.
    server: Option<Standing>,
    /// And how far the client when what comes next of the server was.
    client: Option<Standing>,
    /// The answer under way is no interim one.
    is_final: bool,
    /// What the last request asked that goes without an answer: how long that is depends on it.
    unpaired: Asked,
    /// A request was seen.
    asked_once: bool,
    /// It was seen from its beginning.
    from_start: bool,
    waiting_bytes: usize,
    /// The connection carries HTTP/2, with its streams under way.
    http2: Option<Box<Streams>>,
    /// The first bytes of a message which may be those of the preface, and when they came.
    begun: Option<(Start, Vec<u8>)>,
}

impl Pairing {
    /// A connection opened at `at`; `from_start` when its beginning was seen.
    #[must_use]
    pub fn new(owner: u64, at: WallTime, from_start: bool, redactor: Redactor) -> Self {
        let provenance = if from_start { Provenance::Recorded } else { Provenance::Inferred };
        Self {
            owner,
            redactor,
            scheme: Scheme::Http,
            requests: MessageStream::new(Direction::Requests, from_start),
            responses: MessageStream::new(Direction::Responses, from_start),
            waiting: VecDeque::new(),
            request_began: None,
            answer_seq: None,
            opened: (at, provenance),
            open_sent: false,
            last_at: at,
            over: false,
            heard_server: false,
            certainty: Certainty::default(),
            server: None,
            client: None,
            is_final: false,
            unpaired: Asked::Other,
            asked_once: false,
            from_start,
            waiting_bytes: 0,
            http2: None,
            begun: None,
        }
    }

    /// What comes was in TLS.
    pub fn opened_tls(&mut self) {
        self.scheme = Scheme::Https;
    }

    /// Whether the connection carried at least one usable request.
    #[must_use]
    pub fn is_http(&self) -> bool {
        self.open_sent || !self.waiting.is_empty()
    }

    /// Says how far the server was seen when what comes next of the client was captured, where that is known.
    pub fn server_stands(&mut self, standing: Option<Standing>) {
        self.server = standing;
    }

    /// Says how far the client was seen when what comes next of the server was captured, where that is known.
    pub fn client_stands(&mut self, standing: Option<Standing>) {
        self.client = standing;
    }

    /// Says which byte of the server is wanted next, behind what was taken of it last.
    pub fn server_passed(&mut self, next: Option<u32>) {
        self.certainty.passed(next);
    }

    /// Takes a piece of the client's byte stream.
    pub fn client(&mut self, piece: Piece<'_>, ledger: &mut Ledger, out: &mut Vec<RawEvent>) {
        let begun = self.begun.take();
        let (start, bytes) = match (piece, begun) {
            (Piece::Data { at, bytes, mark }, None) => ((at, mark), Cow::Borrowed(bytes)),
            (Piece::Data { at, bytes, .. }, Some((start, begun))) => {
                self.last_at = self.last_at.max(at);
                (start, Cow::Owned([&begun, bytes].concat()))
            }
            (Piece::Gap { .. }, None) => return self.pass(piece, ledger, out),
            (Piece::Gap { .. }, Some(((at, mark), begun))) => {
                self.pass(Piece::Data { at, bytes: &begun, mark }, ledger, out);
                return self.pass(piece, ledger, out);
            }
        };
        // Prior knowledge: the preface instead of a request.
        if self.http2.is_none() && !self.over && self.requests.is_between() {
            let known = bytes.len().min(PREFACE_KNOWN);
            let fits = known > 0 && bytes[..known] == http2::PREFACE[..known];
            if fits && known < PREFACE_KNOWN {
                // Or the beginning of POST: what follows tells.
                self.begun = Some((start, bytes.into_owned()));
                return;
            }
            if fits {
                self.begin_http2(ledger);
            }
        }
        let (at, mark) = start;
        self.pass(Piece::Data { at, bytes: &bytes, mark }, ledger, out);
    }

    fn pass(&mut self, piece: Piece<'_>, ledger: &mut Ledger, out: &mut Vec<RawEvent>) {
        if self.http2.is_some() {
            return self.frames(true, piece, ledger, out);
        }
        match piece {
            Piece::Gap { len, .. } => {
                let event = self.requests.gap(Some(len));
                // Whole requests may have stood in it, unless it lies within one body.
                if !matches!(event, Some(Event::End { .. })) && !self.requests.is_in_known_body() {
                    if len >= REQUEST_BYTES_MIN {
                        self.certainty.hole();
                    }
                    self.doubt();
                }
                self.on_request_event(event, self.last_at, ledger, out);
            }
            Piece::Data { at, bytes, mark } => {
                self.last_at = self.last_at.max(at);
                let mut rest = bytes;
                loop {
                    let passed = (bytes.len() - rest.len()) as u32;
                    let (n, event) = self.requests.advance(rest, Asked::Other);
                    let stop = n == 0 && event.is_none();
                    rest = &rest[n..];
                    if matches!(event, Some(Event::Start)) {
                        let mark = mark.map(|m| Mark { seq: m.seq.wrapping_add(passed), ..m });
                        self.on_start(mark);
                        self.request_began = Some((at, mark));
                    }
                    self.on_request_event(event, at, ledger, out);
                    if stop {
                        break;
                    }
                }
            }
        }
        self.flush_done(out);
        self.give_up_old(ledger, out);
    }

    /// Something of the client's side is missing: only the requests that wait now have answers that can be told.
    fn doubt(&mut self) {
        let waiting = self.waiting.iter().filter(|p| p.status.is_none() && p.body_len.is_some()).count();
        self.certainty.doubt(waiting);
    }

    /// A request begins there.
    fn on_start(&mut self, mark: Option<Mark>) {
        self.certainty.begin(Begun {
            mark,
            server: self.server,
            between: self.responses.is_between(),
            unanswered: self.waiting.iter().any(|p| p.answer.is_none()),
            amid: !self.from_start && !self.asked_once && self.heard_server,
        });
    }

    /// Of a capture that has the clients' side only, requests need not wait for answers.
    fn give_up_old(&mut self, ledger: &mut Ledger, out: &mut Vec<RawEvent>) {
        let old = |p: &Pending| self.last_at.0.saturating_sub(p.at.0) > ONE_SIDED_AFTER.as_nanos() as u64;
        if !self.heard_server && self.waiting.front().is_some_and(old) {
            self.give_up_pairs(ledger, out);
        }
    }

    /// Bytes held, roughly.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let frames = self.http2.as_ref().map_or(0, |s| s.frames.held_bytes());
        let begun = self.begun.as_ref().map_or(0, |(_, bytes)| bytes.len());
        self.requests.held_bytes() + self.responses.held_bytes() + self.waiting_bytes + frames + begun
    }

    /// When the oldest request began whose answer, or whose own end, is still to come.
    #[must_use]
    pub fn oldest(&self) -> Option<WallTime> {
        let streams = self.http2.as_ref().and_then(|s| s.open.min_of(|p| Some(p.at)));
        let begun = self.begun.as_ref().map(|((at, _), _)| *at);
        let began = self.request_began.map(|(at, _)| at);
        [self.waiting.front().map(|p| p.at), began, streams, begun].into_iter().flatten().min()
    }

    fn on_request_event(
        &mut self,
        event: Option<Event>,
        at: WallTime,
        ledger: &mut Ledger,
        out: &mut Vec<RawEvent>,
    ) {
        match event {
            None | Some(Event::Start | Event::Response(_)) => {}
            Some(Event::Request(head)) => {
                let shape = self.redactor.shape(&head, self.scheme);
                let asked = Asked::by(&head.method);
                let (at, mark) = self.request_began.take().unwrap_or((at, None));
                let client = self.redactor.client(&head.headers);
                let pending = Pending {
                    at,
                    acked: mark.map(|m| m.ack),
                    shape,
                    client,
                    asked,
                    body_len: None,
                    status: None,
                    cache: None,
                    answer: None,
                };
                if self.waiting.len() >= PIPELINE_MAX {
                    // Requests are worth more than pairs: from here on none can be told.
                    if self.heard_server {
                        self.certainty.doubt(0);
                    } else {
                        self.certainty.forget();
                    }
                    self.give_up_pairs(ledger, out);
                }
                (self.asked_once, self.unpaired) = (true, Asked::Other);
                self.waiting_bytes += pending.shape.weight();
                self.waiting.push_back(pending);
            }
            Some(Event::End { body_len, damaged }) => {
                if let Some(p) = self.waiting.iter_mut().rev().find(|p| p.body_len.is_none()) {
                    p.body_len = Some(body_len);
                }
                ledger.add(Item::DamagedRequests, u64::from(damaged));
                // Its answer could not be told from others: it goes without.
                if !self.certainty.reaches(self.waiting.len())
                    && self.waiting.back().is_some_and(|p| p.body_len.is_some() && p.answer.is_none())
                    && let Some(pending) = self.waiting.pop_back()
                {
                    ledger.count(Item::UnpairedRequests);
                    self.unpaired = pending.asked;
                    self.emit(pending, out);
                }
            }
            Some(Event::Lost(loss)) => {
                ledger.count(if loss == Loss::Gap { Item::LostRequests } else { Item::MalformedRequests });
                self.doubt();
                // A head that was already queued without its body is not a usable request.
                self.drop_unfinished();
            }
            Some(Event::Over(over)) => self.on_over(over, ledger),
        }
    }

    fn on_over(&mut self, over: Over, ledger: &mut Ledger) {
        if !self.over {
            ledger.count(match over {
                Over::Tunnel => Item::ConnectionsTunnel,
                Over::Tls => Item::ConnectionsTls,
                Over::Http2 => Item::ConnectionsHttp2,
                Over::NotHttp => Item::ConnectionsNotHttp,
            });
        }
        self.over = true;
        self.requests.end_http();
        self.responses.end_http();
    }

    /// Emits what waits for answers that can no longer be told apart. Requests whose body is still under
    /// way stay.
    fn give_up_pairs(&mut self, ledger: &mut Ledger, out: &mut Vec<RawEvent>) {
        let whole = self.waiting.iter().take_while(|p| p.body_len.is_some()).count();
        for pending in self.waiting.drain(..whole).collect::<Vec<_>>() {
            ledger.add(Item::UnpairedRequests, u64::from(pending.answer.is_none()));
            if pending.status.is_none() {
                self.certainty.gave_up();
                self.unpaired = pending.asked;
            }
            self.emit(pending, out);
        }
    }

    /// The last request has no whole body.
    fn drop_unfinished(&mut self) {
        if self.waiting.back().is_some_and(|p| p.body_len.is_none())
            && let Some(pending) = self.waiting.pop_back()
        {
            self.waiting_bytes -= pending.shape.weight();
        }
    }

    fn flush_done(&mut self, out: &mut Vec<RawEvent>) {
        while self.waiting.front().is_some_and(|p| p.body_len.is_some() && p.answer.is_some()) {
            if let Some(pending) = self.waiting.pop_front() {
                self.emit(pending, out);
            }
        }
    }

    fn emit(&mut self, pending: Pending, out: &mut Vec<RawEvent>) {
        self.waiting_bytes -= pending.shape.weight();
        if !self.open_sent {
            self.open_sent = true;
            let (opened, arrival) = self.opened;
            let kind = EventKind::Open(ConnectionEvent { arrival });
            out.push(RawEvent {
                at: opened.min(pending.at),
                owner: self.owner,
                connection: 0,
                kind,
                bytes: 0,
                client: None,
            });
        }
        let bytes = shape_bytes(&pending.shape);
        let facts = RequestFacts {
            shape: Arc::new(pending.shape),
            arrival: Provenance::Recorded,
            connection: Provenance::Recorded,
            body_len: Fact::with(pending.body_len, Provenance::Recorded),
            status: Fact::with(pending.status, Provenance::Recorded),
            // Behind a hole of unknown length it is not known.
            response_len: Fact::with(
                pending.answer.map(|a| a.0).filter(|n| *n < u64::MAX),
                Provenance::Recorded,
            ),
            duration_ns: Fact::with(
                pending.answer.map(|a| a.1.0.saturating_sub(pending.at.0)),
                Provenance::Recorded,
            ),
            cache: Fact::with(pending.cache, Provenance::Recorded),
        };
        out.push(RawEvent {
            at: pending.at,
            owner: self.owner,
            connection: 0,
            kind: EventKind::Request(facts),
            bytes,
            client: pending.client,
        });
    }

    /// The connection has ended at `at`. `seen` tells whether its end was seen on the wire.
    pub fn finish(&mut self, at: WallTime, seen: bool, ledger: &mut Ledger, out: &mut Vec<RawEvent>) {
        if let Some(((at, mark), begun)) = self.begun.take() {
            self.pass(Piece::Data { at, bytes: &begun, mark }, ledger, out);
        }
        let last = self.responses.finish();
        self.on_response_event(last, self.last_at, ledger, out);
        if self.requests.finish().is_some() {
            ledger.count(Item::IncompleteRequests);
            self.drop_unfinished();
        }
        self.flush_done(out);
        self.give_up_pairs(ledger, out);
        if let Some(mut streams) = self.http2.take() {
            self.give_up_streams(&mut streams.open, ledger, out);
        }
        if self.open_sent {
            let arrival = if seen { Provenance::Recorded } else { Provenance::Inferred };
            let kind = EventKind::Close(ConnectionEvent { arrival });
            out.push(RawEvent {
                at: at.max(self.last_at),
                owner: self.owner,
                connection: 0,
                kind,
                bytes: 0,
                client: None,
            });
        }
    }
}

/// Adds the numbers of a byte stream to the ledger.
pub fn count_flow(counts: FlowCounts, ledger: &mut Ledger) {
    ledger.add(Item::Duplicates, counts.duplicates);
    ledger.add(Item::OutOfOrder, counts.out_of_order);
    ledger.add(Item::Gaps, counts.gaps);
    ledger.add(Item::GapBytes, counts.gap_bytes);
}

#[cfg(test)]
mod tests;
