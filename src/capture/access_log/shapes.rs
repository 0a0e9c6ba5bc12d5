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
use crate::limits::{LOG_CHUNK_LINES, LOG_SHAPES_BYTES_MAX, LOG_SHAPES_MAX};
use crate::lookup::{Lookup, Remembered};
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
    shapes: Remembered<(u64, u64, [u8; 3]), SharedShape>,
    next: u64,
    shown: Shown,
}

#[derive(Debug)]
struct Asked {
    method: Text,
    authority: Option<Text>,
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

/// A part of shapes: its number, and its bytes.
#[derive(Debug)]
struct Part<T> {
    number: u64,
    bytes: usize,
    part: T,
}

/// What was shown so far among the lines whose memory is reckoned together. Apart from what is remembered, because that
/// depends on what was read before.
#[derive(Debug, Default)]
struct Shown {
    asked: Lookup<Hash128, ()>,
    lines: Lookup<Hash128, ()>,
    shapes: Lookup<(Hash128, Hash128, [u8; 3]), ()>,
    requests: usize,
}

impl Shown {
    fn clear(&mut self) {
        self.asked.clear();
        self.lines.clear();
        self.shapes.clear();
        self.requests = 0;
    }

    /// Bytes of a request that were not shown before, of those of its target, its header lines and its shape.
    fn add(&mut self, asked: (Hash128, usize), lines: (Hash128, usize), flags: [u8; 3]) -> usize {
        self.requests += 1;
        let new = |first: bool, bytes: usize| if first { bytes } else { 0 };
        new(self.asked.insert(asked.0, ()).is_none(), asked.1)
            + new(self.lines.insert(lines.0, ()).is_none(), lines.1)
            + new(self.shapes.insert((asked.0, lines.0, flags), ()).is_none(), OWN_BYTES)
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
            shapes: Remembered::new(LOG_SHAPES_MAX, 2 * LOG_SHAPES_BYTES_MAX),
            next: 0,
            shown: Shown::default(),
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
        self.shown.clear();
    }

    /// The shape of a line's request, and the bytes of it that no line of this chunk showed before.
    ///
    /// # Errors
    /// [`LineError::Grown`] where redaction makes it longer than a trace may hold.
    pub fn of(&mut self, row: &Row<'_>) -> Result<(SharedShape, usize), LineError> {
        // Where nobody cuts chunks they end here.
        if self.shown.requests >= LOG_CHUNK_LINES {
            self.begin();
        }
        let asked_key = hash128(self.seed, &(&row.method, &row.target));
        let (asked, asked_bytes) = match self.asked.get_mut(&asked_key) {
            Some(part) => (part.number, part.bytes),
            None => self.ask(asked_key, row),
        };
        let known: [&[u8]; 3] = [&row.host, &row.user_agent, &row.referer];
        let lines_key = if row.headers.is_empty() {
            hash128(self.seed, &known)
        } else {
            hash128(self.seed, &(known, &row.headers))
        };
        let (lines, lines_bytes) = match self.lines.get_mut(&lines_key) {
            Some(part) => (part.number, part.bytes),
            None => self.list(lines_key, row),
        };
        let version = row.version.unwrap_or(Version::Http11);
        let flags = [
            version as u8,
            u8::from(row.user || row.authorization) | u8::from(row.cookie) << 1,
            u8::from(row.scheme == Some(Scheme::Https)),
        ];
        let key = (asked, lines, flags);
        let shape = match self.shapes.get_mut(&key) {
            Some(shape) => Arc::clone(shape),
            None => {
                let shape = self.join(row, version, (&asked_key, &lines_key))?;
                // It keeps its parts, also when they are forgotten.
                let bytes = OWN_BYTES + asked_bytes + lines_bytes;
                self.shapes.insert(key, Arc::clone(&shape), bytes);
                shape
            }
        };
        let bytes = self.shown.add((asked_key, asked_bytes), (lines_key, lines_bytes), flags);
        Ok((shape, bytes))
    }

    fn join(
        &mut self,
        row: &Row<'_>,
        version: Version,
        (asked, lines): (&Hash128, &Hash128),
    ) -> Result<SharedShape, LineError> {
        let (Some(asked), Some(lines)) = (self.asked.get_mut(asked), self.lines.get_mut(lines)) else {
            return Err(LineError::Missing("shape"));
        };
        let shape = join(row, version, &asked.part, &lines.part);
        if shape.weight() > EVENT_BYTES_MAX { Err(LineError::Grown) } else { Ok(Arc::new(shape)) }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn ask(&mut self, key: Hash128, row: &Row<'_>) -> (u64, usize) {
        let (number, part) = (self.number(), Asked::of(row, &self.redactor));
        let authority = part.authority.as_ref().map_or(0, |a| a.len());
        let bytes = OVERHEAD * 4 + part.method.len() + part.target.len() + authority;
        self.asked.insert(key, Part { number, bytes, part }, bytes);
        (number, bytes)
    }

    fn list(&mut self, key: Hash128, row: &Row<'_>) -> (u64, usize) {
        let (number, part) = (self.number(), self.redactor.lines(&header_lines(row)));
        let host = part.host.as_ref().map_or(0, |h| h.len());
        let headers = part.headers.iter().map(|h| 2 * OVERHEAD + h.bytes()).sum::<usize>();
        let bytes = 2 * OVERHEAD + headers + host;
        self.lines.insert(key, Part { number, bytes, part }, bytes);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn row<'a>(target: &'a str, host: &'a str, agent: &'a str) -> Row<'a> {
        Row {
            method: b"GET"[..].into(),
            target: target.as_bytes().into(),
            host: host.as_bytes().into(),
            user_agent: agent.as_bytes().into(),
            ..Row::default()
        }
    }

    /// The same whether it is remembered or made anew, and whatever was read before: a target, header lines and their pair are
    /// reckoned once in a chunk each, with all their bytes.
    #[test]
    fn bytes_are_reckoned_by_the_chunk_alone() {
        let long = "h".repeat(60_000);
        let of_chunk = |shapes: &mut Shapes| {
            shapes.begin();
            let all = [
                ("/a", "x", "u"),
                ("/a", "x", "u"),
                ("/b", "x", "u"),
                ("/a", &long, "u"),
                ("/b", &long, "u"),
            ];
            all.map(|(target, host, agent)| shapes.of(&row(target, host, agent)).unwrap().1)
        };
        let mut shapes = Shapes::new(1, Redactor::with_key(b"k"));
        let new = of_chunk(&mut shapes);
        assert!(new[0] > new[2] && new[1] == 0 && new[2] > OWN_BYTES && new[4] == OWN_BYTES, "{new:?}");
        assert!((120_000..121_000).contains(&new[3]), "the header line and the authority: {new:?}");
        assert_eq!(of_chunk(&mut shapes), new, "remembered");
        // Now what was remembered is forgotten on the way, in the middle of a chunk too.
        let many = |shapes: &mut Shapes| {
            for n in 0..3 * LOG_SHAPES_MAX {
                shapes.of(&row(&format!("/{n}"), "x", &format!("a{n}"))).unwrap();
            }
        };
        many(&mut shapes);
        assert_eq!(of_chunk(&mut shapes), new, "forgotten");
        let mut other = Shapes::new(1, Redactor::with_key(b"k"));
        let chunk = |shapes: &mut Shapes| -> Vec<usize> {
            shapes.begin();
            let one = |n: usize| {
                shapes.of(&row(&format!("/{}", n % 700), "x", &format!("a{}", n % 900))).unwrap().1
            };
            (0..LOG_CHUNK_LINES).map(one).collect()
        };
        many(&mut other);
        assert_eq!(chunk(&mut other), chunk(&mut Shapes::new(1, Redactor::with_key(b"k"))));
    }

    /// What is remembered holds no more than it is reckoned: long targets are forgotten sooner.
    #[test]
    fn what_is_remembered_is_bounded_in_bytes() {
        let mut shapes = Shapes::new(1, Redactor::with_key(b"k"));
        let mut held = Vec::new();
        for n in 0..2_000 {
            let target = format!("/{n}/{}", "p".repeat(30_000));
            let (shape, bytes) = shapes.of(&row(&target, "x", "u")).unwrap();
            assert!(bytes > 30_000);
            held.push(Arc::downgrade(&shape));
        }
        let alive = held.iter().filter(|s| s.strong_count() > 0).count();
        assert!(alive > 100 && alive * 30_000 <= 4 * LOG_SHAPES_BYTES_MAX, "{alive}");
    }

    #[test]
    fn one_that_grows_too_long_is_refused_and_reckoned_to_nobody() {
        let mut shapes = Shapes::new(1, Redactor::with_key(b"k"));
        let target = format!("/?{}", "pin=1&".repeat(10_000));
        assert_eq!(shapes.of(&row(&target, "x", "u")).err(), Some(LineError::Grown));
        assert!(shapes.of(&row("/", "x", "u")).unwrap().1 > 2 * OWN_BYTES, "the header lines are new still");
    }
}
