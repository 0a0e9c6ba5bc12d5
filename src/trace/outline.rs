//! What the end of a trace tells of the whole: where its blocks are, and its curve. Read without reading the rest.
//!
//! Refuses to guess: a trace that was cut off has no end and so no outline, and has to be read from its beginning.

use std::io::{Read, Seek, SeekFrom};

use super::TraceError;
use super::codec::{EndRecord, IndexRecord, Kind, Section, TAIL_LEN, TAIL_MAGIC, decode, read_section};
use super::ledger::{Ledger, Position};
use super::reader::TraceReader;
use crate::units::NANOS_PER_SEC;

/// The outline of a whole trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    index: Vec<IndexRecord>,
    /// Requests.
    pub requests: u64,
    /// Sessions.
    pub sessions: u64,
    /// Requests in each second of trace time.
    pub per_second: Vec<u32>,
    /// Most connections open at once.
    pub connections_peak: u64,
    /// Most connections opened in one second.
    pub opens_peak_per_s: u32,
    /// What the capture could and could not use.
    pub ledger: Ledger,
}

impl Outline {
    /// Reads the outline at the end of `input`, and leaves it anywhere. None where there is no whole one.
    ///
    /// # Errors
    /// When the medium fails, or a length is above its limit.
    pub fn read(input: &mut (impl Read + Seek)) -> Result<Option<Self>, TraceError> {
        let len = input.seek(SeekFrom::End(0))?;
        let Some(tail_at) = len.checked_sub(TAIL_LEN) else { return Ok(None) };
        input.seek(SeekFrom::Start(tail_at))?;
        let (mut offset, mut magic) = ([0u8; 8], [0u8; 8]);
        input.read_exact(&mut offset)?;
        input.read_exact(&mut magic)?;
        let offset = u64::from_le_bytes(offset);
        if magic != TAIL_MAGIC || offset >= tail_at {
            return Ok(None);
        }
        input.seek(SeekFrom::Start(offset))?;
        let Section::Whole { kind: Kind::End, raw, len } = read_section(input, offset)? else {
            return Ok(None);
        };
        let Ok(end) = decode::<EndRecord>(&raw) else { return Ok(None) };
        let sorted = end.index.is_sorted_by_key(|row| (row.first_ns, row.offset));
        let whole = offset + len == tail_at && sorted && end.index.iter().all(|row| row.offset < offset);
        let mut ledger = Ledger::default();
        for (name, n) in &end.ledger {
            ledger.set_by_name(name, *n);
        }
        for (name, source, number) in &end.first {
            ledger.set_first_by_name(name, Position { source: *source, number: *number });
        }
        Ok(whole.then_some(Self {
            ledger,
            index: end.index,
            requests: end.requests,
            sessions: end.sessions,
            per_second: end.per_second,
            connections_peak: end.connections_peak,
            opens_peak_per_s: end.opens_peak_per_s,
        }))
    }

    /// Trace time of the last event, nanoseconds.
    #[must_use]
    pub fn last_ns(&self) -> u64 {
        self.index.last().map_or(0, |row| row.last_ns)
    }

    /// Requests between two moments of trace time, whole seconds wide.
    #[must_use]
    pub fn requests_between(&self, from_ns: u64, to_ns: u64) -> u64 {
        let second = |ns: u64| (ns / NANOS_PER_SEC) as usize;
        let end = self.per_second.len().min(second(to_ns).saturating_add(1));
        let part = self.per_second.get(second(from_ns)..end).unwrap_or_default();
        part.iter().map(|n| u64::from(*n)).sum()
    }

    /// Puts a reader of the same trace at the last block that begins before `at_ns`: all events from then on follow.
    ///
    /// # Errors
    /// When the medium fails.
    pub fn seek<R: Read + Seek>(&self, reader: &mut TraceReader<R>, at_ns: u64) -> Result<(), TraceError> {
        // Blocks may share a moment: the one before the first that begins then may hold events of it.
        let number = self.index.partition_point(|row| row.first_ns < at_ns).saturating_sub(1);
        let Some(row) = self.index.get(number) else { return Ok(()) };
        reader.input().seek(SeekFrom::Start(row.offset))?;
        reader.jump(row.offset, number as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::limits::BLOCK_EVENTS_MAX;
    use crate::trace::reader::{End, tests as rig};
    use crate::trace::{ConnectionEvent, EventKind, Provenance, SessionRef, TraceEvent};
    use crate::units::TraceTime;

    /// Three blocks of opens and closes, a millisecond apart.
    fn trace() -> Vec<u8> {
        let event = |i: u64| {
            let c = ConnectionEvent { arrival: Provenance::Recorded };
            let kind = if i % 4 == 3 { EventKind::Close(c) } else { EventKind::Open(c) };
            let session = SessionRef { key: i, ordinal: i };
            TraceEvent { at: TraceTime(i * 1_000_000), session, connection: 0, kind }
        };
        let events: Vec<_> = (0..BLOCK_EVENTS_MAX as u64 * 5 / 2).map(event).collect();
        rig::write(&events)
    }

    #[test]
    fn the_end_tells_of_the_whole() {
        let bytes = trace();
        let outline = Outline::read(&mut Cursor::new(&bytes)).unwrap().unwrap();
        let n = BLOCK_EVENTS_MAX as u64 * 5 / 2;
        assert_eq!((outline.index.len(), outline.requests, outline.sessions), (3, 0, n));
        assert_eq!(outline.last_ns(), (n - 1) * 1_000_000);
        assert_eq!((outline.connections_peak, outline.opens_peak_per_s), (n / 2 + 1, 750));
    }

    #[test]
    fn a_reader_goes_to_any_moment() {
        let bytes = trace();
        let outline = Outline::read(&mut Cursor::new(&bytes)).unwrap().unwrap();
        let mut reader = TraceReader::new(Cursor::new(&bytes)).unwrap();
        for ms in [0, 1, 8_191, 8_192, 8_193, 16_384, 20_000, 0, 99_999] {
            outline.seek(&mut reader, ms * 1_000_000).unwrap();
            let first = reader.next_event().unwrap().unwrap().at.0 / 1_000_000;
            // At most a block too early, never late; and everything from there on comes.
            let least = ms.min(20_479).saturating_sub(2 * BLOCK_EVENTS_MAX as u64);
            assert!(first <= ms && first >= least, "{first} for {ms}");
            let rest = std::iter::from_fn(|| reader.next_event().unwrap()).count() as u64;
            assert_eq!(first + 1 + rest, BLOCK_EVENTS_MAX as u64 * 5 / 2, "{ms}");
        }
        outline.seek(&mut reader, 20_000_000_000).unwrap();
        while reader.next_event().unwrap().is_some() {}
        assert!(matches!(reader.end(), Some(End::Whole { .. })), "{:?}", reader.end());
    }

    #[test]
    fn what_is_not_whole_has_no_outline() {
        let bytes = trace();
        let read = |bytes: &[u8]| Outline::read(&mut Cursor::new(bytes)).unwrap();
        assert!(read(&bytes).is_some());
        for cut in [0, 1, 15, 16, 17, 40, bytes.len() - 1, bytes.len() / 2] {
            assert!(read(&bytes[..cut]).is_none(), "cut at {cut}");
        }
        for at in [bytes.len() - 1, bytes.len() - 9, bytes.len() - 16, bytes.len() - 20] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(read(&damaged).is_none(), "damaged at {at}");
        }
        let longer = [&bytes[..], b"x"].concat();
        assert!(read(&longer).is_none());
    }
}
