//! What a run needs before its threads start: limits of the gate, budgets, the control socket, the token.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;

use super::governor::Snapshot;
use super::run::Prepared;
use super::spending::Spending;
use crate::edge::host::control::{Control, Orders};
use crate::edge::host::lock::{self, RunLock};
use crate::edge::host::{budget_store, state_folder};
use crate::govern::budget::BudgetKind;
use crate::govern::gate::GateLimits;
use crate::govern::latch::Latch;
use crate::policy::target::Target;
use crate::policy::{GuardQuery, Policy};
use crate::units::{RunTime, WallTime};

/// The name of a target in locks, metrics and ledgers: host and port, one spelling.
#[must_use]
pub fn target_name(target: &Target) -> String {
    let host = target.host().trim_end_matches('.').to_ascii_lowercase();
    let host = if host == "localhost" { "127.0.0.1" } else { host.as_str() };
    format!("{host}:{}", target.port())
}

/// When sending must end: the window's end, or the longest run that the site allows, whichever comes first.
pub(super) fn window_end<S>(p: &Prepared<S>, started: WallTime) -> Option<RunTime> {
    let window = p.opening.map(|o| RunTime(o.end.0.saturating_sub(started.0)));
    let longest = p.policy.duration_max.map(RunTime::from_duration);
    match (window, longest) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Two runs under one policy would overwrite what the other spent, whatever their targets.
pub(super) fn budget_lock(policy: &Policy) -> anyhow::Result<Option<RunLock>> {
    let name = format!("budget of {}", policy.name);
    policy.budget.is_some().then(|| lock::acquire(&name)).transpose()
}

pub(super) fn open_spending<S>(
    p: &Prepared<S>,
    started: WallTime,
    in_flight: u64,
    latch: &Latch,
) -> anyhow::Result<Option<Spending>> {
    let Some(rule) = &p.policy.budget else { return Ok(None) };
    let folder = state_folder::folder()?;
    let start = match &p.opening {
        Some(opening) => opening.start,
        None => budget_store::period_start(&folder, &p.policy.name, started, rule.period)?,
    };
    let rates = (p.settings.target, p.policy.rate.max_new_connections, in_flight);
    let spending = Spending::open(&folder, &p.policy.name, start, rule.limits, rates, latch.clone())?;
    if let Some(kind) = spending.used_up() {
        let key = kind.name();
        anyhow::bail!(
            "the budget of {key} of policy {:?} is used up since {}; a new period begins later",
            p.policy.name,
            start.rfc3339()
        );
    }
    Ok(Some(spending))
}

pub(super) fn gate_limits<S>(p: &Prepared<S>, spending: Option<&Spending>, in_flight: u64) -> GateLimits {
    let left = |kind| spending.and_then(|s| s.left(kind));
    GateLimits {
        rate: p.policy.rate.max_rps,
        connects: p.policy.rate.max_new_connections,
        in_flight,
        requests: left(BudgetKind::Requests),
        connections: left(BudgetKind::Connections),
        window_end: p.settings.window_end,
    }
}

/// The bearer token for Prometheus.
///
/// # Errors
/// When its file cannot be read.
pub fn token(policy: &Policy) -> anyhow::Result<Option<Arc<str>>> {
    let Some(path) = policy.prometheus.as_ref().and_then(|p| p.token_file.as_deref()) else {
        return Ok(None);
    };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the token file {path}"))?;
    Ok(Some(text.trim().into()))
}

pub(super) fn open_control<S>(
    p: &Prepared<S>,
    orders: &Orders,
    latch: &Latch,
    snapshot: &Arc<Mutex<Snapshot>>,
) -> anyhow::Result<Control> {
    let (run, target, policy) = (p.words.id.clone(), p.words.target.clone(), p.policy.name.clone());
    let names: Vec<String> = p.settings.guards.iter().map(|g| g.name.clone()).collect();
    let (snapshot, standing) = (Arc::clone(snapshot), orders.clone());
    let status = move || {
        let s = snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let guards: Vec<_> = names
            .iter()
            .zip(&s.views)
            .map(|(name, v)| serde_json::json!({"name": name, "level": v.level, "value": v.reading.value()}))
            .collect();
        serde_json::json!({
            "ok": true, "run": run, "target": target, "policy": policy, "order": standing.get(),
            "state": s.row.state, "t": s.at.as_secs_f64(), "share": s.row.share, "ceiling_rps": s.target_rps,
            "sent_1s": s.row.sent, "in_flight": s.row.in_flight, "p95_ms": s.row.p95_ms, "guards": guards,
        })
        .to_string()
    };
    Control::open(&p.words.id, orders.clone(), latch.clone(), Arc::new(status))
}

pub(super) fn needs_tls<S>(p: &Prepared<S>) -> bool {
    let guards = p.policy.guards.iter().any(|g| match &g.query {
        GuardQuery::Scrape(q) => q.url.starts_with("https:"),
        _ => false,
    });
    guards || p.policy.prometheus.as_ref().is_some_and(|p| p.url.starts_with("https:"))
}
