//! HTTP/2 in the clear as it is captured: frames of both directions, HPACK, streams paired with their answers.
//!
//! One stream is one request of the connection's session. Header compression has a memory: a connection that was not
//! seen from its preface, or has a hole, cannot be read from there on, and is counted as such; nothing of it is guessed.
//! Bodies are counted, never kept. Sources: RFC 9113 (frames), RFC 7541 (HPACK), gRPC over HTTP/2 (trailers end an answer).

use loona_hpack::Decoder;

use crate::limits::{H2_STREAMS_MAX, H2_TABLE_BYTES_MAX, HEAD_BYTES_MAX, HEADERS_MAX};
use crate::lookup::Lookup;
use crate::units::WallTime;
use crate::wire::head::{HeaderLine, RequestHead, Version, is_token};

/// What a client sends first (RFC 9113, section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const FRAME_HEADER: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Something happened to a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A request began at this time.
    Request {
        /// Stream.
        stream: u32,
        /// First byte of its head.
        at: WallTime,
        /// Head in the form of HTTP/1, the authority as `Host`.
        head: RequestHead,
        /// Value of `:scheme`.
        https: bool,
    },
    /// The body of a request has ended.
    RequestEnd {
        /// Stream.
        stream: u32,
        /// Bytes of it.
        body_len: u64,
    },
    /// The head of an answer, not of an interim one.
    Response {
        /// Stream.
        stream: u32,
        /// Status.
        status: u16,
        /// Header lines.
        headers: Vec<HeaderLine>,
    },
    /// An answer has ended.
    ResponseEnd {
        /// Stream.
        stream: u32,
        /// Body bytes.
        body_len: u64,
        /// When.
        at: WallTime,
    },
    /// One side gave the stream up.
    Reset {
        /// Stream.
        stream: u32,
    },
    /// A head that cannot be one of a request.
    Malformed,
    /// Nothing more of this direction can be read.
    Lost,
}

/// The frames of one direction.
struct Side {
    decoder: Decoder<'static>,
    /// Bytes of the preface that are still to come.
    preface_left: usize,
    header: [u8; FRAME_HEADER],
    have: usize,
    payload_left: usize,
    /// Payload of a frame that must be read: all but DATA.
    payload: Vec<u8>,
    /// When the frame began.
    began: WallTime,
    /// Header block under way: stream, flags of its first frame, when it began, and whether it is a promise.
    block: Option<(u32, u8, WallTime, bool)>,
    block_bytes: Vec<u8>,
    /// Body bytes by stream.
    bodies: Lookup<u32, u64>,
    /// A stream that this side gave up: the other's bytes of it are forgotten, too.
    reset: Option<u32>,
    broken: bool,
}

impl std::fmt::Debug for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Side").field("broken", &self.broken).finish_non_exhaustive()
    }
}

impl Side {
    fn new(preface: usize) -> Self {
        let mut decoder = Decoder::new();
        decoder.set_max_allowed_table_size(H2_TABLE_BYTES_MAX);
        Self {
            decoder,
            preface_left: preface,
            header: [0; FRAME_HEADER],
            have: 0,
            payload_left: 0,
            payload: Vec::new(),
            began: WallTime(0),
            block: None,
            block_bytes: Vec::new(),
            bodies: Lookup::default(),
            reset: None,
            broken: false,
        }
    }
}

/// Both directions of a connection.
#[derive(Debug)]
pub struct Http2 {
    client: Side,
    server: Side,
}

/// A decoded header block: pseudo-headers and lines.
#[derive(Default)]
struct Block {
    method: Vec<u8>,
    path: Vec<u8>,
    authority: Vec<u8>,
    https: bool,
    status: Option<u16>,
    lines: Vec<HeaderLine>,
    bytes: usize,
    /// Something that no header block may have.
    strange: bool,
}

impl Http2 {
    /// A connection whose client begins with the preface.
    #[must_use]
    pub fn new() -> Self {
        Self { client: Side::new(PREFACE.len()), server: Side::new(0) }
    }

    /// Bytes held, roughly, the tables of header compression among them.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let side = |s: &Side| s.payload.len() + s.block_bytes.len() + 4096 + s.bodies.len() * 16;
        side(&self.client) + side(&self.server)
    }

    /// Takes bytes of one direction in order.
    pub fn push(&mut self, is_client: bool, at: WallTime, mut bytes: &[u8], out: &mut Vec<Event>) {
        let (side, other) = if is_client {
            (&mut self.client, &mut self.server)
        } else {
            (&mut self.server, &mut self.client)
        };
        if side.preface_left > 0 {
            let from = PREFACE.len() - side.preface_left;
            let n = side.preface_left.min(bytes.len());
            if bytes.get(..n) != PREFACE.get(from..from + n) {
                side.lose(out);
            }
            side.preface_left -= n;
            bytes = bytes.get(n..).unwrap_or_default();
        }
        while !bytes.is_empty() && !side.broken {
            bytes = side.take(is_client, at, bytes, out);
            if let Some(stream) = side.reset.take() {
                other.bodies.remove(&stream);
            }
        }
    }

    /// A hole: the memory of header compression is lost with it.
    pub fn gap(&mut self, is_client: bool, out: &mut Vec<Event>) {
        let side = if is_client { &mut self.client } else { &mut self.server };
        side.lose(out);
    }
}

impl Default for Http2 {
    fn default() -> Self {
        Self::new()
    }
}

impl Side {
    fn lose(&mut self, out: &mut Vec<Event>) {
        if !self.broken {
            self.broken = true;
            self.payload = Vec::new();
            self.block_bytes = Vec::new();
            out.push(Event::Lost);
        }
    }

    /// Takes a part of the bytes and gives the rest back.
    fn take<'b>(&mut self, is_client: bool, at: WallTime, bytes: &'b [u8], out: &mut Vec<Event>) -> &'b [u8] {
        if self.have < FRAME_HEADER {
            if self.have == 0 {
                self.began = at;
            }
            let n = (FRAME_HEADER - self.have).min(bytes.len());
            self.header[self.have..self.have + n].copy_from_slice(&bytes[..n]);
            self.have += n;
            if self.have < FRAME_HEADER {
                return &bytes[n..];
            }
            let [a, b, c, ..] = self.header;
            self.payload_left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            self.payload.clear();
            // No head may be longer, and nothing else is kept.
            if self.kind() != DATA && self.payload_left > HEAD_BYTES_MAX {
                self.lose(out);
                return &[];
            }
            if self.payload_left == 0 {
                self.frame(is_client, at, out);
            }
            return &bytes[n..];
        }
        let n = self.payload_left.min(bytes.len());
        // Of data only the length of its padding is read.
        let keep = if self.kind() == DATA { usize::from(self.payload.is_empty()).min(n) } else { n };
        self.payload.extend_from_slice(&bytes[..keep]);
        self.payload_left -= n;
        if self.payload_left == 0 {
            self.frame(is_client, at, out);
        }
        &bytes[n..]
    }

    fn kind(&self) -> u8 {
        self.header[3]
    }

    /// A frame is whole.
    fn frame(&mut self, is_client: bool, at: WallTime, out: &mut Vec<Event>) {
        let [a, b, c, kind, flags, s1, s2, s3, s4] = self.header;
        let len = u64::from(a) << 16 | u64::from(b) << 8 | u64::from(c);
        let stream = u32::from_be_bytes([s1, s2, s3, s4]) & 0x7fff_ffff;
        self.have = 0;
        let payload = std::mem::take(&mut self.payload);
        match (kind, self.block) {
            (CONTINUATION, Some((of, ..))) if of == stream => {
                self.block_bytes.extend_from_slice(&payload);
                if self.block_bytes.len() > HEAD_BYTES_MAX {
                    return self.lose(out);
                }
                if flags & END_HEADERS != 0 {
                    self.block_end(is_client, at, out);
                }
            }
            // Between HEADERS and their CONTINUATION nothing else may stand.
            (CONTINUATION, _) | (_, Some(_)) => self.lose(out),
            (HEADERS | PUSH_PROMISE, None) => {
                let promise = kind == PUSH_PROMISE;
                let Some(block) = fragment(&payload, flags, promise) else { return self.lose(out) };
                self.block = Some((stream, flags, self.began, promise));
                self.block_bytes.clear();
                self.block_bytes.extend_from_slice(block);
                if flags & END_HEADERS != 0 {
                    self.block_end(is_client, at, out);
                }
            }
            (DATA, None) => {
                let padding = if flags & PADDED != 0 {
                    1 + u64::from(payload.first().copied().unwrap_or(0))
                } else {
                    0
                };
                if self.bodies.len() < H2_STREAMS_MAX || self.bodies.get(&stream).is_some() {
                    *self.bodies.get_or_insert_with(stream, || 0) += len.saturating_sub(padding);
                }
                if flags & END_STREAM != 0 {
                    self.end(is_client, stream, at, out);
                }
            }
            (RST_STREAM, None) => {
                self.bodies.remove(&stream);
                self.reset = Some(stream);
                out.push(Event::Reset { stream });
            }
            // What the peer allows our table to be; the update within the next block says what it is.
            (SETTINGS, None) | (_, None) => {}
        }
        // The buffer is used again.
        self.payload = payload;
        self.payload.clear();
    }

    fn end(&mut self, is_client: bool, stream: u32, at: WallTime, out: &mut Vec<Event>) {
        let body_len = self.bodies.remove(&stream).unwrap_or(0);
        out.push(if is_client {
            Event::RequestEnd { stream, body_len }
        } else {
            Event::ResponseEnd { stream, body_len, at }
        });
    }

    /// A header block is whole.
    fn block_end(&mut self, is_client: bool, at: WallTime, out: &mut Vec<Event>) {
        let Some((stream, flags, began, promise)) = self.block.take() else { return };
        let mut block = Block::default();
        let bytes = std::mem::take(&mut self.block_bytes);
        if self.decoder.decode_with_cb(&bytes, |name, value| block.take(&name, &value)).is_err() {
            return self.lose(out);
        }
        self.block_bytes = bytes;
        if promise {
            return;
        }
        let too_much = block.bytes > HEAD_BYTES_MAX || block.lines.len() > HEADERS_MAX;
        if is_client {
            // Trailers have no pseudo-headers.
            if !block.method.is_empty() {
                out.push(if too_much { Event::Malformed } else { block.request(stream, began) });
            }
        } else if let Some(status) = block.status.filter(|s| *s >= 200) {
            out.push(Event::Response { stream, status, headers: block.lines });
        }
        if flags & END_STREAM != 0 {
            self.end(is_client, stream, at, out);
        }
    }
}

/// The fragment of a header block without padding, priority and promised stream.
fn fragment(payload: &[u8], flags: u8, promise: bool) -> Option<&[u8]> {
    let (padding, mut rest) = match flags & PADDED {
        0 => (0, payload),
        _ => payload.split_first().map(|(n, rest)| (usize::from(*n), rest))?,
    };
    if promise {
        rest = rest.get(4..)?;
    } else if flags & PRIORITY != 0 {
        rest = rest.get(5..)?;
    }
    rest.get(..rest.len().checked_sub(padding)?)
}

impl Block {
    fn take(&mut self, name: &[u8], value: &[u8]) {
        // A small block may name much: only so much of it is kept.
        self.bytes = self.bytes.saturating_add(name.len() + value.len() + 2);
        if self.bytes > HEAD_BYTES_MAX || self.lines.len() > HEADERS_MAX {
            return;
        }
        match name {
            b":method" => self.method = value.to_vec(),
            b":path" => self.path = value.to_vec(),
            b":authority" => self.authority = value.to_vec(),
            b":scheme" => self.https = value == b"https",
            b":status" => {
                self.status = std::str::from_utf8(value).ok().and_then(|s| s.parse().ok());
            }
            // An extended CONNECT (RFC 8441) is a tunnel; other pseudo-headers there are none.
            [b':', ..] => self.strange = true,
            _ if !name.iter().all(|b| is_token(*b))
                || value.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)) =>
            {
                self.strange = true;
            }
            _ => self.lines.push(HeaderLine { name: name.to_vec(), value: value.to_vec() }),
        }
    }

    fn request(self, stream: u32, at: WallTime) -> Event {
        let clean = |b: &u8| *b > b' ' && *b != 0x7f;
        let method = self.method.len() <= 32 && self.method.iter().all(|b| is_token(*b));
        if self.strange
            || !method
            || self.path.is_empty()
            || !self.path.iter().chain(&self.authority).all(clean)
        {
            return Event::Malformed;
        }
        let host = (!self.authority.is_empty())
            .then(|| HeaderLine { name: b"Host".to_vec(), value: self.authority.clone() });
        let headers = host.into_iter().chain(self.lines).collect();
        let head = RequestHead { method: self.method, target: self.path, version: Version::Http2, headers };
        Event::Request { stream, at, head, https: self.https }
    }
}

#[cfg(test)]
mod tests {
    use loona_hpack::Encoder;
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    fn head(e: &mut Encoder<'_>, lines: &[(&str, &str)]) -> Vec<u8> {
        e.encode(lines.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())))
    }

    /// Two requests on one connection, the second with a body in two frames and padded headers in two parts.
    fn client() -> Vec<u8> {
        let mut e = Encoder::new();
        let get = [
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "shop"),
            (":path", "/a?b"),
            ("accept", "*/*"),
        ];
        let one = head(&mut e, &get);
        let post = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "shop"),
            (":path", "/pkg.Svc/Do"),
            ("te", "trailers"),
        ];
        let two = head(&mut e, &post);
        let (first, second) = two.split_at(two.len() / 2);
        [
            PREFACE.to_vec(),
            frame(SETTINGS, 0, 0, &[]),
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &one),
            frame(HEADERS, PADDED | PRIORITY, 3, &[&[2][..], &[0; 5], first, &[0, 0]].concat()),
            frame(CONTINUATION, END_HEADERS, 3, second),
            frame(DATA, 0, 3, b"hello"),
            frame(DATA, END_STREAM | PADDED, 3, &[3, b'x', b'y', 0, 0, 0]),
        ]
        .concat()
    }

    fn server() -> Vec<u8> {
        let mut e = Encoder::new();
        let promise = head(&mut e, &[(":method", "GET"), (":path", "/pushed")]);
        let early = head(&mut e, &[(":status", "103")]);
        let ok = head(&mut e, &[(":status", "200"), ("content-type", "application/grpc")]);
        let trailers = head(&mut e, &[("grpc-status", "0")]);
        [
            frame(SETTINGS, 0, 0, &[]),
            frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &promise].concat()),
            frame(HEADERS, END_HEADERS, 3, &early),
            frame(HEADERS, END_HEADERS, 3, &ok),
            frame(DATA, 0, 3, &[0; 300]),
            frame(HEADERS, END_HEADERS | END_STREAM, 3, &trailers),
            frame(RST_STREAM, 0, 1, &[0; 4]),
        ]
        .concat()
    }

    fn told(events: &[Event]) -> Vec<String> {
        let one = |e: &Event| match e {
            Event::Request { stream, head, .. } => {
                format!(
                    "{stream} {} {}",
                    String::from_utf8_lossy(&head.method),
                    String::from_utf8_lossy(&head.target)
                )
            }
            Event::RequestEnd { stream, body_len } => format!("{stream} sent {body_len}"),
            Event::Response { stream, status, .. } => format!("{stream} {status}"),
            Event::ResponseEnd { stream, body_len, .. } => format!("{stream} got {body_len}"),
            Event::Reset { stream } => format!("{stream} reset"),
            Event::Malformed => "malformed".to_owned(),
            Event::Lost => "lost".to_owned(),
        };
        events.iter().map(one).collect()
    }

    #[test]
    fn streams_of_both_directions_however_they_are_cut() {
        for step in [1, 2, 7, 9, 30, 10_000] {
            let (mut h2, mut out) = (Http2::new(), Vec::new());
            client().chunks(step).for_each(|b| h2.push(true, WallTime(7), b, &mut out));
            assert_eq!(told(&out), ["1 GET /a?b", "1 sent 0", "3 POST /pkg.Svc/Do", "3 sent 7"], "{step}");
            let Event::Request { head, at, .. } = &out[0] else { panic!("a request") };
            assert_eq!(
                (head.headers[0].value.as_slice(), *at, head.version),
                (&b"shop"[..], WallTime(7), Version::Http2)
            );
            out.clear();
            server().chunks(step).for_each(|b| h2.push(false, WallTime(9), b, &mut out));
            assert_eq!(told(&out), ["3 200", "3 got 300", "1 reset"], "{step}");
        }
    }

    #[test]
    fn after_a_hole_nothing_is_guessed() {
        let (mut h2, mut out) = (Http2::new(), Vec::new());
        h2.push(true, WallTime(1), &client()[..60], &mut out);
        h2.gap(true, &mut out);
        h2.push(true, WallTime(1), &client()[60..], &mut out);
        assert_eq!(told(&out).iter().filter(|t| *t == "lost").count(), 1);
        assert_eq!(told(&out).last().map(String::as_str), Some("lost"));
        let (mut h2, mut out) = (Http2::new(), Vec::new());
        h2.push(true, WallTime(1), b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", &mut out);
        assert_eq!(told(&out), ["lost"], "not the preface");
    }

    #[test]
    fn a_small_block_that_names_much_is_bounded() {
        let mut e = Encoder::new();
        let long = "x".repeat(3_900);
        let mut lines = vec![(":method", "GET"), (":path", "/"), ("a", long.as_str())];
        let first = head(&mut e, &lines);
        lines.truncate(2);
        lines.extend(std::iter::repeat_n(("a", long.as_str()), 2_000));
        let second = head(&mut e, &lines);
        assert!(second.len() < 10_000, "{}", second.len());
        let bytes = [
            PREFACE.to_vec(),
            frame(HEADERS, END_HEADERS, 1, &first),
            frame(HEADERS, END_HEADERS, 3, &second),
        ]
        .concat();
        let (mut h2, mut out) = (Http2::new(), Vec::new());
        h2.push(true, WallTime(1), &bytes, &mut out);
        assert_eq!(told(&out), ["1 GET /", "malformed"]);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0usize..200, flip in any::<u8>()) {
            let (mut h2, mut out) = (Http2::new(), Vec::new());
            h2.push(true, WallTime(1), PREFACE, &mut out);
            h2.push(true, WallTime(1), &bytes, &mut out);
            h2.push(false, WallTime(1), &bytes, &mut out);
            // A real connection with one byte changed.
            let (mut h2, mut out) = (Http2::new(), Vec::new());
            let mut damaged = client();
            if let Some(b) = damaged.get_mut(PREFACE.len() + at) { *b ^= flip; }
            h2.push(true, WallTime(1), &damaged, &mut out);
            prop_assert!(h2.held_bytes() < 64 * 1024);
        }
    }
}
