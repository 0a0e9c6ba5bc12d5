//! Access-log files, line by line, into a [`LogRecorder`].

use std::io::{BufRead, BufReader, Read};

use crate::capture::access_log::LogRecorder;
use crate::capture::access_log::line::LineError;
use crate::limits::LOG_LINE_BYTES_MAX;
use crate::trace::Item;

/// A line that was not used. Its text is not kept: it may hold secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLine {
    /// Line number, from 1.
    pub line: u64,
    /// Offset of its first byte.
    pub offset: u64,
    /// Why.
    pub error: LineError,
}

/// Reads all lines. `bad` is called for each line that could not be used, `each` now and then.
///
/// # Errors
/// When the medium fails. A bad line is never an error, nor is a cut compressed file: it is counted.
pub fn read(
    input: impl Read,
    recorder: &mut LogRecorder,
    mut bad: impl FnMut(BadLine),
    mut each: impl FnMut(u64),
) -> anyhow::Result<()> {
    let mut input = BufReader::with_capacity(1 << 20, input);
    let (mut line, mut offset, mut text) = (0, 0, Vec::new());
    loop {
        text.clear();
        let limit = LOG_LINE_BYTES_MAX as u64 + 2;
        let n = match input.by_ref().take(limit).read_until(b'\n', &mut text) {
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                recorder.ledger_mut().count(Item::CutFiles);
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        };
        if n == 0 {
            return Ok(());
        }
        line += 1;
        let whole = text.ends_with(b"\n");
        let mut extra = 0;
        if !whole && n as u64 == limit {
            extra = skip_line(&mut input)?;
        }
        let bytes = text.strip_suffix(b"\n").unwrap_or(&text);
        let bytes = if line == 1 { bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes) } else { bytes };
        if let Err(error) = recorder.line(bytes) {
            bad(BadLine { line, offset, error });
        }
        offset += n as u64 + extra;
        if line.is_multiple_of(4096) {
            each(line);
        }
    }
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
    use super::*;

    #[test]
    fn long_and_bad_lines_lose_nothing_else() {
        let good = "1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] \"GET / HTTP/1.1\" 200 5\n";
        let text = format!("\u{feff}{good}{}\nnonsense\n{good}", "x".repeat(LOG_LINE_BYTES_MAX * 3));
        let (mut recorder, mut seen) = (LogRecorder::new(1), Vec::new());
        read(text.as_bytes(), &mut recorder, |b| seen.push((b.line, b.error)), |_| ()).unwrap();
        assert_eq!(seen, [(2, LineError::TooLong), (3, LineError::Time)]);
        let (events, ledger) = recorder.finish();
        assert_eq!(
            events.iter().filter(|e| matches!(e.kind, crate::trace::EventKind::Request(_))).count(),
            2
        );
        assert_eq!((ledger.get(Item::Lines), ledger.get(Item::UnparsedLines)), (Some(4), Some(2)));
    }
}
