//! From words to a checked policy. Every finding names its line and its key; all are gathered, so that a
//! person mends a policy once and not line by line.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::file::{NOT_ENFORCED, PolicyFile, Word};
use super::target::AllowList;
use super::{
    Finding, GovernorWords, Http2, Policy, Prometheus, RateLimits, Refused, Severity, check_run, guards,
    lint, target,
};
use crate::govern::local_rules::LocalMetric;
use crate::limits::{
    CONNECT_TIMEOUT, GUARDS_MAX, IN_FLIGHT_MAX, RATE_MAX_RPS, REQUEST_TIMEOUT, ROUTES_MAX,
    SESSION_BLOCKED_MAX,
};
use crate::plan::routes::{Pattern, Routes};
use crate::plan::screen::Screen;
use crate::units::{Rate, parse_duration, parse_ratio};

/// Reads words and gathers findings.
pub(super) struct Reader<'a> {
    text: &'a str,
    findings: Vec<Finding>,
}

impl Reader<'_> {
    fn line(&self, at: usize) -> usize {
        self.text.as_bytes().iter().take(at).filter(|b| **b == b'\n').count() + 1
    }

    fn add(&mut self, severity: Severity, id: &'static str, at: Option<usize>, key: &str, why: String) {
        let line = at.map(|at| self.line(at));
        self.findings.push(Finding { severity, id, line, key: key.to_owned(), why });
    }

    pub(super) fn error(&mut self, id: &'static str, at: Option<usize>, key: &str, why: impl Into<String>) {
        self.add(Severity::Error, id, at, key, why.into());
    }

    pub(super) fn warn(&mut self, id: &'static str, at: Option<usize>, key: &str, why: impl Into<String>) {
        self.add(Severity::Warning, id, at, key, why.into());
    }

    /// A duration, or its default; `None` after an error. `"auto"` is the default.
    pub(super) fn duration(&mut self, key: &str, word: Option<&Word>, default: Duration) -> Option<Duration> {
        self.duration_opt(key, word).map(|d| d.unwrap_or(default))
    }

    /// A duration where one is written; the outer `None` after an error.
    pub(super) fn duration_opt(&mut self, key: &str, word: Option<&Word>) -> Option<Option<Duration>> {
        let Some(word) = word.filter(|w| w.get_ref() != "auto") else { return Some(None) };
        match parse_duration(word.get_ref()) {
            Ok(d) => Some(Some(d)),
            Err(e) => {
                self.error("G010", Some(word.span().start), key, e.to_string());
                None
            }
        }
    }
}

/// Refuses keys of later versions by name, wherever they stand.
fn refuse_not_enforced(r: &mut Reader<'_>, table: &DeTable<'_>, prefix: &str) {
    for (key, value) in table {
        let path =
            if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
        if let Some((_, what)) = NOT_ENFORCED.iter().find(|(k, _)| *k == path) {
            r.error(
                "G032",
                Some(key.span().start),
                &path,
                format!("not enforced by this version ({what}); take it out, or use a version that keeps it"),
            );
        }
        match value.get_ref() {
            DeValue::Table(inner) => refuse_not_enforced(r, inner, &path),
            DeValue::Array(items) => {
                for item in items.iter() {
                    if let DeValue::Table(inner) = item.get_ref() {
                        refuse_not_enforced(r, inner, &path);
                    }
                }
            }
            _ => {}
        }
    }
}

/// What the deserializer found, with its line and the key it is about.
fn syntax(r: &mut Reader<'_>, error: &toml::de::Error) {
    let at = error.span().map(|s| s.start);
    let message = error.message().to_owned();
    let key = at
        .and_then(|at| {
            let line = r.text.lines().nth(r.line(at) - 1)?;
            let name = line.trim().split(['=', ' ']).next()?.trim_matches(['[', ']']);
            (!name.is_empty()).then(|| name.to_owned())
        })
        .unwrap_or_else(|| "policy".to_owned());
    r.error("", at, &key, message);
}

/// Parses and checks a policy. `origin` is where it is from, for people.
///
/// # Errors
/// [`Refused`] with every finding.
pub fn parse(text: &str, origin: &str) -> Result<Policy, Refused> {
    let mut r = Reader { text, findings: Vec::new() };
    match DeTable::parse(text) {
        Ok(table) => refuse_not_enforced(&mut r, table.get_ref(), ""),
        Err(e) => {
            syntax(&mut r, &e);
            return Err(Refused(r.findings));
        }
    }
    if !r.findings.is_empty() {
        return Err(Refused(r.findings));
    }
    let file: PolicyFile = match toml::from_str(text) {
        Ok(file) => file,
        Err(e) => {
            syntax(&mut r, &e);
            return Err(Refused(r.findings));
        }
    };
    let policy = build(&mut r, &file, origin);
    if let Some(policy) = &policy {
        lint::lint(&mut r, policy);
    }
    r.findings.sort_by_key(|f| (std::cmp::Reverse(f.severity), f.line));
    match policy {
        Some(policy) if r.findings.iter().all(|f| f.severity == Severity::Warning) => {
            Ok(Policy { warnings: r.findings, ..policy })
        }
        Some(_) | None => Err(Refused(r.findings)),
    }
}

fn build(r: &mut Reader<'_>, file: &PolicyFile, origin: &str) -> Option<Policy> {
    if *file.version.get_ref() != 1 {
        let found = *file.version.get_ref();
        r.error(
            "",
            Some(file.version.span().start),
            "version",
            format!("{found} is not known; this program reads version 1"),
        );
    }
    let allow = allow_list(r, file);
    let hosts = host_set(file);
    let methods = methods(r, file);
    let routes = routes(r, file);
    let http2 = http2(r, file);
    let resolvers = resolvers(r, file);
    let tls = super::tls::tls(r, file);
    let rewrite = super::rewrite::rewrite(r, file);
    let rate = rate(r, file);
    let prometheus = prometheus(r, file);
    let guards = query_guards(r, file, prometheus.as_ref());
    let own = check_run::own_guards(r, file, prometheus.as_ref());
    let window = check_run::window(r, file);
    let budget = check_run::budget(r, file);
    let hold_total = check_run::hold_total(r, file);
    let min_completeness = match file.trace.as_ref().and_then(|t| t.min_completeness.as_ref()) {
        None => Some(None),
        word => number(r, "trace.min_completeness", word, 1.0, 1.0).map(Some),
    };
    let drill_max_age = match &file.drill {
        Some(d) => r.duration("drill.max_age", Some(&d.max_age), Duration::ZERO).map(Some),
        None => Some(None),
    };
    let listen = metrics_listen(r, file);
    let local = local(r, file);
    let governor = governor(r, file);
    if let Some(url) = &file.target.url
        && let Some(allow) = &allow
        && let Err(e) = target::Target::new(url.get_ref(), allow.clone())
    {
        r.error("", Some(url.span().start), "target.url", e.to_string());
    }
    Some(Policy {
        name: file.name.clone(),
        owner: file.owner.clone(),
        runbook: file.runbook.clone(),
        origin: origin.to_owned(),
        hash: super::hash_of(r.text),
        target_url: file.target.url.as_ref().map(|u| u.get_ref().clone()),
        allow: allow?,
        hosts,
        methods: methods?,
        routes: routes?,
        http2: http2?,
        resolvers: resolvers?,
        tls: tls?,
        rewrite: rewrite?,
        rate: RateLimits { hold_total: hold_total?, ..rate? },
        window: window?,
        budget: budget?,
        duration_max: None,
        metrics_listen: listen?,
        min_completeness: min_completeness?,
        drill_max_age: drill_max_age?,
        kill_file: file.stop.kill_file.as_ref().map(|k| k.get_ref().clone()),
        prometheus,
        guards: [guards?, own?].concat(),
        local: local?,
        governor: governor?,
        warnings: Vec::new(),
    })
}

fn metrics_listen(r: &mut Reader<'_>, file: &PolicyFile) -> Option<Option<String>> {
    let Some(word) = file.metrics.as_ref().map(|m| &m.listen) else { return Some(None) };
    if word.get_ref().parse::<core::net::SocketAddr>().is_ok() {
        return Some(Some(word.get_ref().clone()));
    }
    let why = format!("{:?} is not an address such as \"127.0.0.1:9464\"", word.get_ref());
    r.error("", Some(word.span().start), "metrics.listen", why);
    None
}

fn allow_list(r: &mut Reader<'_>, file: &PolicyFile) -> Option<AllowList> {
    let mut fine = true;
    for word in &file.target.allow {
        if let Err(e) = AllowList::parse([word.get_ref().as_str()]) {
            r.error("", Some(word.span().start), "target.allow", e.to_string());
            fine = false;
        }
    }
    fine.then(|| AllowList::parse(file.target.allow.iter().map(|w| w.get_ref().as_str())).ok())?
}

fn http2(r: &mut Reader<'_>, file: &PolicyFile) -> Option<Http2> {
    let Some(word) = &file.target.http2 else { return Some(Http2::default()) };
    match word.get_ref().as_str() {
        "as_recorded" => Some(Http2::AsRecorded),
        "never" => Some(Http2::Never),
        "always" => Some(Http2::Always),
        other => {
            let why = format!("{other:?} is none of \"as_recorded\", \"never\", \"always\"");
            r.error("", Some(word.span().start), "target.http2", why);
            None
        }
    }
}

fn resolvers(r: &mut Reader<'_>, file: &PolicyFile) -> Option<Vec<core::net::SocketAddr>> {
    let parse = |w: &Word| {
        let addr = w.get_ref().parse().ok();
        if addr.is_none() {
            let why = format!("{:?} is not an address such as \"10.0.0.53:53\"", w.get_ref());
            r.error("", Some(w.span().start), "target.resolvers", why);
        }
        addr
    };
    file.target.resolvers.iter().map(parse).collect()
}

/// Recorded hosts: as listed, else the target's own name, else (no target in the policy) every host.
fn host_set(file: &PolicyFile) -> Option<BTreeSet<Vec<u8>>> {
    match &file.target.hosts {
        Some(hosts) if hosts.iter().any(|h| h == "*") => None,
        Some(hosts) => Some(hosts.iter().map(|h| h.to_ascii_lowercase().into_bytes()).collect()),
        None => {
            let url = file.target.url.as_ref()?;
            let (_, host, _) = target::split(url.get_ref())?;
            Some([host.to_ascii_lowercase().into_bytes()].into())
        }
    }
}

fn methods(r: &mut Reader<'_>, file: &PolicyFile) -> Option<BTreeSet<Vec<u8>>> {
    let Some(words) = &file.routes.methods else { return Some(Screen::safe_methods()) };
    let mut fine = true;
    for word in words {
        if word.get_ref().is_empty() || !word.get_ref().bytes().all(|b| b.is_ascii_uppercase() || b == b'-') {
            r.error(
                "",
                Some(word.span().start),
                "routes.methods",
                format!("{:?} is not a method", word.get_ref()),
            );
            fine = false;
        }
    }
    fine.then(|| words.iter().map(|w| w.get_ref().clone().into_bytes()).collect())
}

fn routes(r: &mut Reader<'_>, file: &PolicyFile) -> Option<Routes> {
    let mut fine = true;
    let mut pattern = |r: &mut Reader<'_>, key: &str, word: &Word| {
        let parsed = Pattern::parse(word.get_ref());
        if let Err(e) = &parsed {
            r.error("", Some(word.span().start), key, e.to_string());
            fine = false;
        }
        parsed.ok()
    };
    let t = &file.routes;
    let allow: Vec<Pattern> = t.allow.iter().filter_map(|w| pattern(r, "routes.allow", w)).collect();
    let deny: Vec<Pattern> = t.deny.iter().filter_map(|w| pattern(r, "routes.deny", w)).collect();
    let caps = t.max_rps.iter().filter_map(|(w, n)| Some((pattern(r, "routes.max_rps", w)?, n)));
    let max_rps: Vec<_> = caps.map(|(p, n)| (p, Rate::from_rps_f64(*n.get_ref()))).collect();
    if allow.len() + deny.len() + max_rps.len() > ROUTES_MAX {
        r.error("", None, "routes", format!("more than {ROUTES_MAX} patterns"));
        return None;
    }
    fine.then_some(Routes { allow, deny, max_rps })
}

/// A number within (0, max]; `None` after an error.
fn number(r: &mut Reader<'_>, key: &str, word: Option<&Spanned<f64>>, default: f64, max: f64) -> Option<f64> {
    let Some(word) = word else { return Some(default) };
    let value = *word.get_ref();
    if value.is_finite() && value > 0.0 && value <= max {
        return Some(value);
    }
    r.error("", Some(word.span().start), key, format!("{value} must lie above 0 and at most {max}"));
    None
}

fn rate(r: &mut Reader<'_>, file: &PolicyFile) -> Option<RateLimits> {
    let t = &file.rate;
    let scale_max = crate::limits::SCALE_MAX_MILLI as f64 / 1000.0;
    let max_scale = number(r, "rate.max_scale", t.max_scale.as_ref(), 1.0, scale_max);
    let max_rps = number(r, "rate.max_rps", t.max_rps.as_ref(), 1_000.0, RATE_MAX_RPS as f64);
    let connects =
        number(r, "rate.max_new_connections_per_s", t.max_new_connections_per_s.as_ref(), 50.0, 100_000.0);
    let in_flight = match t.max_in_flight.as_ref().map(|w| (w.span().start, w.get_ref())) {
        None => Some(None),
        Some((_, toml::Value::String(s))) if s == "auto" => Some(None),
        Some((_, toml::Value::Integer(n))) if (1..=IN_FLIGHT_MAX as i64).contains(n) => {
            Some(Some(n.unsigned_abs()))
        }
        Some((at, other)) => {
            r.error(
                "",
                Some(at),
                "rate.max_in_flight",
                format!("{other} must be \"auto\" or a number from 1 to {IN_FLIGHT_MAX}"),
            );
            None
        }
    };
    let request_timeout = r.duration("rate.request_timeout", t.request_timeout.as_ref(), REQUEST_TIMEOUT);
    let connect_timeout = r.duration("rate.connect_timeout", t.connect_timeout.as_ref(), CONNECT_TIMEOUT);
    let blocked = r.duration("rate.session_blocked_max", t.session_blocked_max.as_ref(), SESSION_BLOCKED_MAX);
    let mbit = match &t.max_mbit_per_s {
        None => None,
        Some(_) => Some(number(r, "rate.max_mbit_per_s", t.max_mbit_per_s.as_ref(), 0.0, 1_000_000.0)?),
    };
    Some(RateLimits {
        max_mbit_per_s: mbit,
        hold_total: None,
        in_flight_ceiling: IN_FLIGHT_MAX,
        max_scale_milli: (max_scale? * 1000.0) as u64,
        max_rps: Rate::from_rps_f64(max_rps?),
        max_new_connections: Rate::from_rps_f64(connects?),
        max_in_flight: in_flight?,
        request_timeout: request_timeout?,
        connect_timeout: connect_timeout?,
        session_blocked_max: blocked?,
    })
}

fn prometheus(r: &mut Reader<'_>, file: &PolicyFile) -> Option<Prometheus> {
    let t = file.prometheus.as_ref()?;
    let url = t.url.get_ref().trim_end_matches('/').to_owned();
    if target::split(&url).is_none() {
        r.error(
            "",
            Some(t.url.span().start),
            "prometheus.url",
            format!("{url:?} is not a URL such as \"http://prometheus:9090\" (no path, no user)"),
        );
        return None;
    }
    let default = Duration::from_secs(15);
    let scrape_interval = r.duration("prometheus.scrape_interval", t.scrape_interval.as_ref(), default)?;
    if scrape_interval.is_zero() {
        r.error(
            "G010",
            t.scrape_interval.as_ref().map(|w| w.span().start),
            "prometheus.scrape_interval",
            "must be above 0s",
        );
        return None;
    }
    let expect_min = match &t.expect_min_rps {
        None => None,
        Some(w) if file.visibility.is_none() => {
            let why = "is measured on the visibility query; add [visibility] requests";
            r.error("", Some(w.span().start), "prometheus.expect_min_rps", why);
            return None;
        }
        Some(w) => Some(Rate::from_rps_f64(number(r, "prometheus.expect_min_rps", Some(w), 0.0, 1e9)?)),
    };
    let token_file = t.token_file.as_ref().map(|w| w.get_ref().clone());
    let plain = url.starts_with("http:")
        && !target::split(&url).is_some_and(|(_, h, _)| target::is_loopback_host(&h));
    if let Some(word) = t.token_file.as_ref().filter(|_| plain) {
        let why = "a token over plain http can be read by anyone on the way; use https";
        r.error("G024", Some(word.span().start), "prometheus.token_file", why);
        return None;
    }
    Some(Prometheus { url, scrape_interval, expect_min, token_file })
}

fn query_guards(
    r: &mut Reader<'_>,
    file: &PolicyFile,
    prometheus: Option<&Prometheus>,
) -> Option<Vec<super::QueryGuard>> {
    if file.guard.len() > GUARDS_MAX {
        r.error("G033", None, "guard", format!("more than {GUARDS_MAX} guards"));
        return None;
    }
    let one =
        |g: &Spanned<super::file::GuardTable>| guards::query(r, g.span().start, g.get_ref(), prometheus);
    let all: Vec<Option<_>> = file.guard.iter().map(one).collect();
    let mut names = BTreeSet::new();
    for guard in all.iter().flatten() {
        if !names.insert(&guard.spec.name) {
            r.error("", None, &guard.spec.name, "two guards have this name");
        }
    }
    all.into_iter().collect()
}

fn local(
    r: &mut Reader<'_>,
    file: &PolicyFile,
) -> Option<BTreeMap<LocalMetric, crate::govern::guard::Thresholds>> {
    let mut out = BTreeMap::new();
    let mut fine = true;
    for (word, table) in &file.local {
        let metric = LocalMetric::SETTABLE.into_iter().find(|m| m.name() == word.get_ref());
        let Some(metric) = metric else {
            let known = LocalMetric::SETTABLE.map(LocalMetric::name).join(", ");
            r.error(
                "",
                Some(word.span().start),
                &format!("local.{}", word.get_ref()),
                format!("unknown; known are {known}"),
            );
            fine = false;
            continue;
        };
        match guards::local(r, metric, word.span().start, table) {
            Some(t) => drop(out.insert(metric, t)),
            None => fine = false,
        }
    }
    fine.then_some(out)
}

fn file_allows_loopback_only(file: &PolicyFile) -> bool {
    let entries = file.target.allow.iter().map(|w| w.get_ref().as_str());
    AllowList::parse(entries).is_ok_and(|list| list.is_loopback_only())
}

fn governor(r: &mut Reader<'_>, file: &PolicyFile) -> Option<GovernorWords> {
    let t = &file.governor;
    let probe_rate = match t.probe_rate.as_ref().filter(|w| w.get_ref() != "auto") {
        None => Some(None),
        Some(w) => match Rate::parse(w.get_ref()) {
            Ok(rate) if rate > Rate::per_sec(10) && !file_allows_loopback_only(file) => {
                r.error(
                    "G018",
                    Some(w.span().start),
                    "governor.probe_rate",
                    "must be at most 10/s outside this machine",
                );
                None
            }
            Ok(rate) if rate > Rate::ZERO => Some(Some(rate)),
            Ok(_) | Err(_) => {
                r.error(
                    "",
                    Some(w.span().start),
                    "governor.probe_rate",
                    format!("{:?} is not a rate such as \"10/s\"", w.get_ref()),
                );
                None
            }
        },
    };
    let step = match t.step.as_ref().filter(|w| w.get_ref() != "auto") {
        None => Some(None),
        Some(w) => {
            match parse_ratio(w.get_ref()) {
                Ok(f) if f > 0.0 && f <= 0.25 => Some(Some((f * 1e6) as u32)),
                Ok(_) => {
                    r.error("G018", Some(w.span().start), "governor.step", "must lie above 0 and at most 25%: larger steps overshoot before anything can be seen");
                    None
                }
                Err(e) => {
                    r.error("G010", Some(w.span().start), "governor.step", e.to_string());
                    None
                }
            }
        }
    };
    let max_backoffs = match &t.max_backoffs {
        None => Some(None),
        Some(w) if (0..=10).contains(w.get_ref()) => Some(Some(u32::try_from(*w.get_ref()).unwrap_or(0))),
        Some(w) => {
            r.error("", Some(w.span().start), "governor.max_backoffs", "must lie between 0 and 10");
            None
        }
    };
    let mut d = |key: &str, word: &Option<Word>| r.duration_opt(&format!("governor.{key}"), word.as_ref());
    Some(GovernorWords {
        step_hold: d("step_hold", &t.step_hold)?,
        cooldown: d("cooldown", &t.cooldown)?,
        clear_for: d("clear_for", &t.clear_for)?,
        hold_max: d("hold_max", &t.hold_max)?,
        backoff_window: d("backoff_window", &t.backoff_window)?,
        no_data_abort: d("no_data_abort", &t.no_data_abort)?,
        preflight_max: d("preflight_max", &t.preflight_max)?,
        drain_timeout: d("drain_timeout", &t.drain_timeout)?,
        aftercare: d("aftercare", &t.aftercare)?,
        probe_rate: probe_rate?,
        step_ppm: step?,
        max_backoffs: max_backoffs?,
    })
}
