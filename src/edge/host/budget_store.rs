//! What a policy has spent in its period, on the disk, ahead of the load.
//!
//! The file says what is spent *at most*: it is written before the requests it covers. A file that cannot be
//! read is refused, never taken for an empty one. Writing happens on a thread of its own, because a disk may
//! take its time and the governor may not.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use super::state_folder::{replace, safe_name};
use crate::govern::budget::Amounts;
use crate::govern::latch::{Latch, StopCause};
use crate::units::WallTime;

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    policy: String,
    /// Start of the period that the amounts belong to.
    period_start: WallTime,
    spent: Amounts,
}

fn path(folder: &Path, policy: &str) -> PathBuf {
    folder.join(format!("budget-{}.json", safe_name(policy)))
}

/// Reads what was spent since `period_start`; an earlier period counts no more. Without a file nothing was.
///
/// # Errors
/// When the file is there and cannot be understood, or is from a later period than now.
pub fn load(folder: &Path, policy: &str, period_start: WallTime) -> anyhow::Result<Amounts> {
    let path = path(folder, policy);
    let show = path.display();
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Amounts::default()),
        Err(e) => return Err(e).with_context(|| format!("cannot read the budget {show}")),
    };
    let stored: Stored = serde_json::from_str(&text).with_context(|| {
        format!("the budget {show} cannot be understood; look at it and remove it if nothing of it matters")
    })?;
    ensure!(stored.version == 1, "the budget {show} is of version {}; this program reads 1", stored.version);
    ensure!(stored.policy == policy, "the budget {show} belongs to policy {:?}", stored.policy);
    ensure!(
        stored.period_start <= period_start,
        "the budget {show} is from a later period ({}); is the clock right?",
        stored.period_start.rfc3339()
    );
    Ok(if stored.period_start == period_start { stored.spent } else { Amounts::default() })
}

/// Start of the running period of a budget without a window: the stored one while it lasts, else now.
///
/// # Errors
/// When the file cannot be understood.
pub fn period_start(
    folder: &Path,
    policy: &str,
    now: WallTime,
    period: std::time::Duration,
) -> anyhow::Result<WallTime> {
    let path = path(folder, policy);
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(now) };
    let stored: Stored = serde_json::from_str(&text)
        .with_context(|| format!("the budget {} cannot be understood", path.display()))?;
    let age = now.0.saturating_sub(stored.period_start.0);
    let fresh = u128::from(age) < period.as_nanos();
    Ok(if fresh { stored.period_start } else { now })
}

/// Writes one amount.
///
/// # Errors
/// When it cannot be written and synchronised.
pub fn save(folder: &Path, policy: &str, period_start: WallTime, spent: Amounts) -> anyhow::Result<()> {
    let stored = Stored { version: 1, policy: policy.to_owned(), period_start, spent };
    replace(&path(folder, policy), &serde_json::to_string(&stored)?)
}

/// Writes reserves while a run is under way.
#[derive(Debug)]
pub struct BudgetStore {
    queue: SyncSender<Amounts>,
    done: Arc<Mutex<Amounts>>,
    thread: JoinHandle<anyhow::Result<()>>,
    latch: Latch,
}

impl BudgetStore {
    /// Starts the thread; `first` is on the disk when this returns.
    ///
    /// # Errors
    /// When it cannot be written: then there is no run.
    pub fn start(
        folder: &Path,
        policy: &str,
        start: WallTime,
        first: Amounts,
        latch: Latch,
    ) -> anyhow::Result<Self> {
        save(folder, policy, start, first)?;
        let (queue, amounts) = sync_channel(1);
        let done = Arc::new(Mutex::new(first));
        let (inside, stop) = (Arc::clone(&done), latch.clone());
        let (folder, policy) = (folder.to_owned(), policy.to_owned());
        let thread = std::thread::Builder::new().name("budget".to_owned()).spawn(move || {
            let result = write_all(&amounts, &inside, |spent| save(&folder, &policy, start, spent));
            if result.is_err() {
                stop.set(StopCause::BudgetStore);
            }
            result
        })?;
        Ok(Self { queue, done, thread, latch })
    }

    /// Asks for a reserve to be written; never waits. While one is being written the next is asked for again
    /// at the next tick.
    pub fn reserve(&self, amounts: Amounts) {
        match self.queue.try_send(amounts) {
            Ok(()) | Err(TrySendError::Full(_)) => {}
            Err(TrySendError::Disconnected(_)) => self.latch.set(StopCause::BudgetStore),
        }
    }

    /// What is on the disk.
    #[must_use]
    pub fn stored(&self) -> Amounts {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the thread after writing what was really spent.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn finish(self, spent: Amounts) -> anyhow::Result<()> {
        let _gone = self.queue.send(spent).is_err();
        drop(self.queue);
        self.thread.join().map_err(|_| anyhow::anyhow!("the budget thread panicked"))?
    }
}

fn write_all(
    amounts: &Receiver<Amounts>,
    done: &Mutex<Amounts>,
    save: impl Fn(Amounts) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    while let Ok(next) = amounts.recv() {
        save(next)?;
        *done.lock().unwrap_or_else(PoisonError::into_inner) = next;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amounts(n: u64) -> Amounts {
        Amounts { requests: n, ..Amounts::default() }
    }

    #[test]
    fn what_was_spent_is_remembered_for_its_period() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (WallTime(1_000), WallTime(2_000));
        assert_eq!(load(dir.path(), "p", old).unwrap(), Amounts::default());
        let store = BudgetStore::start(dir.path(), "p", old, amounts(5), Latch::new()).unwrap();
        assert_eq!(load(dir.path(), "p", old).unwrap(), amounts(5), "on the disk before anything is sent");
        store.finish(amounts(3)).unwrap();
        assert_eq!(load(dir.path(), "p", old).unwrap(), amounts(3));
        assert_eq!(load(dir.path(), "p", new).unwrap(), Amounts::default(), "a new period");
        save(dir.path(), "p", new, amounts(9)).unwrap();
        assert!(load(dir.path(), "p", old).is_err(), "a clock that went back");
    }

    #[test]
    fn a_damaged_file_is_no_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), "p", WallTime(1), amounts(9)).unwrap();
        for text in [
            "",
            "{",
            "{\"version\":1}",
            "{\"version\":2,\"policy\":\"p\",\"period_start\":1,\"spent\":{\"requests\":0,\"failed_requests\":0,\"bytes_received\":0,\"connections\":0}}",
        ] {
            std::fs::write(path(dir.path(), "p"), text).unwrap();
            assert!(load(dir.path(), "p", WallTime(1)).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_store_that_fails_sets_the_latch() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("state");
        std::fs::create_dir(&folder).unwrap();
        let latch = Latch::new();
        let store = BudgetStore::start(&folder, "p", WallTime(1), amounts(1), latch.clone()).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(store.finish(amounts(2)).is_err());
        assert_eq!(latch.cause(), Some(StopCause::BudgetStore));
    }
}
