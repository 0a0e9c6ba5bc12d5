//! Words to checked values for the tables that bound a run in time and amount: `[window]`, `[budget]`,
//! `[visibility]`, `[metrics]`, `[drill]`, `[rate] hold_total`, and the guards that follow from them.

use std::time::Duration;

use toml::Spanned;

use super::check::Reader;
use super::file::{PolicyFile, Word};
use super::promql::Query;
use super::window::{Opens, Window};
use super::{BudgetRule, HoldTotal, Prometheus, QueryGuard, guards, sources};
use crate::govern::budget::BudgetLimits;
use crate::units::{Rate, Scale, parse_bytes};

/// Longest window: past that it is no low-traffic window (lint G020).
const WINDOW_MAX: Duration = Duration::from_secs(12 * 3600);

/// Budget period of a policy without a window.
const PERIOD: Duration = Duration::from_secs(86_400);

/// A rate, or a finding.
pub(super) fn rate(r: &mut Reader<'_>, key: &str, word: &Word) -> Option<Rate> {
    match Rate::parse(word.get_ref()) {
        Ok(rate) if rate > Rate::ZERO => Some(rate),
        Ok(_) => {
            r.error("G010", Some(word.span().start), key, "must be above 0");
            None
        }
        Err(e) => {
            r.error("G010", Some(word.span().start), key, e.to_string());
            None
        }
    }
}

/// `[window]`: the outer `None` after an error.
pub(super) fn window(r: &mut Reader<'_>, file: &PolicyFile) -> Option<Option<Window>> {
    let Some(spanned) = &file.window else { return Some(None) };
    let t = spanned.get_ref();
    let opens = Opens::parse(t.start.get_ref());
    if opens.is_none() {
        let why = format!(
            "{:?} is not such as \"Sun 03:00\", \"daily 03:00\" or \"2026-11-29 03:00\"",
            t.start.get_ref()
        );
        r.error("G020", Some(t.start.span().start), "window.start", why);
    }
    let duration = r.duration("window.duration", Some(&t.duration), Duration::ZERO)?;
    if duration.is_zero() || duration > WINDOW_MAX {
        r.error(
            "G020",
            Some(t.duration.span().start),
            "window.duration",
            "must lie above 0s and at most 12h",
        );
        return None;
    }
    let expect_organic_below = match &t.expect_organic_below {
        Some(w) => Some(rate(r, "window.expect_organic_below", w)?),
        None => None,
    };
    if let Some(w) = t.expect_organic_below.as_ref().filter(|_| file.visibility.is_none()) {
        let why = "users can only be counted where they are seen; add [visibility] requests";
        r.error("G027", Some(w.span().start), "window.expect_organic_below", why);
        return None;
    }
    if opens.is_some_and(|o| o.crosses_midnight(duration)) {
        let why = "closes on the day after it opened (clocks of the time zone); make sure that the early hours are quiet, too";
        r.warn("G020", Some(t.duration.span().start), "window.duration", why);
    }
    let timezone = t.timezone.get_ref().clone();
    Some(Some(Window { timezone, opens: opens?, duration, expect_organic_below }))
}

fn amount(r: &mut Reader<'_>, key: &str, word: Option<&Spanned<i64>>) -> Option<Option<u64>> {
    let Some(word) = word else { return Some(None) };
    match u64::try_from(*word.get_ref()).ok().filter(|n| *n > 0) {
        Some(n) => Some(Some(n)),
        None => {
            r.error("", Some(word.span().start), key, "must be above 0");
            None
        }
    }
}

/// `[budget]`.
pub(super) fn budget(r: &mut Reader<'_>, file: &PolicyFile) -> Option<Option<BudgetRule>> {
    let Some(spanned) = &file.budget else { return Some(None) };
    let t = spanned.get_ref();
    let requests = amount(r, "budget.requests", t.requests.as_ref())?;
    let failed_requests = amount(r, "budget.failed_requests", t.failed_requests.as_ref())?;
    let connections = amount(r, "budget.connections", t.connections.as_ref())?;
    let bytes_received = match &t.bytes_received {
        None => None,
        Some(w) => match parse_bytes(w.get_ref()) {
            Ok(bytes) => Some(bytes),
            Err(e) => {
                r.error("G010", Some(w.span().start), "budget.bytes_received", e.to_string());
                return None;
            }
        },
    };
    let at = Some(spanned.span().start);
    let limits = BudgetLimits { requests, failed_requests, bytes_received, connections };
    if limits.is_unlimited() {
        r.error(
            "",
            at,
            "budget",
            "limits nothing; give requests, failed_requests, bytes_received or connections",
        );
        return None;
    }
    if let (Some(failed), Some(all)) = (failed_requests, requests)
        && failed > all / 100
    {
        let why =
            format!("{failed} is above 1 % of the {all} requests allowed; that is no budget but a licence");
        r.error("G026", at, "budget.failed_requests", why);
        return None;
    }
    if t.period.is_some() && file.window.is_some() {
        r.error(
            "",
            at,
            "budget.period",
            "a policy with a window counts per opening of the window; take period out",
        );
        return None;
    }
    let period = r.duration("budget.period", t.period.as_ref(), PERIOD)?;
    if period < Duration::from_secs(60) {
        r.error("", at, "budget.period", "must be at least 1m");
        return None;
    }
    Some(Some(BudgetRule { limits, period }))
}

/// `[rate] hold_total`.
pub(super) fn hold_total(r: &mut Reader<'_>, file: &PolicyFile) -> Option<Option<HoldTotal>> {
    let Some(word) = &file.rate.hold_total else { return Some(None) };
    let at = Some(word.span().start);
    if file.visibility.is_none() {
        let why = "users and ours together can only be held where users are seen; add [visibility] requests";
        r.error("G027", at, "rate.hold_total", why);
        return None;
    }
    if word.get_ref().ends_with('x') {
        return match Scale::parse(word.get_ref()) {
            Ok(scale) => Some(Some(HoldTotal::OfPeakMilli(scale.milli))),
            Err(e) => {
                r.error("G010", at, "rate.hold_total", e.to_string());
                None
            }
        };
    }
    rate(r, "rate.hold_total", word).map(|rate| Some(HoldTotal::Rate(rate)))
}

/// The guards that the program adds by itself, after the policy's own.
pub(super) fn own_guards(
    r: &mut Reader<'_>,
    file: &PolicyFile,
    prometheus: Option<&Prometheus>,
) -> Option<Vec<QueryGuard>> {
    let Some(p) = prometheus else {
        let asks = [
            ("visibility", file.visibility.as_ref().map(|v| v.requests.span().start)),
            ("stop.query", file.stop.query.as_ref().map(|w| w.span().start)),
        ];
        for (key, at) in asks {
            if let Some(at) = at {
                r.error("", Some(at), key, "asks Prometheus, but there is no [prometheus] url to ask");
            }
        }
        return Some(Vec::new());
    };
    let mut out = Vec::new();
    if let Some(table) = &file.prometheus
        && !table.expect_labels.is_empty()
    {
        out.push(sources::labels(&table.expect_labels, p));
    }
    out.push(sources::other_runs(p));
    if let Some(word) = &file.stop.query {
        out.push(sources::stop_query(r, word, p)?);
    }
    if let Some(v) = &file.visibility {
        let all = guards::ranged(r, "visibility.requests", &v.requests, p)?;
        if all.range.is_zero() {
            let why = "our own traffic can only be compared over a known range: write rate(...[1m]) and no recording rule";
            r.error("G006", Some(v.requests.span().start), "visibility.requests", why);
            return None;
        }
        let organic = match &v.organic {
            Some(w) => Some(guards::ranged(r, "visibility.organic", w, p)?),
            None => None,
        };
        out.extend(visibility(all, organic, file, p));
    }
    Some(out)
}

fn visibility(all: Query, organic: Option<Query>, file: &PolicyFile, p: &Prometheus) -> Vec<QueryGuard> {
    let expects = file.window.as_ref().is_some_and(|w| w.get_ref().expect_organic_below.is_some());
    let wanted = organic.is_some() || expects || file.rate.hold_total.is_some();
    let mut out = vec![sources::visibility(all.clone(), p)];
    if wanted {
        let subtract = organic.is_none();
        out.push(sources::organic(organic.unwrap_or(all), subtract, p));
    }
    out
}
