//! A timer finer than tokio's millisecond wheel: a Linux timerfd, absolute, through rustix (no unsafe).

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// A timer of one worker thread.
#[derive(Debug)]
pub struct FineTimer {
    fd: AsyncFd<OwnedFd>,
}

impl FineTimer {
    /// Creates the timer; must be called inside a tokio runtime with I/O.
    ///
    /// # Errors
    /// When the kernel has no more file descriptors.
    #[allow(
        deprecated,
        reason = "the safe constructor is sound for an OwnedFd, whose descriptor cannot change; its successor is unsafe"
    )]
    pub fn new() -> io::Result<Self> {
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Self { fd: AsyncFd::new(fd)? })
    }

    /// Waits for `d`, at most. May wake early; the caller looks at its clock.
    ///
    /// # Errors
    /// When the kernel refuses the timer.
    pub async fn wait(&self, d: Duration) -> io::Result<()> {
        if d.is_zero() {
            return Ok(());
        }
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec {
            tv_sec: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(d.subsec_nanos()),
        };
        let spec = Itimerspec { it_interval: none, it_value: value };
        // Setting it forgets expirations that nobody has read, so reading them would be a call for nothing.
        timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &spec)?;
        let mut guard = self.fd.readable().await?;
        guard.clear_ready();
        Ok(())
    }
}
