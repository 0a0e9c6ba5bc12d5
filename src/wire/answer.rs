//! Answers as a client reads them: decoded from bytes as they come, nothing of them kept.
//!
//! For the sender: one answer at a time, no allocation while heads arrive whole (nearly all do), bodies counted and
//! passed over. What a session lives on (cookies, values) is kept where it is asked for, up to a limit. What it refuses to do: guess. A body of uncertain length, a switch of protocols nobody asked for and
//! bytes after the end are faults of the answer, because the next answer would be read out of them.

use super::body::Asked;
use super::cache::{CacheLines, CacheStatus};
use super::head::is_token;
use crate::limits::{CHUNK_LINE_MAX, HEAD_BYTES_MAX, HEADERS_MAX, TAKE_BODY_BYTES_MAX};

/// Header lines of an ordinary answer; more take the slower way.
const HEADERS_USUAL: usize = 48;

/// What a head says that the sender acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AnswerHead {
    /// Status code.
    pub status: u16,
    /// The connection may carry another request after this answer (RFC 9112, section 9.3).
    pub keep_alive: bool,
    /// `X-Replay-Stop` is there.
    pub stop: bool,
    /// It sets a cookie.
    pub set_cookie: bool,
    /// `Retry-After` in seconds; a date, or anything unreadable, is one minute.
    pub retry_after_s: Option<u64>,
    /// Whether it came from a cache, where it says so.
    pub cache: Option<CacheStatus>,
}

/// What of an answer is kept until the next one begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Keep {
    /// The head, if it sets a cookie.
    #[default]
    Cookies,
    /// The head.
    Head,
    /// Head and body, up to [`TAKE_BODY_BYTES_MAX`].
    Body,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// An interim answer (1xx): the final one is still to come.
    Interim(AnswerHead),
    /// The final head is whole. It is told even where its body cannot be read, which the next call says.
    Head(AnswerHead),
    /// The answer is whole, with this many bytes of body (after chunked decoding).
    End {
        /// Body bytes.
        body_bytes: u64,
    },
}

/// Why bytes are no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Not an HTTP/1 head, or longer than [`HEAD_BYTES_MAX`].
    #[error("not an HTTP/1 answer")]
    Head,
    /// `Content-Length` is not one number, or stands beside `Transfer-Encoding`.
    #[error("the length of the body is uncertain")]
    Length,
    /// A chunk-size line that is not one.
    #[error("a chunk is not one")]
    Chunk,
    /// 101, or a tunnel: what follows is another protocol.
    #[error("the target switched protocols")]
    Switched,
    /// The connection ended within the answer.
    #[error("the answer broke off")]
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    Length {
        left: u64,
    },
    ChunkLine,
    ChunkData {
        left: u64,
    },
    /// The line end after a chunk's data; this many bytes of it were seen.
    ChunkEnd {
        seen: usize,
    },
    Trailers {
        bytes: usize,
    },
    UntilClose,
    /// The head was told; what follows cannot be read.
    Bad(AnswerError),
    Done,
}

/// Reads one answer after the other.
#[derive(Debug)]
pub struct AnswerReader {
    state: State,
    asked: Asked,
    body_bytes: u64,
    /// A head or chunk line that came in pieces; empty nearly always.
    part: Vec<u8>,
    keep: Keep,
    kept_head: Vec<u8>,
    kept_body: Vec<u8>,
}

impl Default for AnswerReader {
    fn default() -> Self {
        Self {
            state: State::Done,
            asked: Asked::Other,
            body_bytes: 0,
            part: Vec::new(),
            keep: Keep::Cookies,
            kept_head: Vec::new(),
            kept_body: Vec::new(),
        }
    }
}

impl AnswerReader {
    /// Expects the answer to a request.
    pub fn begin(&mut self, asked: Asked, keep: Keep) {
        (self.state, self.asked, self.body_bytes, self.keep) = (State::Head, asked, 0, keep);
        self.part.clear();
        self.kept_head.clear();
        self.kept_body.clear();
    }

    /// The head, where it is kept; else empty.
    #[must_use]
    pub fn kept_head(&self) -> &[u8] {
        &self.kept_head
    }

    /// The body as it came, where all of it is kept.
    #[must_use]
    pub fn kept_body(&self) -> Option<&[u8]> {
        (self.keep == Keep::Body && self.kept_body.len() as u64 == self.body_bytes).then_some(&self.kept_body)
    }

    /// Counts bytes of the body, and keeps them where they are wanted and few.
    fn body(&mut self, bytes: &[u8]) {
        self.body_bytes += bytes.len() as u64;
        if self.keep == Keep::Body && self.body_bytes <= TAKE_BODY_BYTES_MAX as u64 {
            self.kept_body.extend_from_slice(bytes);
        }
    }

    /// Whether an answer is under way or awaited.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.state != State::Done
    }

    /// Body bytes so far.
    #[must_use]
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// Consumes a part of `bytes` and says how much, with at most one find. Call it again with the rest while it
    /// consumes or finds something.
    ///
    /// # Errors
    /// [`AnswerError`]; the connection is of no more use.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(usize, Option<Found>), AnswerError> {
        match self.state {
            State::Head => self.head(bytes),
            State::Length { left } => {
                let n = left.min(bytes.len() as u64);
                self.body(bytes.get(..n as usize).unwrap_or_default());
                self.state = State::Length { left: left - n };
                let end = (n == left).then(|| self.end());
                Ok((n as usize, end))
            }
            State::ChunkLine => self.chunk_line(bytes),
            State::ChunkData { left } => {
                let n = left.min(bytes.len() as u64);
                self.body(bytes.get(..n as usize).unwrap_or_default());
                let left = left - n;
                self.state = if left == 0 { State::ChunkEnd { seen: 0 } } else { State::ChunkData { left } };
                Ok((n as usize, None))
            }
            State::ChunkEnd { seen } => self.chunk_end(bytes, seen),
            State::Trailers { bytes: before } => self.trailers(bytes, before),
            State::UntilClose => {
                self.body(bytes);
                Ok((bytes.len(), None))
            }
            State::Bad(error) => Err(error),
            State::Done => Ok((0, None)),
        }
    }

    /// The target closed its side.
    ///
    /// # Errors
    /// [`AnswerError::Closed`] within an answer whose end it is not.
    pub fn closed(&mut self) -> Result<Option<Found>, AnswerError> {
        match self.state {
            State::UntilClose => Ok(Some(self.end())),
            State::Done => Ok(None),
            State::Bad(error) => Err(error),
            State::Head
            | State::Length { .. }
            | State::ChunkLine
            | State::ChunkData { .. }
            | State::ChunkEnd { .. }
            | State::Trailers { .. } => Err(AnswerError::Closed),
        }
    }

    fn end(&mut self) -> Found {
        self.state = State::Done;
        Found::End { body_bytes: self.body_bytes }
    }

    fn head(&mut self, bytes: &[u8]) -> Result<(usize, Option<Found>), AnswerError> {
        if self.part.is_empty() {
            return match parse(bytes, self.asked)? {
                Some((len, seen)) => {
                    self.keep_head(seen, bytes.get(..len).unwrap_or_default());
                    Ok((len, self.seen(seen)?))
                }
                None if bytes.len() > HEAD_BYTES_MAX => Err(AnswerError::Head),
                None => {
                    self.part.extend_from_slice(bytes);
                    Ok((bytes.len(), None))
                }
            };
        }
        let before = self.part.len();
        self.part.extend_from_slice(bytes);
        // Only an empty line can end a head; parsing before one is there would cost n squared.
        let from = before.saturating_sub(3);
        let tail = self.part.get(from..).unwrap_or_default();
        let has_end = tail.windows(2).any(|w| w == b"\n\n") || tail.windows(3).any(|w| w == b"\n\r\n");
        if !has_end {
            return if self.part.len() > HEAD_BYTES_MAX {
                Err(AnswerError::Head)
            } else {
                Ok((bytes.len(), None))
            };
        }
        match parse(&self.part, self.asked)? {
            Some((len, seen)) => {
                let head = std::mem::take(&mut self.part);
                self.keep_head(seen, head.get(..len).unwrap_or_default());
                Ok((len.saturating_sub(before), self.seen(seen)?))
            }
            // Empty lines alone: they may stand before a head, but not for ever.
            None if self.part.len() > HEAD_BYTES_MAX => Err(AnswerError::Head),
            None => Ok((bytes.len(), None)),
        }
    }

    fn keep_head(&mut self, seen: Seen, head: &[u8]) {
        self.kept_head.clear();
        if seen.head.set_cookie || self.keep > Keep::Cookies {
            self.kept_head.extend_from_slice(head);
        }
    }

    fn seen(&mut self, seen: Seen) -> Result<Option<Found>, AnswerError> {
        let head = seen.head;
        let switched = head.status == 101 || (self.asked == Asked::Connect && head.status / 100 == 2);
        match (head.status, seen.body) {
            (..100, _) => return Err(AnswerError::Head),
            _ if switched => self.state = State::Bad(AnswerError::Switched),
            (..200, _) => return Ok(Some(Found::Interim(head))),
            (_, Ok(body)) => self.state = body,
            (_, Err(error)) => self.state = State::Bad(error),
        }
        Ok(Some(Found::Head(head)))
    }

    /// Takes bytes up to the end of a line into `part`; whether the line is whole.
    fn line(&mut self, bytes: &[u8]) -> (usize, bool) {
        let end = bytes.iter().position(|b| *b == b'\n');
        let n = end.map_or(bytes.len(), |e| e + 1);
        self.part.extend_from_slice(bytes.get(..n).unwrap_or_default());
        (n, end.is_some())
    }

    fn chunk_line(&mut self, bytes: &[u8]) -> Result<(usize, Option<Found>), AnswerError> {
        let (n, whole) = self.line(bytes);
        if !whole {
            return if self.part.len() > CHUNK_LINE_MAX { Err(AnswerError::Chunk) } else { Ok((n, None)) };
        }
        // The parser reads white space alone as a size of zero.
        let begins = self.part.first().is_some_and(u8::is_ascii_hexdigit);
        let Ok(httparse::Status::Complete((_, size))) = httparse::parse_chunk_size(&self.part) else {
            return Err(AnswerError::Chunk);
        };
        if !begins {
            return Err(AnswerError::Chunk);
        }
        self.part.clear();
        self.state = if size == 0 { State::Trailers { bytes: 0 } } else { State::ChunkData { left: size } };
        Ok((n, None))
    }

    fn chunk_end(&mut self, bytes: &[u8], seen: usize) -> Result<(usize, Option<Found>), AnswerError> {
        let left = b"\r\n".get(seen..).unwrap_or_default();
        let n = left.len().min(bytes.len());
        if bytes.get(..n) != left.get(..n) {
            return Err(AnswerError::Chunk);
        }
        self.state = if n == left.len() { State::ChunkLine } else { State::ChunkEnd { seen: seen + n } };
        Ok((n, None))
    }

    fn trailers(&mut self, bytes: &[u8], before: usize) -> Result<(usize, Option<Found>), AnswerError> {
        let (n, whole) = self.line(bytes);
        let read = before + n;
        if read > HEAD_BYTES_MAX {
            return Err(AnswerError::Head);
        }
        self.state = State::Trailers { bytes: read };
        if !whole {
            return Ok((n, None));
        }
        // Within the coding lines end in both bytes, without the leniency of heads.
        let Some(line) = self.part.strip_suffix(b"\r\n") else { return Err(AnswerError::Chunk) };
        let (empty, fine) = (line.is_empty(), is_field_line(line));
        self.part.clear();
        match (empty, fine) {
            (true, _) => Ok((n, Some(self.end()))),
            (false, true) => Ok((n, None)),
            (false, false) => Err(AnswerError::Chunk),
        }
    }
}

/// Whether a line is a name, a colon and a value without control bytes (RFC 9112, section 5).
fn is_field_line(line: &[u8]) -> bool {
    let Some(colon) = line.iter().position(|b| *b == b':') else { return false };
    let (name, value) = line.split_at(colon);
    !name.is_empty()
        && name.iter().all(|b| is_token(*b))
        && value.iter().all(|b| (*b >= b' ' && *b != 0x7f) || *b == b'\t')
}

/// A head with what follows from it.
#[derive(Clone, Copy)]
struct Seen {
    head: AnswerHead,
    body: Result<State, AnswerError>,
}

/// The lines of a head that was found whole, by name and value.
#[must_use]
pub fn lines_of(head: &[u8]) -> Vec<(&str, &[u8])> {
    let mut headers = vec![httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(head) {
        Ok(httparse::Status::Complete(_)) => response.headers.iter().map(|h| (h.name, h.value)).collect(),
        Ok(httparse::Status::Partial) | Err(_) => Vec::new(),
    }
}

fn parse(bytes: &[u8], asked: Asked) -> Result<Option<(usize, Seen)>, AnswerError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_USUAL];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(bytes) {
        Ok(httparse::Status::Partial) => Ok(None),
        Ok(httparse::Status::Complete(len)) => whole(len, &response, asked),
        Err(httparse::Error::TooManyHeaders) => {
            let mut headers = vec![httparse::EMPTY_HEADER; HEADERS_MAX];
            let mut response = httparse::Response::new(&mut headers);
            match response.parse(bytes) {
                Ok(httparse::Status::Partial) => Ok(None),
                Ok(httparse::Status::Complete(len)) => whole(len, &response, asked),
                Err(_) => Err(AnswerError::Head),
            }
        }
        Err(_) => Err(AnswerError::Head),
    }
}

fn whole(
    len: usize,
    response: &httparse::Response<'_, '_>,
    asked: Asked,
) -> Result<Option<(usize, Seen)>, AnswerError> {
    if len > HEAD_BYTES_MAX {
        return Err(AnswerError::Head);
    }
    Ok(Some((len, facts(response, asked))))
}

/// What header lines say about the body and the connection.
#[derive(Debug, Default)]
struct Lines {
    length: Option<u64>,
    /// Two lengths that differ, or one that is no number.
    bad_length: bool,
    coded: bool,
    last_is_chunked: bool,
    close: bool,
    keep: bool,
    stop: bool,
    set_cookie: bool,
    retry_after_s: Option<u64>,
    cache: CacheLines,
}

impl Lines {
    fn take(&mut self, name: &str, value: &[u8]) {
        // By length first: nearly all lines are none of these.
        match name.len() {
            14 if name.eq_ignore_ascii_case("content-length") => {
                value.split(|b| *b == b',').for_each(|v| self.take_length(v.trim_ascii()));
            }
            17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                self.coded = true;
                let last = value.rsplit(|b| *b == b',').next().unwrap_or_default();
                self.last_is_chunked = last.trim_ascii().eq_ignore_ascii_case(b"chunked");
            }
            10 if name.eq_ignore_ascii_case("connection") => {
                for token in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                    self.close |= token.eq_ignore_ascii_case(b"close");
                    self.keep |= token.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            10 if name.eq_ignore_ascii_case("set-cookie") => self.set_cookie = true,
            13 if name.eq_ignore_ascii_case("x-replay-stop") => self.stop = true,
            11 if name.eq_ignore_ascii_case("retry-after") => {
                let text = std::str::from_utf8(value).unwrap_or_default();
                self.retry_after_s = Some(text.trim().parse().unwrap_or(60));
            }
            3 | 7 | 12..=15 => self.cache.take(name, value),
            _ => {}
        }
    }

    fn take_length(&mut self, text: &[u8]) {
        let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(text).ok().filter(|_| digits).and_then(|t| t.parse::<u64>().ok());
        self.bad_length |= number.is_none() || self.length.is_some_and(|old| number != Some(old));
        self.length = number;
    }

    /// RFC 9112, section 6.3, without its leniencies.
    fn body(&self, status: u16, asked: Asked, http10: bool) -> Result<State, AnswerError> {
        if matches!(status, 204 | 304) || asked == Asked::Head {
            return Ok(State::Length { left: 0 });
        }
        match (self.coded, self.length) {
            _ if self.bad_length => Err(AnswerError::Length),
            // HTTP/1.0 knows no codings: whoever wrote this did not mean what it says (section 6.1).
            (true, _) if http10 => Err(AnswerError::Length),
            (true, Some(_)) => Err(AnswerError::Length),
            (true, None) if self.last_is_chunked => Ok(State::ChunkLine),
            (true, None) | (false, None) => Ok(State::UntilClose),
            (false, Some(left)) => Ok(State::Length { left }),
        }
    }
}

fn facts(response: &httparse::Response<'_, '_>, asked: Asked) -> Seen {
    let mut lines = Lines::default();
    for header in response.headers.iter() {
        lines.take(header.name, header.value);
    }
    let status = response.code.unwrap_or(0);
    let body = lines.body(status, asked, response.version == Some(0));
    let lasting = if response.version == Some(0) { lines.keep && !lines.close } else { !lines.close };
    let head = AnswerHead {
        status,
        keep_alive: lasting && body != Ok(State::UntilClose),
        stop: lines.stop,
        set_cookie: lines.set_cookie,
        retry_after_s: lines.retry_after_s,
        cache: lines.cache.status(),
    };
    Seen { head, body }
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
