//! One run per target on a host: an advisory lock that the kernel drops when the process dies.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::PathBuf;

use anyhow::Context;

/// The lock of one run, held until dropped.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

fn folder() -> PathBuf {
    let run = PathBuf::from("/run/replay");
    if run.is_dir() { run } else { std::env::temp_dir() }
}

/// Takes the lock for `target` (host and port).
///
/// # Errors
/// When another run holds it, or the lock file cannot be used: without a lock there is no run.
pub fn acquire(target: &str) -> anyhow::Result<RunLock> {
    let safe = super::state_folder::safe_name(target);
    let path = folder().join(format!("replay-{safe}.lock"));
    let show = path.display();
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = file.with_context(|| format!("cannot open the run lock {show}"))?;
    match file.try_lock() {
        Ok(()) => Ok(RunLock { _file: file }),
        Err(TryLockError::WouldBlock) => {
            anyhow::bail!(
                "another run (lock: {target}) is under way on this host (it holds {show}); wait for it or stop it"
            )
        }
        Err(TryLockError::Error(e)) => Err(e).with_context(|| format!("cannot lock {show}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_run_per_target() {
        let name = format!("test-{}.invalid:1", std::process::id());
        let first = acquire(&name).unwrap();
        let error = acquire(&name).unwrap_err().to_string();
        assert!(error.contains("another run"), "{error}");
        drop(first);
        assert!(acquire(&name).is_ok());
    }
}
