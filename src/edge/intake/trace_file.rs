//! Trace files: opened for reading, created for writing.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use anyhow::Context;

use crate::trace::outline::Outline;
use crate::trace::reader::TraceReader;
use crate::trace::writer::{TraceWriter, Written};
use crate::trace::{Ledger, TraceError, TraceEvent, TraceMeta};

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

/// Events handed to the writing thread at once.
const BATCH: usize = 1_024;

/// Batches that may wait for it.
const BATCHES_WAITING: usize = 8;

type Writer = TraceWriter<BufWriter<File>>;

/// A trace being written, by a thread of its own: packing blocks takes as long as reading what goes into them. It gets its
/// name only when it is whole.
#[derive(Debug)]
pub struct NewTrace {
    batch: Vec<TraceEvent>,
    batches: SyncSender<Vec<TraceEvent>>,
    thread: Option<JoinHandle<Result<Writer, TraceError>>>,
    written: Arc<AtomicU64>,
    partial: PathBuf,
    path: PathBuf,
}

/// What a trace is called while it is written.
#[must_use]
pub fn partial(path: &Path) -> PathBuf {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    PathBuf::from(partial)
}

/// Finds out whether a trace could be created at `path`.
///
/// # Errors
/// When it could not.
pub fn try_place(path: &Path) -> anyhow::Result<()> {
    let mut probe = path.as_os_str().to_owned();
    probe.push(".probe");
    let show = path.display();
    drop(std::fs::remove_file(&probe));
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&probe)
        .with_context(|| format!("cannot create {show}"))?;
    std::fs::remove_file(&probe).with_context(|| format!("cannot create {show}"))
}

/// Creates a trace at `path`, readable by its owner only: even a redacted trace shows what users do.
///
/// # Errors
/// When it cannot be created.
pub fn create(path: &Path, meta: &TraceMeta) -> anyhow::Result<NewTrace> {
    let partial = partial(path);
    // Anew, so that neither the rights of an old one nor a link decide who reads it.
    drop(std::fs::remove_file(&partial));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial);
    let file = file.with_context(|| format!("cannot create {}", partial.display()))?;
    let mut writer = TraceWriter::new(BufWriter::with_capacity(1 << 18, file), meta)?;
    let (batches, waiting) = sync_channel::<Vec<TraceEvent>>(BATCHES_WAITING);
    let written = Arc::new(AtomicU64::new(0));
    let bytes = Arc::clone(&written);
    let thread = std::thread::Builder::new().name("trace".to_owned()).spawn(move || {
        for batch in waiting {
            for event in &batch {
                writer.push(event)?;
            }
            bytes.store(writer.bytes(), Ordering::Relaxed);
        }
        Ok(writer)
    })?;
    let batch = Vec::with_capacity(BATCH);
    Ok(NewTrace { batch, batches, thread: Some(thread), written, partial, path: path.to_owned() })
}

impl NewTrace {
    /// Bytes on the disk, a little behind what was added.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Adds one event.
    ///
    /// # Errors
    /// When one was out of order or the disk failed.
    pub fn push(&mut self, event: TraceEvent) -> anyhow::Result<()> {
        self.batch.push(event);
        if self.batch.len() >= BATCH { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> anyhow::Result<()> {
        let batch = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH));
        if self.batches.send(batch).is_ok() {
            return Ok(());
        }
        // The thread has ended before its time: it says why.
        self.writer().and_then(|_| anyhow::bail!("the trace was ended too early"))
    }

    fn writer(&mut self) -> anyhow::Result<Writer> {
        let partial = self.partial.display().to_string();
        let thread = self.thread.take().with_context(|| format!("{partial} was given up before"))?;
        let ended = thread.join().map_err(|_| anyhow::anyhow!("the thread that writes {partial} died"))?;
        ended.with_context(|| format!("cannot write {partial}"))
    }

    /// Gives the trace up and removes what there is of it.
    pub fn abandon(mut self) {
        let (last, _) = sync_channel(0);
        drop(std::mem::replace(&mut self.batches, last));
        drop(self.writer());
        drop(std::fs::remove_file(&self.partial));
    }

    /// Ends the trace and gives it its name.
    ///
    /// # Errors
    /// When the disk fails; the partial file is left for inspection.
    pub fn finish(self, ledger: &Ledger) -> anyhow::Result<Written> {
        self.finish_with(ledger, || Ok(()))
    }

    /// The same, with something to be done when the trace is on the disk but has no name yet.
    ///
    /// # Errors
    /// When the disk or `before` fails; the partial file is left for inspection.
    pub fn finish_with(
        mut self,
        ledger: &Ledger,
        before: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Written> {
        self.send()?;
        // Nothing more comes: the thread ends.
        let (last, _) = sync_channel(0);
        drop(std::mem::replace(&mut self.batches, last));
        let (out, written) = self.writer()?.finish(ledger)?;
        let file = out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        file.sync_all().with_context(|| format!("cannot write {}", self.partial.display()))?;
        before()?;
        std::fs::rename(&self.partial, &self.path).with_context(|| {
            format!("cannot rename {} to {}", self.partial.display(), self.path.display())
        })?;
        Ok(written)
    }
}
