//! The window of a policy: when a run may happen, as words. Pure: zones and clocks are resolved in `edge`.

use std::time::Duration;

use crate::units::Rate;

/// When the window opens, in its zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opens {
    /// Each week on this day (0 is Monday).
    Weekly(u8, u8, u8),
    /// Each day.
    Daily(u8, u8),
    /// Once: year, month, day, hour, minute.
    Once(i16, u8, u8, u8, u8),
}

/// A window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// IANA name of the zone.
    pub timezone: String,
    /// When it opens.
    pub opens: Opens,
    /// How long it is open.
    pub duration: Duration,
    /// More organic users at the start refuse the run.
    pub expect_organic_below: Option<Rate>,
}

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

fn time(text: &str) -> Option<(u8, u8)> {
    let (h, m) = text.split_once(':')?;
    let two = |s: &str| s.len() == 2 && s.bytes().all(|b| b.is_ascii_digit());
    let (hour, minute) = (h.parse().ok()?, m.parse().ok()?);
    (two(h) && two(m) && hour < 24 && minute < 60).then_some((hour, minute))
}

fn date(text: &str) -> Option<(i16, u8, u8)> {
    let mut parts = text.splitn(3, '-');
    let (y, m, d) = (parts.next()?, parts.next()?, parts.next()?);
    let (year, month, day) = (y.parse().ok()?, m.parse().ok()?, d.parse().ok()?);
    (y.len() == 4 && (1..=12).contains(&month) && (1..=31).contains(&day)).then_some((year, month, day))
}

impl Opens {
    /// Parses `Sun 03:00`, `daily 03:00` or `2026-11-29 03:00`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (day, clock) = text.trim().split_once(' ')?;
        let (hour, minute) = time(clock.trim())?;
        let lower = day.to_ascii_lowercase();
        if lower == "daily" {
            return Some(Self::Daily(hour, minute));
        }
        if let Some(i) = DAYS.iter().position(|d| *d == lower) {
            return Some(Self::Weekly(u8::try_from(i).ok()?, hour, minute));
        }
        date(day).map(|(y, m, d)| Self::Once(y, m, d, hour, minute))
    }

    /// Whether a window that opens then and lasts `duration` closes on another day than it opened.
    #[must_use]
    pub fn crosses_midnight(self, duration: Duration) -> bool {
        let (Self::Weekly(_, hour, minute) | Self::Daily(hour, minute) | Self::Once(.., hour, minute)) = self;
        let opened = u64::from(hour) * 3600 + u64::from(minute) * 60;
        Duration::from_secs(opened) + duration > Duration::from_secs(86_400)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn midnight_is_crossed_only_when_passed() {
        for (opens, minutes, crosses) in [
            ("Sun 23:00", 60, false),
            ("Sun 23:00", 61, true),
            ("daily 00:00", 720, false),
            ("2026-11-29 22:30", 91, true),
        ] {
            let length = Duration::from_secs(minutes * 60);
            assert_eq!(Opens::parse(opens).unwrap().crosses_midnight(length), crosses, "{opens} {minutes}");
        }
    }

    #[test]
    fn only_what_is_meant_is_read() {
        #[rustfmt::skip]
        let table = [
            ("Sun 03:00", Some(Opens::Weekly(6, 3, 0))), ("mon 23:59", Some(Opens::Weekly(0, 23, 59))),
            ("daily 03:00", Some(Opens::Daily(3, 0))), ("2026-11-29 03:00", Some(Opens::Once(2026, 11, 29, 3, 0))),
            ("Sunday 03:00", None), ("Sun 3:00", None), ("Sun 24:00", None), ("Sun 03:60", None), ("Sun", None),
            ("2026-13-01 03:00", None), ("26-1-1 03:00", None), ("", None), ("Sun 03:00:00", None),
        ];
        for (text, want) in table {
            assert_eq!(Opens::parse(text), want, "{text:?}");
        }
    }
}
