//! A line of progress on standard error for anything that takes longer than two seconds.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use crate::edge::clock::Clock;
use crate::units::RunTime;

/// Shows progress once a second, after the first two seconds.
#[derive(Debug)]
pub(super) struct Progress {
    clock: Clock,
    next: RunTime,
    shown: bool,
    terminal: bool,
}

impl Progress {
    pub(super) fn start() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { clock: Clock::start(), next: RunTime::from_millis(2_000), shown: false, terminal }
    }

    /// Shows `words` if it is time.
    pub(super) fn tick(&mut self, words: impl FnOnce() -> String) {
        let now = self.clock.now();
        if now < self.next {
            return;
        }
        self.next = now.plus(Duration::from_secs(if self.terminal { 1 } else { 10 }));
        self.shown = true;
        let (start, end) = if self.terminal { ("\r\x1b[2K", "") } else { ("", "\n") };
        let mut err = std::io::stderr().lock();
        drop(write!(err, "{start}{}{end}", words()));
        drop(err.flush());
    }

    /// Clears the line.
    pub(super) fn done(&self) {
        if self.shown && self.terminal {
            drop(write!(std::io::stderr(), "\r\x1b[2K"));
        }
    }
}
