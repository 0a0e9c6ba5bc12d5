//! The kill file: while it exists, or cannot be looked at, nothing is sent.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A kill file that is looked at.
#[derive(Debug, Clone)]
pub struct KillFile(PathBuf);

impl KillFile {
    /// A kill file at `path`.
    ///
    /// # Errors
    /// When its folder does not exist: then nobody could ever create it in time.
    pub fn new(path: &Path) -> anyhow::Result<Self> {
        if !folder(path).is_dir() {
            anyhow::bail!("the folder of the kill file {} does not exist; create it", path.display());
        }
        Ok(Self(path.to_owned()))
    }

    /// Whether the run must stop: the file exists, or it cannot be told.
    #[must_use]
    pub fn says_stop(&self) -> bool {
        match std::fs::symlink_metadata(&self.0) {
            Ok(_) => true,
            // Without its folder nobody could create it: that is "cannot be looked at", not "absent".
            Err(e) => e.kind() != ErrorKind::NotFound || !folder(&self.0).is_dir(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn present_or_unknown_means_stop() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("STOP");
        let kill = KillFile::new(&path).unwrap();
        assert!(!kill.says_stop());
        std::fs::write(&path, "").unwrap();
        assert!(kill.says_stop());
        let under_a_file = KillFile(path.join("below"));
        assert!(under_a_file.says_stop(), "cannot be looked at");
        assert!(KillFile::new(&dir.path().join("no/such/STOP")).is_err());
        let gone = dir.path().join("gone");
        std::fs::create_dir(&gone).unwrap();
        let kill = KillFile::new(&gone.join("STOP")).unwrap();
        assert!(!kill.says_stop());
        std::fs::remove_dir(&gone).unwrap();
        assert!(kill.says_stop(), "its folder is gone, so nobody can pull it any more");
    }
}
