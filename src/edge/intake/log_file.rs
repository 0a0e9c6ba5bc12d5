//! Access-log files, line by line, into a [`LogRecorder`].
//!
//! Several logs are read side by side, the one that is furthest back in time first: rotated files may be named in any
//! order, and those of several workers or servers overlap.

use std::io::{BufRead, BufReader, Read};

use crate::capture::access_log::row::LineError;
use crate::capture::access_log::{LogRecorder, LogSource};
use crate::limits::LOG_LINE_BYTES_MAX;
use crate::trace::Item;
use crate::units::WallTime;

/// Lines read from one log before it is looked for another that is further back.
const LINES_AT_ONCE: usize = 256;

/// A line that was not used. Its text is not kept: it may hold secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLine {
    /// Name of the log.
    pub log: String,
    /// Line number, from 1.
    pub line: u64,
    /// Offset of its first byte.
    pub offset: u64,
    /// Why.
    pub error: LineError,
}

/// One log under way.
struct Log {
    name: String,
    source: usize,
    input: BufReader<Box<dyn Read + Send>>,
    line: u64,
    offset: u64,
    /// Stamp of the last request.
    at: WallTime,
}

/// Logs to be read.
#[derive(Default)]
pub struct Logs(Vec<Log>);

impl Logs {
    /// Adds one.
    pub fn add(
        &mut self,
        recorder: &mut LogRecorder,
        name: String,
        source: LogSource,
        input: Box<dyn Read + Send>,
    ) {
        let source = recorder.add_source(source);
        let input = BufReader::with_capacity(1 << 20, input);
        self.0.push(Log { name, source, input, line: 0, offset: 0, at: WallTime(0) });
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads all lines. `bad` is called for each line that could not be used, `each` now and then.
    ///
    /// # Errors
    /// When a medium fails, or `each` does. A bad line is never an error, nor is a cut compressed file: it is counted.
    pub fn read(
        mut self,
        recorder: &mut LogRecorder,
        mut bad: impl FnMut(BadLine),
        mut each: impl FnMut(&mut LogRecorder) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut text = Vec::new();
        while let Some((index, _)) = self.0.iter().enumerate().min_by_key(|(_, l)| l.at) {
            let mut more = true;
            for _ in 0..LINES_AT_ONCE {
                more = self.0[index].next(recorder, &mut text, &mut bad)?;
                if !more {
                    break;
                }
            }
            if !more {
                self.0.remove(index);
            }
            each(recorder)?;
        }
        Ok(())
    }
}

impl Log {
    /// Takes one line; false at the end.
    fn next(
        &mut self,
        recorder: &mut LogRecorder,
        text: &mut Vec<u8>,
        bad: &mut impl FnMut(BadLine),
    ) -> anyhow::Result<bool> {
        text.clear();
        let limit = LOG_LINE_BYTES_MAX as u64 + 2;
        let n = match self.input.by_ref().take(limit).read_until(b'\n', text) {
            Ok(n) => n,
            // A compressed file that was cut, or has something else behind it.
            Err(e) if is_cut(&e) => {
                recorder.ledger_mut().count(Item::CutFiles);
                return Ok(false);
            }
            Err(e) => return Err(anyhow::Error::from(e).context(format!("cannot read {}", self.name))),
        };
        if n == 0 {
            return Ok(false);
        }
        self.line += 1;
        let mut extra = 0;
        if !text.ends_with(b"\n") && n as u64 == limit {
            extra = match skip_line(&mut self.input) {
                Ok(n) => n,
                Err(e) if is_cut(&e) => 0,
                Err(e) => return Err(anyhow::Error::from(e).context(format!("cannot read {}", self.name))),
            };
        }
        let bytes = text.strip_suffix(b"\n").unwrap_or(text);
        let bytes = if self.line == 1 { bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes) } else { bytes };
        match recorder.line(self.source, bytes) {
            Ok(Some(at)) => self.at = self.at.max(at),
            Ok(None) => {}
            Err(error) => {
                bad(BadLine { log: self.name.clone(), line: self.line, offset: self.offset, error });
            }
        }
        self.offset += n as u64 + extra;
        Ok(true)
    }
}

fn is_cut(e: &std::io::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    matches!(e.kind(), InvalidData | InvalidInput | UnexpectedEof)
}

/// Skips to behind the next line end and returns how many bytes that was.
fn skip_line(input: &mut impl BufRead) -> std::io::Result<u64> {
    let mut skipped = 0;
    loop {
        let buffer = input.fill_buf()?;
        let end = buffer.iter().position(|b| *b == b'\n').map(|i| i + 1);
        let n = end.unwrap_or(buffer.len());
        input.consume(n);
        skipped += n as u64;
        if end.is_some() || n == 0 {
            return Ok(skipped);
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
    use crate::trace::{EventKind, Ledger};

    fn read(logs: &[&str]) -> (Vec<BadLine>, Vec<RawEvent>, Ledger) {
        let (mut recorder, mut all, mut seen) =
            (LogRecorder::new(1, Redactor::with_key(b"k")), Logs::default(), Vec::new());
        for (i, text) in logs.iter().enumerate() {
            let source = LogSource::new(Format::named("combined", &[]).unwrap(), false, 0);
            let text = Cursor::new(text.as_bytes().to_vec());
            all.add(&mut recorder, format!("log{i}"), source, Box::new(text));
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
