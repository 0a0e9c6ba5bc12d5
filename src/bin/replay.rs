//! The `replay` program: parses the command line, runs one subcommand, returns its exit code.
//!
//! Thin on purpose: everything it does is in the library, where it can be tested.

use std::process::ExitCode;

fn main() -> ExitCode {
    replay::cli::main()
}
