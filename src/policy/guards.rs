//! Guards from words: thresholds with units, queries, scraped series.

use std::time::Duration;

use super::check::Reader;
use super::file::{GuardTable, LocalTable, Word};
use super::limit_words::{Unit, thresholds};
use super::promql::Query;
use super::{GuardQuery, Prometheus, QueryGuard, promql, sources};
use crate::govern::guard::{GuardSpec, Origin, Side, Thresholds};
use crate::govern::local_rules::LocalMetric;
use crate::limits::QUERY_TIMEOUT;
use crate::units::show_duration;

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
    /// The smallest.
    Min,
    /// Their mean: hides one bad series among good ones.
    Avg,
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

/// One entry of `[local]`.
pub(super) fn local(
    r: &mut Reader<'_>,
    metric: LocalMetric,
    at: usize,
    t: &LocalTable,
) -> Option<Thresholds> {
    let unit = if metric.is_latency() { Unit::Seconds } else { Unit::Ratio };
    let name = format!("local.{}", metric.name());
    let mut relative = Vec::new();
    let limits = [&t.hold_above, &t.back_off_above, &t.abort_above, &None];
    let limits = thresholds(r, &name, at, Side::Above, unit, limits, &mut relative)?;
    if !relative.is_empty() {
        r.error(
            "G010",
            Some(at),
            &name,
            "what we see ourselves has no baseline before the run; give absolute limits",
        );
        return None;
    }
    Some(limits)
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
    let mut baselines = Vec::new();
    let limits = if t.alerts.is_some() {
        alerts_have_no_limits(r, &name, at, above.iter().chain(&below).any(|l| l.is_some()))
    } else {
        thresholds(r, &name, at, side, unit, [hold, back_off, abort, &t.clear], &mut baselines)
    };
    let source = source(r, &name, at, t, prometheus);
    let ((query, poll_default, behind), thresholds) = (source?, limits?);
    let Times { poll, timeout, clear_for } = times(r, &name, t, poll_default)?;
    let (confirm, confirm_of) = confirm(r, &name, t)?;
    if !baselines.is_empty() && !matches!(query, GuardQuery::Prometheus(_)) {
        r.error(
            "G010",
            Some(at),
            &name,
            "a limit relative to a baseline needs a guard with expr: only Prometheus knows the past",
        );
        return None;
    }
    let slow = poll * u32::from(confirm);
    if slow > Duration::from_secs(60) {
        let why = format!(
            "confirming takes {}: harm for more than a minute before anything happens",
            show_duration(slow)
        );
        r.error("G016", Some(at), &format!("{name}: confirm"), why);
        return None;
    }
    let min_samples = min_samples(r, &name, t, &query)?;
    let lag = behind + poll + timeout;
    let organic = t.organic.unwrap_or(match &query {
        GuardQuery::Prometheus(q) => q.unmarked,
        GuardQuery::Subtract { .. } => true,
        _ => false,
    });
    let spec = GuardSpec {
        name,
        origin: if matches!(query, GuardQuery::Scrape(_)) { Origin::Scrape } else { Origin::Prometheus },
        unit: unit_word,
        thresholds,
        required: t.required.unwrap_or(true),
        harm: t.user_harm.unwrap_or(unit != Unit::Plain || matches!(query, GuardQuery::Subtract { .. })),
        min_samples,
        need_traffic: t.need_traffic.unwrap_or(false),
        neutral_blocks: true,
        confirm,
        confirm_of,
        max_age: poll * 2 + timeout,
        clear_for: clear_for.unwrap_or(Duration::ZERO),
        lag,
    };
    Some(QueryGuard { spec, query, poll, timeout, baselines, organic })
}

/// Pending holds and firing aborts: that is fixed.
fn alerts_have_no_limits(r: &mut Reader<'_>, name: &str, at: usize, given: bool) -> Option<Thresholds> {
    if given {
        r.error(
            "G011",
            Some(at),
            name,
            "an alerts guard holds on pending and aborts on firing; it takes no limits of its own",
        );
        return None;
    }
    Some(sources::alert_limits())
}

/// Requests needed behind the number, and how to count them.
fn min_samples(r: &mut Reader<'_>, name: &str, t: &GuardTable, query: &GuardQuery) -> Option<u64> {
    let Some(word) = &t.min_samples else {
        if t.need_traffic.is_some() || t.samples.is_some() {
            let why = "need_traffic and samples mean nothing without min_samples";
            r.error("G031", None, &format!("{name}: min_samples"), why);
            return None;
        }
        return Some(0);
    };
    let at = Some(word.span().start);
    let key = format!("{name}: min_samples");
    let n = u64::try_from(*word.get_ref()).ok().filter(|n| (1..=10_000_000).contains(n));
    let Some(n) = n else {
        r.error("G031", at, &key, "must lie between 1 and 10000000");
        return None;
    };
    let countable = match query {
        GuardQuery::Prometheus(q) => q.samples.is_some(),
        GuardQuery::Subtract { .. } => true,
        _ => false,
    };
    if !countable {
        r.error("G031", at, &key, "the requests behind this number cannot be told from the query; add samples = 'sum(increase(...[1m]))'");
        return None;
    }
    let quantile = match query {
        GuardQuery::Prometheus(q) => quantile_of(&q.text),
        _ => None,
    };
    // 1 - 0.9 is a little less than a tenth: what is asked for is whole.
    let needed = |q: f64| (5.0 / (1.0 - q) - 1e-6).ceil() as u64;
    if let Some(q) = quantile.filter(|q| n < needed(*q)) {
        r.error("G031", at, &key, format!("a {q} quantile needs at least {} samples", needed(q)));
        return None;
    }
    Some(n)
}

/// The quantile of a `histogram_quantile(q, ...)`.
fn quantile_of(text: &str) -> Option<f64> {
    let (_, rest) = text.split_once("histogram_quantile(")?;
    rest.split(',').next()?.trim().parse().ok().filter(|q: &f64| (0.0..1.0).contains(q))
}

/// The query, the default poll interval, and how far behind the world its answer is.
fn source(
    r: &mut Reader<'_>,
    name: &str,
    at: usize,
    t: &GuardTable,
    prometheus: Option<&Prometheus>,
) -> Option<(GuardQuery, Duration, Duration)> {
    let given = [
        t.expr.is_some(),
        t.scrape.is_some(),
        t.alerts.is_some(),
        t.errors.is_some() || t.requests.is_some(),
    ];
    if given.iter().filter(|g| **g).count() != 1 {
        let why = "needs exactly one of: expr (PromQL), scrape and metric, errors and requests (ours subtracted), alerts";
        r.error("", Some(at), name, why);
        return None;
    }
    if t.alerts.is_some() {
        let prometheus = asked(r, name, at, prometheus)?;
        let query = sources::alerts(r, name, at, t)?;
        return Some((GuardQuery::Alerts(query), poll_of(prometheus), prometheus.scrape_interval));
    }
    if let (Some(errors), Some(requests)) = (&t.errors, &t.requests) {
        let prometheus = asked(r, name, at, prometheus)?;
        let mut requests = ranged(r, &format!("{name}: requests"), requests, prometheus)?;
        let errors = match promql::check_errors(errors.get_ref(), &mut requests) {
            Ok(query) => query,
            Err(e) => {
                r.error(e.id, Some(errors.span().start), &format!("{name}: errors"), e.why);
                return None;
            }
        };
        if errors.range.is_zero() || requests.range.is_zero() {
            let why =
                "ours can only be subtracted over a known range: write rate(...[1m]) and no recording rule";
            r.error("G006", Some(at), name, why);
            return None;
        }
        let behind = prometheus.scrape_interval + errors.range.max(requests.range);
        return Some((GuardQuery::Subtract { errors, requests }, poll_of(prometheus), behind));
    }
    match (&t.expr, &t.scrape) {
        (Some(expr), None) => {
            let prometheus = asked(r, name, expr.span().start, prometheus)?;
            let mut query = ranged(r, &format!("{name}: expr"), expr, prometheus)?;
            reduce_and_samples(r, name, t, &mut query)?;
            let behind = prometheus.scrape_interval + query.range;
            Some((GuardQuery::Prometheus(query), poll_of(prometheus), behind))
        }
        (None, Some(_)) => scrape(r, name, at, t),
        (Some(_), Some(_)) | (None, None) => {
            r.error(
                "",
                Some(at),
                name,
                "errors and requests belong together: both are rates with ours among them",
            );
            None
        }
    }
}

fn poll_of(p: &Prometheus) -> Duration {
    p.scrape_interval.clamp(Duration::from_secs(1), Duration::from_secs(5))
}

fn asked<'a>(r: &mut Reader<'_>, name: &str, at: usize, p: Option<&'a Prometheus>) -> Option<&'a Prometheus> {
    if p.is_none() {
        r.error("", Some(at), name, "asks Prometheus, but there is no [prometheus] url to ask");
    }
    p
}

/// `reduce` and `samples` of a query; several series without a rule are a warning here and no data later.
fn reduce_and_samples(r: &mut Reader<'_>, name: &str, t: &GuardTable, query: &mut Query) -> Option<()> {
    let at = t.expr.as_ref().map(|w| w.span().start);
    match t.reduce.as_ref().map(|w| w.get_ref().as_str()) {
        None if query.many => {
            let why = "may give several series, which is no data; aggregate it, or say reduce = \"max\"";
            r.warn("G014", at, &format!("{name}: expr"), why);
        }
        None => {}
        Some(word @ ("sum" | "max" | "min" | "avg")) => {
            if word == "avg" {
                r.warn(
                    "G014",
                    at,
                    &format!("{name}: reduce"),
                    "the mean over instances hides one bad one; take max",
                );
            }
            query.text = format!("{word}({})", query.text);
        }
        Some(other) => {
            r.error("G014", at, &format!("{name}: reduce"), format!("{other:?} is not sum, max, min or avg"));
            return None;
        }
    }
    if let Some(word) = &t.samples {
        query.samples = Some(sources::query(r, &format!("{name}: samples"), word)?.text);
    }
    Some(())
}

/// A query whose range is long enough to be answered, with its warnings told.
pub(super) fn ranged(r: &mut Reader<'_>, key: &str, word: &Word, p: &Prometheus) -> Option<Query> {
    let start = word.span().start;
    let query = sources::query(r, key, word)?;
    let scrape = p.scrape_interval;
    if !query.range.is_zero() && query.range < scrape * 4 {
        let why = format!(
            "the range {} is below four scrapes of {}; one lost scrape would blind it",
            show_duration(query.range),
            show_duration(scrape)
        );
        r.error("G006", Some(start), key, why);
        return None;
    }
    if query.range > Duration::from_secs(300) {
        r.warn("G006", Some(start), key, "a range above 5m is too slow to guard");
    }
    for (id, why) in &query.warnings {
        r.warn(id, Some(start), key, why.clone());
    }
    Some(query)
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
        Some("min") => Reduce::Min,
        Some("avg") => Reduce::Avg,
        Some(other) => {
            r.error(
                "",
                Some(at),
                &format!("{name}: reduce"),
                format!("{other:?} is not sum, max, min or avg"),
            );
            return None;
        }
    };
    let poll = Duration::from_secs(1);
    let behind = if read == ScrapeRead::Rate { poll } else { Duration::ZERO };
    Some((GuardQuery::Scrape(ScrapeQuery { url, metric, per, read, reduce }), poll, behind))
}
