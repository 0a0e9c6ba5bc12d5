//! The bytes of a trace: sections, checksums, compression, and the records inside them.
//!
//! The only file that names bincode. That crate is unmaintained, so it is pinned, used with an explicit
//! configuration and a byte limit, and stands behind our own section header and CRC-32C: it only ever
//! sees bytes that we wrote. Every length is checked against a named limit before anything is allocated.

use std::io::{Read, Write};
use std::sync::Arc;

use bincode::config::{Configuration, Fixint, LittleEndian, Varint};
use bincode::{Decode, Encode};

use super::TraceError;
use super::shape::Text;
use crate::limits::{BLOCK_RAW_BYTES_MAX, BLOCK_STORED_BYTES_MAX, TRACE_END_BYTES_MAX, TRACE_META_BYTES_MAX};

/// First bytes of every trace: not text, and damaged by any line-ending conversion.
pub(super) const MAGIC: [u8; 8] = [0x89, b'R', b'P', b'L', b'Y', b'\r', b'\n', 0x1a];

/// Last bytes of every whole trace, behind the offset of its end section.
pub(super) const TAIL_MAGIC: [u8; 8] = [0x89, b'R', b'P', b'L', b'Y', b'E', b'N', b'D'];

/// Bytes of the tail: the offset of the end section and [`TAIL_MAGIC`].
pub(super) const TAIL_LEN: u64 = 16;

/// Format version written by this program.
pub(super) const VERSION: u16 = 1;

/// Bytes of the file header: magic, version, flags.
pub(super) const FILE_HEADER_LEN: u64 = 12;

/// Bytes of a section header.
pub(super) const SECTION_HEADER_LEN: usize = 16;

/// Zstandard level: 3 is the library's default; higher levels cost capture speed for a few per cent.
const ZSTD_LEVEL: i32 = 3;

/// Kind of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Meta,
    Block,
    End,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Meta => b'M',
            Self::Block => b'B',
            Self::End => b'E',
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Meta, Self::Block, Self::End].into_iter().find(|k| k.code() == code)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Meta => "header facts",
            Self::Block => "block",
            Self::End => "end section",
        }
    }

    fn raw_max(self) -> usize {
        match self {
            Self::Meta => TRACE_META_BYTES_MAX,
            Self::Block => BLOCK_RAW_BYTES_MAX,
            Self::End => TRACE_END_BYTES_MAX,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct MetaRecord {
    pub started_at_ns: u64,
    pub sources: Vec<(String, String)>,
    pub redaction: String,
    pub resolution_ns: u64,
    pub spread_seed: Option<u64>,
    pub made_by: String,
}

/// A shape whose strings are indices into the block's dictionary.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Encode, Decode)]
pub(super) struct ShapeRecord {
    pub method: u32,
    pub https: bool,
    pub authority: Option<u32>,
    pub target: u32,
    pub version: u8,
    pub headers: Arc<[HeaderRecord]>,
    pub credentials: u8,
    pub target_redacted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Encode, Decode)]
pub(super) struct HeaderRecord {
    pub name: u32,
    pub value: ValueRecord,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Encode, Decode)]
pub(super) enum ValueRecord {
    Kept(u32),
    Redacted(u32),
    /// Length and keyed hash.
    Hashed(u32, u32),
}

/// The columns of one block. Optional numbers are stored plus one, zero meaning absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct BlockRecord {
    pub first_ns: u64,
    pub strings: Vec<Text>,
    pub shapes: Vec<ShapeRecord>,
    pub session_keys: Vec<u64>,
    pub session_ordinals: Vec<u64>,
    /// Per event.
    pub deltas_ns: Vec<u64>,
    pub kinds: Vec<u8>,
    pub sessions: Vec<u32>,
    pub connections: Vec<u16>,
    pub provenance: Vec<u16>,
    /// Per request.
    pub shape: Vec<u32>,
    pub body_len: Vec<u64>,
    pub status: Vec<u16>,
    pub response_len: Vec<u64>,
    pub duration_ns: Vec<u64>,
    pub cache: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct IndexRecord {
    pub offset: u64,
    pub first_ns: u64,
    pub last_ns: u64,
    pub events: u32,
    pub requests: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct EndRecord {
    pub index: Vec<IndexRecord>,
    pub ledger: Vec<(String, u64)>,
    /// Item, source, frame or line.
    pub first: Vec<(String, u32, u64)>,
    pub requests: u64,
    pub sessions: u64,
    pub per_second: Vec<u32>,
    pub connections_peak: u64,
    pub opens_peak_per_s: u32,
}

type Config<const LIMIT: usize> = Configuration<LittleEndian, Varint, bincode::config::Limit<LIMIT>>;

fn config() -> Config<TRACE_END_BYTES_MAX> {
    // Varint and little endian are written out so that a change of defaults cannot change the format.
    let fixed: Configuration<LittleEndian, Fixint> = bincode::config::standard().with_fixed_int_encoding();
    fixed.with_variable_int_encoding().with_little_endian().with_limit::<TRACE_END_BYTES_MAX>()
}

const _: () =
    assert!(BLOCK_RAW_BYTES_MAX <= TRACE_END_BYTES_MAX && TRACE_META_BYTES_MAX <= TRACE_END_BYTES_MAX);

/// Encodes a record.
pub(super) fn encode<T: Encode>(record: &T) -> Result<Vec<u8>, TraceError> {
    bincode::encode_to_vec(record, config()).map_err(|e| TraceError::Encode(e.to_string()))
}

/// Decodes a record that must fill `bytes` exactly.
pub(super) fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, String> {
    let (record, used) = bincode::decode_from_slice(bytes, config()).map_err(|e| e.to_string())?;
    if used == bytes.len() { Ok(record) } else { Err(format!("{} bytes left over", bytes.len() - used)) }
}

/// Writes one section and returns its length.
pub(super) fn write_section(out: &mut impl Write, kind: Kind, raw: &[u8]) -> Result<u64, TraceError> {
    let too_large = |what, found: usize, max: usize| TraceError::TooLarge {
        offset: 0,
        what,
        found: found as u64,
        max: max as u64,
    };
    if raw.len() > kind.raw_max() {
        return Err(too_large(kind.name(), raw.len(), kind.raw_max()));
    }
    let stored = zstd::bulk::compress(raw, ZSTD_LEVEL)?;
    if stored.len() > BLOCK_STORED_BYTES_MAX.max(kind.raw_max()) {
        return Err(too_large(kind.name(), stored.len(), BLOCK_STORED_BYTES_MAX));
    }
    let mut header = [0u8; SECTION_HEADER_LEN];
    header[0] = kind.code();
    header[4..8].copy_from_slice(&(stored.len() as u32).to_le_bytes());
    header[8..12].copy_from_slice(&(raw.len() as u32).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &stored);
    header[12..].copy_from_slice(&crc.to_le_bytes());
    out.write_all(&header)?;
    out.write_all(&stored)?;
    Ok((header.len() + stored.len()) as u64)
}

/// One section as read.
#[derive(Debug)]
pub(super) enum Section {
    /// Whole and its checksum is right.
    Whole { kind: Kind, raw: Vec<u8>, len: u64 },
    /// Nothing follows.
    Nothing,
    /// Cut off or damaged here, for this reason.
    Broken(String),
}

/// Reads up to `buf.len()` bytes; fewer only at the end of input.
fn read_fully(input: &mut impl Read, buf: &mut [u8]) -> Result<usize, TraceError> {
    let mut filled = 0;
    while filled < buf.len() {
        match input.read(&mut buf[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(filled)
}

/// Reads the section at `offset`.
pub(super) fn read_section(input: &mut impl Read, offset: u64) -> Result<Section, TraceError> {
    let mut header = [0u8; SECTION_HEADER_LEN];
    let n = read_fully(input, &mut header)?;
    if n == 0 {
        return Ok(Section::Nothing);
    }
    if n < header.len() {
        return Ok(Section::Broken(format!(
            "cut off inside a section header ({n} of {} bytes)",
            header.len()
        )));
    }
    let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (stored_len, raw_len, crc) = (number(4) as usize, number(8) as usize, number(12));
    let Some(kind) = Kind::from_code(header[0]) else {
        return Ok(Section::Broken(format!("unknown section kind {:#04x}", header[0])));
    };
    let stored_max = BLOCK_STORED_BYTES_MAX.max(kind.raw_max());
    for (what, found, max) in [(kind.name(), raw_len, kind.raw_max()), (kind.name(), stored_len, stored_max)]
    {
        if found > max {
            return Ok(Section::Broken(format!(
                "offset {offset}: {what} of {found} bytes is above the limit of {max}"
            )));
        }
    }
    let mut stored = vec![0; stored_len];
    let n = read_fully(input, &mut stored)?;
    if n < stored_len {
        return Ok(Section::Broken(format!("cut off inside a {} ({n} of {stored_len} bytes)", kind.name())));
    }
    if crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &stored) != crc {
        return Ok(Section::Broken(format!("checksum of a {} is wrong", kind.name())));
    }
    match zstd::bulk::decompress(&stored, raw_len) {
        Ok(raw) if raw.len() == raw_len => {
            Ok(Section::Whole { kind, raw, len: (SECTION_HEADER_LEN + stored_len) as u64 })
        }
        Ok(_) | Err(_) => Ok(Section::Broken(format!("a {} does not decompress", kind.name()))),
    }
}

/// Whether the tail that belongs to an end section at `end_at` follows.
pub(super) fn read_tail(input: &mut impl Read, end_at: u64) -> Result<bool, TraceError> {
    let mut tail = [0u8; TAIL_LEN as usize];
    let n = read_fully(input, &mut tail)?;
    Ok(n == tail.len() && tail[..8] == end_at.to_le_bytes() && tail[8..] == TAIL_MAGIC)
}

/// Writes the file header.
pub(super) fn write_file_header(out: &mut impl Write) -> Result<(), TraceError> {
    out.write_all(&MAGIC)?;
    out.write_all(&VERSION.to_le_bytes())?;
    out.write_all(&0u16.to_le_bytes())?;
    Ok(())
}

/// Reads and checks the file header.
pub(super) fn read_file_header(input: &mut impl Read) -> Result<(), TraceError> {
    let mut header = [0u8; FILE_HEADER_LEN as usize];
    let n = read_fully(input, &mut header)?;
    if n < header.len() || header[..8] != MAGIC {
        return Err(TraceError::NotATrace { found: header[..n.min(8)].to_vec() });
    }
    let version = u16::from_le_bytes([header[8], header[9]]);
    if version == VERSION { Ok(()) } else { Err(TraceError::Version { found: version }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_above_its_limit_is_refused_before_anything_is_allocated() {
        let mut header = vec![b'B', 0, 0, 0];
        header.extend(10u32.to_le_bytes());
        header.extend(u32::MAX.to_le_bytes());
        header.extend([0; 4]);
        let read = read_section(&mut header.as_slice(), 12).unwrap();
        assert!(matches!(&read, Section::Broken(why) if why.contains("above the limit")), "{read:?}");
    }

    #[test]
    fn sections_round_trip_and_any_flipped_bit_is_seen() {
        let mut bytes = Vec::new();
        write_section(&mut bytes, Kind::Block, b"some bytes some bytes some bytes").unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let read = read_section(&mut bad.as_slice(), 0);
            let seen = matches!(read, Ok(Section::Broken(_)));
            assert!(seen, "bit {bit}: {read:?}");
        }
    }
}
