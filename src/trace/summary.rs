//! What a trace holds, in numbers: `replay trace info`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::event::{EventKind, Provenance, TraceEvent};
use super::ledger::{Item, Ledger};
use super::meta::{Source, TraceMeta, place};
use super::reader::End;
use crate::units::{NANOS_PER_SEC, WallTime};

/// Numbers of a trace, gathered event by event.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Requests.
    pub requests: u64,
    /// Connections opened.
    pub opens: u64,
    sessions: std::collections::BTreeSet<u64>,
    methods: BTreeMap<String, u64>,
    statuses: BTreeMap<String, u64>,
    provenance: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    first_ns: Option<u64>,
    last_ns: u64,
    needs_credentials: u64,
    redacted: u64,
    per_second: BTreeMap<u64, u64>,
}

impl Summary {
    /// Takes one event.
    pub fn add(&mut self, event: &TraceEvent) {
        let request = match &event.kind {
            EventKind::Open(_) => {
                self.opens += 1;
                return;
            }
            EventKind::Close(_) => return,
            EventKind::Request(r) => r,
        };
        self.requests += 1;
        self.sessions.insert(event.session.ordinal);
        self.first_ns.get_or_insert(event.at.0);
        self.last_ns = self.last_ns.max(event.at.0);
        *self.per_second.entry(event.at.0 / NANOS_PER_SEC).or_default() += 1;
        *self.methods.entry(String::from_utf8_lossy(&request.shape.method).into_owned()).or_default() += 1;
        let status = request.status.value.map_or_else(|| "absent".to_owned(), |s| s.to_string());
        *self.statuses.entry(status).or_default() += 1;
        self.needs_credentials += u64::from(request.shape.credentials.any());
        self.redacted += u64::from(request.shape.target_redacted && !request.shape.credentials.any());
        let facts: [(&'static str, Provenance); 7] = [
            ("arrival", request.arrival),
            ("connection", request.connection),
            ("body_len", request.body_len.provenance),
            ("status", request.status.provenance),
            ("response_len", request.response_len.provenance),
            ("duration", request.duration_ns.provenance),
            ("cache", request.cache.provenance),
        ];
        for (fact, provenance) in facts {
            *self.provenance.entry(fact).or_default().entry(provenance.name()).or_default() += 1;
        }
    }

    /// Number of sessions with at least one request.
    #[must_use]
    pub fn sessions(&self) -> u64 {
        self.sessions.len() as u64
    }

    /// Time from the first request to the last, in seconds.
    #[must_use]
    pub fn duration_s(&self) -> f64 {
        self.first_ns.map_or(0.0, |f| (self.last_ns - f) as f64 / NANOS_PER_SEC as f64)
    }

    /// Share of the requests that can be sent without credentials and as recorded.
    #[must_use]
    pub fn coverage(&self) -> f64 {
        let left = self.requests - self.needs_credentials - self.redacted;
        if self.requests == 0 { 0.0 } else { left as f64 / self.requests as f64 }
    }

    /// The JSON of `replay trace info --json` (contract: `docs/TRACE_FORMAT.md`).
    #[must_use]
    pub fn json(&self, meta: &TraceMeta, end: &End, bytes: u64) -> Value {
        let at = |ns: Option<u64>| ns.map(|ns| WallTime(meta.started_at.0.saturating_add(ns)).rfc3339());
        let per_request = (self.requests > 0).then(|| bytes as f64 / self.requests as f64);
        let source = |s: &Source| json!({"name": s.name, "format": s.format});
        let (ledger, first, completeness) = match end {
            End::Whole { ledger, .. } => {
                let (share, more_may_hide) = ledger.completeness(self.requests);
                (
                    ledger_json(ledger),
                    first_json(ledger, &meta.sources),
                    json!({"share": share, "more_may_hide": more_may_hide}),
                )
            }
            End::Cut { .. } => (Value::Null, Value::Null, Value::Null),
        };
        json!({
            "requests": self.requests,
            "sessions": self.sessions(),
            "connections_opened": self.opens,
            "duration_s": self.duration_s(),
            "first": at(self.first_ns),
            "last": at(self.first_ns.map(|_| self.last_ns)),
            "peak_rps": self.per_second.values().max(),
            "bytes": bytes,
            "bytes_per_request": per_request,
            "methods": self.methods,
            "status": self.statuses,
            "sources": meta.sources.iter().map(source).collect::<Vec<_>>(),
            "provenance": self.provenance,
            "time_resolution_s": meta.resolution_ns as f64 / NANOS_PER_SEC as f64,
            "spread": meta.spread().map(|(way, _)| way.name()),
            "spread_seed": meta.spread_seed,
            "redaction": meta.redaction,
            "coverage": {
                "share": self.coverage(),
                "needs_credentials": self.needs_credentials,
                "redacted": self.redacted,
            },
            "made_by": meta.made_by,
            "whole": matches!(end, End::Whole { .. }),
            "warning": end.warning(),
            "completeness": completeness,
            "ledger": ledger,
            "ledger_first": first,
        })
    }
}

/// Where the first case of each reason was met, in words.
#[must_use]
pub fn first_json(ledger: &Ledger, sources: &[Source]) -> Value {
    let row = |(i, _): (Item, _)| ledger.first(i).map(|p| (i.name().to_owned(), json!(place(sources, p))));
    Value::Object(ledger.rows().filter_map(row).collect())
}

/// A ledger as JSON: unknown is `null`.
#[must_use]
pub fn ledger_json(ledger: &Ledger) -> Value {
    Value::Object(ledger.rows().map(|(i, n)| (i.name().to_owned(), json!(n))).collect())
}
