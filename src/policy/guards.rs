//! Guards from words: thresholds with units, queries, scraped series.

use std::time::Duration;

use super::check::Reader;
use super::file::{GuardTable, Limit, LocalTable};
use super::{GuardQuery, Prometheus, QueryGuard, promql};
use crate::govern::guard::{GuardSpec, Origin, Side, Thresholds};
use crate::govern::local_rules::LocalMetric;
use crate::limits::QUERY_TIMEOUT;
use crate::units::{parse_duration, parse_ratio, show_duration};

/// How a scraped series is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScrapeRead {
    /// Its value.
    Value,
    /// Its growth per second between two scrapes.
    Rate,
}

/// How several series become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduce {
    /// One series is expected.
    One,
    /// Their sum.
    Sum,
    /// The largest.
    Max,
}

/// What to read on a metrics page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrapeQuery {
    /// URL of the page.
    pub url: String,
    /// Series, as `name{label="value"}`.
    pub metric: String,
    /// Series to divide by.
    pub per: Option<String>,
    /// Value or rate.
    pub read: ScrapeRead,
    /// Over several series.
    pub reduce: Reduce,
}

/// Unit of a guard's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Ratio,
    Seconds,
    Plain,
}

impl Unit {
    fn of(word: &str) -> Self {
        match word {
            "ratio" => Self::Ratio,
            "seconds" => Self::Seconds,
            _ => Self::Plain,
        }
    }
}

fn limit(r: &mut Reader<'_>, key: &str, unit: Unit, word: &Limit) -> Option<f64> {
    let span = word.span();
    let value = match (unit, word.get_ref()) {
        (Unit::Ratio, toml::Value::String(s)) => parse_ratio(s).map_err(|e| e.to_string()),
        (Unit::Seconds, toml::Value::String(s)) => {
            parse_duration(s).map(|d| d.as_secs_f64()).map_err(|e| e.to_string())
        }
        (Unit::Plain, toml::Value::Integer(n)) => Ok(*n as f64),
        (Unit::Plain, toml::Value::Float(f)) if f.is_finite() => Ok(*f),
        (_, toml::Value::Table(_)) => {
            Err("limits relative to a baseline are not enforced by this version; give an absolute limit"
                .to_owned())
        }
        (Unit::Ratio, other) => Err(format!("{other} is not a ratio; write text such as \"1%\"")),
        (Unit::Seconds, other) => Err(format!("{other} is not a duration; write text such as \"800ms\"")),
        (Unit::Plain, other) => {
            Err(format!("{other} is not a number; give `unit = \"ratio\"` or `unit = \"seconds\"` for text"))
        }
    };
    let id = if matches!(word.get_ref(), toml::Value::Table(_)) { "G032" } else { "G010" };
    value.map_err(|why| r.error(id, Some(span.start), key, why)).ok()
}

/// Thresholds in order on one side; `None` after an error.
fn thresholds(
    r: &mut Reader<'_>,
    name: &str,
    at: usize,
    side: Side,
    unit: Unit,
    [hold, back_off, abort, clear]: [&Option<Limit>; 4],
) -> Option<Thresholds> {
    let word = if side == Side::Above { "above" } else { "below" };
    let mut read = |key: &str, w: &Option<Limit>| {
        w.as_ref().map_or(Some(None), |w| limit(r, &format!("{name}: {key}"), unit, w).map(Some))
    };
    let hold = read(&format!("hold_{word}"), hold)?;
    let back_off = read(&format!("back_off_{word}"), back_off)?;
    let abort = read(&format!("abort_{word}"), abort)?;
    let clear = read("clear", clear)?;
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

/// One entry of `[local]`.
pub(super) fn local(
    r: &mut Reader<'_>,
    metric: LocalMetric,
    at: usize,
    t: &LocalTable,
) -> Option<Thresholds> {
    let unit = if metric.is_latency() { Unit::Seconds } else { Unit::Ratio };
    let name = format!("local.{}", metric.name());
    thresholds(r, &name, at, Side::Above, unit, [&t.hold_above, &t.back_off_above, &t.abort_above, &None])
}

/// Time words of a guard with their defaults.
struct Times {
    poll: Duration,
    timeout: Duration,
    clear_for: Option<Duration>,
}

fn times(r: &mut Reader<'_>, name: &str, t: &GuardTable, poll_default: Duration) -> Option<Times> {
    let poll = r.duration(&format!("{name}: poll"), t.poll.as_ref(), poll_default)?;
    let timeout = r.duration(&format!("{name}: timeout"), t.timeout.as_ref(), QUERY_TIMEOUT)?;
    let clear_for = r.duration_opt(&format!("{name}: clear_for"), t.clear_for.as_ref())?;
    let at = t.poll.as_ref().or(t.timeout.as_ref()).map(|w| w.span().start);
    if poll < Duration::from_millis(200) || poll > Duration::from_secs(60) {
        r.error("G016", at, &format!("{name}: poll"), "must lie between 200ms and 1m");
        return None;
    }
    if timeout > QUERY_TIMEOUT || timeout.is_zero() {
        r.error(
            "G016",
            at,
            &format!("{name}: timeout"),
            format!("must lie between 1ms and {}", show_duration(QUERY_TIMEOUT)),
        );
        return None;
    }
    Some(Times { poll, timeout, clear_for })
}

fn confirm(r: &mut Reader<'_>, name: &str, t: &GuardTable) -> Option<(u8, u8)> {
    let Some(word) = &t.confirm else { return Some((2, 3)) };
    let parsed = word
        .get_ref()
        .split_once(" of ")
        .and_then(|(k, n)| Some((k.parse::<u8>().ok()?, n.parse::<u8>().ok()?)));
    match parsed {
        Some((k, n)) if k >= 1 && k <= n && n <= 10 => Some((k, n)),
        Some(_) | None => {
            let key = format!("{name}: confirm");
            r.error(
                "G016",
                Some(word.span().start),
                &key,
                format!("{:?} is not such as \"2 of 3\" (at most 10)", word.get_ref()),
            );
            None
        }
    }
}

/// One `[[guard]]`.
pub(super) fn query(
    r: &mut Reader<'_>,
    at: usize,
    t: &GuardTable,
    prometheus: Option<&Prometheus>,
) -> Option<QueryGuard> {
    let Some(name) = t.name.as_ref().map(|w| w.get_ref().clone()).filter(|n| !n.is_empty()) else {
        r.error("", Some(at), "guard", "has no name; reports and causes name guards");
        return None;
    };
    let unit_word = t.unit.as_ref().map_or_else(|| "value".to_owned(), |w| w.get_ref().clone());
    let unit = Unit::of(&unit_word);
    let above = [&t.hold_above, &t.back_off_above, &t.abort_above];
    let below = [&t.hold_below, &t.back_off_below, &t.abort_below];
    let side = match (above.iter().any(|l| l.is_some()), below.iter().any(|l| l.is_some())) {
        (true, true) => {
            r.error("G011", Some(at), &name, "has limits above and below; make two guards of it");
            return None;
        }
        (_, true) => Side::Below,
        (_, false) => Side::Above,
    };
    let [hold, back_off, abort] = if side == Side::Above { above } else { below };
    let limits = thresholds(r, &name, at, side, unit, [hold, back_off, abort, &t.clear]);
    let source = source(r, &name, at, t, prometheus);
    let ((query, poll_default, behind), thresholds) = (source?, limits?);
    let Times { poll, timeout, clear_for } = times(r, &name, t, poll_default)?;
    let (confirm, confirm_of) = confirm(r, &name, t)?;
    let lag = behind + poll + timeout;
    let spec = GuardSpec {
        name,
        origin: if matches!(query, GuardQuery::Prometheus(_)) { Origin::Prometheus } else { Origin::Scrape },
        unit: unit_word,
        thresholds,
        required: t.required.unwrap_or(true),
        harm: t.user_harm.unwrap_or(unit != Unit::Plain),
        min_samples: 0,
        need_traffic: false,
        neutral_blocks: true,
        confirm,
        confirm_of,
        max_age: poll * 2 + timeout,
        clear_for: clear_for.unwrap_or(Duration::ZERO),
        lag,
    };
    Some(QueryGuard { spec, query, poll, timeout })
}

/// The query, the default poll interval, and how far behind the world its answer is.
fn source(
    r: &mut Reader<'_>,
    name: &str,
    at: usize,
    t: &GuardTable,
    prometheus: Option<&Prometheus>,
) -> Option<(GuardQuery, Duration, Duration)> {
    match (&t.expr, &t.scrape) {
        (Some(expr), None) => {
            let start = expr.span().start;
            let Some(prometheus) = prometheus else {
                r.error("", Some(start), name, "has an expr, but there is no [prometheus] url to ask");
                return None;
            };
            let query = match promql::check(expr.get_ref()) {
                Ok(query) => query,
                Err(e) => {
                    r.error(e.id, Some(start), &format!("{name}: expr"), e.why);
                    return None;
                }
            };
            let scrape = prometheus.scrape_interval;
            if !query.range.is_zero() && query.range < scrape * 4 {
                let why = format!(
                    "the range {} is below four scrapes of {}; one lost scrape would blind it",
                    show_duration(query.range),
                    show_duration(scrape)
                );
                r.error("G006", Some(start), &format!("{name}: expr"), why);
                return None;
            }
            if query.range > Duration::from_secs(300) {
                r.warn(
                    "G006",
                    Some(start),
                    &format!("{name}: expr"),
                    "a range above 5m is too slow to guard",
                );
            }
            let poll = scrape.clamp(Duration::from_secs(1), Duration::from_secs(5));
            let behind = scrape + query.range;
            Some((GuardQuery::Prometheus(query), poll, behind))
        }
        (None, Some(_)) => scrape(r, name, at, t),
        (Some(_), Some(_)) | (None, None) => {
            r.error("", Some(at), name, "needs either expr (PromQL) or scrape and metric");
            None
        }
    }
}

fn scrape(
    r: &mut Reader<'_>,
    name: &str,
    at: usize,
    t: &GuardTable,
) -> Option<(GuardQuery, Duration, Duration)> {
    let url = t.scrape.as_ref()?.get_ref().clone();
    let series = |r: &mut Reader<'_>, key: &str, w: &super::file::Word| {
        let parsed = promql_parser::parser::parse(w.get_ref());
        let is_selector = matches!(parsed, Ok(promql_parser::parser::Expr::VectorSelector(_)));
        if !is_selector {
            r.error(
                "",
                Some(w.span().start),
                &format!("{name}: {key}"),
                "must be one series such as 'queue_depth{pool=\"web\"}'",
            );
        }
        is_selector.then(|| w.get_ref().clone())
    };
    let Some(metric) = &t.metric else {
        r.error("", Some(at), name, "has a page to scrape but no metric to read on it");
        return None;
    };
    let metric = series(r, "metric", metric)?;
    let per = match &t.per {
        Some(w) => Some(series(r, "per", w)?),
        None => None,
    };
    let word = |w: &Option<super::file::Word>| w.as_ref().map(|w| w.get_ref().clone());
    let read = match word(&t.read).as_deref() {
        None | Some("value") => ScrapeRead::Value,
        Some("rate") => ScrapeRead::Rate,
        Some(other) => {
            r.error(
                "",
                Some(at),
                &format!("{name}: read"),
                format!("{other:?} is neither \"value\" nor \"rate\""),
            );
            return None;
        }
    };
    let reduce = match word(&t.reduce).as_deref() {
        None => Reduce::One,
        Some("sum") => Reduce::Sum,
        Some("max") => Reduce::Max,
        Some(other) => {
            r.error(
                "",
                Some(at),
                &format!("{name}: reduce"),
                format!("{other:?} is neither \"sum\" nor \"max\""),
            );
            return None;
        }
    };
    let poll = Duration::from_secs(1);
    let behind = if read == ScrapeRead::Rate { poll } else { Duration::ZERO };
    Some((GuardQuery::Scrape(ScrapeQuery { url, metric, per, read, reduce }), poll, behind))
}
