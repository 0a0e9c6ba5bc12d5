//! The kill file: while it exists, or cannot be looked at, nothing is sent.
//!
//! It is looked at every tick, and a watcher of its folder looks the moment something changes there. The
//! watcher only makes it faster: where the kernel gives no watch, the tick is still there.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};

use crate::govern::latch::{Latch, StopCause};

/// Longest sleep of the watcher, so that it ends with the run.
const WATCH_REST: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

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

/// Watches the folder of a kill file; ended when dropped.
#[derive(Debug)]
pub struct KillWatch {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl KillWatch {
    /// Starts to watch. The latch is set as soon as the file says stop.
    ///
    /// # Errors
    /// When the kernel gives no watch; the tick still looks.
    pub fn start(file: KillFile, latch: Latch) -> std::io::Result<Self> {
        let fd = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let changes = WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF;
        add_watch(&fd, folder(&file.0), changes)?;
        let ended = Arc::new(AtomicBool::new(false));
        let inside = Arc::clone(&ended);
        let thread = std::thread::Builder::new().name("kill-file".to_owned()).spawn(move || {
            let mut events = [0u8; 4096];
            while !inside.load(Ordering::SeqCst) && !latch.is_set() {
                let mut fds = [PollFd::new(&fd, PollFlags::IN)];
                let _interrupted = poll(&mut fds, Some(&WATCH_REST)).is_err();
                // What changed does not matter; that the file is there does.
                let _nothing = rustix::io::read(&fd, &mut events).is_err();
                if file.says_stop() {
                    latch.set(StopCause::KillFile);
                }
            }
        })?;
        Ok(Self { ended, thread: Some(thread) })
    }
}

impl Drop for KillWatch {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_sets_the_latch_when_the_file_comes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("STOP");
        let latch = Latch::new();
        let watch = KillWatch::start(KillFile::new(&path).unwrap(), latch.clone()).unwrap();
        std::fs::write(dir.path().join("other"), "").unwrap();
        assert!(!latch.is_set());
        std::fs::write(&path, "").unwrap();
        // The watcher ends by itself once the latch is set: joining it waits for just that.
        let mut watch = watch;
        watch.thread.take().unwrap().join().unwrap();
        assert_eq!(latch.cause(), Some(StopCause::KillFile));
    }

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
