//! What captures that last have in common: how long, how many traces, and what is said meanwhile.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use super::sink::{Files, Sink};
use super::{finished_json, ledger_rows};
use crate::cli::progress::Progress;
use crate::edge::intake::rotation::Rotation;
use crate::trace::Item;
use crate::units::parse_duration;

/// How long, and how many traces.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Lasting {
    /// Stop a live or following capture after this time; without it, at SIGINT or SIGTERM.
    #[arg(long = "for", value_name = "DUR", value_parser = parse_duration)]
    pub(super) lasts: Option<Duration>,
    /// Begin another trace at every full such time (`1h`: at every full hour, UTC), named by its first request.
    #[arg(long, value_name = "DUR", value_parser = parse_duration)]
    rotate: Option<Duration>,
    /// Begin another trace when one has this many MiB.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..))]
    rotate_mib: Option<u64>,
    /// How many of these traces are kept; the oldest go.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    keep: Option<u64>,
}

impl Lasting {
    /// The names that traces get.
    ///
    /// # Errors
    /// When the output has no name, or something is to be kept that does not come about.
    pub(super) fn files(&self, output: &Path) -> anyhow::Result<Files> {
        let many = self.rotate.is_some() || self.rotate_mib.is_some();
        anyhow::ensure!(many || self.keep.is_none(), "--keep is for traces of --rotate or --rotate-mib");
        anyhow::ensure!(self.rotate.is_none_or(|d| d >= Duration::from_secs(1)), "--rotate: at least 1s");
        if !many {
            return Ok(Files::One(output.to_owned()));
        }
        let keep = self.keep.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        let bytes = self.rotate_mib.map(|n| n.saturating_mul(1024 * 1024));
        Ok(Files::Many(Rotation::new(output, self.rotate, bytes, keep)?))
    }

    /// The same, with another trace every hour where nothing else is said.
    #[must_use]
    pub(super) fn hourly(&self) -> Self {
        let hourly = self.rotate.is_none() && self.rotate_mib.is_none();
        Self { rotate: if hourly { Some(Duration::from_secs(3600)) } else { self.rotate }, ..self.clone() }
    }
}

/// What is said while a capture lasts.
pub(super) struct Teller<'o> {
    out: &'o mut dyn Write,
    json: bool,
    progress: Progress,
}

impl<'o> Teller<'o> {
    pub(super) fn new(out: &'o mut dyn Write, json: bool) -> Self {
        Self { out, json, progress: Progress::start() }
    }

    pub(super) fn begin(&self, words: &str) {
        drop(writeln!(std::io::stderr(), "replay: {words}; it ends at SIGINT or SIGTERM"));
    }

    /// Names the traces that were ended since.
    pub(super) fn finished(&mut self, sink: &mut Sink) -> anyhow::Result<()> {
        for finished in sink.take_finished()? {
            if self.json {
                writeln!(self.out, "{}", finished_json(&finished))?;
            } else {
                let (share, _) = finished.ledger.completeness(finished.written.requests);
                writeln!(
                    self.out,
                    "{}: {} requests in {} sessions, {} bytes, complete {:.2} %",
                    finished.path.display(),
                    finished.written.requests,
                    finished.written.sessions,
                    finished.written.bytes,
                    share * 100.0
                )?;
            }
            self.out.flush()?;
        }
        Ok(())
    }

    pub(super) fn tick(&mut self, sink: &Sink, read: impl FnOnce() -> String) {
        self.progress.tick(|| {
            let dropped = sink.total(Item::KernelDrops) + sink.total(Item::InterfaceDrops);
            let drops = if dropped > 0 { format!(", {dropped} frames DROPPED") } else { String::new() };
            format!("{}, {} requests written{drops}", read(), sink.requests())
        });
    }

    /// All that was counted.
    pub(super) fn end(&mut self, sink: &Sink) -> anyhow::Result<()> {
        self.progress.done();
        // Also what was counted behind the last trace, or where there was none.
        let mut all = sink.all.clone();
        all.merge(&sink.ledger);
        if !self.json {
            ledger_rows(&mut self.out, &all, sink.sources())?;
        } else if sink.requests() == 0 {
            let ledger = crate::trace::summary::ledger_json(&all);
            writeln!(self.out, "{}", serde_json::json!({ "trace": null, "requests": 0, "ledger": ledger }))?;
        }
        Ok(())
    }
}
