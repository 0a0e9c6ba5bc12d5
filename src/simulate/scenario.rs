//! What is simulated, as words in a file.

use std::time::Duration;

use serde::Deserialize;

use crate::govern::guard::{GuardSpec, Origin, Side, Thresholds};
use crate::govern::local_rules::LocalMetric;
use crate::govern::settings::{OrganicRule, Settings};
use crate::units::{Rate, Share, parse_duration, parse_ratio};

/// The file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScenarioFile {
    version: u32,
    name: String,
    #[serde(default = "half_hour")]
    duration: String,
    /// Rate that a share of one stands for.
    target: String,
    #[serde(default = "one")]
    seed: u64,
    plant: PlantFile,
    #[serde(default)]
    users: UsersFile,
    #[serde(default)]
    guards: GuardsFile,
    #[serde(default)]
    governor: GovernorFile,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlantFile {
    capacity: String,
    #[serde(default = "service")]
    service_time: String,
    #[serde(default = "timeout")]
    timeout: String,
    /// Times at which the capacity changes, and to what.
    #[serde(default)]
    changes: Vec<Change>,
}

/// A rate that changes at a time.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    at: String,
    to: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct UsersFile {
    rate: Option<String>,
    #[serde(default)]
    changes: Vec<Change>,
    /// Share of users that fail whatever the load, and from when.
    failing: Option<String>,
    failing_from: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct GuardsFile {
    local: bool,
    prometheus: bool,
    /// Errors of users alone instead of all requests.
    organic: bool,
    scrape: String,
    range: String,
    poll: String,
    back_off: String,
    abort: String,
    /// Local back-off limit of the 95th percentile of latency.
    p95: String,
    /// Prometheus cannot be asked from then on.
    blind_from: Option<String>,
}

impl Default for GuardsFile {
    fn default() -> Self {
        let s = str::to_owned;
        Self {
            local: true,
            prometheus: true,
            organic: false,
            scrape: s("15s"),
            range: s("1m"),
            poll: s("5s"),
            back_off: s("1%"),
            abort: s("20%"),
            p95: s("200ms"),
            blind_from: None,
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct GovernorFile {
    step: Option<String>,
    step_hold: Option<String>,
    max_backoffs: Option<u32>,
    backoff_window: Option<String>,
    hold_total: Option<String>,
    lead_in: Option<bool>,
}

fn half_hour() -> String {
    "30m".to_owned()
}

fn service() -> String {
    "20ms".to_owned()
}

fn timeout() -> String {
    "2s".to_owned()
}

fn one() -> u64 {
    1
}

/// A checked scenario.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Name.
    pub name: String,
    /// Length of the simulation.
    pub duration: Duration,
    /// Seed.
    pub seed: u64,
    /// Capacity over time: from when, requests a second.
    pub capacity: Vec<(f64, f64)>,
    /// Time of one request without a queue, seconds.
    pub service_s: f64,
    /// Time after which a request fails, seconds.
    pub timeout_s: f64,
    /// Users over time: from when, requests a second.
    pub users: Vec<(f64, f64)>,
    /// Share of users that fail whatever the load, from when.
    pub failing: (f64, f64),
    /// Prometheus as the guard sees it; none without that guard.
    pub prometheus: Option<PrometheusModel>,
    /// Local guards with their metrics, first in the settings.
    pub local: Vec<LocalMetric>,
    /// The governor.
    pub settings: Settings,
}

/// How late and how coarse a Prometheus is.
#[derive(Debug, Clone, Copy)]
pub struct PrometheusModel {
    /// Seconds between scrapes.
    pub scrape_s: f64,
    /// Seconds of its rates.
    pub range_s: f64,
    /// Seconds between polls.
    pub poll_s: f64,
    /// Errors of users alone.
    pub organic: bool,
    /// Time from which it does not answer.
    pub blind_from_s: f64,
    /// Index of the error guard, and of the guard on the rate of users, in the settings.
    pub guards: (usize, Option<usize>),
}

fn secs(key: &str, text: &str) -> Result<f64, String> {
    parse_duration(text).map(|d| d.as_secs_f64()).map_err(|e| format!("{key}: {e}"))
}

fn rate(key: &str, text: &str) -> Result<f64, String> {
    Rate::parse(text).map(Rate::rps).map_err(|e| format!("{key}: {e}"))
}

fn ratio(key: &str, text: &str) -> Result<f64, String> {
    parse_ratio(text).map_err(|e| format!("{key}: {e}"))
}

fn over_time(key: &str, first: f64, changes: &[Change]) -> Result<Vec<(f64, f64)>, String> {
    let mut out = vec![(0.0, first)];
    for c in changes {
        out.push((secs(key, &c.at)?, rate(key, &c.to)?));
    }
    if !out.is_sorted_by(|a, b| a.0 <= b.0) {
        return Err(format!("{key}: changes are not in the order of their times"));
    }
    Ok(out)
}

fn prometheus_guard(
    name: &str,
    limits: (Option<f64>, Option<f64>),
    g: &GuardsFile,
) -> Result<GuardSpec, String> {
    let (scrape, range, poll) =
        (secs("guards.scrape", &g.scrape)?, secs("guards.range", &g.range)?, secs("guards.poll", &g.poll)?);
    let (back_off, abort) = limits;
    Ok(GuardSpec {
        name: name.to_owned(),
        origin: Origin::Prometheus,
        unit: "ratio".to_owned(),
        thresholds: Thresholds {
            side: Side::Above,
            hold: None,
            back_off,
            abort,
            clear: back_off.unwrap_or(f64::MAX) * 0.8,
        },
        required: true,
        harm: true,
        min_samples: 0,
        need_traffic: false,
        neutral_blocks: true,
        confirm: 2,
        confirm_of: 3,
        max_age: Duration::from_secs_f64(poll * 2.0 + 2.0),
        clear_for: Duration::from_secs_f64((scrape + range + poll + 2.0).max(30.0)),
        lag: Duration::from_secs_f64(scrape + range + poll + 2.0),
    })
}

fn local_guards(p95_s: f64, timeout_s: f64, clear_for: Duration) -> Vec<(LocalMetric, GuardSpec)> {
    let limit = |back_off: f64, abort: Option<f64>| Thresholds {
        side: Side::Above,
        hold: None,
        back_off: Some(back_off),
        abort,
        clear: back_off * 0.8,
    };
    let settable =
        [(LocalMetric::ErrorRatio, limit(0.05, Some(0.5))), (LocalMetric::P95, limit(p95_s, None))];
    let fixed = LocalMetric::ALWAYS
        .into_iter()
        .filter_map(|m| Some((m, m.fixed(Duration::from_secs_f64(timeout_s))?)));
    settable.into_iter().chain(fixed).map(|(m, t)| (m, m.spec(t, clear_for))).collect()
}

impl Scenario {
    /// Parses a scenario file.
    ///
    /// # Errors
    /// In words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let f: ScenarioFile = toml::from_str(text).map_err(|e| e.to_string())?;
        if f.version != 1 {
            return Err(format!("version {} is not known; this program reads version 1", f.version));
        }
        let duration = parse_duration(&f.duration).map_err(|e| format!("duration: {e}"))?;
        if duration > Duration::from_secs(12 * 3600) {
            return Err("duration: at most 12h".to_owned());
        }
        let timeout_s = secs("plant.timeout", &f.plant.timeout)?;
        let users = rate("users.rate", f.users.rate.as_deref().unwrap_or("0/s"))?;
        let failing = ratio("users.failing", f.users.failing.as_deref().unwrap_or("0%"))?;
        let (settings, local, prometheus) = build(&f, timeout_s)?;
        Ok(Self {
            duration,
            seed: f.seed,
            capacity: over_time(
                "plant.changes",
                rate("plant.capacity", &f.plant.capacity)?,
                &f.plant.changes,
            )?,
            service_s: secs("plant.service_time", &f.plant.service_time)?,
            timeout_s,
            users: over_time("users.changes", users, &f.users.changes)?,
            failing: (
                f.users.failing_from.as_deref().map_or(Ok(0.0), |t| secs("users.failing_from", t))?,
                failing,
            ),
            prometheus,
            local,
            settings,
            name: f.name,
        })
    }
}

type Parts = (Settings, Vec<LocalMetric>, Option<PrometheusModel>);

fn build(f: &ScenarioFile, timeout_s: f64) -> Result<Parts, String> {
    let target = Rate::parse(&f.target).map_err(|e| format!("target: {e}"))?;
    let g = &f.guards;
    let mut asked = Vec::new();
    if g.prometheus {
        let limits = (Some(ratio("guards.back_off", &g.back_off)?), Some(ratio("guards.abort", &g.abort)?));
        asked.push(prometheus_guard("errors (Prometheus)", limits, g)?);
    }
    let total = f
        .governor
        .hold_total
        .as_deref()
        .map(|t| Rate::parse(t).map_err(|e| format!("governor.hold_total: {e}")))
        .transpose()?;
    if total.is_some() {
        let mut users = prometheus_guard("users (Prometheus)", (None, None), g)?;
        users.unit = "requests/s".to_owned();
        asked.push(users);
    }
    let lag = asked.iter().map(|s| s.lag).max().unwrap_or_default().max(Duration::from_millis(1_200));
    let clear_for = lag.max(Duration::from_secs(30));
    let local =
        if g.local { local_guards(secs("guards.p95", &g.p95)?, timeout_s, clear_for) } else { Vec::new() };
    let (metrics, mut guards): (Vec<_>, Vec<_>) = local.into_iter().unzip();
    let first = guards.len();
    let index = |name: &str| asked.iter().position(|s| s.name == name).map(|i| first + i);
    let (errors, users) = (index("errors (Prometheus)"), index("users (Prometheus)"));
    let model = match (errors, users) {
        (None, None) => None,
        _ => Some(PrometheusModel {
            scrape_s: secs("guards.scrape", &g.scrape)?,
            range_s: secs("guards.range", &g.range)?,
            poll_s: secs("guards.poll", &g.poll)?,
            organic: g.organic,
            blind_from_s: g.blind_from.as_deref().map_or(Ok(f64::MAX), |t| secs("guards.blind_from", t))?,
            guards: (errors.unwrap_or(usize::MAX), users),
        }),
    };
    guards.extend(asked);
    let organic = users.map(|guard| OrganicRule { guard, hold_total: total, expected_below: None });
    Ok((settings(f, target, lag, clear_for, organic, guards)?, metrics, model))
}

fn settings(
    f: &ScenarioFile,
    target: Rate,
    lag: Duration,
    cooldown: Duration,
    organic: Option<OrganicRule>,
    guards: Vec<GuardSpec>,
) -> Result<Settings, String> {
    let g = &f.governor;
    let time = |key: &str, v: &Option<String>, default: Duration| match v {
        Some(t) => parse_duration(t).map_err(|e| format!("governor.{key}: {e}")),
        None => Ok(default),
    };
    let step = ratio("governor.step", g.step.as_deref().unwrap_or("10%"))?;
    let probe = Rate { mrps: (target.mrps / 100).clamp(1_000, 10_000).min(target.mrps) };
    let probe_share = Share::from_f64(probe.mrps as f64 / target.mrps.max(1) as f64);
    Ok(Settings {
        target,
        share_max: Share::ONE,
        probe_share,
        floor: probe_share.min(Share::from_f64(0.01)).halved(),
        step: Share::from_f64(step),
        step_hold: time("step_hold", &g.step_hold, lag)?,
        cooldown,
        hold_max: Duration::from_secs(300),
        preflight_clean: Duration::from_secs(1),
        preflight_max: Duration::from_secs(300),
        probe_max: Duration::from_secs(300),
        max_backoffs: g.max_backoffs.unwrap_or(3),
        backoff_window: time("backoff_window", &g.backoff_window, Duration::from_secs(600))?,
        no_data_abort: Duration::from_secs(30),
        lag,
        drain_timeout: Duration::from_secs(15),
        abort_grace: Duration::from_secs(5),
        lead_in: g.lead_in.unwrap_or(true),
        lead_in_max: Duration::from_secs(12 * 3600),
        aftercare: Duration::ZERO,
        measure_len: Duration::ZERO,
        window_end: None,
        visible_within: lag * 2,
        organic,
        guards,
    })
}
