//! What one line says, whatever its format, borrowed from the line where that is possible.
//!
//! Formats fill a [`Row`] field by field; [`Row::check`] refuses what is not a request. Client addresses and users are
//! here to tell sessions apart and that somebody was logged in: they go no further.

use std::borrow::Cow;

use super::clock::{self, Stamp, TimeForm};
use super::escape::{Escape, unescape};
use crate::trace::Scheme;
use crate::wire::cache::{CacheLines, CacheStatus};
use crate::wire::head::{Version, is_token};

/// Bytes of a line, or undone escapes of them.
pub type Text<'a> = Cow<'a, [u8]>;

/// Why a line was not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// The line does not have the form.
    #[error("byte {at} of the line: {want}")]
    Form {
        /// Offset in the line.
        at: u32,
        /// What stands there in this format.
        want: &'static str,
    },
    /// A value that cannot be read.
    #[error("the {0} cannot be read")]
    Value(&'static str),
    /// There is no such value, and without it there is no request.
    #[error("the line has no {0}")]
    Missing(&'static str),
    /// What stands in the place of the request is none.
    #[error("the request is not METHOD target HTTP/x")]
    Request,
    /// A line of a program about itself, among access lines.
    #[error("not an access line")]
    Other,
    /// Redaction makes it longer than a trace may hold.
    #[error(
        "with what stands in for secrets, its request is longer than {} bytes",
        crate::trace::writer::EVENT_BYTES_MAX
    )]
    Grown,
    /// It is a part of a line, whose end is not there.
    #[error("a part of a line, whose end is not there")]
    Unended,
    /// The line is too long.
    #[error("longer than {} bytes", crate::limits::LOG_LINE_BYTES_MAX)]
    TooLong,
}

/// Unit of a duration in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Seconds, with decimals or without.
    Seconds,
    /// Milliseconds.
    Millis,
    /// Microseconds.
    Micros,
    /// Nanoseconds.
    Nanos,
}

impl Unit {
    fn digits(self) -> u32 {
        match self {
            Self::Seconds => 9,
            Self::Millis => 6,
            Self::Micros => 3,
            Self::Nanos => 0,
        }
    }
}

/// What a column or key of a log means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// Nothing that is used.
    Skip,
    /// A list as nginx writes of upstreams (`a, b : c`): not used, and its blanks do not end it.
    SkipList,
    /// Client address or name.
    Client,
    /// Client address or name, which must look like one: tells two formats apart.
    Address,
    /// Client port: with the address it is a real connection.
    ClientPort,
    /// `address:port` or `[address]:port`.
    ClientAndPort,
    /// Logged-in user.
    User,
    /// Host that was asked for.
    Host,
    /// Host of the server, which counts where nothing says what was asked for.
    ServerName,
    /// `http` or `https`; also `h2`, `ws`, `wss`, `grpcs` of load balancers.
    Scheme,
    /// Method.
    Method,
    /// Target as sent: path and query, or absolute.
    Target,
    /// Path without the query.
    Path,
    /// Query, with or without its `?`.
    Query,
    /// `HTTP/1.1` and so on.
    Protocol,
    /// `METHOD target HTTP/1.1`.
    RequestLine,
    /// Status.
    Status,
    /// Body bytes of the answer.
    ResponseLen,
    /// Body bytes of the request.
    RequestBody,
    /// Referer.
    Referer,
    /// User agent.
    UserAgent,
    /// Addresses a proxy forwarded for.
    Forwarded,
    /// Serial number of the connection at the server.
    Connection,
    /// Whether a cache had it.
    Cache,
    /// `true` or `false`: whether a cache had it.
    CacheHit,
    /// There were cookies, if it is not `-`.
    Cookie,
    /// There was a credential, if it is not `-`.
    Authorization,
    /// Another request header.
    Header(Vec<u8>),
    /// The stamp.
    Time(TimeForm),
    /// The stamp of the request's beginning, where the format has another one too.
    StartTime(TimeForm),
    /// How long the request took.
    Duration(Unit),
    /// A part of the time it took; all of them are added up.
    PartDuration(Unit),
}

/// What one line says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row<'a> {
    /// Client address as text.
    pub client: Text<'a>,
    /// Client port.
    pub port: Text<'a>,
    /// Serial of the connection.
    pub connection: Text<'a>,
    /// Somebody was logged in.
    pub user: bool,
    /// Cookies were sent.
    pub cookie: bool,
    /// A credential was sent.
    pub authorization: bool,
    /// Host.
    pub host: Text<'a>,
    /// Host of the server.
    pub server_name: Text<'a>,
    /// Scheme.
    pub scheme: Option<Scheme>,
    /// Method.
    pub method: Text<'a>,
    /// Target.
    pub target: Text<'a>,
    /// Query, where it is a column of its own.
    pub query: Text<'a>,
    /// Version, where the format has it.
    pub version: Option<Version>,
    /// Status.
    pub status: Option<u16>,
    /// Body bytes of the answer.
    pub response_len: Option<u64>,
    /// Body bytes of the request.
    pub request_body: Option<u64>,
    /// Referer.
    pub referer: Text<'a>,
    /// User agent.
    pub user_agent: Text<'a>,
    /// Forwarded-for addresses.
    pub forwarded: Text<'a>,
    /// Whether a cache had it.
    pub cache: Option<CacheStatus>,
    /// Other headers.
    pub headers: Vec<(Vec<u8>, Text<'a>)>,
    /// The stamp.
    pub stamp: Option<Stamp>,
    /// The stamp of the beginning.
    pub start_stamp: Option<Stamp>,
    /// Duration.
    pub duration_ns: Option<u64>,
    /// What stood in the place of the request is none.
    pub not_a_request: bool,
}

/// `-` and nothing stand for no value, in all formats.
fn present(value: &[u8]) -> bool {
    !matches!(value, b"" | b"-" | b"\"\"" | b"\"-\"")
}

impl<'a> Row<'a> {
    /// Takes one value.
    ///
    /// # Errors
    /// [`LineError::Value`] where it must be understood and is not. What is only nice to have is left out instead.
    pub fn set(&mut self, field: &Field, raw: &'a [u8], escape: Escape) -> Result<(), LineError> {
        let text = |raw| if present(raw) { unescape(raw, escape) } else { Cow::Borrowed(&b""[..]) };
        match field {
            Field::Skip | Field::SkipList => {}
            Field::Client => self.client = text(raw),
            Field::Address => {
                if !raw.iter().any(|b| b".:".contains(b)) || raw.contains(&b'[') {
                    return Err(LineError::Value("client address"));
                }
                self.client = text(raw);
            }
            Field::ClientPort => self.port = text(raw),
            Field::ClientAndPort => self.client_and_port(raw),
            Field::User => self.user = present(raw),
            Field::Host => self.host = text(raw),
            Field::ServerName => self.server_name = text(raw),
            Field::Scheme => self.scheme(raw),
            Field::Method => self.method = text(raw),
            Field::Target | Field::Path => self.target = text(raw),
            Field::Query => {
                let query = text(raw);
                self.query = match query {
                    Cow::Borrowed(q) => Cow::Borrowed(q.strip_prefix(b"?").unwrap_or(q)),
                    Cow::Owned(q) => Cow::Owned(q.strip_prefix(b"?").unwrap_or(&q).to_vec()),
                };
            }
            Field::Protocol => self.version = if present(raw) { version(raw) } else { None },
            Field::RequestLine => self.request_line(unescape(raw, escape)),
            Field::Status => {
                let known = number(raw);
                // No answer is written `-`, `-1` or 0. Anything else is another column.
                if known.is_none() && !matches!(raw, b"-" | b"-1" | b"") {
                    return Err(LineError::Value("status"));
                }
                self.status = known.and_then(|n| u16::try_from(n).ok()).filter(|s| (100..1000).contains(s));
            }
            Field::ResponseLen => self.response_len = if raw == b"-" { Some(0) } else { number(raw) },
            Field::RequestBody => self.request_body = number(raw),
            Field::Referer => self.referer = text(raw),
            Field::UserAgent => self.user_agent = text(raw),
            Field::Forwarded => self.forwarded = text(raw),
            Field::Connection => self.connection = text(raw),
            Field::Cache => {
                let mut lines = CacheLines::default();
                lines.take("x-cache", raw);
                self.cache = lines.status();
            }
            Field::CacheHit => {
                self.cache = match raw {
                    b"true" => Some(CacheStatus::Hit),
                    b"false" => Some(CacheStatus::Miss),
                    _ => None,
                }
            }
            Field::Cookie => self.cookie = present(raw),
            Field::Authorization => self.authorization = present(raw),
            Field::Header(name) => {
                if present(raw) {
                    self.headers.push((name.clone(), unescape(raw, escape)));
                }
            }
            Field::Time(form) => self.time(form, raw, false)?,
            Field::StartTime(form) => self.time(form, raw, true)?,
            Field::Duration(unit) => self.duration_ns = duration(raw, *unit),
            Field::PartDuration(unit) => {
                if let Some(part) = duration(raw, *unit) {
                    self.duration_ns = Some(self.duration_ns.unwrap_or(0).saturating_add(part));
                }
            }
        }
        Ok(())
    }

    fn time(&mut self, form: &TimeForm, raw: &[u8], start: bool) -> Result<(), LineError> {
        if !present(raw) {
            return Ok(());
        }
        let place = if start { &mut self.start_stamp } else { &mut self.stamp };
        let stamp = clock::read(form, raw, *place).ok_or(LineError::Value("time"))?;
        // Where a format has several, the finest counts.
        if place.is_none_or(|old| stamp.resolution_ns <= old.resolution_ns) {
            *place = Some(stamp);
        }
        Ok(())
    }

    fn client_and_port(&mut self, raw: &'a [u8]) {
        let cut =
            raw.iter().rposition(|b| *b == b':').filter(|i| raw[i + 1..].iter().all(u8::is_ascii_digit));
        let bare = |a: &'a [u8]| a.strip_prefix(b"[").and_then(|a| a.strip_suffix(b"]")).unwrap_or(a);
        match cut {
            // `2001:db8::1` has no port, `[2001:db8::1]:80` has one.
            Some(i) if raw[..i].ends_with(b"]") || !raw[..i].contains(&b':') => {
                self.client = Cow::Borrowed(bare(&raw[..i]));
                self.port = Cow::Borrowed(&raw[i + 1..]);
            }
            _ if present(raw) => self.client = Cow::Borrowed(bare(raw)),
            _ => {}
        }
    }

    fn scheme(&mut self, raw: &[u8]) {
        self.scheme = match raw {
            b"http" | b"ws" => Some(Scheme::Http),
            b"https" | b"wss" | b"h2" | b"grpcs" => Some(Scheme::Https),
            _ => None,
        };
        if matches!(raw, b"h2" | b"grpcs") {
            self.version.get_or_insert(Version::Http2);
        }
    }

    fn request_line(&mut self, line: Text<'a>) {
        let parts = |line: &[u8]| -> Option<(usize, usize, Version)> {
            let first = line.iter().position(|b| *b == b' ')?;
            let last = line.iter().rposition(|b| *b == b' ').filter(|l| *l > first)?;
            Some((first, last, version(&line[last + 1..])?))
        };
        let Some((first, last, version)) = parts(&line) else {
            self.not_a_request = true;
            return;
        };
        self.version = Some(version);
        match line {
            Cow::Borrowed(l) => {
                (self.method, self.target) = (Cow::Borrowed(&l[..first]), Cow::Borrowed(&l[first + 1..last]));
            }
            Cow::Owned(l) => {
                (self.method, self.target) =
                    (Cow::Owned(l[..first].to_vec()), Cow::Owned(l[first + 1..last].to_vec()));
            }
        }
    }

    /// Refuses what is not a request.
    ///
    /// # Errors
    /// [`LineError::Missing`] and [`LineError::Request`].
    pub fn check(mut self) -> Result<Self, LineError> {
        if self.not_a_request {
            return Err(LineError::Request);
        }
        if self.stamp.is_none() && self.start_stamp.is_none() {
            return Err(LineError::Missing("time"));
        }
        if self.method.is_empty() {
            return Err(LineError::Missing("method"));
        }
        if self.target.is_empty() {
            return Err(LineError::Missing("target"));
        }
        if !self.query.is_empty() {
            self.target = Cow::Owned([&self.target[..], b"?", &self.query[..]].concat());
        }
        let clean = self.target.iter().all(|b| *b > b' ' && *b != 0x7f);
        if !clean || self.method.len() > 32 || !self.method.iter().all(|b| is_token(*b)) {
            return Err(LineError::Request);
        }
        if self.host.is_empty() {
            self.host = std::mem::take(&mut self.server_name);
        }
        Ok(self)
    }
}

/// The version a log names. HTTP/3 is sent as HTTP/2: also one connection for a session's requests at once.
fn version(raw: &[u8]) -> Option<Version> {
    match raw {
        b"HTTP/1.1" | b"http/1.1" => Some(Version::Http11),
        b"HTTP/1.0" | b"http/1.0" => Some(Version::Http10),
        b"HTTP/2.0" | b"HTTP/2" | b"http/2.0" | b"h2" | b"HTTP/3.0" | b"HTTP/3" | b"h3" => {
            Some(Version::Http2)
        }
        _ => None,
    }
}

/// Decimal digits and nothing else.
pub(super) fn number(raw: &[u8]) -> Option<u64> {
    if raw.is_empty() || raw.len() > 19 {
        return None;
    }
    raw.iter().try_fold(0u64, |n, b| b.is_ascii_digit().then(|| n * 10 + u64::from(b - b'0')))
}

/// A duration in nanoseconds; `-`, `-1` and words are none. A `+` in front (HAProxy, `logasap`) is a lower bound, and none.
fn duration(raw: &[u8], unit: Unit) -> Option<u64> {
    clock::decimal(raw, unit.digits())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(fields: &[(Field, &'static str)]) -> Result<Row<'static>, LineError> {
        let mut row = Row::default();
        for (field, value) in fields {
            row.set(field, value.as_bytes(), Escape::Backslash)?;
        }
        row.check()
    }

    const TIME: (Field, &str) = (Field::Time(TimeForm::EpochSeconds), "1700000000.5");

    #[test]
    fn requests_and_what_is_none() {
        let ok = |line| {
            row(&[TIME, (Field::RequestLine, line)]).map(|r| (r.method.into_owned(), r.target.into_owned()))
        };
        assert_eq!(ok("GET /a?b HTTP/1.1"), Ok((b"GET".to_vec(), b"/a?b".to_vec())));
        assert_eq!(ok("PATCHp x HTTP/2.0"), Ok((b"PATCHp".to_vec(), b"x".to_vec())));
        for bad in [
            "-",
            "",
            "GET /",
            "GET /a b HTTP/1.1",
            "\\x16\\x03\\x01 a HTTP/1.1",
            "GET / HTTP/9",
            "GET  HTTP/1.1",
        ] {
            let got = ok(bad);
            assert!(matches!(got, Err(LineError::Request | LineError::Missing("target"))), "{bad}: {got:?}");
        }
        assert_eq!(row(&[(Field::RequestLine, "GET / HTTP/1.1")]), Err(LineError::Missing("time")));
        assert_eq!(
            row(&[TIME, (Field::Target, "/")]),
            Err(LineError::Missing("method")),
            "GET is never assumed"
        );
        let split =
            row(&[TIME, (Field::Method, "GET"), (Field::Path, "/a"), (Field::Query, "?x=1")]).unwrap();
        assert_eq!(&split.target[..], b"/a?x=1");
    }

    #[test]
    fn addresses_with_ports() {
        #[rustfmt::skip]
        let table = [
            ("1.2.3.4:80", "1.2.3.4", "80"), ("[2001:db8::1]:443", "2001:db8::1", "443"), ("2001:db8::1", "2001:db8::1", ""),
            ("1.2.3.4", "1.2.3.4", ""), ("-", "", ""), ("[::1]", "::1", ""), ("unix:", "unix", ""),
        ];
        for (raw, client, port) in table {
            let mut r = Row::default();
            r.set(&Field::ClientAndPort, raw.as_bytes(), Escape::None).unwrap();
            assert_eq!((&r.client[..], &r.port[..]), (client.as_bytes(), port.as_bytes()), "{raw}");
        }
    }

    #[test]
    fn numbers_and_durations() {
        assert_eq!(
            (number(b"12"), number(b""), number(b"-1"), number(b"99999999999999999999")),
            (Some(12), None, None, None)
        );
        #[rustfmt::skip]
        let table = [
            ("0.123", Unit::Seconds, Some(123_000_000)), ("2", Unit::Seconds, Some(2_000_000_000)), ("15", Unit::Millis, Some(15_000_000)),
            ("215563", Unit::Nanos, Some(215_563)), ("-1", Unit::Millis, None), ("-", Unit::Seconds, None), ("+15", Unit::Millis, None),
            ("2.701e-06", Unit::Seconds, Some(2_701)), ("0.000002701", Unit::Seconds, Some(2_701)), ("x", Unit::Millis, None),
        ];
        for (raw, unit, want) in table {
            assert_eq!(duration(raw.as_bytes(), unit), want, "{raw}");
        }
    }
}
