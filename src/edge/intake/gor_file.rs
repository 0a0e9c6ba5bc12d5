//! GoReplay's files, record by record, into a [`LogRecorder`].

use std::io::{BufRead, BufReader, Read};

use crate::capture::access_log::LogRecorder;
use crate::capture::access_log::row::LineError;
use crate::capture::gor::{Gor, SEPARATOR};
use crate::limits::GOR_RECORD_BYTES_MAX;
use crate::trace::{Item, Position};

/// Reads all records. `bad` is called with the number of each that could not be used, from 1, and why; `each` now and then.
///
/// # Errors
/// When the medium fails, or `each` does.
pub fn read(
    input: impl Read,
    recorder: &mut LogRecorder,
    seed: u64,
    source: u32,
    mut bad: impl FnMut(u64, LineError),
    mut each: impl FnMut(&mut LogRecorder) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut input = BufReader::with_capacity(1 << 20, input);
    let (mut gor, mut out, mut record, mut n) =
        (Gor::new(seed, recorder.redactor().clone()), Vec::new(), Vec::new(), 0u64);
    let mut end = false;
    while !end {
        // Lines until one that is the separator; of a record that is too long the rest is passed over.
        let before = record.len();
        let limit = (GOR_RECORD_BYTES_MAX + SEPARATOR.len()).saturating_sub(before).max(1) as u64;
        let got = input.by_ref().take(limit).read_until(b'\n', &mut record)?;
        end = got == 0;
        let whole = record.ends_with(SEPARATOR);
        if record.len() > GOR_RECORD_BYTES_MAX && !whole {
            // Its head is what counts, and is there.
            record.truncate(GOR_RECORD_BYTES_MAX / 2);
            skip_record(&mut input)?;
            record.extend_from_slice(SEPARATOR);
        } else if !whole && !end {
            continue;
        }
        let text = record.strip_suffix(SEPARATOR).unwrap_or(&record);
        if !text.trim_ascii().is_empty() {
            n += 1;
            recorder.ledger_mut().at(Position { source, number: n });
            recorder.ledger_mut().count(Item::Lines);
            recorder.ledger_mut().add(Item::Bytes, record.len() as u64);
            if let Err(error) = gor.record(text, &mut out) {
                recorder.count_bad(error);
                bad(n, error);
            }
        }
        record.clear();
        out.drain(..).for_each(|held| recorder.held(held));
        if n.is_multiple_of(256) {
            each(recorder)?;
        }
    }
    gor.finish(&mut out);
    out.drain(..).for_each(|held| recorder.held(held));
    Ok(())
}

/// Skips to behind the next separator.
fn skip_record(input: &mut impl BufRead) -> std::io::Result<()> {
    let mut line = Vec::new();
    let monkeys = &SEPARATOR[1..];
    loop {
        line.clear();
        let n = input.by_ref().take(1 << 16).read_until(b'\n', &mut line)?;
        if n == 0 || line == monkeys {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::RawEvent;
    use crate::capture::redact::Redactor;
    use crate::trace::EventKind;

    #[test]
    fn records_are_parted_by_their_line_alone() {
        let one = |n: u32, body: &str| {
            format!(
                "1 {n:024x} {}\nPOST /{n} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}",
                1_700_000_000_000_000_000u64 + u64::from(n),
                body.len()
            )
        };
        let separator = String::from_utf8(SEPARATOR.to_vec()).unwrap();
        let huge = "line\n".repeat(GOR_RECORD_BYTES_MAX / 4);
        let text = [one(1, "a\n🐵\nb"), one(2, &huge), one(3, ""), "nonsense".into(), one(4, "last")]
            .join(&separator);
        let (mut recorder, mut bad) = (LogRecorder::new(1, Redactor::with_key(b"k")), Vec::new());
        read(text.as_bytes(), &mut recorder, 1, 0, |n, e| bad.push((n, e)), |_| Ok(())).unwrap();
        let (events, ledger) = recorder.finish();
        let lengths = |e: &RawEvent| match &e.kind {
            EventKind::Request(r) => r.body_len.value,
            EventKind::Open(_) | EventKind::Close(_) => None,
        };
        let got: Vec<u64> = events.iter().filter_map(lengths).collect();
        assert_eq!(got, [8, huge.len() as u64, 0, 4]);
        assert_eq!(bad.len(), 1);
        assert_eq!((bad[0].0, ledger.get(Item::UnparsedLines)), (4, Some(1)));
    }
}
