//! The control socket of a running `replay`: status, pause, freeze, resume, stop.
//!
//! A Unix socket that only its owner can open, with a thread of its own, so that it answers when everything
//! else is busy. `stop` sets the latch right here, without waiting for the governor. One line in, one line of
//! JSON out; a client has one second.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};

use super::state_folder::create;
use crate::govern::inputs::Order;
use crate::govern::latch::{Latch, StopCause};

/// Longest line of a command.
const COMMAND_BYTES_MAX: u64 = 256;

/// Time that a client gets.
const CLIENT_TIME: Duration = Duration::from_secs(1);

/// The standing order, shared with the governor.
#[derive(Debug, Clone, Default)]
pub struct Orders(Arc<AtomicU8>);

impl Orders {
    /// What is ordered now.
    #[must_use]
    pub fn get(&self) -> Order {
        match self.0.load(Ordering::SeqCst) {
            0 => Order::Go,
            1 => Order::Freeze,
            _ => Order::Pause,
        }
    }

    /// Gives an order.
    pub fn set(&self, order: Order) {
        let code = match order {
            Order::Go => 0,
            Order::Freeze => 1,
            Order::Pause => 2,
        };
        self.0.store(code, Ordering::SeqCst);
    }
}

/// What a running `replay` says of itself: one line of JSON.
pub type Status = Arc<dyn Fn() -> String + Send + Sync>;

/// The socket of this run; closed and removed when dropped.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Folders that may hold sockets: the system's, and this user's own.
#[must_use]
pub fn folders() -> Vec<PathBuf> {
    let mut out = vec![PathBuf::from("/run/replay")];
    if let Some(dir) = std::env::var_os("XDG_RUNTIME_DIR").filter(|d| !d.is_empty()) {
        out.push(PathBuf::from(dir).join("replay"));
    }
    let me = rustix::process::getuid().as_raw();
    out.push(std::env::temp_dir().join(format!("replay-{me}")));
    out
}

fn is_mine(folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let me = rustix::process::getuid().as_raw();
    std::fs::symlink_metadata(folder).is_ok_and(|m| m.is_dir() && m.uid() == me && m.mode() & 0o022 == 0)
}

/// The folder for a new socket: the first that exists or can be made, and that nobody else can write.
fn own_folder() -> anyhow::Result<PathBuf> {
    let all = folders();
    for (i, folder) in all.iter().enumerate() {
        // The system's folder is made by systemd, not by us.
        let made = folder.is_dir() || (i > 0 && create(folder).is_ok());
        if made && is_mine(folder) {
            return Ok(folder.clone());
        }
    }
    bail!("there is no folder for the control socket that only this user can write (tried {all:?})")
}

impl Control {
    /// Opens the socket of run `id`.
    ///
    /// # Errors
    /// When it cannot be opened: a run that nobody can stop does not start.
    pub fn open(id: &str, orders: Orders, latch: Latch, status: Status) -> anyhow::Result<Self> {
        let path = own_folder()?.join(format!("{id}.sock"));
        let show = path.display().to_string();
        let listener =
            UnixListener::bind(&path).with_context(|| format!("cannot open the control socket {show}"))?;
        let ended = Arc::new(AtomicBool::new(false));
        let inside = Arc::clone(&ended);
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn(move || {
            for stream in listener.incoming() {
                if inside.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (orders, latch, status) = (orders.clone(), latch.clone(), Arc::clone(&status));
                // A thread each, so that a client that drips cannot keep `stop` waiting. One that goes away in the
                // middle has changed nothing.
                std::thread::spawn(move || drop(serve(&stream, &orders, &latch, &status)));
            }
        })?;
        Ok(Self { path, ended, thread: Some(thread) })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the thread; if that fails it ends with the process.
        let woken = UnixStream::connect(&self.path).is_ok();
        let _gone = std::fs::remove_file(&self.path).is_err();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            drop(thread.join());
        }
    }
}

fn serve(stream: &UnixStream, orders: &Orders, latch: &Latch, status: &Status) -> std::io::Result<()> {
    stream.set_read_timeout(Some(CLIENT_TIME))?;
    stream.set_write_timeout(Some(CLIENT_TIME))?;
    let mut line = String::new();
    BufReader::new(stream.take(COMMAND_BYTES_MAX)).read_line(&mut line)?;
    let done = |what: &str| format!("{{\"ok\":true,\"did\":\"{what}\"}}");
    let answer = match line.trim() {
        "status" => status(),
        "stop" => {
            latch.set(StopCause::Control);
            done("stop")
        }
        "pause" => {
            orders.set(Order::Pause);
            done("pause")
        }
        "freeze" => {
            orders.set(Order::Freeze);
            done("freeze")
        }
        "resume" => {
            orders.set(Order::Go);
            done("resume")
        }
        _ => "{\"ok\":false,\"why\":\"known are status, pause, freeze, resume and stop\"}".to_owned(),
    };
    let mut stream = stream;
    stream.write_all(answer.as_bytes())?;
    stream.write_all(b"\n")
}

/// Sockets of runs on this host that this user can see, by run id.
#[must_use]
pub fn running() -> Vec<(String, PathBuf)> {
    let mut out = Vec::new();
    for entry in folders().iter().filter_map(|f| std::fs::read_dir(f).ok()).flatten().flatten() {
        let path = entry.path();
        // A socket that nobody listens at is left from a run that was killed.
        let alive = || UnixStream::connect(&path).is_ok();
        if path.extension().is_some_and(|e| e == "sock") && alive() {
            let id = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
            out.push((id, path));
        }
    }
    out.sort();
    out.dedup();
    out
}

/// Sends one command and returns the answer.
///
/// # Errors
/// When nobody answers: the run is gone, or hangs (then use the kill file or a signal).
pub fn tell(path: &Path, command: &str) -> anyhow::Result<String> {
    let show = path.display();
    let stream =
        UnixStream::connect(path).with_context(|| format!("nobody answers at {show}; the run is gone"))?;
    stream.set_read_timeout(Some(CLIENT_TIME * 3))?;
    (&stream).write_all(format!("{command}\n").as_bytes())?;
    let mut answer = String::new();
    BufReader::new(&stream)
        .read_line(&mut answer)
        .with_context(|| format!("{show} does not answer; stop the run by a signal or its kill file"))?;
    Ok(answer.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_stand_until_the_next_one_and_stop_is_for_good() {
        let id = format!("test-{}", std::process::id());
        let (orders, latch) = (Orders::default(), Latch::new());
        let control =
            Control::open(&id, orders.clone(), latch.clone(), Arc::new(|| "{\"ok\":true}".to_owned()))
                .unwrap();
        let path = control.path().to_owned();
        assert!(running().iter().any(|(i, _)| *i == id));
        for (command, order) in [("pause", Order::Pause), ("freeze", Order::Freeze), ("resume", Order::Go)] {
            assert!(tell(&path, command).unwrap().contains(command));
            assert_eq!(orders.get(), order);
        }
        assert!(tell(&path, "nonsense").unwrap().contains("known are"));
        assert_eq!(tell(&path, "status").unwrap(), "{\"ok\":true}");
        assert!(!latch.is_set());
        tell(&path, "stop").unwrap();
        assert_eq!(latch.cause(), Some(StopCause::Control));
        drop(control);
        assert!(tell(&path, "status").is_err() && !path.exists());
    }
}
