//! The cookie jar of one session: fed by answers only, never by a recording.
//!
//! RFC 6265, sections 5.2 to 5.4, as far as one host needs it: names, paths, ends, `Secure`. A cookie for a domain is
//! kept as one of this host, because no other is asked.

use std::time::Duration;

use crate::limits::{COOKIE_BYTES_MAX, COOKIES_MAX};
use crate::units::RunTime;

/// Moments now: run time for ages, seconds since 1970 for dates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Run time.
    pub run: RunTime,
    /// Seconds since 1970.
    pub unix_s: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Cookie {
    name: Vec<u8>,
    value: Vec<u8>,
    path: Vec<u8>,
    secure: bool,
    until: Option<RunTime>,
}

/// Cookies that answers set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Jar {
    cookies: Vec<Cookie>,
}

/// Name and value of a `Set-Cookie` line; `None` where it has no name or bytes that no line may have.
#[must_use]
pub fn pair(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let first = line.split(|b| *b == b';').next().unwrap_or_default();
    let at = first.iter().position(|b| *b == b'=')?;
    let (name, value) = (first[..at].trim_ascii(), first[at + 1..].trim_ascii());
    let clean = |v: &[u8]| v.iter().all(|b| *b >= b' ' && *b != 0x7f);
    (!name.is_empty() && clean(name) && clean(value)).then_some((name, value))
}

/// The directory of a path: where cookies without a path belong (RFC 6265, section 5.1.4).
fn directory(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) if at > 0 && path.first() == Some(&b'/') => &path[..at],
        _ => b"/",
    }
}

/// Whether a cookie's path covers a request's.
fn covers(cookie: &[u8], path: &[u8]) -> bool {
    path.starts_with(cookie)
        && (path.len() == cookie.len() || cookie.ends_with(b"/") || path.get(cookie.len()) == Some(&b'/'))
}

impl Jar {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cookies.is_empty()
    }

    /// Bytes of its cookies.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.cookies.iter().map(|c| c.name.len() + c.value.len() + c.path.len()).sum()
    }

    /// Takes one `Set-Cookie` line of an answer to a request for `path`.
    pub fn set(&mut self, line: &[u8], path: &[u8], now: Now) {
        let Some((name, value)) = pair(line) else { return };
        if name.len() + value.len() > COOKIE_BYTES_MAX {
            return;
        }
        let (mut own_path, mut secure, mut age, mut date) = (None, false, None, None);
        for attribute in line.split(|b| *b == b';').skip(1) {
            let at = attribute.iter().position(|b| *b == b'=').unwrap_or(attribute.len());
            let (key, rest) = attribute.split_at(at);
            let value = rest.get(1..).unwrap_or_default().trim_ascii();
            let is = |name: &[u8]| key.trim_ascii().eq_ignore_ascii_case(name);
            if is(b"path") {
                own_path = Some(value).filter(|v| v.first() == Some(&b'/'));
            } else if is(b"secure") {
                secure = true;
            } else if is(b"max-age") {
                age = std::str::from_utf8(value).ok().and_then(|v| v.parse::<i64>().ok());
            } else if is(b"expires") {
                date = std::str::from_utf8(value).ok().and_then(date_s);
            }
        }
        let left_s = age.or_else(|| date.map(|d| d.saturating_sub(now.unix_s)));
        let path = own_path.unwrap_or_else(|| directory(path)).to_vec();
        self.cookies.retain(|c| c.name != name || c.path != path);
        let until = match left_s {
            Some(..=0) => return,
            Some(s) => Some(now.run.plus(Duration::from_secs(s.unsigned_abs()))),
            None => None,
        };
        if self.cookies.len() >= COOKIES_MAX {
            self.cookies.remove(0);
        }
        self.cookies.push(Cookie { name: name.to_vec(), value: value.to_vec(), path, secure, until });
    }

    /// Writes the value of a `Cookie` line for a request for `path`: longer paths first, then the older ones. Whether
    /// there is any.
    pub fn write(&self, path: &[u8], https: bool, now: RunTime, out: &mut Vec<u8>) -> bool {
        let fits = |c: &&Cookie| {
            covers(&c.path, path) && (https || !c.secure) && c.until.is_none_or(|until| now < until)
        };
        let mut hits: Vec<&Cookie> = self.cookies.iter().filter(fits).collect();
        hits.sort_by_key(|c| std::cmp::Reverse(c.path.len()));
        for (i, cookie) in hits.iter().enumerate() {
            if i > 0 {
                out.extend_from_slice(b"; ");
            }
            out.extend_from_slice(&cookie.name);
            out.push(b'=');
            out.extend_from_slice(&cookie.value);
        }
        !hits.is_empty()
    }
}

/// A date as `Expires` writes it, in seconds since 1970 (RFC 9110, section 5.6.7; dashes as Netscape wrote them).
fn date_s(text: &str) -> Option<i64> {
    let mut words = text.split([' ', '-']).filter(|w| !w.is_empty()).skip(1);
    let (day, month, year, time) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let months = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let month = months.iter().position(|m| month.to_ascii_lowercase().starts_with(m))? as i8 + 1;
    let year: i16 = match year.parse::<i16>().ok()? {
        y @ 0..70 => 2000 + y,
        y @ 70..100 => 1900 + y,
        y => y,
    };
    let mut clock = time.split(':').map(str::parse::<i8>);
    let (h, m, s) = (clock.next()?.ok()?, clock.next()?.ok()?, clock.next()?.ok()?);
    let date = jiff::civil::DateTime::new(year, month, day.parse().ok()?, h, m, s, 0).ok()?;
    Some(jiff::tz::TimeZone::UTC.to_timestamp(date).ok()?.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { run: RunTime::from_millis(1_000), unix_s: 1_700_000_000 };

    fn sent(jar: &Jar, path: &str, https: bool, ms: u64) -> String {
        let mut out = Vec::new();
        let any = jar.write(path.as_bytes(), https, RunTime::from_millis(ms), &mut out);
        assert_eq!(any, !out.is_empty());
        String::from_utf8(out).unwrap()
    }

    fn jar(lines: &[&str]) -> Jar {
        let mut jar = Jar::default();
        lines.iter().for_each(|l| jar.set(l.as_bytes(), b"/shop/cart", NOW));
        jar
    }

    #[test]
    fn cookies_go_where_they_belong() {
        let table: [(&[&str], &str, &str); 10] = [
            (&["a=1"], "/shop/x", "a=1"),
            (&["a=1"], "/shop", "a=1"),
            (&["a=1"], "/shopping", ""),
            (&["a=1"], "/", ""),
            (&["a=1; Path=/"], "/anything", "a=1"),
            (&["a=1; Path=/", "b=2; path=/shop"], "/shop/", "b=2; a=1"),
            (&["a=1; Path=/", "a=2; Path=/"], "/", "a=2"),
            (&["a=1; Path=nonsense"], "/shop/x", "a=1"),
            (&["a=; Path=/"], "/", "a="),
            (&["=1", "nothing", "a\u{1}=2; Path=/"], "/shop/x", ""),
        ];
        for (lines, path, want) in table {
            assert_eq!(sent(&jar(lines), path, false, 1_000), want, "{lines:?} {path}");
        }
    }

    #[test]
    fn secure_ones_stay_on_tls_and_old_ones_go() {
        let j = jar(&["a=1; Path=/; Secure; HttpOnly; SameSite=Lax", "b=2; Path=/; Max-Age=5"]);
        assert_eq!(sent(&j, "/", false, 1_000), "b=2");
        assert_eq!(sent(&j, "/", true, 5_999), "a=1; b=2");
        assert_eq!(sent(&j, "/", true, 6_000), "a=1");
        let gone = [
            "b=; Path=/; Max-Age=0",
            "b=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
            "b=; Path=/; expires=Thu, 01-Jan-70 00:00:01 GMT",
        ];
        for line in gone {
            let mut j = j.clone();
            j.set(line.as_bytes(), b"/", NOW);
            assert_eq!(sent(&j, "/", true, 1_000), "a=1", "{line}");
        }
        // 20 s after NOW; Max-Age wins over it.
        let date = "Tue, 14 Nov 2023 22:13:40 GMT";
        let d = jar(&[&format!("d=4; Path=/; Expires={date}")]);
        assert_eq!((sent(&d, "/", true, 20_999), sent(&d, "/", true, 21_000)), ("d=4".into(), String::new()));
        let d = jar(&[&format!("d=4; Path=/; Expires={date}; Max-Age=2")]);
        assert_eq!(sent(&d, "/", true, 3_000), "");
        // A date that cannot be read is none: the cookie lives as long as the session.
        assert_eq!(sent(&jar(&["d=4; Path=/; Expires=soon"]), "/", true, 9_000), "d=4");
    }

    #[test]
    fn a_jar_has_bounds() {
        let mut j = Jar::default();
        for i in 0..COOKIES_MAX + 10 {
            j.set(format!("c{i}=1; Path=/").as_bytes(), b"/", NOW);
        }
        assert_eq!(j.cookies.len(), COOKIES_MAX);
        assert!(!sent(&j, "/", true, 1_000).contains("c9="), "the oldest went");
        j.set(format!("big={}; Path=/", "x".repeat(COOKIE_BYTES_MAX)).as_bytes(), b"/", NOW);
        assert!(!sent(&j, "/", true, 1_000).contains("big"));
    }
}
