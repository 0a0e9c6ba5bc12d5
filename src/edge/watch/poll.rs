//! One task per guard: asks, classifies, writes the newest sample to the board, waits, asks again.
//!
//! One question in flight per guard, one deadline for connect, query and freshness together. A guard that
//! never answers leaves its slot as it was, and the slot's age turns it into no data.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ClientConfig;

use super::get::{Got, get};
use super::{exposition, prometheus};
use crate::edge::clock::{Clock, wall};
use crate::govern::guard::Sample;
use crate::govern::reading::{Answer, Fault, NoData};
use crate::govern::visibility::{Own, OwnTraffic, organic_ratio};
use crate::policy::guards::{ScrapeQuery, ScrapeRead};
use crate::policy::promql::Query;
use crate::policy::sources::{AlertQuery, FIRING, PENDING};
use crate::policy::{GuardQuery, Prometheus, QueryGuard};
use crate::units::RunTime;

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    sample: Option<Sample>,
    skew_ms: u64,
}

/// The newest sample of each guard, and how far its source's clock is from ours.
#[derive(Debug, Clone)]
pub struct Board(Arc<Mutex<Vec<Slot>>>);

impl Board {
    /// A board for `n` guards, all without a sample.
    #[must_use]
    pub fn new(n: usize) -> Self {
        Self(Arc::new(Mutex::new(vec![Slot::default(); n])))
    }

    fn with(&self, index: usize, change: impl FnOnce(&mut Slot)) {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get_mut(index) {
            change(slot);
        }
    }

    /// Writes the newest sample of a guard.
    pub fn write(&self, index: usize, sample: Sample) {
        self.with(index, |slot| slot.sample = Some(sample));
    }

    /// The newest samples.
    #[must_use]
    pub fn read(&self) -> Vec<Option<Sample>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|s| s.sample).collect()
    }

    /// The largest difference of clocks seen in the last answers, milliseconds.
    #[must_use]
    pub fn skew_ms(&self) -> u64 {
        let slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slots.iter().map(|s| s.skew_ms).max().unwrap_or(0)
    }
}

/// What a poller needs.
#[derive(Debug, Clone)]
pub struct PollContext {
    /// Whether our own metrics are exported: then they must be seen, too.
    pub exported: bool,
    /// Where samples go.
    pub board: Board,
    /// Clock of the run.
    pub clock: Clock,
    /// Prometheus, where the policy names one.
    pub prometheus: Option<Prometheus>,
    /// TLS.
    pub tls: Option<Arc<ClientConfig>>,
    /// Bearer token for Prometheus.
    pub token: Option<Arc<str>>,
    /// Our own traffic, for guards that subtract it.
    pub ours: Arc<Mutex<OwnTraffic>>,
    /// Number of the next question, shared by all guards.
    pub questions: Arc<AtomicU64>,
    /// Id of this run.
    pub run: String,
    /// Host and port of the target.
    pub target: String,
}

/// Asks for ever; the caller drops the task.
pub async fn poll(context: PollContext, index: usize, guard: QueryGuard) {
    let mut before = None;
    let mut seq = 0;
    let mut ticks = tokio::time::interval(guard.poll);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        seq += 1;
        let requested_at = context.clock.now();
        let question = ask(&context, index, &guard, &mut before, requested_at);
        let asked = tokio::time::timeout(guard.timeout, question).await;
        let answer = asked.unwrap_or(Answer::NoData(NoData::Timeout));
        context.board.write(index, Sample { seq, requested_at, answer });
    }
}

/// One question, for `replay check` and for [`poll`]. `before` holds the last scrape, for rates.
pub async fn ask(
    c: &PollContext,
    index: usize,
    guard: &QueryGuard,
    before: &mut Option<Scraped>,
    now: RunTime,
) -> Answer {
    let Some(p) = c.prometheus.as_ref().map(|server| Asker { c, server, index }) else {
        return match &guard.query {
            GuardQuery::Scrape(query) => scrape(c, query, before, now).await,
            _ => Answer::NoData(NoData::Unreachable),
        };
    };
    match &guard.query {
        GuardQuery::Scrape(query) => scrape(c, query, before, now).await,
        GuardQuery::Prometheus(query) => p.counted(query, guard.spec.min_samples).await,
        GuardQuery::Visibility(query) => p.fresh(query).await,
        GuardQuery::Subtract { errors, requests } => p.subtract(errors, requests, now).await,
        GuardQuery::Organic { query, subtract } => p.organic(query, *subtract, now).await,
        GuardQuery::Alerts(query) => p.alerts(query).await,
        GuardQuery::StopQuery(text) => p.instant(text).await,
        GuardQuery::OtherRuns => p.other_runs().await,
        GuardQuery::Labels(expect) => p.labels(expect).await,
    }
}

/// A PromQL string.
#[must_use]
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// One guard's way to ask.
struct Asker<'a> {
    c: &'a PollContext,
    server: &'a Prometheus,
    index: usize,
}

impl Asker<'_> {
    async fn get(&self, url: &str) -> Result<Got, NoData> {
        get(url, self.c.tls.as_ref(), self.c.token.as_deref()).await
    }

    async fn instant(&self, query: &str) -> Answer {
        let asked = wall();
        let number = self.c.questions.fetch_add(1, Ordering::Relaxed);
        match self.get(&prometheus::query_url(&self.server.url, &prometheus::tagged(query, number))).await {
            Ok(got) => {
                let now = wall();
                if let Some(skew) = prometheus::skew_ms(&got, asked, now) {
                    self.c.board.with(self.index, |slot| slot.skew_ms = skew);
                }
                match prometheus::read(&got, now) {
                    Answer::Value { .. } if !prometheus::is_answer_to(&got, number) => {
                        Answer::NoData(NoData::Superseded)
                    }
                    answer => answer,
                }
            }
            Err(why) => Answer::NoData(why),
        }
    }

    async fn ages(&self, query: &Query) -> Vec<Answer> {
        let mut ages = Vec::with_capacity(query.freshness.len());
        for selector in &query.freshness {
            ages.push(self.instant(&prometheus::freshness_query(selector)).await);
        }
        ages
    }

    fn age_max_s(&self) -> f64 {
        (self.server.scrape_interval * 2 + Duration::from_secs(5)).as_secs_f64()
    }

    /// A value with the freshness of what stands behind it.
    async fn fresh(&self, query: &Query) -> Answer {
        let value = self.instant(&query.text).await;
        prometheus::with_freshness(value, &self.ages(query).await, self.age_max_s())
    }

    /// A value, unless too few requests stand behind it: that is looked at first, so that 0/0 on an idle
    /// night is too few samples and not "not a number". Silence is never taken for an idle night.
    async fn counted(&self, query: &Query, min_samples: u64) -> Answer {
        let (Some(text), true) = (&query.samples, min_samples > 0) else { return self.fresh(query).await };
        let samples = match self.instant(text).await {
            Answer::Value { value, .. } => value.max(0.0) as u64,
            Answer::NoData(NoData::NaN | NoData::Empty) => 0,
            other => return other,
        };
        let value = if samples < min_samples {
            Answer::Value { value: 0.0, samples }
        } else {
            match self.instant(&query.text).await {
                Answer::Value { value, .. } => Answer::Value { value, samples },
                other => other,
            }
        };
        prometheus::with_freshness(value, &self.ages(query).await, self.age_max_s())
    }

    fn ours(&self, now: RunTime, range: Duration) -> (Own, Own) {
        let ours = self.c.ours.lock().unwrap_or_else(PoisonError::into_inner);
        ours.aligned(now, self.server.scrape_interval + Duration::from_secs(1), range)
    }

    async fn subtract(&self, errors: &Query, requests: &Query, now: RunTime) -> Answer {
        let (e, r) = match (self.instant(&errors.text).await, self.fresh(requests).await) {
            (Answer::Value { value: e, .. }, Answer::Value { value: r, .. }) => (e, r),
            (fault @ Answer::Fault(_), _) | (_, fault @ Answer::Fault(_)) => return fault,
            (_, none @ Answer::NoData(_)) | (none @ Answer::NoData(_), _) => return none,
        };
        let (low, high) = self.ours(now, requests.range);
        let samples = ((r - high.sent_rps).max(0.0) * requests.range.as_secs_f64()) as u64;
        match organic_ratio(e, r, low, high) {
            Answer::Value { value, .. } => Answer::Value { value, samples },
            other => other,
        }
    }

    async fn organic(&self, query: &Query, subtract: bool, now: RunTime) -> Answer {
        match self.fresh(query).await {
            // Ours at its lowest alignment: more users than there are only make us send less.
            Answer::Value { value, .. } if subtract => {
                Answer::number((value - self.ours(now, query.range).0.sent_rps).max(0.0))
            }
            other => other,
        }
    }

    /// Firing, then pending; none of both is health only while alerting is alive.
    async fn alerts(&self, query: &AlertQuery) -> Answer {
        let value = |v| Answer::Value { value: v, samples: u64::MAX };
        match self.instant(&query.firing).await {
            Answer::Value { value: n, .. } if n > 0.0 => return value(FIRING),
            Answer::Value { .. } => {}
            other => return other,
        }
        match self.instant(&query.pending).await {
            Answer::Value { value: n, .. } if n > 0.0 => return value(PENDING),
            Answer::Value { .. } => {}
            other => return other,
        }
        let Some(liveness) = &query.liveness else { return Answer::NoData(NoData::Stale) };
        match self.instant(liveness).await {
            Answer::Value { value: alive, .. } if alive > 0.0 => value(0.0),
            Answer::Value { .. } | Answer::NoData(NoData::Empty) => Answer::NoData(NoData::Stale),
            other => other,
        }
    }

    /// Runs of others on this target. Where we export that we are one, this Prometheus must see it: one that does
    /// not would not see the others either.
    async fn other_runs(&self) -> Answer {
        let (target, run) = (quoted(&self.c.target), quoted(&self.c.run));
        if self.c.exported {
            match self.instant(&format!("count(replay_run_active{{target={target},run={run}}})")).await {
                Answer::Value { .. } => {}
                Answer::NoData(NoData::Empty) => return Answer::NoData(NoData::Stale),
                other => return other,
            }
        }
        self.instant(&format!("count(replay_run_active{{target={target},run!={run}}} == 1) or vector(0)"))
            .await
    }

    /// The labels of the Prometheus itself, or else of what it scrapes.
    async fn labels(&self, expect: &std::collections::BTreeMap<String, String>) -> Answer {
        let config = match self.get(&format!("{}/api/v1/status/config", self.server.url)).await {
            Ok(got) => got,
            Err(why) => return Answer::NoData(why),
        };
        let has = |have: &[(String, String)]| {
            expect.iter().all(|(k, v)| have.iter().any(|(a, b)| a == k && b == v))
        };
        if prometheus::external_labels(&config).is_some_and(|have| has(&have)) {
            return Answer::Value { value: 0.0, samples: u64::MAX };
        }
        let labels: Vec<String> = expect.iter().map(|(k, v)| format!("{k}={}", quoted(v))).collect();
        match self.instant(&format!("count(up{{{}}}) or vector(0)", labels.join(","))).await {
            Answer::Value { value, .. } if value > 0.0 => Answer::Value { value: 0.0, samples: u64::MAX },
            Answer::Value { .. } => Answer::Fault(Fault::WrongSource),
            other => other,
        }
    }
}

/// The last scrape: when, and the two numbers.
#[derive(Debug, Clone, Copy)]
pub struct Scraped {
    at: RunTime,
    metric: f64,
    per: Option<f64>,
}

async fn scrape(c: &PollContext, q: &ScrapeQuery, before: &mut Option<Scraped>, now: RunTime) -> Answer {
    let got = match get(&q.url, c.tls.as_ref(), None).await {
        Ok(got) if got.status == 200 => got,
        Ok(got) => return Answer::NoData(NoData::Http(got.status)),
        Err(why) => return Answer::NoData(why),
    };
    let number = |selector: &str| exposition::read(&got.body, selector, q.reduce);
    let metric = match number(&q.metric) {
        Answer::Value { value, .. } => value,
        other => return other,
    };
    let per = match q.per.as_deref().map(number) {
        None => None,
        Some(Answer::Value { value, .. }) => Some(value),
        Some(other) => return other,
    };
    let this = Scraped { at: now, metric, per };
    let last = before.replace(this);
    match q.read {
        ScrapeRead::Value => Answer::number(per.map_or(metric, |p| metric / p)),
        ScrapeRead::Rate => rate(last, this),
    }
}

/// Growth per second between two scrapes; a counter that fell was reset, which says nothing.
fn rate(last: Option<Scraped>, this: Scraped) -> Answer {
    let Some(last) = last else { return Answer::NoData(NoData::NotYet) };
    let seconds = this.at.since(last.at).as_secs_f64();
    let growth = this.metric - last.metric;
    let base = match (this.per, last.per) {
        (Some(a), Some(b)) => a - b,
        (None, None) => seconds,
        (Some(_), None) | (None, Some(_)) => return Answer::NoData(NoData::NotYet),
    };
    if growth < 0.0 || base < 0.0 || seconds <= 0.0 {
        Answer::NoData(NoData::Stale)
    } else {
        Answer::number(growth / base)
    }
}

#[cfg(test)]
#[path = "poll_tests.rs"]
mod tests;
