//! HTTP/2 frames of a client as bytes, as far as it must be known which requests have left (RFC 9113, section 4.1).
//!
//! It reads frame headers only, and decodes nothing.

/// What a client sends before its first frame (section 3.4).
const PREFACE_BYTES: usize = 24;

/// Bytes of a frame's header.
const HEADER_BYTES: usize = 9;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Follows the bytes that a client writes.
#[derive(Debug)]
pub struct SentFrames {
    preface_left: usize,
    header: [u8; HEADER_BYTES],
    have: usize,
    payload_left: usize,
    /// The frame under way ends a head.
    ends_head: bool,
}

impl Default for SentFrames {
    fn default() -> Self {
        Self {
            preface_left: PREFACE_BYTES,
            header: [0; HEADER_BYTES],
            have: 0,
            payload_left: 0,
            ends_head: false,
        }
    }
}

impl SentFrames {
    /// Takes bytes that were written; how many heads of requests became whole with them.
    pub fn feed(&mut self, bytes: &[u8]) -> usize {
        let skipped = self.preface_left.min(bytes.len());
        self.preface_left -= skipped;
        let (mut rest, mut heads) = (bytes.get(skipped..).unwrap_or_default(), 0);
        while let Some((first, more)) = rest.split_first() {
            if self.payload_left > 0 {
                let n = self.payload_left.min(rest.len());
                self.payload_left -= n;
                rest = rest.get(n..).unwrap_or_default();
            } else {
                if let Some(place) = self.header.get_mut(self.have) {
                    *place = *first;
                }
                self.have += 1;
                rest = more;
                if self.have < HEADER_BYTES {
                    continue;
                }
                self.begin();
            }
            if self.payload_left == 0 {
                heads += usize::from(std::mem::take(&mut self.ends_head));
            }
        }
        heads
    }

    /// A frame's header is whole.
    fn begin(&mut self) {
        let [a, b, c, kind, flags, ..] = self.header;
        self.have = 0;
        self.payload_left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.ends_head = matches!(kind, HEADERS | CONTINUATION) && flags & END_HEADERS != 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let len = u32::try_from(payload).unwrap().to_be_bytes();
        [&len[1..], &[kind, flags, 0, 0, 0, 1], &vec![7; payload][..]].concat()
    }

    #[test]
    fn heads_count_when_their_last_byte_has_left_however_it_is_cut() {
        const SETTINGS: u8 = 4;
        const DATA: u8 = 0;
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let mut ends = Vec::new();
        for (frame, ends_head) in [
            (frame(SETTINGS, 0, 18), false),
            (frame(HEADERS, END_HEADERS | 1, 30), true),
            (frame(SETTINGS, 1, 0), false),
            (frame(HEADERS, 1, 300), false),
            (frame(CONTINUATION, END_HEADERS, 20), true),
            (frame(DATA, END_HEADERS, 70_000), false),
            (frame(HEADERS, END_HEADERS, 0), true),
        ] {
            bytes.extend(frame);
            if ends_head {
                ends.push(bytes.len());
            }
        }
        for step in [1, 2, 7, 9, 10, 23, 24, 25, 1_000, bytes.len()] {
            let (mut watch, mut at, mut heads) = (SentFrames::default(), 0, 0);
            for part in bytes.chunks(step) {
                heads += watch.feed(part);
                at += part.len();
                assert_eq!(heads, ends.iter().filter(|e| **e <= at).count(), "cut by {step} at {at}");
            }
            assert_eq!(heads, 3);
        }
    }
}
