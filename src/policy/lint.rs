//! Lints over a whole policy: what is readable but would not keep production safe.

use super::check::Reader;
use super::{Policy, settings};
use crate::govern::guard::Origin;
use crate::units::show_duration;

/// Looks at the policy as a whole. Production rules apply unless its target is loopback.
pub(super) fn lint(r: &mut Reader<'_>, policy: &Policy) {
    times(r, policy);
    capacity(r, policy);
    if !policy.is_loopback_only() {
        production(r, policy);
    }
    for pattern in &policy.routes.allow {
        for word in pattern.deny_words() {
            r.warn(
                "G029",
                None,
                "routes.allow",
                format!("{:?} allows the built-in deny word {word:?}", pattern.text()),
            );
        }
    }
    let qps: f64 = policy
        .guards
        .iter()
        .filter(|g| g.spec.origin == Origin::Prometheus)
        .map(|g| 1.0 / g.poll.as_secs_f64())
        .sum();
    if qps > 5.0 {
        r.warn(
            "G033",
            None,
            "guard",
            format!("the guards ask Prometheus {qps:.1} times a second; keep it below 5"),
        );
    }
}

/// G007: nothing may act faster than it can see.
fn times(r: &mut Reader<'_>, policy: &Policy) {
    let lag = settings::lag(policy);
    let words = &policy.governor;
    let table =
        [("step_hold", words.step_hold), ("cooldown", words.cooldown), ("clear_for", words.clear_for)];
    for (key, value) in table {
        if let Some(value) = value.filter(|v| *v < lag) {
            let why = format!(
                "{} is below L = {}, the time the slowest guard needs to show harm; write \"auto\" or at least L",
                show_duration(value),
                show_duration(lag)
            );
            r.error("G007", None, &format!("governor.{key}"), why);
        }
    }
    for guard in &policy.guards {
        if !guard.spec.clear_for.is_zero() && guard.spec.clear_for < guard.spec.lag {
            r.error(
                "G007",
                None,
                &format!("{}: clear_for", guard.spec.name),
                format!("is below the guard's own lag of {}", show_duration(guard.spec.lag)),
            );
        }
        let prometheus = policy.prometheus.as_ref().filter(|_| guard.spec.origin == Origin::Prometheus);
        if prometheus.is_some_and(|p| guard.poll < p.scrape_interval / 4) {
            r.warn(
                "G016",
                None,
                &format!("{}: poll", guard.spec.name),
                "is below a quarter of the scrape interval: it asks for the same number again",
            );
        }
    }
    if words.preflight_max.is_some_and(|p| p < lag) {
        r.error("G007", None, "governor.preflight_max", format!("is below L = {}", show_duration(lag)));
    }
}

/// G010, G017: limits that can never bind.
fn capacity(r: &mut Reader<'_>, policy: &Policy) {
    let timeout = policy.rate.request_timeout.as_secs_f64();
    for (metric, t) in &policy.local {
        let highest = [t.hold, t.back_off, t.abort].into_iter().flatten().fold(0.0, f64::max);
        if metric.is_latency() && highest >= timeout {
            let why = format!(
                "a limit of {highest} s is not below request_timeout ({timeout} s): requests end before they can breach it"
            );
            r.error("G010", None, &format!("local.{}", metric.name()), why);
        }
    }
    let would_need = policy.rate.max_rps.rps() * timeout;
    if let Some(cap) = policy.rate.max_in_flight.filter(|c| *c as f64 >= would_need) {
        r.error(
            "G017",
            None,
            "rate.max_in_flight",
            format!("{cap} can never bind: max_rps x request_timeout is {would_need:.0}"),
        );
    }
}

/// G012, G027, G029 as far as this version enforces their keys.
fn production(r: &mut Reader<'_>, policy: &Policy) {
    let mut need = |id, key: &str, why: &str| r.error(id, None, key, why);
    let queries = policy.guards.iter().filter(|g| g.spec.origin == Origin::Prometheus && g.spec.required);
    if !queries.clone().any(|g| g.spec.thresholds.abort.is_some()) {
        need(
            "G012",
            "guard",
            "a production policy needs at least one required Prometheus guard with an abort limit",
        );
    }
    if !queries.clone().any(|g| g.spec.unit == "ratio" && g.spec.harm) {
        need(
            "G012",
            "guard",
            "a production policy needs a required Prometheus guard on errors (unit = \"ratio\")",
        );
    }
    if policy.local.is_empty() {
        need(
            "G012",
            "local",
            "a production policy needs local guards: they are the only ones that react within a second",
        );
    }
    if policy.kill_file.is_none() {
        need("G012", "stop.kill_file", "a production policy needs a kill file");
    }
    if policy.owner.is_none() {
        need("G012", "owner", "a production policy names who answers for it");
    }
    if policy.routes.allow.is_empty() {
        need("G029", "routes.allow", "an unattended run sends only what the policy allows: list the routes");
    }
    if !policy.allow.has_networks() {
        r.warn("", None, "target.allow", "lists no network, so the address behind the name cannot be checked; add one such as \"203.0.113.0/28\"");
    }
    r.warn("G027", None, "guard", "this version cannot check that a guard watches real users without your own traffic among them; see docs/GOVERNOR.md");
}
