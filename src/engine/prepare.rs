//! From what a person asks for to a run that may start, or a refusal with its reason.
//!
//! Everything that can be known before the first request is decided here: the policy, the target, the
//! limits, the whole plan, the lead-in. Flags may lower what a policy allows, never raise it.

use core::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::foresight::{FileSource, Foresight};
use super::run::{Prepared, fresh_id};
use super::{demands, rewriting};
use crate::edge::clock::wall;
use crate::edge::host::clock_sync;
use crate::edge::host::kill_file::KillFile;
use crate::edge::host::site_file;
use crate::edge::host::window::{self, Opening};
use crate::edge::trust;
use crate::govern::settings::Settings;
use crate::limits::POLICY_BYTES_MAX;
use crate::plan::DepartureKind;
use crate::plan::connections::Connections;
use crate::plan::forecast::Forecast;
use crate::plan::pacing::Pacing;
use crate::plan::rewrite::Rewrite;
use crate::plan::screen::Screen;
use crate::plan::stationary::{Sample, StationaryPlan};
use crate::plan::stream::PlanSettings;
use crate::policy::settings::{LeadIn, govern, hold_total as policy_hold_total, time_to_full};
use crate::policy::target::{self, Target};
use crate::policy::{BUILT_IN, Policy, check};
use crate::report::dry_run::{Asked, BucketTrial};
use crate::report::json::RunJson;
use crate::trace::Spreading;
use crate::units::{NANOS_PER_SEC, Rate, Scale, Speed, show_duration};

/// The built-in policy, for loopback targets only.
pub const DEFAULT_POLICY: &str = include_str!("../../policies/default.toml");

/// Why a run does not start.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Wrong usage or unreadable input: exit code 2.
    #[error("{0:#}")]
    Usage(anyhow::Error),
    /// A limit or a rule says no: exit code 3.
    #[error("{0}")]
    Refused(String),
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        Self::Usage(error)
    }
}

fn refused<T>(why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Refused(why.into()))
}

/// What a person asks for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Trace file.
    pub trace: PathBuf,
    /// Clones per session.
    pub scale: Scale,
    /// Speed of trace time.
    pub speed: Speed,
    /// A steady rate instead of the trace's own shape.
    pub rate: Option<Rate>,
    /// Checked policy.
    pub policy: Policy,
    /// Target URL; overrides the policy's within its allow-list.
    pub target: Option<String>,
    /// Other address to connect to.
    pub connect_to: Option<String>,
    /// Part of the trace.
    pub from: Duration,
    /// End of the part.
    pub to: Option<Duration>,
    /// Longest time of the measure phase.
    pub run_for: Option<Duration>,
    /// Again from the start.
    pub repeat: bool,
    /// Lead-in.
    pub lead_in: LeadIn,
    /// Seed.
    pub seed: u64,
    /// This shard and how many there are.
    pub shard: (u64, u64),
    /// When workers wake.
    pub pacing: Pacing,
    /// Whose connections they are.
    pub connections: Connections,
    /// Local addresses that connections come from; none leaves it to the kernel.
    pub source_ips: Vec<IpAddr>,
}

/// Reads and checks a policy file.
///
/// # Errors
/// When it cannot be read or is refused; the message names lines and keys.
pub fn load_policy(path: &Path) -> anyhow::Result<Policy> {
    let show = path.display();
    let size = std::fs::metadata(path).with_context(|| format!("cannot read the policy {show}"))?.len();
    anyhow::ensure!(
        size <= POLICY_BYTES_MAX,
        "{show} has {size} bytes; a policy has at most {POLICY_BYTES_MAX}"
    );
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the policy {show}"))?;
    check::parse(&text, &show.to_string()).with_context(|| format!("the policy {show} is refused"))
}

/// The built-in policy.
///
/// # Errors
/// Never in a release: a test parses it.
pub fn default_policy() -> anyhow::Result<Policy> {
    check::parse(DEFAULT_POLICY, BUILT_IN).context("the built-in policy is refused")
}

/// Prepares a run.
///
/// # Errors
/// [`Refusal`].
pub fn prepare(asked: &Request) -> Result<(Prepared<FileSource>, Asked), Refusal> {
    // What the site says stands above policy and flags; a file that cannot be understood lets nothing run.
    let site = match site_file::of_host() {
        Ok(site) => site,
        Err(e) => return refused(format!("{e:#}")),
    };
    let mut lowered = asked.clone();
    let said = site.lower(&mut lowered.policy);
    let asked = &lowered;
    let policy = &asked.policy;
    let target = target_of(asked)?;
    let opening = opening(policy)?;
    if !target.is_loopback()
        && let Some(why) = clock_sync::objection(&clock_sync::look(), policy.prometheus.is_some())
    {
        return refused(why);
    }
    let connect_to = connect_to(asked, &target)?;
    limits(asked, &target)?;
    if let Some(why) = demands::source_objection(&asked.source_ips) {
        return refused(why);
    }
    let source = FileSource::open(&asked.trace)?;
    if let Some(why) = policy.min_completeness.and_then(|min| source.completeness_objection(min)) {
        return refused(why);
    }
    if let Some(why) = policy.rewrite.objection(&target) {
        return refused(why);
    }
    let (rewrite, accounts) = match rewriting::load(policy, asked.scale, source.days_until(wall())) {
        Ok(loaded) => loaded,
        Err(e) => return refused(format!("{e:#}")),
    };
    let tls = match target.https().then(|| trust::configure(&policy.tls)).transpose() {
        Ok(tls) => tls,
        Err(e) => return refused(format!("{e:#}")),
    };
    let spread = source.spread();
    let plan = plan_settings(asked, rewrite)?;
    let seen = Foresight::of(source, &plan)?;
    something_to_send(&seen.forecast, seen.warning.as_deref())?;
    let first_peak = seen.forecast.peak;
    let mut settings = govern(policy, asked.rate.unwrap_or(first_peak), asked.lead_in);
    hold_total(&mut settings, asked, first_peak);
    // Only now is the ceiling known that the plan's own bursts must pass under.
    let (seen, trial) = seen.trial(&plan, settings.target.times(settings.share_max))?;
    let Foresight { mut source, duration_ns, forecast, warning: trace_warning, .. } = seen;
    let sample = Sample::gather(&mut source, &plan.screen, plan.from_ns, plan.to_ns)?;
    if sample.is_empty() && (asked.rate.is_some() || asked.lead_in == LeadIn::Auto) {
        return refused("no request of the trace may be sent, so there is none to approach the target with");
    }
    let whole = plan.speed.run_nanos(duration_ns);
    let steady = asked.rate.map(|rate| (rate, asked.run_for.map_or(whole, nanos)));
    let (forecast, trial) = match steady {
        None => (forecast, trial),
        Some((rate, until)) => steady_forecast(&sample, rate, asked.seed, until, trial.again()),
    };
    settings.measure_len = match (asked.run_for, steady) {
        (Some(d), _) => d,
        (None, Some((_, until))) => Duration::from_nanos(until),
        (None, None) => Duration::from_nanos(whole),
    };
    fits_window(&settings, opening.as_ref())?;
    let (objection, scarce) =
        demands::capacity_objection(demands::connections(asked, &forecast), asked.source_ips.len());
    if let Some(why) = objection {
        return refused(why);
    }
    let words = RunJson { trace_warning, site_limits: said, ..words(asked, &target, &forecast, spread) };
    let dry = Asked {
        trace: words.trace.clone(),
        target: words.target.clone(),
        scale: words.scale,
        speed: words.speed,
        recorded: forecast.counts.recorded,
        bucket_shed: trial.shed,
        bucket_tried: trial.shed + trial.passed,
        rate_rps: asked.rate.map(Rate::rps),
    };
    let policy = policy.clone();
    let prepared = Prepared {
        policy,
        target,
        connect_to,
        settings,
        plan,
        source,
        duration_ns,
        forecast,
        sample,
        pacing: asked.pacing,
        connections: asked.connections,
        source_ips: asked.source_ips.clone(),
        scarce,
        accounts,
        tls,
        steady,
        opening,
        words,
    };
    Ok((prepared, dry))
}

/// The opening of the window that holds now; without a window there is none.
fn opening(policy: &Policy) -> Result<Option<Opening>, Refusal> {
    let Some(w) = &policy.window else { return Ok(None) };
    let now = wall();
    let opening = window::resolve(w, now)?;
    if opening.contains(now) {
        return Ok(Some(opening));
    }
    let (start, end) = (opening.start.rfc3339(), opening.end.rfc3339());
    refused(format!("the window of policy {:?} is closed; it opens {start} and closes {end}", policy.name))
}

/// Users and ours together: relative to the recorded peak, which is the planned one without scale and speed.
fn hold_total(settings: &mut Settings, asked: &Request, peak: Rate) {
    // Without `--rate`; with it both are one, and the peak is the recorded one already.
    let factor = asked.scale.as_f64() * asked.speed.milli as f64 / 1000.0;
    let recorded = Rate::from_rps_f64(peak.rps() / factor.max(1e-9));
    if let Some(rule) = &mut settings.organic {
        rule.hold_total = policy_hold_total(&asked.policy, recorded);
    }
}

/// G028: the window must hold the climb and the measure phase.
fn fits_window(settings: &Settings, opening: Option<&Opening>) -> Result<(), Refusal> {
    let Some(opening) = opening else { return Ok(()) };
    let left = Duration::from_nanos(opening.end.0.saturating_sub(wall().0));
    let needed = time_to_full(settings) + settings.measure_len + settings.drain_timeout;
    if needed <= left {
        return Ok(());
    }
    refused(format!(
        "G028: the window closes in {}, but the climb ({}), the measure phase ({}) and draining need {}; shorten the run with --for, or open a longer window",
        show_duration(left),
        show_duration(time_to_full(settings)),
        show_duration(settings.measure_len),
        show_duration(needed)
    ))
}

/// What a steady run will do: the recorded mix, so nothing of the trace is dropped or kept as such.
fn steady_forecast(
    sample: &Sample,
    rate: Rate,
    seed: u64,
    until_ns: u64,
    mut trial: BucketTrial,
) -> (Forecast, BucketTrial) {
    let mut f = Forecast { peak: rate, route_names: sample.routes().names().to_vec(), ..Forecast::default() };
    let (mut sessions, mut open) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
    let mut opens = (0u64, 0u32);
    let plan = StationaryPlan::new(Arc::new(sample.clone()), rate, seed);
    for d in plan.into_iter().flatten().take_while(|d| d.due_ns < until_ns) {
        if matches!(d.kind, DepartureKind::Request(..)) {
            let second = (d.due_ns / NANOS_PER_SEC) as usize;
            f.curve.resize(f.curve.len().max(second + 1), 0);
            f.curve[second] += 1;
            (f.counts.due, f.last_due_ns) = (f.counts.due + 1, d.due_ns);
            sessions.insert(d.instance);
            trial.due(d.due_ns);
            if open.insert((d.instance, d.connection)) {
                opens = if opens.0 == second as u64 { (opens.0, opens.1 + 1) } else { (second as u64, 1) };
                f.opens_peak_per_s = f.opens_peak_per_s.max(opens.1);
                f.connections_peak = f.connections_peak.max(open.len() as u64);
            }
        } else {
            // A session of a steady run closes all that it has.
            let its: Vec<_> = open.range((d.instance, 0)..=(d.instance, u16::MAX)).copied().collect();
            for connection in its {
                open.remove(&connection);
            }
        }
    }
    (f.counts.recorded, f.counts.scaled) = (f.counts.due, f.counts.due);
    f.sessions = sessions.len() as u64;
    (f, trial)
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

fn plan_settings(asked: &Request, rewrite: Arc<Rewrite>) -> Result<PlanSettings, Refusal> {
    let policy = &asked.policy;
    let (from_ns, to_ns) = (nanos(asked.from), asked.to.map_or(u64::MAX, nanos));
    if from_ns >= to_ns {
        return refused("--from is not before --to: nothing would be sent");
    }
    let screen = Screen {
        methods: policy.methods.clone(),
        routes: policy.routes.clone(),
        hosts: policy.hosts.clone(),
        rewrite,
    };
    Ok(PlanSettings {
        scale: asked.scale,
        speed: asked.speed,
        from_ns,
        to_ns,
        repeat: asked.repeat,
        for_ns: asked.run_for.map_or(u64::MAX, nanos),
        seed: asked.seed,
        shard: asked.shard,
        screen,
    })
}

fn something_to_send(f: &Forecast, trace_warning: Option<&str>) -> Result<(), Refusal> {
    if f.counts.due > 0 {
        return Ok(());
    }
    let dropped: Vec<String> = f.counts.dropped.iter().map(|(r, n)| format!("{} {n}", r.name())).collect();
    if f.counts.scaled == 0 {
        let part = "the trace has no request in the chosen part (--from, --to, --for, --shard)";
        let warning = trace_warning.map_or_else(String::new, |w| format!("; {w}"));
        return refused(format!("{part}{warning}"));
    }
    let (scaled, dropped) = (f.counts.scaled, dropped.join(", "));
    refused(format!("nothing is left to send: of {scaled} requests dropped: {dropped}"))
}

/// What the report says of the request.
fn words(asked: &Request, target: &Target, f: &Forecast, spread: Option<(Spreading, u64)>) -> RunJson {
    let trace = &asked.trace;
    let name =
        trace.file_name().map_or_else(|| trace.display().to_string(), |n| n.to_string_lossy().into_owned());
    let effective = f.counts.due as f64 / f.counts.recorded.max(1) as f64;
    let note = |(way, seed): (Spreading, u64)| format!("the log cut them to the second; {}", way.words(seed));
    RunJson {
        id: fresh_id(asked.seed).0,
        trace: name,
        target: target.to_string(),
        policy: asked.policy.name.clone(),
        policy_hash: asked.policy.hash.clone(),
        scale: asked.scale.as_f64(),
        effective_scale: (effective * 1e3).round() / 1e3,
        speed: asked.speed.milli as f64 / 1000.0,
        rate_rps: asked.rate.map(Rate::rps),
        peak_rps: f.peak.rps(),
        estimated: f.sounded,
        seed: asked.seed,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        time_note: spread.map(note),
        connections: asked.connections.to_string(),
        source_ips: asked.source_ips.iter().map(ToString::to_string).collect(),
        ..RunJson::default()
    }
}

fn target_of(asked: &Request) -> Result<Target, Refusal> {
    let policy = &asked.policy;
    let Some(url) = asked.target.as_ref().or(policy.target_url.as_ref()) else {
        return Err(Refusal::Usage(anyhow::anyhow!(
            "no target: give --target URL, or a --policy that names one"
        )));
    };
    match Target::new(url, policy.allow.clone()) {
        Ok(target) => Ok(target),
        Err(e @ target::TargetError::BadUrl { .. }) => Err(Refusal::Usage(e.into())),
        Err(e) if policy.origin == BUILT_IN => refused(format!(
            "{e}. The built-in policy allows this machine only; write one for this target (see policies/production-example.toml) and give it with --policy"
        )),
        Err(e) => refused(e.to_string()),
    }
}

fn connect_to(asked: &Request, target: &Target) -> Result<Option<(String, u16)>, Refusal> {
    let Some(text) = &asked.connect_to else { return Ok(None) };
    let parsed = text
        .rsplit_once(':')
        .and_then(|(h, p)| Some((h.trim_matches(['[', ']']).to_owned(), p.parse::<u16>().ok()?)));
    let Some((host, port)) = parsed.filter(|(h, p)| !h.is_empty() && *p > 0) else {
        return Err(Refusal::Usage(anyhow::anyhow!("--connect-to {text:?} is not HOST:PORT")));
    };
    // A literal address is checked now; a name is checked after it is resolved, like the target's own.
    if !asked.policy.allow.lists(&host, port) {
        return refused(format!("--connect-to {text} is not in [target] allow; the policy must list it"));
    }
    if let Ok(ip) = host.parse()
        && let Err(e) = target.permit(core::net::SocketAddr::new(ip, port))
    {
        return refused(format!("--connect-to: {e}"));
    }
    Ok(Some((host, port)))
}

fn limits(asked: &Request, target: &Target) -> Result<(), Refusal> {
    let rate = &asked.policy.rate;
    // Time pressed together is load, too.
    let load = u128::from(asked.scale.milli) * u128::from(asked.speed.milli.max(1000)) / 1000;
    if load > u128::from(rate.max_scale_milli) {
        let (max, speed) = (rate.max_scale_milli as f64 / 1000.0, asked.speed.milli as f64 / 1000.0);
        return refused(format!(
            "--scale {}x at --speed {speed}x is above the policy's [rate] max_scale = {max}",
            asked.scale.as_f64()
        ));
    }
    if let Some(kill) = &asked.policy.kill_file {
        match KillFile::new(Path::new(kill)) {
            Ok(file) if file.says_stop() => {
                return refused(format!("the kill file {kill} is present; remove it to run"));
            }
            Ok(_) => {}
            Err(e) => return refused(e.to_string()),
        }
    }
    if asked.lead_in == LeadIn::None && !target.is_loopback() {
        return refused("--lead-in none is for loopback targets only; production is approached step by step");
    }
    if asked.connections != Connections::Recorded && asked.policy.rewrite.has_sessions() {
        return refused(
            "--connections pool:N shares connections among all sessions, but [rewrite] takes values or cookies from answers or has accounts, which belong to one session; use the recorded connections",
        );
    }
    if !target.is_loopback() && asked.policy.is_loopback_only() {
        return refused("the policy was checked for this machine only");
    }
    if asked.rate.is_some_and(|r| r > rate.max_rps) {
        return refused(format!("--rate is above the policy's [rate] max_rps = {}", rate.max_rps.rps()));
    }
    if !target.is_loopback() && asked.policy.routes.allow.is_empty() {
        return refused(
            "the policy lists no [routes] allow; a run outside this machine sends only what is listed",
        );
    }
    Ok(())
}

/// What a whole trace holds under a policy at a scale: peak, routes, counts, and what the bucket would shed of it.
///
/// # Errors
/// When it cannot be read.
pub fn survey(
    trace: &Path,
    policy: Policy,
    scale: Scale,
    look: impl FnOnce(FileSource, &PlanSettings) -> anyhow::Result<Foresight>,
) -> anyhow::Result<(Forecast, BucketTrial)> {
    let asked = Request {
        trace: trace.to_owned(),
        scale,
        speed: Speed::ONE,
        rate: None,
        policy,
        target: None,
        connect_to: None,
        from: Duration::ZERO,
        to: None,
        run_for: None,
        repeat: false,
        lead_in: LeadIn::Auto,
        seed: 1,
        shard: (0, 1),
        pacing: Pacing::Auto,
        connections: Connections::Recorded,
        source_ips: Vec::new(),
    };
    let plan = match plan_settings(&asked, rewriting::for_survey(&asked.policy)?) {
        Ok(plan) => plan,
        Err(Refusal::Usage(e)) => return Err(e),
        Err(Refusal::Refused(why)) => anyhow::bail!(why),
    };
    let seen = look(FileSource::open(trace)?, &plan)?;
    let settings = govern(&asked.policy, seen.forecast.peak, asked.lead_in);
    let (seen, trial) = seen.trial(&plan, settings.target.times(settings.share_max))?;
    Ok((seen.forecast, trial))
}
