//! One task per guard: asks, classifies, writes the newest sample to the board, waits, asks again.
//!
//! One question in flight per guard, one deadline for connect, query and freshness together. A guard that
//! never answers leaves its slot as it was, and the slot's age turns it into no data.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ClientConfig;

use super::get::get;
use super::{exposition, prometheus};
use crate::edge::clock::{Clock, wall};
use crate::govern::guard::Sample;
use crate::govern::reading::{Answer, NoData};
use crate::policy::guards::{ScrapeQuery, ScrapeRead};
use crate::policy::{GuardQuery, Prometheus, QueryGuard};
use crate::units::RunTime;

/// The newest sample of each guard.
#[derive(Debug, Clone)]
pub struct Board(Arc<Mutex<Vec<Option<Sample>>>>);

impl Board {
    /// A board for `n` guards, all without a sample.
    #[must_use]
    pub fn new(n: usize) -> Self {
        Self(Arc::new(Mutex::new(vec![None; n])))
    }

    fn write(&self, index: usize, sample: Sample) {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get_mut(index) {
            *slot = Some(sample);
        }
    }

    /// The newest samples.
    #[must_use]
    pub fn read(&self) -> Vec<Option<Sample>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a poller needs.
#[derive(Debug, Clone)]
pub struct PollContext {
    /// Where samples go.
    pub board: Board,
    /// Clock of the run.
    pub clock: Clock,
    /// Prometheus, where the policy names one.
    pub prometheus: Option<Prometheus>,
    /// TLS.
    pub tls: Option<Arc<ClientConfig>>,
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
        let asked =
            tokio::time::timeout(guard.timeout, ask(&context, &guard, &mut before, requested_at)).await;
        let answer = asked.unwrap_or(Answer::NoData(NoData::Timeout));
        context.board.write(index, Sample { seq, requested_at, answer });
    }
}

/// One question, for `replay check` and for [`poll`]. `before` holds the last scrape, for rates.
pub async fn ask(c: &PollContext, guard: &QueryGuard, before: &mut Option<Scraped>, now: RunTime) -> Answer {
    match &guard.query {
        GuardQuery::Prometheus(query) => {
            let Some(server) = &c.prometheus else { return Answer::NoData(NoData::Unreachable) };
            let value = instant(c, server, &query.text).await;
            let mut ages = Vec::with_capacity(query.freshness.len());
            for selector in &query.freshness {
                ages.push(instant(c, server, &prometheus::freshness_query(selector)).await);
            }
            let age_max = (server.scrape_interval * 2 + Duration::from_secs(5)).as_secs_f64();
            prometheus::with_freshness(value, &ages, age_max)
        }
        GuardQuery::Scrape(query) => scrape(c, query, before, now).await,
    }
}

async fn instant(c: &PollContext, server: &Prometheus, query: &str) -> Answer {
    match get(&prometheus::query_url(&server.url, query), c.tls.as_ref()).await {
        Ok(got) => prometheus::read(&got, wall()),
        Err(why) => Answer::NoData(why),
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
    let got = match get(&q.url, c.tls.as_ref()).await {
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
