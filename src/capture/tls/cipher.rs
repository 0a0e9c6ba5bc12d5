//! Keys of TLS records, and opening them: the AEAD suites of TLS 1.2 (RFC 5246, 5288, 7905) and 1.3 (RFC 8446).
//!
//! The ciphers are ring's, which rustls brings. What it refuses to do: CBC, RC4 and everything else without a tag: those
//! connections are counted as encrypted.

use ring::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use ring::{hkdf, hmac};

/// A suite by the number in ServerHello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Suite {
    pub(super) cipher: Cipher,
    /// SHA-384 instead of SHA-256.
    pub(super) sha384: bool,
}

/// A cipher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cipher {
    Aes128,
    Aes256,
    ChaCha,
}

impl Suite {
    /// Of TLS 1.3.
    pub(super) fn tls13(number: u16) -> Option<Self> {
        let (cipher, sha384) = match number {
            0x1301 => (Cipher::Aes128, false),
            0x1302 => (Cipher::Aes256, true),
            0x1303 => (Cipher::ChaCha, false),
            _ => return None,
        };
        Some(Self { cipher, sha384 })
    }

    /// Of TLS 1.2, whatever the key exchange.
    pub(super) fn tls12(number: u16) -> Option<Self> {
        let (cipher, sha384) = match number {
            0x009c | 0x009e | 0xc02b | 0xc02f => (Cipher::Aes128, false),
            0x009d | 0x009f | 0xc02c | 0xc030 => (Cipher::Aes256, true),
            0xcca8..=0xccaa => (Cipher::ChaCha, false),
            _ => return None,
        };
        Some(Self { cipher, sha384 })
    }
}

impl Cipher {
    fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::Aes128 => &AES_128_GCM,
            Self::Aes256 => &AES_256_GCM,
            Self::ChaCha => &CHACHA20_POLY1305,
        }
    }

    /// Bytes of the nonce that stand in each record of TLS 1.2.
    fn explicit(self) -> usize {
        if self == Self::ChaCha { 0 } else { 8 }
    }
}

/// The key of one direction at one time, and the number of the next record.
pub(super) struct RecordKey {
    key: LessSafeKey,
    iv: [u8; 12],
    cipher: Cipher,
    pub(super) seq: u64,
}

impl std::fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RecordKey({:?}, {})", self.cipher, self.seq)
    }
}

/// How long a derived key is.
struct Len(usize);

impl hkdf::KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand-Label with an empty context (RFC 8446, section 7.1).
fn expand(secret: &[u8], sha384: bool, label: &str, len: usize) -> Option<Vec<u8>> {
    let algorithm = if sha384 { hkdf::HKDF_SHA384 } else { hkdf::HKDF_SHA256 };
    let prk = hkdf::Prk::new_less_safe(algorithm, secret);
    let (size, label_len) = ((len as u16).to_be_bytes(), [label.len() as u8 + 6]);
    let info: [&[u8]; 5] = [&size, &label_len, b"tls13 ", label.as_bytes(), &[0]];
    let mut out = vec![0; len];
    prk.expand(&info, Len(len)).ok()?.fill(&mut out).ok()?;
    Some(out)
}

/// The secret behind a key update.
pub(super) fn next_secret(secret: &[u8], suite: Suite) -> Option<Vec<u8>> {
    expand(secret, suite.sha384, "traffic upd", secret.len())
}

/// The key block of TLS 1.2 (RFC 5246, section 6.3), as much of it as an AEAD suite takes: keys and fixed nonces of client and
/// server.
pub(super) fn tls12_keys(
    master: &[u8],
    client_random: &[u8; 32],
    server_random: &[u8; 32],
    suite: Suite,
) -> Option<[RecordKey; 2]> {
    let algorithm = if suite.sha384 { hmac::HMAC_SHA384 } else { hmac::HMAC_SHA256 };
    let key = hmac::Key::new(algorithm, master);
    let seed = [&b"key expansion"[..], server_random, client_random].concat();
    let (key_len, iv_len) = (suite.cipher.algorithm().key_len(), 12 - suite.cipher.explicit());
    let (mut block, mut a) = (Vec::new(), hmac::sign(&key, &seed));
    while block.len() < 2 * (key_len + iv_len) {
        block.extend_from_slice(hmac::sign(&key, &[a.as_ref(), &seed].concat()).as_ref());
        a = hmac::sign(&key, a.as_ref());
    }
    let (keys, ivs) = block.split_at(2 * key_len);
    let side = |n: usize| {
        RecordKey::new(
            suite.cipher,
            &keys[n * key_len..(n + 1) * key_len],
            &ivs[n * iv_len..(n + 1) * iv_len],
        )
    };
    Some([side(0)?, side(1)?])
}

impl RecordKey {
    fn new(cipher: Cipher, key: &[u8], fixed_iv: &[u8]) -> Option<Self> {
        let key = LessSafeKey::new(UnboundKey::new(cipher.algorithm(), key).ok()?);
        let mut iv = [0; 12];
        iv.get_mut(..fixed_iv.len())?.copy_from_slice(fixed_iv);
        Some(Self { key, iv, cipher, seq: 0 })
    }

    /// From a traffic secret of TLS 1.3.
    pub(super) fn tls13(secret: &[u8], suite: Suite) -> Option<Self> {
        let key = expand(secret, suite.sha384, "key", suite.cipher.algorithm().key_len())?;
        Self::new(suite.cipher, &key, &expand(secret, suite.sha384, "iv", 12)?)
    }

    /// Bytes in a record whose sealed part has so many, padding aside.
    pub(super) fn plain_len(&self, sealed: usize, tls13: bool) -> u64 {
        let more = if tls13 { 17 } else { 16 + self.cipher.explicit() };
        sealed.saturating_sub(more) as u64
    }

    /// Nonce of record `seq`: the fixed part, with the number in its end.
    fn nonce(&self, seq: u64) -> [u8; 12] {
        let mut nonce = self.iv;
        nonce[4..].iter_mut().zip(seq.to_be_bytes()).for_each(|(n, s)| *n ^= s);
        nonce
    }

    /// Opens a record of TLS 1.3 as number `seq`: what is in it, and its inner type. The number moves on.
    pub(super) fn open13(&mut self, header: &[u8; 5], sealed: &[u8], seq: u64) -> Option<(Vec<u8>, u8)> {
        let nonce = Nonce::assume_unique_for_key(self.nonce(seq));
        let mut buffer = sealed.to_vec();
        let plain = self.key.open_in_place(nonce, Aad::from(header), &mut buffer).ok()?;
        // Behind the content stands its type, and behind that zeros (section 5.4).
        let end = plain.iter().rposition(|b| *b != 0)?;
        let (kind, content) = (plain[end], plain[..end].to_vec());
        self.seq = seq.checked_add(1)?;
        Some((content, kind))
    }

    /// The same of TLS 1.2.
    pub(super) fn open12(&mut self, header: &[u8; 5], sealed: &[u8], seq: u64) -> Option<Vec<u8>> {
        let (explicit, body) = sealed.split_at_checked(self.cipher.explicit())?;
        let nonce = if self.cipher == Cipher::ChaCha {
            self.nonce(seq)
        } else {
            let mut nonce = self.iv;
            nonce[4..].copy_from_slice(explicit);
            nonce
        };
        let len = body.len().checked_sub(16)? as u16;
        let mut aad = [0; 13];
        aad[..8].copy_from_slice(&seq.to_be_bytes());
        aad[8..11].copy_from_slice(&header[..3]);
        aad[11..].copy_from_slice(&len.to_be_bytes());
        let mut buffer = body.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let plain = self.key.open_in_place(nonce, Aad::from(aad), &mut buffer).ok()?.len();
        buffer.truncate(plain);
        self.seq = seq.checked_add(1)?;
        Some(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8448, section 3: the server's handshake traffic secret, its key and its nonce.
    #[test]
    fn keys_are_those_of_the_standard() {
        let secret = "b67b7d690cc16c4e75e54213cb2d37b4e9c912bcded9105d42befd59d391ad38";
        let bytes = |t: &str| {
            (0..t.len()).step_by(2).map(|i| u8::from_str_radix(&t[i..i + 2], 16).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(expand(&bytes(secret), false, "key", 16), Some(bytes("3fce516009c21727d0f2e4e86ee403bc")));
        assert_eq!(expand(&bytes(secret), false, "iv", 12), Some(bytes("5d313eb2671276ee13000b30")));
    }
}
