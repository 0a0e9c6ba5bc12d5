//! `replay drill POLICY`: tries every way to stop a run against the real target, at the probe rate, and prints how
//! long each one took.
//!
//! Guards are tripped by moving their limits, never by harming anybody; Prometheus is cut off by a relay of our
//! own in front of it. The dated result is kept, and a policy may demand a recent one.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::edge::clock::{wait, wall};
use crate::edge::host::control::{running, tell};
use crate::edge::host::lock;
use crate::edge::host::signals::stop_on_signals;
use crate::edge::host::state_folder::{folder, replace, safe_name};
use crate::edge::watch::relay::Relay;
use crate::engine::handle::Handle;
use crate::engine::ledger;
use crate::engine::prepare::{Refusal, Request, load_policy, prepare};
use crate::engine::run::{Conduct, run, target_name};
use crate::engine::shared::Stage;
use crate::govern::latch::Latch;
use crate::plan::connections::Connections;
use crate::plan::pacing::Pacing;
use crate::policy::Policy;
use crate::policy::settings::{LeadIn, local_guards};
use crate::policy::target::Target;
use crate::report::json::Report;
use crate::units::{Rate, RunTime, Scale, Share, Speed, WallTime, show_duration};

/// Rate of a drill whatever the policy would allow.
const RATE_MAX: Rate = Rate::per_sec(10);

/// Longest wait for a run to send, and to end after it was told to.
const PATIENCE: Duration = Duration::from_secs(120);

/// Try every way to stop a run, at the probe rate, and time it.
#[derive(Debug, clap::Args)]
pub(super) struct DrillArgs {
    /// Policy file.
    policy: PathBuf,
    /// The trace whose requests are sent.
    #[arg(long, value_name = "TRACE")]
    trace: PathBuf,
    /// Target URL; must be in the policy's allow-list.
    #[arg(long, value_name = "URL")]
    target: Option<String>,
    /// Name the target's host again, to confirm a drill outside this machine.
    #[arg(long, value_name = "HOST")]
    confirm: Option<String>,
    /// Folder for the journals of the drill.
    #[arg(long, default_value = "runs/drill")]
    out: PathBuf,
}

/// What a drill writes into the kill file, so that it takes away no other.
const KILL_WORDS: &str = "replay drill\n";

/// One way to stop.
#[derive(Debug, Clone)]
enum Way {
    Signal,
    KillFile(PathBuf),
    Control,
    Guard(usize, String),
    PrometheusGone,
}

/// What came of one way.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Tried {
    way: String,
    /// From acting to the last request that left, milliseconds; none when nothing was sent after all.
    stopped_ms: Option<u64>,
    /// How the run ended, and why.
    ended: String,
    passed: bool,
}

/// The dated result.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct DrillRecord {
    policy: String,
    policy_hash: String,
    target: String,
    at: WallTime,
    passed: bool,
    tried: Vec<Tried>,
}

fn record_path(policy: &Policy) -> anyhow::Result<PathBuf> {
    Ok(folder()?.join(format!("drill-{}.json", safe_name(&policy.name))))
}

/// Why a policy that demands a recent drill may not run: there is none, it failed, was of another text, or is old.
///
/// # Errors
/// When the record cannot be read.
pub(super) fn missing(policy: &Policy, target: &Target) -> anyhow::Result<Option<String>> {
    let Some(max_age) = policy.drill_max_age else { return Ok(None) };
    let how = format!("run: replay drill {} --trace TRACE", policy.origin);
    let path = record_path(policy)?;
    let Ok(text) = std::fs::read_to_string(&path) else {
        return Ok(Some(format!("[drill] max_age: this policy has never been drilled here; {how}")));
    };
    let record: DrillRecord =
        serde_json::from_str(&text).with_context(|| format!("{} cannot be understood", path.display()))?;
    let age = Duration::from_nanos(wall().0.saturating_sub(record.at.0));
    Ok(if record.target != target_name(target) {
        Some(format!(
            "[drill] max_age: the last drill was against {}, not {}; {how}",
            record.target,
            target_name(target)
        ))
    } else if !record.passed {
        Some(format!("[drill] max_age: the last drill of this policy did not pass; {how}"))
    } else if record.policy_hash != policy.hash {
        Some(format!("[drill] max_age: the policy has changed since it was drilled; {how}"))
    } else if age > max_age || record.at > wall() {
        Some(format!(
            "[drill] max_age: the last drill is {} old, at most {} are allowed; {how}",
            show_duration(age),
            show_duration(max_age)
        ))
    } else {
        None
    })
}

impl DrillArgs {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// When the policy or trace cannot be read, or a run cannot be started.
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<u8> {
        let mut policy = load_policy(&self.policy)?;
        // A drill is a handful of requests; the window and the climb do not concern it.
        (policy.window, policy.drill_max_age) = (None, None);
        let (prepared, _) = match prepare(&self.request(&policy)) {
            Ok(both) => both,
            Err(Refusal::Usage(e)) => return Err(e),
            Err(Refusal::Refused(why)) => {
                writeln!(std::io::stderr(), "replay: refused: {why}")?;
                return Ok(super::REFUSED);
            }
        };
        let target = prepared.target;
        if !target.is_loopback() && self.confirm.as_deref() != Some(target.host()) {
            writeln!(std::io::stderr(), "replay: refused: not confirmed; give --confirm {}", target.host())?;
            return Ok(super::REFUSED);
        }
        let name = target_name(&target);
        let _lock = lock::acquire(&name)?;
        if let Some(why) = ledger::obstacle(&target)? {
            writeln!(std::io::stderr(), "replay: refused: {why}")?;
            return Ok(super::REFUSED);
        }
        let latch = Latch::new();
        stop_on_signals(&latch)?;
        let ways = ways(&policy);
        writeln!(
            out,
            "drill of {} against {name}, at most {RATE_MAX}, {} ways to stop",
            policy.name,
            ways.len()
        )?;
        let mut tried = Vec::new();
        for (n, way) in ways.iter().enumerate() {
            let t = self.one(&policy, way, n)?;
            let time = t.stopped_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
            writeln!(
                out,
                "  {:<44} {time:>9}  {}  {}",
                t.way,
                if t.passed { "ok  " } else { "FAIL" },
                t.ended
            )?;
            out.flush()?;
            let expected = t.passed;
            tried.push(t);
            // Something real has happened, or a person wants it to end: no next run.
            if !expected || latch.is_set() {
                writeln!(
                    out,
                    "  the drill ends here: this way did not end as it should, or somebody stopped it"
                )?;
                break;
            }
        }
        let all = tried.len() == ways.len();
        writeln!(
            out,
            "  X-Replay-Stop is in the target's hands: switch on a rule of deploy/balancer and watch a run end"
        )?;
        let passed = all && tried.iter().all(|t| t.passed);
        let record = DrillRecord {
            policy: policy.name.clone(),
            policy_hash: policy.hash.clone(),
            target: name,
            at: wall(),
            passed,
            tried,
        };
        let path = record_path(&policy)?;
        replace(&path, &serde_json::to_string_pretty(&record)?)?;
        writeln!(
            out,
            "{}; kept in {}",
            if passed { "every way works" } else { "NOT every way works" },
            path.display()
        )?;
        Ok(if passed { super::OK } else { 5 })
    }

    fn request(&self, policy: &Policy) -> Request {
        Request {
            trace: self.trace.clone(),
            scale: Scale::ONE,
            speed: Speed::ONE,
            rate: Some(RATE_MAX.min(policy.rate.max_rps)),
            policy: policy.clone(),
            target: self.target.clone(),
            connect_to: None,
            from: Duration::ZERO,
            to: None,
            run_for: Some(PATIENCE * 10),
            repeat: false,
            lead_in: LeadIn::Auto,
            seed: 1,
            shard: (0, 1),
            pacing: Pacing::Auto,
            connections: Connections::Recorded,
            source_ips: Vec::new(),
        }
    }

    fn one(&self, policy: &Policy, way: &Way, n: usize) -> anyhow::Result<Tried> {
        let mut policy = policy.clone();
        // What a drill spends is counted apart: it must not shift the period of real runs.
        policy.name.push_str(" (drill)");
        let mut relay = None;
        if let (Way::PrometheusGone, Some(p)) = (way, &mut policy.prometheus) {
            let started = Relay::start(&p.url)?;
            p.url = started.url().to_owned();
            relay = Some(started);
        }
        let request = self.request(&policy);
        let (mut prepared, _) = prepare(&request).map_err(|r| match r {
            Refusal::Usage(e) => e,
            Refusal::Refused(why) => anyhow::anyhow!(why),
        })?;
        // A drill never leaves the probe, and all of its few requests a second are the probe.
        prepared.settings.probe_share = Share::ONE;
        prepared.settings.lag = PATIENCE * 10;
        prepared.settings.visible_within = PATIENCE * 10;
        prepared.settings.probe_max = PATIENCE * 10;
        let id = prepared.words.id.clone();
        let folder = self.out.join(format!("{n:02}-{id}"));
        let handle = Arc::new(Handle::default());
        let conduct = Conduct { handle: Some(Arc::clone(&handle)), ..Conduct::into(folder, 1) };
        let (acting, told) = (way.clone(), Arc::clone(&handle));
        let actor = std::thread::Builder::new()
            .name("drill".to_owned())
            .spawn(move || act(&acting, &told, &id, relay))?;
        let report = run(prepared, &conduct, &mut |_| ());
        let acted = actor.join().map_err(|_| anyhow::anyhow!("the drill's own thread panicked"))?;
        let ours = |path: &PathBuf| std::fs::read_to_string(path).is_ok_and(|text| text == KILL_WORDS);
        // One that a person made meanwhile stays.
        if let Way::KillFile(path) = way
            && ours(path)
        {
            std::fs::remove_file(path)
                .with_context(|| format!("cannot remove the kill file {}", path.display()))?;
        }
        Ok(judge(way, &report?, acted, &handle))
    }
}

/// All ways of a policy.
fn ways(policy: &Policy) -> Vec<Way> {
    let mut ways = vec![Way::Signal, Way::Control];
    ways.extend(policy.kill_file.as_ref().map(|k| Way::KillFile(PathBuf::from(k))));
    let local = local_guards(policy);
    let names = local.iter().map(|(_, s)| s).chain(policy.guards.iter().map(|g| &g.spec));
    for (i, spec) in names.enumerate() {
        let t = spec.thresholds;
        if t.back_off.is_some() || t.abort.is_some() {
            ways.push(Way::Guard(i, spec.name.clone()));
        }
    }
    if policy.prometheus.is_some() {
        ways.push(Way::PrometheusGone);
    }
    ways
}

/// Waits until the run sends, acts, and returns when it did (`None` when it never sent).
fn act(way: &Way, handle: &Handle, id: &str, relay: Option<Relay>) -> Option<RunTime> {
    let clock = crate::edge::clock::Clock::start();
    let patience = |limit: Duration| clock.now() < RunTime::from_duration(limit);
    let shared = loop {
        match handle.shared() {
            Some(shared) if shared.gate.last_spent() > RunTime::START => break shared,
            Some(shared) if shared.stage().0 == Stage::Ended => return None,
            _ if !patience(PATIENCE) => return None,
            _ => wait(Duration::from_millis(10)),
        }
    };
    // A few more requests, so that guards have something to read.
    wait(Duration::from_secs(2));
    let at = shared.clock.now();
    match way {
        Way::Signal => shared.gate.latch().signal_flag().store(15, std::sync::atomic::Ordering::SeqCst),
        Way::KillFile(path) => drop(std::fs::write(path, KILL_WORDS)),
        Way::Control => {
            let socket = running().into_iter().find(|(run, _)| run == id).map(|(_, path)| path);
            let _told = socket.is_some_and(|path| tell(&path, "stop").is_ok());
        }
        Way::Guard(index, _) => handle.trip(*index),
        Way::PrometheusGone => drop(relay),
    }
    // A way that does not work must not leave load behind.
    while shared.stage().0 != Stage::Ended && clock.now() < RunTime::from_duration(PATIENCE * 2) {
        wait(Duration::from_millis(20));
    }
    shared.gate.latch().set(crate::govern::latch::StopCause::Control);
    Some(at)
}

fn judge(way: &Way, report: &Report, acted: Option<RunTime>, handle: &Handle) -> Tried {
    let (name, wanted) = match way {
        // Set from within: a real second signal would end the drill itself. The handler has a test of its own.
        Way::Signal => ("signal (its flag, set from within)".to_owned(), "signal".to_owned()),
        Way::KillFile(_) => ("kill file".to_owned(), "kill file".to_owned()),
        Way::Control => ("replay stop (control socket)".to_owned(), "replay stop".to_owned()),
        Way::Guard(_, guard) => (format!("guard {guard:?} tripped"), format!("{guard:?}")),
        Way::PrometheusGone => ("Prometheus cut off".to_owned(), "no data for too long".to_owned()),
    };
    let cause = report.cause.clone().unwrap_or_default();
    let last = handle.shared().map(|s| s.gate.last_spent());
    let stopped_ms = acted.zip(last).map(|(at, last)| last.since(at).as_millis() as u64);
    let by_drill = cause.contains(&wanted);
    let neutral = match way {
        Way::Guard(_, guard) => {
            let last = report.guards.iter().find(|g| g.name == *guard);
            cause.contains("replay stop") && last.is_some_and(|g| g.last_level == "neutral")
        }
        _ => false,
    };
    let ended = if neutral {
        "has too few samples at the probe rate to be tripped".to_owned()
    } else {
        format!("{}: {}", report.state, cause.chars().take(100).collect::<String>())
    };
    Tried {
        way: name,
        stopped_ms: stopped_ms.filter(|_| by_drill),
        ended,
        passed: acted.is_some() && (by_drill || neutral),
    }
}
