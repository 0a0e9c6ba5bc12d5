//! The last run against each target: whether it had a last word, and whether a person must look first.
//!
//! Nothing resumes by itself. A run that was killed, or that production stopped, leaves a mark which the next
//! run against that target refuses to step over until somebody has said `replay ack`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::state_folder::{replace, safe_name};
use crate::units::WallTime;

/// What is known of the last run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastRun {
    /// Host and port.
    pub target: String,
    /// Run id.
    pub run: String,
    /// Folder with its journal.
    pub folder: PathBuf,
    /// When it started.
    pub started: WallTime,
    /// It wrote its last word.
    pub ended: bool,
    /// How it ended, in words; none while it runs.
    pub state: Option<String>,
    /// Why a person must look before the next run.
    pub needs_ack: Option<String>,
}

fn path(folder: &Path, target: &str) -> PathBuf {
    folder.join(format!("last-run-{}.json", safe_name(target)))
}

/// Reads the last run against `target`, if there was one.
///
/// # Errors
/// When the file is there and cannot be understood.
pub fn load(folder: &Path, target: &str) -> anyhow::Result<Option<LastRun>> {
    let path = path(folder, target);
    match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map(Some).with_context(|| {
            format!(
                "{} cannot be understood; look at it, and remove it if the last run is of no concern",
                path.display()
            )
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Writes it.
///
/// # Errors
/// When it cannot be written.
pub fn save(folder: &Path, run: &LastRun) -> anyhow::Result<()> {
    replace(&path(folder, &run.target), &serde_json::to_string_pretty(run)?)
}

/// Why a run against this target may not start, if a person must look first. Whoever asks holds the lock of the
/// target, so a run without a last word is no longer alive.
#[must_use]
pub fn obstacle(last: &LastRun) -> Option<String> {
    let ack = format!("then say: replay ack {}", last.target);
    if !last.ended {
        return Some(format!(
            "run {} against {} ended without a last word (crashed or killed) and counts as aborted; look at {}, {ack}",
            last.run,
            last.target,
            last.folder.display()
        ));
    }
    let why = last.needs_ack.as_ref()?;
    Some(format!(
        "the last run {} against {} was aborted: {why}; look at {}, {ack}",
        last.run,
        last.target,
        last.folder.display()
    ))
}

/// All targets with a last run.
///
/// # Errors
/// When the folder cannot be listed.
pub fn all(folder: &Path) -> anyhow::Result<Vec<LastRun>> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with("last-run-") && name.ends_with(".json") {
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            out.push(
                serde_json::from_str(&text)
                    .with_context(|| format!("{} cannot be understood", path.display()))?,
            );
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_last_word_without_an_abort_lets_the_next_one_go() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = LastRun {
            target: "api.example.com:443".to_owned(),
            run: "r1".to_owned(),
            folder: "runs/r1".into(),
            started: WallTime(1),
            ended: false,
            state: None,
            needs_ack: None,
        };
        assert!(load(dir.path(), &run.target).unwrap().is_none());
        save(dir.path(), &run).unwrap();
        let why = obstacle(&load(dir.path(), &run.target).unwrap().unwrap()).unwrap();
        assert!(why.contains("crashed") && why.contains("replay ack api.example.com:443"), "{why}");
        run.ended = true;
        assert_eq!(obstacle(&run), None);
        run.needs_ack = Some("guard \"errors\" passed its abort limit".to_owned());
        assert!(obstacle(&run).unwrap().contains("abort limit"));
        std::fs::write(path(dir.path(), &run.target), "{").unwrap();
        assert!(load(dir.path(), &run.target).is_err());
    }
}
