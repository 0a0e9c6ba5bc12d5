//! `replay check POLICY --backtest 4w`: what would the guards have said over past nights, without us?

use std::io::Write;
use std::time::Duration;

use crate::edge::clock::wall;
use crate::edge::host::window;
use crate::edge::watch::baseline::clean_range;
use crate::edge::watch::poll::PollContext;
use crate::govern::reading::NoData;
use crate::policy::backtest::{Backtest, judge};
use crate::policy::baseline::Point;
use crate::policy::{GuardQuery, Policy, QueryGuard};
use crate::units::{NANOS_PER_SEC, WallTime};

/// Seconds in a week.
const WEEK_S: f64 = 604_800.0;

/// Longest look back.
pub(super) const WEEKS_MAX: u32 = 8;

/// Points asked for at once: below what Prometheus gives in one answer (11,000).
const POINTS_MAX: f64 = 10_000.0;

/// Parses `4w`.
pub(super) fn weeks(text: &str) -> Result<u32, String> {
    let weeks = text.strip_suffix('w').and_then(|n| n.parse().ok());
    weeks
        .filter(|n| (1..=WEEKS_MAX).contains(n))
        .ok_or_else(|| format!("{text:?} is not a number of weeks such as \"4w\" (at most {WEEKS_MAX}w)"))
}

/// Stretches of the past to look at: the openings of the window, or all of it.
fn stretches(policy: &Policy, weeks: u32, now_s: f64) -> anyhow::Result<Vec<(f64, f64)>> {
    let first = now_s - f64::from(weeks) * WEEK_S;
    let Some(w) = &policy.window else { return Ok(vec![(first, now_s)]) };
    let seconds = |t: WallTime| t.0 as f64 / NANOS_PER_SEC as f64;
    let (mut out, mut at) = (Vec::new(), first);
    while at < now_s && out.len() < 366 {
        let Ok(opening) = window::resolve(w, WallTime((at * NANOS_PER_SEC as f64) as u64)) else { break };
        let (from, to) = (seconds(opening.start), seconds(opening.end));
        if from >= now_s {
            break;
        }
        out.push((from.max(first), to.min(now_s)));
        at = to + 1.0;
    }
    Ok(out)
}

async fn points(
    c: &PollContext,
    query: &str,
    stretches: &[(f64, f64)],
    step_s: f64,
) -> Result<Vec<Point>, NoData> {
    let mut out = Vec::new();
    for (from, to) in stretches {
        let mut at = *from;
        while at < *to {
            let end = (at + POINTS_MAX * step_s).min(*to);
            out.extend(clean_range(c, query, at, end, step_s).await?);
            at = end + step_s;
        }
    }
    Ok(out)
}

/// Points of one guard, those with too few requests behind them left out, as the guard itself would.
async fn of_guard(
    c: &PollContext,
    g: &QueryGuard,
    stretches: &[(f64, f64)],
    step_s: f64,
) -> Result<Vec<Point>, NoData> {
    let GuardQuery::Prometheus(query) = &g.query else { return Ok(Vec::new()) };
    let values = points(c, &query.text, stretches, step_s).await?;
    let (Some(samples), true) = (&query.samples, g.spec.min_samples > 0) else { return Ok(values) };
    let counts = points(c, samples, stretches, step_s).await?;
    let enough = |t: f64| {
        let n = counts.partition_point(|(at, _)| *at < t - 0.5);
        counts.get(n).is_some_and(|(at, v)| (at - t).abs() < 0.5 && *v >= g.spec.min_samples as f64)
    };
    Ok(values.into_iter().filter(|(t, _)| enough(*t)).collect())
}

/// Prints the back-test of every guard with a query.
///
/// # Errors
/// When the output cannot be written or the window not resolved.
pub(super) async fn print(
    out: &mut impl Write,
    c: &PollContext,
    policy: &Policy,
    weeks: u32,
) -> anyhow::Result<()> {
    let now_s = wall().0 as f64 / NANOS_PER_SEC as f64;
    let stretches = stretches(policy, weeks, now_s)?;
    let what = match &policy.window {
        Some(_) => format!("{} openings of the window", stretches.len()),
        None => "every hour of the day".to_owned(),
    };
    writeln!(out, "back-test over {weeks} weeks, {what}; our own runs and 30 minutes around them left out")?;
    for g in policy.guards.iter().filter(|g| matches!(g.query, GuardQuery::Prometheus(_))) {
        let step_s =
            if policy.window.is_some() { g.poll } else { Duration::from_secs(60).max(g.poll) }.as_secs_f64();
        match of_guard(c, g, &stretches, step_s).await {
            Ok(points) => match judge(&g.spec, &points) {
                Some(b) => one(out, g, &b)?,
                None => writeln!(out, "  {}: no points: no data, or never enough requests", g.spec.name)?,
            },
            Err(why) => writeln!(out, "  {}: cannot be asked: {why:?}", g.spec.name)?,
        }
    }
    Ok(())
}

fn one(out: &mut impl Write, g: &QueryGuard, b: &Backtest) -> anyhow::Result<()> {
    let unit = g.spec.unit.as_str();
    let show = |v: f64| match unit {
        "ratio" => format!("{:.3} %", v * 100.0),
        "seconds" => format!("{:.3} s", v),
        _ => format!("{v:.3}"),
    };
    writeln!(out, "  {}: {} points", g.spec.name, b.points)?;
    let first = b.first_at.map_or_else(String::new, |t| {
        format!(", first at {}", WallTime((t * NANOS_PER_SEC as f64) as u64).rfc3339())
    });
    writeln!(
        out,
        "    without us it would have held {}x, halved {}x, stopped {}x{first}",
        b.holds, b.back_offs, b.aborts
    )?;
    writeln!(
        out,
        "    median {}, worst of 100 {}, worst of 1000 {}, worst {}",
        show(b.median),
        show(b.bad_1),
        show(b.bad_01),
        show(b.worst)
    )?;
    let t = &g.spec.thresholds;
    for (name, limit) in [("hold", t.hold), ("back off", t.back_off), ("abort", t.abort)] {
        if let Some(limit) = limit {
            let far = if b.bad_01 == 0.0 {
                "never above zero".to_owned()
            } else {
                format!("{:.1} x the worst of 1000", limit / b.bad_01)
            };
            writeln!(out, "    {name:<8} {}: {far}", show(limit))?;
        }
    }
    if b.suggested.keep {
        writeln!(out, "    the limits fit")?;
    } else {
        writeln!(
            out,
            "    suggested: hold {}, back off {}",
            show(b.suggested.hold),
            show(b.suggested.back_off)
        )?;
    }
    Ok(())
}
