//! `replay`: record the shape of real HTTP traffic and send it again, governed, through the production
//! load balancer.
//!
//! The map of the house, in the direction data flows. A module may import only what stands above it
//! in its row of the table in `docs/ARCHITECTURE.md`; `tests/tidy.rs` enforces the table.
//!
//! ```text
//! frame bytes, log lines -> capture -> trace -> plan -> engine -> measure -> report
//!                                                       ^
//!                  watch -> guards -> govern -> grant --+
//! ```
//!
//! Pure rooms (`wire trace capture plan govern policy measure report simulate`) never read a clock, a socket, a
//! file or a random number: time, bytes and seeds are arguments. `edge` touches the world and decides
//! nothing. `engine` joins the two.

pub mod capture;
pub mod cli;
pub mod daemon;
pub mod demo;
pub mod edge;
pub mod engine;
pub mod govern;
pub mod limits;
pub mod lookup;
pub mod measure;
pub mod plan;
pub mod policy;
pub mod report;
pub mod simulate;
pub mod trace;
pub mod units;
pub mod wire;
