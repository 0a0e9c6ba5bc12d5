//! What the governor sees only in relation to something else: limits relative to a baseline, and our own traffic
//! in the target's counters.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::edge::watch::baseline::{Baselines, Known};
use crate::govern::guard::{GuardSpec, Sample, View};
use crate::govern::inputs::Baseline;
use crate::govern::reading::Answer;
use crate::govern::record::Line;
use crate::govern::visibility::{OwnTraffic, Visibility};
use crate::policy::{BaselineRule, GuardQuery, Policy};
use crate::units::{Rate, RunTime};

/// The visibility query among the guards that ask somebody else.
#[derive(Debug)]
struct Seen {
    index: usize,
    visibility: Visibility,
    behind: Duration,
    range: Duration,
    expect_min: Option<Rate>,
    last_seq: u64,
    /// When a look last counted: the same scrape is not looked at twice.
    counted_at: Option<RunTime>,
    scrape: Duration,
    last: Answer,
    /// Index of a query of organic users alone; a subtraction would only say what we sent.
    organic: Option<usize>,
    organic_rps: Option<f64>,
}

/// Baselines and visibility of one run.
#[derive(Debug)]
pub struct Sight {
    ours: Arc<Mutex<OwnTraffic>>,
    baselines: Baselines,
    rules: Vec<Vec<BaselineRule>>,
    fixed: Vec<Option<Vec<f64>>>,
    seen: Option<Seen>,
}

impl Sight {
    /// For the guards of a policy.
    #[must_use]
    pub fn new(policy: &Policy, baselines: Baselines, ours: Arc<Mutex<OwnTraffic>>) -> Self {
        let scrape = policy.prometheus.as_ref().map_or(Duration::ZERO, |p| p.scrape_interval);
        let organic =
            policy.guards.iter().position(|g| matches!(g.query, GuardQuery::Organic { subtract: false, .. }));
        let seen = policy.guards.iter().enumerate().find_map(|(index, g)| match &g.query {
            GuardQuery::Visibility(query) => Some(Seen {
                index,
                visibility: Visibility::new(query.range),
                behind: scrape + g.poll,
                range: query.range.max(Duration::from_secs(1)),
                expect_min: policy.prometheus.as_ref().and_then(|p| p.expect_min),
                last_seq: 0,
                counted_at: None,
                scrape,
                last: Answer::Value { value: 0.0, samples: 0 },
                organic,
                organic_rps: None,
            }),
            _ => None,
        });
        let rules: Vec<_> = policy.guards.iter().map(|g| g.baselines.clone()).collect();
        let fixed = rules.iter().map(|r| r.is_empty().then(Vec::new)).collect();
        Self { ours, baselines, rules, fixed, seen }
    }

    /// Takes the totals of our own traffic.
    pub fn sent(&self, now: RunTime, sent: u64, failed: u64) {
        self.ours.lock().unwrap_or_else(PoisonError::into_inner).push(now, sent, failed);
    }

    /// Puts baselines that have become known into the limits of their guards; `offset` is where these begin.
    #[must_use]
    pub fn fix_limits(&mut self, offset: usize, guards: &mut [GuardSpec], now: RunTime) -> Vec<Line> {
        let mut lines = Vec::new();
        if self.fixed.iter().all(Option::is_some) {
            return lines;
        }
        for (i, known) in self.baselines.read().into_iter().enumerate() {
            let (Some(slot), Known::Values(values)) = (self.fixed.get_mut(i), known) else { continue };
            let (None, Some(rules), Some(spec)) = (&slot, self.rules.get(i), guards.get_mut(offset + i))
            else {
                continue;
            };
            for (rule, baseline) in rules.iter().zip(&values) {
                spec.thresholds = rule.apply(spec.thresholds, *baseline);
                let (guard, thresholds) = (offset + i, spec.thresholds);
                lines.push(Line::Baseline { at: now, guard, baseline: *baseline, thresholds });
            }
            *slot = Some(values);
        }
        lines
    }

    /// The baselines as the governor needs them; `offset` is where the guards that ask begin.
    #[must_use]
    pub fn baseline(&self, offset: usize, guards: &[GuardSpec], views: &[View]) -> Baseline {
        let known = self.baselines.read();
        if let Some(i) = known.iter().position(|k| *k == Known::Missing) {
            return Baseline::Missing(offset + i);
        }
        for (i, (values, rules)) in self.fixed.iter().zip(&self.rules).enumerate() {
            let Some(values) = values else { return Baseline::Pending };
            let now = views.get(offset + i).and_then(|v| v.reading.value());
            let (Some(now), Some(spec)) = (now, guards.get(offset + i)) else { continue };
            let far = |(r, b): (&BaselineRule, &f64)| r.is_abnormal(spec.thresholds.side, now, *b);
            if rules.iter().zip(values).any(far) {
                return Baseline::Abnormal(offset + i);
            }
        }
        match &self.seen {
            Some(seen) if !seen.visibility.has_baseline() => Baseline::Pending,
            Some(seen) if seen.expect_min.is_some_and(|min| seen.visibility.noise(0.0).0 < min.rps()) => {
                Baseline::Abnormal(offset + seen.index)
            }
            Some(_) | None => Baseline::Ready,
        }
    }

    /// Whether our traffic was seen; `None` where the policy does not ask.
    #[must_use]
    pub fn visible(&self) -> Option<bool> {
        self.seen.as_ref().map(|s| s.visibility.is_proven())
    }

    /// A sample as its guard takes it: the visibility query's rate becomes an amplification.
    #[must_use]
    pub fn translate(&mut self, index: usize, sample: Sample, sending: bool, now: RunTime) -> Sample {
        let Some(seen) = &mut self.seen else { return sample };
        if seen.organic == Some(index) {
            seen.organic_rps = match sample.answer {
                Answer::Value { value, .. } => Some(value),
                Answer::NoData(_) | Answer::Fault(_) => None,
            };
        }
        if seen.index != index {
            return sample;
        }
        let Answer::Value { value, .. } = sample.answer else { return sample };
        let fresh = seen.counted_at.is_none_or(|at| now.since(at) >= seen.scrape);
        if sample.seq > seen.last_seq && fresh {
            (seen.last_seq, seen.counted_at) = (sample.seq, Some(now));
            seen.last = if sending {
                let ours = self.ours.lock().unwrap_or_else(PoisonError::into_inner);
                let (_, high) = ours.aligned(now, seen.behind, seen.range);
                seen.visibility.observe(value, seen.organic_rps, high)
            } else {
                seen.visibility.calm(value);
                Answer::Value { value: 0.0, samples: 0 }
            };
        }
        Sample { answer: seen.last, ..sample }
    }
}

#[cfg(test)]
#[path = "sight_tests.rs"]
mod tests;
