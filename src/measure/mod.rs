//! Outcomes to numbers: histograms, tallies, timeline, identities, fidelity.
//!
//! Pure. Response time counts from the due time, service time from the first byte written; the target's
//! slowness never slows the clock that measures it. It refuses to invent: what was cut off is counted as
//! censored, never as fast.

pub mod fidelity;
pub mod latency;
pub mod outcome;
pub mod pace;
pub mod route;
pub mod saturation;
pub mod tally;
pub mod timeline;
