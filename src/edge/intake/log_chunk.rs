//! A log in chunks of whole lines, and threads that read them.
//!
//! A chunk is cut where a line ends, behind as many bytes as were asked for or as many lines as one may have, so that its
//! bounds depend on the log alone: what is read of it is the same whoever reads it, and how many threads there are decides
//! nothing but the time it takes. What a log says of itself on the way (the columns of a W3C log) is carried from chunk to
//! chunk by the one that cuts.
//! What it refuses to do: read a line that is longer than a chunk. It is skipped, and counted by its caller.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::Context;

use crate::capture::access_log::row::LineError;
use crate::capture::access_log::{Line, LogSource, Shapes};
use crate::limits::{LOG_CHUNK_LINES, LOG_LINE_BYTES_MAX};

/// A line that was read.
#[derive(Debug)]
pub(super) struct ReadLine {
    /// Its bytes, without the line end.
    pub(super) len: usize,
    /// Bytes from its beginning to that of the next one.
    pub(super) step: u64,
    /// What it said.
    pub(super) said: Result<Option<Line>, LineError>,
}

/// Bytes of a line that were passed over, and those of its end.
#[derive(Debug, Clone, Copy, Default)]
struct Skipped {
    bytes: u64,
    ends: u64,
}

/// Whole lines of a log.
#[derive(Debug)]
pub(super) struct Chunk {
    bytes: Vec<u8>,
    /// Bytes of a byte order mark at its beginning.
    mark: usize,
    /// What is not here of its only line, which is longer than a chunk.
    skipped: Skipped,
    /// The log as it is where the chunk begins.
    source: LogSource,
}

impl Chunk {
    /// Reads its lines.
    pub(super) fn read(mut self, shapes: &mut Shapes) -> Vec<ReadLine> {
        shapes.begin();
        let mut out = Vec::with_capacity((self.bytes.len() / 128 + 1).min(LOG_CHUNK_LINES));
        let (mut at, mut before) = (self.mark, self.mark as u64);
        while at < self.bytes.len() {
            let rest = &self.bytes[at..];
            let (len, step) = match memchr::memchr(b'\n', rest) {
                Some(end) => (end, end + 1),
                None => (rest.len(), rest.len()),
            };
            let said = self.source.read(&rest[..len], shapes);
            let Skipped { bytes, ends } = self.skipped;
            let all = std::mem::take(&mut before) + step as u64 + bytes + ends;
            out.push(ReadLine { len: len + bytes as usize, step: all, said });
            at += step;
        }
        out
    }
}

/// Cuts a log into chunks.
pub(super) struct Cutter {
    input: Box<dyn Read + Send>,
    /// What was read and is in no chunk yet, behind so many bytes that are.
    rest: Vec<u8>,
    taken: usize,
    chunk_bytes: usize,
    source: LogSource,
    begun: bool,
    ended: bool,
    /// The medium was cut: a compressed file that ends too early, or has something else behind it.
    pub(super) cut: bool,
}

/// What a log may begin with (a byte order mark).
const MARK: &[u8] = b"\xef\xbb\xbf";

impl Cutter {
    /// Cuts `input` into chunks of about so many bytes, never less than the longest line.
    pub(super) fn new(input: Box<dyn Read + Send>, source: LogSource, chunk_bytes: usize) -> Self {
        let chunk_bytes = chunk_bytes.max(MARK.len() + LOG_LINE_BYTES_MAX + 2);
        Self {
            input,
            rest: Vec::new(),
            taken: 0,
            chunk_bytes,
            source,
            begun: false,
            ended: false,
            cut: false,
        }
    }

    /// The next chunk.
    ///
    /// # Errors
    /// When the medium fails. Where it was cut, the lines before are in the last chunk, and `cut` is set.
    pub(super) fn next(&mut self) -> std::io::Result<Option<Chunk>> {
        if let Some(bytes) = self.most_lines() {
            return Ok(Some(self.chunk(bytes, Skipped::default())));
        }
        let mut bytes = std::mem::take(&mut self.rest);
        bytes.drain(..std::mem::take(&mut self.taken));
        self.fill(&mut bytes)?;
        self.rest = bytes;
        if let Some(bytes) = self.most_lines() {
            return Ok(Some(self.chunk(bytes, Skipped::default())));
        }
        let (mut bytes, mut skipped) = (std::mem::take(&mut self.rest), Skipped::default());
        if !self.ended {
            match memchr::memrchr(b'\n', &bytes) {
                Some(last) => self.rest = bytes.split_off(last + 1),
                None => skipped = self.skip()?,
            }
        }
        Ok(if bytes.is_empty() { None } else { Some(self.chunk(bytes, skipped)) })
    }

    /// As many lines as a chunk may have, where there are so many: short ones become more in memory than they are.
    fn most_lines(&mut self) -> Option<Vec<u8>> {
        let left = &self.rest[self.taken..];
        let end = memchr::memchr_iter(b'\n', left).nth(LOG_CHUNK_LINES - 1)? + 1;
        let bytes = left[..end].to_vec();
        self.taken += end;
        Some(bytes)
    }

    fn chunk(&mut self, bytes: Vec<u8>, skipped: Skipped) -> Chunk {
        let first = !std::mem::replace(&mut self.begun, true);
        let mark = if first && bytes.starts_with(MARK) { MARK.len() } else { 0 };
        let source = self.source.clone();
        // A line that is longer than a chunk names no columns, whatever it begins with.
        if skipped.bytes == 0 {
            self.source.pass(&bytes[mark..]);
        } else {
            self.source.pass_parts(&bytes[mark..]);
        }
        Chunk { bytes, mark, skipped, source }
    }

    /// Reads until there is a chunk, or no more.
    fn fill(&mut self, bytes: &mut Vec<u8>) -> std::io::Result<()> {
        let want = self.chunk_bytes.saturating_sub(bytes.len());
        if self.ended || want == 0 {
            return Ok(());
        }
        bytes.reserve_exact(want);
        match self.input.by_ref().take(want as u64).read_to_end(bytes) {
            Ok(n) => self.ended = n < want,
            Err(e) if is_cut(&e) => {
                (self.ended, self.cut) = (true, true);
                // The line in which it was cut is none.
                bytes.truncate(memchr::memrchr(b'\n', bytes).map_or(0, |last| last + 1));
            }
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// Skips to behind the next line end.
    fn skip(&mut self) -> std::io::Result<Skipped> {
        let mut skipped = Skipped::default();
        while !self.ended {
            let mut more = Vec::new();
            self.fill(&mut more)?;
            if let Some(end) = memchr::memchr(b'\n', &more) {
                self.rest = more.split_off(end + 1);
                return Ok(Skipped { bytes: skipped.bytes + end as u64, ends: 1 });
            }
            skipped.bytes += more.len() as u64;
        }
        Ok(skipped)
    }
}

fn is_cut(e: &std::io::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    matches!(e.kind(), InvalidData | InvalidInput | UnexpectedEof)
}

/// A chunk to be read, and where its lines go.
type Job = (Chunk, SyncSender<Vec<ReadLine>>);

/// Threads that read chunks; without any, they are read where they are asked for.
pub(super) struct Readers {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
    own: Shapes,
}

/// Lines that are being read, or were.
pub(super) enum Lines {
    Read(Vec<ReadLine>),
    Soon(Receiver<Vec<ReadLine>>),
}

impl Readers {
    /// As many threads as that; `shapes` makes what each of them remembers.
    pub(super) fn new(threads: usize, shapes: impl Fn() -> Shapes) -> Self {
        let (jobs, waiting) = channel::<Job>();
        let waiting = Arc::new(Mutex::new(waiting));
        let begin = |_: usize| {
            let (waiting, mut shapes) = (Arc::clone(&waiting), shapes());
            let read = move || {
                // The lock is held while waiting for a job, and not while doing it.
                while let Ok((chunk, to)) = { waiting.lock().unwrap_or_else(PoisonError::into_inner).recv() }
                {
                    // Nobody waits any more where the capture failed.
                    drop(to.send(chunk.read(&mut shapes)));
                }
            };
            std::thread::Builder::new().name("log".to_owned()).spawn(read)
        };
        // Where no more may be begun, those that were will do, or none.
        let threads: Vec<_> = (0..threads).map_while(|n| begin(n).ok()).collect();
        Self { jobs: Some(jobs).filter(|_| !threads.is_empty()), threads, own: shapes() }
    }

    /// Has a chunk read.
    pub(super) fn read(&mut self, chunk: Chunk) -> Lines {
        let Some(jobs) = &self.jobs else { return Lines::Read(chunk.read(&mut self.own)) };
        let (to, soon) = sync_channel(1);
        match jobs.send((chunk, to)) {
            Ok(()) => Lines::Soon(soon),
            // All threads have died; their panics were printed.
            Err(lost) => Lines::Read(lost.0.0.read(&mut self.own)),
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

impl Lines {
    /// The lines, when they are read.
    ///
    /// # Errors
    /// When the thread that read them died.
    pub(super) fn wait(self) -> anyhow::Result<Vec<ReadLine>> {
        match self {
            Self::Read(lines) => Ok(lines),
            Self::Soon(soon) => soon
                .recv()
                .context("a thread that reads logs died, which is a bug; --threads 0 reads without them"),
        }
    }
}

/// Chunks of a log on their way, in their order.
pub(super) struct Ahead {
    cutter: Cutter,
    on_the_way: VecDeque<Lines>,
    most: usize,
}

impl Ahead {
    /// At most `most` chunks are read ahead of the one that is waited for.
    pub(super) fn new(cutter: Cutter, most: usize) -> Self {
        Self { cutter, on_the_way: VecDeque::new(), most }
    }

    /// Whether the last line was a part of one, whose end is not there.
    pub(super) fn is_unended(&mut self) -> bool {
        self.cutter.source.give_up_parts()
    }

    /// Whether the medium was cut.
    pub(super) fn is_cut(&self) -> bool {
        self.cutter.cut
    }

    /// The lines of the next chunk; `None` at the end of the log.
    ///
    /// # Errors
    /// When the medium fails, or a thread died.
    pub(super) fn next(&mut self, readers: &mut Readers) -> anyhow::Result<Option<Vec<ReadLine>>> {
        let next = match self.on_the_way.pop_front() {
            Some(next) => next,
            None => match self.cutter.next()? {
                Some(chunk) => readers.read(chunk),
                None => return Ok(None),
            },
        };
        // Without threads nothing would be gained by it.
        while readers.jobs.is_some()
            && self.on_the_way.len() < self.most
            && let Some(chunk) = self.cutter.next()?
        {
            self.on_the_way.push_back(readers.read(chunk));
        }
        next.wait().map(Some)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::capture::access_log::format::Format;
    use crate::capture::redact::Redactor;

    /// A megabyte of line ends, of lines of one byte, and of a log: no chunk becomes more than so many lines, and none is lost.
    #[test]
    fn a_chunk_has_so_many_lines_at_most() {
        let log = "1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] \"GET / HTTP/1.1\" 200 5\n";
        for (text, min) in [("\n", 256), ("x\n", 128), (log, 4)] {
            let text = text.repeat((1 << 20) / text.len());
            let source = LogSource::new(Format::named("combined", &[]).unwrap(), false, 0);
            let mut cutter = Cutter::new(Box::new(Cursor::new(text.clone().into_bytes())), source, 1 << 20);
            let (mut chunks, mut lines, mut bytes) = (0, 0, 0);
            let mut shapes = Shapes::new(1, Redactor::with_key(b"k"));
            while let Some(chunk) = cutter.next().unwrap() {
                let read = chunk.read(&mut shapes);
                assert!(read.len() <= LOG_CHUNK_LINES && read.capacity() < 2 * LOG_CHUNK_LINES);
                (chunks, lines) = (chunks + 1, lines + read.len());
                bytes += read.iter().map(|l| l.step).sum::<u64>();
            }
            assert!(chunks >= min, "{chunks}");
            assert_eq!((lines, bytes), (text.matches('\n').count(), text.len() as u64));
        }
    }
}
