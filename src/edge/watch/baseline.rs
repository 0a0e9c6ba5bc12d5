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

    pub(crate) fn put(&self, index: usize, known: Known) {
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

#[cfg(test)]
mod tests {
    use super::super::poll::Board;
    use super::super::scripted::{Reply, Scripted};
    use super::*;
    use crate::edge::clock::Clock;
    use crate::policy::check::parse;

    fn context(server: &Scripted) -> PollContext {
        PollContext {
            exported: false,
            board: Board::new(1),
            clock: Clock::start(),
            prometheus: Some(crate::policy::Prometheus {
                url: server.url.clone(),
                scrape_interval: Duration::from_secs(1),
                expect_min: None,
                token_file: None,
            }),
            tls: None,
            token: None,
            ours: Arc::default(),
            questions: Arc::default(),
            run: "r1".to_owned(),
            target: "t:80".to_owned(),
        }
    }

    fn guard(from: &str) -> QueryGuard {
        let text = format!(
            "version = 1\nname = \"b\"\n[target]\nallow = [\"127.0.0.0/8\"]\n[metrics]\nlisten = \"127.0.0.1:9\"\n[prometheus]\nurl = \"http://127.0.0.1:9\"\nscrape_interval = \"1s\"\n\
             [[guard]]\nname = \"g\"\nexpr = 'sum(rate(x_total[10s]))'\npoll = \"200ms\"\nback_off_above = {{ baseline = \"{from}\", ratio = 2.0, floor = 1, cap = 9 }}\n"
        );
        parse(&text, "b").unwrap().guards.remove(0)
    }

    fn known(server: &Scripted, guard: &QueryGuard) -> Result<Option<Vec<f64>>, NoData> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(of_guard(&context(server), guard))
    }

    /// Start and end of each question about the guard's own query, relative to now, in whole seconds.
    fn spans(server: &Scripted) -> Vec<(i64, i64, i64)> {
        let now = wall().0 as f64 / NANOS_PER_SEC as f64;
        let of = |q: &String| {
            let list = q.rsplit('[').next()?.trim_end_matches(']');
            let n: Vec<f64> = list.split(", ").filter_map(|w| w.parse().ok()).collect();
            Some(((n[0] - now).round() as i64, (n[1] - now).round() as i64, n[2] as i64))
        };
        server.queries().iter().filter_map(of).collect()
    }

    #[test]
    fn the_past_is_asked_at_its_time_and_our_own_runs_before_and_after() {
        let flat = || Reply::Range(vec![4.0; 80]);
        let server = Scripted::start(&[("replay_run_active", Reply::Empty), ("rate(x_total", flat())]);
        assert_eq!(known(&server, &guard("before")), Ok(Some(vec![4.0])));
        let margin = OWN_RUN_MARGIN_S as i64;
        assert_eq!(spans(&server), [(-1_200, -60, 15), (-1_200 - margin, -60 + margin, 60)]);
        assert!(server.queries()[1].starts_with("max(replay_run_active{target=\"t:80\"})"));
        let server = Scripted::start(&[("replay_run_active", Reply::Empty), ("rate(x_total", flat())]);
        assert_eq!(known(&server, &guard("offset 2w")), Ok(Some(vec![4.0])));
        let (week, around) = (604_800, 600);
        let own: Vec<_> = spans(&server).into_iter().step_by(2).collect();
        assert_eq!(own, [(-week - around, -week + around, 15), (-2 * week - around, -2 * week + around, 15)]);
    }

    #[test]
    fn too_little_past_is_none_and_an_error_is_one() {
        let with = |own: Reply, points: Reply| {
            known(&Scripted::start(&[("replay_run_active", own), ("rate(x_total", points)]), &guard("before"))
        };
        assert_eq!(with(Reply::Empty, Reply::Empty), Ok(None));
        let running = Reply::Range(vec![1.0; 100]);
        assert_eq!(with(running, Reply::Range(vec![4.0; 70])), Ok(None), "all of it is near a run of ours");
        assert_eq!(with(Reply::Status(500), Reply::Range(vec![4.0; 70])), Err(NoData::Http(500)));
        assert_eq!(with(Reply::Empty, Reply::Status(503)), Err(NoData::Http(503)));
        let nobody = PollContext { prometheus: None, ..context(&Scripted::start(&[])) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        assert_eq!(runtime.block_on(of_guard(&nobody, &guard("before"))), Err(NoData::Unreachable));
    }

    #[test]
    fn what_becomes_known_is_put_down_and_errors_are_asked_again() {
        let (relative, runtime) =
            (guard("before"), tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
        let absolute = QueryGuard { baselines: Vec::new(), ..relative.clone() };
        let baselines = Baselines::new(&[absolute, relative.clone()]);
        assert_eq!(baselines.read(), [Known::Values(Vec::new()), Known::Pending]);
        let found = |reply: Reply| {
            let server = Scripted::start(&[("replay_run_active", Reply::Empty), ("rate(x_total", reply)]);
            let known = Baselines::new(std::slice::from_ref(&relative));
            let search = find(context(&server), known.clone(), 0, relative.clone());
            let ended = runtime
                .block_on(async { tokio::time::timeout(Duration::from_millis(700), search).await.is_ok() });
            (ended, known.read().remove(0), server.queries().len())
        };
        assert_eq!(found(Reply::Range(vec![4.0; 80])), (true, Known::Values(vec![4.0]), 2));
        assert_eq!(found(Reply::Empty), (true, Known::Missing, 2));
        let (ended, known, asked) = found(Reply::Status(500));
        assert!(!ended && known == Known::Pending && (2..=4).contains(&asked), "each 200 ms: {asked}");
    }
}
