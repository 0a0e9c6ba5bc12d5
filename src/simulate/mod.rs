//! The governor against an invented plant: the same `step`, the same guards, the same local window, no network and
//! no clock. For the control-loop bench, for pictures, and for people who want to know what a policy would do
//! before it does it.
//!
//! Pure and seeded: the same scenario gives the same run on every machine. A plant here is a queue with a
//! capacity; read the ordering of its numbers, not their digits.

pub mod again;
pub mod plant;
pub mod scenario;
pub mod world;

pub use scenario::Scenario;
pub use world::{Outcome, Tick, run};
