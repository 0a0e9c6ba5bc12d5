//! Whether this machine's clock is kept in step with the world's.
//!
//! A window that opens at 03:00 by a clock that is an hour off opens in the traffic of the morning. The kernel knows
//! (`STA_UNSYNC`, adjtimex(2)), and `timedatectl` tells it without the right to set clocks, which the hardened unit
//! does not have. Where there is no systemd nothing is claimed: then the clock of Prometheus, compared before the first
//! request, is the only witness.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::edge::clock::{Clock, wait};

/// The tool that knows.
const TIMEDATECTL: &str = "/usr/bin/timedatectl";

/// It asks one service on the bus; longer than this it will not answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClockSync {
    /// Kept in step.
    Synchronised,
    /// Not kept in step.
    Unsynchronised,
    /// Nobody could tell, and why.
    Unknown(String),
}

/// Asks this machine.
#[must_use]
pub fn look() -> ClockSync {
    ask(Path::new(TIMEDATECTL), PATIENCE)
}

fn ask(tool: &Path, patience: Duration) -> ClockSync {
    let mut command = Command::new(tool);
    command.args(["show", "--property=NTPSynchronized", "--value"]);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    match command.spawn() {
        Ok(child) => read(child, patience),
        Err(error) => ClockSync::Unknown(format!("{}: {error}", tool.display())),
    }
}

fn read(mut child: Child, patience: Duration) -> ClockSync {
    let clock = Clock::start();
    let ended = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Ok(status),
            Ok(None) if clock.now().as_secs_f64() < patience.as_secs_f64() => {
                wait(Duration::from_millis(10));
            }
            Ok(None) => break Err("gave no answer in time".to_owned()),
            Err(error) => break Err(error.to_string()),
        }
    };
    if ended.is_err() {
        // It may be gone already; either way it is not waited for longer than this.
        let _gone = child.kill().is_err();
        let _reaped = child.wait().is_ok();
    }
    match ended {
        Ok(status) if status.success() => {
            let mut said = String::new();
            let out = child.stdout.take();
            let read = out.map(|o| o.take(64).read_to_string(&mut said));
            if read.is_some_and(|r| r.is_ok()) { meaning(&said) } else { meaning("") }
        }
        Ok(status) => ClockSync::Unknown(format!("timedatectl ended with {status}")),
        Err(why) => ClockSync::Unknown(format!("timedatectl {why}")),
    }
}

fn meaning(said: &str) -> ClockSync {
    match said.trim() {
        "yes" => ClockSync::Synchronised,
        "no" => ClockSync::Unsynchronised,
        other => ClockSync::Unknown(format!("timedatectl said {other:?}")),
    }
}

/// Why a run outside this machine may not start by this clock; `witnessed` says whether a Prometheus will be compared.
#[must_use]
pub fn objection(sync: &ClockSync, witnessed: bool) -> Option<String> {
    match sync {
        ClockSync::Synchronised => None,
        ClockSync::Unsynchronised => Some(
            "this machine's clock is not synchronised (timedatectl: NTPSynchronized=no); windows and stamps would mean other moments than everybody else's. Start a time service such as systemd-timesyncd or chrony"
                .to_owned(),
        ),
        ClockSync::Unknown(_) if witnessed => None,
        ClockSync::Unknown(why) => Some(format!(
            "nobody can tell whether this machine's clock is right ({why}), and the policy names no Prometheus to compare it with"
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn tool(dir: &Path, name: &str, script: &str) -> std::path::PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    /// An executable just written may be held open for writing by a fork of another test for a moment (ETXTBSY).
    fn asked(tool: &Path, patience: Duration) -> ClockSync {
        for _ in 0..50 {
            match ask(tool, patience) {
                ClockSync::Unknown(why) if why.contains("busy") => wait(Duration::from_millis(10)),
                said => return said,
            }
        }
        panic!("{} stays busy", tool.display());
    }

    #[test]
    fn only_yes_is_yes() {
        let dir = tempfile::tempdir().unwrap();
        let long = Duration::from_secs(20);
        assert_eq!(asked(&tool(dir.path(), "yes", "echo yes"), long), ClockSync::Synchronised);
        assert_eq!(asked(&tool(dir.path(), "no", "echo no"), long), ClockSync::Unsynchronised);
        let unknown =
            |name: &str, script: &str, patience| match asked(&tool(dir.path(), name, script), patience) {
                ClockSync::Unknown(why) => why,
                other => panic!("{name}: {other:?}"),
            };
        assert!(unknown("empty", "true", long).contains("said \"\""));
        assert!(unknown("fails", "echo yes; exit 1", long).contains("exit status: 1"));
        assert!(unknown("hangs", "exec sleep 60", Duration::from_millis(50)).contains("in time"));
        assert!(matches!(ask(&dir.path().join("none"), long), ClockSync::Unknown(_)));
    }

    #[test]
    fn a_wrong_clock_and_an_unknown_one_without_a_witness_are_refused() {
        let unknown = ClockSync::Unknown("no systemd".to_owned());
        let table = [
            (&ClockSync::Synchronised, true, false),
            (&ClockSync::Synchronised, false, false),
            (&ClockSync::Unsynchronised, true, true),
            (&ClockSync::Unsynchronised, false, true),
            (&unknown, true, false),
            (&unknown, false, true),
        ];
        for (sync, witnessed, refused) in table {
            assert_eq!(objection(sync, witnessed).is_some(), refused, "{sync:?} {witnessed}");
        }
    }
}
