//! `replay run`, also what `replay` alone does.

use core::net::IpAddr;
use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use crate::edge::clock::{Clock, wall};
use crate::edge::host::lock;
use crate::engine::foresight::FileSource;
use crate::engine::governor::Snapshot;
use crate::engine::ledger;
use crate::engine::prepare::{Refusal, Request, default_policy, load_policy, prepare};
use crate::engine::run::{Conduct, NotStarted, Prepared, run, target_name, workers_for};
use crate::plan::connections::Connections;
use crate::plan::pacing::Pacing;
use crate::policy::settings::{LeadIn, in_flight_max};
use crate::report::dry_run::{self, Asked};
use crate::report::{live, text};
use crate::units::{Rate, RunTime, Scale, Speed, parse_duration};

/// Replay a trace against a target, governed.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct RunArgs {
    /// The trace to replay.
    #[arg(long, value_name = "TRACE", required = true)]
    trace: Option<PathBuf>,
    /// Sessions per recorded session, such as 2x, 2.5x or 0.25x.
    #[arg(long, default_value = "1x", value_parser = Scale::parse, conflicts_with = "rate")]
    scale: Scale,
    /// Speed of trace time, such as 0.5x or 10x.
    #[arg(long, default_value = "1x", value_parser = Speed::parse, conflicts_with = "rate")]
    speed: Speed,
    /// A steady rate of the recorded mix, such as 40/s, instead of its own shape.
    #[arg(long, value_parser = Rate::parse)]
    rate: Option<Rate>,
    /// Policy file; needed for any target but this machine.
    #[arg(long)]
    policy: Option<PathBuf>,
    /// Target URL; must be in the policy's allow-list.
    #[arg(long, value_name = "URL")]
    target: Option<String>,
    /// Connect there instead of where the target's name points; must be in the allow-list too.
    #[arg(long, value_name = "HOST:PORT")]
    connect_to: Option<String>,
    /// Start of the part of the trace to replay, from its beginning, such as 90s.
    #[arg(long, default_value = "0s", value_parser = parse_duration)]
    from: Duration,
    /// End of the part of the trace to replay.
    #[arg(long, value_parser = parse_duration)]
    to: Option<Duration>,
    /// Longest time of the measure phase.
    #[arg(long = "for", value_name = "DUR", value_parser = parse_duration)]
    run_for: Option<Duration>,
    /// Begin again at the end of the trace; needs --for.
    #[arg(long = "loop", requires = "run_for")]
    repeat: bool,
    /// Climb before the measure phase: auto, none (loopback only), or a duration.
    #[arg(long, default_value = "auto", value_parser = lead_in)]
    lead_in: LeadIn,
    /// Seed of jitter and draws.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Send only part I of N of the sessions, such as 0/2.
    #[arg(long, value_name = "I/N", default_value = "0/1", value_parser = shard)]
    shard: (u64, u64),
    /// When requests leave: auto, exact, spin (a core for each worker), or together within a time such as 100us or 1ms.
    #[arg(long, default_value = "auto", value_parser = Pacing::parse)]
    pacing: Pacing,
    /// Whose connections: recorded (opened and closed as the recorded ones were), or pool:N shared by all sessions.
    #[arg(long, value_name = "WHOSE", default_value = "recorded", value_parser = Connections::parse)]
    connections: Connections,
    /// Local addresses that connections come from, in turn: each gives as many as there are local ports.
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    source_ip: Vec<IpAddr>,
    /// Say what would be done, and send nothing.
    #[arg(long)]
    dry_run: bool,
    /// Name the target's host again, to confirm a run outside this machine.
    #[arg(long, value_name = "HOST")]
    confirm: Option<String>,
    /// Folder for the report; by default a folder named after the run, below runs/.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// No banner and no live line.
    #[arg(long)]
    quiet: bool,
    /// Print the report as JSON instead of the summary.
    #[arg(long)]
    json: bool,
}

fn lead_in(text: &str) -> Result<LeadIn, String> {
    match text {
        "auto" => Ok(LeadIn::Auto),
        "none" => Ok(LeadIn::None),
        other => parse_duration(other).map(LeadIn::For).map_err(|e| format!("{e}, nor \"auto\" or \"none\"")),
    }
}

fn shard(text: &str) -> Result<(u64, u64), String> {
    let parsed = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    parsed
        .filter(|(i, n)| i < n)
        .ok_or_else(|| format!("{text:?} is not I/N with I below N, such as \"0/2\""))
}

impl RunArgs {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// For faults of ours; refusals are exit codes.
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<u8> {
        let request = match self.request() {
            Ok(request) => request,
            Err(error) => return complain(&error, super::USAGE),
        };
        let (prepared, asked) = match prepare(&request) {
            Ok(both) => both,
            Err(Refusal::Usage(error)) => return complain(&error, super::USAGE),
            Err(Refusal::Refused(why)) => {
                return complain(&anyhow::anyhow!("refused: {why}"), super::REFUSED);
            }
        };
        for warning in &prepared.policy.warnings {
            writeln!(std::io::stderr(), "replay: {warning}")?;
        }
        for warning in &prepared.scarce {
            writeln!(std::io::stderr(), "replay: this machine: {warning}")?;
        }
        if self.dry_run {
            banner(out, &prepared, &asked)?;
            return Ok(super::OK);
        }
        if !self.quiet {
            banner(&mut std::io::stderr(), &prepared, &asked)?;
        }
        let host = prepared.target.host().to_owned();
        if !prepared.target.is_loopback() && !self.confirmed(&host)? {
            return complain(
                &anyhow::anyhow!("refused: not confirmed; give --confirm {host}"),
                super::REFUSED,
            );
        }
        let lock = match lock::acquire(&target_name(&prepared.target)) {
            Ok(lock) => lock,
            Err(error) => return complain(&anyhow::anyhow!("refused: {error:#}"), super::REFUSED),
        };
        match must_look_first(&prepared) {
            Ok(None) => {}
            Ok(Some(why)) => return complain(&anyhow::anyhow!("refused: {why}"), super::REFUSED),
            Err(error) => return complain(&error.context("refused"), super::REFUSED),
        }
        let code = self.carry_out(out, prepared);
        drop(lock);
        code
    }

    fn request(&self) -> anyhow::Result<Request> {
        let policy = match &self.policy {
            Some(path) => load_policy(path)?,
            None => default_policy()?,
        };
        Ok(Request {
            trace: self.trace.clone().unwrap_or_default(),
            scale: self.scale,
            speed: self.speed,
            rate: self.rate,
            policy,
            target: self.target.clone(),
            connect_to: self.connect_to.clone(),
            from: self.from,
            to: self.to,
            run_for: self.run_for,
            repeat: self.repeat,
            lead_in: self.lead_in,
            seed: self.seed,
            shard: self.shard,
            pacing: self.pacing,
            connections: self.connections,
            source_ips: self.source_ip.clone(),
        })
    }

    fn confirmed(&self, host: &str) -> anyhow::Result<bool> {
        if let Some(given) = &self.confirm {
            return Ok(given == host);
        }
        if !std::io::stdin().is_terminal() {
            return Ok(false);
        }
        write!(std::io::stderr(), "This sends load to {host}. Type the host's name to go on: ")?;
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        Ok(line.trim() == host)
    }

    fn carry_out(&self, out: &mut impl Write, prepared: Prepared<FileSource>) -> anyhow::Result<u8> {
        let folder = self.out.clone().unwrap_or_else(|| PathBuf::from("runs").join(&prepared.words.id));
        if folder.join("journal.jsonl").exists() {
            let why = format!("refused: {} holds a run already; give another --out", folder.display());
            return complain(&anyhow::anyhow!(why), super::REFUSED);
        }
        let target = prepared.target.clone();
        let mark = match ledger::begin(&target, &prepared.words.id, &folder, wall()) {
            Ok(mark) => mark,
            Err(error) => return complain(&error.context("refused"), super::REFUSED),
        };
        let workers = workers_for(prepared.settings.target, prepared.connections);
        let conduct = Conduct::into(folder.clone(), workers);
        let mut line = LiveLine::new(self.quiet);
        let report = match run(prepared, &conduct, &mut |s| line.show(s)) {
            Ok(report) => report,
            Err(error) => {
                line.done();
                let refused = error.downcast_ref::<NotStarted>().is_some();
                if refused {
                    ledger::undo(mark)?;
                }
                return complain(&error, if refused { super::REFUSED } else { super::FAULT });
            }
        };
        line.done();
        if let Err(error) = ledger::end(mark, &target, &report) {
            writeln!(std::io::stderr(), "replay: the run's end could not be noted: {error:#}")?;
        }
        // The run is over: a closed pipe must not turn its exit code into another one.
        if self.json {
            drop(serde_json::to_writer_pretty(&mut *out, &report));
            drop(writeln!(out));
        } else {
            drop(write!(out, "{}", text::summary(&report)));
            drop(writeln!(out, "\nreport     {}", folder.join("report.json").display()));
        }
        if let Some(cause) = &report.cause {
            drop(writeln!(std::io::stderr(), "replay: {}: {cause}", report.state));
        }
        Ok(report.exit_code)
    }
}

/// Why a person must look before this run: the last one was aborted or crashed, or no drill was passed lately.
fn must_look_first(p: &Prepared<FileSource>) -> anyhow::Result<Option<String>> {
    if let Some(why) = ledger::obstacle(&p.target)? {
        return Ok(Some(why));
    }
    super::drill::missing(&p.policy, &p.target)
}

fn complain(error: &anyhow::Error, code: u8) -> anyhow::Result<u8> {
    writeln!(std::io::stderr(), "replay: {error:#}")?;
    Ok(code)
}

fn banner(out: &mut impl Write, p: &Prepared<FileSource>, asked: &Asked) -> anyhow::Result<()> {
    let in_flight = in_flight_max(&p.policy, p.settings.target);
    write!(out, "{}", dry_run::text(asked, &p.forecast, &p.policy, &p.settings, in_flight))?;
    if let Some(warning) = &p.words.trace_warning {
        writeln!(out, "WARNING    {warning}")?;
    }
    Ok(())
}

/// The live line: rewritten in place on a terminal, once in ten seconds elsewhere.
pub(super) struct LiveLine {
    quiet: bool,
    terminal: bool,
    next: RunTime,
    clock: Clock,
}

impl LiveLine {
    pub(super) fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { quiet, terminal, next: RunTime::START, clock: Clock::start() }
    }

    pub(super) fn show(&mut self, s: &Snapshot) {
        let now = self.clock.now();
        if self.quiet || now < self.next || s.row.state.is_empty() {
            return;
        }
        let pause = if self.terminal { Duration::from_millis(250) } else { Duration::from_secs(10) };
        self.next = now.plus(pause);
        let (start, end) = if self.terminal { ("\r\x1b[2K", "") } else { ("", "\n") };
        let mut err = std::io::stderr().lock();
        let words = live::line(s.at.as_secs_f64(), &s.row, s.target_rps, None);
        drop(write!(err, "{start}{words}{end}"));
        drop(err.flush());
    }

    pub(super) fn done(&self) {
        if !self.quiet && self.terminal {
            drop(write!(std::io::stderr(), "\r\x1b[2K"));
        }
    }
}
