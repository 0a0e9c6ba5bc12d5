//! One direction of an HTTP/1 connection as a stream of messages.
//!
//! Bytes go in as they come; events come out. Bodies are counted, never kept. After a hole the parser
//! goes on counting where the length of the hole cannot matter (inside a body of known length) and else
//! looks for the next message at the start of a piece of input. It never invents a boundary.

use super::body::{Ambiguous, Asked, Framing, of_request, of_response};
use super::head::{
    HeadError, RequestHead, ResponseHead, looks_like_request, looks_like_response, parse_request,
    parse_response,
};
use crate::limits::{CHUNK_LINE_MAX, HEAD_BYTES_MAX};

/// Which way the bytes flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Client to server.
    Requests,
    /// Server to client.
    Responses,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The first byte of a message.
    Start,
    /// A request head is whole.
    Request(RequestHead),
    /// A response head is whole.
    Response(ResponseHead),
    /// The message is whole; its body had this many bytes (after chunked decoding).
    End {
        /// Body bytes.
        body_len: u64,
        /// A hole fell into the body; the count comes from its declared length.
        damaged: bool,
    },
    /// The message under way cannot be used.
    Lost(Loss),
    /// From here on this is not HTTP/1 any more.
    Over(Over),
}

/// Why a message was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// A hole in the bytes.
    Gap,
    /// A head that is not HTTP/1.
    Head(HeadError),
    /// A body of uncertain length.
    Body(Ambiguous),
    /// A chunk line that is not one.
    Chunk,
}

/// Why a stream stopped being HTTP/1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// CONNECT succeeded or the protocol was switched.
    Tunnel,
    /// TLS records.
    Tls,
    /// The HTTP/2 preface.
    Http2,
    /// Something else.
    NotHttp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between messages.
    Idle,
    /// Inside a head.
    Head,
    /// Inside a body of known length.
    Length { left: u64 },
    /// At a chunk-size line.
    ChunkLine,
    /// Inside chunk data, its CRLF included.
    ChunkData { left: u64 },
    /// Inside trailers, after the last chunk.
    Trailers,
    /// Inside a body that ends with the connection.
    UntilClose,
    /// Looking for the next message at the start of a piece.
    Resync,
    /// Not HTTP/1 any more.
    Over,
}

/// The parser of one direction.
#[derive(Debug, Clone)]
pub struct MessageStream {
    direction: Direction,
    state: State,
    /// Head, chunk line or trailers so far.
    buf: Vec<u8>,
    body_len: u64,
    damaged: bool,
    /// A message has been seen whole, so what follows a loss is still this protocol.
    proven: bool,
}

impl MessageStream {
    /// A stream seen from its first byte (`from_start`) or from somewhere in the middle.
    #[must_use]
    pub fn new(direction: Direction, from_start: bool) -> Self {
        let state = if from_start { State::Idle } else { State::Resync };
        Self { direction, state, buf: Vec::new(), body_len: 0, damaged: false, proven: false }
    }

    /// Whether no message is under way.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.state == State::Idle
    }

    /// Whether a hole here may hold whole messages: none is under way, or the next one is being looked for.
    #[must_use]
    pub fn may_miss_messages(&self) -> bool {
        matches!(self.state, State::Idle | State::Resync)
    }

    /// Whether the next bytes belong to a body whose length is known.
    #[must_use]
    pub fn is_in_known_body(&self) -> bool {
        matches!(self.state, State::Length { left } if left > 0)
    }

    /// Bytes held: a head, chunk line or trailers under way.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.buf.len()
    }

    /// Consumes a part of `bytes` and returns how much, with at most one event. Call it again with the
    /// rest until it returns `(0, None)` or nothing is left. `asked` is what the next response answers.
    pub fn advance(&mut self, bytes: &[u8], asked: Asked) -> (usize, Option<Event>) {
        match self.state {
            State::Idle => self.idle(bytes),
            State::Head => self.head(bytes, asked),
            State::Length { left } => self.length(bytes, left),
            State::ChunkLine => self.chunk_line(bytes),
            State::ChunkData { left } => {
                let n = left.min(bytes.len() as u64);
                let left = left - n;
                self.state = if left == 0 { State::ChunkLine } else { State::ChunkData { left } };
                (n as usize, None)
            }
            State::Trailers => self.trailers(bytes),
            State::UntilClose => {
                self.body_len = self.body_len.saturating_add(bytes.len() as u64);
                (bytes.len(), None)
            }
            State::Resync => self.resync(bytes),
            State::Over => (bytes.len(), None),
        }
    }

    fn idle(&mut self, bytes: &[u8]) -> (usize, Option<Event>) {
        // Empty lines before a request line are allowed (RFC 9112, section 2.2).
        let blank = bytes.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
        if blank > 0 || bytes.is_empty() {
            return (blank, None);
        }
        let fits = match self.direction {
            Direction::Requests => looks_like_request(bytes),
            Direction::Responses => looks_like_response(bytes),
        };
        let http2 = bytes.starts_with(b"PRI * HTTP/2.0");
        if !fits || http2 {
            return self.foreign(bytes, http2);
        }
        self.state = State::Head;
        self.buf.clear();
        (self.body_len, self.damaged) = (0, false);
        (0, Some(Event::Start))
    }

    fn foreign(&mut self, bytes: &[u8], http2: bool) -> (usize, Option<Event>) {
        if self.proven {
            self.state = State::Resync;
            let error = HeadError::Malformed(httparse::Error::Token);
            return (bytes.len(), Some(Event::Lost(Loss::Head(error))));
        }
        let over = match bytes {
            _ if http2 => Over::Http2,
            [0x14..=0x17, 0x03, ..] => Over::Tls,
            _ => Over::NotHttp,
        };
        self.state = State::Over;
        (bytes.len(), Some(Event::Over(over)))
    }

    fn head(&mut self, bytes: &[u8], asked: Asked) -> (usize, Option<Event>) {
        if bytes.is_empty() {
            return (0, None);
        }
        let before = self.buf.len();
        let room = (HEAD_BYTES_MAX + 1).saturating_sub(before).min(bytes.len());
        self.buf.extend_from_slice(&bytes[..room]);
        // Only an empty line can end a head; parsing before one is there would cost n squared.
        let from = before.saturating_sub(3);
        let has_end = self.buf[from..].windows(2).any(|w| w == b"\n\n")
            || self.buf[from..].windows(3).any(|w| w == b"\n\r\n");
        if !has_end && self.buf.len() <= HEAD_BYTES_MAX {
            return (room, None);
        }
        let parsed = match self.direction {
            Direction::Requests => parse_request(&self.buf).map(|p| p.map(|(h, n)| self.on_request(h, n))),
            Direction::Responses => {
                parse_response(&self.buf).map(|p| p.map(|(h, n)| self.on_response(h, n, asked)))
            }
        };
        match parsed {
            Ok(None) => (room, None),
            Ok(Some((len, event))) => (len - before, Some(event)),
            Err(error) => {
                self.state = State::Resync;
                (bytes.len(), Some(Event::Lost(Loss::Head(error))))
            }
        }
    }

    fn on_request(&mut self, head: RequestHead, len: usize) -> (usize, Event) {
        match of_request(&head) {
            Ok(framing) => {
                self.begin_body(framing);
                (len, Event::Request(head))
            }
            Err(why) => (len, self.lose(Loss::Body(why))),
        }
    }

    fn on_response(&mut self, head: ResponseHead, len: usize, asked: Asked) -> (usize, Event) {
        match of_response(&head, asked) {
            Ok(framing) => {
                self.begin_body(framing);
                (len, Event::Response(head))
            }
            Err(why) => (len, self.lose(Loss::Body(why))),
        }
    }

    fn lose(&mut self, loss: Loss) -> Event {
        self.state = State::Resync;
        Event::Lost(loss)
    }

    fn begin_body(&mut self, framing: Framing) {
        self.proven = true;
        self.buf.clear();
        self.state = match framing {
            Framing::None => State::Length { left: 0 },
            Framing::Length(left) => {
                self.body_len = left;
                State::Length { left }
            }
            Framing::Chunked => State::ChunkLine,
            Framing::UntilClose => State::UntilClose,
            Framing::Tunnel => State::Over,
        };
    }

    fn end(&mut self) -> Event {
        self.state = State::Idle;
        Event::End { body_len: self.body_len, damaged: self.damaged }
    }

    fn length(&mut self, bytes: &[u8], left: u64) -> (usize, Option<Event>) {
        let n = left.min(bytes.len() as u64);
        self.state = State::Length { left: left - n };
        let event = (left == n).then(|| self.end());
        (n as usize, event)
    }

    /// Takes one line of `bytes` into the buffer. Returns the bytes used and whether the line is whole.
    fn line(&mut self, bytes: &[u8]) -> (usize, bool) {
        let end = bytes.iter().position(|b| *b == b'\n');
        let n = end.map_or(bytes.len(), |e| e + 1);
        self.buf.extend_from_slice(&bytes[..n]);
        (n, end.is_some())
    }

    fn chunk_line(&mut self, bytes: &[u8]) -> (usize, Option<Event>) {
        let (n, whole) = self.line(bytes);
        if !whole {
            let too_long = self.buf.len() > CHUNK_LINE_MAX;
            return (n, too_long.then(|| self.lose(Loss::Chunk)));
        }
        // The parser reads white space alone as a size of zero.
        let begins = self.buf.first().is_some_and(u8::is_ascii_hexdigit);
        let size = match httparse::parse_chunk_size(&self.buf) {
            Ok(httparse::Status::Complete((_, size))) if begins => size,
            Ok(httparse::Status::Complete(_)) => return (n, Some(self.lose(Loss::Chunk))),
            Ok(httparse::Status::Partial) | Err(_) => return (n, Some(self.lose(Loss::Chunk))),
        };
        self.buf.clear();
        self.body_len = self.body_len.saturating_add(size);
        self.state =
            if size == 0 { State::Trailers } else { State::ChunkData { left: size.saturating_add(2) } };
        (n, None)
    }

    fn trailers(&mut self, bytes: &[u8]) -> (usize, Option<Event>) {
        let (n, whole) = self.line(bytes);
        if self.buf.len() > HEAD_BYTES_MAX {
            return (n, Some(self.lose(Loss::Chunk)));
        }
        let empty = whole && self.buf.trim_ascii().is_empty();
        if whole {
            self.buf.clear();
        }
        (n, empty.then(|| self.end()))
    }

    fn resync(&mut self, bytes: &[u8]) -> (usize, Option<Event>) {
        let fits = match self.direction {
            // A whole first line, because a fragment of a body may begin with a word and a space.
            Direction::Requests => bytes.contains(&b'\n') && looks_like_request(bytes),
            Direction::Responses => bytes.len() >= 9 && looks_like_response(bytes),
        };
        if fits {
            self.state = State::Idle;
            return self.idle(bytes);
        }
        (bytes.len(), None)
    }

    /// Bytes are missing at this point: `len` of them, if that is known.
    pub fn gap(&mut self, len: Option<u64>) -> Option<Event> {
        match (self.state, len) {
            (State::Length { left }, Some(n)) if n <= left => {
                self.damaged = true;
                self.state = State::Length { left: left - n };
                (left == n).then(|| self.end())
            }
            (State::ChunkData { left }, Some(n)) if n < left => {
                self.damaged = true;
                self.state = State::ChunkData { left: left - n };
                None
            }
            (State::UntilClose, n) => {
                self.damaged = true;
                self.body_len = self.body_len.saturating_add(n.unwrap_or(0));
                None
            }
            (State::Over | State::Resync, _) => None,
            (State::Idle, _) => {
                self.state = State::Resync;
                None
            }
            (
                State::Head
                | State::Length { .. }
                | State::ChunkLine
                | State::ChunkData { .. }
                | State::Trailers,
                _,
            ) => Some(self.lose(Loss::Gap)),
        }
    }

    /// The stream has ended. A body that lasts until the close is whole now; anything else is lost.
    pub fn finish(&mut self) -> Option<Event> {
        match self.state {
            State::UntilClose => Some(self.end()),
            State::Idle | State::Resync | State::Over => None,
            State::Head
            | State::Length { .. }
            | State::ChunkLine
            | State::ChunkData { .. }
            | State::Trailers => Some(self.lose(Loss::Gap)),
        }
    }

    /// Whether the stream is between messages.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.state == State::Idle
    }

    /// The other direction has ended HTTP on this connection.
    pub fn end_http(&mut self) {
        self.state = State::Over;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(direction: Direction, pieces: &[&[u8]], asked: Asked) -> Vec<Event> {
        let mut stream = MessageStream::new(direction, true);
        let mut events = Vec::new();
        for piece in pieces {
            let mut rest: &[u8] = piece;
            loop {
                let (n, event) = stream.advance(rest, asked);
                rest = &rest[n..];
                let none = event.is_none();
                events.extend(event);
                if n == 0 && none {
                    break;
                }
            }
        }
        events.extend(stream.finish());
        events
    }

    fn ends(events: &[Event]) -> Vec<u64> {
        let body = |e: &Event| if let Event::End { body_len, .. } = e { Some(*body_len) } else { None };
        events.iter().filter_map(body).collect()
    }

    const PIPELINED: &[u8] = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\r\nPOST /2 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhelloPOST /3 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\nwiki\r\n6\r\npedia!\r\n0\r\nTrailer: z\r\n\r\nGET /4 HTTP/1.0\n\n";

    #[test]
    fn a_pipeline_of_every_framing() {
        let events = run(Direction::Requests, &[PIPELINED], Asked::Other);
        assert_eq!(ends(&events), [0, 5, 10, 0]);
        assert_eq!(events.iter().filter(|e| matches!(e, Event::Start)).count(), 4);
    }

    proptest! {
        /// However the bytes are cut, the events are the same.
        #[test]
        fn pieces_do_not_matter(mut cuts in prop::collection::vec(0usize..PIPELINED.len(), 0..12)) {
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts { pieces.push(&PIPELINED[from..cut]); from = cut; }
            pieces.push(&PIPELINED[from..]);
            prop_assert_eq!(run(Direction::Requests, &pieces, Asked::Other), run(Direction::Requests, &[PIPELINED], Asked::Other));
        }

        /// No input makes it panic or go round for ever.
        #[test]
        fn garbage_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..600), start in any::<bool>()) {
            for direction in [Direction::Requests, Direction::Responses] {
                let mut stream = MessageStream::new(direction, start);
                let mut rest = bytes.as_slice();
                for _ in 0..2_000 {
                    let (n, event) = stream.advance(rest, Asked::Other);
                    rest = &rest[n..];
                    if n == 0 && event.is_none() { break; }
                }
                prop_assert!(rest.is_empty());
                stream.gap(Some(3));
                stream.finish();
            }
        }
    }

    /// A stream joined in the middle once lost its first message: resynchronising consumed nothing and said
    /// nothing, so callers stopped.
    #[test]
    fn a_stream_joined_in_the_middle_keeps_its_first_whole_message() {
        let mut stream = MessageStream::new(Direction::Requests, false);
        let (n, event) = stream.advance(b"GET /first HTTP/1.1\r\n\r\n", Asked::Other);
        assert_eq!((n, event), (0, Some(Event::Start)));
    }

    #[test]
    fn responses_know_what_was_asked() {
        let bytes: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n";
        assert_eq!(ends(&run(Direction::Responses, &[bytes], Asked::Head)), [0]);
        let until = run(Direction::Responses, &[b"HTTP/1.0 200 OK\r\n\r\n", b"abc", b"de"], Asked::Other);
        assert_eq!(ends(&until), [5]);
    }

    #[test]
    fn other_protocols_are_named() {
        let over = |bytes: &[u8]| run(Direction::Requests, &[bytes], Asked::Other);
        assert_eq!(over(b"\x16\x03\x01\x00\xa5"), [Event::Over(Over::Tls)]);
        assert_eq!(over(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), [Event::Over(Over::Http2)]);
        assert_eq!(over(b"\x00\x01\x02"), [Event::Over(Over::NotHttp)]);
    }

    #[test]
    fn holes_are_counted_where_that_is_safe_and_lose_the_message_elsewhere() {
        let feed = |s: &mut MessageStream, mut b: &[u8]| {
            let mut out = Vec::new();
            while !b.is_empty() {
                let (n, e) = s.advance(b, Asked::Other);
                b = &b[n..];
                out.extend(e);
            }
            out
        };
        let mut s = MessageStream::new(Direction::Requests, true);
        feed(&mut s, b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc");
        assert_eq!(s.gap(Some(4)), None);
        assert_eq!(feed(&mut s, b"xyz"), [Event::End { body_len: 10, damaged: true }]);
        feed(&mut s, b"GET / HTTP/1.1\r\nHo");
        assert_eq!(s.gap(Some(4)), Some(Event::Lost(Loss::Gap)));
        assert_eq!(feed(&mut s, b"garbage of a body"), []);
        let found = feed(&mut s, b"GET /next HTTP/1.1\r\n\r\n");
        assert!(matches!(found.as_slice(), [Event::Start, Event::Request(_)]), "{found:?}");
    }

    /// What TLS says of a hole whose length it cannot tell.
    #[test]
    fn a_hole_of_unknown_length_overflows_nothing() {
        let mut stream = MessageStream::new(Direction::Responses, true);
        let mut feed = |bytes: &[u8]| {
            let mut rest = bytes;
            loop {
                let (n, event) = stream.advance(rest, Asked::Other);
                rest = &rest[n..];
                if n == 0 && event.is_none() {
                    break;
                }
            }
        };
        feed(b"HTTP/1.1 200 OK\r\n\r\nab");
        assert_eq!(stream.gap(Some(u64::MAX)), None);
        let (n, _) = stream.advance(b"cd", Asked::Other);
        assert_eq!(n, 2);
        assert_eq!(stream.finish(), Some(Event::End { body_len: u64::MAX, damaged: true }));
    }
}
