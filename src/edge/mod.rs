//! Everything that touches clock, network, devices and disk. Thin: it decides nothing.
//!
//! Four siblings that never import each other: [`intake`] (packets, logs, trace files), [`send`] (DNS,
//! connections, TLS, lanes), [`watch`] (Prometheus, scraped pages), [`host`] (clock, signals, kill file,
//! locks, systemd). What several of them need stands here: [`clock`], [`trust`].

pub mod clock;
pub mod host;
pub mod intake;
pub mod send;
pub mod trust;
pub mod watch;
