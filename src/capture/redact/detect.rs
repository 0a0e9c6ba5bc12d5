//! What looks like a secret: query keys that name one, and values that are made like one.
//!
//! Guesses by form, on the safe side: a value that is taken for a secret and is none costs a request in the replay; one that
//! is missed is on somebody's disk. What it refuses to do: know a value by its meaning (a search for a person's name is a
//! word like any other; a rule file names such keys).

use std::borrow::Cow;

/// Query keys whose values are secrets or name a person, matched without regard to case.
const SENSITIVE_KEYS: [&str; 72] = [
    "state",
    "usg",
    "password",
    "passwd",
    "pass",
    "pwd",
    "email",
    "e-mail",
    "mail",
    "code",
    "code_verifier",
    "code_challenge",
    "client_secret",
    "client_id",
    "token",
    "access_token",
    "refresh_token",
    "authenticity_token",
    "id_token",
    "appid",
    "challenge",
    "assertion",
    "fcparams",
    "serverdata",
    "authorization",
    "auth",
    "samlrequest",
    "samlresponse",
    "key",
    "api_key",
    "apikey",
    "api-key",
    "secret",
    "session",
    "sessionid",
    "session_id",
    "sid",
    "jsessionid",
    "phpsessid",
    "otp",
    "pin",
    "ssn",
    "card",
    "cc",
    "cvv",
    "cvc",
    "iban",
    "phone",
    "tel",
    "mobile",
    "user",
    "username",
    "user_id",
    "userid",
    "login",
    "name",
    "firstname",
    "lastname",
    "address",
    "lat",
    "lon",
    "ip",
    "signature",
    "sign",
    "sig",
    "hmac",
    "nonce",
    "redirect_uri",
    "awsaccesskeyid",
    "x-amz-signature",
    "x-amz-credential",
    "x-goog-signature",
];

/// Length from which a random-looking word is taken for a token, bytes.
const TOKEN_BYTES_MIN: usize = 20;

/// Ends of file names whose versions are hashes of what they hold, which is public.
const STATIC_NAMES: [&str; 20] = [
    ".js", ".mjs", ".css", ".map", ".wasm", ".woff", ".woff2", ".ttf", ".otf", ".eot", ".svg", ".png",
    ".jpg", ".jpeg", ".gif", ".webp", ".avif", ".ico", ".mp4", ".webm",
];

/// Whether a query key, percent-encoded or not, names a secret or a person. `form[user][password]` and `user.password`:
/// every part of the key counts.
#[must_use]
pub(super) fn is_sensitive_key(key: &[u8]) -> bool {
    percent_decode(key)
        .split(|b| b"[].".contains(b))
        .any(|part| may_be_sensitive(part) && is_one_of(part, &SENSITIVE_KEYS))
}

/// Whether a sensitive key begins with the same letter and is as long: most parts are no key by that alone.
fn may_be_sensitive(part: &[u8]) -> bool {
    /// Lengths of keys, a bit each, by their first byte.
    const LENGTHS: [u32; 256] = {
        let (mut lengths, mut i) = ([0; 256], 0);
        while i < SENSITIVE_KEYS.len() {
            let key = SENSITIVE_KEYS[i].as_bytes();
            lengths[key[0] as usize] |= 1 << key.len();
            i += 1;
        }
        lengths
    };
    let (Some(first), Ok(len)) = (part.first(), u32::try_from(part.len())) else { return false };
    LENGTHS[usize::from(first.to_ascii_lowercase())].checked_shr(len).is_some_and(|bits| bits & 1 == 1)
}

/// Whether `name` is one of `list`, without regard to case.
pub(super) fn is_one_of(name: &[u8], list: &[&str]) -> bool {
    list.iter().any(|l| name.eq_ignore_ascii_case(l.as_bytes()))
}

/// E-mail addresses, JSON web tokens, card numbers, and long random-looking words (reset links, keys), alone or as a part
/// of a longer value.
#[must_use]
pub(super) fn looks_secret(raw: &[u8]) -> bool {
    // Most values are words and short numbers: an address has an at-sign, a web token dots, all others many bytes and digits.
    if raw.len() < 6 || (raw.len() < 13 && !raw.iter().any(|b| b"@%.".contains(b))) {
        return false;
    }
    let text = percent_decode(raw);
    let (at_signs, dots, digits) = counts(&text);
    (dots >= 2 && has_jwt(&text))
        || (digits >= 13 && has_card(&text))
        || (at_signs > 0 && text.split(|b| b" ,;:()<>\"'|".contains(b)).any(looks_like_mail))
        || (digits > 0 && text.len() >= TOKEN_BYTES_MIN && !is_static(&text) && has_random(&text))
}

/// At-signs, dots and digits of a text.
fn counts(text: &[u8]) -> (usize, usize, usize) {
    /// In pieces whose counts fit a byte, so that many bytes are compared at once.
    fn of(text: &[u8], is: impl Fn(u8) -> bool) -> usize {
        let piece = |bytes: &[u8]| bytes.iter().fold(0u8, |n, b| n.wrapping_add(u8::from(is(*b))));
        text.chunks(usize::from(u8::MAX)).map(|bytes| usize::from(piece(bytes))).sum()
    }
    (of(text, |b| b == b'@'), of(text, |b| b == b'.'), of(text, |b| b.is_ascii_digit()))
}

/// The name of a file whose version is no secret.
fn is_static(text: &[u8]) -> bool {
    STATIC_NAMES.iter().any(|end| {
        text.len().checked_sub(end.len()).is_some_and(|at| text[at..].eq_ignore_ascii_case(end.as_bytes()))
    })
}

/// Two parts in base64url behind one another, the first of which is a JSON object (RFC 7519).
fn has_jwt(text: &[u8]) -> bool {
    let word = |b: &u8| b.is_ascii_alphanumeric() || b"-_.".contains(b);
    text.split(|b| !word(b)).any(|w| {
        w.windows(3)
            .position(|t| t == b"eyJ")
            .is_some_and(|at| w[at..].iter().filter(|b| **b == b'.').count() >= 2)
    })
}

/// A run of 13 to 19 digits, blanks and dashes between them, with the right check digit. Issuers of payment cards begin with
/// 2 to 6 (ISO/IEC 7812-1, major industry identifier; 15 digits may begin with 1): stamps in milliseconds do not.
fn has_card(text: &[u8]) -> bool {
    text.split(|b| !(b.is_ascii_digit() || b" -+._".contains(b))).any(|run| {
        let digits = run.iter().filter(|b| b.is_ascii_digit()).count();
        let issuer = run.iter().find(|b| b.is_ascii_digit()).is_some_and(|b| (b'2'..=b'6').contains(b));
        (13..=19).contains(&digits) && (issuer || digits == 15) && luhn(run)
    })
}

/// At least 20 characters of hexadecimal, or of mixed letters and digits without a word's look: tokens in
/// reset links, invitations and keys.
fn has_random(text: &[u8]) -> bool {
    // The runs of all three kinds lie within those of the widest one, and most texts have none that is long enough.
    text.split(|b| !b.is_ascii_alphanumeric() && !b"-_+=".contains(b))
        .filter(|w| w.len() >= TOKEN_BYTES_MIN)
        .any(|word| {
            is_mixed(word)
                || word.split(|b| !b.is_ascii_hexdigit() && *b != b'-').any(is_hex)
                || word.split(|b| !b.is_ascii_alphanumeric()).any(is_shuffled)
        })
}

fn is_hex(run: &[u8]) -> bool {
    let run = run.trim_ascii();
    let (digits, letters) = kinds(run, u8::is_ascii_digit, u8::is_ascii_alphabetic);
    digits + letters >= TOKEN_BYTES_MIN - 1 && run.len() >= TOKEN_BYTES_MIN && digits > 0 && letters > 0
}

fn is_mixed(word: &[u8]) -> bool {
    let (upper, lower) = kinds(word, u8::is_ascii_uppercase, u8::is_ascii_lowercase);
    let digits = word.iter().filter(|b| b.is_ascii_digit()).count();
    word.len() >= TOKEN_BYTES_MIN && digits >= 2 && upper >= 3 && lower >= 3
}

/// Letters of one case and digits that change places often: base 32 and 36, ULIDs.
fn is_shuffled(word: &[u8]) -> bool {
    let changes = word.windows(2).filter(|w| w[0].is_ascii_digit() != w[1].is_ascii_digit()).count();
    word.len() >= TOKEN_BYTES_MIN && changes >= 6
}

fn kinds(text: &[u8], one: impl Fn(&u8) -> bool, other: impl Fn(&u8) -> bool) -> (usize, usize) {
    (text.iter().filter(|b| one(b)).count(), text.iter().filter(|b| other(b)).count())
}

/// One address: a name, `@`, and a host with a dot.
#[must_use]
pub(super) fn looks_like_mail(text: &[u8]) -> bool {
    let Some(at) = text.iter().position(|b| *b == b'@') else { return false };
    let (user, host) = (&text[..at], &text[at + 1..]);
    !user.is_empty() && host.contains(&b'.') && !host.contains(&b'@') && host.last() != Some(&b'.')
}

/// The check digit of payment cards (ISO/IEC 7812-1, annex B).
fn luhn(text: &[u8]) -> bool {
    let digits = text.iter().rev().filter(|b| b.is_ascii_digit()).map(|b| u32::from(b - b'0'));
    let sum: u32 =
        digits.enumerate().map(|(i, d)| if i % 2 == 1 { d * 2 / 10 + d * 2 % 10 } else { d }).sum();
    sum.is_multiple_of(10)
}

/// The value of a hexadecimal digit; what is none has one of 16 and more.
const HEX: [u8; 256] = {
    let (mut hex, mut digit) = ([0x80; 256], 0);
    while digit < 16 {
        hex[b"0123456789abcdef"[digit] as usize] = digit as u8;
        hex[b"0123456789ABCDEF"[digit] as usize] = digit as u8;
        digit += 1;
    }
    hex
};

/// Undoes percent-encoding; what is no code stays as it is.
pub(super) fn percent_decode(raw: &[u8]) -> Cow<'_, [u8]> {
    let Some(first) = memchr::memchr(b'%', raw) else { return Cow::Borrowed(raw) };
    let mut out = Vec::with_capacity(raw.len());
    out.extend_from_slice(&raw[..first]);
    let mut rest = &raw[first..];
    while let Some((byte, behind)) = rest.split_first() {
        rest = match (*byte, behind) {
            (b'%', [high, low, behind @ ..]) if (HEX[usize::from(*high)] | HEX[usize::from(*low)]) < 16 => {
                out.push(HEX[usize::from(*high)] << 4 | HEX[usize::from(*low)]);
                behind
            }
            _ => {
                out.push(*byte);
                behind
            }
        };
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_told_by_their_form() {
        let secrets = [
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
            "bearer:eyJh.b.c",
            "orderListd2baa4e8de3942f4a93b5af94f532c92",
            "a@b.example",
            "x%3Ca%40b.example%3E",
            "4111111111111111",
            "4111-1111-1111-1111",
            "id-378282246310005",
            "550e8400-e29b-41d4-a716-446655440000",
            "4111+1111+1111+1111",
            "01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "k3jx9q2m7vw1z8ty4bnc5gh",
            "[%27d2baa4e8de3942f4a93b5af94f532c92%27]",
            "Zm9vYmFyMTIz4UJDREVGeHl6OTk",
        ];
        let words = [
            "",
            "red+shoes",
            "1548519540405",
            "123456789",
            "4111111111111112",
            "app.d2baa4e8de3942f4a93b5af94f532c92.js",
            "defaced-facade-decade-faded",
            "user@host",
            "2026-11-26T03:00:00Z",
            "12345678901234567890",
            "Qwertyuiopasdfghjklzx",
        ];
        assert_eq!(
            secrets.iter().filter(|s| !looks_secret(s.as_bytes())).collect::<Vec<_>>(),
            Vec::<&&str>::new()
        );
        assert_eq!(
            words.iter().filter(|s| looks_secret(s.as_bytes())).collect::<Vec<_>>(),
            Vec::<&&str>::new()
        );
        assert!(is_sensitive_key(b"form%5Buser%5D[PassWord]") && !is_sensitive_key(b"passage"));
        assert!(SENSITIVE_KEYS.iter().all(|k| is_sensitive_key(k.to_uppercase().as_bytes())));
        assert!(!is_sensitive_key(&[b'p'; 100]) && !is_sensitive_key(b""));
    }
}
