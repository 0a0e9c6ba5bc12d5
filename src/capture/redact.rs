//! Redaction: the only way from a request head to a shape.
//!
//! An allow-list for header values: what is not known to be harmless loses its value and keeps its name
//! and length. Credentials and client addresses leave only presence and length. In the target, user
//! information is dropped, values of sensitive query keys and sensitive-looking path segments are
//! replaced, and the shape is marked, so that the plan will drop it instead of sending a forged
//! look-alike. Bodies never come here.

use crate::trace::shape::TOKEN_HEADERS;
use crate::trace::{Credentials, Header, HeaderValue, RequestShape, Scheme};
use crate::wire::head::{HeaderLine, RequestHead, values};

/// Name of this rule set, kept in the trace.
pub const RULES: &str = "default-1";

/// Headers whose values are kept: they shape the answer or the connection and name nobody.
const KEEP: [&str; 22] = [
    "host",
    "accept",
    "accept-encoding",
    "accept-language",
    "accept-charset",
    "content-type",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "upgrade",
    "expect",
    "user-agent",
    "cache-control",
    "pragma",
    "range",
    "if-modified-since",
    "if-unmodified-since",
    "te",
    "trailer",
    "x-requested-with",
    "upgrade-insecure-requests",
];

/// Credential headers by kind.
const AUTHORIZATION: [&str; 2] = ["authorization", "proxy-authorization"];

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

/// What stands in for a redacted part of a target.
pub const MARK: &[u8] = b"REDACTED";

fn is_one_of(name: &[u8], list: &[&str]) -> bool {
    list.iter().any(|l| name.eq_ignore_ascii_case(l.as_bytes()))
}

/// Makes the shape of a request, with everything that must not be kept already gone.
#[must_use]
pub fn shape(head: &RequestHead, scheme: Scheme) -> RequestShape {
    let (authority, origin) = split_target(&head.target);
    let host = || values(&head.headers, "host").next().map(<[u8]>::to_vec).filter(|h| !h.is_empty());
    let (target, target_redacted) = redact_target(origin);
    RequestShape {
        method: head.method.clone(),
        scheme,
        authority: authority.map(<[u8]>::to_vec).or_else(host).map(|a| drop_userinfo(&a)),
        target,
        version: head.version,
        headers: head.headers.iter().map(header).collect(),
        credentials: credentials(&head.headers),
        target_redacted,
    }
}

fn header(line: &HeaderLine) -> Header {
    let redacted = HeaderValue::Redacted { len: line.value.len() as u32 };
    let value =
        if is_one_of(&line.name, &KEEP) { keep(line).map_or(redacted, HeaderValue::Kept) } else { redacted };
    Header { name: line.name.clone(), value }
}

/// Even a kept header may carry what must not be kept.
fn keep(line: &HeaderLine) -> Option<Vec<u8>> {
    if line.name.eq_ignore_ascii_case(b"host") {
        return Some(drop_userinfo(&line.value));
    }
    // A multipart boundary is random, and a user agent may carry an address (bots do, people's mail clients too).
    let has_mail = line.value.split(|b| b" ();,<>".contains(b)).any(looks_like_mail);
    (!has_mail).then(|| line.value.clone())
}

fn credentials(headers: &[HeaderLine]) -> Credentials {
    let any = |list: &[&str]| headers.iter().any(|h| is_one_of(&h.name, list) && !h.value.is_empty());
    Credentials { authorization: any(&AUTHORIZATION), cookie: any(&["cookie"]), token: any(&TOKEN_HEADERS) }
}

/// Authority and origin form of a target. Absolute form is split; CONNECT's authority form has no path.
fn split_target(target: &[u8]) -> (Option<&[u8]>, &[u8]) {
    let rest = [&b"http://"[..], b"https://"].into_iter().find_map(|p| {
        target.get(..p.len()).filter(|t| t.eq_ignore_ascii_case(p)).map(|_| &target[p.len()..])
    });
    let Some(rest) = rest else { return (None, target) };
    let end = rest.iter().position(|b| b"/?#".contains(b)).unwrap_or(rest.len());
    let origin = if end == rest.len() { &b"/"[..] } else { &rest[end..] };
    (Some(&rest[..end]), origin)
}

fn drop_userinfo(authority: &[u8]) -> Vec<u8> {
    let from = authority.iter().rposition(|b| *b == b'@').map_or(0, |i| i + 1);
    authority[from..].to_vec()
}

/// The target with sensitive parts replaced, and whether any was.
fn redact_target(target: &[u8]) -> (Vec<u8>, bool) {
    let cut = target.iter().position(|b| *b == b'?').unwrap_or(target.len());
    let (path, query) = target.split_at(cut);
    let (mut out, mut redacted) = map_parts(path, b"/", redact_segment);
    if let Some(query) = query.strip_prefix(b"?") {
        // `;` parts pairs too, in old forms and in URLs made by hand.
        let (clean, hit) = map_parts(query, b"&;", redact_pair);
        redacted |= hit;
        out.push(b'?');
        out.extend(clean);
    }
    (out, redacted)
}

/// Applies `each` to the parts between separators, which stay as they are.
fn map_parts(bytes: &[u8], separators: &[u8], each: impl Fn(&[u8]) -> (Vec<u8>, bool)) -> (Vec<u8>, bool) {
    let (mut out, mut redacted, mut from) = (Vec::with_capacity(bytes.len()), false, 0);
    loop {
        let len = bytes[from..].iter().position(|b| separators.contains(b)).unwrap_or(bytes.len() - from);
        let (clean, hit) = each(&bytes[from..from + len]);
        out.extend(clean);
        redacted |= hit;
        from += len;
        match bytes.get(from) {
            Some(separator) => out.push(*separator),
            None => return (out, redacted),
        }
        from += 1;
    }
}

/// A path segment with its matrix parameters (`/cart;v=1;jsessionid=1A2B`).
fn redact_segment(segment: &[u8]) -> (Vec<u8>, bool) {
    map_parts(segment, b";", redact_pair)
}

fn redact_pair(pair: &[u8]) -> (Vec<u8>, bool) {
    let Some(eq) = pair.iter().position(|b| *b == b'=') else {
        return if looks_secret(pair) { (MARK.to_vec(), true) } else { (pair.to_vec(), false) };
    };
    let (key, value) = (&pair[..eq], &pair[eq + 1..]);
    let plain = percent_decode(key);
    // `form[user][password]` and `user.password`: every part of the key counts.
    let named = plain.split(|b| b"[].".contains(b)).any(|part| is_one_of(part, &SENSITIVE_KEYS));
    if value.is_empty() || !(named || looks_secret(value) || has_secret_inside(value)) {
        return (pair.to_vec(), false);
    }
    ([key, b"=", MARK].concat(), true)
}

/// A nested URL or query (`next=%2Fr%3Ftoken%3D...`) whose own parts would be redacted.
fn has_secret_inside(value: &[u8]) -> bool {
    let text = percent_decode(value);
    let nested = text.iter().any(|b| b"?&;".contains(b)) && text.contains(&b'=');
    nested && map_parts(&text, b"?&;#", redact_pair).1
}

/// E-mail addresses, JSON web tokens, card numbers, and long random-looking words (reset links, keys).
fn looks_secret(raw: &[u8]) -> bool {
    let text = percent_decode(raw);
    let jwt = text.starts_with(b"eyJ") && text.iter().filter(|b| **b == b'.').count() == 2;
    let digits = text.iter().filter(|b| b.is_ascii_digit()).count();
    let card = (13..=19).contains(&digits)
        && text.iter().all(|b| b.is_ascii_digit() || b" -".contains(b))
        && luhn(&text);
    jwt || card || looks_like_mail(&text) || looks_random(&text)
}

/// At least 20 characters of hexadecimal, or of mixed letters and digits without a word's look: tokens in
/// reset links, invitations and keys. Version hashes of assets are caught too, on the safe side: such a
/// request is dropped, never forged.
fn looks_random(text: &[u8]) -> bool {
    let (mut digits, mut upper, mut lower) = (0usize, 0usize, 0usize);
    for byte in text {
        match byte {
            b'0'..=b'9' => digits += 1,
            b'A'..=b'Z' => upper += 1,
            b'a'..=b'z' => lower += 1,
            b'-' | b'_' => {}
            _ => return false,
        }
    }
    let hex = text.iter().all(|b| b.is_ascii_hexdigit() || *b == b'-') && digits > 0 && upper + lower > 0;
    let mixed = digits >= 3 && upper >= 3 && lower >= 3;
    text.len() >= 20 && (hex || mixed)
}

fn looks_like_mail(text: &[u8]) -> bool {
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

fn percent_decode(raw: &[u8]) -> Vec<u8> {
    let hex = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
    let (mut out, mut i) = (Vec::with_capacity(raw.len()), 0);
    while i < raw.len() {
        match (raw[i], hex(raw.get(i + 1)), hex(raw.get(i + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                i += 3;
            }
            (byte, _, _) => {
                out.push(byte);
                i += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::head::parse_request;

    fn shape_of(head: &str) -> RequestShape {
        let bytes = format!("{}\r\n\r\n", head.replace('\n', "\r\n"));
        shape(&parse_request(bytes.as_bytes()).unwrap().unwrap().0, Scheme::Http)
    }

    #[test]
    fn no_seeded_secret_survives_in_any_field() {
        let s = "seeded-secret";
        let heads = [
            format!("GET /a?token={s}&q=1 HTTP/1.1\nHost: h"),
            format!("GET /a?q=1&PassWord={s} HTTP/1.1\nHost: h"),
            format!("GET /a?user%5Fid={s} HTTP/1.1\nHost: h"),
            format!("GET /a?user[password]={s} HTTP/1.1\nHost: h"),
            format!("GET /cart;jsessionid={s} HTTP/1.1\nHost: h"),
            format!("GET /cart;v=1;jsessionid={s} HTTP/1.1\nHost: h"),
            format!("GET /a?a=1;token={s} HTTP/1.1\nHost: h"),
            format!("GET /a?form[user][password]={s} HTTP/1.1\nHost: h"),
            format!("GET /a?next=%2Fr%3Fx%3D1%26token%3D{s} HTTP/1.1\nHost: h"),
            format!("GET /reset/0123456789abcdef0123-{s} HTTP/1.1\nHost: h").replace(s, "seededsecret0A1B2C"),
            format!("GET /u/{s}@example.com/x HTTP/1.1\nHost: h"),
            format!("GET /u/{s}%40example.com HTTP/1.1\nHost: h"),
            format!("GET /t/eyJ{s}.b.c HTTP/1.1\nHost: h"),
            format!("GET http://{s}:x@h/a HTTP/1.1\nHost: {s}@h"),
            format!("GET / HTTP/1.1\nHost: bob:{s}@shop"),
            format!("GET / HTTP/1.1\nHost: h\nAuthorization: Bearer {s}"),
            format!("GET / HTTP/1.1\nHost: h\nCookie: sid={s}"),
            format!("GET / HTTP/1.1\nHost: h\nX-Api-Key: {s}"),
            format!("GET / HTTP/1.1\nHost: h\nX-Forwarded-For: {s}"),
            format!("GET / HTTP/1.1\nHost: h\nForwarded: for={s}"),
            format!("GET / HTTP/1.1\nHost: h\nX-Real-IP: {s}"),
            format!("GET / HTTP/1.1\nHost: h\nReferer: http://h/?token={s}"),
            format!("GET / HTTP/1.1\nHost: h\nX-Invented-Yesterday: {s}"),
            format!("GET / HTTP/1.1\nHost: h\nUser-Agent: bot ({s}@example.com)"),
        ];
        for head in heads {
            let shape = shape_of(&head);
            assert!(!format!("{shape:?}").contains(s) && !text_of(&shape).contains(s), "{head}: {shape:?}");
        }
    }

    fn text_of(s: &RequestShape) -> String {
        let mut all = [s.target.clone(), s.authority.clone().unwrap_or_default()].concat();
        for h in &s.headers {
            if let HeaderValue::Kept(v) = &h.value {
                all.extend(v);
            }
        }
        String::from_utf8_lossy(&all).into_owned()
    }

    #[test]
    fn presence_and_length_are_left() {
        let shape = shape_of("GET /a HTTP/1.1\nHost: h\nCOOKIE: abc=1\nAuthorization: Basic eA==");
        assert!(shape.credentials.cookie && shape.credentials.authorization && !shape.credentials.token);
        assert_eq!(
            shape.headers[1],
            Header { name: b"COOKIE".into(), value: HeaderValue::Redacted { len: 5 } }
        );
        assert!(!shape.target_redacted);
    }

    #[test]
    fn ordinary_targets_stay_as_they_are() {
        for target in
            ["/", "/search?q=red+shoes&page=2", "/p/123456789", "/a//b/?x", "*", "/a?b=c=d&&e", "/x;v=2/y"]
        {
            let shape = shape_of(&format!("GET {target} HTTP/1.1\nHost: h"));
            assert_eq!(String::from_utf8_lossy(&shape.target), target);
            assert!(!shape.target_redacted, "{target}");
        }
        let shape = shape_of("GET HTTP://other:81?x=1 HTTP/1.1\nHost: h");
        assert_eq!(
            (shape.authority.as_deref(), shape.target.as_slice()),
            (Some(&b"other:81"[..]), &b"?x=1"[..])
        );
    }

    #[test]
    fn redacted_targets_are_marked() {
        let shape = shape_of("GET /pay?card=4111111111111111&q=4111-1111-1111-1111 HTTP/1.1\nHost: h");
        assert!(shape.target_redacted);
        assert_eq!(shape.target, b"/pay?card=REDACTED&q=REDACTED");
    }
}
