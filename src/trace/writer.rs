//! Writes a trace: streaming, memory bounded by one block.

use std::io::Write;

use super::TraceError;
use super::block::BlockBuilder;
use super::codec::{
    EndRecord, FILE_HEADER_LEN, IndexRecord, Kind, MetaRecord, TAIL_LEN, TAIL_MAGIC, encode,
    write_file_header, write_section,
};
use super::event::{EventKind, TraceEvent};
use super::ledger::Ledger;
use super::meta::TraceMeta;
use crate::limits::{HEAD_BYTES_MAX, TRACE_SECONDS_MAX};
use crate::units::NANOS_PER_SEC;

/// Largest weight of a request's shape.
pub const EVENT_BYTES_MAX: usize = HEAD_BYTES_MAX * 2;

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Requests.
    pub requests: u64,
    /// Sessions.
    pub sessions: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Time of the last event, nanoseconds since the first.
    pub last_ns: u64,
}

/// Writes one trace.
#[derive(Debug)]
pub struct TraceWriter<W> {
    out: W,
    offset: u64,
    block: BlockBuilder,
    index: Vec<IndexRecord>,
    sessions: Seen,
    curve: Curve,
    requests: u64,
    last_ns: u64,
}

/// Which sessions there were: a bit each, because they are numbered in order of appearance.
#[derive(Debug, Default)]
struct Seen {
    bits: Vec<u64>,
    count: u64,
}

impl Seen {
    fn insert(&mut self, ordinal: u64) {
        let (word, bit) = ((ordinal / 64) as usize, 1 << (ordinal % 64));
        if word >= self.bits.len() {
            self.bits.resize(word + 1, 0);
        }
        self.count += u64::from(self.bits[word] & bit == 0);
        self.bits[word] |= bit;
    }
}

/// Requests of each second, connections at once: what a plan asks first of a trace.
#[derive(Debug, Default)]
struct Curve {
    per_second: Vec<u32>,
    connections: u64,
    connections_peak: u64,
    /// The second counted now, and opens in it.
    opens: (u64, u32),
    opens_peak: u32,
}

impl Curve {
    fn add(&mut self, event: &TraceEvent) {
        let second = event.at.0 / NANOS_PER_SEC;
        match event.kind {
            EventKind::Request(_) => {
                // Behind the limit they count in its last second.
                let at = second.min(TRACE_SECONDS_MAX - 1) as usize;
                self.per_second.resize(self.per_second.len().max(at + 1), 0);
                self.per_second[at] = self.per_second[at].saturating_add(1);
            }
            EventKind::Open(_) => {
                self.connections += 1;
                self.connections_peak = self.connections_peak.max(self.connections);
                self.opens = if self.opens.0 == second { (second, self.opens.1 + 1) } else { (second, 1) };
                self.opens_peak = self.opens_peak.max(self.opens.1);
            }
            EventKind::Close(_) => self.connections = self.connections.saturating_sub(1),
        }
    }
}

impl<W: Write> TraceWriter<W> {
    /// Starts a trace.
    ///
    /// # Errors
    /// When the medium fails.
    pub fn new(mut out: W, meta: &TraceMeta) -> Result<Self, TraceError> {
        let record = MetaRecord {
            started_at_ns: meta.started_at.0,
            sources: meta.sources.iter().map(|s| (s.name.clone(), s.format.clone())).collect(),
            redaction: meta.redaction.clone(),
            resolution_ns: meta.resolution_ns,
            spread_seed: meta.spread_seed,
            made_by: meta.made_by.clone(),
        };
        write_file_header(&mut out)?;
        let offset = FILE_HEADER_LEN + write_section(&mut out, Kind::Meta, &encode(&record)?)?;
        let (sessions, curve) = (Seen::default(), Curve::default());
        let (block, index) = (BlockBuilder::default(), Vec::new());
        Ok(Self { out, offset, block, index, sessions, curve, requests: 0, last_ns: 0 })
    }

    /// Adds one event.
    ///
    /// # Errors
    /// [`TraceError::OutOfOrder`] when it is earlier than the last one, [`TraceError::EventTooLarge`] when
    /// its head is above [`HEAD_BYTES_MAX`], or when the medium fails.
    pub fn push(&mut self, event: &TraceEvent) -> Result<(), TraceError> {
        if event.at.0 < self.last_ns {
            return Err(TraceError::OutOfOrder { at_ns: event.at.0, last_ns: self.last_ns });
        }
        let too_large = |found| TraceError::EventTooLarge { found, max: EVENT_BYTES_MAX };
        self.block.push(event, EVENT_BYTES_MAX).map_err(too_large)?;
        self.requests += u64::from(event.request().is_some());
        self.last_ns = event.at.0;
        self.sessions.insert(event.session.ordinal);
        self.curve.add(event);
        if self.block.is_full() {
            self.flush_block()?;
        }
        Ok(())
    }

    /// Bytes written so far: what is in the block under way is not.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.offset
    }

    fn flush_block(&mut self) -> Result<(), TraceError> {
        if self.block.len() == 0 {
            return Ok(());
        }
        self.index.push(IndexRecord {
            offset: self.offset,
            first_ns: self.block.first_ns(),
            last_ns: self.block.last_ns(),
            events: self.block.len() as u32,
            requests: self.block.requests() as u32,
        });
        let raw = encode(&self.block.take())?;
        self.offset += write_section(&mut self.out, Kind::Block, &raw)?;
        Ok(())
    }

    /// Ends the trace with its index and `ledger`, and gives the medium back.
    ///
    /// # Errors
    /// When the medium fails.
    pub fn finish(mut self, ledger: &Ledger) -> Result<(W, Written), TraceError> {
        self.flush_block()?;
        let sessions = self.sessions.count;
        let rows = ledger.rows().filter_map(|(i, n)| n.map(|n| (i.name().to_owned(), n)));
        let first = ledger
            .rows()
            .filter_map(|(i, _)| ledger.first(i).map(|p| (i.name().to_owned(), p.source, p.number)));
        let first = first.collect();
        let end = EndRecord {
            index: self.index,
            ledger: rows.collect(),
            first,
            requests: self.requests,
            sessions,
            per_second: self.curve.per_second,
            connections_peak: self.curve.connections_peak,
            opens_peak_per_s: self.curve.opens_peak,
        };
        let end_at = self.offset;
        self.offset += write_section(&mut self.out, Kind::End, &encode(&end)?)?;
        self.out.write_all(&end_at.to_le_bytes())?;
        self.out.write_all(&TAIL_MAGIC)?;
        self.offset += TAIL_LEN;
        self.out.flush()?;
        let written =
            Written { requests: self.requests, sessions, bytes: self.offset, last_ns: self.last_ns };
        Ok((self.out, written))
    }
}
