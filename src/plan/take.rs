//! Values taken from answers: a header, a cookie, a place in JSON, or the first group of a regular expression.
//!
//! Only from whole answers that mean well (2xx and 3xx). What is not there is not there: no default, no old value.

use std::io::Read;

use super::routes::Pattern;
use crate::limits::{TAKE_BODY_BYTES_MAX, VALUE_BYTES_MAX};

/// Where in an answer a value stands.
#[derive(Debug, Clone)]
pub enum Place {
    /// The header of this name.
    Header(String),
    /// The cookie of this name, as the answer sets it.
    Cookie(String),
    /// A JSON pointer into the body (RFC 6901).
    Json(String),
    /// The first group of a regular expression over the body.
    Regex(Box<regex::bytes::Regex>),
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Header(a), Self::Header(b)) => a.eq_ignore_ascii_case(b),
            (Self::Cookie(a), Self::Cookie(b)) | (Self::Json(a), Self::Json(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

impl Eq for Place {}

/// A value to be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Take {
    /// Its name.
    pub name: String,
    /// From answers to these requests.
    pub from: Pattern,
    /// Where it stands.
    pub place: Place,
}

impl Take {
    /// Whether it needs the body.
    #[must_use]
    pub fn needs_body(&self) -> bool {
        matches!(self.place, Place::Json(_) | Place::Regex(_))
    }
}

/// A whole answer, as far as values are taken from it.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// Header lines in order.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// Body, as it came; `None` where it was longer than [`TAKE_BODY_BYTES_MAX`].
    pub body: Option<&'a [u8]>,
}

impl Answer<'_> {
    fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| *v)
    }

    /// The body without its coding; gzip and deflate are undone, others are not understood.
    #[must_use]
    pub fn plain_body(&self) -> Option<Vec<u8>> {
        let body = self.body?;
        let coding = self.header("content-encoding").unwrap_or_default().trim_ascii().to_ascii_lowercase();
        let most = TAKE_BODY_BYTES_MAX as u64 + 1;
        let mut out = Vec::new();
        let read = match coding.as_slice() {
            b"" | b"identity" => return Some(body.to_vec()),
            b"gzip" | b"x-gzip" => flate2::read::MultiGzDecoder::new(body).take(most).read_to_end(&mut out),
            b"deflate" => flate2::read::ZlibDecoder::new(body).take(most).read_to_end(&mut out),
            _ => return None,
        };
        (read.is_ok() && out.len() <= TAKE_BODY_BYTES_MAX).then_some(out)
    }
}

/// The value; `plain` is the body without its coding, where one was needed and could be read.
#[must_use]
pub fn extract(place: &Place, answer: &Answer<'_>, plain: Option<&[u8]>) -> Option<Vec<u8>> {
    let found = match place {
        Place::Header(name) => answer.header(name).map(<[u8]>::to_vec),
        Place::Cookie(name) => {
            let set = answer.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case("set-cookie"));
            let pair = set.filter_map(|(_, v)| super::cookies::pair(v));
            pair.rev().find(|(n, _)| *n == name.as_bytes()).map(|(_, v)| v.to_vec())
        }
        Place::Json(pointer) => {
            let value: serde_json::Value = serde_json::from_slice(plain?).ok()?;
            match value.pointer(pointer)? {
                serde_json::Value::String(s) => Some(s.clone().into_bytes()),
                v @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_)) => {
                    Some(v.to_string().into_bytes())
                }
                serde_json::Value::Null | serde_json::Value::Array(_) | serde_json::Value::Object(_) => None,
            }
        }
        Place::Regex(regex) => regex.captures(plain?)?.get(1).map(|m| m.as_bytes().to_vec()),
    };
    found.filter(|v| !v.is_empty() && v.len() <= VALUE_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn regex(text: &str) -> Place {
        Place::Regex(Box::new(regex::bytes::Regex::new(text).unwrap()))
    }

    #[test]
    fn values_are_found_where_they_stand_and_nowhere_else() {
        let headers: [(&str, &[u8]); 4] = [
            ("X-Csrf", b"c1"),
            ("Set-Cookie", b"sid=old; Path=/"),
            ("set-cookie", b"sid=new; HttpOnly"),
            ("Location", b"/orders/17"),
        ];
        let body: &[u8] = br#"{"order":{"id":17,"ok":true,"tags":["a","b"],"none":null},"csrf":"c2"} <input name="t" value="c3">"#;
        let json: &[u8] =
            br#"{"order":{"id":17,"ok":true,"tags":["a","b"],"none":null},"a/b":"c2","empty":""}"#;
        type Row = (Place, &'static [u8], Option<&'static [u8]>);
        let table: [Row; 13] = [
            (Place::Header("x-csrf".into()), b"", Some(b"c1")),
            (Place::Header("x-other".into()), b"", None),
            (Place::Cookie("sid".into()), b"", Some(b"new")),
            (Place::Cookie("Sid".into()), b"", None),
            (Place::Json("/order/id".into()), json, Some(b"17")),
            (Place::Json("/order/ok".into()), json, Some(b"true")),
            (Place::Json("/order/tags/1".into()), json, Some(b"b")),
            (Place::Json("/order/none".into()), json, None),
            (Place::Json("/order".into()), json, None),
            (Place::Json("/a~1b".into()), json, Some(b"c2")),
            (Place::Json("/empty".into()), json, None),
            (Place::Json("/order/id".into()), body, None),
            (regex("name=\"t\" value=\"([^\"]+)\""), body, Some(b"c3")),
        ];
        for (place, body, want) in table {
            let answer = Answer { headers: &headers, body: Some(body) };
            let plain = answer.plain_body();
            assert_eq!(extract(&place, &answer, plain.as_deref()).as_deref(), want, "{place:?}");
        }
        let none = Answer { headers: &headers, body: None };
        assert_eq!(extract(&regex("(.)"), &none, none.plain_body().as_deref()), None);
    }

    #[test]
    fn compressed_bodies_are_read_and_bombs_are_not() {
        let gzip = |data: &[u8]| {
            let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            e.write_all(data).unwrap();
            e.finish().unwrap()
        };
        let coded = |coding: &'static [u8], body: &[u8]| {
            let headers: [(&str, &[u8]); 1] = [("Content-Encoding", coding)];
            Answer { headers: &headers, body: Some(body) }.plain_body()
        };
        assert_eq!(coded(b"gzip", &gzip(b"hello")).as_deref(), Some(&b"hello"[..]));
        assert_eq!(coded(b"gzip", &[1, 2, 3]), None);
        assert_eq!(coded(b"br", b"hello"), None, "not understood is not guessed");
        let most = vec![b'a'; TAKE_BODY_BYTES_MAX];
        assert_eq!(coded(b"gzip", &gzip(&most)).map(|b| b.len()), Some(TAKE_BODY_BYTES_MAX));
        let bomb = vec![b'a'; TAKE_BODY_BYTES_MAX + 1];
        assert_eq!(coded(b"gzip", &gzip(&bomb)), None);
    }
}
