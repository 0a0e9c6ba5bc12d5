//! A panic on any thread of the program stops every run in it, before the stack is unwound.
//!
//! Without it a panicking worker is noticed when it has been silent for two seconds, and a panicking governor when
//! its lease has run out. Both stay as they are; this is only earlier. It refuses to swallow the panic: what the
//! hook before it did is still done.

use std::sync::{Mutex, Once, PoisonError};

use crate::govern::latch::{Latch, StopCause};

static RUNS: Mutex<Vec<(u64, Latch)>> = Mutex::new(Vec::new());
static HOOK: Once = Once::new();

/// While this lives, a panic sets the latch it was made for.
#[derive(Debug)]
pub struct PanicStop(u64);

impl PanicStop {
    /// Watches for panics from now on.
    #[must_use]
    pub fn watch(latch: &Latch) -> Self {
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                stop_all();
                before(info);
            }));
        });
        let mut runs = RUNS.lock().unwrap_or_else(PoisonError::into_inner);
        let id = runs.last().map_or(0, |(id, _)| id + 1);
        runs.push((id, latch.clone()));
        Self(id)
    }
}

impl Drop for PanicStop {
    fn drop(&mut self) {
        RUNS.lock().unwrap_or_else(PoisonError::into_inner).retain(|(id, _)| *id != self.0);
    }
}

/// The list is only ever held to add or remove an entry, and neither can panic: this does not wait for itself.
fn stop_all() {
    for (_, latch) in RUNS.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        latch.set(StopCause::Panic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_on_another_thread_stops_the_runs_that_are_watched() {
        let (watched, left) = (Latch::new(), Latch::new());
        let watch = PanicStop::watch(&watched);
        drop(PanicStop::watch(&left));
        assert!(!watched.is_set());
        let thread = std::thread::spawn(|| panic!("this panic is part of a test"));
        assert!(thread.join().is_err());
        assert_eq!(watched.cause(), Some(StopCause::Panic));
        assert!(!left.is_set(), "a run that is over is stopped no more");
        drop(watch);
    }
}
