//! Resolves a policy's window against a time zone: once, to UTC. Time is an argument.

use anyhow::{Context, bail};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ToSpan};

use crate::policy::window::{Opens, Window};
use crate::units::{NANOS_PER_SEC, WallTime};

/// A clock change: one hour, in nanoseconds.
const CHANGE_NS: u64 = 3_600_000_000_000;

/// How far ahead two windows are compared, days: every pair of weekdays, and both sides of a clock change in between.
const OVERLAP_DAYS: u64 = 370;

/// One opening of a window, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// Start.
    pub start: WallTime,
    /// End: the start and the length, whatever clocks do in between.
    pub end: WallTime,
}

impl Opening {
    /// Whether `now` lies in it.
    #[must_use]
    pub fn contains(&self, now: WallTime) -> bool {
        self.start <= now && now < self.end
    }
}

fn zone(window: &Window) -> anyhow::Result<TimeZone> {
    TimeZone::get(&window.timezone).with_context(|| {
        format!("window.timezone {:?} is not known; write one such as \"Europe/Amsterdam\"", window.timezone)
    })
}

fn wall(at: Timestamp) -> WallTime {
    WallTime(u64::try_from(at.as_nanosecond()).unwrap_or(0))
}

fn opens_on(opens: Opens, date: Date) -> bool {
    match opens {
        Opens::Daily(..) => true,
        Opens::Weekly(day, ..) => date.weekday().to_monday_zero_offset() == i8::try_from(day).unwrap_or(-1),
        Opens::Once(y, m, d, ..) => {
            (date.year(), date.month(), date.day())
                == (y, i8::try_from(m).unwrap_or(0), i8::try_from(d).unwrap_or(0))
        }
    }
}

fn clock(opens: Opens) -> (i8, i8) {
    let (h, m) = match opens {
        Opens::Daily(h, m) | Opens::Weekly(_, h, m) | Opens::Once(_, _, _, h, m) => (h, m),
    };
    (i8::try_from(h).unwrap_or(0), i8::try_from(m).unwrap_or(0))
}

/// The opening on `date`. A local time that a clock change skips opens after the gap; one that comes twice opens
/// the first time. The length is never touched.
fn opening(window: &Window, date: Date, zone: &TimeZone) -> anyhow::Result<Opening> {
    let (hour, minute) = clock(window.opens);
    let start = zone.to_timestamp(date.at(hour, minute, 0, 0))?;
    let end = start.checked_add(Span::try_from(window.duration)?)?;
    Ok(Opening { start: wall(start), end: wall(end) })
}

/// The opening that `now` lies in, or the next one.
///
/// # Errors
/// When the zone is unknown, or a window that opens once is over.
pub fn resolve(window: &Window, now: WallTime) -> anyhow::Result<Opening> {
    let zone = zone(window)?;
    let local = zone.to_datetime(Timestamp::from_nanosecond(i128::from(now.0))?);
    let dates: Box<dyn Iterator<Item = Date>> = match window.opens {
        Opens::Once(y, m, d, ..) => {
            let date = Date::new(y, i8::try_from(m)?, i8::try_from(d)?).context("window.start is no date")?;
            Box::new(std::iter::once(date))
        }
        // A window of at most twelve hours that is open now began yesterday at the earliest.
        Opens::Daily(..) | Opens::Weekly(..) => {
            let first = local.date().checked_sub(1.day())?;
            Box::new((0..9).filter_map(move |n: i64| first.checked_add(n.days()).ok()))
        }
    };
    for date in dates.filter(|d| opens_on(window.opens, *d)) {
        let opening = opening(window, date, &zone)?;
        if now < opening.end {
            return Ok(opening);
        }
    }
    bail!("the window is over and does not open again")
}

/// The first time within `OVERLAP_DAYS` of `now` at which both windows are open, if there is one (lint G020).
///
/// # Errors
/// When a zone is unknown.
pub fn overlap(a: &Window, b: &Window, now: WallTime) -> anyhow::Result<Option<WallTime>> {
    let last = WallTime(now.0.saturating_add(OVERLAP_DAYS * 86_400 * NANOS_PER_SEC));
    let (mut from_a, mut from_b) = (now, now);
    zone(a)?;
    zone(b)?;
    while from_a < last && from_b < last {
        // A window that opens no more overlaps with nothing.
        let (Ok(x), Ok(y)) = (resolve(a, from_a), resolve(b, from_b)) else { return Ok(None) };
        let start = x.start.max(y.start);
        if start < x.end.min(y.end) {
            return Ok(Some(start));
        }
        if x.end <= y.end {
            from_a = x.end;
        } else {
            from_b = y.end;
        }
    }
    Ok(None)
}

/// Openings within a year of `now` that touch a clock change, in words (lint G020).
///
/// # Errors
/// When the zone is unknown.
pub fn clock_changes(window: &Window, now: WallTime) -> anyhow::Result<Vec<String>> {
    let zone = zone(window)?;
    let from = Timestamp::from_nanosecond(i128::from(now.0))?;
    let mut out = Vec::new();
    for change in zone.following(from).take(4) {
        let at = change.timestamp();
        if at > from.checked_add((366 * 24).hours())? {
            break;
        }
        let date = zone.to_datetime(at).date();
        for date in [date.checked_sub(1.day())?, date].into_iter().filter(|d| opens_on(window.opens, *d)) {
            let o = opening(window, date, &zone)?;
            let t = u64::try_from(at.as_nanosecond()).unwrap_or(0);
            // A start that the change skips opens up to an hour after it.
            if o.start.0 <= t.saturating_add(CHANGE_NS) && t <= o.end.0 {
                out.push(format!(
                    "{date}: clocks change at {at}; open {} to {}",
                    o.start.rfc3339(),
                    o.end.rfc3339()
                ));
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn window(start: &str) -> Window {
        Window {
            timezone: "Europe/Amsterdam".to_owned(),
            opens: Opens::parse(start).unwrap(),
            duration: Duration::from_secs(90 * 60),
            expect_organic_below: None,
        }
    }

    fn at(text: &str) -> WallTime {
        WallTime(u64::try_from(text.parse::<Timestamp>().unwrap().as_nanosecond()).unwrap())
    }

    #[test]
    fn windows_of_two_policies_are_compared() {
        let now = at("2026-09-01T00:00:00Z");
        let met = |a: &str, b: &Window| overlap(&window(a), b, now).unwrap();
        assert_eq!(met("Sun 03:00", &window("Sun 04:29")), Some(at("2026-09-06T02:29:00Z")));
        assert_eq!(met("Sun 03:00", &window("Sun 04:30")), None, "one closes as the other opens");
        assert_eq!(met("daily 03:00", &window("Wed 02:00")), Some(at("2026-09-02T01:00:00Z")));
        assert_eq!(met("Mon 03:00", &window("Tue 03:00")), None);
        assert_eq!(met("Sun 03:00", &window("2020-01-01 03:00")), None, "it opens no more");
        // 03:00 in Amsterdam is 01:00 or 02:00 UTC: only in winter do these two meet.
        let utc = Window { timezone: "UTC".to_owned(), ..window("daily 02:45") };
        assert_eq!(met("Sun 03:00", &utc), Some(at("2026-10-25T02:45:00Z")));
        let unknown = Window { timezone: "Mars/Base".to_owned(), ..window("daily 03:00") };
        assert!(overlap(&window("Sun 03:00"), &unknown, now).is_err());
    }

    /// Real clock changes of Amsterdam: 2026-10-25 03:00 → 02:00, 2027-03-28 02:00 → 03:00.
    #[test]
    fn a_window_is_a_length_whatever_clocks_do() {
        #[rustfmt::skip]
        let table = [
            // start, now, opens, closes
            ("Sun 03:00", "2026-11-25T10:00:00Z", "2026-11-29T02:00:00Z", "2026-11-29T03:30:00Z"),
            ("Sun 03:00", "2026-11-29T03:29:59Z", "2026-11-29T02:00:00Z", "2026-11-29T03:30:00Z"),
            ("Sun 03:00", "2026-11-29T03:30:00Z", "2026-12-06T02:00:00Z", "2026-12-06T03:30:00Z"),
            ("Sun 02:30", "2026-10-24T10:00:00Z", "2026-10-25T00:30:00Z", "2026-10-25T02:00:00Z"), // 02:30 comes twice: the first
            ("Sun 02:30", "2027-03-27T10:00:00Z", "2027-03-28T01:30:00Z", "2027-03-28T03:00:00Z"), // 02:30 does not exist: 03:30
            ("Sun 01:30", "2026-10-24T10:00:00Z", "2026-10-24T23:30:00Z", "2026-10-25T01:00:00Z"), // across it: still 90 minutes
            ("daily 23:30", "2026-11-25T23:45:00Z", "2026-11-25T22:30:00Z", "2026-11-26T00:00:00Z"), // past midnight
            ("2026-11-29 03:00", "2026-11-25T10:00:00Z", "2026-11-29T02:00:00Z", "2026-11-29T03:30:00Z"),
        ];
        for (start, now, opens, closes) in table {
            let got = resolve(&window(start), at(now)).unwrap();
            assert_eq!(
                (got.start.rfc3339(), got.end.rfc3339()),
                (at(opens).rfc3339(), at(closes).rfc3339()),
                "{start} at {now}"
            );
        }
        assert!(resolve(&window("2026-11-29 03:00"), at("2026-12-01T00:00:00Z")).is_err());
        let unknown = Window { timezone: "Europe/Amsterdm".to_owned(), ..window("Sun 03:00") };
        assert!(resolve(&unknown, at("2026-11-25T10:00:00Z")).unwrap_err().to_string().contains("not known"));
    }

    #[test]
    fn clock_changes_are_announced() {
        let now = at("2026-11-25T10:00:00Z");
        let found = clock_changes(&window("Sun 02:30"), now).unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("2027-03-28"), "{found:?}");
        assert!(clock_changes(&window("Wed 03:00"), now).unwrap().is_empty());
    }
}
