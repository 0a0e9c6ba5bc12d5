//! Reads a trace: streaming, one block in memory, to its end or to its last whole block.

use std::collections::VecDeque;
use std::io::Read;

use super::TraceError;
use super::block;
use super::codec::{
    BlockRecord, EndRecord, FILE_HEADER_LEN, Kind, MetaRecord, Section, TAIL_LEN, decode, read_file_header,
    read_section, read_tail,
};
use super::event::TraceEvent;
use super::ledger::{Ledger, Position};
use super::meta::{Source, TraceMeta};
use crate::units::WallTime;

/// How a trace ended.
#[allow(clippy::large_enum_variant, reason = "there is one of it")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With its index and ledger.
    Whole {
        /// The capture ledger.
        ledger: Ledger,
        /// Sessions.
        sessions: u64,
    },
    /// Cut off or damaged: everything before was read, nothing after.
    Cut {
        /// Offset up to which the file is whole.
        offset: u64,
        /// Whole blocks read.
        blocks: u64,
        /// What is wrong there.
        why: String,
    },
}

impl End {
    /// One line for people where the trace is not whole.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        match self {
            Self::Whole { .. } => None,
            Self::Cut { offset, blocks, why } => Some(format!(
                "the trace is cut off or damaged at byte {offset} ({why}); its {blocks} whole blocks were read, what followed and the capture ledger are lost"
            )),
        }
    }
}

/// Reads one trace.
#[derive(Debug)]
pub struct TraceReader<R> {
    input: R,
    meta: TraceMeta,
    offset: u64,
    blocks: u64,
    pending: VecDeque<TraceEvent>,
    end: Option<End>,
}

impl<R: Read> TraceReader<R> {
    /// Reads the header facts.
    ///
    /// # Errors
    /// [`TraceError`] when this is not a trace, has another version, or its header facts are damaged.
    pub fn new(mut input: R) -> Result<Self, TraceError> {
        read_file_header(&mut input)?;
        let offset = FILE_HEADER_LEN;
        let bad = |what: String| TraceError::BadHeader { offset, what };
        let (raw, len) = match read_section(&mut input, offset)? {
            Section::Whole { kind: Kind::Meta, raw, len } => (raw, len),
            Section::Whole { .. } => return Err(bad("the first section is not the header facts".to_owned())),
            Section::Nothing => return Err(bad("cut off before the header facts".to_owned())),
            Section::Broken(why) => return Err(bad(why)),
        };
        let record: MetaRecord = decode(&raw).map_err(bad)?;
        let meta = TraceMeta {
            started_at: WallTime(record.started_at_ns),
            sources: record.sources.into_iter().map(|(name, format)| Source { name, format }).collect(),
            redaction: record.redaction,
            resolution_ns: record.resolution_ns,
            spread_seed: record.spread_seed,
            made_by: record.made_by,
        };
        let (pending, end) = (VecDeque::new(), None);
        Ok(Self { input, meta, offset: offset + len, blocks: 0, pending, end })
    }

    /// Header facts.
    #[must_use]
    pub fn meta(&self) -> &TraceMeta {
        &self.meta
    }

    /// Bytes read and understood so far.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How the trace ended; known once [`TraceReader::next_event`] has returned `None`.
    #[must_use]
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// The next event, or `None` at the end, whole or not: look at [`TraceReader::end`] then.
    ///
    /// # Errors
    /// When the medium fails, or a length is above its limit.
    pub fn next_event(&mut self) -> Result<Option<TraceEvent>, TraceError> {
        while self.pending.is_empty() && self.end.is_none() {
            self.read_next()?;
        }
        Ok(self.pending.pop_front())
    }

    /// Goes on with another block of the same input, which the caller has put at `offset`: the `blocks`-th one.
    pub(super) fn jump(&mut self, offset: u64, blocks: u64) {
        (self.offset, self.blocks) = (offset, blocks);
        (self.pending, self.end) = (VecDeque::new(), None);
    }

    pub(super) fn input(&mut self) -> &mut R {
        &mut self.input
    }

    fn read_next(&mut self) -> Result<(), TraceError> {
        let section = read_section(&mut self.input, self.offset)?;
        let cut = |offset, blocks, why: String| Some(End::Cut { offset, blocks, why });
        self.end = match section {
            Section::Whole { kind: Kind::Block, raw, len } => {
                match decode::<BlockRecord>(&raw).and_then(|record| block::events(&record)) {
                    Ok(events) => {
                        self.pending.extend(events);
                        self.offset += len;
                        self.blocks += 1;
                        None
                    }
                    Err(why) => cut(self.offset, self.blocks, why),
                }
            }
            Section::Whole { kind: Kind::End, raw, len } => match decode::<EndRecord>(&raw) {
                Ok(record) if record.index.len() as u64 != self.blocks => {
                    let why = format!("{} blocks are listed, {} are there", record.index.len(), self.blocks);
                    cut(self.offset, self.blocks, why)
                }
                Ok(_) if !read_tail(&mut self.input, self.offset)? => {
                    cut(self.offset + len, self.blocks, "the last bytes are missing or wrong".to_owned())
                }
                Ok(record) => {
                    self.offset += len + TAIL_LEN;
                    let mut ledger = Ledger::default();
                    for (name, n) in &record.ledger {
                        ledger.set_by_name(name, *n);
                    }
                    for (name, source, number) in &record.first {
                        ledger.set_first_by_name(name, Position { source: *source, number: *number });
                    }
                    Some(End::Whole { ledger, sessions: record.sessions })
                }
                Err(why) => cut(self.offset, self.blocks, why),
            },
            Section::Whole { kind: Kind::Meta, .. } => {
                cut(self.offset, self.blocks, "a second section of header facts".to_owned())
            }
            Section::Nothing => cut(self.offset, self.blocks, "the end section is missing".to_owned()),
            Section::Broken(why) => cut(self.offset, self.blocks, why),
        };
        Ok(())
    }
}

#[cfg(test)]
#[path = "tests.rs"]
pub(super) mod tests;
