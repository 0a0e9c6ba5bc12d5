//! The policy: what a run may do, from the user's words to checked values.
//!
//! `PolicyFile` mirrors the words; `Policy` is all the program sees. A key that this version does not
//! enforce is refused, never ignored: a limit that somebody wrote down and nobody keeps is worse than none.
//! Pure: the text is an argument.

pub mod backtest;
pub mod baseline;
pub mod check;
mod check_run;
pub mod file;
pub mod guards;
mod limit_words;
pub mod lint;
pub mod observed;
pub mod packs;
pub mod promql;
pub mod rewrite;
pub mod schema;
pub mod settings;
pub mod site;
pub mod sources;
pub mod target;
pub mod tls;
pub mod window;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use crate::govern::guard::{GuardSpec, Thresholds};
use crate::govern::local_rules::LocalMetric;
use crate::plan::routes::Routes;
use crate::units::Rate;

/// How grave a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The policy works, but look at this.
    Warning,
    /// The policy is refused.
    Error,
}

/// Something to say about a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How grave.
    pub severity: Severity,
    /// Lint id, or empty.
    pub id: &'static str,
    /// Line in the file, from 1, where one is to blame.
    pub line: Option<usize>,
    /// Key or guard.
    pub key: String,
    /// What is wrong and what to write instead.
    pub why: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.severity == Severity::Error { "error" } else { "warning" };
        let id = if self.id.is_empty() { String::new() } else { format!(" {}", self.id) };
        let line = self.line.map_or_else(String::new, |l| format!("line {l}: "));
        write!(f, "{word}{id}: {line}{}: {}", self.key, self.why)
    }
}

/// Why a policy was refused: all findings, errors among them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", show(.0))]
pub struct Refused(pub Vec<Finding>);

fn show(findings: &[Finding]) -> String {
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Where a query guard asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuardQuery {
    /// Prometheus.
    Prometheus(promql::Query),
    /// A metrics page that we read ourselves.
    Scrape(guards::ScrapeQuery),
    /// Failing users over all users, with our own traffic subtracted.
    Subtract {
        /// Rate of failing requests.
        errors: promql::Query,
        /// Rate of all requests.
        requests: promql::Query,
    },
    /// Alerts that are firing or pending, and the proof that alerting works.
    Alerts(sources::AlertQuery),
    /// The target's own rate of requests: proof of visibility, and amplification.
    Visibility(promql::Query),
    /// Rate of organic users: by its own query, or the visibility query less ours.
    Organic {
        /// The query.
        query: promql::Query,
        /// Whether ours must be subtracted.
        subtract: bool,
    },
    /// Whether this is the expected Prometheus.
    Labels(BTreeMap<String, String>),
    /// Whether another run hits the same target.
    OtherRuns,
    /// A person's kill switch as a query.
    StopQuery(String),
}

/// Which limit of a guard hangs on a baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelativeLevel {
    /// `hold_*`.
    Hold,
    /// `back_off_*`.
    BackOff,
}

/// Where a baseline comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BaselineFrom {
    /// The last 20 minutes before the run.
    Before,
    /// The same time of the week, this many weeks back (the median of as many weeks).
    Weeks(u8),
}

/// A limit relative to a baseline: `clamp(baseline * ratio, floor, cap)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BaselineRule {
    /// Which limit.
    pub level: RelativeLevel,
    /// Where the baseline comes from.
    pub from: BaselineFrom,
    /// Factor.
    pub ratio: f64,
    /// Never below.
    pub floor: f64,
    /// Never above.
    pub cap: f64,
    /// Refuse when the value now is more than this many times the baseline.
    pub abnormal_ratio: f64,
}

/// A guard that asks somebody else.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryGuard {
    /// Thresholds and confirmation.
    pub spec: GuardSpec,
    /// What to ask.
    pub query: GuardQuery,
    /// How often.
    pub poll: Duration,
    /// Deadline of one question.
    pub timeout: Duration,
    /// Limits relative to a baseline.
    pub baselines: Vec<BaselineRule>,
    /// Whether it looks at users alone.
    pub organic: bool,
}

/// Prometheus as the policy names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prometheus {
    /// Base URL.
    pub url: String,
    /// Interval of its scrapes.
    pub scrape_interval: Duration,
    /// The visibility query must show at least this before the start.
    pub expect_min: Option<Rate>,
    /// File with a bearer token.
    pub token_file: Option<String>,
}

/// Which connections speak HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Http2 {
    /// Those recorded as HTTP/2, over TLS, where the server offers it.
    #[default]
    AsRecorded,
    /// None.
    Never,
    /// All: over TLS where the server offers it, without TLS by prior knowledge (RFC 9113, section 3.3).
    Always,
}

impl Http2 {
    /// Whether a connection tries it.
    #[must_use]
    pub fn tries(self, recorded: bool, https: bool) -> bool {
        match self {
            Self::AsRecorded => recorded && https,
            Self::Never => false,
            Self::Always => true,
        }
    }
}

/// Users and ours together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldTotal {
    /// This many times the recorded peak, in thousandths.
    OfPeakMilli(u64),
    /// A rate.
    Rate(Rate),
}

/// Absolute amounts and when their count begins again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetRule {
    /// Limits.
    pub limits: crate::govern::budget::BudgetLimits,
    /// Period, for policies without a window.
    pub period: Duration,
}

/// Limits on rates and numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct RateLimits {
    /// Highest scale, thousandths.
    pub max_scale_milli: u64,
    /// Highest request rate.
    pub max_rps: Rate,
    /// Highest rate of new connections.
    pub max_new_connections: Rate,
    /// Most requests in flight; `None` is derived from the plan.
    pub max_in_flight: Option<u64>,
    /// Most requests in flight whatever is derived.
    pub in_flight_ceiling: u64,
    /// Longest time of one request.
    pub request_timeout: Duration,
    /// Longest time to connect.
    pub connect_timeout: Duration,
    /// Longest wait for the previous answer on a connection.
    pub session_blocked_max: Duration,
    /// Most Mbit/s of answers received.
    pub max_mbit_per_s: Option<f64>,
    /// Users and ours together.
    pub hold_total: Option<HoldTotal>,
}

/// Settings of the governor as the policy gives them; `None` is derived from the lag of the guards.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GovernorWords {
    /// Rate of the probe.
    pub probe_rate: Option<Rate>,
    /// Growth per step, share in parts per million.
    pub step_ppm: Option<u32>,
    /// Shortest time between steps.
    pub step_hold: Option<Duration>,
    /// Shortest time in back-off.
    pub cooldown: Option<Duration>,
    /// Health needed before a guard is clean.
    pub clear_for: Option<Duration>,
    /// Longest hold.
    pub hold_max: Option<Duration>,
    /// Back-offs allowed.
    pub max_backoffs: Option<u32>,
    /// Two back-offs within this end the run.
    pub backoff_window: Option<Duration>,
    /// Longest blindness.
    pub no_data_abort: Option<Duration>,
    /// Longest preflight.
    pub preflight_max: Option<Duration>,
    /// Time for answers after the last request.
    pub drain_timeout: Option<Duration>,
    /// How long the guards are watched after the load.
    pub aftercare: Option<Duration>,
}

/// A checked policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// Who answers for it.
    pub owner: Option<String>,
    /// What to do when it fires, for the target's people.
    pub runbook: Option<String>,
    /// Where it is from, for people.
    pub origin: String,
    /// CRC-32C of its text, in hex, for the report.
    pub hash: String,
    /// Target URL, where the policy names one.
    pub target_url: Option<String>,
    /// Whom a run may hit.
    pub allow: target::AllowList,
    /// Recorded hosts that stand for the target; `None` is every host.
    pub hosts: Option<BTreeSet<Vec<u8>>>,
    /// Methods that may be sent.
    pub methods: BTreeSet<Vec<u8>>,
    /// Routes that may be sent.
    pub routes: Routes,
    /// Which connections speak HTTP/2.
    pub http2: Http2,
    /// Name servers asked instead of the machine's own.
    pub resolvers: Vec<core::net::SocketAddr>,
    /// Certificates and handshakes.
    pub tls: tls::TlsWords,
    /// What is changed in requests.
    pub rewrite: rewrite::RewriteWords,
    /// Limits.
    pub rate: RateLimits,
    /// When a run may happen.
    pub window: Option<window::Window>,
    /// Absolute amounts.
    pub budget: Option<BudgetRule>,
    /// Longest run.
    pub duration_max: Option<Duration>,
    /// Address of our own metrics page.
    pub metrics_listen: Option<String>,
    /// A trace whose capture saw more than it could record, below this share, is not sent.
    pub min_completeness: Option<f64>,
    /// A passed drill must not be older.
    pub drill_max_age: Option<Duration>,
    /// Kill file.
    pub kill_file: Option<String>,
    /// Prometheus.
    pub prometheus: Option<Prometheus>,
    /// Guards that ask somebody else.
    pub guards: Vec<QueryGuard>,
    /// Thresholds of local guards.
    pub local: BTreeMap<LocalMetric, Thresholds>,
    /// Governor.
    pub governor: GovernorWords,
    /// Warnings.
    pub warnings: Vec<Finding>,
}

/// How the origin of a policy begins that is part of the program.
pub const BUILT_IN: &str = "built in";

/// The hash of a policy's text as reports show it: CRC-32C in hex. It tells versions apart; it proves nothing against
/// somebody who wants two texts to look alike.
#[must_use]
pub fn hash_of(text: &str) -> String {
    format!("{:08x}", crc32c::crc32c(text.as_bytes()))
}

impl Policy {
    /// Whether every target that this policy could allow is this machine. A policy is judged by its
    /// allow-list, not by the URL it happens to name: `--target` may choose any entry of the list.
    #[must_use]
    pub fn is_loopback_only(&self) -> bool {
        self.allow.is_loopback_only()
    }
}

#[cfg(test)]
mod edge_tests;
#[cfg(test)]
mod tests;
