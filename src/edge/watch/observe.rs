//! Gathers what a real Prometheus knows about a guard's query, for `replay check`: how old, how many series, how often
//! sampled, which labels and buckets exist. Judged by `policy::observed`.
//!
//! Every question is bounded by a deadline; one that fails leaves its fact out.

use std::time::Duration;

use serde_json::Value;

use super::get::{Got, get};
use super::poll::{PollContext, quoted};
use super::prometheus::{freshness_query, query_url, read_labels};
use crate::policy::observed::{Observed, SelectorFacts};
use crate::policy::promql::{Query, Selector};

/// Deadline of one question.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most selectors looked at in one query.
const SELECTORS_MAX: usize = 8;

async fn ask(c: &PollContext, query: &str) -> Option<Got> {
    let server = c.prometheus.as_ref()?;
    let url = query_url(&server.url, query);
    let got = tokio::time::timeout(PATIENCE, get(&url, c.tls.as_ref(), c.token.as_deref()));
    got.await.ok()?.ok().filter(|g| g.status == 200)
}

fn result(got: &Got) -> Option<Vec<Value>> {
    let reply: Value = serde_json::from_slice(&got.body).ok()?;
    (reply["status"] == "success").then(|| reply["data"]["result"].as_array().cloned())?
}

async fn number(c: &PollContext, query: &str) -> Option<f64> {
    let series = result(&ask(c, query).await?)?;
    series.first()?["value"][1].as_str()?.parse().ok().filter(|v: &f64| v.is_finite())
}

/// Looks at everything behind a query.
pub async fn observe(c: &PollContext, query: &Query) -> Observed {
    let mut seen = Observed::default();
    for selector in &query.freshness {
        match number(c, &freshness_query(selector)).await {
            Some(age) => seen.age_s = Some(seen.age_s.unwrap_or(0.0).max(age)),
            None => {
                seen.age_s = None;
                break;
            }
        }
    }
    for selector in query.selectors.iter().take(SELECTORS_MAX) {
        seen.selectors.push(of_selector(c, selector).await);
    }
    seen
}

async fn of_selector(c: &PollContext, s: &Selector) -> SelectorFacts {
    let mut facts = SelectorFacts { selector: s.text.clone(), ..SelectorFacts::default() };
    // An empty answer is no series; no answer is nothing known.
    facts.series = ask(c, &format!("count({})", s.text)).await.and_then(|got| {
        let found = result(&got)?;
        Some(found.first().map_or(0, |v| v["value"][1].as_str().and_then(|n| n.parse().ok()).unwrap_or(0)))
    });
    facts.scrape = scrape_of(c, &s.text).await;
    for label in &s.labels {
        let query = format!("count({}{{{label}!=\"\"}})", s.metric);
        if ask(c, &query).await.and_then(|got| result(&got)).is_some_and(|r| r.is_empty()) {
            facts.unknown_labels.push(label.clone());
        }
    }
    if s.metric.ends_with("_bucket")
        && let Some(got) = ask(c, &format!("count by (le) ({})", s.text)).await
    {
        let ends = read_labels(&got, "le").into_iter().filter_map(|le| le.parse::<f64>().ok());
        facts.highest_bucket = ends.filter(|le| le.is_finite()).reduce(f64::max);
    }
    facts
}

/// Time between samples of one of the series: of raw samples, because a count over a range also depends on how long
/// the series has been there.
async fn scrape_of(c: &PollContext, selector: &str) -> Option<Duration> {
    let series = result(&ask(c, &format!("topk(1, {selector})")).await?)?;
    let labels = series.first()?["metric"].as_object()?;
    let matchers: Vec<String> =
        labels.iter().filter_map(|(k, v)| Some(format!("{k}={}", quoted(v.as_str()?)))).collect();
    let raw = result(&ask(c, &format!("{{{}}}[1h]", matchers.join(","))).await?)?;
    let stamps: Vec<f64> = raw.first()?["values"].as_array()?.iter().filter_map(|p| p[0].as_f64()).collect();
    between(&stamps)
}

/// The median of the steps between stamps in seconds; none for fewer than three.
fn between(stamps: &[f64]) -> Option<Duration> {
    let mut steps: Vec<f64> = stamps.windows(2).map(|w| w[1] - w[0]).filter(|s| *s > 0.0).collect();
    if steps.len() < 2 {
        return None;
    }
    steps.sort_by(f64::total_cmp);
    let median = steps.get((steps.len() - 1) / 2)?;
    // To the next tenth of a second: intervals are whole seconds or simple fractions.
    Some(Duration::from_millis(((median * 10.0).round() * 100.0) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_step_is_the_interval() {
        assert_eq!(
            between(&[0.0, 15.001, 30.0, 59.9, 75.0]),
            Some(Duration::from_secs(15)),
            "one was missed"
        );
        assert_eq!(between(&[0.0, 15.0]), None);
        assert_eq!(between(&[]), None);
        assert_eq!(between(&[5.0, 5.0, 5.0, 5.0]), None, "no time has passed");
        assert_eq!(between(&[0.0, 0.5, 1.0]), Some(Duration::from_millis(500)));
    }
}
