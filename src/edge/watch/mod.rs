//! Guards that ask somebody else: Prometheus, and metrics pages that we read ourselves.
//!
//! Whatever goes wrong becomes a reading ([`Answer`](crate::govern::reading::Answer)), never a number and
//! never silence: each question has one deadline for everything.

pub mod baseline;
pub mod exposition;
pub mod get;
pub mod observe;
pub mod poll;
pub mod prometheus;
pub mod relay;
#[cfg(test)]
pub(crate) mod scripted;
