//! pcap and pcapng files into a [`Recorder`], through `pcap-parser`.
//!
//! A file that ends in the middle of a record (a killed tcpdump) gives what it has and is counted. Each
//! interface of a pcapng section has its own link type and clock.

use std::io::Read;

use pcap_parser::pcapng::SecretsType;
use pcap_parser::{Block, LegacyPcapBlock, PcapBlockOwned, PcapError, create_reader};

use crate::capture::frame::LinkType;
use crate::capture::recorder::Recorder;
use crate::limits::FRAME_BYTES_MAX;
use crate::trace::Item;
use crate::units::{NANOS_PER_SEC, WallTime};

/// Buffer of the reader: several of the largest frames.
const BUFFER: usize = 4 * FRAME_BYTES_MAX;

/// One interface: link type, ticks per second, offset in seconds.
struct Interface {
    link: Result<LinkType, i32>,
    ticks_per_s: u64,
    offset_s: i64,
}

/// Clocks and link types of the file, or of the current section.
#[derive(Default)]
struct Context {
    interfaces: Vec<Interface>,
}

/// How a capture file was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Why reading stopped before the end of the file, if it did.
    pub stopped: Option<String>,
}

/// Reads the whole file into `recorder`; `each` is called now and then with the frames read so far.
///
/// # Errors
/// When the file header cannot be read.
pub fn read(
    input: impl Read + Send + 'static,
    recorder: &mut Recorder,
    mut each: impl FnMut(&mut Recorder),
) -> anyhow::Result<Reading> {
    let mut reader = match create_reader(BUFFER, input) {
        Ok(reader) => reader,
        Err(PcapError::Incomplete(_) | PcapError::Eof | PcapError::UnexpectedEof) => {
            recorder.ledger_mut().count(Item::CutFiles);
            return Ok(Reading { stopped: Some("the file ends inside its header".to_owned()) });
        }
        Err(e) => anyhow::bail!("the capture header cannot be read ({e})"),
    };
    let mut context = Context::default();
    let (mut frames, mut starved) = (0u64, false);
    let stopped = loop {
        let used = match reader.next() {
            Ok((used, block)) => {
                starved = false;
                context.block(&block, recorder);
                used
            }
            Err(PcapError::Eof) => break None,
            Err(PcapError::Incomplete(_)) if !starved => {
                starved = true;
                drop(reader.refill());
                continue;
            }
            Err(PcapError::Incomplete(_) | PcapError::UnexpectedEof) => {
                break Some("the file ends in the middle of a record".to_owned());
            }
            Err(PcapError::BufferTooSmall) => break Some(format!("a record is longer than {BUFFER} bytes")),
            Err(e) => break Some(format!("a record cannot be read ({})", kind(&e))),
        };
        reader.consume(used);
        frames += 1;
        if frames.is_multiple_of(256) {
            each(recorder);
        }
    };
    if stopped.is_some() {
        recorder.ledger_mut().count(Item::CutFiles);
    }
    Ok(Reading { stopped })
}

/// The kind of a parser error without the bytes it quotes.
fn kind(error: &PcapError<&[u8]>) -> String {
    match error {
        PcapError::NomError(_, kind) | PcapError::OwnedNomError(_, kind) => format!("{kind:?}"),
        other => other.to_string(),
    }
}

impl Context {
    fn block(&mut self, block: &PcapBlockOwned<'_>, recorder: &mut Recorder) {
        match block {
            PcapBlockOwned::LegacyHeader(h) => {
                let ticks_per_s = if h.is_nanosecond_precision() { NANOS_PER_SEC } else { 1_000_000 };
                // The upper bits hold the FCS length (draft-ietf-opsawg-pcap); the lower 16 are the type.
                let link = LinkType::from_number(h.network.0 & 0xffff);
                self.interfaces = vec![Interface { link, ticks_per_s, offset_s: 0 }];
            }
            PcapBlockOwned::Legacy(b) => self.legacy(b, recorder),
            PcapBlockOwned::NG(Block::SectionHeader(_)) => self.interfaces.clear(),
            PcapBlockOwned::NG(Block::InterfaceDescription(i)) => self.interfaces.push(Interface {
                link: LinkType::from_number(i.linktype.0),
                ticks_per_s: i.ts_resolution().unwrap_or(1_000_000).max(1),
                offset_s: i.ts_offset(),
            }),
            PcapBlockOwned::NG(Block::EnhancedPacket(p)) => {
                let Some(interface) = self.interfaces.get(p.if_id as usize) else {
                    return recorder.ledger_mut().count(Item::FramesUnparsed);
                };
                let ticks = u64::from(p.ts_high) << 32 | u64::from(p.ts_low);
                let at = interface.time(ticks);
                let bytes = &p.data[..p.data.len().min(p.caplen as usize)];
                recorder.frame(interface.link, at, bytes, p.origlen as usize);
            }
            // A simple packet has no time, so it cannot be part of a shape.
            PcapBlockOwned::NG(Block::SimplePacket(_)) => recorder.ledger_mut().count(Item::FramesUnparsed),
            // Secrets for what comes behind them. They are used and forgotten: no trace has a place for them.
            PcapBlockOwned::NG(Block::DecryptionSecrets(d)) if d.secrets_type == SecretsType::TlsKeyLog => {
                recorder.add_keys(d.data.get(..d.secrets_len as usize).unwrap_or(d.data));
            }
            PcapBlockOwned::NG(_) => {}
        }
    }

    fn legacy(&self, b: &LegacyPcapBlock<'_>, recorder: &mut Recorder) {
        let Some(interface) = self.interfaces.first() else { return };
        let ticks = u64::from(b.ts_sec) * interface.ticks_per_s + u64::from(b.ts_usec);
        let bytes = &b.data[..b.data.len().min(b.caplen as usize)];
        recorder.frame(interface.link, interface.time(ticks), bytes, b.origlen as usize);
    }
}

impl Interface {
    fn time(&self, ticks: u64) -> WallTime {
        let ns = u128::from(ticks) * u128::from(NANOS_PER_SEC) / u128::from(self.ticks_per_s);
        let offset = i128::from(self.offset_s) * i128::from(NANOS_PER_SEC);
        let total = i128::try_from(ns).unwrap_or(i128::MAX).saturating_add(offset);
        WallTime(u64::try_from(total.max(0)).unwrap_or(u64::MAX))
    }
}
