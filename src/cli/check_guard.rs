//! One guard in `replay check`: asked once, with what a real Prometheus knows of the series behind it.

use std::io::Write;

use crate::edge::watch::observe::observe;
use crate::edge::watch::poll::{PollContext, ask};
use crate::govern::guard::Thresholds;
use crate::govern::reading::{Answer, NoData, Reading};
use crate::policy::observed::{Observed, in_flight_binds, judge};
use crate::policy::promql::Query;
use crate::policy::{Finding, GuardQuery, Policy, QueryGuard, Severity};
use crate::report::cause::limits_words;

/// One answer; a growth per second needs two looks.
async fn once(context: &PollContext, index: usize, guard: &QueryGuard) -> Answer {
    let (mut before, mut answer) = (None, Answer::NoData(NoData::NotYet));
    for _ in 0..2 {
        let asked = ask(context, index, guard, &mut before, context.clock.now());
        answer = tokio::time::timeout(guard.timeout, asked).await.unwrap_or(Answer::NoData(NoData::Timeout));
        if answer != Answer::NoData(NoData::NotYet) {
            break;
        }
        tokio::time::sleep(guard.poll).await;
    }
    answer
}

/// Asks a guard once and says what it would mean, and why. Whether a run could start by it.
///
/// # Errors
/// If the output cannot be written.
pub(super) async fn one_guard(
    out: &mut impl Write,
    policy: &Policy,
    context: &PollContext,
    index: usize,
    guard: &QueryGuard,
) -> anyhow::Result<bool> {
    let answer = once(context, index, guard).await;
    // The rate of the visibility query is no amplification before anything was sent.
    let reading = match (&guard.query, answer) {
        (GuardQuery::Visibility(_), Answer::Value { value, .. }) => Reading::Good(value),
        _ => guard.spec.read(answer),
    };
    let mut fine = matches!(reading, Reading::Good(_) | Reading::Neutral) || !guard.spec.required;
    let mut limits = guard.spec.thresholds;
    let mut note = String::new();
    if !guard.baselines.is_empty() {
        match crate::edge::watch::baseline::of_guard(context, guard).await {
            Ok(Some(values)) => (limits, note) = with_baselines(guard, &values),
            Ok(None) => (fine, note) = (false, "; no baseline: too few clean points".to_owned()),
            Err(why) => (fine, note) = (false, format!("; no baseline: {why:?}")),
        }
    }
    let seen = match asked_query(&guard.query) {
        Some(query) => Some((query, observe(context, query).await)),
        None => None,
    };
    let findings = findings(policy, guard, (&limits, reading), seen.as_ref());
    fine &= !findings.iter().any(|f| f.severity == Severity::Error);
    let would = if fine { "would start" } else { "would not start" };
    let spec = crate::govern::guard::GuardSpec { thresholds: limits, ..guard.spec.clone() };
    writeln!(out, "  {:<40} {reading:?} (limits: {}{note}): {would}", guard.spec.name, limits_words(&spec))?;
    if let Some((_, seen)) = &seen {
        writeln!(out, "  {:<40} {}", "", seen.words())?;
    }
    for finding in findings {
        writeln!(out, "  {finding}")?;
    }
    Ok(fine)
}

/// The query whose series are looked at.
fn asked_query(query: &GuardQuery) -> Option<&Query> {
    match query {
        GuardQuery::Prometheus(q) | GuardQuery::Visibility(q) | GuardQuery::Organic { query: q, .. } => {
            Some(q)
        }
        GuardQuery::Subtract { requests, .. } => Some(requests),
        GuardQuery::Scrape(_)
        | GuardQuery::Alerts(_)
        | GuardQuery::StopQuery(_)
        | GuardQuery::OtherRuns
        | GuardQuery::Labels(_) => None,
    }
}

/// The lints that need a Prometheus (N in docs/GOVERNOR.md).
fn findings(
    policy: &Policy,
    guard: &QueryGuard,
    (limits, reading): (&Thresholds, Reading),
    seen: Option<&(&Query, Observed)>,
) -> Vec<Finding> {
    let (Some((query, seen)), Some(server)) = (seen, &policy.prometheus) else { return Vec::new() };
    let name = &guard.spec.name;
    let seconds = (guard.spec.unit == "seconds").then_some(limits);
    let mut out = judge(name, query, seen, server.scrape_interval, seconds);
    if let Some(latency) = reading.value().filter(|_| query.quantile && seconds.is_some()) {
        out.extend(in_flight_binds(name, policy, latency));
    }
    out
}

fn with_baselines(guard: &QueryGuard, values: &[f64]) -> (Thresholds, String) {
    let mut limits = guard.spec.thresholds;
    for (rule, value) in guard.baselines.iter().zip(values) {
        limits = rule.apply(limits, *value);
    }
    let shown: Vec<String> = values.iter().map(|v| format!("{v:.4}")).collect();
    (limits, format!("; baseline {}", shown.join(", ")))
}
