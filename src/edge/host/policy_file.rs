//! Whether the policy's file still says what the run was started with.
//!
//! A run keeps the policy it was checked with. A change on disk is told, so that nobody believes to have changed a run
//! under way, and never read: neither loosened nor tightened, because half a change is a policy nobody wrote. Whoever
//! wants less load at once has `replay pause` and `replay stop`.

use std::path::{Path, PathBuf};

use crate::limits::POLICY_BYTES_MAX;
use crate::policy::hash_of;

/// The file of a run's policy.
#[derive(Debug, Clone)]
pub struct PolicyFile {
    path: PathBuf,
    hash: String,
}

impl PolicyFile {
    /// The file at `path`, whose text had this hash.
    #[must_use]
    pub fn new(path: &Path, hash: &str) -> Self {
        Self { path: path.to_owned(), hash: hash.to_owned() }
    }

    /// What is different now, in words; none while it is the same.
    #[must_use]
    pub fn difference(&self) -> Option<String> {
        let show = self.path.display();
        let said = match self.read() {
            Ok(text) => {
                let now = hash_of(&text);
                if now == self.hash {
                    return None;
                }
                format!("was changed (hash {} → {now})", self.hash)
            }
            Err(error) => format!("cannot be read any more ({error})"),
        };
        Some(format!("the policy {show} {said}; this run goes on with the policy it started with"))
    }

    fn read(&self) -> std::io::Result<String> {
        let bytes = std::fs::metadata(&self.path)?.len();
        if bytes > POLICY_BYTES_MAX {
            return Err(std::io::Error::other(format!("it has {bytes} bytes")));
        }
        std::fs::read_to_string(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_text_is_a_difference() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.toml");
        std::fs::write(&path, "version = 1\n").unwrap();
        let file = PolicyFile::new(&path, &hash_of("version = 1\n"));
        assert_eq!(file.difference(), None);
        std::fs::write(&path, "version = 1\n").unwrap();
        assert_eq!(file.difference(), None, "written again, the same");
        std::fs::write(&path, "version = 2\n").unwrap();
        let said = file.difference().unwrap();
        assert!(said.contains("p.toml") && said.contains("goes on with"), "{said}");
        std::fs::write(&path, "x".repeat(POLICY_BYTES_MAX as usize + 1)).unwrap();
        assert!(file.difference().unwrap().contains("cannot be read any more"));
        std::fs::remove_file(&path).unwrap();
        assert!(file.difference().unwrap().contains("cannot be read any more"));
    }
}
