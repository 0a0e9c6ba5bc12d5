//! A captured frame to a TCP segment, through etherparse.
//!
//! Ethernet with VLAN tags, Linux cooked, raw IP and BSD loopback. Checksums are not looked at: offload
//! makes them wrong in captures of the sender's own host. The payload's length comes from the IP header,
//! because Ethernet pads short frames; a length of zero (offloaded segments above 64 KiB) means "as much
//! as there is". Fragments and tunnels are counted, not opened, by this version.

use etherparse::{LaxPacketHeaders, LinkExtHeader, NetHeaders, TransportHeader};

use crate::trace::Item;
use crate::units::WallTime;

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
            12 | 14 | 101 | 228 | 229 => Ok(Self::RawIp),
            0 | 108 => Ok(Self::Loopback),
            113 => Ok(Self::LinuxSll),
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

/// A TCP segment.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// When it was captured.
    pub at: WallTime,
    /// VLAN tags, outer first, zero where none.
    pub vlans: [u16; 2],
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

fn mapped(v4: [u8; 4]) -> [u8; 16] {
    let mut addr = [0; 16];
    addr[10..12].copy_from_slice(&[0xff, 0xff]);
    addr[12..].copy_from_slice(&v4);
    addr
}

/// Reads one frame.
///
/// # Errors
/// The ledger item under which the frame is to be counted.
pub fn parse(link: LinkType, at: WallTime, frame: &[u8]) -> Result<Segment<'_>, Item> {
    let headers = match link {
        LinkType::Ethernet => LaxPacketHeaders::from_ethernet(frame).map_err(|_| Item::FramesUnparsed)?,
        LinkType::LinuxSll => LaxPacketHeaders::from_linux_sll(frame).map_err(|_| Item::FramesUnparsed)?,
        LinkType::RawIp => LaxPacketHeaders::from_ip(frame).map_err(|_| Item::FramesUnparsed)?,
        LinkType::Loopback => {
            let ip = frame.get(4..).ok_or(Item::FramesUnparsed)?;
            LaxPacketHeaders::from_ip(ip).map_err(|_| Item::FramesUnparsed)?
        }
    };
    let mut vlans = [0; 2];
    let tags = headers.link_exts.iter().filter_map(|e| match e {
        LinkExtHeader::Vlan(v) => Some(v.vlan_id.value()),
        LinkExtHeader::Macsec(_) => None,
    });
    vlans.iter_mut().zip(tags).for_each(|(place, id)| *place = id);
    // Bytes behind the IP headers, by the IP length; none where the length says nothing.
    let (from, to, fragment, ip_payload) = match &headers.net {
        Some(NetHeaders::Ipv4(ip, exts)) => {
            let behind = usize::from(ip.total_len).checked_sub(ip.header_len() + exts.header_len());
            let len = if ip.total_len == 0 { None } else { behind };
            (mapped(ip.source), mapped(ip.destination), ip.is_fragmenting_payload(), len)
        }
        Some(NetHeaders::Ipv6(ip, exts)) => {
            let behind = usize::from(ip.payload_length).checked_sub(exts.header_len());
            let len = if ip.payload_length == 0 { None } else { behind };
            (ip.source, ip.destination, exts.is_fragmenting_payload(), len)
        }
        Some(NetHeaders::Arp(_)) | None => return Err(Item::FramesNotTcp),
    };
    if fragment {
        return Err(Item::Fragments);
    }
    let tcp = match &headers.transport {
        Some(TransportHeader::Tcp(tcp)) => tcp,
        Some(TransportHeader::Udp(udp)) if matches!(udp.destination_port, 4789 | 6081 | 2152) => {
            return Err(Item::Tunnelled);
        }
        Some(_) => return Err(Item::FramesNotTcp),
        None => return Err(not_tcp(&headers)),
    };
    let captured = headers.payload.slice();
    let expected = ip_payload.map_or(captured.len(), |len| len.saturating_sub(tcp.header_len()));
    let payload = &captured[..captured.len().min(expected)];
    Ok(Segment {
        at,
        vlans,
        from: Endpoint { addr: from, port: tcp.source_port },
        to: Endpoint { addr: to, port: tcp.destination_port },
        seq: tcp.sequence_number,
        ack: tcp.ack.then_some(tcp.acknowledgment_number),
        syn: tcp.syn,
        fin: tcp.fin,
        rst: tcp.rst,
        payload,
        missing: (expected - payload.len()) as u32,
    })
}

/// IP without a transport header that etherparse knows: a tunnel, cut off, or another protocol.
fn not_tcp(headers: &LaxPacketHeaders<'_>) -> Item {
    const TUNNELS: [u8; 4] = [4, 41, 47, 137]; // IP in IP, IPv6 in IP, GRE, MPLS in IP
    let protocol = match &headers.net {
        Some(NetHeaders::Ipv4(ip, _)) => ip.protocol.0,
        Some(NetHeaders::Ipv6(ip, _)) => ip.next_header.0,
        Some(NetHeaders::Arp(_)) | None => return Item::FramesNotTcp,
    };
    match protocol {
        6 => Item::FramesUnparsed,
        p if TUNNELS.contains(&p) => Item::Tunnelled,
        _ => Item::FramesNotTcp,
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    fn build(payload: &[u8], vlan: bool) -> Vec<u8> {
        let eth = PacketBuilder::ethernet2([1; 6], [2; 6]);
        let ip = if vlan {
            eth.single_vlan(7u16.try_into().unwrap()).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        } else {
            eth.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        };
        let mut out = Vec::new();
        ip.tcp(4000, 80, 1_000, 500).ack(1).write(&mut out, payload).unwrap();
        out
    }

    #[test]
    fn padding_is_not_payload_and_cut_bytes_are_missing() {
        let mut frame = build(b"hi", false);
        frame.extend([0; 20]);
        let s = parse(LinkType::Ethernet, WallTime(1), &frame).unwrap();
        assert_eq!((s.payload, s.missing, s.seq, s.ack, s.to.port), (&b"hi"[..], 0, 1_000, Some(1), 80));
        let whole = build(&[b'x'; 100], true);
        let s = parse(LinkType::Ethernet, WallTime(1), &whole[..whole.len() - 30]).unwrap();
        assert_eq!((s.payload.len(), s.missing, s.vlans), (70, 30, [7, 0]));
    }

    #[test]
    fn what_is_not_tcp_is_named() {
        let mut udp = Vec::new();
        let b = PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4([1, 1, 1, 1], [2, 2, 2, 2], 9);
        b.udp(1, 53).write(&mut udp, b"x").unwrap();
        assert_eq!(parse(LinkType::Ethernet, WallTime(1), &udp).unwrap_err(), Item::FramesNotTcp);
        assert_eq!(parse(LinkType::Ethernet, WallTime(1), &[0; 5]).unwrap_err(), Item::FramesUnparsed);
        assert_eq!(LinkType::from_number(147), Err(147));
    }
}
