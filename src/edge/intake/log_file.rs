//! Access-log files, chunk by chunk, into a [`LogRecorder`].
//!
//! Several logs are read side by side, the one that is furthest back in time first: rotated files may be named in any
//! order, and those of several workers or servers overlap. Lines are read by threads, where there are cores for them, and
//! used in their order.

use std::io::Read;

use anyhow::Context;

use super::log_chunk::{Ahead, Cutter, ReadLine, Readers};
use crate::capture::access_log::row::LineError;
use crate::capture::access_log::{LogRecorder, LogSource};
use crate::limits::{LOG_CHUNK_BYTES, LOG_CHUNKS_BYTES_MAX, LOG_THREADS_MAX};
use crate::trace::Item;
use crate::units::WallTime;

/// Lines used of one log before it is looked for another that is further back.
const LINES_AT_ONCE: usize = 256;

/// Chunks of a log in memory where there are several logs: one that is used, one that is waited for, and as much again for what
/// their lines become.
const CHUNKS_OF_A_LOG: usize = 4;

/// A line that was not used. Its text is not kept: it may hold secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLine {
    /// Name of the log.
    pub log: String,
    /// Line number, from 1.
    pub line: u64,
    /// Offset of its first byte; of a part without its end, where that would stand.
    pub offset: u64,
    /// Why.
    pub error: LineError,
}

/// A log that is to be read.
struct Planned {
    name: String,
    source: usize,
    input: Box<dyn Read + Send>,
}

/// One log under way.
struct Log {
    name: String,
    source: usize,
    ahead: Ahead,
    lines: std::vec::IntoIter<ReadLine>,
    line: u64,
    offset: u64,
    /// Stamp of the last request.
    at: WallTime,
}

/// Logs to be read.
pub struct Logs {
    logs: Vec<Planned>,
    threads: usize,
    chunk_bytes: usize,
}

impl Logs {
    /// No logs yet; they will be read by so many threads. Unless that is said by as many as there are cores, and by none of its
    /// own where there is one core.
    #[must_use]
    pub fn new(threads: Option<usize>) -> Self {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = threads.unwrap_or_else(|| if cores() == 1 { 0 } else { cores() }).min(LOG_THREADS_MAX);
        Self { logs: Vec::new(), threads, chunk_bytes: LOG_CHUNK_BYTES }
    }

    /// Adds one.
    pub fn add(
        &mut self,
        recorder: &mut LogRecorder,
        name: String,
        source: LogSource,
        input: Box<dyn Read + Send>,
    ) {
        let source = recorder.add_source(source);
        self.logs.push(Planned { name, source, input });
    }

    /// Reads all lines. `bad` is called for each line that could not be used, `each` now and then.
    ///
    /// # Errors
    /// When a medium fails, or `each` does. A bad line is never an error, nor is a cut compressed file: it is counted.
    pub fn read(
        self,
        recorder: &mut LogRecorder,
        mut bad: impl FnMut(BadLine),
        mut each: impl FnMut(&mut LogRecorder) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut readers = Readers::new(self.threads, || recorder.shapes());
        // Many logs share the memory that one may use. Their number is part of the input, that of the threads is not: it must
        // not decide where a chunk ends.
        let share = LOG_CHUNKS_BYTES_MAX / self.logs.len().max(1) / CHUNKS_OF_A_LOG;
        let most = match self.logs.len() {
            0..=4 => self.threads + 1,
            5..=64 => 1,
            _ => 0,
        };
        let begin = |planned: Planned| {
            let Planned { name, source, input } = planned;
            let cutter = Cutter::new(input, recorder.source(source), self.chunk_bytes.min(share));
            let (ahead, lines, at) = (Ahead::new(cutter, most), Vec::new().into_iter(), WallTime(0));
            Log { name, source, ahead, lines, line: 0, offset: 0, at }
        };
        let mut logs: Vec<Log> = self.logs.into_iter().map(begin).collect();
        while let Some((index, _)) = logs.iter().enumerate().min_by_key(|(_, l)| l.at) {
            let mut more = true;
            for _ in 0..LINES_AT_ONCE {
                more = logs[index].next(&mut readers, recorder, &mut bad)?;
                if !more {
                    break;
                }
            }
            if !more {
                logs.remove(index);
            }
            each(recorder)?;
        }
        Ok(())
    }
}

impl Log {
    /// Uses one line; false at the end.
    fn next(
        &mut self,
        readers: &mut Readers,
        recorder: &mut LogRecorder,
        bad: &mut impl FnMut(BadLine),
    ) -> anyhow::Result<bool> {
        let Some(ReadLine { len, step, said }) = self.next_line(readers)? else {
            if self.ahead.is_cut() {
                recorder.ledger_mut().count(Item::CutFiles);
            }
            if self.ahead.is_unended() {
                let (log, line, offset, error) =
                    (self.name.clone(), self.line, self.offset, LineError::Unended);
                recorder.count_unended(self.source);
                bad(BadLine { log, line, offset, error });
            }
            return Ok(false);
        };
        self.line += 1;
        match recorder.take(self.source, len, said) {
            Ok(Some(at)) => self.at = self.at.max(at),
            Ok(None) => {}
            Err(error) => {
                bad(BadLine { log: self.name.clone(), line: self.line, offset: self.offset, error });
            }
        }
        self.offset += step;
        Ok(true)
    }

    fn next_line(&mut self, readers: &mut Readers) -> anyhow::Result<Option<ReadLine>> {
        loop {
            if let Some(line) = self.lines.next() {
                return Ok(Some(line));
            }
            let next = self.ahead.next(readers).with_context(|| format!("cannot read {}", self.name))?;
            let Some(lines) = next else { return Ok(None) };
            self.lines = lines.into_iter();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::capture::RawEvent;
    use crate::capture::access_log::format::Format;
    use crate::capture::redact::Redactor;
    use crate::limits::LOG_LINE_BYTES_MAX;
    use crate::trace::{EventKind, Ledger};

    fn read(logs: &[&str]) -> (Vec<BadLine>, Vec<RawEvent>, Ledger) {
        let logs: Vec<Box<dyn Read + Send>> =
            logs.iter().map(|l| Box::new(Cursor::new(l.as_bytes().to_vec())) as _).collect();
        read_by(3, "combined", logs)
    }

    /// In the smallest chunks, by so many threads.
    fn read_by(
        threads: usize,
        format: &str,
        logs: Vec<Box<dyn Read + Send>>,
    ) -> (Vec<BadLine>, Vec<RawEvent>, Ledger) {
        let mut recorder = LogRecorder::new(1, Redactor::with_key(b"k"));
        let (mut all, mut seen) = (Logs { logs: Vec::new(), threads, chunk_bytes: 0 }, Vec::new());
        for (i, input) in logs.into_iter().enumerate() {
            let source = LogSource::new(Format::named(format, &[]).unwrap(), false, i as u32);
            all.add(&mut recorder, format!("log{i}"), source, input);
        }
        all.read(&mut recorder, |b| seen.push(b), |_| Ok(())).unwrap();
        let (events, ledger) = recorder.finish();
        (seen, events, ledger)
    }

    fn targets(events: &[RawEvent]) -> Vec<String> {
        let one = |e: &RawEvent| match &e.kind {
            EventKind::Request(r) => Some(String::from_utf8_lossy(&r.shape.target).into_owned()),
            EventKind::Open(_) | EventKind::Close(_) => None,
        };
        events.iter().filter_map(one).collect()
    }

    #[test]
    fn long_and_bad_lines_lose_nothing_else() {
        let good = "1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] \"GET / HTTP/1.1\" 200 5\n";
        let text = format!("\u{feff}{good}{}\nnonsense\n{good}", "x".repeat(LOG_LINE_BYTES_MAX * 3));
        let (bad, events, ledger) = read(&[&text]);
        assert_eq!(bad.iter().map(|b| b.line).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(bad[0].error, LineError::TooLong);
        assert!(matches!(bad[1].error, LineError::Form { .. }), "{:?}", bad[1]);
        assert_eq!(targets(&events).len(), 2);
        assert_eq!((ledger.get(Item::Lines), ledger.get(Item::UnparsedLines)), (Some(4), Some(2)));
    }

    /// Gives a few bytes at a time, and at its end says that it was cut.
    struct Cut(Vec<u8>, usize);

    impl Read for Cut {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let rest = &self.0[self.1..];
            if rest.is_empty() {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let n = rest.len().min(buffer.len()).min(4_999);
            buffer[..n].copy_from_slice(&rest[..n]);
            self.1 += n;
            Ok(n)
        }
    }

    /// A log whose columns change on the way, with lines that are none, some longer than a chunk, and one cut in its middle.
    fn w3c_log(salt: usize) -> Vec<u8> {
        let mut out = b"\xef\xbb\xbf#Fields: date time cs-method cs-uri-stem sc-status\n".to_vec();
        for n in 0..9_000usize {
            let (m, s) = (n / 60 % 60, n % 60);
            let time = format!("2026-03-01 {:02}:{m:02}:{s:02}", n / 3600);
            match (n + salt) % 1_500 {
                7 => out.extend_from_slice(b"#Fields: time date cs-method sc-status cs-uri-stem\n"),
                300 => out.extend_from_slice(b"#Fields: date time cs-method cs-uri-stem sc-status\n"),
                301 => out.extend(std::iter::repeat_n(b'x', LOG_LINE_BYTES_MAX * 4).chain([b'\n'])),
                302 => out.extend_from_slice(b"nonsense\r\n\n"),
                k if (8..300).contains(&k) => {
                    let (date, clock) = time.split_once(' ').unwrap();
                    out.extend(format!("{clock} {date} GET 200 /{n}?token=secret{salt}\n").into_bytes());
                }
                _ => out.extend(format!("{time} GET /{n}/a%20b 200\r\n").into_bytes()),
            }
        }
        out.extend_from_slice(b"2026-03-01 03:00:00 GET /cut 200");
        out
    }

    /// How many threads there are decides nothing: not what is used, not what is held, not what is said of bad lines.
    #[test]
    fn threads_and_pieces_change_nothing() {
        let logs = |threads| {
            let whole: Box<dyn Read + Send> = Box::new(Cursor::new(w3c_log(1)));
            let (bad, events, ledger) = read_by(threads, "w3c", vec![whole, Box::new(Cut(w3c_log(700), 0))]);
            (bad, events, ledger.rows().collect::<Vec<_>>())
        };
        let one = logs(0);
        assert_eq!(one, logs(3));
        let (bad, events, ledger) = one;
        assert_eq!(bad.iter().filter(|b| b.error == LineError::TooLong).count(), 12);
        let text = w3c_log(1);
        for line in bad.iter().filter(|b| b.log == "log0") {
            let at = line.offset as usize;
            assert!(at == 0 || text[at - 1] == b'\n', "{line:?} begins where a line ends");
            assert_eq!(line.line, 1 + text[..at].iter().filter(|b| **b == b'\n').count() as u64);
        }
        assert!(ledger.contains(&(Item::CutFiles, Some(1))), "{ledger:?}");
        // Those of the first log and its last line; one fewer of the second.
        assert_eq!(targets(&events).len(), 2 * 8_976 + 1);
    }

    /// A line of field names that is too long is a bad line, for those in its chunk and for those behind it.
    #[test]
    fn a_header_that_is_too_long_is_none() {
        let long = format!("#Fields: {}\n", "cs-method ".repeat(10_000));
        let lines = "2026-03-01 00:00:00 GET /a 200\n".repeat(9_000);
        let text = format!("#Fields: date time cs-method cs-uri-stem sc-status\n{lines}{long}{lines}");
        let (bad, events, _) = read_by(2, "w3c", vec![Box::new(Cursor::new(text.into_bytes()))]);
        assert_eq!((bad.len(), bad[0].error, targets(&events).len()), (1, LineError::TooLong, 18_000));
    }

    /// Lines that a container runtime cut into parts, some of which lie in different chunks, are whole again.
    #[test]
    fn parts_of_lines_are_joined_across_chunks() {
        let mut text = String::new();
        for n in 0..40usize {
            let long = "x".repeat(if n % 3 == 0 { 40_000 } else { 10 });
            let line =
                format!("1.2.3.4 - - [10/Oct/2000:13:55:{n:02} +0000] \"GET /{n}?q={long} HTTP/1.1\" 200 5");
            let mut parts = line.as_bytes().chunks(16_384).peekable();
            while let Some(part) = parts.next() {
                let (tag, part) =
                    (if parts.peek().is_some() { 'P' } else { 'F' }, String::from_utf8_lossy(part));
                text += &format!("2026-03-01T00:00:{n:02}.123456789Z stdout {tag} {part}\n");
                text += "2026-03-01T00:00:00.5Z stderr F [notice] words\n";
            }
        }
        let log = || -> Vec<Box<dyn Read + Send>> { vec![Box::new(Cursor::new(text.clone().into_bytes()))] };
        let (bad, events, _) = read_by(0, "combined", log());
        assert_eq!(events, read_by(3, "combined", log()).1);
        let notices = text.matches("[notice]").count();
        assert!(bad.len() == notices && bad.iter().all(|b| b.error != LineError::Unended), "{bad:?}");
        let lengths: Vec<usize> = targets(&events).iter().map(String::len).collect();
        assert!(lengths.len() == 40 && lengths.iter().filter(|l| **l > 40_000).count() == 14, "{lengths:?}");
    }

    #[test]
    fn a_part_without_its_end_is_a_bad_line() {
        let stamp = "2026-03-01T00:00:00.5Z stdout";
        let line = "1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] \"GET / HTTP/1.1\" 200 5";
        let (bad, events, ledger) = read(&[&format!("{stamp} F {line}\n{stamp} P {line}\n")]);
        assert_eq!((targets(&events).len(), bad.len(), bad[0].line), (1, 1, 2));
        assert_eq!((bad[0].error, ledger.get(Item::UnparsedLines)), (LineError::Unended, Some(1)));
    }

    /// Rotated files in the wrong order, and two that overlap, come out in the order of time.
    #[test]
    fn several_logs_are_merged_by_time() {
        let line = |second: u32| {
            let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
            format!("1.2.3.4 - - [10/Oct/2000:{h:02}:{m:02}:{s:02} +0000] \"GET /{second} HTTP/1.1\" 200 5\n")
        };
        let log = |seconds: &mut dyn Iterator<Item = u32>| seconds.map(line).collect::<String>();
        let later = log(&mut (40_000..42_000));
        let (even, odd) = (log(&mut (0..20_000).step_by(2)), log(&mut (0..20_000).skip(1).step_by(2)));
        let (bad, events, ledger) = read(&[&later, &even, &odd]);
        assert!(bad.is_empty());
        let want: Vec<String> = (0..20_000).chain(40_000..42_000).map(|s| format!("/{s}")).collect();
        assert_eq!(targets(&events), want);
        assert_eq!(ledger.get(Item::LateEvents), Some(0));
    }
}
