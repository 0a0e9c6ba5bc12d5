//! From a checked policy and a planned peak to the settings of the governor.

use std::time::Duration;

use super::{GuardQuery, HoldTotal, Policy, sources};
use crate::govern::guard::GuardSpec;
use crate::govern::local_rules::LocalMetric;
use crate::govern::settings::{OrganicRule, Settings};
use crate::limits::{ABORT_GRACE, DRAIN_TIMEOUT, IN_FLIGHT_MAX};
use crate::units::{Rate, Share};

/// Shortest limit on the whole lead-in.
const LEAD_IN_MIN: Duration = Duration::from_secs(600);

/// Shortest automatic clearing and cool-down.
const CALM_MIN: Duration = Duration::from_secs(30);

/// The local guards that run whether or not the policy names them.
fn always_on(policy: &Policy, clear_for: Duration) -> Vec<(LocalMetric, GuardSpec)> {
    let timeout = policy.rate.request_timeout;
    let fixed =
        LocalMetric::ALWAYS.into_iter().filter_map(|m| Some((m, m.spec(m.fixed(timeout)?, clear_for))));
    fixed.collect()
}

/// The local guards of a run, with their metrics.
#[must_use]
pub fn local_guards(policy: &Policy) -> Vec<(LocalMetric, GuardSpec)> {
    let clear_for = clear_for(policy);
    let set = policy.local.iter().map(|(m, t)| (*m, m.spec(*t, clear_for)));
    let received = policy.rate.max_mbit_per_s.map(|mbit| {
        let metric = LocalMetric::Received;
        (metric, metric.spec(LocalMetric::receive_limits(mbit), clear_for))
    });
    set.chain(always_on(policy, clear_for)).chain(received).collect()
}

/// Lag of the policy: the largest over all guards, those that only abort among them: growing faster than
/// any guard can see would outrun it.
#[must_use]
pub fn lag(policy: &Policy) -> Duration {
    let local = LocalMetric::ErrorRatio.spec(
        crate::govern::guard::Thresholds {
            side: crate::govern::guard::Side::Above,
            hold: None,
            back_off: None,
            abort: None,
            clear: 0.0,
        },
        Duration::ZERO,
    );
    // Alerts have an unbounded `for`: they are back-stops, and nothing can wait for them. Kill switches, other runs
    // and the identity of the source say nothing about what the load does.
    let timely = |g: &&super::QueryGuard| match g.query {
        GuardQuery::Alerts(_) | GuardQuery::Labels(_) | GuardQuery::OtherRuns | GuardQuery::StopQuery(_) => {
            false
        }
        GuardQuery::Prometheus(_)
        | GuardQuery::Scrape(_)
        | GuardQuery::Subtract { .. }
        | GuardQuery::Visibility(_)
        | GuardQuery::Organic { .. } => true,
    };
    policy.guards.iter().filter(timely).map(|g| g.spec.lag).max().unwrap_or_default().max(local.lag)
}

/// How long a guard must be healthy before it is clean.
#[must_use]
pub fn clear_for(policy: &Policy) -> Duration {
    policy.governor.clear_for.unwrap_or(CALM_MIN.max(lag(policy)))
}

/// Most requests in flight: as the policy says, else what the rate and the time-out make, a quarter of it,
/// so that the cap can bind.
#[must_use]
pub fn in_flight_max(policy: &Policy, target: Rate) -> u64 {
    let target = target.min(policy.rate.max_rps);
    let bind = (target.rps() * policy.rate.request_timeout.as_secs_f64() / 4.0).ceil() as u64;
    policy.rate.max_in_flight.unwrap_or(bind.clamp(16, IN_FLIGHT_MAX)).min(policy.rate.in_flight_ceiling)
}

/// Index of a guard that the program added by itself, among all guards of the settings.
#[must_use]
pub fn own_guard(policy: &Policy, name: &str) -> Option<usize> {
    let local = local_guards(policy).len();
    policy.guards.iter().position(|g| g.spec.name == name).map(|i| local + i)
}

/// Users and ours together, as a rate: `peak` is the recorded peak at scale one.
#[must_use]
pub fn hold_total(policy: &Policy, peak: Rate) -> Option<Rate> {
    policy.rate.hold_total.map(|total| match total {
        HoldTotal::Rate(rate) => rate,
        HoldTotal::OfPeakMilli(milli) => Rate { mrps: peak.mrps.saturating_mul(milli) / 1000 },
    })
}

fn organic_rule(policy: &Policy, peak: Rate) -> Option<OrganicRule> {
    let guard = own_guard(policy, sources::ORGANIC)?;
    let expected_below = policy.window.as_ref().and_then(|w| w.expect_organic_below);
    Some(OrganicRule { guard, hold_total: hold_total(policy, peak), expected_below })
}

/// Aftercare where the policy does not say: five minutes, and at least as long as the guards are late.
const AFTERCARE: Duration = Duration::from_secs(300);

/// Shortest lead-in of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeadIn {
    /// As long as the guards need.
    Auto,
    /// None (loopback only).
    None,
    /// This long in all.
    For(Duration),
}

/// The governor's settings for a plan with this peak.
#[must_use]
pub fn govern(policy: &Policy, peak: Rate, lead_in: LeadIn) -> Settings {
    let (words, lag, clear_for) = (&policy.governor, lag(policy), clear_for(policy));
    let target = peak.max(Rate { mrps: 1 });
    let share_of = |rate: Rate| Share::from_f64(rate.mrps as f64 / target.mrps as f64);
    let probe = words.probe_rate.unwrap_or_else(|| auto_probe(target));
    let step = words.step_ppm.map_or(Share::from_f64(0.1), |ppm| Share::from_f64(f64::from(ppm) / 1e6));
    let steps = (1.0 / step.as_f64().max(0.001)).ceil();
    let step_hold = match lead_in {
        // A flag may make the climb slower than the policy says, never faster.
        LeadIn::For(total) => lag.max(total.div_f64(steps + 1.0)).max(words.step_hold.unwrap_or(lag)),
        LeadIn::Auto | LeadIn::None => words.step_hold.unwrap_or(lag),
    };
    let mut guards: Vec<GuardSpec> = local_guards(policy).into_iter().map(|(_, s)| s).collect();
    guards.extend(policy.guards.iter().map(|g| {
        let own = g.spec.clear_for;
        GuardSpec { clear_for: if own.is_zero() { clear_for } else { own }, ..g.spec.clone() }
    }));
    let scrape = policy.prometheus.as_ref().map_or(Duration::ZERO, |p| p.scrape_interval);
    let poll = policy.guards.iter().map(|g| g.poll).max().unwrap_or(Duration::from_millis(100));
    let preflight_max = words.preflight_max.unwrap_or(Duration::from_secs(300));
    Settings {
        target,
        share_max: share_of(policy.rate.max_rps),
        // Whatever a policy says, the first requests are at most one step.
        probe_share: share_of(probe).min(step),
        floor: share_of(probe).min(Share::from_f64(0.01)).halved(),
        step,
        step_hold,
        cooldown: words.cooldown.unwrap_or(CALM_MIN.max(lag)),
        hold_max: words.hold_max.unwrap_or(Duration::from_secs(300)),
        preflight_clean: (scrape * 2).max(poll * 3),
        preflight_max,
        probe_max: preflight_max,
        max_backoffs: words.max_backoffs.unwrap_or(3),
        backoff_window: words.backoff_window.unwrap_or(Duration::from_secs(600)),
        no_data_abort: words.no_data_abort.unwrap_or(Duration::from_secs(30)),
        lag,
        drain_timeout: words.drain_timeout.unwrap_or(DRAIN_TIMEOUT),
        abort_grace: ABORT_GRACE,
        lead_in: lead_in != LeadIn::None,
        lead_in_max: LEAD_IN_MIN.max(step_hold.mul_f64(steps * 4.0) + preflight_max * 2),
        aftercare: words.aftercare.unwrap_or(if policy.is_loopback_only() {
            Duration::ZERO
        } else {
            AFTERCARE.max(lag)
        }),
        measure_len: Duration::ZERO,
        window_end: None,
        visible_within: lag * 2,
        organic: organic_rule(policy, target),
        guards,
    }
}

/// One per cent of the target, at least 1/s (a guard needs samples) and at most 10/s.
fn auto_probe(target: Rate) -> Rate {
    Rate { mrps: (target.mrps / 100).clamp(1_000, 10_000).min(target.mrps) }
}

/// Time from the start to full scale, if nothing holds it up.
#[must_use]
pub fn time_to_full(settings: &Settings) -> Duration {
    if !settings.lead_in {
        return settings.preflight_clean;
    }
    let to_climb = settings.share_max.as_f64() - settings.probe_share.as_f64();
    let steps = (to_climb / settings.step.as_f64().max(1e-6)).ceil().max(1.0);
    settings.preflight_clean + settings.lag + settings.step_hold.mul_f64(steps)
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
