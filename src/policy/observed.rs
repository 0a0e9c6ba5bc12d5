//! What a real Prometheus says about a guard's query, judged: the lints that need one (`replay check`).
//!
//! Pure: the facts are gathered by `edge::watch::observe`. A fact that could not be had is no finding; the guard
//! itself reads as no data then, and `check` says that a run would not start.

use std::time::Duration;

use super::promql::Query;
use super::{Finding, Policy, Severity};
use crate::govern::guard::{Side, Thresholds};
use crate::units::show_duration;

/// What was found behind one selector.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SelectorFacts {
    /// Its text.
    pub selector: String,
    /// How many series it has.
    pub series: Option<u64>,
    /// Time between two of its samples, as scraped lately.
    pub scrape: Option<Duration>,
    /// Labels it asks for that no series of the metric has.
    pub unknown_labels: Vec<String>,
    /// The highest bucket below infinity, where it is a classic histogram.
    pub highest_bucket: Option<f64>,
}

/// What was found behind a query.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// Age of the newest samples, the oldest of them, seconds.
    pub age_s: Option<f64>,
    /// By selector.
    pub selectors: Vec<SelectorFacts>,
}

impl Observed {
    /// One line for people.
    #[must_use]
    pub fn words(&self) -> String {
        let age = self.age_s.map_or_else(|| "age unknown".to_owned(), |a| format!("{a:.1} s old"));
        let series: Vec<u64> = self.selectors.iter().filter_map(|s| s.series).collect();
        let scrape = self.selectors.iter().filter_map(|s| s.scrape).max();
        let scrape = scrape.map_or_else(String::new, |s| format!(", a sample every {}", show_duration(s)));
        format!("{} series{scrape}, {age}", series.iter().sum::<u64>())
    }
}

/// Scrapes jitter; only what is slower than this many times the stated interval is another interval.
const SCRAPE_SLACK: f64 = 1.25;

/// Judges what was found for the guard `name` with `limits` (seconds, where its unit is seconds).
#[must_use]
pub fn judge(
    name: &str,
    query: &Query,
    seen: &Observed,
    stated: Duration,
    seconds: Option<&Thresholds>,
) -> Vec<Finding> {
    let mut out = Vec::new();
    let mut say = |severity, id: &'static str, key: &str, why: String| {
        out.push(Finding { severity, id, line: None, key: format!("{name}: {key}"), why });
    };
    for s in &seen.selectors {
        if let Some(scrape) = s.scrape.filter(|i| i.as_secs_f64() > stated.as_secs_f64() * SCRAPE_SLACK) {
            let (real, stated) = (show_duration(scrape), show_duration(stated));
            let what = &s.selector;
            let why = format!(
                "{what} has a sample every {real}, but [prometheus] scrape_interval says {stated}: every lag is reckoned too short; write {real}"
            );
            say(Severity::Error, "G006", "scrape_interval", why);
            if !query.range.is_zero() && query.range < scrape * 4 {
                let why = format!(
                    "a range of {} holds fewer than four samples of {what}: one late scrape empties it",
                    show_duration(query.range)
                );
                say(Severity::Error, "G006", "expr", why);
            }
        }
        if s.scrape.is_none() && s.series.is_some_and(|n| n > 0) {
            let why = format!(
                "how often {} is sampled cannot be told: fewer than three samples in an hour, or too new",
                s.selector
            );
            say(Severity::Warning, "G006", "scrape_interval", why);
        }
        for label in &s.unknown_labels {
            let why = format!("no series of {} has the label {label:?}: it chooses nothing", s.selector);
            say(Severity::Warning, "G022", "expr", why);
        }
        let limits = seconds.filter(|t| query.quantile && t.side == Side::Above);
        let (Some(top), Some(limits)) = (s.highest_bucket, limits) else { continue };
        let never = [("hold", limits.hold), ("back_off", limits.back_off), ("abort", limits.abort)];
        for (level, limit) in never {
            // A quantile in the last bucket reads as its lower bound: it can be equal, never above.
            if let Some(limit) = limit.filter(|l| *l >= top) {
                let why = format!(
                    "{level}_above = {limit} s can never be passed: the highest bucket of {} ends at {top} s; guard the share of requests above a bucket instead",
                    s.selector
                );
                say(Severity::Error, "G009", &format!("{level}_above"), why);
            }
        }
    }
    out
}

/// G017: whether a cap on requests in flight would bind while the target is healthy, at `latency_s` for the slow ones.
#[must_use]
pub fn in_flight_binds(name: &str, policy: &Policy, latency_s: f64) -> Option<Finding> {
    let cap = policy.rate.max_in_flight?;
    let needed = policy.rate.max_rps.rps() * latency_s * 2.0;
    ((cap as f64) < needed).then(|| Finding {
        severity: Severity::Warning,
        id: "G017",
        line: None,
        key: "rate.max_in_flight".to_owned(),
        why: format!(
            "{cap} is below max_rps x {latency_s:.3} s (what {name:?} reads now) x 2 = {needed:.0}: it would cut a healthy run"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::super::promql::check;
    use super::*;

    fn facts(selector: &str) -> SelectorFacts {
        SelectorFacts {
            selector: selector.to_owned(),
            series: Some(3),
            scrape: Some(Duration::from_secs(15)),
            unknown_labels: Vec::new(),
            highest_bucket: None,
        }
    }

    #[test]
    fn what_only_a_real_prometheus_can_say() {
        let quantile = check("histogram_quantile(0.99, sum by (le) (rate(d_bucket[1m])))").unwrap();
        let (hold, clear, side) = (None, 0.9, Side::Above);
        let limits = Thresholds { side, hold, back_off: Some(1.0), abort: Some(10.0), clear };
        let stated = Duration::from_secs(15);
        let judged = |s: SelectorFacts, q: &Query, limits: Option<&Thresholds>| -> Vec<(&str, String)> {
            let seen = Observed { age_s: Some(2.0), selectors: vec![s] };
            judge("g", q, &seen, stated, limits).into_iter().map(|f| (f.id, f.key)).collect()
        };
        let none: Vec<(&str, String)> = Vec::new();
        assert_eq!(judged(facts("d_bucket"), &quantile, Some(&limits)), none);
        let with_top = |top| SelectorFacts { highest_bucket: Some(top), ..facts("d_bucket") };
        let key = |id, key: &str| (id, key.to_owned());
        assert_eq!(judged(with_top(10.1), &quantile, Some(&limits)), none);
        assert_eq!(judged(with_top(10.0), &quantile, Some(&limits)), [key("G009", "g: abort_above")]);
        assert_eq!(
            judged(with_top(0.5), &quantile, Some(&limits)),
            [key("G009", "g: back_off_above"), key("G009", "g: abort_above")]
        );
        assert_eq!(judged(with_top(0.5), &quantile, None), none, "not a limit in seconds");
        let rate = check("sum(rate(d_bucket[1m]))").unwrap();
        assert_eq!(judged(with_top(0.5), &rate, Some(&limits)), none, "not a quantile");
        let below = Thresholds { side: Side::Below, ..limits };
        assert_eq!(judged(with_top(0.5), &quantile, Some(&below)), none);

        let every = |s| SelectorFacts { scrape: Some(Duration::from_secs(s)), ..facts("d_bucket") };
        assert_eq!(judged(every(18), &rate, None), none, "jitter");
        assert_eq!(
            judged(every(60), &rate, None),
            [key("G006", "g: scrape_interval"), key("G006", "g: expr")]
        );
        let long = check("sum(rate(d_bucket[4m]))").unwrap();
        assert_eq!(judged(every(60), &long, None), [key("G006", "g: scrape_interval")]);
        let unknown = SelectorFacts { unknown_labels: vec!["pdo".to_owned()], ..facts("d_bucket") };
        assert_eq!(judged(unknown, &rate, None), [key("G022", "g: expr")]);
        let rare = SelectorFacts { scrape: None, ..facts("d_bucket") };
        assert_eq!(judged(rare, &rate, None), [key("G006", "g: scrape_interval")], "unknown is said");
        assert_eq!(
            judged(SelectorFacts::default(), &rate, Some(&limits)),
            none,
            "nothing found is no finding"
        );
    }

    #[test]
    fn a_cap_that_binds_in_health_is_told() {
        let text = |cap: &str| {
            format!(
                "version = 1\nname = \"t\"\n[target]\nallow = [\"127.0.0.0/8\"]\n[rate]\nmax_rps = 100\n{cap}"
            )
        };
        let policy = |cap: &str| super::super::check::parse(&text(cap), "t").unwrap();
        let binds = |cap: &str, s: f64| in_flight_binds("p99", &policy(cap), s).map(|f| f.id);
        assert_eq!(binds("max_in_flight = 40\n", 0.2), None, "just enough");
        assert_eq!(binds("max_in_flight = 39\n", 0.2), Some("G017"));
        assert_eq!(binds("", 60.0), None, "derived from the time-out");
    }

    #[test]
    fn facts_are_told_in_one_line() {
        let seen = Observed { age_s: Some(3.21), selectors: vec![facts("a"), facts("b")] };
        assert_eq!(seen.words(), "6 series, a sample every 15s, 3.2 s old");
        assert_eq!(Observed::default().words(), "0 series, age unknown");
    }
}
