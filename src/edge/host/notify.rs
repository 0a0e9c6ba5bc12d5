//! Tells systemd how we are (`sd_notify(3)`): one datagram, no library.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::units::RunTime;

/// Sends `state` (such as `READY=1`) to the socket in `NOTIFY_SOCKET`. Without that variable nothing is
/// sent: the program was not started by systemd.
///
/// # Errors
/// When the socket is named but cannot be reached.
pub fn notify(state: &str) -> std::io::Result<bool> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|p| !p.is_empty()) else { return Ok(false) };
    let bytes = path.as_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A full queue must not hold up the governor.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &address)?;
    Ok(true)
}

/// Feeds systemd's watchdog (`WatchdogSec=`), if the unit asks for it.
///
/// Fed by the governor's tick and by nothing else: a process whose governor stands still is killed, however
/// alive its other threads look.
#[derive(Debug, Clone, Copy, Default)]
pub struct Watchdog {
    /// Time between two signs of life; none where nobody waits for them.
    every: Option<Duration>,
    last: Option<RunTime>,
}

impl Watchdog {
    /// As the environment says (sd_watchdog_enabled(3)).
    #[must_use]
    pub fn of_environment() -> Self {
        let var = |name| std::env::var(name).ok();
        Self::of(var("WATCHDOG_USEC").as_deref(), var("WATCHDOG_PID").as_deref(), std::process::id())
    }

    fn of(usec: Option<&str>, pid: Option<&str>, me: u32) -> Self {
        let ours = pid.is_none_or(|p| p.parse() == Ok(me));
        let usec = usec.and_then(|u| u.parse::<u64>().ok()).filter(|u| ours && *u > 0);
        // Half of the time, as sd_watchdog_enabled(3) recommends.
        Self { every: usec.map(|u| Duration::from_micros(u) / 2), last: None }
    }

    /// Called every tick.
    pub fn feed(&mut self, now: RunTime) {
        if self.due(now) {
            // A socket that is gone starves the watchdog, and then systemd ends us: nothing to add to that.
            let _starved = notify("WATCHDOG=1").is_err();
        }
    }

    fn due(&mut self, now: RunTime) -> bool {
        let Some(every) = self.every else { return false };
        let due = self.last.is_none_or(|last| now.since(last) >= every);
        if due {
            self.last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_life_come_twice_in_the_time_that_the_unit_gives() {
        for (usec, pid) in [(None, None), (Some("0"), None), (Some("x"), None), (Some("4000000"), Some("8"))]
        {
            assert!(!Watchdog::of(usec, pid, 7).due(RunTime::START), "{usec:?} {pid:?}");
        }
        for pid in [None, Some("7")] {
            let mut dog = Watchdog::of(Some("4000000"), pid, 7);
            let at = |ms: u64| RunTime(ms * 1_000_000);
            let fed: Vec<u64> = (0..100).map(|t| t * 100).filter(|ms| dog.due(at(*ms))).collect();
            assert_eq!(fed, [0, 2_000, 4_000, 6_000, 8_000]);
        }
    }
}
