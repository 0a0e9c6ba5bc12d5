//! The only place that reads a clock or waits for one.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::units::{RunTime, WallTime};

/// The clock of one run: monotonic time since its start.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Instant,
}

#[allow(clippy::disallowed_methods, reason = "this is the one place where time enters the program")]
fn instant() -> Instant {
    Instant::now()
}

/// Wall-clock time now.
#[allow(clippy::disallowed_methods, reason = "this is the one place where time enters the program")]
#[must_use]
pub fn wall() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Waits. Bounded by the caller; no test and no worker uses it to synchronise.
#[allow(clippy::disallowed_methods, reason = "this is the one place that waits")]
pub fn wait(d: Duration) {
    std::thread::sleep(d);
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        Self { origin: instant() }
    }

    /// Time since the start.
    #[must_use]
    pub fn now(&self) -> RunTime {
        RunTime::from_duration(instant().duration_since(self.origin))
    }

    /// The instant of a run time, for timers of tokio.
    #[must_use]
    pub fn instant_of(&self, at: RunTime) -> Instant {
        self.origin + Duration::from_nanos(at.0)
    }
}
