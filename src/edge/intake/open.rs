//! Opens an input, undoes compression, and says what it is by its first bytes.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::path::Path;

use anyhow::Context;

/// Bytes looked at to tell what an input is.
const PEEK: usize = 64 * 1024;

/// What an input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// libpcap file, either resolution and endianness.
    Pcap,
    /// pcapng file.
    Pcapng,
    /// A trace of ours.
    Trace,
    /// Text: an access log.
    Text,
    /// An HTTP archive.
    Har,
    /// A file of GoReplay.
    Gor,
    /// Nothing at all.
    Empty,
    /// Something else.
    Other,
}

/// An opened input.
pub struct Input {
    /// What it is.
    pub kind: Kind,
    /// The first of them, to tell what they are.
    pub sample: Vec<u8>,
    /// Its bytes, decompressed, from the start.
    pub bytes: Box<dyn Read + Send>,
    /// Its own name, without the folder.
    pub name: String,
}

fn peek(mut reader: impl Read + Send + 'static) -> io::Result<(Vec<u8>, Box<dyn Read + Send>)> {
    let mut head = Vec::with_capacity(PEEK);
    reader.by_ref().take(PEEK as u64).read_to_end(&mut head)?;
    Ok((head.clone(), Box::new(Cursor::new(head).chain(reader))))
}

/// One JSON object that begins with a `log` of an HTTP archive.
fn is_archive(head: &[u8]) -> bool {
    let text: Vec<u8> = head.iter().take(4096).filter(|b| !b.is_ascii_whitespace()).copied().collect();
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
    text.starts_with(b"{\"log\":{")
        && [&b"\"creator\""[..], b"\"entries\"", b"\"version\""]
            .iter()
            .any(|k| text.windows(k.len()).any(|w| w == *k))
}

fn kind_of(head: &[u8]) -> Kind {
    const PCAP: [[u8; 4]; 6] = [
        [0xa1, 0xb2, 0xc3, 0xd4],
        [0xd4, 0xc3, 0xb2, 0xa1],
        [0xa1, 0xb2, 0x3c, 0x4d],
        [0x4d, 0x3c, 0xb2, 0xa1],
        [0xa1, 0xb2, 0xcd, 0x34],
        [0x34, 0xcd, 0xb2, 0xa1],
    ];
    let text = |b: &u8| *b >= b' ' || b"\t\r\n\x1b".contains(b);
    match head {
        [] => Kind::Empty,
        [a, b, c, d, ..] if PCAP.contains(&[*a, *b, *c, *d]) => Kind::Pcap,
        [0x0a, 0x0d, 0x0d, 0x0a, ..] => Kind::Pcapng,
        [0x89, b'R', b'P', b'L', b'Y', ..] => Kind::Trace,
        _ if is_archive(head) => Kind::Har,
        _ if crate::capture::gor::looks_like(head) => Kind::Gor,
        _ if head.iter().take(64).all(text) => Kind::Text,
        _ => Kind::Other,
    }
}

/// Opens `path` (`-` is standard input), through gzip or zstd where the bytes say so.
///
/// # Errors
/// When it cannot be opened or read.
pub fn open(path: &Path) -> anyhow::Result<Input> {
    let raw: Box<dyn Read + Send> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).with_context(|| format!("cannot open {}", path.display()))?)
    };
    open_as(path, raw)
}

/// The same of what is open already, whatever has its name by now.
///
/// # Errors
/// When it cannot be read.
pub fn open_as(path: &Path, raw: Box<dyn Read + Send>) -> anyhow::Result<Input> {
    let show = path.display();
    let name = path.file_name().map_or_else(|| "-".to_owned(), |n| n.to_string_lossy().into_owned());
    let raw = BufReader::with_capacity(1 << 20, raw);
    let (head, raw) = peek(raw).with_context(|| format!("cannot read {show}"))?;
    let plain: Box<dyn Read + Send> = match head.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(raw)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(
            zstd::stream::read::Decoder::new(raw).with_context(|| format!("cannot decompress {show}"))?,
        ),
        _ => raw,
    };
    let (head, bytes) = peek(plain).with_context(|| format!("cannot read {show}"))?;
    Ok(Input { kind: kind_of(&head), sample: head, bytes, name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_content() {
        #[rustfmt::skip]
        let table: [(&[u8], Kind); 9] = [
            (b"{\n \"log\": {\n \"version\": \"1.2\"", Kind::Har), (b"{\"log\":{\"x\":1}}", Kind::Text),
            (b"", Kind::Empty), (b"\xd4\xc3\xb2\xa1\x02\x00", Kind::Pcap), (b"\x0a\x0d\x0d\x0a....", Kind::Pcapng),
            (b"127.0.0.1 - - [", Kind::Text), (b"\xef\xbb\xbf1.2.3.4", Kind::Text),
            (b"\x89RPLY\r\n\x1a", Kind::Trace), (b"\x7fELF\x02\x01\x01\x00", Kind::Other),
        ];
        for (head, want) in table {
            assert_eq!(kind_of(head), want, "{head:?}");
        }
    }
}
