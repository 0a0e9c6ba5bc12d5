//! Request and response heads: order, case and duplicates kept as they were on the wire.

use crate::limits::{HEAD_BYTES_MAX, HEADERS_MAX};

/// Protocol version of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2: seen in logs; the request is kept in the form of HTTP/1.
    Http2,
}

impl Version {
    /// `1.0`, `1.1` or `2`.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Http10 => "1.0",
            Self::Http11 => "1.1",
            Self::Http2 => "2",
        }
    }
}

/// One header line, as on the wire but without the white space around the value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeaderLine {
    /// Name in its own case.
    pub name: Vec<u8>,
    /// Value; any bytes.
    pub value: Vec<u8>,
}

/// A request head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead {
    /// Any RFC 9110 token.
    pub method: Vec<u8>,
    /// Request target as sent: origin, absolute, authority or asterisk form; any bytes but SP.
    pub target: Vec<u8>,
    /// Version.
    pub version: Version,
    /// Header lines in order.
    pub headers: Vec<HeaderLine>,
}

/// A response head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    /// Status code.
    pub status: u16,
    /// Version.
    pub version: Version,
    /// Header lines in order.
    pub headers: Vec<HeaderLine>,
}

/// Why bytes are not a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// No end of head within [`HEAD_BYTES_MAX`].
    #[error("head longer than {HEAD_BYTES_MAX} bytes")]
    TooLong,
    /// Not HTTP/1.
    #[error("not an HTTP/1 head: {0}")]
    Malformed(httparse::Error),
}

fn lines(headers: &[httparse::Header<'_>]) -> Vec<HeaderLine> {
    let line =
        |h: &httparse::Header<'_>| HeaderLine { name: h.name.as_bytes().to_vec(), value: h.value.to_vec() };
    headers.iter().map(line).collect()
}

fn version(v: Option<u8>) -> Version {
    if v == Some(0) { Version::Http10 } else { Version::Http11 }
}

fn partial<T>(len: usize) -> Result<Option<T>, HeadError> {
    if len > HEAD_BYTES_MAX { Err(HeadError::TooLong) } else { Ok(None) }
}

/// The same bytes with folded header lines on one line, where there are any: a line that begins with a blank goes on the
/// one before, and RFC 9112 (section 5.2) reads its line end as blanks. Neither behind the first line, nor where a line
/// has nothing but blanks: there parties disagree, so it stays malformed.
fn unfold(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out: Option<Vec<u8>> = None;
    let mut start = bytes.iter().position(|b| *b == b'\n')? + 1;
    let mut headers = 0;
    while let Some(len) = bytes.get(start..)?.iter().position(|b| *b == b'\n') {
        let line = &bytes[start..start + len];
        if line.trim_ascii().is_empty() {
            break;
        }
        if matches!(line.first(), Some(b' ' | b'\t')) {
            if headers == 0 {
                return None;
            }
            let out = out.get_or_insert_with(|| bytes.to_vec());
            let end = start - 1;
            let begin = if out.get(end.wrapping_sub(1)) == Some(&b'\r') { end - 1 } else { end };
            out[begin..=end].fill(b' ');
        }
        headers += 1;
        start += len + 1;
    }
    out
}

/// Parses a request head at the start of `bytes`.
///
/// Returns the head and its length, or `None` when more bytes are needed.
///
/// # Errors
/// [`HeadError`] when no more bytes could make it a head.
pub fn parse_request(bytes: &[u8]) -> Result<Option<(RequestHead, usize)>, HeadError> {
    let unfolded = unfold(bytes);
    let bytes = unfolded.as_deref().unwrap_or(bytes);
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes).map_err(HeadError::Malformed)? {
        httparse::Status::Partial => partial(bytes.len()),
        httparse::Status::Complete(len) if len > HEAD_BYTES_MAX => Err(HeadError::TooLong),
        httparse::Status::Complete(len) => {
            let head = RequestHead {
                method: request.method.unwrap_or_default().as_bytes().to_vec(),
                target: request.path.unwrap_or_default().as_bytes().to_vec(),
                version: version(request.version),
                headers: lines(request.headers),
            };
            Ok(Some((head, len)))
        }
    }
}

/// Parses a response head at the start of `bytes`. See [`parse_request`].
///
/// # Errors
/// [`HeadError`] when no more bytes could make it a head.
pub fn parse_response(bytes: &[u8]) -> Result<Option<(ResponseHead, usize)>, HeadError> {
    let unfolded = unfold(bytes);
    let bytes = unfolded.as_deref().unwrap_or(bytes);
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(bytes).map_err(HeadError::Malformed)? {
        httparse::Status::Partial => partial(bytes.len()),
        httparse::Status::Complete(len) if len > HEAD_BYTES_MAX => Err(HeadError::TooLong),
        httparse::Status::Complete(len) => {
            let head = ResponseHead {
                status: response.code.unwrap_or(0),
                version: version(response.version),
                headers: lines(response.headers),
            };
            Ok(Some((head, len)))
        }
    }
}

/// Values of all header lines called `name`, whatever their case, in order.
pub fn values<'a>(headers: &'a [HeaderLine], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let same = move |h: &&HeaderLine| h.name.eq_ignore_ascii_case(name.as_bytes());
    headers.iter().filter(same).map(|h| h.value.as_slice())
}

/// Whether `byte` may stand in a method or a header name (RFC 9110, section 5.6.2).
#[must_use]
pub fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether `bytes` may be the beginning of a request: a token of at most 32 bytes, a space and, as far as
/// the first line is there, `HTTP/1.` at its end.
#[must_use]
pub fn looks_like_request(bytes: &[u8]) -> bool {
    let method = bytes.iter().take_while(|b| is_token(**b)).count();
    if method == 0 || method > 32 {
        return false;
    }
    if method == bytes.len() {
        return true;
    }
    if bytes[method] != b' ' {
        return false;
    }
    match bytes.iter().position(|b| *b == b'\n') {
        None => !bytes[method..].iter().any(|b| *b < b' ' && *b != b'\r'),
        Some(end) => {
            let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
            line.len() > 9 && line[line.len() - 9..].starts_with(b" HTTP/1.")
        }
    }
}

/// Whether `bytes` may be the beginning of a response.
#[must_use]
pub fn looks_like_response(bytes: &[u8]) -> bool {
    let want = b"HTTP/1.";
    let n = bytes.len().min(want.len());
    n > 0 && bytes[..n] == want[..n]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_case_and_duplicates_are_kept() {
        let bytes = b"QUERY /a?b HTTP/1.1\r\nHOST: x\r\nx-A: 1\r\nX-a: 2\r\n\r\nrest";
        let (head, len) = parse_request(bytes).unwrap().unwrap();
        assert_eq!(&bytes[len..], b"rest");
        let names: Vec<_> =
            head.headers.iter().map(|h| String::from_utf8_lossy(&h.name).into_owned()).collect();
        assert_eq!(names, ["HOST", "x-A", "X-a"]);
        assert_eq!(values(&head.headers, "X-A").collect::<Vec<_>>(), [b"1", b"2"]);
        assert_eq!((head.method.as_slice(), head.target.as_slice()), (&b"QUERY"[..], &b"/a?b"[..]));
    }

    #[test]
    fn folded_lines_are_one() {
        let bytes = b"GET / HTTP/1.1\r\nA: 1,\r\n\t2,\r\n 3\r\nB: x\n y\r\n\r\nrest\r\n z";
        let (head, len) = parse_request(bytes).unwrap().unwrap();
        assert_eq!(&bytes[len..], b"rest\r\n z");
        assert_eq!(values(&head.headers, "a").collect::<Vec<_>>(), [b"1,  \t2,   3"]);
        assert_eq!(values(&head.headers, "b").collect::<Vec<_>>(), [b"x  y"]);
        let (head, _) = parse_response(b"HTTP/1.1 200 OK\r\nA: 1\r\n 2\r\n\r\n").unwrap().unwrap();
        assert_eq!(values(&head.headers, "a").collect::<Vec<_>>(), [b"1   2"]);
        // What hides a header, or an end that not everybody sees, is malformed.
        for bad in ["GET / HTTP/1.1\r\n A: 1\r\n\r\n", "GET / HTTP/1.1\r\nA: 1\r\n \r\nB: 2\r\n\r\n"] {
            assert!(parse_request(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn partial_is_not_an_error_but_endless_is() {
        assert_eq!(parse_request(b"GET / HTTP/1.1\r\nHost").unwrap(), None);
        assert_eq!(parse_response(b"HTTP/1.1 200").unwrap(), None);
        let mut long = b"GET / HTTP/1.1\r\nA: ".to_vec();
        long.resize(HEAD_BYTES_MAX + 1, b'a');
        assert_eq!(parse_request(&long), Err(HeadError::TooLong));
        assert!(parse_request(b"\x16\x03\x01\x02\x00").is_err());
    }

    #[test]
    fn requests_are_told_by_content() {
        #[rustfmt::skip]
        let table: [(&[u8], bool); 10] = [
            (b"GET / HTTP/1.1\r\n", true), (b"PATCHp /x HTTP/1.0\n", true), (b"GE", true), (b"GET /long", true),
            (b"HTTP/1.1 200 OK\r\n", false), (b"\x16\x03\x01", false), (b"SSH-2.0-OpenSSH\r\n", false),
            (b"", false), (b"GET /\r\n", false), (b"{\"a\": 1}", false),
        ];
        for (bytes, want) in table {
            assert_eq!(looks_like_request(bytes), want, "{:?}", String::from_utf8_lossy(bytes));
        }
    }
}
