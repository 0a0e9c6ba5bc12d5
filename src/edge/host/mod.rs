//! The machine: timer, signals, kill file, lock, systemd.

pub mod kill_file;
pub mod lock;
pub mod notify;
pub mod signals;
pub mod timer;
