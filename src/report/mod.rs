//! Numbers to words: `report.json`, the summary on the terminal, the line of live progress.
//!
//! Pure: it is given everything and writes to what it is given. It refuses to round away bad news: the
//! verdict and its cause come first, absent numbers are `null` or `-`, never zero.

pub mod cause;
pub mod dry_run;
pub mod explain;
pub mod json;
pub mod live;
pub mod picture;
pub mod route;
pub mod svg;
mod svg_scale;
pub mod text;
