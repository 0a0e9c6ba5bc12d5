//! The command line of `replay`: one file per subcommand, exit codes in one place.
//!
//! Results go to standard output, progress and diagnostics to standard error. `replay` alone takes the
//! flags of `replay run`.

mod capture;
mod check;
mod demo;
mod progress;
mod run;
mod shop;
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
    /// Watch the governor at work against a built-in shop on this machine; needs nothing else.
    Demo(demo::DemoArgs),
    /// Open the demo's shop on this machine, to try things against.
    Shop(shop::ShopArgs),
    /// Print the JSON Schema of report.json.
    #[command(hide = true)]
    Schema,
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
        Some(Command::Schema) => {
            writeln!(out, "{:#}", crate::report::json::schema()).map(|()| OK).map_err(Into::into)
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
