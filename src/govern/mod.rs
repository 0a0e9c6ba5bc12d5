//! The safety core: decides whether a request may leave, and how fast.
//!
//! Pure: it knows no HTTP, no trace, no Prometheus and no clock. It is told the time, the readings and
//! what the workers saw, and answers with a state, a grant and permits. It refuses to guess: missing
//! information is a reading of its own ([`reading::NoData`]) and never lets a rate rise.
//!
//! ```text
//! Sample -> Guard -> View -> step() -> Grant -> bucket -> Permit -> one write
//! ```
//!
//! The specification is `docs/GOVERNOR.md`.

pub mod bucket;
pub mod budget;
pub mod ceiling;
pub mod gate;
pub mod guard;
pub mod inputs;
pub mod latch;
pub mod local;
pub mod local_rules;
pub mod reading;
pub mod record;
pub mod settings;
pub mod state;
pub mod step;
mod step_edges;
mod step_rules;
mod step_watch;
mod sync;
pub mod visibility;
