//! The mark that a run leaves for the next one against the same target: begun, ended, and whether a person must
//! look first.

use std::path::Path;

use super::run::target_name;
use crate::edge::host::last_run::{self, LastRun};
use crate::edge::host::state_folder;
use crate::policy::target::Target;
use crate::report::json::Report;
use crate::units::WallTime;

/// Why no run may begin against a target: the last one needs a person's look.
///
/// # Errors
/// When what is known cannot be read: then nobody knows, and nothing begins.
pub fn obstacle(target: &Target) -> anyhow::Result<Option<String>> {
    let last = last_run::load(&state_folder::folder()?, &target_name(target))?;
    Ok(last.as_ref().and_then(last_run::obstacle))
}

/// A run has begun.
///
/// # Errors
/// When it cannot be written: then it does not begin.
pub fn begin(target: &Target, run: &str, out: &Path, started: WallTime) -> anyhow::Result<LastRun> {
    let folder = std::path::absolute(out).unwrap_or_else(|_| out.to_owned());
    let mark = LastRun {
        target: target_name(target),
        run: run.to_owned(),
        folder,
        started,
        ended: false,
        state: None,
        needs_ack: None,
    };
    last_run::save(&state_folder::folder()?, &mark)?;
    Ok(mark)
}

/// It has ended. What production, blindness or a fault of ours ended needs a person's look before the next one;
/// not so on this machine, where there is nobody to harm.
///
/// # Errors
/// When it cannot be written; then it counts as crashed, which is the safe reading.
pub fn end(mut mark: LastRun, target: &Target, report: &Report) -> anyhow::Result<()> {
    let aborted = report.state == "aborted";
    mark.ended = true;
    mark.state = Some(report.state.clone());
    mark.needs_ack = report.cause.clone().filter(|_| aborted && !target.is_loopback());
    last_run::save(&state_folder::folder()?, &mark)
}

/// A run that never began after all.
///
/// # Errors
/// When it cannot be written.
pub fn undo(mut mark: LastRun) -> anyhow::Result<()> {
    (mark.ended, mark.state) = (true, Some("refused".to_owned()));
    last_run::save(&state_folder::folder()?, &mark)
}

/// A person has looked at the last run against `target` (its host and port, or the run's id).
///
/// # Errors
/// When there is no such run, or it is still alive.
pub fn ack(target: &str) -> anyhow::Result<LastRun> {
    let folder = state_folder::folder()?;
    let found = last_run::all(&folder)?.into_iter().find(|r| r.target == target || r.run == target);
    let Some(mut run) = found else {
        anyhow::bail!("no run against {target:?} is known in {}", folder.display())
    };
    // Its lock tells the living from the dead.
    let _lock = crate::edge::host::lock::acquire(&run.target)?;
    (run.ended, run.needs_ack) = (true, None);
    run.state.get_or_insert_with(|| "crashed".to_owned());
    last_run::save(&folder, &run)?;
    Ok(run)
}
