//! The key of the hashes that stand in for what was redacted.
//!
//! HMAC-SHA256 (RFC 2104): equal values stay equal under one key, so that cache keys and routes keep their number, and
//! whoever has the trace but not the key cannot try a dictionary. The key is never written anywhere; its fingerprint is,
//! so that two traces can be told to have been made with the same one.

use ring::hmac;

/// A key. Its bytes cannot be had back.
#[derive(Clone)]
pub struct RedactKey(hmac::Key);

impl std::fmt::Debug for RedactKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RedactKey({})", self.fingerprint())
    }
}

impl RedactKey {
    /// A key from secret bytes, of any length; fewer than 16 random ones can be guessed.
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// The first 64 bits of the hash of a value. Its use is part of what is hashed: a header and a query value that are the
    /// same do not give the same hash.
    #[must_use]
    pub fn digest(&self, used_as: &str, value: &[u8]) -> u64 {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(used_as.as_bytes());
        context.update(&[0]);
        context.update(value);
        let tag = context.sign();
        tag.as_ref().iter().take(8).fold(0, |n, b| n << 8 | u64::from(*b))
    }

    /// Eight hexadecimal digits that tell keys apart.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        format!("{:08x}", self.digest("fingerprint", b"") >> 32)
    }
}
