//! `replay explain RUN`: the story of a run, out of its journal.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::engine::journal;
use crate::govern::record::Line;
use crate::report::explain::{Journal, story};
use crate::report::picture;

/// Tell the story of a run.
#[derive(Debug, clap::Args)]
pub(super) struct ExplainArgs {
    /// Folder of the run, or its journal.
    run: PathBuf,
    /// Also draw rates, shares and guards over time into this file (SVG).
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// The journal at `path`, a file or the folder of a run.
///
/// # Errors
/// When it cannot be read.
pub(super) fn load(path: &Path) -> anyhow::Result<Vec<Line>> {
    let file = if path.is_dir() { path.join("journal.jsonl") } else { path.to_owned() };
    journal::read(&file)
}

impl ExplainArgs {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<u8> {
        let lines = load(&self.run)?;
        let journal = Journal::of(&lines).context("the journal does not begin with the start of a run")?;
        for sentence in story(&journal) {
            writeln!(out, "{sentence}")?;
        }
        if let Some(path) = &self.svg {
            std::fs::write(path, picture::of_run(&journal).svg())
                .with_context(|| format!("cannot write {}", path.display()))?;
            writeln!(std::io::stderr(), "replay: the picture is in {}", path.display())?;
        }
        Ok(super::OK)
    }
}
