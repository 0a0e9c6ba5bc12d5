//! Joins the pure rooms with the edge: feeder, workers, governor thread, journal, shutdown.
//!
//! ```text
//! feeder --departures--> worker 0..n --permits--> network
//!    ^ stage                | beats
//!    +------ governor <-----+      governor --> journal
//! ```
//!
//! Each arrow is bounded. Every thread can be missed: a silent worker holds and then aborts the run, a
//! silent governor lets the lease run out.

pub mod demands;
pub mod feeder;
pub mod foresight;
pub mod governor;
pub mod handle;
pub mod identity;
pub mod journal;
pub mod ledger;
mod open;
pub mod pool;
pub mod prepare;
pub mod queue;
pub mod rewriting;
pub mod run;
pub mod sessions;
pub mod shared;
pub mod sight;
pub mod spending;
pub mod worker;
