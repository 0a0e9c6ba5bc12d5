//! `replayd`: the unattended side. In this version it checks its configuration and tells systemd that it is
//! ready; it schedules nothing yet, and says so.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use serde::Deserialize;

use crate::edge::clock::{wait, wall};
use crate::edge::host::{notify, signals, window};
use crate::engine::prepare::load_policy;
use crate::engine::run::target_name;
use crate::govern::latch::Latch;
use crate::limits::POLICY_BYTES_MAX;
use crate::policy::Policy;
use crate::policy::target::Target;

#[derive(Debug, Parser)]
#[command(
    name = "replayd",
    version,
    about = "The unattended side of replay: checks its configuration and waits"
)]
struct Args {
    /// Configuration file.
    #[arg(long, default_value = "/etc/replay/replayd.toml")]
    config: PathBuf,
    /// Check the configuration and every policy it names, and exit.
    #[arg(long)]
    check: bool,
}

/// The configuration file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Version of the format: 1.
    version: u32,
    /// Policies to check at start.
    #[serde(default)]
    policies: Vec<PathBuf>,
}

/// Parses arguments and runs.
#[must_use]
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            drop(error.print());
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "replayd: {error:#}"));
            ExitCode::from(2)
        }
    }
}

fn check(path: &Path) -> anyhow::Result<usize> {
    let show = path.display();
    let size =
        std::fs::metadata(path).with_context(|| format!("cannot read the configuration {show}"))?.len();
    anyhow::ensure!(size <= POLICY_BYTES_MAX, "{show} has {size} bytes; at most {POLICY_BYTES_MAX} are read");
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read the configuration {show}"))?;
    let config: Config =
        toml::from_str(&text).with_context(|| format!("the configuration {show} is refused"))?;
    anyhow::ensure!(
        config.version == 1,
        "{show}: version {} is not known; this program reads version 1",
        config.version
    );
    let policies: Vec<Policy> = config.policies.iter().map(|p| load_policy(p)).collect::<Result<_, _>>()?;
    for (n, a) in policies.iter().enumerate() {
        for b in policies.iter().skip(n + 1) {
            apart(a, b)?;
        }
    }
    Ok(policies.len())
}

/// Two policies on one target may not be open at once: the second run would be refused, and nobody would be there to
/// see it (lint G020).
fn apart(a: &Policy, b: &Policy) -> anyhow::Result<()> {
    let target = |p: &Policy| p.target_url.as_ref().map(|u| Target::new(u, p.allow.clone())).transpose();
    // Without a URL the target is named at the start of a run, and the lock on it is all there can be.
    let (Some(x), Some(y)) = (target(a)?, target(b)?) else { return Ok(()) };
    if target_name(&x) != target_name(&y) {
        return Ok(());
    }
    let (one, two, name) = (&a.origin, &b.origin, target_name(&x));
    let (Some(wa), Some(wb)) = (&a.window, &b.window) else {
        anyhow::bail!(
            "G020: {one} and {two} are for {name}, and one of them has no window: it is open at any hour"
        );
    };
    if let Some(at) = window::overlap(wa, wb, wall())? {
        anyhow::bail!("G020: {one} and {two} are both open at {} for {name}; move one window", at.rfc3339());
    }
    Ok(())
}

fn run(args: &Args) -> anyhow::Result<()> {
    let policies = check(&args.config)?;
    let mut err = std::io::stderr();
    if args.check {
        writeln!(err, "replayd: {} is accepted, with {policies} policies", args.config.display())?;
        return Ok(());
    }
    let latch = Latch::new();
    signals::stop_on_signals(&latch)?;
    writeln!(err, "replayd: ready; this version schedules no runs yet, use `replay run`")?;
    notify::notify("READY=1\nSTATUS=waiting; this version schedules no runs")?;
    let signal: Arc<AtomicUsize> = latch.signal_flag();
    while signal.load(Ordering::SeqCst) == 0 {
        wait(Duration::from_millis(100));
    }
    notify::notify("STOPPING=1")?;
    Ok(())
}
