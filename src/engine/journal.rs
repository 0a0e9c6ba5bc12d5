//! The journal: every input and decision of the governor, one JSON line each, by a thread of its own.
//!
//! A run that cannot be explained proves nothing, so a journal that cannot be written ends the run: the
//! queue is bounded, and full means stop.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use anyhow::Context;

use crate::govern::latch::{Latch, StopCause};
use crate::govern::record::Line;
use crate::limits::JOURNAL_QUEUE_MAX;

/// The governor's end of the journal.
#[derive(Debug)]
pub struct Journal {
    queue: SyncSender<Line>,
    thread: JoinHandle<anyhow::Result<()>>,
    latch: Latch,
}

impl Journal {
    /// Starts a journal at `path`. The first line is on the disk when this returns.
    ///
    /// # Errors
    /// When the file cannot be written: then there is no run.
    pub fn start(path: &Path, first: &Line, latch: Latch) -> anyhow::Result<Self> {
        let show = path.display();
        let file = File::create(path).with_context(|| format!("cannot create the journal {show}"))?;
        let mut out = BufWriter::new(file);
        write_line(&mut out, first).with_context(|| format!("cannot write the journal {show}"))?;
        out.flush().with_context(|| format!("cannot write the journal {show}"))?;
        let (queue, lines) = sync_channel(JOURNAL_QUEUE_MAX);
        let stop = latch.clone();
        let thread = std::thread::Builder::new().name("journal".to_owned()).spawn(move || {
            let result = write_all(&mut out, &lines);
            if result.is_err() {
                stop.set(StopCause::Journal);
            }
            result
        })?;
        Ok(Self { queue, thread, latch })
    }

    /// Writes one line; never waits. A journal that cannot keep up ends the run.
    pub fn put(&self, line: Line) {
        match self.queue.try_send(line) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.latch.set(StopCause::Journal),
        }
    }

    /// Ends the journal.
    ///
    /// # Errors
    /// When it could not be written to its end.
    pub fn finish(self) -> anyhow::Result<()> {
        self.put(Line::End);
        drop(self.queue);
        self.thread.join().map_err(|_| anyhow::anyhow!("the journal thread panicked"))?
    }
}

fn write_line(out: &mut impl Write, line: &Line) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")?;
    Ok(())
}

fn write_all(out: &mut impl Write, lines: &Receiver<Line>) -> anyhow::Result<()> {
    while let Ok(line) = lines.recv() {
        write_line(out, &line)?;
        // What is known is on the disk before the next decision is a second old.
        out.flush()?;
    }
    Ok(())
}

/// Reads a journal. A last line that was cut off is left out; anything else that cannot be read is an error.
///
/// # Errors
/// When it cannot be read, with the line.
pub fn read(path: &Path) -> anyhow::Result<Vec<Line>> {
    let show = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the journal {show}"))?;
    let mut out = Vec::new();
    for (n, line) in text.split_inclusive('\n').enumerate() {
        match serde_json::from_str(line) {
            Ok(line) => out.push(line),
            Err(_) if !line.ends_with('\n') => break,
            Err(e) => {
                return Err(e).with_context(|| {
                    format!("{show}, line {}: not a line of a journal of this version", n + 1)
                });
            }
        }
    }
    Ok(out)
}
