//! The head of a request: lines as recorded (order, case, duplicates), but for what one hop owns, for what would be
//! forged, for what the policy's rules change, and for the marks of our traffic.
//!
//! It refuses to make a head out of anything that could be read as two.

use super::draw::{Salt, hash64};
use super::prepared::{Body, Marking, Piece, hex};
use super::rewrite::{Part, Put, Rewrite, Template};
use crate::trace::shape::{Header, HeaderValue, RequestShape};
use crate::wire::head::Version;

/// Lines that belong to one hop, that we set ourselves, or that must never be forged.
const LEFT_OUT: [&str; 17] = [
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
    "http2-settings",
    "x-forwarded-for",
    "forwarded",
    "x-real-ip",
    "traceparent",
    "tracestate",
    "b3",
    "x-request-id",
    "x-replay-run",
    "x-replay-stop",
];

/// A head in pieces.
pub(super) struct Head {
    /// Pieces; the last one ends the head and holds the trace id.
    pub(super) pieces: Box<[Piece]>,
    /// Where in the last piece the second half of the trace id begins.
    pub(super) trace_at: usize,
    /// The connection may carry another request after this one.
    pub(super) lasting: bool,
}

/// Makes the head of a request.
pub(super) fn build(shape: &RequestShape, marking: &Marking, put: Option<&Put>, body: &Body) -> Head {
    let mut b = Builder {
        marking,
        rules: &marking.rewrite,
        shape,
        put,
        body,
        pieces: Vec::new(),
        plain: Vec::with_capacity(512),
        host: false,
        agent: false,
        cookies: false,
        length: false,
        lasting: shape.version != Version::Http10,
    };
    b.request_line();
    // HTTP/1.1 needs a Host, and it comes first (RFC 9110, section 7.2) unless it stood elsewhere.
    if !shape.headers.iter().any(|h| h.name.eq_ignore_ascii_case(b"host")) {
        b.line(b"Host", &[marking.authority.as_bytes()]);
        b.host = true;
    }
    let mut given: Vec<&str> = Vec::new();
    for header in shape.headers.iter() {
        b.recorded(header, &mut given);
    }
    b.rest(&given);
    let lasting = b.lasting;
    let trace_at = b.marks();
    Head { pieces: b.pieces.into_boxed_slice(), trace_at, lasting }
}

struct Builder<'a> {
    marking: &'a Marking,
    rules: &'a Rewrite,
    shape: &'a RequestShape,
    put: Option<&'a Put>,
    body: &'a Body,
    pieces: Vec<Piece>,
    plain: Vec<u8>,
    host: bool,
    agent: bool,
    cookies: bool,
    length: bool,
    lasting: bool,
}

impl<'a> Builder<'a> {
    fn flush(&mut self) {
        if !self.plain.is_empty() {
            self.pieces.push(Piece::Bytes(std::mem::take(&mut self.plain).into_boxed_slice()));
        }
    }

    fn line(&mut self, name: &[u8], value: &[&[u8]]) {
        self.plain.extend_from_slice(name);
        self.plain.extend_from_slice(b": ");
        value.iter().for_each(|v| self.plain.extend_from_slice(v));
        self.plain.extend_from_slice(b"\r\n");
    }

    fn template(&mut self, template: &Template) {
        for part in &template.0 {
            match part {
                Part::Text(text) => self.plain.extend_from_slice(text),
                Part::Value(n, encode) => {
                    self.flush();
                    self.pieces.push(Piece::Value(*n, *encode));
                }
            }
        }
    }

    fn request_line(&mut self) {
        self.plain.extend_from_slice(&self.shape.method);
        self.plain.push(b' ');
        match self.put.and_then(|p| p.target.as_ref()) {
            Some(target) => self.template(target),
            None => self.plain.extend_from_slice(&self.shape.target),
        }
        self.plain.extend_from_slice(b" HTTP/");
        let version = if self.shape.version == Version::Http10 { Version::Http10 } else { Version::Http11 };
        self.plain.extend_from_slice(version.text().as_bytes());
        self.plain.extend_from_slice(b"\r\n");
    }

    /// A header of a rule: by template, or as it is. Whether there is one.
    fn ruled(&mut self, name: &[u8]) -> Option<&'a str> {
        let same = |n: &str| name.eq_ignore_ascii_case(n.as_bytes());
        if let Some((rule, template)) = self.put.and_then(|p| p.headers.iter().find(|(n, _)| same(n))) {
            self.plain.extend_from_slice(name);
            self.plain.extend_from_slice(b": ");
            self.template(template);
            self.plain.extend_from_slice(b"\r\n");
            return Some(rule);
        }
        let set = self.rules.set_on(self.shape).find(|s| same(&s.name))?;
        self.line(name, &[set.value.reveal()]);
        Some(&set.name)
    }

    fn recorded(&mut self, header: &Header, given: &mut Vec<&'a str>) {
        let is = |n: &str| header.name.eq_ignore_ascii_case(n.as_bytes());
        if given.iter().any(|g| is(g)) {
            return;
        }
        if let Some(rule) = self.ruled(&header.name) {
            given.push(rule);
            return;
        }
        if self.rules.remove.iter().any(|r| is(r)) {
            return;
        }
        match &header.value {
            _ if is("host") => {
                if !self.host {
                    self.line(&header.name, &[self.marking.authority.as_bytes()]);
                }
                self.host = true;
            }
            _ if is("cookie") => self.cookie_line(),
            HeaderValue::Kept(value) if is("user-agent") && !self.agent => {
                self.line(&header.name, &[value, b" ", self.marking.agent_suffix.as_bytes()]);
                self.agent = true;
            }
            HeaderValue::Kept(value) if is("connection") => {
                if value.eq_ignore_ascii_case(b"close") || value.eq_ignore_ascii_case(b"keep-alive") {
                    self.line(&header.name, &[value]);
                    self.lasting = value.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            HeaderValue::Kept(_) if is("content-length") || is("transfer-encoding") => {
                let zero = matches!(&header.value, HeaderValue::Kept(v) if is("content-length") && v == b"0");
                self.length_line(&header.name, zero);
            }
            HeaderValue::Kept(value) if !LEFT_OUT.iter().any(|l| is(l)) && !is("user-agent") => {
                self.line(&header.name, &[value]);
            }
            HeaderValue::Kept(_) | HeaderValue::Redacted { .. } => {}
        }
    }

    fn cookie_line(&mut self) {
        if !self.cookies {
            self.flush();
            self.pieces.push(Piece::Cookies);
            self.cookies = true;
        }
    }

    /// `Content-Length` where the recording had it, or had `Transfer-Encoding` instead: the length is known.
    fn length_line(&mut self, name: &[u8], zero: bool) {
        if std::mem::replace(&mut self.length, true) {
            return;
        }
        let name =
            if name.eq_ignore_ascii_case(b"transfer-encoding") { &b"Content-Length"[..] } else { name };
        match self.body {
            Body::None if zero => self.line(name, &[b"0"]),
            Body::None => {}
            Body::Filler(filler) => self.line(name, &[filler.len().to_string().as_bytes()]),
            Body::Template(_) => {
                self.plain.extend_from_slice(name);
                self.plain.extend_from_slice(b": ");
                self.flush();
                self.pieces.push(Piece::BodyLength);
                self.plain.extend_from_slice(b"\r\n");
            }
        }
    }

    /// What the recording did not have a place for.
    fn rest(&mut self, given: &[&str]) {
        if !self.agent {
            self.line(b"User-Agent", &[b"- ", self.marking.agent_suffix.as_bytes()]);
        }
        let (put, rules, shape) = (self.put, self.rules, self.shape);
        let put = put.into_iter().flat_map(|p| p.headers.iter().map(|(n, _)| n.as_str()));
        let mut done: Vec<&str> = given.to_vec();
        for name in put.chain(rules.set_on(shape).map(|s| s.name.as_str())) {
            if !done.iter().any(|d| d.eq_ignore_ascii_case(name)) && self.ruled(name.as_bytes()).is_some() {
                done.push(name);
            }
        }
        let removed = rules.remove.iter().any(|r| r == "cookie");
        if !removed && !done.iter().any(|d| d.eq_ignore_ascii_case("cookie")) {
            self.cookie_line();
        }
        if !self.length && *self.body != Body::None {
            self.length_line(b"Content-Length", false);
        }
    }

    /// The marks of our traffic and the end of the head; where the second half of the trace id begins.
    fn marks(&mut self) -> usize {
        self.flush();
        self.line(b"X-Replay-Run", &[self.marking.run_id.as_bytes()]);
        // A W3C trace context that asks not to be sampled (flags 00).
        self.plain.extend_from_slice(b"traceparent: 00-");
        self.plain.extend_from_slice(&hex(hash64(self.marking.trace_seed, Salt::Trace)));
        let at = self.plain.len();
        self.plain.extend_from_slice(b"0000000000000000-0000000000000000-00\r\n\r\n");
        self.flush();
        at
    }
}
