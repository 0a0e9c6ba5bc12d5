//! The very source files of the safety core, with loom's atomics in place of the machine's.
//!
//! `ceiling` is somebody else's limiter, which loom cannot look into; here it says yes. Everything else is the file
//! that the program is built from.
#![allow(dead_code, unused_imports, missing_docs)]

#[path = "../../../src/limits.rs"]
pub mod limits;
#[path = "../../../src/units.rs"]
pub mod units;

pub mod govern;
