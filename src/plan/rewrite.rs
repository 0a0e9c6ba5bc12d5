//! What a policy changes in recorded requests before they are sent: headers, credentials, values that answers gave,
//! bodies.
//!
//! Credentials and personal values are never in a trace, so a rule must say where each comes from; without a rule the
//! request is dropped at planning. A rule never sends a recorded secret, never a value it does not have, and never leads
//! a request to a route that the policy does not allow. Pure: files and environment are read elsewhere.

use std::fmt;

use super::routes::{Pattern, Routes};
use super::shift::Shift;
use super::take::Take;
use crate::trace::shape::{HeaderValue, RequestShape, TOKEN_HEADERS};
use crate::wire::head::is_token;

/// A header value that nobody may read in a log: it prints as its length.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// A value; `None` where it cannot stand in a header line.
    #[must_use]
    pub fn new(value: &[u8]) -> Option<Self> {
        let fits = !value.is_empty() && value.iter().all(|b| (*b >= b' ' && *b != 0x7f) || *b == b'\t');
        fits.then(|| Self(value.to_vec()))
    }

    /// The bytes, for the request.
    #[must_use]
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} bytes, secret]", self.0.len())
    }
}

/// A header set on every request, or on those of some routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetHeader {
    /// Only on these; `None` is every route.
    pub on: Option<Pattern>,
    /// Name as it is sent.
    pub name: String,
    /// Value.
    pub value: Secret,
}

/// What becomes of a request that carried a cookie when it was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RecordedCookies {
    /// It is dropped: nobody says where its cookie comes from.
    #[default]
    Drop,
    /// Its session gets cookies from answers; without one by then, the rest of the session is shed.
    FromAnswers,
    /// Cookies do not matter to it: it is sent with those that answers set, or with none.
    Optional,
}

/// What becomes of a request whose body was not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bodies {
    /// It is dropped.
    #[default]
    Drop,
    /// A body of the recorded length and kind is made up.
    Synthesise,
}

/// How a value is written where it is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encode {
    /// As it is.
    Raw,
    /// Percent-encoded, `/` too (RFC 3986, section 2.1).
    Url,
    /// As the inside of a JSON string (RFC 8259, section 7).
    Json,
}

impl Encode {
    /// Writes a value.
    ///
    /// # Errors
    /// Where it cannot stand there: control bytes in a raw value, a path step up in a URL.
    pub(super) fn write(self, value: &[u8], out: &mut Vec<u8>) -> Result<(), ()> {
        match self {
            Self::Raw => {
                if value.iter().any(|b| *b < b' ' || *b == 0x7f) {
                    return Err(());
                }
                out.extend_from_slice(value);
            }
            Self::Url => {
                if value == b"." || value == b".." {
                    return Err(());
                }
                for b in value {
                    if b.is_ascii_alphanumeric() || b"-._~".contains(b) {
                        out.push(*b);
                    } else {
                        out.extend_from_slice(format!("%{b:02X}").as_bytes());
                    }
                }
            }
            Self::Json => {
                let text = std::str::from_utf8(value).map_err(|_| ())?;
                let quoted = serde_json::Value::String(text.to_owned()).to_string();
                out.extend_from_slice(quoted.as_bytes().get(1..quoted.len() - 1).unwrap_or_default());
            }
        }
        Ok(())
    }
}

/// The value that every request has: 32 hexadecimal digits, another for each (for idempotency keys and the like).
pub const UNIQUE: &str = "unique";

/// Its number.
pub const UNIQUE_VALUE: u16 = u16::MAX;

/// A part of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// As written.
    Text(Vec<u8>),
    /// The value with this number, of [`Rewrite::names`].
    Value(u16, Encode),
}

/// Why a template was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTemplate {
    /// No such value.
    #[error("{{{0}}} is neither taken from an answer ([[rewrite.take]]) nor a column of the accounts")]
    Unknown(String),
    /// An encoding that does not exist.
    #[error("{{...:{0}}} is not an encoding; there are :url, :json and :raw")]
    Encoding(String),
    /// A brace too many or too few.
    #[error("a brace is not closed; write {{{{ for a brace itself")]
    Brace,
}

/// Text with `{name}`, `{name:url}`, `{name:json}` in it; `{{` and `}}` are braces.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Template(pub Vec<Part>);

impl Template {
    /// Parses a template over the values called `names`; `encode` is for values that do not say.
    ///
    /// # Errors
    /// [`BadTemplate`].
    pub fn parse(text: &str, names: &[String], encode: Encode) -> Result<Self, BadTemplate> {
        let (mut parts, mut plain, mut rest) = (Vec::new(), Vec::new(), text);
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            plain.extend_from_slice(before.as_bytes());
            if from.starts_with("{{") || from.starts_with("}}") {
                plain.extend_from_slice(&from.as_bytes()[..1]);
                rest = &from[2..];
                continue;
            }
            let inner = from.strip_prefix('{').and_then(|f| f.split_once('}'));
            let Some((word, after)) = inner else { return Err(BadTemplate::Brace) };
            let (name, how) = word.split_once(':').unwrap_or((word, ""));
            let encode = match how {
                "" => encode,
                "url" => Encode::Url,
                "json" => Encode::Json,
                "raw" => Encode::Raw,
                other => return Err(BadTemplate::Encoding(other.to_owned())),
            };
            let known = names.iter().position(|n| n == name).and_then(|n| u16::try_from(n).ok());
            let number = if name == UNIQUE { Some(UNIQUE_VALUE) } else { known };
            let number = number.ok_or_else(|| BadTemplate::Unknown(name.to_owned()))?;
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Value(number, encode));
            rest = after;
        }
        plain.extend_from_slice(rest.as_bytes());
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self(parts))
    }

    /// Numbers of the values in it.
    pub fn values(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().filter_map(|p| match p {
            Part::Value(n, _) => Some(*n),
            Part::Text(_) => None,
        })
    }
}

/// What is put into requests of one route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// Requests that it is put into.
    pub into: Pattern,
    /// Path and query, instead of the recorded ones.
    pub target: Option<Template>,
    /// Header lines.
    pub headers: Vec<(String, Template)>,
    /// Body, instead of the recorded one.
    pub body: Option<Template>,
}

impl Put {
    /// All its templates.
    fn templates(&self) -> impl Iterator<Item = &Template> {
        self.target.iter().chain(self.headers.iter().map(|(_, t)| t)).chain(&self.body)
    }
}

/// The rules of a policy, with what they need from files and environment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rewrite {
    /// Headers set.
    pub set: Vec<SetHeader>,
    /// Headers taken out, in lower case.
    pub remove: Vec<String>,
    /// Recorded cookies.
    pub cookies: RecordedCookies,
    /// Bodies.
    pub bodies: Bodies,
    /// Names of values: those taken from answers, then columns of the accounts.
    pub names: Vec<String>,
    /// What is taken from answers; the n-th fills value n.
    pub takes: Vec<Take>,
    /// What is put into requests; the first that matches.
    pub puts: Vec<Put>,
    /// Where a request with a rewritten target may lead.
    pub routes: Routes,
    /// Ids and dates in recorded targets.
    pub shifts: Vec<Shift>,
    /// Days since the recording.
    pub days: i64,
}

/// Headers that no rule may set: the connection's own, ours, and what would forge somebody.
pub const NEVER_SET: [&str; 20] = [
    "host",
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "content-length",
    "upgrade",
    "expect",
    "http2-settings",
    "x-forwarded-for",
    "forwarded",
    "x-real-ip",
    "traceparent",
    "tracestate",
    "b3",
    "user-agent",
    "x-replay-run",
    "x-replay-stop",
];

/// Whether a rule may set a header of this name.
#[must_use]
pub fn may_set(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(is_token) && !NEVER_SET.iter().any(|n| name.eq_ignore_ascii_case(n))
}

/// Words in paths of requests that log somebody in: replayed more often than recorded they need more accounts.
const LOG_IN_WORDS: [&str; 8] =
    ["login", "log-in", "logon", "signin", "sign-in", "session", "sessions", "oauth"];

impl Rewrite {
    /// The rule for requests like this, if there is one.
    #[must_use]
    pub fn put(&self, shape: &RequestShape) -> Option<&Put> {
        self.puts.iter().find(|p| p.into.matches(&shape.method, shape.path()))
    }

    /// Numbers of what is taken from answers to requests like this.
    pub fn takes_from(&self, shape: &RequestShape) -> Box<[u16]> {
        let hit = |t: &Take| t.from.matches(&shape.method, shape.path());
        let takes = self.takes.iter().zip(0u16..).filter(|(t, _)| hit(t));
        takes.map(|(_, n)| n).collect()
    }

    /// Headers set on requests like this.
    pub fn set_on<'a>(&'a self, shape: &'a RequestShape) -> impl Iterator<Item = &'a SetHeader> {
        let hit = |s: &&SetHeader| s.on.as_ref().is_none_or(|p| p.matches(&shape.method, shape.path()));
        self.set.iter().filter(hit)
    }

    /// Whether this header of requests like this is set by a rule.
    #[must_use]
    pub fn supplies(&self, shape: &RequestShape, name: &[u8]) -> bool {
        let same = |n: &str| name.eq_ignore_ascii_case(n.as_bytes());
        self.set_on(shape).any(|s| same(&s.name))
            || self.put(shape).is_some_and(|p| p.headers.iter().any(|(n, _)| same(n)))
    }

    /// Whether every credential that a request carried has a rule that supplies it.
    #[must_use]
    pub fn supplies_credentials(&self, shape: &RequestShape) -> bool {
        let c = shape.credentials;
        let authorized = !c.authorization
            || self.supplies(shape, b"authorization")
            || self.supplies(shape, b"proxy-authorization");
        let cookies = !c.cookie || self.cookies != RecordedCookies::Drop;
        authorized && cookies && (!c.token || self.supplies_tokens(shape))
    }

    /// Token headers are kept by name. A log tells only that there was one: no rule is known to supply that.
    fn supplies_tokens(&self, shape: &RequestShape) -> bool {
        let mut lines = shape.headers.iter().filter(|h| {
            let is = |n: &str| h.name.eq_ignore_ascii_case(n.as_bytes());
            matches!(h.value, HeaderValue::Redacted { .. }) && TOKEN_HEADERS.iter().any(|t| is(t))
        });
        let mut some = false;
        let all = lines.all(|h| {
            some = true;
            self.supplies(shape, &h.name)
        });
        all && some
    }

    /// The first log-in that is the same for everybody: it cannot be replayed more often than recorded.
    #[must_use]
    pub fn shared_log_in(&self) -> Option<&Put> {
        let taken = self.takes.len() as u16;
        let own = |p: &&Put| p.templates().any(|t| t.values().any(|v| v >= taken && v != UNIQUE_VALUE));
        let logs_in = |p: &&Put| {
            let text = p.into.text().to_ascii_lowercase();
            let mut words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
            p.body.is_some() && words.any(|w| LOG_IN_WORDS.contains(&w))
        };
        self.puts.iter().filter(logs_in).find(|p| !own(p))
    }
}

#[cfg(test)]
#[path = "rewrite_tests.rs"]
mod tests;
