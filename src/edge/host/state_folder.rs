//! Where this host keeps what must outlive a run: budgets, the last run per target, results of drills.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// The folder: `REPLAY_STATE_DIR`, else systemd's `STATE_DIRECTORY`, else `/var/lib/replay` where it exists,
/// else `replay` in the user's own state folder.
///
/// # Errors
/// When none of these can be used: what must not be forgotten needs a place.
pub fn folder() -> anyhow::Result<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let system = Path::new("/var/lib/replay");
    let found = var("REPLAY_STATE_DIR")
        .or_else(|| var("STATE_DIRECTORY"))
        .or_else(|| system.is_dir().then(|| system.to_owned()))
        .or_else(|| var("XDG_STATE_HOME").map(|d| d.join("replay")))
        .or_else(|| var("HOME").map(|d| d.join(".local/state/replay")));
    let path = found.context(
        "there is no folder for budgets and run states: set REPLAY_STATE_DIR, or create /var/lib/replay",
    )?;
    create(&path)?;
    Ok(path)
}

/// Creates a folder that only its owner can enter.
///
/// # Errors
/// When it cannot be created.
pub fn create(path: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot create {}", path.display()))
}

/// A file name out of any text: letters, digits and dots stay.
#[must_use]
pub fn safe_name(text: &str) -> String {
    text.to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' })
        .collect()
}

/// Replaces a file so that a crash at any moment leaves the old or the new text, on the disk.
///
/// # Errors
/// When it cannot be written or synchronised.
pub fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let show = path.display();
    let parent = path.parent().context("a state file has a folder")?;
    let fresh = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .with_context(|| format!("cannot create {}", fresh.display()))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {show}"))?;
    fs::rename(&fresh, path).with_context(|| format!("cannot replace {show}"))?;
    File::open(parent)
        .and_then(|d| d.sync_all())
        .with_context(|| format!("cannot synchronise the folder of {show}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        replace(&path, "one").unwrap();
        replace(&path, "two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert!(replace(&dir.path().join("no/x.json"), "three").is_err());
        assert_eq!(safe_name("Api.Example.com:443/../x"), "api.example.com_443_.._x");
    }
}
