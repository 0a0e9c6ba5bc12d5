//! Stamps of logs: every form in which a server writes a time, read without allocating.
//!
//! The civil calendar is reckoned by days (Hinnant, "chrono-compatible low-level date algorithms") and compared with jiff
//! in tests. A stamp knows its resolution: what was cut off is spread by rule later, and said to be.

use crate::units::{NANOS_PER_SEC, WallTime};

/// A time and how fine it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The time.
    pub at: WallTime,
    /// Smallest step of such stamps, nanoseconds.
    pub resolution_ns: u64,
}

/// How a time is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimeForm {
    /// `10/Oct/2000:13:55:36 -0700`, with or without brackets and a fraction; without a zone it is UTC.
    Clf,
    /// `2000-10-10T13:55:36.123Z`, `+02:00`, `+0200`, or a blank for the `T`; without a zone it is UTC.
    Iso,
    /// Seconds since 1970, with decimals or without.
    EpochSeconds,
    /// Milliseconds since 1970.
    EpochMillis,
    /// Microseconds since 1970.
    EpochMicros,
    /// Nanoseconds since 1970.
    EpochNanos,
    /// A number since 1970 whose size tells its unit, or an ISO time: what JSON logs have.
    Any,
    /// `2000-10-10`, completed by a [`TimeForm::TimeOfDay`].
    Date,
    /// `13:55:36`, completed by a [`TimeForm::Date`].
    TimeOfDay,
    /// `Sun Mar 13 22:49:12 2016`.
    Asctime,
    /// Milliseconds of the second that another column gives.
    FractionMillis,
    /// Microseconds of the second that another column gives.
    FractionMicros,
}

/// Reads a time; `before` is what another column of the same line gave already.
#[must_use]
pub fn read(form: &TimeForm, raw: &[u8], before: Option<Stamp>) -> Option<Stamp> {
    match form {
        TimeForm::Clf => clf(raw),
        TimeForm::Iso => iso(raw),
        TimeForm::EpochSeconds => epoch(raw, 9),
        TimeForm::EpochMillis => epoch(raw, 6),
        TimeForm::EpochMicros => epoch(raw, 3),
        TimeForm::EpochNanos => epoch(raw, 0),
        TimeForm::Any => any_form(raw),
        TimeForm::Asctime => asctime(raw),
        TimeForm::Date => {
            let (days, rest) = date(raw)?;
            rest.is_empty().then(|| joined(before, days * DAY_S, DAY_NS))?
        }
        TimeForm::TimeOfDay => {
            let (second, fraction, resolution_ns, rest) = time_of_day(raw)?;
            let base = joined(before, second, resolution_ns)?;
            let at = WallTime(base.at.0.checked_add(fraction)?);
            rest.is_empty().then_some(Stamp { at, resolution_ns })
        }
        TimeForm::FractionMillis => fraction(before?, raw, 1_000_000),
        TimeForm::FractionMicros => fraction(before?, raw, 1_000),
    }
}

const DAY_S: i64 = 86_400;
const DAY_NS: u64 = 86_400 * NANOS_PER_SEC;

/// A date and a time of day in two columns: their sum, in either order.
fn joined(before: Option<Stamp>, seconds: i64, resolution_ns: u64) -> Option<Stamp> {
    let ns = u64::try_from(seconds).ok()?.checked_mul(NANOS_PER_SEC)?;
    let old = before.unwrap_or(Stamp { at: WallTime(0), resolution_ns });
    Some(Stamp {
        at: WallTime(old.at.0.checked_add(ns)?),
        resolution_ns: old.resolution_ns.min(resolution_ns),
    })
}

fn fraction(before: Stamp, raw: &[u8], unit_ns: u64) -> Option<Stamp> {
    let n = super::row::number(raw)?.checked_mul(unit_ns).filter(|n| *n < NANOS_PER_SEC)?;
    let second = before.at.0 - before.at.0 % NANOS_PER_SEC;
    Some(Stamp { at: WallTime(second + n), resolution_ns: unit_ns })
}

/// `n` digits at the start, and the rest.
fn digits(raw: &[u8], n: usize) -> Option<(i64, &[u8])> {
    let (head, rest) = raw.split_at_checked(n)?;
    Some((i64::try_from(super::row::number(head)?).ok()?, rest))
}

fn sign<'a>(raw: &'a [u8], sign: &[u8]) -> Option<&'a [u8]> {
    raw.strip_prefix(sign)
}

/// Days since 1970 of a civil date; `None` where there is no such day.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let most = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=most).contains(&day) || !(1970..=2500).contains(&year) {
        return None;
    }
    let y = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (y / 400, y % 400);
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let of_era = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    Some(era * 146_097 + of_era - 719_468)
}

fn date(raw: &[u8]) -> Option<(i64, &[u8])> {
    let (year, raw) = digits(raw, 4)?;
    let (month, raw) = digits(sign(raw, b"-")?, 2)?;
    let (day, raw) = digits(sign(raw, b"-")?, 2)?;
    Some((days(year, month, day)?, raw))
}

/// Seconds of the day, nanoseconds of the second, resolution, and the rest.
fn time_of_day(raw: &[u8]) -> Option<(i64, u64, u64, &[u8])> {
    let (hour, raw) = digits(raw, 2)?;
    let (minute, raw) = digits(sign(raw, b":")?, 2)?;
    let (second, raw) = digits(sign(raw, b":")?, 2)?;
    // A leap second is the last moment of its minute.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let at = hour * 3600 + minute * 60 + second.min(59);
    let Some(rest) = raw.strip_prefix(b".").or_else(|| raw.strip_prefix(b",")) else {
        return Some((at, 0, NANOS_PER_SEC, raw));
    };
    let n = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let (mut ns, mut resolution) = (0u64, NANOS_PER_SEC);
    for digit in rest.get(..n)?.iter().take(9) {
        resolution /= 10;
        ns += u64::from(digit - b'0') * resolution;
    }
    (n > 0).then(|| (at, ns, resolution, &rest[n..]))
}

/// Seconds east of Greenwich: `Z`, `+0200`, `+02:00`, or nothing.
fn zone(raw: &[u8]) -> Option<i64> {
    let (sign, raw) = match raw {
        b"" | b"Z" | b"z" => return Some(0),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let (hours, raw) = digits(raw, 2)?;
    let raw = raw.strip_prefix(b":").unwrap_or(raw);
    let minutes = if raw.is_empty() { 0 } else { digits(raw, 2).filter(|(_, rest)| rest.is_empty())?.0 };
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

fn stamp(days: i64, second: i64, ns: u64, resolution_ns: u64, zone: i64) -> Option<Stamp> {
    let seconds = u64::try_from(days * DAY_S + second - zone).ok()?;
    Some(Stamp { at: WallTime(seconds.checked_mul(NANOS_PER_SEC)?.checked_add(ns)?), resolution_ns })
}

fn month(name: &[u8]) -> Option<i64> {
    const MONTHS: [&[u8; 3]; 12] =
        [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
    MONTHS.iter().position(|m| m.as_slice() == name).and_then(|i| i64::try_from(i + 1).ok())
}

fn clf(raw: &[u8]) -> Option<Stamp> {
    let raw = raw.strip_prefix(b"[").and_then(|r| r.strip_suffix(b"]")).unwrap_or(raw);
    let (day, raw) = digits(raw, 2)?;
    let (name, raw) = sign(raw, b"/")?.split_at_checked(3)?;
    let (year, raw) = digits(sign(raw, b"/")?, 4)?;
    let days = days(year, month(name)?, day)?;
    let (second, ns, resolution, rest) = time_of_day(sign(raw, b":")?)?;
    let zone = zone(rest.strip_prefix(b" ").unwrap_or(rest))?;
    stamp(days, second, ns, resolution, zone)
}

fn iso(raw: &[u8]) -> Option<Stamp> {
    let raw = raw.strip_prefix(b"[").and_then(|r| r.strip_suffix(b"]")).unwrap_or(raw);
    let (days, raw) = date(raw)?;
    let raw = raw.strip_prefix(b"T").or_else(|| raw.strip_prefix(b" "))?;
    let (second, ns, resolution, rest) = time_of_day(raw)?;
    let zone = zone(rest.strip_prefix(b" ").unwrap_or(rest))?;
    stamp(days, second, ns, resolution, zone)
}

fn asctime(raw: &[u8]) -> Option<Stamp> {
    let text = std::str::from_utf8(raw).ok()?;
    let parts: Vec<&str> = text.split_ascii_whitespace().collect();
    let [_, name, day, clock, year] = parts.as_slice() else { return None };
    let days = days(year.parse().ok()?, month(name.as_bytes())?, day.parse().ok()?)?;
    let (second, ns, resolution, rest) = time_of_day(clock.as_bytes())?;
    rest.is_empty().then(|| stamp(days, second, ns, resolution, 0))?
}

/// A decimal number shifted left by `shift` digits: `0.5` by 9 is 500,000,000. Further digits are cut. Exponents as
/// programs write them in JSON are understood (`2.7e-06`).
#[must_use]
pub fn decimal(raw: &[u8], shift: u32) -> Option<u64> {
    if let Some(e) = raw.iter().position(|b| matches!(b, b'e' | b'E')) {
        let exponent: i64 = std::str::from_utf8(&raw[e + 1..]).ok()?.parse().ok()?;
        // No program writes more; a hostile one would have us multiply for ever.
        if !(-30..=30).contains(&exponent) {
            return None;
        }
        let shift = i64::from(shift) + exponent;
        return match u32::try_from(shift) {
            Ok(shift) => decimal(&raw[..e], shift),
            Err(_) => decimal(&raw[..e], 0).map(|_| 0),
        };
    }
    let dot = raw.iter().position(|b| *b == b'.').unwrap_or(raw.len());
    let whole = super::row::number(&raw[..dot])?;
    let fraction = raw.get(dot + 1..).unwrap_or_default();
    if dot < raw.len() && (fraction.is_empty() || !fraction.iter().all(u8::is_ascii_digit)) {
        return None;
    }
    let mut n = whole;
    for i in 0..shift as usize {
        let digit = fraction.get(i).map_or(0, |b| u64::from(b - b'0'));
        n = n.checked_mul(10)?.checked_add(digit)?;
    }
    Some(n)
}

fn epoch(raw: &[u8], shift: u32) -> Option<Stamp> {
    let at = decimal(raw, shift)?;
    let e = raw.iter().position(|b| matches!(b, b'e' | b'E'));
    let mantissa = &raw[..e.unwrap_or(raw.len())];
    let decimals = mantissa.iter().position(|b| *b == b'.').map_or(0, |dot| mantissa.len() - dot - 1);
    let exponent = e.and_then(|e| std::str::from_utf8(&raw[e + 1..]).ok()?.parse::<i64>().ok()).unwrap_or(0);
    let fine = (i64::from(shift) + exponent - decimals as i64).clamp(0, 9) as u32;
    (at > 0).then_some(Stamp { at: WallTime(at), resolution_ns: 10u64.pow(fine) })
}

fn any_form(raw: &[u8]) -> Option<Stamp> {
    if raw.contains(&b'/') {
        return clf(raw);
    }
    if raw.contains(&b':') {
        return iso(raw);
    }
    // Seconds have ten digits until the year 2286.
    let whole = raw.iter().take_while(|b| b.is_ascii_digit()).count();
    match whole {
        9..=10 => epoch(raw, 9),
        12..=13 => epoch(raw, 6),
        15..=16 => epoch(raw, 3),
        18..=19 => epoch(raw, 0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms_of_the_same_moment() {
        const AT: u64 = 971_211_336_000_000_000;
        let fine = |ns: u64, resolution_ns: u64| Some((AT + ns, resolution_ns));
        let s = NANOS_PER_SEC;
        #[rustfmt::skip]
        let table = [
            (TimeForm::Clf, "10/Oct/2000:13:55:36 -0700", fine(0, s)), (TimeForm::Clf, "[10/Oct/2000:13:55:36 -0700]", fine(0, s)),
            (TimeForm::Clf, "10/Oct/2000:20:55:36.250", fine(250_000_000, 1_000_000)), (TimeForm::Clf, "10/Okt/2000:13:55:36 -0700", None),
            (TimeForm::Clf, "31/Feb/2000:13:55:36 -0700", None), (TimeForm::Clf, "10/Oct/2000:25:55:36 -0700", None), (TimeForm::Clf, "", None),
            (TimeForm::Iso, "2000-10-10T20:55:36Z", fine(0, s)), (TimeForm::Iso, "2000-10-10T22:55:36.5+02:00", fine(500_000_000, 100_000_000)),
            (TimeForm::Iso, "2000-10-10 20:55:36,123456", fine(123_456_000, 1_000)), (TimeForm::Iso, "2000-10-10T20:55:36+0000", fine(0, s)),
            (TimeForm::Iso, "2000-10-10T20:55:36.123456789123Z", fine(123_456_789, 1)), (TimeForm::Iso, "2000-10-10", None),
            (TimeForm::EpochSeconds, "971211336.004", fine(4_000_000, 1_000_000)), (TimeForm::EpochSeconds, "971211336", fine(0, s)),
            (TimeForm::EpochMillis, "971211336004", fine(4_000_000, 1_000_000)), (TimeForm::EpochMicros, "971211336000001", fine(1_000, 1_000)),
            (TimeForm::EpochNanos, "971211336000000001", fine(1, 1)), (TimeForm::Any, "971211336.5", fine(500_000_000, 100_000_000)),
            (TimeForm::Any, "971211336000", fine(0, 1_000_000)), (TimeForm::Any, "2000-10-10T20:55:36Z", fine(0, s)), (TimeForm::Any, "12", None),
            (TimeForm::Any, "10/Oct/2000:13:55:36 -0700", fine(0, s)),
            (TimeForm::EpochSeconds, "1e9223372036854775807", None), (TimeForm::EpochSeconds, "0e4000000000", None), (TimeForm::EpochSeconds, "9.71211336e8", fine(0, s)),
            (TimeForm::Asctime, "Tue Oct 10 20:55:36 2000", fine(0, s)), (TimeForm::EpochSeconds, "-5", None), (TimeForm::EpochSeconds, "1.", None),
        ];
        for (form, raw, want) in table {
            let got = read(&form, raw.as_bytes(), None).map(|s| (s.at.0, s.resolution_ns));
            assert_eq!(got, want, "{form:?} {raw}");
        }
        for [first, second] in [
            [(TimeForm::Date, "2000-10-10"), (TimeForm::TimeOfDay, "20:55:36")],
            [(TimeForm::TimeOfDay, "20:55:36"), (TimeForm::Date, "2000-10-10")],
        ] {
            let half = read(&first.0, first.1.as_bytes(), None);
            let whole = read(&second.0, second.1.as_bytes(), half).unwrap();
            assert_eq!((whole.at.0, whole.resolution_ns), (AT, s));
            let fine = read(&TimeForm::FractionMillis, b"007", Some(whole)).unwrap();
            assert_eq!((fine.at.0, fine.resolution_ns), (AT + 7_000_000, 1_000_000));
        }
    }

    proptest! {
        #[test]
        fn the_calendar_is_that_of_jiff(seconds in 0i64..15_000_000_000) {
            let want = jiff::Timestamp::from_second(seconds).unwrap();
            let text = want.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            prop_assert_eq!(iso(text.as_bytes()).unwrap().at.0, seconds as u64 * NANOS_PER_SEC);
            let text = want.strftime("%d/%b/%Y:%H:%M:%S +0000").to_string();
            prop_assert_eq!(clf(text.as_bytes()).unwrap().at.0, seconds as u64 * NANOS_PER_SEC);
        }

        #[test]
        fn no_bytes_panic(raw in prop::collection::vec(any::<u8>(), 0..40), text in "[0-9eE:./T+-]{0,30}") {
            for form in [TimeForm::Clf, TimeForm::Iso, TimeForm::EpochSeconds, TimeForm::EpochNanos, TimeForm::Any, TimeForm::Date,
                         TimeForm::TimeOfDay, TimeForm::Asctime] {
                let _ = (read(&form, &raw, None), read(&form, text.as_bytes(), None));
            }
        }
    }
}
