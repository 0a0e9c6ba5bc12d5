//! Asks Prometheus for the past: the baselines that relative limits hang on, and whole ranges for back-tests.
//!
//! "The same time last week" is asked by evaluating the guard's own query at that time, which shifts every
//! selector in it alike; lint G013 keeps `offset` and `@` out of such queries. Points near a run of ours
//! are left out by the run's own metric, `replay_run_active`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::get::get;
use super::poll::{PollContext, quoted};
use super::prometheus::{range_url, read_range};
use crate::edge::clock::wall;
use crate::govern::reading::NoData;
use crate::policy::baseline::{OWN_RUN_MARGIN_S, Point, clean, median};
use crate::policy::{BaselineFrom, GuardQuery, QueryGuard};
use crate::units::NANOS_PER_SEC;

/// Seconds in a week.
const WEEK_S: f64 = 604_800.0;

/// Seconds around "now" that stand for it in other weeks.
const AROUND_S: f64 = 600.0;

/// Deadline of one question about the past.
const RANGE_TIMEOUT: Duration = Duration::from_secs(30);

/// What is known of one guard's baselines.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Known {
    /// Nothing yet; the source is asked again.
    #[default]
    Pending,
    /// One baseline per rule, in order.
    Values(Vec<f64>),
    /// The source has too few clean points.
    Missing,
}

/// The baselines of all guards, by index.
#[derive(Debug, Clone, Default)]
pub struct Baselines(Arc<Mutex<Vec<Known>>>);

impl Baselines {
    /// For these guards; those without relative limits are known from the start.
    #[must_use]
    pub fn new(guards: &[QueryGuard]) -> Self {
        let one =
            |g: &QueryGuard| if g.baselines.is_empty() { Known::Values(Vec::new()) } else { Known::Pending };
        Self(Arc::new(Mutex::new(guards.iter().map(one).collect())))
    }

    /// What is known now.
    #[must_use]
    pub fn read(&self) -> Vec<Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn put(&self, index: usize, known: Known) {
        if let Some(slot) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(index) {
            *slot = known;
        }
    }
}

/// Finds the baselines of one guard; asks again until the source says something.
pub async fn find(c: PollContext, baselines: Baselines, index: usize, guard: QueryGuard) {
    loop {
        match of_guard(&c, &guard).await {
            Ok(Some(values)) => return baselines.put(index, Known::Values(values)),
            Ok(None) => return baselines.put(index, Known::Missing),
            Err(_) => tokio::time::sleep(guard.poll).await,
        }
    }
}

/// The baselines of one guard; `None` where there are too few clean points.
///
/// # Errors
/// Why the source could not say.
pub async fn of_guard(c: &PollContext, guard: &QueryGuard) -> Result<Option<Vec<f64>>, NoData> {
    let GuardQuery::Prometheus(query) = &guard.query else { return Ok(None) };
    let now = wall().0 as f64 / NANOS_PER_SEC as f64;
    let mut values = Vec::new();
    for rule in &guard.baselines {
        let spans: Vec<(f64, f64)> = match rule.from {
            BaselineFrom::Before => vec![(now - 1_200.0, now - 60.0)],
            BaselineFrom::Weeks(n) => {
                let week = |w: u8| now - f64::from(w) * WEEK_S;
                (1..=n).map(|w| (week(w) - AROUND_S, week(w) + AROUND_S)).collect()
            }
        };
        let mut points = Vec::new();
        for (from, to) in spans {
            points.extend(clean_range(c, &query.text, from, to, 15.0).await?);
        }
        match median(&points) {
            Some(value) => values.push(value),
            None => return Ok(None),
        }
    }
    Ok(Some(values))
}

/// Points of a query, those near a run of ours on this target left out.
///
/// # Errors
/// Why there are none.
pub async fn clean_range(
    c: &PollContext,
    query: &str,
    from_s: f64,
    to_s: f64,
    step_s: f64,
) -> Result<Vec<Point>, NoData> {
    let points = range(c, query, from_s, to_s, step_s).await?;
    let own = format!("max(replay_run_active{{target={}}})", quoted(&c.target));
    let own =
        range(c, &own, from_s - OWN_RUN_MARGIN_S, to_s + OWN_RUN_MARGIN_S, 60.0_f64.max(step_s)).await?;
    Ok(clean(&points, &own))
}

/// Points of a query.
///
/// # Errors
/// Why there are none.
pub async fn range(
    c: &PollContext,
    query: &str,
    from_s: f64,
    to_s: f64,
    step_s: f64,
) -> Result<Vec<Point>, NoData> {
    let server = c.prometheus.as_ref().ok_or(NoData::Unreachable)?;
    let url = range_url(&server.url, query, from_s, to_s, step_s);
    let got = tokio::time::timeout(RANGE_TIMEOUT, get(&url, c.tls.as_ref(), c.token.as_deref()));
    read_range(&got.await.map_err(|_| NoData::Timeout)??)
}
