//! A forecast of a trace that is too long to be read through before a run: its outline tells how dense it is, and the
//! densest stretches are read and planned exactly.
//!
//! What this may get wrong is wrong on the safe side: the peak is one that the plan has (there may be a higher one where
//! it was not looked, and the bucket sheds what is above), and everything else is marked as an estimate.

use super::draw::{Salt, hash64};
use super::forecast::{Counter, Forecast};
use super::stream::{EventSource, PlanCounts, PlanSettings, PlanStream};
use crate::limits::CLONE_JITTER_MAX;
use crate::trace::outline::Outline;
use crate::units::NANOS_PER_SEC;

/// Stretches read at most.
const STRETCHES_MAX: usize = 32;

/// Trace time behind which nothing is sent: the end of the chosen part, or of the run's time.
fn reach(settings: &PlanSettings) -> u64 {
    if settings.repeat {
        return settings.to_ns;
    }
    let of_run = u128::from(settings.for_ns) * u128::from(settings.speed.milli) / 1000;
    settings.to_ns.min(settings.from_ns.saturating_add(u64::try_from(of_run).unwrap_or(u64::MAX)))
}

/// Second of the trace and requests recorded within a second of run time from then on, densest first.
fn densest(outline: &Outline, settings: &PlanSettings) -> Vec<(u64, u64)> {
    let wide = settings.speed.milli.div_ceil(1000).max(1) as usize;
    let (from, to) = (settings.from_ns / NANOS_PER_SEC, reach(settings).div_ceil(NANOS_PER_SEC));
    let seconds: Vec<u64> = outline.per_second.iter().map(|n| u64::from(*n)).collect();
    let mut sum: u64 = seconds.iter().take(wide).sum();
    let mut out = Vec::new();
    for start in 0..seconds.len() {
        if (from..to).contains(&(start as u64)) {
            out.push((start as u64, sum));
        }
        sum = sum - seconds[start] + seconds.get(start + wide).copied().unwrap_or(0);
    }
    // Equal ones in no order of time, so that a flat trace is looked at in many places.
    out.sort_by_key(|(start, n)| (std::cmp::Reverse(*n), hash64(*start, Salt::Jitter)));
    out
}

/// Plans the stretch of a second of run time that begins at `start` seconds of the trace.
fn stretch<S: EventSource>(
    mut source: S,
    settings: &PlanSettings,
    duration_ns: u64,
    start: u64,
    counter: &mut Counter,
    counts: &mut PlanCounts,
    each: &mut impl FnMut(u64),
) -> anyhow::Result<S> {
    let start_ns = (start * NANOS_PER_SEC).max(settings.from_ns);
    // Clones of what came before fall into it.
    let before = if settings.scale.milli > 1000 { CLONE_JITTER_MAX.as_nanos() as u64 } else { 0 };
    let begin = start_ns.saturating_sub(before).max(settings.from_ns);
    source.seek(begin)?;
    let mut stream = PlanStream::new(source, PlanSettings { repeat: false, ..settings.clone() }, duration_ns);
    let due = |at: u64| settings.speed.run_nanos(at - settings.from_ns);
    // Two seconds of the run, and at least one of the trace: a slowed one lasts longer.
    let (first, end) = (due(begin), due(start_ns.saturating_add(NANOS_PER_SEC)));
    let last = due(start_ns).saturating_add(2 * NANOS_PER_SEC).max(end);
    while let Some(d) = stream.next_departure()? {
        if d.due_ns > last {
            break;
        }
        if d.due_ns >= first && counter.add(&d)? && d.due_ns >= due(start_ns) {
            each(d.due_ns);
        }
    }
    counts.add(stream.counts());
    Ok(stream.into_source())
}

/// Sounds a trace for as long as `more` says, one stretch at least. `each` is called with every due time in the stretches
/// that were read. Gives the source back, at the start of the chosen part. None where nothing of what was read may be
/// sent: then only reading it all tells whether anything may.
///
/// # Errors
/// When the trace cannot be read.
pub fn sound<S: EventSource>(
    mut source: S,
    settings: &PlanSettings,
    outline: &Outline,
    mut more: impl FnMut() -> bool,
    mut each: impl FnMut(u64),
) -> anyhow::Result<(Option<Forecast>, S)> {
    let end = outline.last_ns().min(settings.to_ns);
    let duration_ns = end.saturating_sub(settings.from_ns).max(1);
    let (mut best, mut counts, mut looked): (Counter, PlanCounts, Vec<u64>) = Default::default();
    // Two seconds of the run each, on the axis of the trace: none may overlap another.
    let apart = 1 + (3 * settings.speed.milli).div_ceil(1000) + CLONE_JITTER_MAX.as_secs();
    for (start, recorded) in densest(outline, settings) {
        // Below what was found whatever is planned of it.
        let enough = recorded.saturating_mul(settings.scale.milli.div_ceil(1000)) < best.peak;
        if looked.len() >= STRETCHES_MAX || (!looked.is_empty() && (enough || !more())) {
            break;
        }
        if looked.iter().any(|l| l.abs_diff(start) < apart) {
            continue;
        }
        let mut counter = Counter::default();
        source = stretch(source, settings, duration_ns, start, &mut counter, &mut counts, &mut each)?;
        looked.push(start);
        if counter.peak > best.peak || looked.len() == 1 {
            best = counter;
        }
    }
    source.seek(settings.from_ns)?;
    if best.peak == 0 {
        return Ok((None, source));
    }
    Ok((Some(estimate(best, &counts, settings, outline, duration_ns)), source))
}

/// From what was read to the whole, in proportion.
fn estimate(
    best: Counter,
    read: &PlanCounts,
    settings: &PlanSettings,
    outline: &Outline,
    duration_ns: u64,
) -> Forecast {
    // A run that goes round and round does the whole part each time.
    let round = settings.speed.run_nanos(duration_ns).max(1);
    let rounds = if settings.repeat { settings.for_ns as f64 / round as f64 } else { 1.0 };
    let sessions = settings.scale.as_f64() / settings.shard.1.max(1) as f64;
    let scale = sessions * rounds;
    let part = outline.requests_between(settings.from_ns, reach(settings).min(outline.last_ns()));
    let recorded = (part as f64 * rounds) as u64;
    let of_trace = part as f64 / outline.requests_between(0, u64::MAX).max(1) as f64;
    let scaled = (part as f64 * scale) as u64;
    let part = |n: u64| (n as f64 / read.scaled.max(1) as f64 * scaled as f64) as u64;
    let dropped: std::collections::BTreeMap<_, _> =
        read.dropped.iter().map(|(r, n)| (*r, part(*n))).collect();
    let due = scaled - dropped.values().sum::<u64>().min(scaled);
    let f = best.finish(&PlanCounts { recorded, scaled, due, dropped }, &[]);
    let factor = sessions * due as f64 / scaled.max(1) as f64;
    // Numbers of a file, which may be anything: a cast saturates.
    let opens = f64::from(outline.opens_peak_per_s) * sessions * (settings.speed.milli as f64 / 1e3).max(1.0);
    Forecast {
        sounded: true,
        curve: curve(outline, settings, factor),
        last_due_ns: if settings.repeat { settings.for_ns } else { round.min(settings.for_ns) },
        opens_peak_per_s: opens.ceil() as u32,
        connections_peak: (outline.connections_peak as f64 * sessions).ceil() as u64,
        // In proportion, but sessions may last: as many as had connections at once were there.
        sessions: (outline.sessions as f64 * scale * of_trace)
            .max(outline.connections_peak.min(outline.sessions) as f64 * sessions) as u64,
        routes: Vec::new(),
        ..f
    }
}

/// The recorded curve on the axis of run time, times `factor`.
fn curve(outline: &Outline, settings: &PlanSettings, factor: f64) -> Vec<u32> {
    let (from, to) = (settings.from_ns / NANOS_PER_SEC, reach(settings).div_ceil(NANOS_PER_SEC));
    let mut sums: Vec<f64> = Vec::new();
    for (second, n) in outline.per_second.iter().enumerate() {
        let second = second as u64;
        if !(from..to).contains(&second) {
            continue;
        }
        let due = settings.speed.run_nanos((second - from) * NANOS_PER_SEC);
        if due >= settings.for_ns {
            break;
        }
        // One second of a slowed trace lies in several of the run.
        let wide = (1000 / settings.speed.milli.max(1)).max(1);
        for i in 0..wide {
            let at = (due / NANOS_PER_SEC + i) as usize;
            sums.resize(sums.len().max(at + 1), 0.0);
            sums[at] += f64::from(*n) * factor / wide as f64;
        }
    }
    sums.into_iter().map(|n| n as u32).collect()
}

#[cfg(test)]
#[path = "sounding_tests.rs"]
mod tests;
