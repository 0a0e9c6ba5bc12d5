//! Where followed logs were left, on the disk: so that every line is in exactly one finished trace.
//!
//! The position goes with the trace that has the lines before it. It is written beside the old one first, with the name that
//! the trace is about to get; then the trace gets its name; then the position replaces the old one. Whoever comes after a
//! crash sees by the trace which of the two holds.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use super::follow::Position;

/// Version of the file.
const VERSION: u32 = 1;

/// What the file says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    version: u32,
    /// The trace that has all lines before the positions.
    trace: PathBuf,
    positions: Vec<Position>,
}

/// The file.
#[derive(Debug, Clone)]
pub struct PositionFile {
    path: PathBuf,
    next: PathBuf,
}

impl PositionFile {
    /// The file at `path`.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        let mut next = path.as_os_str().to_owned();
        next.push(".next");
        Self { path, next: PathBuf::from(next) }
    }

    /// Where the logs were left; nothing where they were never followed.
    ///
    /// # Errors
    /// When the file cannot be read or is not one of ours.
    pub fn load(&self) -> anyhow::Result<Vec<Position>> {
        // One that cannot be read was not prepared to its end, so that its trace has no name either.
        match self.read(&self.next) {
            Ok(Some(next))
                if next
                    .trace
                    .try_exists()
                    .with_context(|| format!("cannot find {}", next.trace.display()))? =>
            {
                self.adopt()?;
            }
            Ok(None) => {}
            // The trace did not come about: its lines are to be read again.
            Ok(Some(_)) | Err(_) => {
                fs::remove_file(&self.next)
                    .with_context(|| format!("cannot remove {}", self.next.display()))?;
            }
        }
        Ok(self.read(&self.path)?.map(|s| s.positions).unwrap_or_default())
    }

    fn read(&self, path: &Path) -> anyhow::Result<Option<Saved>> {
        let show = path.display();
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(|| format!("cannot read {show}")),
        };
        let what_to_do =
            || format!("{show} is no file of positions; remove it to follow the logs from their beginnings");
        let saved: Saved = serde_json::from_str(&text).with_context(what_to_do)?;
        ensure!(
            saved.version == VERSION,
            "{show} has version {}; this program knows {VERSION}",
            saved.version
        );
        Ok(Some(saved))
    }

    /// Writes where the logs are left by a trace that is about to be called `trace`.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn prepare(&self, trace: &Path, positions: Vec<Position>) -> anyhow::Result<()> {
        let cannot = || format!("cannot write {}", self.next.display());
        let saved =
            Saved { version: VERSION, trace: std::path::absolute(trace).with_context(cannot)?, positions };
        drop(fs::remove_file(&self.next));
        let options = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.next);
        let mut file: File = options.with_context(cannot)?;
        file.write_all(serde_json::to_string_pretty(&saved)?.as_bytes()).with_context(cannot)?;
        file.sync_all().with_context(cannot)
    }

    /// The trace has its name: what was prepared holds.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn adopt(&self) -> anyhow::Result<()> {
        fs::rename(&self.next, &self.path).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trace_decides_which_position_holds() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        fs::write(&log, "a\nb\n").unwrap();
        let position = || super::super::follow::Followed::open(&log, None).unwrap().0.position().unwrap();
        let file = PositionFile::new(dir.path().join("t.position"));
        assert_eq!(file.load().unwrap(), []);
        let trace = dir.path().join("t.trace");
        // A crash before the trace got its name, and one behind that.
        for (exists, left) in [(false, 0), (true, 1)] {
            file.prepare(&trace, vec![position()]).unwrap();
            if exists {
                fs::write(&trace, "").unwrap();
            }
            assert_eq!((file.load().unwrap().len(), file.load().unwrap().len()), (left, left));
            assert!(!dir.path().join("t.position.next").exists());
        }
        // Torn by a crash: not prepared, and what held before holds.
        fs::write(dir.path().join("t.position.next"), "{\"version\"").unwrap();
        assert_eq!(file.load().unwrap().len(), 1);
        assert!(!dir.path().join("t.position.next").exists());
        fs::write(dir.path().join("t.position"), "{}").unwrap();
        assert!(format!("{:#}", file.load().unwrap_err()).contains("remove it to follow"));
    }
}
