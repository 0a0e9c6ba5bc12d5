//! `replay check POLICY`: everything that can be known before sending.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use super::{backtest, check_guard, init};
use crate::edge::clock::{Clock, wall};
use crate::edge::host::clock_sync::{self, ClockSync};
use crate::edge::host::{capacity, site_file, window};
use crate::edge::send::dns::Resolver;
use crate::edge::send::look;
use crate::engine::foresight::Foresight;
use crate::engine::prepare::{load_policy, survey};
use crate::engine::run::target_name;
use crate::policy::settings::{LeadIn, govern, in_flight_max, lag, time_to_full};
use crate::policy::target::Target;
use crate::policy::{GuardQuery, Policy};
use crate::units::{Rate, Scale, WallTime, show_duration};

/// More than this share shed by the bucket makes another shape of the recorded one (lint G030).
const BUCKET_SHED_WARN: f64 = 0.005;

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
        let scale = Scale { milli: policy.rate.max_scale_milli };
        let (f, trial) = survey(trace, policy.clone(), scale, Foresight::of)?;
        let (peak, connections) = (f.peak, f.connections_peak);
        writeln!(
            out,
            "trace: at the highest scale ({}x) {}{} of {} requests may be sent, with a peak of {peak} and {connections} connections at once",
            scale.as_f64(),
            if f.sounded { "about " } else { "" },
            f.counts.due,
            f.counts.scaled
        )?;
        let shed = trial.share();
        if shed > BUCKET_SHED_WARN {
            let percent = shed * 100.0;
            writeln!(
                out,
                "warning G030: the bucket would shed {percent:.1} % of them at full scale; raise [rate] max_rps or lower the scale"
            )?;
        }
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
            fine &= runtime.block_on(target_facts(out, policy, target, latest_end(policy)))?;
        }
        let context = init::context(policy, target.as_ref().map(target_name).unwrap_or_default())?;
        for (index, guard) in policy.guards.iter().enumerate() {
            fine &= runtime.block_on(check_guard::one_guard(out, policy, &context, index, guard))?;
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
    let Some(ends) = ends else {
        writeln!(out, "error: when the certificate ends cannot be read")?;
        return Ok(false);
    };
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

async fn target_facts(
    out: &mut impl Write,
    policy: &Policy,
    target: &Target,
    until: WallTime,
) -> anyhow::Result<bool> {
    let tls = target.https().then(|| crate::edge::trust::configure(&policy.tls)).transpose();
    let tls = match tls {
        Ok(tls) => tls,
        Err(e) => {
            writeln!(out, "error: {e:#}")?;
            return Ok(false);
        }
    };
    let resolver = Resolver::new(target, None, &policy.resolvers, Clock::start());
    match look::look(target, &resolver, policy.tls.server_name.as_deref(), tls).await {
        Ok(seen) => {
            writeln!(out, "target {target}: {} (all in the allow-list)", seen.addresses.join(", "))?;
            if let Some(tls) = &seen.tls {
                let alpn = seen.alpn.as_deref().unwrap_or("none");
                writeln!(out, "  certificate verified, {tls}, ALPN {alpn}")?;
            }
            let certificate = seen.tls.is_none() || certificate(out, seen.certificate_ends, until)?;
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
