//! What a run would do, before it does it: `--dry-run` and the banner.

use std::fmt::Write;

use crate::govern::bucket::{Bucket, Take};
use crate::govern::settings::Settings;
use crate::plan::forecast::Forecast;
use crate::policy::Policy;
use crate::policy::settings::time_to_full;
use crate::units::{NANOS_PER_SEC, Rate, RunTime, show_duration};

/// Runs due times through the bucket at the full ceiling and counts what it would shed.
#[derive(Debug)]
pub struct BucketTrial {
    bucket: Bucket,
    ceiling: Rate,
    published: Option<RunTime>,
    /// Requests that the bucket would let through.
    pub passed: u64,
    /// Requests that it would shed.
    pub shed: u64,
}

impl BucketTrial {
    /// Share of the requests tried that it would shed.
    #[must_use]
    pub fn share(&self) -> f64 {
        self.shed as f64 / (self.shed + self.passed).max(1) as f64
    }

    /// A trial at `ceiling`.
    #[must_use]
    pub fn new(ceiling: Rate) -> Self {
        Self { bucket: Bucket::default(), ceiling, published: None, passed: 0, shed: 0 }
    }

    /// The same trial, begun again.
    #[must_use]
    pub fn again(&self) -> Self {
        Self::new(self.ceiling)
    }

    /// A request is due, one second in: the bucket of a real run has been open for a while by then.
    pub fn due(&mut self, due_ns: u64) {
        let now = RunTime(due_ns.saturating_add(NANOS_PER_SEC));
        let tick = 100_000_000;
        if self.published.is_none_or(|p| now.0 - p.0 >= tick) {
            let first = self.published.is_none();
            let at = if first { RunTime::START } else { now };
            self.bucket.publish(at, self.ceiling, RunTime(now.0 + 10 * tick));
            self.published = Some(now);
        }
        match self.bucket.try_take(now) {
            Take::Taken => self.passed += 1,
            Take::Empty | Take::NoGrant => self.shed += 1,
        }
    }
}

/// A small curve of a rate over time, one character a slot.
#[must_use]
pub fn curve(per_second: &[u32], width: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let slots = per_second.len().clamp(1, width);
    let means: Vec<f64> = (0..slots)
        .map(|i| {
            let (a, b) = (i * per_second.len() / slots, (i + 1) * per_second.len() / slots);
            let part = per_second.get(a..b.max(a + 1)).unwrap_or(&[]);
            part.iter().map(|n| f64::from(*n)).sum::<f64>() / part.len().max(1) as f64
        })
        .collect();
    let top = means.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    means.iter().map(|m| BARS[((m / top * 8.0) as usize).min(7)]).collect()
}

/// What is asked for, in the words of the banner.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Trace file.
    pub trace: String,
    /// Target.
    pub target: String,
    /// Scale in sessions.
    pub scale: f64,
    /// Speed.
    pub speed: f64,
    /// Requests in the chosen part, unscaled.
    pub recorded: u64,
    /// Requests the bucket would shed at full share.
    pub bucket_shed: u64,
    /// Requests that were tried for that: all, or those of the stretches that were looked at.
    pub bucket_tried: u64,
    /// Steady rate, where one is asked for.
    pub rate_rps: Option<f64>,
}

/// The text of a dry run.
#[must_use]
pub fn text(
    asked: &Asked,
    forecast: &Forecast,
    policy: &Policy,
    settings: &Settings,
    in_flight_max: u64,
) -> String {
    let mut out = String::new();
    // Writing into a String cannot fail.
    let _infallible = write(&mut out, asked, forecast, policy, settings, in_flight_max).is_ok();
    out
}

fn write(
    out: &mut String,
    asked: &Asked,
    f: &Forecast,
    policy: &Policy,
    settings: &Settings,
    in_flight_max: u64,
) -> std::fmt::Result {
    let c = &f.counts;
    let effective = c.due as f64 / asked.recorded.max(1) as f64;
    writeln!(out, "{} → {}", asked.trace, asked.target)?;
    writeln!(out, "policy     {} ({}, hash {})", policy.name, policy.origin, policy.hash)?;
    if let Some(rate) = asked.rate_rps {
        writeln!(out, "rate       {rate}/s of the recorded mix, steady")?;
    } else {
        writeln!(
            out,
            "scale      {}x sessions = {effective:.2}x requests, speed {}x{}",
            asked.scale,
            asked.speed,
            if asked.scale > 1.0 { "; clones repeat URLs, so caches help more than users would" } else { "" }
        )?;
    }
    writeln!(
        out,
        "plan       {}{} requests in {} sessions over {:.1} s: mean {:.1}/s, peak second {:.1}/s",
        if f.sounded { "about " } else { "" },
        c.due,
        f.sessions,
        f.last_due_ns as f64 / NANOS_PER_SEC as f64,
        f.mean_rps(),
        f.peak.rps()
    )?;
    writeln!(out, "           {}", curve(&f.curve, 72))?;
    if f.sounded {
        let words = "the trace is too long to be read before the run: the peak is that of its densest stretches, the rest is estimated";
        writeln!(out, "           {words}")?;
    }
    writeln!(
        out,
        "           up to {} connections at once, up to {} opened in one second (allowed {}/s), {in_flight_max} in flight allowed",
        f.connections_peak,
        f.opens_peak_per_s,
        policy.rate.max_new_connections.rps()
    )?;
    let dropped: u64 = c.dropped.values().sum();
    writeln!(out, "dropped    {dropped} of {} recorded x scale", c.scaled)?;
    for (reason, n) in &c.dropped {
        writeln!(out, "           {n:>8}  {}", reason.name())?;
    }
    writeln!(out, "coverage   {:.1} %", f.coverage() * 100.0)?;
    if !f.routes.is_empty() {
        let mut routes: Vec<_> = f.routes.iter().collect();
        routes.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        let shown: Vec<String> = routes.iter().take(6).map(|(r, n)| format!("{r} {n}")).collect();
        writeln!(out, "routes     {}", shown.join(", "))?;
    }
    let share = asked.bucket_shed as f64 / asked.bucket_tried.max(1) as f64 * 100.0;
    let of =
        if f.sounded { format!(" of {} that were looked at", asked.bucket_tried) } else { String::new() };
    let warning = if share > 0.5 { "; raise [rate] max_rps or expect a capped result (G030)" } else { "" };
    writeln!(
        out,
        "bucket     at full scale it would shed {} requests{of} ({share:.2} %){warning}",
        asked.bucket_shed
    )?;
    lead_in(out, settings)
}

fn lead_in(out: &mut String, settings: &Settings) -> std::fmt::Result {
    let full = time_to_full(settings);
    let minute = full.as_secs_f64() / 60.0;
    if settings.lead_in {
        writeln!(
            out,
            "lead-in    probe {:.1}/s, steps of {:.0} % every {}, L = {}: full scale from minute {minute:.1}",
            settings.target.times(settings.probe_share).rps(),
            settings.step.as_f64() * 100.0,
            show_duration(settings.step_hold),
            show_duration(settings.lag)
        )?;
    } else {
        writeln!(out, "lead-in    none: full scale from minute {minute:.1}")?;
    }
    if settings.share_max < crate::units::Share::ONE {
        writeln!(
            out,
            "CAPPED     the policy allows {:.1} % of the planned peak; the run will end as completed_capped",
            settings.share_max.as_f64() * 100.0
        )?;
    }
    let guards: Vec<&str> = settings.guards.iter().map(|g| g.name.as_str()).collect();
    writeln!(out, "guards     {}", guards.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trial_sheds_what_a_real_bucket_would() {
        let mut even = BucketTrial::new(Rate::per_sec(100));
        (0..1_000u64).for_each(|i| even.due(i * 10_000_000));
        assert_eq!((even.passed, even.shed), (1_000, 0));
        let mut herd = BucketTrial::new(Rate::per_sec(100));
        (0..100u64).for_each(|_| herd.due(5_000_000_000));
        assert_eq!((herd.passed, herd.shed), (16, 84));
    }

    #[test]
    fn a_curve_shows_its_peak() {
        assert_eq!(curve(&[1, 2, 8, 4], 4), "▂▃█▅");
        assert_eq!(curve(&[], 10).chars().count(), 1);
        assert_eq!(curve(&vec![5; 1_000], 72).chars().count(), 72);
    }
}
