//! Trace files: opened for reading, created for writing.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::trace::TraceMeta;
use crate::trace::outline::Outline;
use crate::trace::reader::TraceReader;
use crate::trace::writer::{TraceWriter, Written};
use crate::trace::{Ledger, TraceEvent};

/// A trace being read from a file.
pub type TraceFile = TraceReader<BufReader<File>>;

/// Opens a trace.
///
/// # Errors
/// When it cannot be opened or is not a trace.
pub fn open(path: &Path) -> anyhow::Result<TraceFile> {
    let show = path.display();
    let file = File::open(path).with_context(|| format!("cannot open the trace {show}"))?;
    TraceReader::new(BufReader::with_capacity(1 << 18, file)).with_context(|| format!("cannot read {show}"))
}

/// The outline of a whole trace; none of one that was cut off.
///
/// # Errors
/// When it cannot be read.
pub fn outline(path: &Path) -> anyhow::Result<Option<Outline>> {
    let show = path.display();
    let mut file = File::open(path).with_context(|| format!("cannot open the trace {show}"))?;
    // A pipe has no end to look at; it is read from its beginning.
    if !file.metadata().is_ok_and(|m| m.is_file()) {
        return Ok(None);
    }
    Outline::read(&mut file).with_context(|| format!("cannot read {show}"))
}

/// A trace being written: it gets its name only when it is whole.
#[derive(Debug)]
pub struct NewTrace {
    writer: TraceWriter<BufWriter<File>>,
    partial: PathBuf,
    path: PathBuf,
}

/// Creates a trace at `path`, readable by its owner only: even a redacted trace shows what users do.
///
/// # Errors
/// When it cannot be created.
pub fn create(path: &Path, meta: &TraceMeta) -> anyhow::Result<NewTrace> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial);
    let file = file.with_context(|| format!("cannot create {}", partial.display()))?;
    let writer = TraceWriter::new(BufWriter::with_capacity(1 << 18, file), meta)?;
    Ok(NewTrace { writer, partial, path: path.to_owned() })
}

impl NewTrace {
    /// Adds one event.
    ///
    /// # Errors
    /// When it is out of order or the disk fails.
    pub fn push(&mut self, event: &TraceEvent) -> anyhow::Result<()> {
        self.writer.push(event).with_context(|| format!("cannot write {}", self.partial.display()))
    }

    /// Ends the trace and gives it its name.
    ///
    /// # Errors
    /// When the disk fails; the partial file is left for inspection.
    pub fn finish(self, ledger: &Ledger) -> anyhow::Result<Written> {
        let (out, written) = self.writer.finish(ledger)?;
        let file = out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        file.sync_all().with_context(|| format!("cannot write {}", self.partial.display()))?;
        std::fs::rename(&self.partial, &self.path).with_context(|| {
            format!("cannot rename {} to {}", self.partial.display(), self.path.display())
        })?;
        Ok(written)
    }
}
