//! The shape of a request: everything about it that may be kept and sent again.

use std::sync::Arc;

use crate::wire::head::Version;

/// How the target is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// `http` or `https`.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Headers that carry a token: an API key, proof against forged requests, a key of idempotency.
pub const TOKEN_HEADERS: [&str; 9] = [
    "x-api-key",
    "api-key",
    "apikey",
    "x-auth-token",
    "x-access-token",
    "x-csrf-token",
    "x-xsrf-token",
    "x-amz-security-token",
    "idempotency-key",
];

/// Which credentials a request carried. Only the fact is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Credentials {
    /// `Authorization` or `Proxy-Authorization`.
    pub authorization: bool,
    /// `Cookie`.
    pub cookie: bool,
    /// An API key, a token header, or an idempotency key.
    pub token: bool,
}

impl Credentials {
    /// Whether the request carried any.
    #[must_use]
    pub fn any(self) -> bool {
        self.authorization || self.cookie || self.token
    }

    pub(crate) fn bits(self) -> u8 {
        u8::from(self.authorization) | u8::from(self.cookie) << 1 | u8::from(self.token) << 2
    }

    pub(crate) fn from_bits(bits: u8) -> Self {
        Self { authorization: bits & 1 != 0, cookie: bits & 2 != 0, token: bits & 4 != 0 }
    }
}

/// A header value: kept, or only its length.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HeaderValue {
    /// As recorded.
    Kept(Vec<u8>),
    /// Redacted; the length in bytes is left.
    Redacted {
        /// Length of the recorded value.
        len: u32,
        /// A keyed hash of it, where one is kept: equal values have equal ones.
        hash: Option<u32>,
    },
}

/// One header line in its recorded place and case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Header {
    /// Name in its own case.
    pub name: Vec<u8>,
    /// Value, or its length.
    pub value: HeaderValue,
}

impl Header {
    /// Bytes of name and value, roughly.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.name.len() + if let HeaderValue::Kept(v) = &self.value { v.len() } else { 8 }
    }
}

/// Bytes that many shapes may share.
pub type Text = Arc<[u8]>;

/// Header lines in order. Shared: clients send the same ones with many targets.
pub type Headers = Arc<[Header]>;

/// The shape of a request. Shared by all events with the same shape in a block.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestShape {
    /// Method, any token.
    pub method: Text,
    /// Scheme, as far as the capture could know.
    pub scheme: Scheme,
    /// Host and port the client asked for, where known.
    pub authority: Option<Text>,
    /// Origin-form target: path and query.
    pub target: Text,
    /// Version.
    pub version: Version,
    /// Header lines in order.
    pub headers: Headers,
    /// Credentials it carried.
    pub credentials: Credentials,
    /// Something in path or query was redacted, so it cannot be sent as recorded.
    pub target_redacted: bool,
}

impl RequestShape {
    /// Bytes this shape takes, roughly; used to close blocks in time.
    #[must_use]
    pub fn weight(&self) -> usize {
        let headers = self.headers.iter().map(|h| h.bytes() + 8).sum::<usize>();
        self.method.len() + self.target.len() + headers + 32
    }

    /// The path without the query.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        let end = self.target.iter().position(|b| *b == b'?').unwrap_or(self.target.len());
        &self.target[..end]
    }

    /// The kept value of the first header called `name`.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find_map(|h| match &h.value {
            HeaderValue::Kept(v) if h.name.eq_ignore_ascii_case(name.as_bytes()) => Some(v.as_slice()),
            HeaderValue::Kept(_) | HeaderValue::Redacted { .. } => None,
        })
    }
}

/// A shape that several events share.
pub type SharedShape = Arc<RequestShape>;
