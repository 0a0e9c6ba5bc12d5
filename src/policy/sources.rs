//! Guards that a policy asks for in other words than `expr` and `scrape`: alerts, subtraction, and the guards
//! that follow from `[visibility]`, `[rate] hold_total`, `[prometheus] expect_labels` and `[stop] query`.
//!
//! Each becomes an ordinary guard, so that blindness, confirmation and expiry are the same for all of them.

use std::time::Duration;

use promql_parser::parser::Expr;

use super::check::Reader;
use super::file::{GuardTable, Word};
use super::{GuardQuery, Prometheus, QueryGuard, promql};
use crate::govern::guard::{GuardSpec, Origin, Side, Thresholds};
use crate::limits::QUERY_TIMEOUT;

/// Amplification above which retries on the way must be at work.
pub const AMPLIFICATION_MAX: f64 = 1.2;

/// Name of the guard on visibility and amplification.
pub const VISIBILITY: &str = "visibility (rise over ours)";

/// Name of the guard on organic users.
pub const ORGANIC: &str = "organic users";

/// Alerts that are firing or pending, and the proof that alerting works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertQuery {
    /// Number of firing alerts.
    pub firing: String,
    /// Number of pending ones.
    pub pending: String,
    /// There and above zero as long as alerting works.
    pub liveness: Option<String>,
}

/// Value of an alerts guard while an alert is pending: holds.
pub const PENDING: f64 = 1.0;

/// Value of an alerts guard while one is firing: aborts.
pub const FIRING: f64 = 2.0;

/// A query and its place, or a finding.
pub(super) fn query(r: &mut Reader<'_>, key: &str, word: &Word) -> Option<promql::Query> {
    match promql::check(word.get_ref()) {
        Ok(query) => Some(query),
        Err(e) => {
            r.error(e.id, Some(word.span().start), key, e.why);
            None
        }
    }
}

/// An alerts guard: `ALERTS` with the given matchers.
pub(super) fn alerts(r: &mut Reader<'_>, name: &str, at: usize, t: &GuardTable) -> Option<AlertQuery> {
    let word = t.alerts.as_ref()?;
    let select = |state: &str| {
        format!("ALERTS{{alertstate=\"{state}\",{}}}", word.get_ref().trim().trim_end_matches(','))
    };
    let (firing, pending) = (select("firing"), select("pending"));
    let parsed = promql_parser::parser::parse(&firing);
    if !matches!(parsed, Ok(Expr::VectorSelector(_))) || word.get_ref().trim().is_empty() {
        let why = "must be label matchers such as 'severity=\"page\", team=\"checkout\"'";
        r.error("G001", Some(word.span().start), &format!("{name}: alerts"), why);
        return None;
    }
    if t.liveness.is_none() {
        let why = "no alert is healthy only while alerting works, and nothing proves that it does; add liveness = 'ALERTS{alertname=\"Watchdog\",alertstate=\"firing\"}'";
        if t.required.unwrap_or(true) {
            // Without liveness it never has data, and a required guard without data lets nothing start.
            r.error("G025", Some(at), &format!("{name}: alerts"), why);
            return None;
        }
        r.warn("G025", Some(at), &format!("{name}: alerts"), why);
    }
    let liveness = match &t.liveness {
        Some(w) => Some(query(r, &format!("{name}: liveness"), w)?.text),
        None => None,
    };
    let count = |selector: &str| format!("count({selector}) or vector(0)");
    Some(AlertQuery { firing: count(&firing), pending: count(&pending), liveness })
}

/// The fixed limits of an alerts guard.
pub(super) fn alert_limits() -> Thresholds {
    Thresholds {
        side: Side::Above,
        hold: Some(PENDING - 0.5),
        back_off: None,
        abort: Some(FIRING - 0.5),
        clear: 0.25,
    }
}

/// A guard that the program adds by itself.
pub(super) fn own(
    name: &str,
    unit: &str,
    thresholds: Thresholds,
    query: GuardQuery,
    prometheus: &Prometheus,
    behind: Duration,
) -> QueryGuard {
    let poll = prometheus.scrape_interval.clamp(Duration::from_secs(1), Duration::from_secs(5));
    let timeout = QUERY_TIMEOUT;
    let spec = GuardSpec {
        name: name.to_owned(),
        origin: Origin::Prometheus,
        unit: unit.to_owned(),
        thresholds,
        required: true,
        harm: false,
        min_samples: 0,
        need_traffic: false,
        neutral_blocks: true,
        confirm: 2,
        confirm_of: 3,
        max_age: poll * 2 + timeout,
        clear_for: Duration::ZERO,
        lag: behind + poll + timeout,
    };
    QueryGuard { spec, query, poll, timeout, baselines: Vec::new(), organic: false }
}

fn above(hold: Option<f64>, back_off: Option<f64>, abort: Option<f64>) -> Thresholds {
    let first = hold.or(back_off).or(abort).unwrap_or(0.0);
    Thresholds { side: Side::Above, hold, back_off, abort, clear: first * 0.8 }
}

/// `[visibility] requests`: the rise over ours, halved above [`AMPLIFICATION_MAX`].
pub(super) fn visibility(query: promql::Query, p: &Prometheus) -> QueryGuard {
    let behind = p.scrape_interval + query.range;
    let mut guard = own(
        VISIBILITY,
        "times ours",
        above(None, Some(AMPLIFICATION_MAX), None),
        GuardQuery::Visibility(query),
        p,
        behind,
    );
    guard.spec.harm = true;
    guard.spec.min_samples = 1;
    // At the probe there may be too little of ours to judge; proof of visibility is asked for on its own.
    guard.spec.neutral_blocks = false;
    guard.spec.thresholds.clear = AMPLIFICATION_MAX;
    guard
}

/// Rate of organic users: a number to act on, without limits of its own; blindness is harm.
pub(super) fn organic(query: promql::Query, subtract: bool, p: &Prometheus) -> QueryGuard {
    let behind = p.scrape_interval + query.range;
    let limits = Thresholds { side: Side::Above, hold: None, back_off: None, abort: None, clear: f64::MAX };
    let mut guard = own(ORGANIC, "requests/s", limits, GuardQuery::Organic { query, subtract }, p, behind);
    guard.spec.harm = true;
    guard
}

/// Whether this is the expected Prometheus: a wrong one is a fault, not a number.
pub(super) fn labels(expect: &std::collections::BTreeMap<String, String>, p: &Prometheus) -> QueryGuard {
    let query = GuardQuery::Labels(expect.clone());
    own("the expected Prometheus", "mismatches", above(None, None, Some(0.5)), query, p, Duration::ZERO)
}

/// Whether another run hits the same target.
pub(super) fn other_runs(p: &Prometheus) -> QueryGuard {
    let limits = above(None, None, Some(0.5));
    own("other runs on this target", "runs", limits, GuardQuery::OtherRuns, p, p.scrape_interval)
}

/// `[stop] query`: any value above zero stops the run.
pub(super) fn stop_query(r: &mut Reader<'_>, word: &Word, p: &Prometheus) -> Option<QueryGuard> {
    let parsed = promql_parser::parser::parse(word.get_ref());
    if let Err(e) = parsed {
        r.error("G001", Some(word.span().start), "stop.query", format!("not a PromQL query: {e}"));
        return None;
    }
    let text = format!("sum({}) or vector(0)", word.get_ref().trim());
    Some(own(
        "kill switch query",
        "",
        above(None, None, Some(0.0)),
        GuardQuery::StopQuery(text),
        p,
        p.scrape_interval,
    ))
}
