//! What the two hellos of TLS say (RFC 8446, section 4.1; RFC 5246, section 7.4.1): randoms, version, suite.
//!
//! A hello may come in several records and a record may hold several messages; the caller hands over the bytes of the
//! handshake so far.

/// What a hello says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hello {
    /// The client's.
    Client {
        /// By which key logs know the connection.
        random: [u8; 32],
    },
    /// The server's.
    Server {
        /// Random.
        random: [u8; 32],
        /// Number of the suite.
        suite: u16,
        /// It is TLS 1.3.
        tls13: bool,
    },
    /// The server asks for another ClientHello (RFC 8446, section 4.1.4).
    Retry,
}

/// Random of a HelloRetryRequest.
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2,
    0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// Reads the first message of a handshake: how long it is, and what it says. `None` until it is whole; a message that is no
/// hello says nothing.
pub(super) fn first(bytes: &[u8]) -> Option<(usize, Option<Hello>)> {
    let [kind, a, b, c, rest @ ..] = bytes else { return None };
    let len = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
    let body = rest.get(..len)?;
    Some((4 + len, parse(*kind, body)))
}

fn parse(kind: u8, body: &[u8]) -> Option<Hello> {
    let random: [u8; 32] = body.get(2..34)?.try_into().ok()?;
    match kind {
        1 => Some(Hello::Client { random }),
        2 if random == RETRY => Some(Hello::Retry),
        2 => {
            let session = usize::from(*body.get(34)?);
            let suite = u16::from_be_bytes(body.get(35 + session..37 + session)?.try_into().ok()?);
            Some(Hello::Server {
                random,
                suite,
                tls13: is_tls13(body.get(38 + session..).unwrap_or_default()),
            })
        }
        _ => None,
    }
}

/// Whether the extensions name version 1.3 (`supported_versions`, 43).
fn is_tls13(extensions: &[u8]) -> bool {
    let mut rest = extensions.get(2..).unwrap_or_default();
    while let [a, b, c, d, tail @ ..] = rest {
        let (kind, len) = (u16::from_be_bytes([*a, *b]), usize::from(u16::from_be_bytes([*c, *d])));
        let Some(body) = tail.get(..len) else { return false };
        if kind == 43 {
            return body == [3, 4];
        }
        rest = &tail[len..];
    }
    false
}
