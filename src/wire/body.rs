//! How long a body is: RFC 9112, section 6.3, without its leniencies.

use super::head::{HeaderLine, RequestHead, ResponseHead, values};

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// This many bytes.
    Length(u64),
    /// Chunked coding.
    Chunked,
    /// Until the connection closes (responses only).
    UntilClose,
    /// What follows is not HTTP any more (CONNECT, 101).
    Tunnel,
}

/// Why the length of a body cannot be known for certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguous {
    /// Two Content-Length values that differ, or one that is not a number.
    #[error("Content-Length is not one number")]
    ContentLength,
    /// Transfer-Encoding beside Content-Length.
    #[error("Transfer-Encoding and Content-Length together")]
    Both,
    /// A transfer coding other than chunked at the end.
    #[error("Transfer-Encoding does not end in chunked")]
    Coding,
}

fn content_length(headers: &[HeaderLine]) -> Result<Option<u64>, Ambiguous> {
    let mut found = None;
    for value in values(headers, "content-length").flat_map(|v| v.split(|b| *b == b',')) {
        let text = std::str::from_utf8(value.trim_ascii()).map_err(|_| Ambiguous::ContentLength)?;
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Ambiguous::ContentLength);
        }
        let number: u64 = text.parse().map_err(|_| Ambiguous::ContentLength)?;
        if found.replace(number).is_some_and(|old| old != number) {
            return Err(Ambiguous::ContentLength);
        }
    }
    Ok(found)
}

/// `Some(true)` for chunked as the only coding, `None` without Transfer-Encoding.
fn chunked(headers: &[HeaderLine]) -> Result<bool, Ambiguous> {
    let mut any = false;
    let mut last_is_chunked = false;
    for coding in values(headers, "transfer-encoding").flat_map(|v| v.split(|b| *b == b',')) {
        any = true;
        last_is_chunked = coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
    }
    if any && !last_is_chunked { Err(Ambiguous::Coding) } else { Ok(any) }
}

fn declared(headers: &[HeaderLine]) -> Result<Option<Framing>, Ambiguous> {
    let length = content_length(headers)?;
    match (chunked(headers)?, length) {
        (true, Some(_)) => Err(Ambiguous::Both),
        (true, None) => Ok(Some(Framing::Chunked)),
        (false, Some(0)) => Ok(Some(Framing::None)),
        (false, Some(n)) => Ok(Some(Framing::Length(n))),
        (false, None) => Ok(None),
    }
}

/// Framing of a request's body.
///
/// # Errors
/// [`Ambiguous`] when parties could disagree about its length.
pub fn of_request(head: &RequestHead) -> Result<Framing, Ambiguous> {
    Ok(declared(&head.headers)?.unwrap_or(Framing::None))
}

/// What the request was that a response answers, as far as framing needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Asked {
    /// Any other method.
    #[default]
    Other,
    /// HEAD: no body whatever the headers say.
    Head,
    /// CONNECT: success begins a tunnel.
    Connect,
}

impl Asked {
    /// From a method.
    #[must_use]
    pub fn by(method: &[u8]) -> Self {
        match method {
            b"HEAD" => Self::Head,
            b"CONNECT" => Self::Connect,
            _ => Self::Other,
        }
    }
}

/// Framing of a response's body.
///
/// # Errors
/// [`Ambiguous`] when parties could disagree about its length.
pub fn of_response(head: &ResponseHead, asked: Asked) -> Result<Framing, Ambiguous> {
    match (head.status, asked) {
        (101, _) | (200..=299, Asked::Connect) => Ok(Framing::Tunnel),
        (100..=199 | 204 | 304, _) | (_, Asked::Head) => Ok(Framing::None),
        _ => Ok(declared(&head.headers)?.unwrap_or(Framing::UntilClose)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::head::{parse_request, parse_response};
    use super::*;

    #[test]
    fn request_framing() {
        use Ambiguous as A;
        #[rustfmt::skip]
        let table: [(&str, Result<Framing, A>); 10] = [
            ("", Ok(Framing::None)),
            ("Content-Length: 5\r\n", Ok(Framing::Length(5))),
            ("Content-Length: 0\r\n", Ok(Framing::None)),
            ("Content-Length: 5\r\ncontent-length: 5\r\n", Ok(Framing::Length(5))),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", Err(A::ContentLength)),
            ("Content-Length: -1\r\n", Err(A::ContentLength)),
            ("Content-Length: 99999999999999999999\r\n", Err(A::ContentLength)),
            ("Transfer-Encoding: gzip, Chunked\r\n", Ok(Framing::Chunked)),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Err(A::Both)),
            ("Transfer-Encoding: gzip\r\n", Err(A::Coding)),
        ];
        for (headers, want) in table {
            let bytes = format!("POST / HTTP/1.1\r\n{headers}\r\n");
            let (head, _) = parse_request(bytes.as_bytes()).unwrap().unwrap();
            assert_eq!(of_request(&head), want, "{headers:?}");
        }
    }

    #[test]
    fn response_framing() {
        #[rustfmt::skip]
        let table = [
            (200, "", Asked::Other, Framing::UntilClose),
            (200, "Content-Length: 7\r\n", Asked::Other, Framing::Length(7)),
            (200, "Content-Length: 7\r\n", Asked::Head, Framing::None),
            (304, "Content-Length: 7\r\n", Asked::Other, Framing::None),
            (204, "", Asked::Other, Framing::None),
            (100, "", Asked::Other, Framing::None),
            (101, "", Asked::Other, Framing::Tunnel),
            (200, "", Asked::Connect, Framing::Tunnel),
            (407, "Content-Length: 7\r\n", Asked::Connect, Framing::Length(7)),
        ];
        for (status, headers, asked, want) in table {
            let bytes = format!("HTTP/1.1 {status} X\r\n{headers}\r\n");
            let (head, _) = parse_response(bytes.as_bytes()).unwrap().unwrap();
            assert_eq!(of_response(&head, asked), Ok(want), "{status} {headers:?} {asked:?}");
        }
    }
}
