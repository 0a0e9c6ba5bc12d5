//! A captured frame to the TCP segment in it, whatever lies around it.
//!
//! Read by hand from the wire formats, because the layers that mirror ports and clouds put around packets (MPLS, PPPoE,
//! GRE, ERSPAN, VXLAN, GENEVE, GTP, Teredo) are not read by one well-kept library; on plain frames it is held against
//! etherparse in tests. Checksums are not looked at: offload makes them wrong in captures of the sender's own host. The
//! payload's length comes from the IP header, because Ethernet pads short frames; a length of zero (offloaded segments
//! above 64 KiB) means "as much as there is". It refuses to look deeper than a dozen layers and never guesses: what is not
//! TCP is counted by what it is.
//!
//! Sources: IEEE 802.1Q; tcpdump.org/linktypes.html; RFC 791, 8200 (IP), 2784 and 2890 (GRE), 7348 (VXLAN), 8926 (GENEVE),
//! 3032 (MPLS), 2516 (PPPoE), 4380 (Teredo), draft-foschiano-erspan; 3GPP TS 29.281 (GTP-U).

use super::fragments::{Fragment, Fragments};
use super::mix64;
use crate::trace::Item;
use crate::units::WallTime;

mod tunnels;

/// Layers peeled off at most: real captures have five at most.
const LAYERS_MAX: usize = 12;

/// How a capture wraps its packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkType {
    /// Ethernet II.
    Ethernet,
    /// IP without a link header.
    RawIp,
    /// BSD loopback: four bytes of address family.
    Loopback,
    /// Linux cooked capture, version 1.
    LinuxSll,
    /// Linux cooked capture, version 2.
    LinuxSll2,
    /// PPP, with or without its address and control bytes.
    Ppp,
    /// Netfilter's log: values with types and lengths, one of which is the packet.
    Nflog,
}

impl LinkType {
    /// From the number in a capture file (tcpdump.org/linktypes.html); the number comes back when it is
    /// not supported.
    ///
    /// # Errors
    /// The number itself.
    pub fn from_number(n: i32) -> Result<Self, i32> {
        match n {
            1 => Ok(Self::Ethernet),
            9 | 50 => Ok(Self::Ppp),
            12 | 14 | 101 | 228 | 229 => Ok(Self::RawIp),
            0 | 108 => Ok(Self::Loopback),
            113 => Ok(Self::LinuxSll),
            239 => Ok(Self::Nflog),
            276 => Ok(Self::LinuxSll2),
            other => Err(other),
        }
    }
}

/// One side of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// IPv6 address, or IPv4 mapped into it.
    pub addr: [u8; 16],
    /// Port.
    pub port: u16,
}

/// In which network an address is meant: the VLANs and tunnels around a packet, mixed into a number. Zero is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Scope(pub u64);

impl Scope {
    fn within(self, kind: u64, id: u64) -> Self {
        Self(mix64(self.0 ^ mix64(kind << 32 | id)))
    }
}

/// A TCP segment.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// When it was captured.
    pub at: WallTime,
    /// VLANs and tunnels it came through.
    pub scope: Scope,
    /// Sender.
    pub from: Endpoint,
    /// Receiver.
    pub to: Endpoint,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number, when the flag is set.
    pub ack: Option<u32>,
    /// SYN.
    pub syn: bool,
    /// FIN.
    pub fin: bool,
    /// RST.
    pub rst: bool,
    /// Payload as captured.
    pub payload: &'a [u8],
    /// Payload bytes that were sent but not captured (snapshot length), behind `payload`.
    pub missing: u32,
}

/// Where a packet is while its layers are peeled off.
struct Peeling<'f> {
    at: WallTime,
    scope: Scope,
    layers: usize,
    fragments: &'f mut Fragments,
}

/// Addresses of the innermost IP header, and how many bytes it says stand behind it.
struct Ip<'a> {
    from: [u8; 16],
    to: [u8; 16],
    protocol: u8,
    payload: &'a [u8],
    /// Bytes behind the header, by the header; more than `payload` where the frame was cut.
    len: usize,
}

/// Reads one frame and gives its segment to `sink`.
///
/// # Errors
/// The ledger item under which the frame is to be counted.
pub fn parse(
    link: LinkType,
    at: WallTime,
    frame: &[u8],
    fragments: &mut Fragments,
    sink: &mut dyn FnMut(&Segment<'_>),
) -> Result<(), Item> {
    let mut p = Peeling { at, scope: Scope::default(), layers: 0, fragments };
    match link {
        LinkType::Ethernet => p.ethernet(frame, sink),
        LinkType::LinuxSll => p.ethertype(be16(frame, 14)?, rest(frame, 16)?, sink),
        LinkType::LinuxSll2 => p.ethertype(be16(frame, 0)?, rest(frame, 20)?, sink),
        LinkType::RawIp => p.ip(frame, sink),
        LinkType::Loopback => p.ip(rest(frame, 4)?, sink),
        LinkType::Nflog => p.nflog(frame, sink),
        LinkType::Ppp => {
            let frame = frame.strip_prefix(&[0xff, 0x03]).unwrap_or(frame);
            p.ppp(frame, sink)
        }
    }
}

fn rest(bytes: &[u8], from: usize) -> Result<&[u8], Item> {
    bytes.get(from..).ok_or(Item::FramesUnparsed)
}

fn byte(bytes: &[u8], at: usize) -> Result<u8, Item> {
    bytes.get(at).copied().ok_or(Item::FramesUnparsed)
}

fn be16(bytes: &[u8], at: usize) -> Result<u16, Item> {
    let pair = bytes.get(at..at + 2).and_then(|b| <[u8; 2]>::try_from(b).ok());
    pair.map(u16::from_be_bytes).ok_or(Item::FramesUnparsed)
}

fn be32(bytes: &[u8], at: usize) -> Result<u32, Item> {
    let four = bytes.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok());
    four.map(u32::from_be_bytes).ok_or(Item::FramesUnparsed)
}

fn mapped(v4: [u8; 4]) -> [u8; 16] {
    let mut addr = [0; 16];
    addr[10..12].copy_from_slice(&[0xff, 0xff]);
    addr[12..].copy_from_slice(&v4);
    addr
}

type Sink<'s> = &'s mut dyn FnMut(&Segment<'_>);

impl Peeling<'_> {
    /// One layer more.
    fn deeper(&mut self) -> Result<(), Item> {
        self.layers += 1;
        if self.layers > LAYERS_MAX { Err(Item::Tunnelled) } else { Ok(()) }
    }

    /// Lengths and types are in the byte order of the machine that captured: the length that fits tells which.
    fn nflog(&mut self, frame: &[u8], sink: Sink<'_>) -> Result<(), Item> {
        const PAYLOAD: u16 = 9;
        let mut at = 4;
        loop {
            let (len, kind) = (be16(frame, at)?, be16(frame, at + 2)?);
            // Types are small numbers: a large one is read in the wrong order.
            let little = kind > 0xff;
            let (len, kind) = if little { (len.swap_bytes(), kind.swap_bytes()) } else { (len, kind) };
            if len < 4 {
                return Err(Item::FramesUnparsed);
            }
            if kind == PAYLOAD {
                return self.ip(rest(frame, at + 4)?, sink);
            }
            at += usize::from(len).next_multiple_of(4);
        }
    }

    fn ethernet(&mut self, frame: &[u8], sink: Sink<'_>) -> Result<(), Item> {
        self.deeper()?;
        self.ethertype(be16(frame, 12)?, rest(frame, 14)?, sink)
    }

    fn ethertype(&mut self, ethertype: u16, bytes: &[u8], sink: Sink<'_>) -> Result<(), Item> {
        self.deeper()?;
        match ethertype {
            0x0800 | 0x86dd => self.ip(bytes, sink),
            // VLAN tags: customer, service, and what came before the standard.
            0x8100 | 0x88a8 | 0x9100 | 0x9200 => {
                let id = be16(bytes, 0)? & 0x0fff;
                // A priority tag (VLAN 0) names no network.
                if id != 0 {
                    self.scope = self.scope.within(1, u64::from(id));
                }
                self.ethertype(be16(bytes, 2)?, rest(bytes, 4)?, sink)
            }
            0x8847 | 0x8848 => self.mpls(bytes, sink),
            0x8864 => {
                // Version and type, code 0 for a session, its id, a length.
                if bytes.first() != Some(&0x11) || byte(bytes, 1)? != 0 {
                    return Err(Item::FramesNotTcp);
                }
                self.scope = self.scope.within(2, u64::from(be16(bytes, 2)?));
                self.ppp(rest(bytes, 6)?, sink)
            }
            0x6558 => self.ethernet(bytes, sink),
            // A length instead: 802.3 with SNAP (AA AA 03, an organisation, a type).
            0..=1500 if bytes.starts_with(&[0xaa, 0xaa, 0x03]) => {
                let (inner, bytes) = (be16(bytes, 6)?, rest(bytes, 8)?);
                self.ethertype(inner, bytes, sink)
            }
            _ => Err(Item::FramesNotTcp),
        }
    }

    fn ppp(&mut self, bytes: &[u8], sink: Sink<'_>) -> Result<(), Item> {
        match be16(bytes, 0)? {
            0x0021 | 0x0057 => self.ip(rest(bytes, 2)?, sink),
            // A compressed protocol field has one byte.
            p if p >> 8 == 0x21 || p >> 8 == 0x57 => self.ip(rest(bytes, 1)?, sink),
            0x0281 => self.mpls(rest(bytes, 2)?, sink),
            _ => Err(Item::FramesNotTcp),
        }
    }

    /// Labels down to the last, then IP, or Ethernet behind a control word. Labels differ by direction, so they are no
    /// part of the scope.
    fn mpls(&mut self, mut bytes: &[u8], sink: Sink<'_>) -> Result<(), Item> {
        loop {
            self.deeper()?;
            let label = be32(bytes, 0)?;
            bytes = rest(bytes, 4)?;
            if label & 0x100 != 0 {
                break;
            }
        }
        match byte(bytes, 0)? >> 4 {
            4 | 6 => self.ip(bytes, sink),
            0 => self.ethernet(rest(bytes, 4)?, sink),
            _ => self.ethernet(bytes, sink),
        }
    }

    fn ip(&mut self, bytes: &[u8], sink: Sink<'_>) -> Result<(), Item> {
        self.deeper()?;
        match byte(bytes, 0)? >> 4 {
            4 => self.ipv4(bytes, sink),
            6 => self.ipv6(bytes, sink),
            _ => Err(Item::FramesNotTcp),
        }
    }

    fn ipv4(&mut self, bytes: &[u8], sink: Sink<'_>) -> Result<(), Item> {
        let header = usize::from(byte(bytes, 0)? & 0x0f) * 4;
        let total = usize::from(be16(bytes, 2)?);
        let (id, flags) = (be16(bytes, 4)?, be16(bytes, 6)?);
        if header < 20 || (total != 0 && total < header) {
            return Err(Item::FramesUnparsed);
        }
        let address = |at: usize| -> Result<[u8; 16], Item> { Ok(mapped(be32(bytes, at)?.to_be_bytes())) };
        let behind = rest(bytes, header)?;
        let len = if total == 0 { behind.len() } else { total - header };
        let payload = &behind[..behind.len().min(len)];
        let ip = Ip { from: address(12)?, to: address(16)?, protocol: byte(bytes, 9)?, payload, len };
        let (offset, more) = (usize::from(flags & 0x1fff) * 8, flags & 0x2000 != 0);
        if offset > 0 || more {
            return self.fragment(&ip, u32::from(id), offset, more, sink);
        }
        self.transport(&ip, sink)
    }

    fn ipv6(&mut self, bytes: &[u8], sink: Sink<'_>) -> Result<(), Item> {
        let address = |at: usize| -> Result<[u8; 16], Item> {
            bytes.get(at..at + 16).and_then(|a| a.try_into().ok()).ok_or(Item::FramesUnparsed)
        };
        let (from, to) = (address(8)?, address(24)?);
        let said = usize::from(be16(bytes, 4)?);
        let behind = rest(bytes, 40)?;
        let mut len = if said == 0 { behind.len() } else { said };
        let mut payload = &behind[..behind.len().min(len)];
        let mut protocol = byte(bytes, 6)?;
        // Extension headers (RFC 8200, section 4).
        loop {
            let header = match protocol {
                0 | 43 | 60 | 135 => (usize::from(byte(payload, 1)?) + 1) * 8,
                51 => (usize::from(byte(payload, 1)?) + 2) * 4,
                44 => {
                    let (next, field, id) = (byte(payload, 0)?, be16(payload, 2)?, be32(payload, 4)?);
                    let ip = Ip {
                        from,
                        to,
                        protocol: next,
                        payload: rest(payload, 8)?,
                        len: len.saturating_sub(8),
                    };
                    let (offset, more) = (usize::from(field & !7), field & 1 != 0);
                    if offset == 0 && !more {
                        return self.transport(&ip, sink);
                    }
                    return self.fragment(&ip, id, offset, more, sink);
                }
                _ => break,
            };
            self.deeper()?;
            protocol = byte(payload, 0)?;
            payload = rest(payload, header)?;
            len = len.saturating_sub(header);
        }
        self.transport(&Ip { from, to, protocol, payload, len }, sink)
    }

    /// A part of a datagram: the whole one goes on when its last part has come.
    fn fragment(
        &mut self,
        ip: &Ip<'_>,
        id: u32,
        offset: usize,
        more: bool,
        sink: Sink<'_>,
    ) -> Result<(), Item> {
        if ip.payload.len() < ip.len {
            // Cut by the snapshot length: nobody knows what stood there.
            return Err(Item::FragmentsLost);
        }
        let part = Fragment {
            scope: self.scope,
            from: ip.from,
            to: ip.to,
            id,
            protocol: ip.protocol,
            offset,
            more,
            bytes: ip.payload,
        };
        let Some(whole) = self.fragments.push(self.at, &part) else { return Ok(()) };
        let len = whole.len();
        self.transport(&Ip { payload: &whole, len, ..*ip }, sink)
    }

    fn transport(&mut self, ip: &Ip<'_>, sink: Sink<'_>) -> Result<(), Item> {
        match ip.protocol {
            6 => self.tcp(ip, sink),
            17 => self.udp(ip.payload, sink),
            4 | 41 => self.ip(ip.payload, sink),
            47 => self.gre(ip.payload, sink),
            137 => self.mpls(ip.payload, sink),
            _ => Err(Item::FramesNotTcp),
        }
    }

    fn tcp(&mut self, ip: &Ip<'_>, sink: Sink<'_>) -> Result<(), Item> {
        let bytes = ip.payload;
        let header = usize::from(byte(bytes, 12)? >> 4) * 4;
        if header < 20 || ip.len < header {
            return Err(Item::FramesUnparsed);
        }
        let flags = byte(bytes, 13)?;
        let (seq, ack) = (be32(bytes, 4)?, be32(bytes, 8)?);
        let payload = bytes.get(header..).unwrap_or_default();
        sink(&Segment {
            at: self.at,
            scope: self.scope,
            from: Endpoint { addr: ip.from, port: be16(bytes, 0)? },
            to: Endpoint { addr: ip.to, port: be16(bytes, 2)? },
            seq,
            ack: (flags & 0x10 != 0).then_some(ack),
            syn: flags & 0x02 != 0,
            fin: flags & 0x01 != 0,
            rst: flags & 0x04 != 0,
            payload,
            missing: u32::try_from(ip.len - header - payload.len()).unwrap_or(u32::MAX),
        });
        Ok(())
    }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
