//! `replay check POLICY`: everything that can be known before sending.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use super::{backtest, init};
use crate::edge::clock::wall;
use crate::edge::host::clock_sync::{self, ClockSync};
use crate::edge::host::{capacity, site_file, window};
use crate::edge::send::look;
use crate::edge::watch::poll::{PollContext, ask};
use crate::engine::prepare::{load_policy, survey};
use crate::engine::run::target_name;
use crate::govern::guard::Thresholds;
use crate::govern::reading::{Answer, NoData, Reading};
use crate::policy::settings::{LeadIn, govern, in_flight_max, lag, time_to_full};
use crate::policy::target::Target;
use crate::policy::{GuardQuery, Policy, QueryGuard};
use crate::report::cause::limits_words;
use crate::units::{Rate, WallTime, show_duration};

/// A certificate that ends sooner than this is told: renewals fail on weekends, too.
const CERTIFICATE_SOON: Duration = Duration::from_secs(14 * 86_400);

/// Check a policy without sending load: lints, pre-flight facts, each guard asked once.
#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// Policy file (TOML); see policies/production-example.toml.
    policy: PathBuf,
    /// Do not ask Prometheus or any metrics page, and do not look at the target.
    #[arg(long)]
    offline: bool,
    /// Print lags, reaction times and requests at risk.
    #[arg(long)]
    explain: bool,
    /// Check against what this trace needs: peak, connections, time.
    #[arg(long, value_name = "TRACE")]
    trace: Option<PathBuf>,
    /// Target URL; must be in the policy's allow-list.
    #[arg(long, value_name = "URL")]
    target: Option<String>,
    /// Run the guards over this many past weeks, such as 4w.
    #[arg(long, value_name = "WEEKS", value_parser = backtest::weeks)]
    backtest: Option<u32>,
}

impl CheckArgs {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// If the output cannot be written.
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<u8> {
        let mut policy = match load_policy(&self.policy) {
            Ok(policy) => policy,
            Err(error) => {
                writeln!(std::io::stderr(), "replay: {error:#}")?;
                return Ok(super::USAGE);
            }
        };
        writeln!(out, "{}: {} (hash {})", self.policy.display(), policy.name, policy.hash)?;
        for warning in &policy.warnings {
            writeln!(out, "{warning}")?;
        }
        let mut fine = self.site(out, &mut policy)?;
        fine &= window_facts(out, &policy)?;
        fine &= clock_facts(out, &policy)?;
        let peak = self.plan(out, &policy, &mut fine)?;
        if self.explain {
            explain(out, &policy, peak)?;
        }
        if !self.offline {
            fine &= self.ask_around(out, &policy)?;
        }
        let words = if fine {
            "the policy is accepted"
        } else {
            "the policy is accepted, but a run would not start now"
        };
        writeln!(out, "{words}")?;
        Ok(if fine { super::OK } else { super::REFUSED })
    }

    fn site(&self, out: &mut impl Write, policy: &mut Policy) -> anyhow::Result<bool> {
        match site_file::of_host() {
            Ok(site) => {
                let said = site.lower(policy);
                if !said.is_empty() {
                    writeln!(out, "site limits lower it: {}", said.join(", "))?;
                }
                Ok(true)
            }
            Err(error) => {
                writeln!(out, "error: {error:#}")?;
                Ok(false)
            }
        }
    }

    /// The peak that the governor will be set for, and what the plan needs of this machine.
    fn plan(&self, out: &mut impl Write, policy: &Policy, fine: &mut bool) -> anyhow::Result<Rate> {
        let Some(trace) = &self.trace else { return Ok(policy.rate.max_rps) };
        let f = survey(trace)?;
        let scale = policy.rate.max_scale_milli as f64 / 1000.0;
        let peak = Rate::from_rps_f64(f.peak.rps() * scale);
        let connections = (f.connections_peak as f64 * scale).ceil() as u64;
        writeln!(
            out,
            "trace: {} of {} requests may be sent; at the highest scale ({scale}x) a peak of {peak}, {connections} connections at once",
            f.counts.due, f.counts.scaled
        )?;
        let settings = govern(policy, peak, LeadIn::Auto);
        let needed =
            time_to_full(&settings) + std::time::Duration::from_nanos(f.last_due_ns) + settings.drain_timeout;
        if let Some(w) = policy.window.as_ref().filter(|w| needed > w.duration) {
            let (needed, open) = (show_duration(needed), show_duration(w.duration));
            writeln!(
                out,
                "error G028: climb, trace and draining need {needed}, the window is open for {open}"
            )?;
            *fine = false;
        }
        for small in capacity::look().too_small_for(connections.min(in_flight_max(policy, peak) * 4)) {
            writeln!(out, "warning: {small}")?;
        }
        Ok(peak)
    }

    fn ask_around(&self, out: &mut impl Write, policy: &Policy) -> anyhow::Result<bool> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut fine = true;
        let url = self.target.as_ref().or(policy.target_url.as_ref());
        let target = match url.map(|u| Target::new(u, policy.allow.clone())).transpose() {
            Ok(target) => target,
            Err(error) => {
                writeln!(out, "error: {error}")?;
                return Ok(false);
            }
        };
        if let Some(target) = &target {
            fine &= runtime.block_on(target_facts(out, target, latest_end(policy)))?;
        }
        let context = init::context(policy, target.as_ref().map(target_name).unwrap_or_default())?;
        for (index, guard) in policy.guards.iter().enumerate() {
            fine &= runtime.block_on(one_guard(out, &context, index, guard))?;
        }
        if let Some(weeks) = self.backtest {
            runtime.block_on(backtest::print(out, &context, policy, weeks))?;
        }
        Ok(fine)
    }
}

fn window_facts(out: &mut impl Write, policy: &Policy) -> anyhow::Result<bool> {
    let Some(w) = &policy.window else { return Ok(true) };
    let now = wall();
    match window::resolve(w, now) {
        Ok(o) => {
            let word = if o.contains(now) { "open since" } else { "opens" };
            writeln!(out, "window {word} {}, closes {} (UTC)", o.start.rfc3339(), o.end.rfc3339())?;
            for change in window::clock_changes(w, now)? {
                writeln!(out, "warning G020: window.start: {change}")?;
            }
            Ok(true)
        }
        Err(error) => {
            writeln!(out, "error G020: {error:#}")?;
            Ok(false)
        }
    }
}

/// Says when the certificate ends; it must outlive the run that could end last, at `until`.
fn certificate(out: &mut impl Write, ends: Option<WallTime>, until: WallTime) -> anyhow::Result<bool> {
    let Some(ends) = ends else { return Ok(true) };
    let left = Duration::from_nanos(ends.0.saturating_sub(wall().0));
    let (date, days) = (ends.rfc3339(), left.as_secs() / 86_400);
    writeln!(out, "  certificate valid until {} ({days} days)", date.get(..10).unwrap_or(&date))?;
    if ends <= until {
        let until = until.rfc3339();
        writeln!(out, "error: the certificate ends before a run would, at {until}; renew it first")?;
    } else if left < CERTIFICATE_SOON {
        writeln!(out, "warning: the certificate ends in {days} days")?;
    }
    Ok(ends > until)
}

/// The latest moment at which a run under this policy could still send: the end of its window, else of its longest
/// run from now on, else of a day.
fn latest_end(policy: &Policy) -> WallTime {
    let now = wall();
    let opening = policy.window.as_ref().and_then(|w| window::resolve(w, now).ok());
    let longest = policy.duration_max.unwrap_or(Duration::from_secs(86_400));
    opening.map_or_else(|| WallTime(now.0.saturating_add(longest.as_nanos() as u64)), |o| o.end)
}

fn clock_facts(out: &mut impl Write, policy: &Policy) -> anyhow::Result<bool> {
    let sync = clock_sync::look();
    let words = match &sync {
        ClockSync::Synchronised => "synchronised".to_owned(),
        ClockSync::Unsynchronised => "NOT synchronised".to_owned(),
        ClockSync::Unknown(why) => format!("not known to be synchronised ({why})"),
    };
    writeln!(out, "clock: {words}")?;
    let objection = clock_sync::objection(&sync, policy.prometheus.is_some());
    match objection.filter(|_| !policy.is_loopback_only()) {
        Some(why) => {
            writeln!(out, "error: {why}")?;
            Ok(false)
        }
        None => Ok(true),
    }
}

async fn target_facts(out: &mut impl Write, target: &Target, until: WallTime) -> anyhow::Result<bool> {
    let tls = target.https().then(crate::edge::trust::client_config).transpose()?;
    match look::look(target, tls).await {
        Ok(seen) => {
            writeln!(out, "target {target}: {} (all in the allow-list)", seen.addresses.join(", "))?;
            if let Some(tls) = &seen.tls {
                let alpn = seen.alpn.as_deref().unwrap_or("none");
                writeln!(out, "  certificate verified, {tls}, ALPN {alpn}")?;
            }
            let certificate = certificate(out, seen.certificate_ends, until)?;
            let path: Vec<String> = seen.headers.iter().map(|(k, v)| format!("{k}: {v}")).collect();
            writeln!(
                out,
                "  one HEAD / was sent: status {}; the path shows as {}",
                seen.status,
                path.join("; ")
            )?;
            let stop = seen.headers.iter().any(|(k, _)| k == "x-replay-stop");
            if stop {
                writeln!(
                    out,
                    "error: the target answers with X-Replay-Stop: somebody has switched replays off there"
                )?;
            }
            Ok(!stop && certificate)
        }
        Err(error) => {
            writeln!(out, "error: target {target}: {error:#}")?;
            Ok(false)
        }
    }
}

fn explain(out: &mut impl Write, policy: &Policy, peak: Rate) -> anyhow::Result<()> {
    let settings = govern(policy, peak, LeadIn::Auto);
    writeln!(out, "L = {} (largest lag of any guard)", show_duration(lag(policy)))?;
    for guard in &settings.guards {
        // k confirmed polls come after the lag, at worst.
        let polls = policy.guards.iter().find(|g| g.spec.name == guard.name).map(|g| g.poll);
        let worst = guard.lag + polls.unwrap_or_default() * u32::from(guard.confirm.saturating_sub(1));
        let at_risk = settings.target.min(policy.rate.max_rps).rps() * worst.as_secs_f64();
        writeln!(
            out,
            "  {:<40} L {:>7}, acts within {:>7}; {at_risk:.0} requests at full scale until then",
            guard.name,
            show_duration(guard.lag),
            show_duration(worst)
        )?;
    }
    writeln!(
        out,
        "steps of {:.0} % every {}; full scale after {} at the earliest; cool-down {}; probe at {}",
        settings.step.as_f64() * 100.0,
        show_duration(settings.step_hold),
        show_duration(time_to_full(&settings)),
        show_duration(settings.cooldown),
        settings.target.times(settings.probe_share)
    )?;
    if let Some(GuardQuery::Visibility(q)) =
        policy.guards.iter().map(|g| &g.query).find(|q| matches!(q, GuardQuery::Visibility(_)))
    {
        // Three standard deviations of a Poisson count over the range, at half of ours.
        let range = q.range.as_secs_f64().max(1.0);
        let least = |users: f64| 6.0 * (users / range).sqrt();
        writeln!(
            out,
            "visibility over {}: among 10/s of users the probe needs {:.1}/s to be seen, among 100/s {:.1}/s, among 1000/s {:.1}/s",
            show_duration(q.range),
            least(10.0),
            least(100.0),
            least(1000.0)
        )?;
    }
    Ok(())
}

/// One answer; a growth per second needs two looks.
async fn once(context: &PollContext, index: usize, guard: &QueryGuard) -> Answer {
    let (mut before, mut answer) = (None, Answer::NoData(NoData::NotYet));
    for _ in 0..2 {
        let asked = ask(context, index, guard, &mut before, context.clock.now());
        answer = tokio::time::timeout(guard.timeout, asked).await.unwrap_or(Answer::NoData(NoData::Timeout));
        if answer != Answer::NoData(NoData::NotYet) {
            break;
        }
        tokio::time::sleep(guard.poll).await;
    }
    answer
}

/// Asks a guard once and says what it would mean, and why.
async fn one_guard(
    out: &mut impl Write,
    context: &PollContext,
    index: usize,
    guard: &QueryGuard,
) -> anyhow::Result<bool> {
    let answer = once(context, index, guard).await;
    // The rate of the visibility query is no amplification before anything was sent.
    let reading = match (&guard.query, answer) {
        (GuardQuery::Visibility(_), Answer::Value { value, .. }) => Reading::Good(value),
        _ => guard.spec.read(answer),
    };
    let mut fine = matches!(reading, Reading::Good(_) | Reading::Neutral) || !guard.spec.required;
    let mut limits = guard.spec.thresholds;
    let mut note = String::new();
    if !guard.baselines.is_empty() {
        match crate::edge::watch::baseline::of_guard(context, guard).await {
            Ok(Some(values)) => (limits, note) = with_baselines(guard, &values),
            Ok(None) => (fine, note) = (false, "; no baseline: too few clean points".to_owned()),
            Err(why) => (fine, note) = (false, format!("; no baseline: {why:?}")),
        }
    }
    let would = if fine { "would start" } else { "would not start" };
    let spec = crate::govern::guard::GuardSpec { thresholds: limits, ..guard.spec.clone() };
    writeln!(out, "  {:<40} {reading:?} (limits: {}{note}): {would}", guard.spec.name, limits_words(&spec))?;
    Ok(fine)
}

fn with_baselines(guard: &QueryGuard, values: &[f64]) -> (Thresholds, String) {
    let mut limits = guard.spec.thresholds;
    for (rule, value) in guard.baselines.iter().zip(values) {
        limits = rule.apply(limits, *value);
    }
    let shown: Vec<String> = values.iter().map(|v| format!("{v:.4}")).collect();
    (limits, format!("; baseline {}", shown.join(", ")))
}
