//! The shapes of a log's requests: each made once, whoever asks for it again.
//!
//! What a client sends with every target (its user agent, its language) and what many clients ask for are looked at once
//! each, not once for each pair of them: redaction reads every byte, and a busy log has a hundred times more pairs than
//! parts. What is remembered is bounded by count and bytes, oldest first.
//!
//! What a line holds in memory is reckoned by what it is the first to show in its chunk, not by who holds a shape at the
//! moment: the same log gives the same trace however many threads read it and however far they are.

use std::sync::{Arc, LazyLock};

use super::row::{LineError, Row};
use super::session::{Hash128, hash128};
use crate::capture::redact::{Lines, Redactor, Target};
use crate::limits::{LOG_SHAPES_BYTES_MAX, LOG_SHAPES_MAX};
use crate::lookup::Remembered;
use crate::trace::shape::{SharedShape, Text};
use crate::trace::writer::EVENT_BYTES_MAX;
use crate::trace::{RequestShape, Scheme};
use crate::wire::head::{HeaderLine, Version};

/// What an allocation costs beside what it holds, bytes.
const OVERHEAD: usize = 64;

/// Bytes of a shape without its parts.
const OWN_BYTES: usize = size_of::<RequestShape>() + 2 * OVERHEAD;

/// Shapes seen, and the parts they are made of.
#[derive(Debug)]
pub struct Shapes {
    redactor: Redactor,
    seed: u64,
    /// Methods with targets.
    asked: Remembered<Hash128, Part<Asked>>,
    /// Lists of header lines.
    lines: Remembered<Hash128, Part<Lines>>,
    /// By the numbers of both, and what else there is.
    shapes: Remembered<(u64, u64, [u8; 3]), (SharedShape, u32)>,
    next: u64,
    chunk: u32,
}

#[derive(Debug)]
struct Asked {
    method: Text,
    authority: Option<Vec<u8>>,
    target: Text,
    redacted: bool,
    /// The target says `https`.
    secure: bool,
}

/// A method, those that nearly all have in one place.
fn method(method: &[u8]) -> Text {
    static GET: LazyLock<Text> = LazyLock::new(|| b"GET"[..].into());
    static POST: LazyLock<Text> = LazyLock::new(|| b"POST"[..].into());
    match method {
        b"GET" => Arc::clone(&GET),
        b"POST" => Arc::clone(&POST),
        _ => method.into(),
    }
}

impl Asked {
    fn of(row: &Row<'_>, redactor: &Redactor) -> Self {
        let Target { authority, origin, redacted } = redactor.target(&row.target);
        let secure = row.target.starts_with(b"https://");
        Self { method: method(&row.method), authority, target: origin, redacted, secure }
    }
}

/// A part of shapes: its number, and the chunk in which it was seen last.
#[derive(Debug)]
struct Part<T> {
    number: u64,
    chunk: u32,
    bytes: usize,
    part: T,
}

impl<T> Part<T> {
    /// Its number, and its bytes where it is new in this chunk.
    fn seen(&mut self, chunk: u32) -> (u64, usize) {
        let new = std::mem::replace(&mut self.chunk, chunk) != chunk;
        (self.number, if new { self.bytes } else { 0 })
    }
}

impl Shapes {
    /// None yet.
    #[must_use]
    pub fn new(seed: u64, redactor: Redactor) -> Self {
        Self {
            redactor,
            seed,
            asked: Remembered::new(LOG_SHAPES_MAX, LOG_SHAPES_BYTES_MAX),
            lines: Remembered::new(LOG_SHAPES_MAX, LOG_SHAPES_BYTES_MAX),
            shapes: Remembered::new(LOG_SHAPES_MAX, LOG_SHAPES_BYTES_MAX),
            next: 0,
            chunk: 0,
        }
    }

    /// What all hashes of this capture are seeded with.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// What requests are redacted with.
    #[must_use]
    pub fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// Another chunk begins: what its lines hold is reckoned anew.
    pub fn begin(&mut self) {
        self.chunk = self.chunk.wrapping_add(1);
    }

    /// The shape of a line's request, and the bytes of it that no line of this chunk showed before.
    ///
    /// # Errors
    /// [`LineError::Grown`] where redaction makes it longer than a trace may hold.
    pub fn of(&mut self, row: &Row<'_>) -> Result<(SharedShape, usize), LineError> {
        let asked_key = hash128(self.seed, &(&row.method, &row.target));
        let (asked, asked_bytes) = match self.asked.get_mut(&asked_key) {
            Some(part) => part.seen(self.chunk),
            None => self.ask(asked_key, row),
        };
        let known: [&[u8]; 3] = [&row.host, &row.user_agent, &row.referer];
        let lines_key = if row.headers.is_empty() {
            hash128(self.seed, &known)
        } else {
            hash128(self.seed, &(known, &row.headers))
        };
        let (lines, lines_bytes) = match self.lines.get_mut(&lines_key) {
            Some(part) => part.seen(self.chunk),
            None => self.list(lines_key, row),
        };
        let version = row.version.unwrap_or(Version::Http11);
        let flags = [
            version as u8,
            u8::from(row.user || row.authorization) | u8::from(row.cookie) << 1,
            u8::from(row.scheme == Some(Scheme::Https)),
        ];
        let key = (asked, lines, flags);
        if let Some((shape, chunk)) = self.shapes.get_mut(&key) {
            let new = std::mem::replace(chunk, self.chunk) != self.chunk;
            return Ok((Arc::clone(shape), if new { OWN_BYTES } else { 0 } + asked_bytes + lines_bytes));
        }
        let (Some(asked), Some(lines)) = (self.asked.get_mut(&asked_key), self.lines.get_mut(&lines_key))
        else {
            return Err(LineError::Missing("shape"));
        };
        let shape = Arc::new(join(row, version, &asked.part, &lines.part));
        if shape.weight() > EVENT_BYTES_MAX {
            return Err(LineError::Grown);
        }
        self.shapes.insert(key, (Arc::clone(&shape), self.chunk), OWN_BYTES);
        Ok((shape, OWN_BYTES + asked_bytes + lines_bytes))
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn ask(&mut self, key: Hash128, row: &Row<'_>) -> (u64, usize) {
        let (number, part) = (self.number(), Asked::of(row, &self.redactor));
        let authority = part.authority.as_ref().map_or(0, Vec::len);
        let bytes = OVERHEAD * 4 + part.method.len() + part.target.len() + authority;
        self.asked.insert(key, Part { number, chunk: self.chunk, bytes, part }, bytes);
        (number, bytes)
    }

    fn list(&mut self, key: Hash128, row: &Row<'_>) -> (u64, usize) {
        let (number, part) = (self.number(), self.redactor.lines(&header_lines(row)));
        let bytes = part.headers.iter().map(|h| 2 * OVERHEAD + h.bytes()).sum::<usize>() + OVERHEAD;
        self.lines.insert(key, Part { number, chunk: self.chunk, bytes, part }, bytes);
        (number, bytes)
    }
}

/// The shape of a line's request, redacted.
#[must_use]
pub fn make_shape(row: &Row<'_>, redactor: &Redactor) -> RequestShape {
    let asked = Asked::of(row, redactor);
    join(row, row.version.unwrap_or(Version::Http11), &asked, &redactor.lines(&header_lines(row)))
}

fn header_lines(row: &Row<'_>) -> Vec<HeaderLine> {
    let field = |name: &str, value: &[u8]| {
        (!value.is_empty()).then(|| HeaderLine { name: name.as_bytes().to_vec(), value: value.to_vec() })
    };
    let known =
        [field("Host", &row.host), field("User-Agent", &row.user_agent), field("Referer", &row.referer)];
    let own =
        row.headers.iter().map(|(name, value)| HeaderLine { name: name.clone(), value: value.to_vec() });
    known.into_iter().flatten().chain(own).collect()
}

fn join(row: &Row<'_>, version: Version, asked: &Asked, lines: &Lines) -> RequestShape {
    let secure = row.scheme == Some(Scheme::Https) || asked.secure;
    let mut credentials = lines.credentials;
    // The log says that somebody was logged in, or sent cookies: the request needed what it does not show.
    credentials.authorization |= row.user || row.authorization;
    credentials.cookie |= row.cookie;
    RequestShape {
        method: Arc::clone(&asked.method),
        scheme: if secure { Scheme::Https } else { Scheme::Http },
        authority: asked.authority.clone().or_else(|| lines.host.clone()),
        target: Arc::clone(&asked.target),
        version,
        headers: Arc::clone(&lines.headers),
        credentials,
        target_redacted: asked.redacted,
    }
}
