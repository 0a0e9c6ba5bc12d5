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
    /// What is changed in requests.
    pub rewrite: Option<RewriteTable>,
    /// Certificates and handshakes.
    pub tls: Option<TlsTable>,
    /// Limits.
    #[serde(default)]
    pub rate: RateTable,
    /// When a run may happen.
    pub window: Option<Spanned<WindowTable>>,
    /// Absolute amounts over all runs of a period.
    pub budget: Option<Spanned<BudgetTable>>,
    /// Proof that the guards see our traffic.
    pub visibility: Option<VisibilityTable>,
    /// Our own metrics.
    pub metrics: Option<MetricsTable>,
    /// What a trace must be.
    pub trace: Option<TraceTable>,
    /// What must have been tried before.
    pub drill: Option<DrillTable>,
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
    /// `as_recorded`, `never` or `always`.
    pub http2: Option<Word>,
    /// Name servers asked instead of the machine's own, such as `10.0.0.53:53`.
    #[serde(default)]
    pub resolvers: Vec<Word>,
}

/// `[tls]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsTable {
    /// PEM file of the authorities trusted instead of the platform's.
    pub ca_file: Option<Word>,
    /// PEM file of our certificate chain.
    pub cert_file: Option<Word>,
    /// PEM file of its key.
    pub key_file: Option<Word>,
    /// Name in the handshake, and that the certificate must have.
    pub server_name: Option<Word>,
    /// `1.2` or `1.3`.
    pub min_version: Option<Word>,
    /// `per_session` or `none`.
    pub resumption: Option<Word>,
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

/// `[rewrite]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewriteTable {
    /// Headers set on every request.
    #[serde(default)]
    pub set: BTreeMap<Word, String>,
    /// Headers taken out.
    #[serde(default)]
    pub remove: Vec<Word>,
    /// `drop`, `from_answers` or `optional`.
    pub recorded_cookies: Option<Word>,
    /// `drop` or `synthesise`.
    pub bodies: Option<Word>,
    /// Accounts that sessions log in with.
    pub accounts: Option<AccountsTable>,
    /// Credentials from files or the environment.
    #[serde(default)]
    pub auth: Vec<Spanned<AuthTable>>,
    /// Values taken from answers.
    #[serde(default)]
    pub take: Vec<Spanned<TakeTable>>,
    /// Values put into requests.
    #[serde(default)]
    pub put: Vec<Spanned<PutTable>>,
    /// `same` or `shift`.
    pub clone_keys: Option<Word>,
    /// Ids and dates in recorded targets.
    #[serde(default)]
    pub shift: Vec<Spanned<ShiftTable>>,
}

/// `[[rewrite.shift]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShiftTable {
    /// Route whose requests are changed.
    pub on: Word,
    /// Segment of the path, from 1.
    pub segment: Option<Spanned<u64>>,
    /// Key of the query.
    pub query: Option<Word>,
    /// Ids of clones.
    pub ids: Option<Spanned<IdsTable>>,
    /// The days since the recording are added.
    pub days: Option<Spanned<bool>>,
}

/// `ids` of `[[rewrite.shift]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdsTable {
    /// Distance between clones.
    pub by: u64,
    /// Smallest id there is.
    pub min: u64,
    /// Largest id there is.
    pub max: u64,
}

/// `[rewrite.accounts]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountsTable {
    /// CSV with a header line, or JSON lines.
    pub file: Word,
    /// Columns that are used.
    #[serde(default)]
    pub columns: Vec<Word>,
}

/// `[[rewrite.auth]]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthTable {
    /// Only on these routes.
    pub on: Option<Word>,
    /// Header; `Authorization` by default.
    pub header: Option<Word>,
    /// What stands before the secret.
    pub prefix: Option<String>,
    /// File with the secret.
    pub file: Option<Word>,
    /// Variable with the secret.
    pub env: Option<Word>,
}

/// `[[rewrite.take]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TakeTable {
    /// Name of the value.
    pub name: Word,
    /// Route whose answers give it.
    pub from: Word,
    /// Header that is the value.
    pub header: Option<Word>,
    /// Cookie that is the value.
    pub cookie: Option<Word>,
    /// JSON pointer to the value.
    pub json: Option<Word>,
    /// Regular expression whose group is the value.
    pub regex: Option<Word>,
}

/// `[[rewrite.put]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PutTable {
    /// Route whose requests get it.
    pub into: Word,
    /// Path and query.
    pub target: Option<Word>,
    /// Headers.
    #[serde(default)]
    pub headers: BTreeMap<Word, String>,
    /// Body.
    pub body: Option<Word>,
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
    /// Most Mbit/s of answers received.
    pub max_mbit_per_s: Option<Spanned<f64>>,
    /// Users and ours together: `2x` of the recorded peak, or a rate such as `1800/s`.
    pub hold_total: Option<Word>,
}

/// `[window]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowTable {
    /// Time zone by its IANA name.
    pub timezone: Word,
    /// Start in that zone: `Sun 03:00`, `daily 03:00` or `2026-11-29 03:00`.
    pub start: Word,
    /// Length, not an end time: clock changes must not stretch it.
    pub duration: Word,
    /// More organic users than this at the start refuse the run.
    pub expect_organic_below: Option<Word>,
}

/// `[budget]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetTable {
    /// Most requests.
    pub requests: Option<Spanned<i64>>,
    /// Most requests that fail.
    pub failed_requests: Option<Spanned<i64>>,
    /// Most bytes of answers, such as `200GiB`.
    pub bytes_received: Option<Word>,
    /// Most connections.
    pub connections: Option<Spanned<i64>>,
    /// Time after which the count begins again, for policies without a window.
    pub period: Option<Word>,
}

/// `[visibility]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisibilityTable {
    /// PromQL: the target's own rate of all requests.
    pub requests: Word,
    /// PromQL: the rate of unmarked requests alone.
    pub organic: Option<Word>,
}

/// `[metrics]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsTable {
    /// Address of our own metrics page.
    pub listen: Word,
}

/// `[trace]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceTable {
    /// Share of the requests that its capture saw, above 0 and at most 1.
    pub min_completeness: Option<Spanned<f64>>,
}

/// `[drill]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrillTable {
    /// A passed drill of this policy must not be older.
    pub max_age: Word,
}

/// `[stop]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopTable {
    /// While this file exists nothing is sent.
    pub kill_file: Option<Word>,
    /// PromQL: any value above zero stops the run.
    pub query: Option<Word>,
}

/// `[prometheus]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrometheusTable {
    /// Base URL.
    pub url: Word,
    /// Interval of its scrapes.
    pub scrape_interval: Option<Word>,
    /// External labels that tell the right Prometheus from others.
    #[serde(default)]
    pub expect_labels: BTreeMap<String, String>,
    /// The visibility query must show at least this rate before the start.
    pub expect_min_rps: Option<Spanned<f64>>,
    /// File with a bearer token.
    pub token_file: Option<Word>,
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
    /// PromQL: rate of failing requests, ours among them; with `requests`.
    pub errors: Option<Word>,
    /// PromQL: rate of all requests, ours among them; ours are subtracted from both.
    pub requests: Option<Word>,
    /// Label matchers of alerts that stop a run.
    pub alerts: Option<Word>,
    /// PromQL that is there and above zero as long as alerting works.
    pub liveness: Option<Word>,
    /// Requests behind the number below which it says nothing.
    pub min_samples: Option<Spanned<i64>>,
    /// PromQL: requests behind the number, where that cannot be told from `expr`.
    pub samples: Option<Word>,
    /// Too few samples are no data instead of neutral.
    pub need_traffic: Option<bool>,
    /// Whether it looks at users alone, without our traffic.
    pub organic: Option<bool>,
    /// `value` or `rate`.
    pub read: Option<Word>,
    /// `sum`, `max`, `min` or `avg` over several series.
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
    /// How long the guards are watched after the load.
    pub aftercare: Option<Word>,
}

/// A limit relative to a baseline.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaselineTable {
    /// `before` (the last 20 minutes) or `offset 1w`, `offset 2w`, `offset 3w`.
    pub baseline: String,
    /// Baseline times this is the limit.
    pub ratio: f64,
    /// The limit is never below this.
    pub floor: toml::Value,
    /// The limit is never above this.
    pub cap: toml::Value,
    /// The run is refused when the value now is more than this many times its baseline.
    pub abnormal_ratio: Option<f64>,
}

/// Keys that later versions enforce and this one does not, with what they are for. Refused by name.
pub const NOT_ENFORCED: [(&str, &str); 3] = [
    ("notify", "notices"),
    ("guard.freshness", "hand-written freshness queries"),
    ("governor.recover_cap", "a recovery cap other than 0.8"),
];
