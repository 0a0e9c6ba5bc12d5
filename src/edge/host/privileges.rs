//! Gives up what a program may do beyond an ordinary one, for good.

use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};

/// Gives up all capabilities of this thread, and of those that it will start; no program that is started from here can have
/// them again. To be called before another thread is started.
///
/// # Errors
/// When the kernel refuses, which it has no reason to.
pub fn drop_all() -> std::io::Result<()> {
    let none = CapabilitySet::empty();
    set_no_new_privs(true)?;
    Ok(set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?)
}
