//! `report.json`: the contract for machines. Its schema is `docs/report.schema.json`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::cause::{cause_words, evidence, reading_words, shortfall};
use super::route::RouteJson;
use crate::govern::guard::{GuardSpec, View};
use crate::govern::state::Terminal;
use crate::measure::fidelity::Fidelity;
use crate::measure::latency::Latency;
use crate::measure::saturation::Seconds;
use crate::measure::tally::{Counts, Tally};
use crate::measure::timeline::Row;
use crate::plan::stream::PlanCounts;

/// Share of the due requests that must have been sent for a completed run to pass.
const SENT_SHARE_MIN: f64 = 0.95;

/// Counts of requests. `due = sent + shed`, `sent = written + failed_before_write`,
/// `written = ok + unexpected + error + timeout + cancelled`.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct CountsJson {
    /// Requests of the trace in the chosen part, times their clones; null where it has no meaning (lead-in).
    pub recorded: Option<u64>,
    /// Dropped when planning, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Due.
    pub due: u64,
    /// Cut when due, by reason.
    pub shed: BTreeMap<String, u64>,
    /// Handed to a connection under a permit.
    pub sent: u64,
    /// Head handed wholly to the kernel: what the server's log can count.
    pub written: u64,
    /// Sent, but never written.
    pub failed_before_write: u64,
    /// Whole answers of the recorded status class.
    pub ok: u64,
    /// Whole answers of another class, as `from→to`.
    pub unexpected: BTreeMap<String, u64>,
    /// No usable answer, by kind.
    pub error: BTreeMap<String, u64>,
    /// Timed out.
    pub timeout: u64,
    /// Given up at the end of the run.
    pub cancelled: u64,
}

impl CountsJson {
    fn of(c: &Counts) -> Self {
        Self {
            due: c.due,
            shed: c.shed.iter().map(|(r, n)| (r.name().to_owned(), *n)).collect(),
            sent: c.sent,
            written: c.written,
            failed_before_write: c.failed_before_write,
            ok: c.ok,
            unexpected: c.unexpected.clone(),
            error: c.error.iter().map(|(k, n)| (k.name().to_owned(), *n)).collect(),
            timeout: c.timeout,
            cancelled: c.cancelled,
            ..Self::default()
        }
    }
}

/// One latency distribution. `censored` requests are missing from it or were cut off: then percentiles are
/// lower bounds.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct LatencyJson {
    /// Latencies counted.
    pub count: u64,
    /// Requests whose end was not seen.
    pub censored: u64,
    /// Mean.
    pub mean_ms: Option<f64>,
    /// Median.
    pub p50_ms: Option<f64>,
    /// 90th percentile.
    pub p90_ms: Option<f64>,
    /// 95th percentile.
    pub p95_ms: Option<f64>,
    /// 99th percentile.
    pub p99_ms: Option<f64>,
    /// 99.9th percentile.
    pub p999_ms: Option<f64>,
    /// Largest.
    pub max_ms: Option<f64>,
}

impl LatencyJson {
    /// The numbers of a histogram.
    #[must_use]
    pub fn of(l: &Latency) -> Self {
        let round = |v: Option<f64>| v.map(|ms| (ms * 1e4).round() / 1e4);
        let q = |q| round(l.quantile_ms(q));
        Self {
            count: l.count(),
            censored: l.censored(),
            mean_ms: round(l.mean_ms()),
            p50_ms: q(0.5),
            p90_ms: q(0.9),
            p95_ms: q(0.95),
            p99_ms: q(0.99),
            p999_ms: q(0.999),
            max_ms: round(l.max_ms()),
        }
    }
}

/// How much of the recorded traffic the run can stand for.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct CoverageJson {
    /// Planned over recorded.
    pub share: f64,
    /// Requests of the trace in the chosen part, times their clones.
    pub recorded: u64,
    /// Of these, planned.
    pub planned: u64,
    /// That is the whole chosen part; false where a trace too long to be read before the run was not reached to its end:
    /// then all three are of the part that was.
    pub whole: bool,
}

/// One guard.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct GuardJson {
    /// Name.
    pub name: String,
    /// `local`, `prometheus` or `scrape`.
    pub source: String,
    /// Unit of its values.
    pub unit: String,
    /// Stop growing past this.
    pub hold: Option<f64>,
    /// Halve past this.
    pub back_off: Option<f64>,
    /// Stop for good past this.
    pub abort: Option<f64>,
    /// Worst value seen.
    pub worst: Option<f64>,
    /// Level at the end.
    pub last_level: String,
    /// What it said last, in words.
    pub last_reading: String,
    /// Longest lag by construction, seconds.
    pub lag_s: f64,
}

/// Something the governor did.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct EventJson {
    /// Seconds since the start of the run.
    pub t: f64,
    /// What, in words.
    pub what: String,
}

/// Connections.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ConnectionsJson {
    /// Opened.
    pub opened: u64,
    /// Opened and speaking HTTP/2.
    pub http2: u64,
    /// Opened with an earlier TLS session taken up (a short handshake).
    pub tls_resumed: u64,
    /// Opened again because the target had closed them.
    pub reopened: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Why they failed.
    pub errors: BTreeMap<String, u64>,
}

/// What was asked for.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct RunJson {
    /// Run id.
    pub id: String,
    /// Start, RFC 3339.
    pub started_at: String,
    /// Seconds from start to end.
    pub duration_s: f64,
    /// Trace file name.
    pub trace: String,
    /// Warning about the trace, if it is cut off.
    pub trace_warning: Option<String>,
    /// Target.
    pub target: String,
    /// Policy name.
    pub policy: String,
    /// Hash of the policy's text.
    pub policy_hash: String,
    /// Scale in sessions.
    pub scale: f64,
    /// Scale in requests that this came to.
    pub effective_scale: f64,
    /// Speed.
    pub speed: f64,
    /// Steady rate, where one was asked for.
    pub rate_rps: Option<f64>,
    /// Planned peak second, requests per second.
    pub peak_rps: f64,
    /// The trace was too long to be read before the run: `effective_scale` and `peak_rps` are estimates.
    pub estimated: bool,
    /// Whose connections they were: `recorded` or `pool:N`.
    pub connections: String,
    /// Local addresses that they came from; empty left it to the kernel.
    pub source_ips: Vec<String>,
    /// Seed.
    pub seed: u64,
    /// Version of the program.
    pub version: String,
    /// How stamps were made, where the log cut them.
    pub time_note: Option<String>,
    /// What the site's limits lowered.
    pub site_limits: Vec<String>,
}

/// The whole report.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Report {
    /// `completed`, `completed_capped`, `aborted`, `stopped` or `refused`.
    pub state: String,
    /// Why, in one line; none when completed.
    pub cause: Option<String>,
    /// Exit code.
    pub exit_code: u8,
    /// What was asked for.
    pub run: RunJson,
    /// Both phases together; `recorded` and `dropped` are the plan's.
    pub counts: CountsJson,
    /// Whether the three identities hold: planning, due, written.
    pub identities: BTreeMap<String, bool>,
    /// The same counts per phase.
    pub phases: BTreeMap<String, CountsJson>,
    /// Latencies of the measure phase (of the lead-in, when nothing was measured: see `latency_phase`).
    pub latency: BTreeMap<String, LatencyJson>,
    /// The phase that `latency`, `status` and `routes` are about.
    pub latency_phase: String,
    /// Answers by status, same phase.
    pub status: BTreeMap<String, u64>,
    /// Connections of both phases.
    pub connections: ConnectionsJson,
    /// Whether the run was what it claims to be.
    pub fidelity: Fidelity,
    /// How much of the recording it stands for.
    pub coverage: CoverageJson,
    /// Guards.
    pub guards: Vec<GuardJson>,
    /// What the governor did.
    pub events: Vec<EventJson>,
    /// What the guards did after the load.
    pub aftercare: AftercareJson,
    /// One row a second.
    pub timeline: Vec<Row>,
    /// Per route, same phase as `latency`.
    pub routes: Vec<RouteJson>,
}

/// The guards after the load.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct AftercareJson {
    /// How long they were watched, seconds.
    pub watched_s: f64,
    /// Seconds after the last request until all were back where they had been before the load, and stayed so;
    /// null when they were not, or when nobody watched.
    pub back_after_s: Option<f64>,
}

/// Everything a report is made of.
#[derive(Debug)]
pub struct Facts<'a> {
    /// What was asked for.
    pub run: RunJson,
    /// How it ended.
    pub terminal: Terminal,
    /// Guards with their worst value and last view.
    pub guards: Vec<(&'a GuardSpec, Option<f64>, Option<View>)>,
    /// How the generator itself was.
    pub own: Seconds,
    /// What the governor did.
    pub events: Vec<EventJson>,
    /// The guards after the load.
    pub aftercare: AftercareJson,
    /// One row a second.
    pub timeline: Vec<Row>,
    /// Tally of the lead-in.
    pub lead_in: &'a Tally,
    /// Tally of the measure phase.
    pub measure: &'a Tally,
    /// What was planned.
    pub plan: &'a PlanCounts,
    /// That is all there was; else it is what was reached of a trace too long to be known before.
    pub plan_whole: bool,
    /// Names of routes in the lead-in and in the measure phase.
    pub route_names: (&'a [String], &'a [String]),
}

fn guard_json((spec, worst, view): &(&GuardSpec, Option<f64>, Option<View>)) -> GuardJson {
    let word = |v: &dyn Fn() -> Option<String>| v().unwrap_or_else(|| "none".to_owned());
    let level = || {
        let value = serde_json::to_value(view.as_ref()?.level).ok()?;
        value.as_str().map(str::to_owned)
    };
    let source = serde_json::to_value(spec.origin).ok().and_then(|v| v.as_str().map(str::to_owned));
    GuardJson {
        name: spec.name.clone(),
        source: source.unwrap_or_default(),
        unit: spec.unit.clone(),
        hold: spec.thresholds.hold,
        back_off: spec.thresholds.back_off,
        abort: spec.thresholds.abort,
        worst: *worst,
        last_level: word(&level),
        last_reading: view.as_ref().map_or_else(|| "no reading".to_owned(), |v| reading_words(v.reading)),
        lag_s: spec.lag.as_secs_f64(),
    }
}

/// Makes the report.
#[must_use]
pub fn report(f: &Facts<'_>) -> Report {
    let mut all = Tally::default();
    all.merge(f.lead_in);
    all.merge(f.measure);
    let plan = f.plan;
    let dropped: BTreeMap<String, u64> =
        plan.dropped.iter().map(|(r, n)| (r.name().to_owned(), *n)).collect();
    let planned = |c: &Counts| CountsJson {
        recorded: Some(plan.scaled),
        dropped: dropped.clone(),
        ..CountsJson::of(c)
    };
    let counts = planned(&all.counts);
    let measured = f.measure.counts.due > 0;
    let (main, names) = if measured { (f.measure, f.route_names.1) } else { (f.lead_in, f.route_names.0) };
    let fidelity = crate::measure::fidelity::judge(f.measure, f.route_names.1, &f.own);
    let exit_code = match f.terminal {
        Terminal::Completed
            if fidelity.verdict == "invalid" || fidelity.sent_share.is_some_and(|s| s < SENT_SHARE_MIN) =>
        {
            5
        }
        terminal => terminal.exit_code(),
    };
    let specs: Vec<&GuardSpec> = f.guards.iter().map(|(s, ..)| *s).collect();
    let whole = matches!(f.terminal, Terminal::Completed | Terminal::CompletedCapped)
        && f.run.rate_rps.is_none()
        && f.plan_whole;
    let identities = [
        ("due in the measure phase = planned", !whole || f.measure.counts.due == plan.due),
        ("recorded_x_scale = due + dropped", plan.adds_up()),
        ("due = sent + shed", f.lead_in.counts.due_adds_up() && f.measure.counts.due_adds_up()),
        ("sent = written + failed_before_write", all.counts.sent_adds_up()),
        ("written = ok + unexpected + error + timeout + cancelled", all.counts.written_adds_up()),
    ];
    let name = |i: usize| names.get(i).map_or("other", String::as_str);
    Report {
        state: f.terminal.name().to_owned(),
        cause: f
            .terminal
            .cause()
            .map(|c| cause_words(c, &specs) + &evidence(c, &f.guards))
            .or_else(|| shortfall(f.terminal, exit_code, &fidelity)),
        exit_code,
        run: f.run.clone(),
        counts,
        identities: identities.into_iter().map(|(n, ok)| (n.to_owned(), ok)).collect(),
        phases: [
            ("lead_in".to_owned(), CountsJson::of(&f.lead_in.counts)),
            ("measure".to_owned(), planned(&f.measure.counts)),
        ]
        .into_iter()
        .collect(),
        latency: main.latency.rows().into_iter().map(|(n, l)| (n.to_owned(), LatencyJson::of(l))).collect(),
        latency_phase: if measured { "measure" } else { "lead_in" }.to_owned(),
        status: main.status.iter().map(|(s, n)| (s.to_string(), *n)).collect(),
        connections: ConnectionsJson {
            opened: all.connections,
            http2: all.http2,
            tls_resumed: all.tls_resumed,
            reopened: all.reopened,
            failed: all.connect_failures,
            errors: all.connect_errors.clone(),
        },
        fidelity,
        coverage: CoverageJson {
            share: if plan.scaled == 0 { 0.0 } else { plan.due as f64 / plan.scaled as f64 },
            recorded: plan.scaled,
            planned: plan.due,
            whole: f.plan_whole,
        },
        guards: f.guards.iter().map(guard_json).collect(),
        events: f.events.clone(),
        aftercare: f.aftercare.clone(),
        timeline: f.timeline.clone(),
        routes: main
            .routes
            .iter()
            .enumerate()
            .filter(|(_, r)| r.due > 0)
            .map(|(i, r)| RouteJson::of(name(i), r))
            .collect(),
    }
}

/// The JSON Schema of the report, generated.
#[must_use]
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Report).to_value()
}
