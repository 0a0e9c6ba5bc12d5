//! Logs that name their columns: W3C extended (IIS, CloudFront, NetScaler, Oracle), and labelled tab-separated values.
//!
//! Sources: W3C working draft WD-logfile; IIS; Amazon CloudFront standard logs; ltsv.org. Columns may change in the
//! middle of a file. IIS and CloudFront stamp the end of a request, in UTC.

use super::clock::TimeForm;
use super::escape::Escape;
use super::row::{Field, LineError, Row, Unit};

/// The columns that `#Fields:` named last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct W3c {
    columns: Vec<Field>,
    /// Columns are parted by tabs (CloudFront), not by blanks.
    tabs: bool,
    /// `#Date:` of the header, for logs whose lines have only a time of day.
    date: Option<Vec<u8>>,
    /// `time-taken` is in seconds.
    seconds: bool,
}

impl W3c {
    /// Takes a line that begins with `#`; true where it is one of a W3C header.
    pub fn header(&mut self, line: &[u8]) -> bool {
        if let Some(date) = line.strip_prefix(b"#Date:") {
            self.date = date.trim_ascii().get(..10).map(<[u8]>::to_vec);
            return true;
        }
        let Some(names) = line.strip_prefix(b"#Fields:") else {
            return line.starts_with(b"#Version:") || line.starts_with(b"#Software:");
        };
        let names: Vec<&[u8]> = names.split(u8::is_ascii_whitespace).filter(|n| !n.is_empty()).collect();
        // CloudFront says seconds with decimals, all others milliseconds.
        self.seconds = names.iter().any(|n| n.starts_with(b"x-edge"));
        self.tabs = self.seconds;
        self.columns = names.iter().map(|n| column(n, self.seconds)).collect();
        true
    }

    /// Whether a header has been seen.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !self.columns.is_empty()
    }

    /// Reads one line.
    ///
    /// # Errors
    /// [`LineError`].
    pub fn parse<'a>(&'a self, line: &'a [u8]) -> Result<Row<'a>, LineError> {
        if self.columns.is_empty() {
            return Err(LineError::Form { at: 0, want: "#Fields: must come before the first line" });
        }
        let mut row = Row::default();
        let escape = if self.tabs { Escape::None } else { Escape::Plus };
        let tabs = self.tabs || line.contains(&b'\t');
        let mut rest = line;
        let mut dated = false;
        for field in &self.columns {
            let (value, more) = if tabs { cut(rest, b'\t') } else { word(rest) };
            rest = more;
            if value.is_empty() {
                return Err(LineError::Form {
                    at: (line.len() - rest.len()) as u32,
                    want: "fewer columns than #Fields: names",
                });
            }
            let value = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value);
            dated |= *field == Field::Time(TimeForm::Date);
            row.set(field, value, escape)?;
        }
        if !dated && let Some(date) = &self.date {
            row.set(&Field::Time(TimeForm::Date), date, Escape::None)?;
        }
        let whole = row.stamp.is_some_and(|s| {
            s.resolution_ns <= crate::units::NANOS_PER_SEC && s.at.0 > 86_400 * crate::units::NANOS_PER_SEC
        });
        if !whole {
            return Err(LineError::Missing("date"));
        }
        row.check()
    }
}

fn cut(rest: &[u8], at: u8) -> (&[u8], &[u8]) {
    match rest.iter().position(|b| *b == at) {
        Some(i) => (&rest[..i], &rest[i + 1..]),
        None => (rest, b""),
    }
}

/// The next word, behind any number of blanks; a quoted one may hold blanks.
fn word(rest: &[u8]) -> (&[u8], &[u8]) {
    let rest = rest.trim_ascii_start();
    if rest.first() == Some(&b'"')
        && let Some(end) = rest[1..].iter().position(|b| *b == b'"')
    {
        return (&rest[..end + 2], &rest[end + 2..]);
    }
    cut(rest, b' ')
}

fn column(name: &[u8], seconds: bool) -> Field {
    let lower = String::from_utf8_lossy(name).to_ascii_lowercase();
    match lower.as_str() {
        "date" | "date-local" => Field::Time(TimeForm::Date),
        "time" | "time-local" => Field::Time(TimeForm::TimeOfDay),
        "c-ip" => Field::Client,
        "c-port" => Field::ClientPort,
        "cs-username" => Field::User,
        "cs-method" => Field::Method,
        "cs-uri" => Field::Target,
        "cs-uri-stem" => Field::Path,
        "cs-uri-query" => Field::Query,
        "sc-status" => Field::Status,
        "cs-version" | "cs-protocol-version" => Field::Protocol,
        "cs-host" | "cs(host)" | "x-host-header" => Field::Host,
        "s-computername" => Field::Skip,
        "cs-protocol" => Field::Scheme,
        "cs(user-agent)" => Field::UserAgent,
        "cs(referer)" | "cs(referrer)" => Field::Referer,
        "cs(cookie)" => Field::Cookie,
        "cs(x-forwarded-for)" | "x-forwarded-for" => Field::Forwarded,
        "x-edge-result-type" => Field::Cache,
        "time-taken" => Field::Duration(if seconds { Unit::Seconds } else { Unit::Millis }),
        _ => Field::Skip,
    }
}

/// Reads one line of labelled tab-separated values, with the labels of ltsv.org and Apache's names for them.
///
/// # Errors
/// [`LineError`].
pub fn ltsv(line: &[u8]) -> Result<Row<'_>, LineError> {
    let mut row = Row::default();
    for part in line.split(|b| *b == b'\t') {
        let (label, value) = cut(part, b':');
        let field = match label {
            b"time" | b"datetime" => Field::Time(TimeForm::Any),
            b"host" | b"remote_host" | b"remote_addr" => Field::Client,
            b"vhost" => Field::Host,
            b"user" | b"remote_user" => Field::User,
            b"req" | b"request" => Field::RequestLine,
            b"method" => Field::Method,
            b"uri" => Field::Target,
            b"protocol" => Field::Protocol,
            b"status" => Field::Status,
            b"size" => Field::ResponseLen,
            b"reqsize" => Field::Skip,
            b"referer" => Field::Referer,
            b"ua" | b"user_agent" => Field::UserAgent,
            b"reqtime" => Field::Duration(Unit::Seconds),
            b"reqtime_microsec" => Field::Duration(Unit::Micros),
            b"cache" => Field::Cache,
            b"forwardedfor" => Field::Forwarded,
            _ => continue,
        };
        row.set(&field, value, Escape::Backslash)?;
    }
    row.check()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_may_change_in_the_middle() {
        let mut w = W3c::default();
        assert!(w.parse(b"x").is_err());
        assert!(w.header(b"#Version: 1.0") && !w.header(b"# a comment") && !w.is_known());
        assert!(w.header(
            b"#Fields: date time cs-method cs-uri-stem cs-uri-query sc-status time-taken cs(User-Agent)"
        ));
        let row = w.parse(b"2015-01-13 00:32:17 GET /a x=1 200 283 Mozilla/5.0+(x)").unwrap();
        assert_eq!(
            (&row.target[..], row.duration_ns, &row.user_agent[..]),
            (&b"/a?x=1"[..], Some(283_000_000), &b"Mozilla/5.0 (x)"[..])
        );
        assert_eq!(
            w.parse(b"2015-01-13 00:32:17 GET").unwrap_err(),
            LineError::Form { at: 23, want: "fewer columns than #Fields: names" }
        );
        assert!(w.header(b"#Date: 2015-01-14 10:00:00") && w.header(b"#Fields: time cs-method cs-uri-stem"));
        let row = w.parse(b"00:00:01 HEAD /").unwrap();
        assert_eq!(row.stamp.unwrap().at.0, 1_421_193_601 * crate::units::NANOS_PER_SEC);
    }
}
