//! Redaction: the only way from a request head to a shape.
//!
//! An allow-list for header values: what is not known to be harmless loses its value and keeps its name, its length and a
//! keyed hash, so that equal values stay equal. Credentials, client addresses and numbers of single requests leave only
//! presence and length. In the target, user information is dropped, values of sensitive query keys and sensitive-looking
//! path segments are hashed, and the shape is marked, so that the plan will drop it instead of sending a forged
//! look-alike. A rule file tightens or loosens this, but for credentials. Bodies never come here.

mod detect;
pub mod key;
pub mod rules;

use std::borrow::Cow;
use std::sync::Arc;

use self::detect::{is_one_of, is_sensitive_key, looks_like_mail, looks_secret, percent_decode};
use self::key::RedactKey;
use self::rules::{Fate, Rules};
use crate::trace::shape::{Headers, TOKEN_HEADERS, Text};
use crate::trace::{Credentials, Header, HeaderValue, RequestShape, Scheme};
use crate::wire::head::{HeaderLine, RequestHead, values};

/// Name of the built-in rules, kept in the trace.
const RULES: &str = "default-2";

/// Headers whose values are kept: they shape the answer or the connection and name nobody.
const KEEP: [&str; 25] = [
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
    "if-match",
    "if-none-match",
    "if-range",
    "te",
    "trailer",
    "x-requested-with",
    "upgrade-insecure-requests",
];

/// Headers without which a request is another one: kept also where only the shape is.
const FRAMING: [&str; 11] = [
    "host",
    "accept",
    "accept-encoding",
    "content-type",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "upgrade",
    "expect",
    "te",
];

/// Credential headers by kind.
const AUTHORIZATION: [&str; 2] = ["authorization", "proxy-authorization"];

/// Headers that name a client by its address.
const ADDRESSES: [&str; 13] = [
    "x-forwarded-for",
    "forwarded",
    "x-real-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "fastly-client-ip",
    "x-client-ip",
    "client-ip",
    "x-cluster-client-ip",
    "x-original-forwarded-for",
    "x-envoy-external-address",
    "x-azure-clientip",
];

/// Headers that hold another value in each request: a hash of it would say nothing, and make every shape another.
const SINGLE: [&str; 16] = [
    "x-request-id",
    "x-correlation-id",
    "request-id",
    "x-amzn-trace-id",
    "x-cloud-trace-context",
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-datadog-trace-id",
    "x-datadog-parent-id",
    "cf-ray",
    "date",
    "sec-websocket-key",
];

/// What stands before the hash of a redacted part of a target.
pub const MARK: &[u8] = b"REDACTED-";

/// How many URLs and queries may lie in one another.
const NESTED_MAX: u32 = 4;

/// How much of a request is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Detail {
    /// Values that are not redacted.
    #[default]
    Values,
    /// Templates: names, lengths, and what the framing needs.
    ShapeOnly,
}

/// What may be kept of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Host and port of an absolute one.
    pub authority: Option<Text>,
    /// Path and query.
    pub origin: Text,
    /// Something in them was redacted.
    pub redacted: bool,
}

/// What may be kept of header lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lines {
    /// The lines in their order.
    pub headers: Headers,
    /// Value of `Host`.
    pub host: Option<Text>,
    /// Credentials they held.
    pub credentials: Credentials,
}

/// The redaction of one capture: rules and key. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Redactor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    key: RedactKey,
    rules: Rules,
    detail: Detail,
}

impl Redactor {
    /// A redaction.
    #[must_use]
    pub fn new(key: RedactKey, rules: Rules, detail: Detail) -> Self {
        Self(Arc::new(Inner { key, rules, detail }))
    }

    /// The built-in rules with this key.
    #[must_use]
    pub fn with_key(secret: &[u8]) -> Self {
        Self::new(RedactKey::new(secret), Rules::default(), Detail::Values)
    }

    /// What is applied, for the trace.
    #[must_use]
    pub fn words(&self) -> String {
        let Inner { key, rules, detail } = &*self.0;
        let rules = match rules.count() {
            0 => String::new(),
            n => format!("; rules of a file: {n}"),
        };
        let detail = if *detail == Detail::ShapeOnly { "; shape only" } else { "" };
        format!("{RULES}; key {}{rules}{detail}", key.fingerprint())
    }

    /// Makes the shape of a request, with everything that must not be kept already gone.
    #[must_use]
    pub fn shape(&self, head: &RequestHead, scheme: Scheme) -> RequestShape {
        let (target, lines) = (self.target(&head.target), self.lines(&head.headers));
        RequestShape {
            method: head.method.as_slice().into(),
            scheme,
            authority: target.authority.or(lines.host),
            target: target.origin,
            version: head.version,
            headers: lines.headers,
            credentials: lines.credentials,
            target_redacted: target.redacted,
        }
    }

    /// A target, in origin form or absolute, without what must not be kept.
    #[must_use]
    pub fn target(&self, target: &[u8]) -> Target {
        let (authority, origin) = split_target(target);
        let authority = authority.filter(|_| self.host_stays()).map(drop_userinfo).map(Text::from);
        let (origin, redacted) = self.origin(origin);
        Target { authority, origin: origin[..].into(), redacted }
    }

    /// Header lines without what must not be kept.
    #[must_use]
    pub fn lines(&self, lines: &[HeaderLine]) -> Lines {
        let host = values(lines, "host").next().filter(|h| !h.is_empty() && self.host_stays());
        Lines {
            host: host.map(drop_userinfo).map(Text::from),
            headers: lines.iter().map(|line| self.header(line)).collect(),
            credentials: credentials(lines),
        }
    }

    fn host_stays(&self) -> bool {
        matches!(self.0.rules.header(b"host"), None | Some(Fate::Keep | Fate::Set(_)))
    }

    /// Who asked, by the headers with which proxies say so: a hash of the first forwarded address and the user agent, which
    /// serves to tell sessions apart while capturing and is not kept.
    #[must_use]
    pub fn client(&self, headers: &[HeaderLine]) -> Option<u64> {
        let value = |name: &'static str| values(headers, name).find(|v| !v.is_empty());
        let first = |v: &[u8]| v.split(|b| *b == b',').next().unwrap_or_default().trim_ascii().to_vec();
        let lists = ["x-forwarded-for", "forwarded"].into_iter().find_map(value).map(first);
        let single = || ["x-real-ip", "true-client-ip", "cf-connecting-ip"].into_iter().find_map(value);
        let address = lists.or_else(|| single().map(<[u8]>::to_vec))?;
        let agent = value("user-agent").unwrap_or_default();
        Some(self.0.key.digest("client", &[&address[..], b"\0", agent].concat()))
    }

    fn header(&self, line: &HeaderLine) -> Header {
        let len = u32::try_from(line.value.len()).unwrap_or(u32::MAX);
        // A value's hash is short: it is there to tell values apart, not to find them.
        let hash = || (self.0.key.digest("header", &line.value) >> 32) as u32;
        let value = match self.fate(line) {
            Fate::Keep if line.name.eq_ignore_ascii_case(b"host") => {
                HeaderValue::Kept(drop_userinfo(&line.value).to_vec())
            }
            Fate::Keep => HeaderValue::Kept(line.value.clone()),
            Fate::Set(value) => HeaderValue::Kept(value),
            Fate::Drop => HeaderValue::Redacted { len, hash: None },
            Fate::Hash => HeaderValue::Redacted { len, hash: Some(hash()) },
        };
        Header { name: line.name.clone(), value }
    }

    fn fate(&self, line: &HeaderLine) -> Fate {
        let is = |list: &[&str]| is_one_of(&line.name, list);
        if let Some(rule) = self.0.rules.header(&line.name) {
            return rule.clone();
        }
        if self.0.detail == Detail::ShapeOnly {
            return if is(&FRAMING) { Fate::Keep } else { Fate::Drop };
        }
        if is(&KEEP) {
            // A user agent may carry an address: bots do, people's mail clients too.
            let has_mail = line.value.split(|b| b" ();,<>".contains(b)).any(looks_like_mail);
            let is_host = line.name.eq_ignore_ascii_case(b"host");
            return if has_mail && !is_host { Fate::Hash } else { Fate::Keep };
        }
        let lists: [&[&str]; 5] = [&AUTHORIZATION, &TOKEN_HEADERS, &ADDRESSES, &SINGLE, &["cookie"]];
        if lists.iter().any(|l| is(l)) { Fate::Drop } else { Fate::Hash }
    }

    /// The target with sensitive parts replaced, and whether any was.
    fn origin<'t>(&self, target: &'t [u8]) -> (Cow<'t, [u8]>, bool) {
        let cut = memchr::memchr(b'?', target).unwrap_or(target.len());
        let (path, query) = target.split_at(cut);
        let (clean, redacted) = self.path(path);
        let Some(query) = query.strip_prefix(b"?") else { return (clean, redacted) };
        // `;` parts pairs too, in old forms and in URLs made by hand.
        match map_parts(query, b"&;#", |pair| self.pair(pair, NESTED_MAX)) {
            Some((query, hit)) => (Cow::Owned([&clean, &b"?"[..], &query].concat()), redacted || hit),
            None if matches!(clean, Cow::Borrowed(_)) => (Cow::Borrowed(target), redacted),
            None => (Cow::Owned([&clean, &target[cut..]].concat()), redacted),
        }
    }

    fn path<'p>(&self, path: &'p [u8]) -> (Cow<'p, [u8]>, bool) {
        let rules = &self.0.rules;
        if rules.keep_paths.iter().any(|r| r.is_match(path)) && self.0.detail == Detail::Values {
            return (Cow::Borrowed(path), false);
        }
        let (path, named) =
            if rules.hash_paths.is_empty() { (Cow::Borrowed(path), false) } else { self.named_parts(path) };
        match map_parts(&path, b"/", |segment| self.segment(segment)) {
            Some((out, redacted)) => (Cow::Owned(out), named || redacted),
            None => (path, named),
        }
    }

    /// Hashes what the groups of the rules' expressions hold; all of a match where there is no group.
    fn named_parts<'p>(&self, path: &'p [u8]) -> (Cow<'p, [u8]>, bool) {
        let mut parts: Vec<(usize, usize)> = Vec::new();
        for found in self.0.rules.hash_paths.iter().flat_map(|r| r.captures_iter(path)) {
            let from = usize::from(found.len() > 1);
            parts.extend(found.iter().skip(from).flatten().map(|m| (m.start(), m.end())));
        }
        parts.sort_unstable();
        let (mut out, mut at) = (Vec::with_capacity(path.len()), 0);
        let hit = parts.iter().any(|(from, to)| from < to);
        // Groups may lie in one another or overlap: what any of them holds goes.
        let mut merged: Vec<(usize, usize)> = Vec::new();
        for (from, to) in parts.into_iter().filter(|(from, to)| from < to) {
            match merged.last_mut() {
                Some(last) if from < last.1 => last.1 = last.1.max(to),
                _ => merged.push((from, to)),
            }
        }
        for (from, to) in merged {
            out.extend_from_slice(&path[at..from]);
            out.extend(self.mark(&path[from..to]));
            at = to;
        }
        out.extend_from_slice(&path[at..]);
        (Cow::Owned(out), hit)
    }

    /// A path segment with its matrix parameters (`/cart;v=1;jsessionid=1A2B`).
    fn segment(&self, segment: &[u8]) -> Changed {
        map_parts(segment, b";#", |part| self.part(part))
    }

    fn part(&self, part: &[u8]) -> Changed {
        // Words are the template; what has a digit, or is no word, is a value of it.
        let word = |p: &[u8]| p.len() <= 24 && !p.iter().any(u8::is_ascii_digit) && !p.contains(&b'%');
        let marked = || Some((self.mark(part), true));
        if let Some(eq) = part.iter().position(|b| *b == b'=') {
            let named = self.0.detail == Detail::Values || word(&part[..eq]);
            return if named { self.pair(part, NESTED_MAX) } else { marked() };
        }
        let value = self.0.detail == Detail::ShapeOnly && !word(part);
        if value || looks_secret(part) || self.has_secret_inside(part, NESTED_MAX) { marked() } else { None }
    }

    /// A name and its value. `nested` is how many more may lie in one another.
    fn pair(&self, pair: &[u8], nested: u32) -> Changed {
        let marked = || Some((self.mark(pair), true));
        let Some(eq) = pair.iter().position(|b| *b == b'=') else {
            let secret = looks_secret(pair) || self.has_secret_inside(pair, nested);
            let secret = secret || (self.0.detail == Detail::ShapeOnly && !pair.is_empty());
            return if secret { marked() } else { None };
        };
        let (name, value) = (&pair[..eq], &pair[eq + 1..]);
        // A token may end in equals signs, and what stands for a name may be a value itself.
        if looks_secret(name) || (value.iter().all(|b| *b == b'=') && looks_secret(pair)) {
            return marked();
        }
        if value.is_empty() {
            return None;
        }
        let hashed = || Some(([name, b"=", &self.mark(value)].concat(), true));
        match self.0.rules.query(&percent_decode(name)) {
            Some(Fate::Set(value)) => Some(([name, b"=", value].concat(), false)),
            _ if self.0.detail == Detail::ShapeOnly => hashed(),
            Some(Fate::Keep) => None,
            Some(Fate::Hash | Fate::Drop) => hashed(),
            None if is_sensitive_key(name)
                || looks_secret(value)
                || self.has_secret_inside(value, nested) =>
            {
                hashed()
            }
            None => None,
        }
    }

    /// A nested URL or query (`next=%2Fr%3Ftoken%3D...`) whose own parts would be changed. What is nested deeper than anything
    /// honest is taken for a secret.
    fn has_secret_inside(&self, value: &[u8], nested: u32) -> bool {
        if find_any(b"=%", value).is_none() {
            return false;
        }
        let text = percent_decode(value);
        let Some(nested) = nested.checked_sub(1) else { return text.contains(&b'=') };
        text.contains(&b'=') && map_parts(&text, b"?&;#", |pair| self.pair(pair, nested)).is_some()
    }

    /// What stands in for a part of a target: the mark and twelve hexadecimal digits, which no server takes for another
    /// value of the same kind by chance.
    fn mark(&self, part: &[u8]) -> Vec<u8> {
        let hash = self.0.key.digest("target", part) >> 16;
        [MARK, format!("{hash:012x}").as_bytes()].concat()
    }
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

fn drop_userinfo(authority: &[u8]) -> &[u8] {
    let from = authority.iter().rposition(|b| *b == b'@').map_or(0, |i| i + 1);
    &authority[from..]
}

/// What became of a part, and whether it was redacted; nothing where it stays as it is, which nearly all do.
type Changed = Option<(Vec<u8>, bool)>;

/// The first of a few bytes.
fn find_any(bytes: &[u8], text: &[u8]) -> Option<usize> {
    match *bytes {
        [a] => memchr::memchr(a, text),
        [a, b] => memchr::memchr2(a, b, text),
        [a, b, c] => memchr::memchr3(a, b, c, text),
        _ => text.iter().position(|b| bytes.contains(b)),
    }
}

/// Applies `each` to the parts between separators, which stay as they are.
fn map_parts(bytes: &[u8], separators: &[u8], each: impl Fn(&[u8]) -> Changed) -> Changed {
    let (mut out, mut redacted, mut from, mut copied): (Option<Vec<u8>>, _, _, _) = (None, false, 0, 0);
    loop {
        let len = find_any(separators, &bytes[from..]).unwrap_or(bytes.len() - from);
        if let Some((clean, hit)) = each(&bytes[from..from + len]) {
            let out = out.get_or_insert_with(|| Vec::with_capacity(bytes.len()));
            out.extend_from_slice(&bytes[copied..from]);
            out.extend(clean);
            copied = from + len;
            redacted |= hit;
        }
        from += len;
        if from == bytes.len() {
            let mut out = out?;
            out.extend_from_slice(&bytes[copied..]);
            return Some((out, redacted));
        }
        from += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::head::parse_request;

    fn shape_of(head: &str) -> RequestShape {
        let bytes = format!("{}\r\n\r\n", head.replace('\n', "\r\n"));
        Redactor::with_key(b"k").shape(&parse_request(bytes.as_bytes()).unwrap().unwrap().0, Scheme::Http)
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
        let mut all = [&s.target[..], s.authority.as_deref().unwrap_or_default()].concat();
        for h in s.headers.iter() {
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
            Header { name: b"COOKIE".into(), value: HeaderValue::Redacted { len: 5, hash: None } }
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
        assert_eq!((shape.authority.as_deref(), &shape.target[..]), (Some(&b"other:81"[..]), &b"?x=1"[..]));
    }

    #[test]
    fn redacted_targets_are_marked() {
        let shape = shape_of("GET /pay?card=4111111111111111&q=4111-1111-1111-1111 HTTP/1.1\nHost: h");
        assert!(shape.target_redacted);
        let text = String::from_utf8(shape.target.to_vec()).unwrap();
        let parts: Vec<&str> = text.split("REDACTED-").collect();
        assert_eq!((parts[0], parts.len(), &parts[1][12..]), ("/pay?card=", 3, "&q="), "{text}");
    }

    #[test]
    fn equal_values_stay_equal_under_one_key_only() {
        let of = |key: &[u8], head: &str| {
            let bytes = format!("{}\r\n\r\n", head.replace('\n', "\r\n"));
            Redactor::with_key(key).shape(&parse_request(bytes.as_bytes()).unwrap().unwrap().0, Scheme::Http)
        };
        let (a, b) =
            ("GET /?token=abcdef HTTP/1.1\nX-Tenant: acme", "GET /?token=abcdeg HTTP/1.1\nX-Tenant: acmf");
        assert_eq!(of(b"1", a), of(b"1", a));
        for (other, key) in [(b, b"1"), (a, b"2")] {
            let (one, other) = (of(b"1", a), of(key, other));
            assert!(one.target != other.target && one.headers != other.headers, "{one:?} {other:?}");
        }
        // What is another in each request leaves no hash, nor does what names a client or opens a door.
        let dropped = "GET / HTTP/1.1\nX-Request-Id: 1\nX-Forwarded-For: 1.2.3.4\nCookie: a=1\nX-Api-Key: k\nAuthorization: x";
        let is_dropped = |h: &Header| matches!(h.value, HeaderValue::Redacted { hash: None, .. });
        assert!(of(b"1", dropped).headers.iter().all(is_dropped));
    }

    #[test]
    fn rules_tighten_and_loosen() {
        let rules = "[headers]\nkeep = ['x-tenant']\nhash = ['user-agent']\ndrop = ['accept']\nset = { x-api-version = '2' }\n\
                     [query]\nkeep = ['code']\nhash = ['customer']\nset = { token = 'demo' }\n\
                     [path]\nhash = ['^/u/([^/]+)']\nkeep = ['^/blob/']";
        let redactor = Redactor::new(RedactKey::new(b"k"), Rules::parse(rules).unwrap(), Detail::Values);
        let shape = |target: &str, lines: &str| {
            let bytes = format!("GET {target} HTTP/1.1\r\n{lines}\r\n");
            redactor.shape(&parse_request(bytes.as_bytes()).unwrap().unwrap().0, Scheme::Http)
        };
        let text = |s: &RequestShape| (String::from_utf8_lossy(&s.target).into_owned(), s.target_redacted);
        assert_eq!(text(&shape("/a?code=1&Token=x", "")), ("/a?code=1&Token=demo".to_owned(), false));
        assert!(!text(&shape("/blob/550e8400-e29b-41d4-a716-446655440000?q=1", "")).1);
        for (target, form) in
            [("/u/bob/cart", "/u/REDACTED-#/cart"), ("/a?customer=bob", "/a?customer=REDACTED-#")]
        {
            let (got, redacted) = text(&shape(target, ""));
            let at = got.find("REDACTED-").unwrap() + 9;
            assert_eq!((format!("{}#{}", &got[..at], &got[at + 12..]), redacted), (form.to_owned(), true));
        }
        let lines = "X-Tenant: acme\r\nUser-Agent: x\r\nAccept: y\r\nX-Api-Version: 1\r\nX-Other: z\r\n";
        let values: Vec<HeaderValue> = shape("/", lines).headers.iter().map(|h| h.value.clone()).collect();
        let kept = |v: &HeaderValue| matches!(v, HeaderValue::Kept(_));
        assert_eq!(values.iter().map(kept).collect::<Vec<_>>(), [true, false, false, true, false]);
        assert_eq!(values[3], HeaderValue::Kept(b"2".to_vec()));
        assert_eq!(values[2], HeaderValue::Redacted { len: 1, hash: None });
    }

    #[test]
    fn a_shape_alone_has_no_values() {
        let redactor = Redactor::new(RedactKey::new(b"k"), Rules::default(), Detail::ShapeOnly);
        let head = "GET /shop/item/42/Red%20Shoes?q=red&page=2&flag HTTP/1.1\r\nHost: h\r\nUser-Agent: who\r\nAccept: */*\r\n\r\n";
        let shape = redactor.shape(&parse_request(head.as_bytes()).unwrap().unwrap().0, Scheme::Http);
        let text = String::from_utf8(shape.target.to_vec()).unwrap();
        assert!(text.starts_with("/shop/item/REDACTED-") && shape.target_redacted, "{text}");
        assert!(!["/42", "Red%20", "red", "=2", "flag"].iter().any(|s| text.contains(s)), "{text}");
        assert!(matches!(shape.headers[1].value, HeaderValue::Redacted { len: 3, hash: None }));
        assert_eq!(shape.header("accept"), Some(&b"*/*"[..]));
    }

    #[test]
    fn what_hides_behind_equals_signs_and_codes_is_found() {
        let s = "planted";
        let token = "aGVsbG8gd29ybGQgZm9vMTIzNDU2Nzg5MEFCQ0Q";
        let rules = Rules::parse("[path]\nhash = ['^/users/((first|last)-[^/]+)', '-([^/]+)/x']").unwrap();
        let ruled = Redactor::new(RedactKey::new(b"k"), rules, Detail::Values);
        for (target, secret) in [
            (format!("/reset/{token}="), token),
            (format!("/reset/{token}==?a=1"), token),
            (format!("/a?{token}=="), token),
            (format!("/u/{s}@example.com=1"), s),
            (format!("/a?{s}%40example.com=1"), s),
            (format!("/a?next=%2Fcb%23access_token%3D{s}"), s),
            (format!("/a?q=token%3D{s}"), s),
            (format!("/fetch/https%3A%2F%2Fh%2F%3Ftoken%3D{s}"), s),
            (format!("/cb#access_token={s}"), s),
            (format!("/a?x=1#access_token={s}"), s),
            (format!("/users/first-{s}/x"), s),
        ] {
            let bytes = format!("GET {target} HTTP/1.1\r\n\r\n");
            let shape = ruled.shape(&parse_request(bytes.as_bytes()).unwrap().unwrap().0, Scheme::Http);
            let text = String::from_utf8(shape.target.to_vec()).unwrap();
            assert!(!text.contains(secret) && shape.target_redacted, "{target}: {text}");
        }
        let host = Redactor::new(
            RedactKey::new(b"k"),
            Rules::parse("[headers]\ndrop = ['Host']").unwrap(),
            Detail::Values,
        );
        let shape = host.shape(
            &parse_request(b"GET / HTTP/1.1\r\nHost: planted\r\n\r\n").unwrap().unwrap().0,
            Scheme::Http,
        );
        assert_eq!(shape.authority, None);
    }

    /// A value that is made of equals signs is looked into a few times, not once for each of them.
    #[test]
    fn nesting_is_bounded() {
        let redactor = Redactor::with_key(b"k");
        for target in [
            format!("/a?{}", "a=".repeat(30_000)),
            format!("/{}", "a=%3D".repeat(10_000)),
            format!("/a?x=%{}41", "25".repeat(20_000)),
        ] {
            let (_, redacted) = redactor.origin(target.as_bytes());
            assert_eq!(redacted, target.contains('=') && !target.contains("%25"), "{}", &target[..20]);
        }
        assert_eq!(redactor.origin(b"/a?b=c=d&e=f"), (Cow::Borrowed(&b"/a?b=c=d&e=f"[..]), false));
    }
}
