//! One route of the report.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::json::LatencyJson;
use crate::measure::route::{Hits, RouteTally};

/// One route.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct RouteJson {
    /// Method and first path segment.
    pub name: String,
    /// Due.
    pub due: u64,
    /// Written.
    pub written: u64,
    /// As recorded.
    pub ok: u64,
    /// Otherwise.
    pub bad: u64,
    /// Due to done, all whole answers.
    pub response: LatencyJson,
    /// The same by how it ended: `2xx`, `5xx`, `error`, `timeout` (time until it was given up), `cancelled`.
    pub by_end: BTreeMap<String, LatencyJson>,
    /// Answers by the class of their status when recorded; `unknown` where it was not.
    pub recorded_status: BTreeMap<String, u64>,
    /// Sizes of answers beside the recorded ones.
    pub sizes: SizesJson,
    /// What caches said.
    pub cache: CacheJson,
}

/// Sizes of answers, where both are known and the status is the recorded one.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct SizesJson {
    /// Answers compared.
    pub answers: u64,
    /// Body bytes when recorded.
    pub recorded: u64,
    /// Body bytes now.
    pub received: u64,
}

/// Answers that said whether they came from a cache (`Cache-Status`, `Age`, `X-Cache`, `CF-Cache-Status` and the like).
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct CacheJson {
    /// When recorded: answers that said so.
    pub recorded_known: u64,
    /// Of these, from a cache; null when none said so.
    pub recorded_hit_share: Option<f64>,
    /// Now: answers that said so.
    pub known: u64,
    /// Of these, from a cache; null when none said so.
    pub hit_share: Option<f64>,
}

impl RouteJson {
    /// The numbers of a tally.
    #[must_use]
    pub fn of(name: &str, r: &RouteTally) -> Self {
        let class = |c: u8| if c == 0 { "unknown".to_owned() } else { format!("{c}xx") };
        let share = |h: Hits| h.share().map(|s| (s * 1e4).round() / 1e4);
        Self {
            name: name.to_owned(),
            due: r.due,
            written: r.written,
            ok: r.ok,
            bad: r.bad,
            response: LatencyJson::of(&r.answered()),
            by_end: r.response.iter().map(|(c, l)| (c.name(), LatencyJson::of(l.get()))).collect(),
            recorded_status: (0u8..)
                .zip(r.recorded)
                .filter(|(_, n)| *n > 0)
                .map(|(c, n)| (class(c), n))
                .collect(),
            sizes: SizesJson {
                answers: r.sizes.answers,
                recorded: r.sizes.recorded,
                received: r.sizes.received,
            },
            cache: CacheJson {
                recorded_known: r.cache_recorded.known,
                recorded_hit_share: share(r.cache_recorded),
                known: r.cache_seen.known,
                hit_share: share(r.cache_seen),
            },
        }
    }
}
