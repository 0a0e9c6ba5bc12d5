//! `replay status|pause|freeze|resume|stop`: talk to a run under way on this host. `replay ack`: say that somebody
//! has looked at the last one.

use std::io::Write;

use serde_json::Value;

use crate::edge::host::control::{running, tell};
use crate::engine::ledger;

/// Which run.
#[derive(Debug, clap::Args)]
pub(super) struct WhichRun {
    /// Run id; may be left out while there is only one.
    run: Option<String>,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

/// The last run against a target.
#[derive(Debug, clap::Args)]
pub(super) struct AckArgs {
    /// Host and port of the target, or the id of the run.
    target: String,
}

/// One line about a run, for people.
fn line(s: &Value) -> String {
    let text = |k: &str| s[k].as_str().unwrap_or("-").to_owned();
    let number = |k: &str| s[k].as_f64().unwrap_or(0.0);
    let bad: Vec<&str> = s["guards"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|g| !matches!(g["level"].as_str(), Some("good" | "neutral")))
        .filter_map(|g| g["name"].as_str())
        .collect();
    let guards = if bad.is_empty() {
        "guards fine".to_owned()
    } else {
        format!("guards not fine: {}", bad.join(", "))
    };
    let order = if text("order") == "go" { String::new() } else { format!(" (ordered: {})", text("order")) };
    format!(
        "{}  {}  {}{order}  {:.0} s  share {:.1} %  ceiling {:.1}/s  sent {}/s  in flight {}  {guards}",
        text("run"),
        text("target"),
        text("state"),
        number("t"),
        number("share") * 100.0,
        number("ceiling_rps"),
        s["sent_1s"],
        s["in_flight"]
    )
}

impl WhichRun {
    /// Sends `command`; `status` without a run asks all of them.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub(super) fn run(&self, command: &str, out: &mut impl Write) -> anyhow::Result<u8> {
        let mut runs = running();
        if let Some(id) = &self.run {
            runs.retain(|(r, _)| r == id);
        }
        let many = runs.len() > 1 && command != "status";
        if runs.is_empty() || many {
            let ids: Vec<&str> = runs.iter().map(|(r, _)| r.as_str()).collect();
            let why = match (&self.run, many) {
                (_, true) => format!("several runs are under way; name one of {}", ids.join(", ")),
                (Some(id), _) => {
                    format!("no run {id} is under way on this host (or its socket belongs to another user)")
                }
                (None, _) => {
                    "no run is under way on this host (or its socket belongs to another user)".to_owned()
                }
            };
            writeln!(std::io::stderr(), "replay: {why}")?;
            return Ok(if command == "status" && self.run.is_none() { super::OK } else { super::USAGE });
        }
        let mut code = super::OK;
        for (id, path) in runs {
            match tell(&path, command) {
                Ok(answer) if self.json => writeln!(out, "{answer}")?,
                Ok(answer) => {
                    let parsed: Value = serde_json::from_str(&answer).unwrap_or_default();
                    let words = if command == "status" { line(&parsed) } else { format!("{id}: {command}") };
                    writeln!(out, "{words}")?;
                }
                Err(error) => {
                    writeln!(std::io::stderr(), "replay: run {id}: {error:#}")?;
                    code = super::FAULT;
                }
            }
        }
        Ok(code)
    }
}

impl AckArgs {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// When there is no such run, or it is alive.
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<u8> {
        let run = ledger::ack(&self.target)?;
        writeln!(out, "run {} against {} is acknowledged; the next one may begin", run.run, run.target)?;
        Ok(super::OK)
    }
}
