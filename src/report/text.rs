//! The summary on the terminal: verdict and cause first, then what was counted, measured and done.

use std::fmt::Write;

use super::json::{CountsJson, GuardJson, LatencyJson, Report};
use crate::measure::fidelity::Fidelity;

fn ms(v: Option<f64>) -> String {
    match v {
        None => "-".to_owned(),
        Some(v) if v < 10.0 => format!("{v:.2}"),
        Some(v) if v < 1_000.0 => format!("{v:.1}"),
        Some(v) => format!("{v:.0}"),
    }
}

fn sum(map: &std::collections::BTreeMap<String, u64>) -> u64 {
    map.values().sum()
}

fn parts(map: &std::collections::BTreeMap<String, u64>) -> String {
    let shown: Vec<String> = map.iter().filter(|(_, n)| **n > 0).map(|(k, n)| format!("{k} {n}")).collect();
    if shown.is_empty() { String::new() } else { format!(" ({})", shown.join(", ")) }
}

/// Writes the summary of a run.
#[must_use]
pub fn summary(r: &Report) -> String {
    let mut out = String::new();
    // Writing into a String cannot fail.
    let _infallible = write_summary(&mut out, r).is_ok();
    out
}

fn write_summary(out: &mut String, r: &Report) -> std::fmt::Result {
    let verdict = match r.state.as_str() {
        "completed" if r.exit_code == 0 => "COMPLETED",
        "completed" => "COMPLETED, but the result is not to be trusted",
        "completed_capped" => "COMPLETED BELOW FULL SCALE",
        "stopped" => "STOPPED",
        "refused" => "REFUSED: nothing was sent",
        _ => "ABORTED",
    };
    writeln!(out, "{verdict}{}", r.cause.as_ref().map_or_else(String::new, |c| format!(": {c}")))?;
    writeln!(
        out,
        "run {} · {} → {} · {:.1} s · exit code {}",
        r.run.id, r.run.trace, r.run.target, r.run.duration_s, r.exit_code
    )?;
    writeln!(out, "policy {} (hash {}), seed {}", r.run.policy, r.run.policy_hash, r.run.seed)?;
    identities(out, r)?;
    latencies(out, r)?;
    trust(out, r)?;
    guards(out, &r.guards)?;
    match r.aftercare.back_after_s {
        Some(after) => {
            writeln!(out, "\naftercare  guards back to what they were {after:.0} s after the last request")?;
        }
        None if r.aftercare.watched_s > 1.0 => {
            writeln!(
                out,
                "\naftercare  watched {:.0} s: the guards were NOT back to what they were",
                r.aftercare.watched_s
            )?;
        }
        None => {}
    }
    if !r.events.is_empty() {
        writeln!(out, "\nwhat the governor did")?;
        for event in &r.events {
            writeln!(out, "  {:>8.1} s  {}", event.t, event.what)?;
        }
    }
    Ok(())
}

fn identities(out: &mut String, r: &Report) -> std::fmt::Result {
    let c: &CountsJson = &r.counts;
    writeln!(out, "\nrequests")?;
    writeln!(
        out,
        "  planned   {} = {} recorded x scale - {} dropped{}",
        r.coverage.planned,
        c.recorded.unwrap_or(0),
        sum(&c.dropped),
        parts(&c.dropped)
    )?;
    for phase in ["lead_in", "measure"] {
        let Some(p) = r.phases.get(phase).filter(|p| p.due > 0) else { continue };
        let ended = format!(
            "{} ok + {} unexpected{} + {} error{} + {} timeout + {} cancelled",
            p.ok,
            sum(&p.unexpected),
            parts(&p.unexpected),
            sum(&p.error),
            parts(&p.error),
            p.timeout,
            p.cancelled
        );
        writeln!(
            out,
            "  {phase:<9} {} due = {} sent + {} shed{}",
            p.due,
            p.sent,
            sum(&p.shed),
            parts(&p.shed)
        )?;
        writeln!(
            out,
            "            {} sent = {} written + {} failed before write",
            p.sent, p.written, p.failed_before_write
        )?;
        writeln!(out, "            {} written = {ended}", p.written)?;
    }
    for (name, holds) in r.identities.iter().filter(|(_, holds)| !**holds) {
        writeln!(out, "  DOES NOT ADD UP: {name} ({holds}); this is a bug, please report it")?;
    }
    Ok(())
}

fn latencies(out: &mut String, r: &Report) -> std::fmt::Result {
    writeln!(
        out,
        "\nlatency in ms ({})      count       p50       p95       p99     p99.9       max",
        r.latency_phase
    )?;
    let order = ["response", "service", "dns", "connect", "tls", "wait", "receive"];
    for (name, l) in order.into_iter().filter_map(|n| r.latency.get(n).map(|l| (n, l))) {
        if l.count == 0 {
            continue;
        }
        let LatencyJson { count, p50_ms, p95_ms, p99_ms, p999_ms, max_ms, .. } = l;
        let words = match name {
            "response" => "response (due → done)",
            "service" => "service (sent → done)",
            "wait" => "wait (first byte)",
            other => other,
        };
        writeln!(
            out,
            "  {words:<24} {count:>10} {:>9} {:>9} {:>9} {:>9} {:>9}",
            ms(*p50_ms),
            ms(*p95_ms),
            ms(*p99_ms),
            ms(*p999_ms),
            ms(*max_ms)
        )?;
        if l.censored > 0 && name == "response" {
            writeln!(
                out,
                "  {:<24} {:>10} requests are missing above: these percentiles are lower bounds",
                "", l.censored
            )?;
        }
    }
    Ok(())
}

fn trust(out: &mut String, r: &Report) -> std::fmt::Result {
    let f = &r.fidelity;
    writeln!(
        out,
        "\nfidelity   {} · {:.1} % of what was due was sent · own send lag p50 {} ms, p99 {} ms",
        f.verdict,
        f.sent_share.unwrap_or(0.0) * 100.0,
        ms(f.send_lag_p50_ms),
        ms(f.send_lag_p99_ms)
    )?;
    for reason in &f.reasons {
        writeln!(out, "           {reason}")?;
    }
    for words in &f.drift {
        writeln!(out, "           {words}")?;
    }
    shape(out, f)?;
    if !r.coverage.whole {
        let words = "the trace was not read before the run, and not to its end in it: planned and coverage are of what was reached";
        writeln!(out, "plan       {words}")?;
    }
    writeln!(
        out,
        "coverage   {:.1} % of the recorded requests can be sent; {:.2}x in requests at {}x in sessions{}",
        r.coverage.share * 100.0,
        r.run.effective_scale,
        r.run.scale,
        if r.run.scale > 1.0 { " (clones repeat URLs: caches help more than users would)" } else { "" }
    )?;
    if let Some(note) = &r.run.time_note {
        writeln!(out, "stamps     {note}")?;
    }
    if let Some(warning) = &r.run.trace_warning {
        writeln!(out, "trace      {warning}")?;
    }
    writeln!(
        out,
        "connections {} opened, {} opened again, {} failed",
        r.connections.opened, r.connections.reopened, r.connections.failed
    )?;
    for (why, n) in &r.connections.errors {
        writeln!(out, "           {n} x {why}")?;
    }
    Ok(())
}

/// Planned beside sent: each half of a pair is said even where the other is not known.
fn shape(out: &mut String, f: &Fidelity) -> std::fmt::Result {
    let s = &f.shape;
    let percent = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| format!("{:.1} %", v * 100.0));
    writeln!(
        out,
        "shape      seconds differ by {} · gaps by {} (p50 {} ms planned, {} ms sent) · routes by {}",
        percent(s.per_second_difference),
        percent(s.gap_distance),
        ms(s.gap_p50_planned_ms),
        ms(s.gap_p50_sent_ms),
        percent(s.route_mix_difference)
    )?;
    let number = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.1}"));
    let bytes = s
        .response_bytes_ratio
        .map_or_else(String::new, |x| format!(" · answers of {x:.2}x the recorded bytes"));
    writeln!(
        out,
        "           {} requests a connection planned, {} as sent{bytes}",
        number(s.requests_per_connection_planned),
        number(s.requests_per_connection)
    )?;
    let g = &f.generator;
    writeln!(
        out,
        "generator  busiest thread {} of a core at most · steal {} at most",
        percent(g.thread_busy_max),
        percent(g.steal_max)
    )
}

fn guards(out: &mut String, guards: &[GuardJson]) -> std::fmt::Result {
    writeln!(out, "\nguards                                        worst      hold  back off     abort")?;
    let number = |v: Option<f64>, unit: &str| match (v, unit) {
        (None, _) => "-".to_owned(),
        (Some(v), "ratio") => format!("{:.2}%", v * 100.0),
        (Some(v), "seconds") => format!("{:.0} ms", v * 1e3),
        (Some(v), _) => format!("{v:.1}"),
    };
    for g in guards {
        let n = |v| number(v, &g.unit);
        let name: String = g.name.chars().take(40).collect();
        let blind = if g.last_reading.contains("no data") { g.last_reading.as_str() } else { "" };
        let row =
            format!("{name:<40} {:>9} {:>9} {:>9} {:>9}", n(g.worst), n(g.hold), n(g.back_off), n(g.abort));
        writeln!(out, "  {row}  {blind}")?;
    }
    Ok(())
}
