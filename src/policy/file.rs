//! The policy file as it is written: the user's words with their places, nothing checked.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

/// A word with its place in the file.
pub type Word = Spanned<String>;

/// A threshold: text such as `"1%"` or `"800ms"`, a plain number, or a table (refused by this version).
pub type Limit = Spanned<toml::Value>;

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyFile {
    /// Version of the format: 1.
    pub version: Spanned<i64>,
    /// Name.
    pub name: String,
    /// Who answers for it.
    pub owner: Option<String>,
    /// Run-book URL, sent in the User-Agent suffix.
    pub runbook: Option<String>,
    /// Whom a run may hit.
    #[serde(default)]
    pub target: TargetTable,
    /// What may be sent.
    #[serde(default)]
    pub routes: RoutesTable,
    /// Limits.
    #[serde(default)]
    pub rate: RateTable,
    /// Kill switches.
    #[serde(default)]
    pub stop: StopTable,
    /// Prometheus.
    pub prometheus: Option<PrometheusTable>,
    /// Guards that ask somebody else.
    #[serde(default)]
    pub guard: Vec<Spanned<GuardTable>>,
    /// Guards on what we see ourselves.
    #[serde(default)]
    pub local: BTreeMap<Word, LocalTable>,
    /// Governor.
    #[serde(default)]
    pub governor: GovernorTable,
}

/// `[target]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetTable {
    /// URL of the load balancer.
    pub url: Option<Word>,
    /// `host:port` and networks that a run may hit.
    #[serde(default)]
    pub allow: Vec<Word>,
    /// Recorded hosts that stand for the target; `"*"` is every host.
    pub hosts: Option<Vec<String>>,
}

/// `[routes]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoutesTable {
    /// Methods.
    pub methods: Option<Vec<Word>>,
    /// Only these.
    #[serde(default)]
    pub allow: Vec<Word>,
    /// Never these.
    #[serde(default)]
    pub deny: Vec<Word>,
    /// Requests per second per route.
    #[serde(default)]
    pub max_rps: BTreeMap<Word, Spanned<f64>>,
}

/// `[rate]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateTable {
    /// Highest `--scale`.
    pub max_scale: Option<Spanned<f64>>,
    /// Highest request rate.
    pub max_rps: Option<Spanned<f64>>,
    /// Highest rate of new connections.
    pub max_new_connections_per_s: Option<Spanned<f64>>,
    /// Most requests in flight, or `"auto"`.
    pub max_in_flight: Option<Limit>,
    /// Longest time of one request.
    pub request_timeout: Option<Word>,
    /// Longest time to connect.
    pub connect_timeout: Option<Word>,
    /// Longest wait for the previous answer on a connection.
    pub session_blocked_max: Option<Word>,
}

/// `[stop]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopTable {
    /// While this file exists nothing is sent.
    pub kill_file: Option<Word>,
}

/// `[prometheus]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrometheusTable {
    /// Base URL.
    pub url: Word,
    /// Interval of its scrapes.
    pub scrape_interval: Option<Word>,
}

/// `[[guard]]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuardTable {
    /// Name in reports.
    pub name: Option<Word>,
    /// PromQL query.
    pub expr: Option<Word>,
    /// URL of a metrics page.
    pub scrape: Option<Word>,
    /// Series on that page.
    pub metric: Option<Word>,
    /// Series to divide by.
    pub per: Option<Word>,
    /// `value` or `rate`.
    pub read: Option<Word>,
    /// `sum` or `max` over several series.
    pub reduce: Option<Word>,
    /// `ratio`, `seconds`, or any other word for plain numbers.
    pub unit: Option<Word>,
    /// Stop growing above.
    pub hold_above: Option<Limit>,
    /// Halve above.
    pub back_off_above: Option<Limit>,
    /// Stop for good above.
    pub abort_above: Option<Limit>,
    /// Stop growing below.
    pub hold_below: Option<Limit>,
    /// Halve below.
    pub back_off_below: Option<Limit>,
    /// Stop for good below.
    pub abort_below: Option<Limit>,
    /// Clean again on the good side of this.
    pub clear: Option<Limit>,
    /// Confirmation such as `"2 of 3"`.
    pub confirm: Option<Word>,
    /// Time between questions.
    pub poll: Option<Word>,
    /// Deadline of one question.
    pub timeout: Option<Word>,
    /// Good for this long before it is clean.
    pub clear_for: Option<Word>,
    /// Whether the run needs this guard.
    pub required: Option<bool>,
    /// Whether blindness of this guard is treated like harm to users.
    pub user_harm: Option<bool>,
}

/// One entry of `[local]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalTable {
    /// Stop growing above.
    pub hold_above: Option<Limit>,
    /// Halve above.
    pub back_off_above: Option<Limit>,
    /// Stop for good above.
    pub abort_above: Option<Limit>,
}

/// `[governor]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GovernorTable {
    /// Rate of the probe, or `"auto"`.
    pub probe_rate: Option<Word>,
    /// Growth per step.
    pub step: Option<Word>,
    /// Shortest time between steps.
    pub step_hold: Option<Word>,
    /// Shortest time in back-off.
    pub cooldown: Option<Word>,
    /// Health needed before a guard is clean.
    pub clear_for: Option<Word>,
    /// Longest hold.
    pub hold_max: Option<Word>,
    /// Back-offs allowed.
    pub max_backoffs: Option<Spanned<i64>>,
    /// Two back-offs within this end the run.
    pub backoff_window: Option<Word>,
    /// Longest blindness.
    pub no_data_abort: Option<Word>,
    /// Longest preflight.
    pub preflight_max: Option<Word>,
    /// Time for answers after the last request.
    pub drain_timeout: Option<Word>,
}

/// Keys that later versions enforce and this one does not, with what they are for. Refused by name.
pub const NOT_ENFORCED: [(&str, &str); 17] = [
    ("window", "low-traffic windows"),
    ("budget", "budgets that survive restarts"),
    ("visibility", "proof that the guards see our traffic"),
    ("notify", "notices"),
    ("credentials", "credentials for replayed requests"),
    ("clone_keys", "mapping of ids in clones"),
    ("aftercare", "watching after the load"),
    ("prometheus.expect_labels", "proof that this is the right Prometheus"),
    ("prometheus.expect_min_rps", "proof that this is the right Prometheus"),
    ("prometheus.token_file", "authentication to Prometheus"),
    ("guard.alerts", "guards on alerts"),
    ("guard.liveness", "guards on alerts"),
    ("guard.min_samples", "sample counts behind a query"),
    ("guard.need_traffic", "sample counts behind a query"),
    ("guard.freshness", "hand-written freshness queries"),
    ("governor.aftercare", "watching after the load"),
    ("governor.recover_cap", "a recovery cap other than 0.8"),
];
