//! A request ready to be written: pieces of bytes made ahead of time, and the places where a session's own values go.
//!
//! Nearly all requests are two pieces without a value between them, so that sending copies bytes and fills in one
//! number. What needs a value that the session does not have is not written at all.

use super::PlannedRequest;
use super::body::Filler;
use super::draw::{Salt, hash64};
use super::head;
use super::rewrite::{Encode, Part, RecordedCookies, Rewrite, UNIQUE_VALUE};
use super::routes::Routes;
use super::session::SessionState;
use crate::trace::shape::{HeaderValue, RequestShape};
use crate::units::RunTime;
use crate::wire::body::Asked;
use crate::wire::head::is_token;

/// How replayed traffic is marked, and what the policy changes in it.
#[derive(Debug, Clone, Default)]
pub struct Marking {
    /// Host header.
    pub authority: String,
    /// Suffix of the user agent, with run, owner and run-book.
    pub agent_suffix: String,
    /// Run id, sent as `X-Replay-Run`.
    pub run_id: String,
    /// Seed of trace ids.
    pub trace_seed: u64,
    /// Whether it goes over TLS.
    pub https: bool,
    /// What the policy changes.
    pub rewrite: std::sync::Arc<Rewrite>,
}

/// A piece of a head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// As it is.
    Bytes(Box<[u8]>),
    /// A value of the session.
    Value(u16, Encode),
    /// The `Cookie` line of the session, if it has any.
    Cookies,
    /// The length of the body in digits.
    BodyLength,
}

/// The body of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// None.
    None,
    /// Made of the session's values.
    Template(Box<[Part]>),
    /// Made up, with the recorded length.
    Filler(Filler),
}

/// A request, ready but for its number and the values of its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    pub(super) pieces: Box<[Piece]>,
    /// Where in the last piece the second half of the trace id begins.
    pub(super) trace_at: usize,
    /// Its body.
    pub body: Body,
    /// What its answer answers.
    pub asked: Asked,
    /// It asks for the connection to end with its answer (RFC 9112, section 9.6): nothing may follow on it.
    pub closes: bool,
    /// Numbers of the values taken from its answer.
    pub takes: Box<[u16]>,
    /// It needs an account.
    pub needs_account: bool,
    /// A rule gives its target: where it leads is judged when it is written.
    pub(super) moves: bool,
    /// It had a cookie when it was recorded and is not sent without.
    pub(super) needs_cookie: bool,
}

/// A session has no value for a place that needs one, or it would lead where the policy does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoValue;

/// Digits of half a trace id, and of a span id.
const HEX_HALF: usize = 16;

/// Whether `target` can stand in a request line: no space, no control byte (RFC 9112, section 3.2).
#[must_use]
pub fn is_sendable_target(target: &[u8]) -> bool {
    !target.is_empty() && target.iter().all(|b| *b > b' ' && *b != 0x7f)
}

/// Whether all of a shape can be written as one head.
#[must_use]
pub fn is_sendable(shape: &RequestShape) -> bool {
    let name = |n: &[u8]| !n.is_empty() && n.iter().all(|b| is_token(*b));
    let value = |v: &[u8]| v.iter().all(|b| (*b >= b' ' && *b != 0x7f) || *b == b'\t');
    let line = |h: &crate::trace::shape::Header| match &h.value {
        HeaderValue::Kept(v) => name(&h.name) && value(v),
        HeaderValue::Redacted { .. } => true,
    };
    name(&shape.method) && is_sendable_target(&shape.target) && shape.headers.iter().all(line)
}

impl Prepared {
    /// Makes a request ready; `None` for one that cannot be written ([`is_sendable`]).
    #[must_use]
    pub fn of(planned: &PlannedRequest, marking: &Marking) -> Option<Self> {
        if !is_sendable(&planned.shape) {
            return None;
        }
        let (rules, shape) = (&*marking.rewrite, &*planned.shape);
        let put = rules.put(shape);
        let body = body_of(rules, planned);
        let head = head::build(shape, marking, put, &body);
        let taken = rules.takes.len();
        let templates = || {
            put.into_iter()
                .flat_map(|p| p.target.iter().chain(p.headers.iter().map(|(_, t)| t)).chain(&p.body))
        };
        let column = |v: u16| v != UNIQUE_VALUE && usize::from(v) >= taken;
        Some(Self {
            pieces: head.pieces,
            trace_at: head.trace_at,
            body,
            asked: Asked::by(&shape.method),
            closes: !head.lasting,
            takes: rules.takes_from(shape),
            needs_account: templates().any(|t| t.values().any(column)),
            moves: put.is_some_and(|p| p.target.is_some()),
            needs_cookie: shape.credentials.cookie
                && rules.cookies == RecordedCookies::FromAnswers
                && !rules.supplies(shape, b"cookie"),
        })
    }

    /// Writes the head of request `number` into `out`, in place of what was there, and a body made of values after it.
    ///
    /// # Errors
    /// [`NoValue`]; what was written is of no use.
    pub fn write(
        &self,
        marking: &Marking,
        number: u64,
        session: &SessionState,
        now: RunTime,
        out: &mut Vec<u8>,
    ) -> Result<(), NoValue> {
        out.clear();
        let trace = hash64(marking.trace_seed ^ number, Salt::Trace);
        let values = Values { marking, trace, session };
        let text = match &self.body {
            Body::Template(parts) => Some(values.fill(parts)?),
            Body::None | Body::Filler(_) => None,
        };
        let mut last = 0;
        for piece in &self.pieces {
            last = out.len();
            match piece {
                Piece::Bytes(bytes) => out.extend_from_slice(bytes),
                Piece::Value(n, encode) => values.put(*n, *encode, out)?,
                Piece::Cookies => self.cookies(marking, session, now, out)?,
                Piece::BodyLength => {
                    let len = text.as_ref().map_or(0, Vec::len);
                    out.extend_from_slice(len.to_string().as_bytes());
                }
            }
        }
        // A span id of zero is invalid.
        let span = hash64(trace, Salt::Trace) | 1;
        fill_hex(out, last + self.trace_at, trace);
        fill_hex(out, last + self.trace_at + HEX_HALF + 1, span);
        if self.moves && !leads_where_it_may(out, &marking.rewrite.routes) {
            return Err(NoValue);
        }
        if let Some(text) = text {
            out.extend_from_slice(&text);
        }
        Ok(())
    }

    fn cookies(
        &self,
        marking: &Marking,
        session: &SessionState,
        now: RunTime,
        out: &mut Vec<u8>,
    ) -> Result<(), NoValue> {
        if session.jar.is_empty() {
            return if self.needs_cookie { Err(NoValue) } else { Ok(()) };
        }
        let (before, path) = (out.len(), written_path(out).1.to_vec());
        out.extend_from_slice(b"Cookie: ");
        if session.jar.write(&path, marking.https, now, out) {
            out.extend_from_slice(b"\r\n");
            return Ok(());
        }
        out.truncate(before);
        if self.needs_cookie { Err(NoValue) } else { Ok(()) }
    }
}

/// Method and path of a head.
#[must_use]
pub fn written_path(head: &[u8]) -> (&[u8], &[u8]) {
    let mut words = head.splitn(3, |b| *b == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    (method, target.split(|b| *b == b'?').next().unwrap_or_default())
}

/// Whether a head made with values is one request for one target that the routes allow: what is judged must be what the
/// server reads, so nothing in the first line may be read in two ways.
fn leads_where_it_may(head: &[u8], routes: &Routes) -> bool {
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let [_, target, _] = words[..] else { return false };
    let (method, path) = written_path(head);
    is_sendable_target(target) && !target.contains(&b'#') && routes.permits(method, path)
}

fn body_of(rules: &Rewrite, planned: &PlannedRequest) -> Body {
    if let Some(template) = rules.put(&planned.shape).and_then(|p| p.body.as_ref()) {
        return Body::Template(template.0.clone().into_boxed_slice());
    }
    match planned.body_len {
        Some(len) if len > 0 => Body::Filler(Filler::new(planned.shape.header("content-type"), len)),
        _ => Body::None,
    }
}

/// What fills the places of one request.
struct Values<'a> {
    marking: &'a Marking,
    trace: u64,
    session: &'a SessionState,
}

impl Values<'_> {
    fn fill(&self, parts: &[Part]) -> Result<Vec<u8>, NoValue> {
        let mut out = Vec::new();
        for part in parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Value(n, encode) => self.put(*n, *encode, &mut out)?,
            }
        }
        Ok(out)
    }

    fn put(&self, number: u16, encode: Encode, out: &mut Vec<u8>) -> Result<(), NoValue> {
        if number == UNIQUE_VALUE {
            out.extend_from_slice(&hex(hash64(self.marking.trace_seed, Salt::Instance)));
            out.extend_from_slice(&hex(self.trace));
            return Ok(());
        }
        let value = self.session.value(number, self.marking.rewrite.takes.len()).ok_or(NoValue)?;
        encode.write(value, out).map_err(|()| NoValue)
    }
}

pub(super) fn hex(value: u64) -> [u8; HEX_HALF] {
    let mut digits = [0; HEX_HALF];
    for (i, digit) in digits.iter_mut().enumerate() {
        let nibble = (value >> (60 - 4 * i)) & 0xf;
        *digit = b"0123456789abcdef"[nibble as usize];
    }
    digits
}

fn fill_hex(out: &mut [u8], at: usize, value: u64) {
    if let Some(place) = out.get_mut(at..at + HEX_HALF) {
        place.copy_from_slice(&hex(value));
    }
}

#[cfg(test)]
#[path = "prepared_tests.rs"]
mod tests;
