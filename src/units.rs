//! Numbers with their units in the type, so that a rate cannot be passed where a share is meant.
//!
//! All are integers: a plan must be the same on every machine, and a limit must not drift by rounding.
//! Parsing accepts exactly what a person writes (`500ms`, `2.5x`, `1%`, `40/s`) and refuses the rest with
//! a message that says what is allowed. Nothing here reads a clock.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Nanoseconds in one second.
pub const NANOS_PER_SEC: u64 = 1_000_000_000;

/// Why a number with a unit was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct BadUnit {
    /// What was written.
    pub text: String,
    /// What is allowed, with an example.
    pub expected: &'static str,
}

fn bad(text: &str, expected: &'static str) -> BadUnit {
    BadUnit { text: text.to_owned(), expected }
}

/// Monotonic time since the start of the run, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunTime(pub u64);

impl RunTime {
    /// The start of the run.
    pub const START: Self = Self(0);

    /// From a duration since the start; saturates after 584 years.
    #[must_use]
    pub fn from_duration(since_start: Duration) -> Self {
        Self(u64::try_from(since_start.as_nanos()).unwrap_or(u64::MAX))
    }

    /// From whole milliseconds since the start.
    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000_000))
    }

    /// Time since `earlier`, zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This time plus `d`, saturating.
    #[must_use]
    pub fn plus(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Seconds since the start, for reports.
    #[must_use]
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / NANOS_PER_SEC as f64
    }
}

/// Time since the first event of a trace, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TraceTime(pub u64);

impl TraceTime {
    /// Seconds since the start of the trace.
    #[must_use]
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / NANOS_PER_SEC as f64
    }
}

/// Wall-clock time: nanoseconds since the Unix epoch, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WallTime(pub u64);

impl WallTime {
    /// RFC 3339 text in UTC with microseconds, such as `2026-11-22T10:00:01.042017Z`.
    #[must_use]
    pub fn rfc3339(self) -> String {
        let ns = i128::from(self.0);
        jiff::Timestamp::from_nanosecond(ns).map_or_else(|_| "out of range".to_owned(), |t| format!("{t:.6}"))
    }
}

/// A rate in thousandths of a request per second. Zero is allowed and means "nothing".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rate {
    /// Thousandths of a request per second.
    pub mrps: u64,
}

impl Rate {
    /// No requests at all.
    pub const ZERO: Self = Self { mrps: 0 };

    /// Whole requests per second.
    #[must_use]
    pub const fn per_sec(rps: u64) -> Self {
        Self { mrps: rps.saturating_mul(1000) }
    }

    /// From requests per second as a float: rounds down, and garbage (NaN, negative) is zero.
    #[must_use]
    pub fn from_rps_f64(rps: f64) -> Self {
        if rps.is_finite() && rps > 0.0 { Self { mrps: (rps * 1000.0) as u64 } } else { Self::ZERO }
    }

    /// Requests per second.
    #[must_use]
    pub fn rps(self) -> f64 {
        self.mrps as f64 / 1000.0
    }

    /// `share` of this rate, rounded down.
    #[must_use]
    pub fn times(self, share: Share) -> Self {
        let mrps = u128::from(self.mrps) * u128::from(share.ppm()) / u128::from(Share::PPM);
        Self { mrps: u64::try_from(mrps).unwrap_or(u64::MAX) }
    }

    /// Parses `40/s`, `0.5/s`, or a bare number of requests per second.
    ///
    /// # Errors
    /// [`BadUnit`] for anything else, a sign, or more than three decimals.
    pub fn parse(text: &str) -> Result<Self, BadUnit> {
        const EXPECTED: &str = "a rate such as \"40/s\" or \"0.5/s\" (requests per second)";
        let number = text.strip_suffix("/s").unwrap_or(text);
        milli(number).map(|mrps| Self { mrps }).ok_or_else(|| bad(text, EXPECTED))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1}/s", self.rps())
    }
}

/// A share of the plan, in parts per million, between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Share(u32);

impl Share {
    /// Parts in one whole.
    pub const PPM: u32 = 1_000_000;
    /// Nothing of the plan.
    pub const ZERO: Self = Self(0);
    /// The whole plan.
    pub const ONE: Self = Self(Self::PPM);

    /// From a fraction: clamps to 0..=1, rounds down, NaN is 0.
    #[must_use]
    pub fn from_f64(f: f64) -> Self {
        if f.is_nan() || f <= 0.0 {
            return Self::ZERO;
        }
        Self((f.min(1.0) * f64::from(Self::PPM)) as u32)
    }

    /// Parts per million.
    #[must_use]
    pub fn ppm(self) -> u32 {
        self.0
    }

    /// As a fraction of one.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / f64::from(Self::PPM)
    }

    /// Half of this share, rounded down.
    #[must_use]
    pub fn halved(self) -> Self {
        Self(self.0 / 2)
    }

    /// This share plus `step`, at most `cap`.
    #[must_use]
    pub fn grown(self, step: Self, cap: Self) -> Self {
        Self(self.0.saturating_add(step.0).min(cap.0).min(Self::PPM))
    }
}

/// How many sessions to make of each recorded one, in thousandths (`2.5x` is 2500).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scale {
    /// Thousandths of the recorded sessions.
    pub milli: u64,
}

impl Scale {
    /// As recorded.
    pub const ONE: Self = Self { milli: 1000 };

    /// Parses `2x`, `2.5x` or `0.25x`.
    ///
    /// # Errors
    /// [`BadUnit`] for anything else, for zero, or above [`SCALE_MAX`](crate::limits::SCALE_MAX_MILLI).
    pub fn parse(text: &str) -> Result<Self, BadUnit> {
        const EXPECTED: &str = "a scale such as \"2x\" or \"0.25x\", above 0 and at most 1000x";
        let milli = times(text).filter(|m| *m > 0 && *m <= crate::limits::SCALE_MAX_MILLI);
        milli.map(|milli| Self { milli }).ok_or_else(|| bad(text, EXPECTED))
    }

    /// As a factor.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        self.milli as f64 / 1000.0
    }
}

/// How fast trace time passes, in thousandths (`10x` is 10000).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Speed {
    /// Thousandths of recorded speed.
    pub milli: u64,
}

impl Speed {
    /// As recorded.
    pub const ONE: Self = Self { milli: 1000 };

    /// Parses `1x`, `0.1x` or `10x`.
    ///
    /// # Errors
    /// [`BadUnit`] for anything else, or outside 0.01x to 100x.
    pub fn parse(text: &str) -> Result<Self, BadUnit> {
        const EXPECTED: &str = "a speed such as \"1x\" or \"0.5x\", from 0.01x to 100x";
        let milli = times(text).filter(|m| (10..=100_000).contains(m));
        milli.map(|milli| Self { milli }).ok_or_else(|| bad(text, EXPECTED))
    }

    /// `d` nanoseconds of trace time as run time at this speed.
    #[must_use]
    pub fn run_nanos(self, trace_ns: u64) -> u64 {
        u64::try_from(u128::from(trace_ns) * 1000 / u128::from(self.milli)).unwrap_or(u64::MAX)
    }
}

fn times(text: &str) -> Option<u64> {
    milli(text.strip_suffix('x')?)
}

/// Thousandths of a plain decimal number; `None` for a sign, an exponent, or more than three decimals.
fn milli(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 3 {
        return None;
    }
    if text.ends_with('.') {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let fraction: u64 = format!("{fraction:0<3}").parse().ok()?;
    whole.checked_mul(1000)?.checked_add(fraction)
}

/// Parses a size in bytes: a whole number with `KiB`, `MiB`, `GiB` or `TiB`.
///
/// # Errors
/// [`BadUnit`] for anything else: no unit, a fraction, a decimal unit such as `GB`, or more than `u64` holds.
pub fn parse_bytes(text: &str) -> Result<u64, BadUnit> {
    let refuse = || bad(text, "a size such as \"200GiB\" (units: KiB MiB GiB TiB)");
    let (number, shift) = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)]
        .iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))
        .ok_or_else(refuse)?;
    let whole = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    let n: u64 = number.parse().ok().filter(|n| whole && *n > 0).ok_or_else(refuse)?;
    n.checked_mul(1 << shift).ok_or_else(refuse)
}

/// Parses a duration: whole numbers with units `ms`, `s`, `m`, `h`, `d`, joined (`1h30m`).
///
/// # Errors
/// [`BadUnit`] for anything else: no unit, a sign, a decimal point, a unit twice or out of order.
pub fn parse_duration(text: &str) -> Result<Duration, BadUnit> {
    const EXPECTED: &str = "a duration such as \"500ms\", \"30s\" or \"1h30m\" (units: ms s m h d)";
    let refuse = || bad(text, EXPECTED);
    let (mut rest, mut total_ms, mut last_unit) = (text, 0u64, u64::MAX);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| refuse())?;
        let tail = &rest[digits..];
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit_ms = match &tail[..letters] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(refuse()),
        };
        if unit_ms >= last_unit {
            return Err(refuse());
        }
        last_unit = unit_ms;
        total_ms = number.checked_mul(unit_ms).and_then(|ms| total_ms.checked_add(ms)).ok_or_else(refuse)?;
        rest = &tail[letters..];
    }
    if last_unit == u64::MAX { Err(refuse()) } else { Ok(Duration::from_millis(total_ms)) }
}

/// Writes a duration the way [`parse_duration`] reads it.
#[must_use]
pub fn show_duration(d: Duration) -> String {
    let ms = d.as_millis();
    match ms {
        0 => "0s".to_owned(),
        _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
        _ if ms.is_multiple_of(1000) && ms > 60_000 => format!("{}m{}s", ms / 60_000, ms % 60_000 / 1000),
        _ if ms.is_multiple_of(1000) => format!("{}s", ms / 1000),
        _ if ms > 1000 => format!("{}s{}ms", ms / 1000, ms % 1000),
        _ => format!("{ms}ms"),
    }
}

/// Parses a ratio: `1%`, `0.5%`, or a plain fraction such as `0.01`.
///
/// # Errors
/// [`BadUnit`] for anything else, or outside 0 to 1: `1` alone is refused because it is nearly always a
/// slip for `1%`.
pub fn parse_ratio(text: &str) -> Result<f64, BadUnit> {
    const EXPECTED: &str = "a ratio such as \"1%\" or \"0.01\", from 0 to 100% (write \"100%\" for one)";
    let refuse = || bad(text, EXPECTED);
    let (number, divide) = text.strip_suffix('%').map_or((text, 1.0), |n| (n, 100.0));
    let plain = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let value: f64 = if plain { number.parse().map_err(|_| refuse())? } else { return Err(refuse()) };
    let ratio = value / divide;
    let slip = divide < 2.0 && ratio >= 1.0;
    if slip || !(0.0..=1.0).contains(&ratio) { Err(refuse()) } else { Ok(ratio) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        let table = [
            ("500ms", Some(500)),
            ("30s", Some(30_000)),
            ("1h30m", Some(5_400_000)),
            ("2m5s", Some(125_000)),
            ("0s", Some(0)),
            ("", None),
            ("30", None),
            ("30sec", None),
            ("-1s", None),
            ("1.5s", None),
            ("5s1m", None),
            ("1s1s", None),
            ("99999999999999999999s", None),
            ("s", None),
        ];
        for (text, want) in table {
            let got = parse_duration(text).ok().map(|d| d.as_millis());
            assert_eq!(got, want, "{text:?}");
        }
    }

    #[test]
    fn durations_are_shown_as_they_are_read() {
        for text in ["0s", "500ms", "30s", "2m", "1m30s", "1s500ms", "3h"] {
            assert_eq!(show_duration(parse_duration(text).unwrap()), text);
        }
    }

    #[test]
    fn scales_speeds_and_rates_are_exact() {
        let table = [("2x", Some(2000)), ("2.5x", Some(2500)), ("0.25x", Some(250)), ("0.001x", Some(1))];
        for (text, want) in table {
            assert_eq!(Scale::parse(text).ok().map(|s| s.milli), want, "{text}");
        }
        for text in ["2", "x", "0x", "-1x", "1e3x", "2.x", ".5x", "1.0001x", "1001x", "NaNx"] {
            assert!(Scale::parse(text).is_err(), "{text}");
        }
        assert_eq!(Rate::parse("0.5/s").unwrap().mrps, 500);
        assert!(Rate::parse("5/m").is_err());
        assert_eq!(Speed::parse("10x").unwrap().run_nanos(1_000), 100);
        assert!(Speed::parse("0.001x").is_err());
    }

    #[test]
    fn a_bare_one_is_not_a_ratio() {
        let table = [("1%", Some(0.01)), ("0.5%", Some(0.005)), ("0.25", Some(0.25)), ("100%", Some(1.0))];
        for (text, want) in table {
            assert_eq!(parse_ratio(text).ok(), want, "{text}");
        }
        for text in ["1", "5", "101%", "-1%", "nan", "inf", "", "%", "1 %"] {
            assert!(parse_ratio(text).is_err(), "{text}");
        }
    }

    #[test]
    fn garbage_is_never_a_rate_or_a_share() {
        for f in [f64::NAN, f64::NEG_INFINITY, -1.0] {
            assert_eq!(Share::from_f64(f), Share::ZERO);
            assert_eq!(Rate::from_rps_f64(f), Rate::ZERO);
        }
        assert_eq!(Rate::from_rps_f64(f64::INFINITY), Rate::ZERO);
        assert_eq!(Share::from_f64(7.0), Share::ONE);
    }

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(parse_bytes("200GiB"), Ok(200 << 30));
        assert_eq!(parse_bytes("1KiB"), Ok(1024));
        for text in ["200", "200GB", "1.5GiB", "0MiB", "-1KiB", "GiB", "99999999999TiB", "+1KiB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }
}
