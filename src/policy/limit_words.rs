//! Limits from words: numbers with their unit, in order on one side, absolute or relative to a baseline.

use super::check::Reader;
use super::file::{BaselineTable, Limit};
use super::{BaselineFrom, BaselineRule, RelativeLevel};
use crate::govern::guard::{Side, Thresholds};
use crate::units::{parse_duration, parse_ratio};

/// Unit of a guard's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Ratio,
    Seconds,
    Plain,
}

impl Unit {
    pub(super) fn of(word: &str) -> Self {
        match word {
            "ratio" => Self::Ratio,
            "seconds" => Self::Seconds,
            _ => Self::Plain,
        }
    }
}

pub(super) fn limit(r: &mut Reader<'_>, key: &str, unit: Unit, word: &Limit) -> Option<f64> {
    let span = word.span();
    let value = match (unit, word.get_ref()) {
        (Unit::Ratio, toml::Value::String(s)) => parse_ratio(s).map_err(|e| e.to_string()),
        (Unit::Seconds, toml::Value::String(s)) => {
            parse_duration(s).map(|d| d.as_secs_f64()).map_err(|e| e.to_string())
        }
        (Unit::Plain, toml::Value::Integer(n)) => Ok(*n as f64),
        (Unit::Plain, toml::Value::Float(f)) if f.is_finite() => Ok(*f),
        (_, toml::Value::Table(_)) => {
            Err("a limit relative to a baseline belongs on hold_* or back_off_* of a Prometheus guard; the abort limit is absolute"
                .to_owned())
        }
        (Unit::Ratio, other) => Err(format!("{other} is not a ratio; write text such as \"1%\"")),
        (Unit::Seconds, other) => Err(format!("{other} is not a duration; write text such as \"800ms\"")),
        (Unit::Plain, other) => {
            Err(format!("{other} is not a number; give `unit = \"ratio\"` or `unit = \"seconds\"` for text"))
        }
    };
    value.map_err(|why| r.error("G010", Some(span.start), key, why)).ok()
}

/// A limit relative to a baseline: the rule, and the loosest value that it can become.
pub(super) fn relative(
    r: &mut Reader<'_>,
    key: &str,
    unit: Unit,
    side: Side,
    level: RelativeLevel,
    word: &Limit,
) -> Option<(BaselineRule, f64)> {
    let at = word.span().start;
    let table: BaselineTable = match word.get_ref().clone().try_into() {
        Ok(table) => table,
        Err(e) => {
            let why = format!(
                "{}; a relative limit is {{ baseline = \"before\", ratio = 2.0, floor = ..., cap = ... }}",
                e.message()
            );
            r.error("G010", Some(at), key, why);
            return None;
        }
    };
    let from = match table.baseline.as_str() {
        "before" => Some(BaselineFrom::Before),
        "offset 1w" => Some(BaselineFrom::Weeks(1)),
        "offset 2w" => Some(BaselineFrom::Weeks(2)),
        "offset 3w" => Some(BaselineFrom::Weeks(3)),
        _ => None,
    };
    let mut bound = |name: &str, value: toml::Value| {
        limit(r, &format!("{key}.{name}"), unit, &toml::Spanned::new(at..at, value))
    };
    let (floor, cap) = (bound("floor", table.floor)?, bound("cap", table.cap)?);
    let good_ratio = match side {
        Side::Above => table.ratio > 1.0 && table.ratio <= 100.0,
        Side::Below => table.ratio > 0.0 && table.ratio < 1.0,
    };
    if from == Some(BaselineFrom::Before) && table.abnormal_ratio.is_some() {
        let why = "abnormal_ratio compares with other weeks; with baseline = \"before\" there is nothing to compare";
        r.error("G010", Some(at), key, why);
        return None;
    }
    let abnormal_ratio = table.abnormal_ratio.unwrap_or(3.0);
    let Some(from) = from.filter(|_| good_ratio && floor <= cap && abnormal_ratio > 1.0) else {
        let why = "baseline is \"before\", \"offset 1w\", \"offset 2w\" or \"offset 3w\"; ratio is above 1 (below 1 for *_below); floor is at most cap; abnormal_ratio is above 1";
        r.error("G011", Some(at), key, why);
        return None;
    };
    let loosest = if side == Side::Above { cap } else { floor };
    Some((BaselineRule { level, from, ratio: table.ratio, floor, cap, abnormal_ratio }, loosest))
}

/// Thresholds in order on one side; `None` after an error.
pub(super) fn thresholds(
    r: &mut Reader<'_>,
    name: &str,
    at: usize,
    side: Side,
    unit: Unit,
    [hold, back_off, abort, clear]: [&Option<Limit>; 4],
    baselines: &mut Vec<BaselineRule>,
) -> Option<Thresholds> {
    let word = if side == Side::Above { "above" } else { "below" };
    let mut read = |key: &str, w: &Option<Limit>, level: Option<RelativeLevel>| {
        let Some(w) = w else { return Some(None) };
        let key = format!("{name}: {key}");
        match level.filter(|_| matches!(w.get_ref(), toml::Value::Table(_))) {
            None => limit(r, &key, unit, w).map(Some),
            Some(level) => {
                let (rule, loosest) = relative(r, &key, unit, side, level, w)?;
                baselines.push(rule);
                Some(Some(loosest))
            }
        }
    };
    let hold = read(&format!("hold_{word}"), hold, Some(RelativeLevel::Hold))?;
    let back_off = read(&format!("back_off_{word}"), back_off, Some(RelativeLevel::BackOff))?;
    let abort = read(&format!("abort_{word}"), abort, None)?;
    let clear = read("clear", clear, None)?;
    let set: Vec<f64> = [hold, back_off, abort].into_iter().flatten().collect();
    let Some(first) = set.first().copied() else {
        r.error("G011", Some(at), name, format!("a guard without a threshold guards nothing; give hold_{word}, back_off_{word} or abort_{word}"));
        return None;
    };
    let (ordered, default_clear) = match side {
        Side::Above => (set.is_sorted(), first * 0.8),
        Side::Below => (set.iter().rev().is_sorted(), first / 0.8),
    };
    let clear = clear.unwrap_or(default_clear);
    let good_side = if side == Side::Above { clear <= first } else { clear >= first };
    if !ordered || !good_side {
        r.error(
            "G011",
            Some(at),
            name,
            format!(
                "thresholds out of order: clear, hold, back_off, abort must go from good to bad ({word})"
            ),
        );
        return None;
    }
    Some(Thresholds { side, hold, back_off, abort, clear })
}
