//! The command line of `replay`: one file per subcommand, exit codes in one place.
//!
//! Results go to standard output, progress and diagnostics to standard error. `replay` alone takes the
//! flags of `replay run`.

mod backtest;
mod capture;
mod check;
mod check_guard;
mod control;
mod demo;
mod drill;
mod explain;
mod init;
mod progress;
mod run;
mod shop;
mod simulate;
mod trace;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Completed, every verdict passed.
pub const OK: u8 = 0;
/// A fault of ours.
pub const FAULT: u8 = 1;
/// Wrong usage or unreadable input.
pub const USAGE: u8 = 2;
/// Refused before the first request.
pub const REFUSED: u8 = 3;

#[derive(Debug, Parser)]
#[command(name = "replay", version, about, long_about = None, args_conflicts_with_subcommands = true)]
#[command(subcommand_negates_reqs = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: run::RunArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Turn captures and access logs into a trace.
    Capture(capture::CaptureArgs),
    /// Look at a trace.
    #[command(subcommand)]
    Trace(trace::TraceCommand),
    /// Replay a trace against a target, governed (the same as `replay` alone).
    Run(run::RunArgs),
    /// Check a policy without sending any traffic.
    Check(check::CheckArgs),
    /// Write a short policy for review: finds metrics on a Prometheus and routes in a trace.
    Init(init::InitArgs),
    /// Try every way to stop a run, at the probe rate against the real target, and time each.
    Drill(drill::DrillArgs),
    /// Decide a recorded run again, or an invented one, offline; draws it.
    Simulate(simulate::SimulateArgs),
    /// Tell the story of a run in plain sentences.
    Explain(explain::ExplainArgs),
    /// What the runs under way on this host are doing.
    Status(control::WhichRun),
    /// Rate to zero until `replay resume`.
    Pause(control::WhichRun),
    /// Keep the rate as it is: no growth until `replay resume`.
    Freeze(control::WhichRun),
    /// Go on after a pause (through preflight and recovery) or a freeze.
    Resume(control::WhichRun),
    /// Stop for good, at once.
    Stop(control::WhichRun),
    /// Say that somebody has looked at the last run against a target.
    Ack(control::AckArgs),
    /// Watch the governor at work against a built-in shop on this machine; needs nothing else.
    Demo(demo::DemoArgs),
    /// Open the demo's shop on this machine, to try things against.
    Shop(shop::ShopArgs),
    /// Print a JSON Schema: of report.json, or of policies.
    #[command(hide = true)]
    Schema {
        /// `report` or `policy`.
        #[arg(default_value = "report", value_parser = ["report", "policy"])]
        of: String,
    },
}

/// Parses the arguments, runs one subcommand and returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output with code 0, usage errors to standard error with 2.
            drop(error.print());
            return ExitCode::from(if error.use_stderr() { USAGE } else { OK });
        }
    };
    let mut out = std::io::stdout().lock();
    let result = match cli.command {
        Some(Command::Capture(args)) => args.run(&mut out),
        Some(Command::Trace(command)) => command.run(&mut out),
        Some(Command::Run(args)) => args.run(&mut out),
        Some(Command::Check(args)) => args.run(&mut out),
        Some(Command::Demo(args)) => args.run(&mut out).or_else(|error| {
            drop(writeln!(std::io::stderr(), "replay: the demo failed: {error:#}"));
            Ok(FAULT)
        }),
        Some(Command::Shop(args)) => args.run(&mut out),
        Some(Command::Init(args)) => args.run(&mut out),
        Some(Command::Drill(args)) => args.run(&mut out),
        Some(Command::Simulate(args)) => args.run(&mut out),
        Some(Command::Explain(args)) => args.run(&mut out),
        Some(Command::Status(args)) => args.run("status", &mut out),
        Some(Command::Pause(args)) => args.run("pause", &mut out),
        Some(Command::Freeze(args)) => args.run("freeze", &mut out),
        Some(Command::Resume(args)) => args.run("resume", &mut out),
        Some(Command::Stop(args)) => args.run("stop", &mut out),
        Some(Command::Ack(args)) => args.run(&mut out),
        Some(Command::Schema { of }) => {
            let schema =
                if of == "policy" { crate::policy::schema::schema() } else { crate::report::json::schema() };
            writeln!(out, "{schema:#}").map(|()| OK).map_err(Into::into)
        }
        None => cli.run.run(&mut out),
    };
    drop(out.flush());
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            drop(writeln!(std::io::stderr(), "replay: {error:#}"));
            ExitCode::from(USAGE)
        }
    }
}
