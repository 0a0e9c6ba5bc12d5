//! The `replayd` program: the unattended side, started by systemd.
//!
//! Thin on purpose: everything it does is in the library, where it can be tested.

use std::process::ExitCode;

fn main() -> ExitCode {
    replay::daemon::main()
}
