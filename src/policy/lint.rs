//! Lints over a whole policy: what is readable but would not keep production safe.

use super::check::Reader;
use super::{GuardQuery, Policy, QueryGuard, settings, sources};
use crate::govern::guard::{Origin, Side};
use crate::units::show_duration;

/// Looks at the policy as a whole. Production rules apply unless its target is loopback.
pub(super) fn lint(r: &mut Reader<'_>, policy: &Policy) {
    times(r, policy);
    secrets(r, policy);
    capacity(r, policy);
    queries(r, policy);
    governor(r, policy);
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
    let qps: f64 = policy.guards.iter().map(questions_per_second).sum();
    if qps > 5.0 {
        let why =
            format!("guards and their freshness ask Prometheus {qps:.1} times a second; keep it below 5");
        r.warn("G033", None, "guard", why);
    }
}

/// G035: a secret goes over TLS, or stays on this machine.
fn secrets(r: &mut Reader<'_>, policy: &Policy) {
    let plain = policy.target_url.as_ref().is_some_and(|u| u.starts_with("http:"));
    if policy.rewrite.has_secrets() && plain && !policy.is_loopback_only() {
        let why = "credentials over plain http can be read by anyone on the way; use an https target";
        r.error("G035", None, "rewrite", why);
    }
}

/// Questions to Prometheus a second, those on freshness and samples among them.
fn questions_per_second(g: &QueryGuard) -> f64 {
    let each = match &g.query {
        GuardQuery::Scrape(_) => 0,
        GuardQuery::Prometheus(q) => 1 + q.freshness.len() + usize::from(g.spec.min_samples > 0),
        GuardQuery::Visibility(q) | GuardQuery::Organic { query: q, .. } => 1 + q.freshness.len(),
        GuardQuery::Subtract { requests, .. } => 2 + requests.freshness.len(),
        GuardQuery::Alerts(_) => 3,
        GuardQuery::Labels(_) | GuardQuery::OtherRuns | GuardQuery::StopQuery(_) => 1,
    };
    each as f64 / g.poll.as_secs_f64()
}

/// G010, G013, G015, G021: traps in single guards that need more than their query to be seen.
fn queries(r: &mut Reader<'_>, policy: &Policy) {
    for g in &policy.guards {
        let GuardQuery::Prometheus(q) = &g.query else { continue };
        let name = &g.spec.name;
        if q.shifted && !g.baselines.is_empty() {
            let why =
                "`offset` or `@` in a query with a baseline would be shifted twice; take it out of expr";
            r.error("G013", None, &format!("{name}: expr"), why);
        }
        if g.spec.unit == "seconds" && q.metrics.iter().any(|m| m.contains("_milliseconds")) {
            let why = "the metric counts milliseconds and the unit says seconds; divide by 1000 in expr";
            r.error("G010", None, &format!("{name}: unit"), why);
        }
        if !q.metrics.is_empty() && q.metrics.iter().all(|m| m.starts_with("replay_")) {
            let why = "looks at our own metrics only; nobody looks at users then";
            r.warn("G015", None, &format!("{name}: expr"), why);
        }
        let t = &g.spec.thresholds;
        let highest = [t.hold, t.back_off, t.abort].into_iter().flatten().fold(0.0, f64::max);
        let timeout = policy.rate.request_timeout.as_secs_f64();
        if g.spec.unit == "seconds"
            && t.side == Side::Above
            && highest >= timeout
            && q.text.contains("duration")
        {
            let why = format!(
                "a latency limit of {highest} s is not below request_timeout ({timeout} s): we give up first"
            );
            r.warn("G010", None, &format!("{name}: limits"), why);
        }
    }
    let errors = |g: &&QueryGuard| g.spec.unit == "ratio" && g.spec.origin == Origin::Prometheus;
    for g in policy.guards.iter().filter(errors).filter(|g| !g.spec.required) {
        if !policy.guards.iter().filter(errors).any(|o| o.spec.required) {
            let why = "an optional guard may not be the only one of its kind: without data nobody would look";
            r.error("G021", None, &g.spec.name, why);
        }
    }
    let aborts = |g: &&QueryGuard| g.spec.thresholds.abort.is_some() && !is_own(g);
    let alerts = |g: &QueryGuard| matches!(g.query, GuardQuery::Alerts(_));
    let mut all = policy.guards.iter().filter(aborts).peekable();
    if all.peek().is_some() && all.all(alerts) {
        let why = "the only guards with an abort limit are alerts, and these are late by their evaluation and `for`";
        r.warn("G025", None, "guard", why);
    }
}

/// Whether the program added the guard by itself.
fn is_own(g: &QueryGuard) -> bool {
    match &g.query {
        GuardQuery::Visibility(_)
        | GuardQuery::Organic { .. }
        | GuardQuery::Labels(_)
        | GuardQuery::OtherRuns
        | GuardQuery::StopQuery(_) => true,
        GuardQuery::Prometheus(_)
        | GuardQuery::Scrape(_)
        | GuardQuery::Subtract { .. }
        | GuardQuery::Alerts(_) => false,
    }
}

/// G018, G019: a governor that could never arrive, or never leave.
fn governor(r: &mut Reader<'_>, policy: &Policy) {
    if let (Some(window), true) =
        (&policy.window, policy.governor.step_ppm.is_some() || policy.governor.step_hold.is_some())
    {
        let at_full = settings::govern(policy, policy.rate.max_rps, settings::LeadIn::Auto);
        let climb = settings::time_to_full(&at_full);
        if climb > window.duration {
            let why = format!(
                "the climb takes {} and the window is open for {}: full scale is never reached",
                show_duration(climb),
                show_duration(window.duration)
            );
            r.warn("G018", None, "governor.step", why);
        }
    }
    if let Some(probe) = policy.governor.probe_rate.filter(|p| *p >= policy.rate.max_rps) {
        r.error(
            "G019",
            None,
            "governor.probe_rate",
            format!("{probe} is not below max_rps: the probe would be the whole load"),
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
    if let Some(aftercare) = words.aftercare.filter(|a| *a < lag && !policy.is_loopback_only()) {
        let why = format!(
            "{} is below L = {}: harm would show after nobody looks",
            show_duration(aftercare),
            show_duration(lag)
        );
        r.error("G007", None, "governor.aftercare", why);
    }
    if policy.drill_max_age.is_some_and(|d| d.is_zero()) {
        r.error("G010", None, "drill.max_age", "must be above 0, such as \"30d\"");
    }
    if policy.guards.iter().any(|g| !g.baselines.is_empty()) && policy.metrics_listen.is_none() {
        let why = "without our own metrics page (scraped by that Prometheus) this run becomes part of later baselines; add [metrics] listen";
        r.warn("G015", None, "metrics.listen", why);
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

/// G012, G020, G026, G027, G029: what a run outside this machine must have.
fn production(r: &mut Reader<'_>, policy: &Policy) {
    let required = || policy.guards.iter().filter(|g| g.spec.required && !is_own(g));
    let queries = || required().filter(|g| g.spec.origin == Origin::Prometheus);
    let errors =
        |g: &QueryGuard| g.spec.unit == "ratio" && g.spec.harm && g.spec.thresholds.side == Side::Above;
    let latency = |g: &QueryGuard| {
        let text = match &g.query {
            GuardQuery::Prometheus(q) => q.text.as_str(),
            _ => "",
        };
        g.spec.unit == "seconds" || text.contains("_bucket") || text.contains("histogram_")
    };
    let names = [sources::VISIBILITY];
    let visible = policy.guards.iter().any(|g| names.contains(&g.spec.name.as_str()));
    let budgeted = policy.budget.is_some_and(|b| b.limits.failed_requests.is_some());
    let table = [
        (
            queries().any(|g| g.spec.thresholds.abort.is_some()),
            "G012",
            "guard",
            "a production policy needs at least one required Prometheus guard with an abort limit",
        ),
        (
            queries().any(errors),
            "G012",
            "guard",
            "a production policy needs a required Prometheus guard on errors (unit = \"ratio\", *_above)",
        ),
        (
            queries().any(latency),
            "G012",
            "guard",
            "a production policy needs a required Prometheus guard on latency (a histogram, or unit = \"seconds\")",
        ),
        (
            !policy.local.is_empty(),
            "G012",
            "local",
            "a production policy needs local guards: they are the only ones that react within a second",
        ),
        (
            visible,
            "G012",
            "visibility.requests",
            "a production policy proves that its guards see what we send: add [visibility] requests",
        ),
        (
            policy.metrics_listen.is_some(),
            "G012",
            "metrics.listen",
            "a production policy exports that it runs, so that runs from other hosts stay away and baselines leave it out: add [metrics] listen and have it scraped",
        ),
        (policy.kill_file.is_some(), "G012", "stop.kill_file", "a production policy needs a kill file"),
        (policy.owner.is_some(), "G012", "owner", "a production policy names who answers for it"),
        (
            budgeted,
            "G026",
            "budget.failed_requests",
            "a production policy says how many failed requests it may cause: add [budget] failed_requests",
        ),
        (
            required().any(|g| g.organic),
            "G027",
            "guard",
            "no required guard looks at users without our traffic among them; leave it out by a label (replay=\"\"), or give errors and requests to have ours subtracted",
        ),
        (
            !policy.routes.allow.is_empty(),
            "G029",
            "routes.allow",
            "an unattended run sends only what the policy allows: list the routes",
        ),
    ];
    for (fine, id, key, why) in table {
        if !fine {
            r.error(id, None, key, why);
        }
    }
    let words = &policy.governor;
    let longest = [("no_data_abort", words.no_data_abort, 120), ("hold_max", words.hold_max, 900)];
    for (key, value, most) in longest {
        if let Some(value) = value.filter(|v| v.as_secs() > most) {
            let why = format!(
                "{} is above {most} s: bad news would stand that long at full rate",
                show_duration(value)
            );
            r.error("G019", None, &format!("governor.{key}"), why);
        }
    }
    if words.backoff_window.is_some_and(|w| w.as_secs() < 60) {
        r.error("G019", None, "governor.backoff_window", "is below 1m: flapping would never be seen as such");
    }
    let floor = policy.guards.iter().any(|g| g.spec.thresholds.side == Side::Below && !is_own(g));
    if !floor {
        r.warn("G027", None, "guard", "no floor on business, such as checkouts per minute with back_off_below; errors do not show everything");
    }
    if !policy.allow.has_networks() {
        r.warn("", None, "target.allow", "lists no network, so the address behind the name cannot be checked; add one such as \"203.0.113.0/28\"");
    }
    if policy.window.is_none() {
        r.warn("G020", None, "window", "no window: the run may happen at any hour");
    }
}

#[cfg(test)]
#[path = "lint_tests.rs"]
mod tests;
