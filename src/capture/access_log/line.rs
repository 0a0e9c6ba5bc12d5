//! One line of a common or combined access log.
//!
//! Escapes of both servers are undone (`\"`, `\\`, `\xHH`), bytes are kept as they are: a URI need not be
//! UTF-8. What is not a request (TLS bytes, `-`, half a line) is refused with its reason.
//! Source: Apache `mod_log_config`, nginx `ngx_http_log_module`.

use crate::units::WallTime;
use crate::wire::head::{Version, is_token};

/// Why a line was not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// No `[time]` where one is expected.
    #[error("no [time] in the form [10/Oct/2000:13:55:36 +0000]")]
    Time,
    /// No quoted request.
    #[error("no quoted request behind the time")]
    Quote,
    /// The quoted request is not `METHOD target HTTP/1.x`.
    #[error("the quoted request is not METHOD target HTTP/x")]
    Request,
    /// No status code.
    #[error("no status of three digits behind the request")]
    Status,
    /// The line is too long.
    #[error("longer than {} bytes", crate::limits::LOG_LINE_BYTES_MAX)]
    TooLong,
    /// Too many lines in one capture.
    #[error("too many lines in one capture")]
    TooMany,
}

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Client address as text; used to tell sessions apart, never kept.
    pub client: Vec<u8>,
    /// Logged-in user, where there was one; never kept.
    pub user: Option<Vec<u8>>,
    /// Virtual host, where the format has it in front.
    pub host: Option<Vec<u8>>,
    /// The stamp, one second exact.
    pub stamp: WallTime,
    /// Method.
    pub method: Vec<u8>,
    /// Target.
    pub target: Vec<u8>,
    /// Version.
    pub version: Version,
    /// Status.
    pub status: u16,
    /// Body bytes of the answer; `-` is zero in these formats.
    pub response_len: Option<u64>,
    /// Referer.
    pub referer: Option<Vec<u8>>,
    /// User agent.
    pub user_agent: Option<Vec<u8>>,
    /// `$request_time`.
    pub duration_ns: Option<u64>,
}

impl LogLine {
    /// The second in which the request began. nginx stamps the *end* of a request, so its `$request_time`
    /// is taken off where it is there; the stamp is cut to the second, so the error stays below one.
    #[must_use]
    pub fn start(&self) -> WallTime {
        WallTime(self.stamp.0.saturating_sub(self.duration_ns.unwrap_or(0) / 1_000_000_000 * 1_000_000_000))
    }
}

/// Parses one line.
///
/// # Errors
/// [`LineError`].
pub fn parse(line: &[u8]) -> Result<LogLine, LineError> {
    if line.len() > crate::limits::LOG_LINE_BYTES_MAX {
        return Err(LineError::TooLong);
    }
    let (stamp, open, close) = find_time(line).ok_or(LineError::Time)?;
    let mut front = line[..open].split(|b| *b == b' ').filter(|f| !f.is_empty()).collect::<Vec<_>>();
    let host = (front.len() == 4).then(|| front.remove(0).to_vec());
    let user = front.get(2).filter(|u| **u != b"-" && **u != b"\"\"").map(|u| u.to_vec());
    let client = front.first().copied().unwrap_or_default().to_vec();
    let rest = &line[close..];
    let quote = rest.iter().position(|b| *b == b'"').ok_or(LineError::Quote)?;
    let (request, rest) = quoted(&rest[quote..]).ok_or(LineError::Quote)?;
    let mut fields = Fields(rest);
    let status =
        fields.plain().and_then(number).filter(|s| (100..=999).contains(s)).ok_or(LineError::Status)?;
    let (method, target, version) = split_request(&request)?;
    let response_len = fields.plain().and_then(|f| if f == b"-" { Some(0) } else { number(f) });
    let (referer, user_agent) = (fields.text(), fields.text());
    let duration_ns = fields.plain().and_then(seconds);
    Ok(LogLine {
        client,
        user,
        host,
        stamp,
        method,
        target,
        version,
        status: status as u16,
        response_len,
        referer,
        user_agent,
        duration_ns,
    })
}

/// The rest of a line, field by field.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn plain(&mut self) -> Option<&'a [u8]> {
        self.0 = self.0.trim_ascii_start();
        let end = self.0.iter().position(|b| *b == b' ').unwrap_or(self.0.len());
        let (field, rest) = self.0.split_at(end);
        self.0 = rest;
        (!field.is_empty()).then_some(field)
    }

    /// A quoted field; `-` and absence are `None`. An unterminated one (a cut line) takes the rest.
    fn text(&mut self) -> Option<Vec<u8>> {
        self.0 = self.0.trim_ascii_start();
        if self.0.first() != Some(&b'"') {
            return None;
        }
        let (value, rest) = quoted(self.0).unwrap_or_else(|| (unescape(&self.0[1..]), &[]));
        self.0 = rest;
        (value != b"-" && !value.is_empty()).then_some(value)
    }
}

/// A quoted field at the start of `bytes`: its value and what follows.
fn quoted(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut i = 1;
    while i < bytes.len() {
        match bytes[i] {
            b'\\' => i += 2,
            b'"' => return Some((unescape(&bytes[1..i]), &bytes[i + 1..])),
            _ => i += 1,
        }
    }
    None
}

fn unescape(bytes: &[u8]) -> Vec<u8> {
    let hex = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
    let (mut out, mut i) = (Vec::with_capacity(bytes.len()), 0);
    while i < bytes.len() {
        let next = bytes.get(i + 1);
        match (bytes[i], next) {
            (b'\\', Some(b'x')) => match (hex(bytes.get(i + 2)), hex(bytes.get(i + 3))) {
                (Some(h), Some(l)) => {
                    out.push((h * 16 + l) as u8);
                    i += 4;
                }
                _ => {
                    out.push(b'\\');
                    i += 1;
                }
            },
            (b'\\', Some(c @ (b'"' | b'\\'))) => {
                out.push(*c);
                i += 2;
            }
            (b'\\', Some(c @ (b'n' | b't' | b'r'))) => {
                out.push(match c {
                    b'n' => b'\n',
                    b't' => b'\t',
                    _ => b'\r',
                });
                i += 2;
            }
            (b, _) => {
                out.push(b);
                i += 1;
            }
        }
    }
    out
}

fn split_request(request: &[u8]) -> Result<(Vec<u8>, Vec<u8>, Version), LineError> {
    let mut parts = request.splitn(2, |b| *b == b' ');
    let method = parts.next().unwrap_or_default();
    let rest = parts.next().ok_or(LineError::Request)?;
    let space = rest.iter().rposition(|b| *b == b' ').ok_or(LineError::Request)?;
    let (target, version) = (&rest[..space], &rest[space + 1..]);
    let version = match version {
        b"HTTP/1.0" => Version::Http10,
        b"HTTP/1.1" => Version::Http11,
        // HTTP/3 is sent as HTTP/2: also one connection for a session's requests at once.
        b"HTTP/2.0" | b"HTTP/2" | b"HTTP/3.0" | b"HTTP/3" => Version::Http2,
        _ => return Err(LineError::Request),
    };
    let clean = !target.is_empty() && target.iter().all(|b| *b > b' ' && *b != 0x7f);
    let fits = clean && (target.starts_with(b"/") || target == b"*" || target.contains(&b':'));
    if method.is_empty() || !method.iter().all(|b| is_token(*b)) || !fits {
        return Err(LineError::Request);
    }
    Ok((method.to_vec(), target.to_vec(), version))
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok().filter(|t| t.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
}

/// nginx `$request_time`: seconds with exactly three decimals.
fn seconds(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?.trim_matches('"');
    let text = text.strip_prefix("rt=").unwrap_or(text);
    let (whole, fraction) = text.split_once('.')?;
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() != 3 {
        return None;
    }
    let ms: u64 = format!("{whole}{fraction}").parse().ok()?;
    ms.checked_mul(1_000_000)
}

/// The first `[10/Oct/2000:13:55:36 -0700]`: its time, where it begins and where it ends.
fn find_time(line: &[u8]) -> Option<(WallTime, usize, usize)> {
    const LEN: usize = 28;
    let starts = line.iter().enumerate().filter(|(_, b)| **b == b'[').map(|(i, _)| i);
    starts.take(4).find_map(|i| {
        let text = line.get(i..i + LEN)?;
        time(std::str::from_utf8(text).ok()?).map(|t| (t, i, i + LEN))
    })
}

fn time(text: &str) -> Option<WallTime> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    let at = |from: usize, len: usize| inner.get(from..from + len);
    let digits = |from: usize, len: usize| at(from, len)?.parse::<i16>().ok();
    let separators = [(2, "/"), (6, "/"), (11, ":"), (14, ":"), (17, ":"), (20, " ")];
    if separators.iter().any(|(i, s)| at(*i, 1) != Some(s)) {
        return None;
    }
    let month = MONTHS.iter().position(|m| Some(*m) == at(3, 3))? as i8 + 1;
    let sign = match at(21, 1)? {
        "+" => 1,
        "-" => -1,
        _ => return None,
    };
    let small = |v: i16| i8::try_from(v).ok();
    let date = jiff::civil::Date::new(digits(7, 4)?, month, small(digits(0, 2)?)?).ok()?;
    let clock =
        jiff::civil::Time::new(small(digits(12, 2)?)?, small(digits(15, 2)?)?, small(digits(18, 2)?)?, 0)
            .ok()?;
    let offset = sign * (i32::from(digits(22, 2)?) * 3600 + i32::from(digits(24, 2)?) * 60);
    let offset = jiff::tz::Offset::from_seconds(offset).ok()?;
    let stamp = offset.to_timestamp(date.to_datetime(clock)).ok()?;
    u64::try_from(stamp.as_nanosecond()).ok().map(WallTime)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRONT: &str = "203.0.113.7 - - [10/Oct/2000:13:55:36 -0700] ";

    #[test]
    fn the_combined_format() {
        let line =
            format!("{FRONT}\"GET /a?b=\\\"c\\\" HTTP/1.1\" 200 2326 \"http://r/\" \"UA \\x22x\\\\\" 1.234");
        let got = parse(line.as_bytes()).unwrap();
        assert_eq!(got.stamp.rfc3339(), "2000-10-10T20:55:36.000000Z");
        assert_eq!(got.target, b"/a?b=\"c\"");
        assert_eq!((got.status, got.response_len, got.duration_ns), (200, Some(2326), Some(1_234_000_000)));
        assert_eq!(got.user_agent.as_deref(), Some(&b"UA \"x\\"[..]));
        assert_eq!(got.start().0, got.stamp.0 - 1_000_000_000);
    }

    #[test]
    fn variants_and_refusals() {
        let of = |tail: &str| parse(format!("{FRONT}{tail}").as_bytes());
        assert_eq!(of("\"GET / HTTP/1.0\" 304 -").unwrap().response_len, Some(0));
        assert_eq!(
            of("\"GET / HTTP/1.0\" 200 5 \"-\" \"cut off").unwrap().user_agent.as_deref(),
            Some(&b"cut off"[..])
        );
        let vhost =
            parse(b"shop.example:80 1.2.3.4 - bob [10/Oct/2000:13:55:36 -0700] \"GET / HTTP/1.1\" 200 5")
                .unwrap();
        assert_eq!(
            (vhost.host.as_deref(), vhost.user.as_deref()),
            (Some(&b"shop.example:80"[..]), Some(&b"bob"[..]))
        );
        #[rustfmt::skip]
        let table = [
            ("\"-\" 400 0", LineError::Request), ("\"\" 400 0", LineError::Request),
            ("\"\\x16\\x03\\x01\" 400 0", LineError::Request), ("\"GET /\" 400 0", LineError::Request),
            ("\"GET / HTTP/1.1 200 5", LineError::Quote), ("GET", LineError::Quote),
            ("\"GET / HTTP/1.1\" x 5", LineError::Status), ("\"GET / HTTP/1.1\"", LineError::Status),
            ("\"G\\xadT / HTTP/1.1\" 400 1", LineError::Request), ("\"GET /a b HTTP/1.1\" 400 1", LineError::Request),
        ];
        for (tail, want) in table {
            assert_eq!(of(tail).unwrap_err(), want, "{tail}");
        }
        assert_eq!(parse(b"no time here"), Err(LineError::Time));
        assert_eq!(
            parse(b"1.2.3.4 - - [32/Oct/2000:13:55:36 -0700] \"GET / HTTP/1.1\" 200 5"),
            Err(LineError::Time)
        );
    }
}
