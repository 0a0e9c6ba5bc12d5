//! SIGINT and SIGTERM set the latch directly, without waiting for any thread of ours.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::govern::latch::Latch;

/// Connects the signals to the latch. A second signal of the same kind ends the process at once.
///
/// # Errors
/// When the handler cannot be installed.
pub fn stop_on_signals(latch: &Latch) -> std::io::Result<()> {
    for signal in [SIGINT, SIGTERM] {
        let armed = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        // Order matters: the handler looks at the flag before it sets it, so only a second signal exits.
        flag::register_conditional_shutdown(signal, 6, std::sync::Arc::clone(&armed))?;
        flag::register(signal, armed)?;
        flag::register_usize(signal, latch.signal_flag(), usize::try_from(signal).unwrap_or(15))?;
    }
    Ok(())
}
