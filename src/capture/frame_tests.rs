//! Frames built layer by layer, and plain ones against etherparse.

use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::*;

/// Scope, port, payload and missing bytes of a segment.
type Seen = (Scope, u16, Vec<u8>, u32);

/// What came out of a frame.
fn read(link: LinkType, frame: &[u8]) -> Result<Vec<Seen>, Item> {
    let (mut fragments, mut out) = (Fragments::default(), Vec::new());
    parse(link, WallTime(1), frame, &mut fragments, &mut |s| {
        out.push((s.scope, s.to.port, s.payload.to_vec(), s.missing));
    })?;
    Ok(out)
}

/// An IPv4 packet with a TCP segment.
fn tcp(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let b = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
    b.tcp(4000, 80, 1_000, 500).ack(1).write(&mut out, payload).unwrap();
    out
}

fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    PacketBuilder::ipv4([1, 1, 1, 1], [2, 2, 2, 2], 9).udp(9, port).write(&mut out, payload).unwrap();
    out
}

/// IPv4 around another protocol.
fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let total = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let head = [&[0x45, 0][..], &total, &[0, 7, 0, 0, 64, protocol, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]].concat();
    [&head, payload].concat()
}

fn ether(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&[1u8; 12][..], &ethertype.to_be_bytes(), payload].concat()
}

#[test]
fn padding_is_not_payload_and_cut_bytes_are_missing() {
    let mut frame = ether(0x0800, &tcp(b"hi"));
    frame.extend([0; 20]);
    assert_eq!(read(LinkType::Ethernet, &frame), Ok(vec![(Scope(0), 80, b"hi".to_vec(), 0)]));
    let whole = ether(0x0800, &tcp(&[b'x'; 100]));
    let got = read(LinkType::Ethernet, &whole[..whole.len() - 30]).unwrap();
    assert_eq!((got[0].2.len(), got[0].3), (70, 30));
    // A length of zero: offload of more than 64 KiB.
    let mut large = tcp(&[b'x'; 100]);
    large[2..4].fill(0);
    assert_eq!(read(LinkType::RawIp, &large).unwrap()[0].2.len(), 100);
}

#[test]
fn every_layer_comes_off() {
    let inner = tcp(b"GET /");
    let frame = ether(0x0800, &inner);
    let vxlan = |vni: u8| udp(4789, &[&[8, 0, 0, 0, 0, 0, vni, 0][..], &frame].concat());
    let geneve = [&[1, 0, 0x65, 0x58, 0, 0, 9, 0, 1, 2, 3, 4][..], &frame].concat();
    let erspan2 =
        ipv4(47, &[&[0x10, 0, 0x88, 0xbe, 0, 0, 0, 1, 0x10, 0, 0, 1, 0, 0, 0, 0][..], &frame].concat());
    let erspan3 = ipv4(
        47,
        &[&[0x10, 0, 0x22, 0xeb, 0, 0, 0, 1][..], &[0x20, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1], &[0; 8], &frame]
            .concat(),
    );
    let gtp = udp(2152, &[&[0x34, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0x85, 1, 0, 0, 0][..], &inner].concat());
    let mut v6 = Vec::new();
    PacketBuilder::ipv6([1; 16], [2; 16], 9).tcp(4000, 80, 1, 5).write(&mut v6, b"GET /").unwrap();
    let teredo = udp(3544, &[&[0, 1, 0, 0][..], &[0; 9], &[0, 0, 1, 2, 3, 4, 5, 6], &v6].concat());
    #[rustfmt::skip]
    let table: [(&str, LinkType, Vec<u8>, bool); 21] = [
        ("ethernet", LinkType::Ethernet, frame.clone(), false),
        ("priority tag", LinkType::Ethernet, ether(0x8100, &[&[0xe0, 0, 8, 0][..], &inner].concat()), false),
        ("vlan", LinkType::Ethernet, ether(0x8100, &[&[0, 7, 8, 0][..], &inner].concat()), true),
        ("q in q", LinkType::Ethernet, ether(0x88a8, &[&[0, 7, 0x81, 0, 0, 8, 8, 0][..], &inner].concat()), true),
        ("snap", LinkType::Ethernet, ether(60, &[&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0][..], &inner].concat()), false),
        ("mpls", LinkType::Ethernet, ether(0x8847, &[&[0, 1, 0, 9, 0, 2, 0x01, 9][..], &inner].concat()), false),
        ("mpls with ethernet", LinkType::Ethernet, ether(0x8847, &[&[0, 2, 0x01, 9, 0, 0, 0, 0][..], &frame].concat()), false),
        ("pppoe", LinkType::Ethernet, ether(0x8864, &[&[0x11, 0, 0, 5, 0, 99, 0, 0x21][..], &inner].concat()), true),
        ("ppp", LinkType::Ppp, [&[0xff, 3, 0, 0x21][..], &inner].concat(), false),
        ("sll", LinkType::LinuxSll, [&[0u8; 14][..], &[8, 0], &inner].concat(), false),
        ("sll2", LinkType::LinuxSll2, [&[8, 0][..], &[0; 18], &inner].concat(), false),
        ("null", LinkType::Loopback, [&[2, 0, 0, 0][..], &inner].concat(), false),
        ("ip in ip", LinkType::RawIp, ipv4(4, &inner), false),
        ("6in4", LinkType::RawIp, ipv4(41, &v6), false),
        ("gre", LinkType::RawIp, ipv4(47, &[&[0, 0, 8, 0][..], &inner].concat()), false),
        ("gre with key and sum", LinkType::RawIp, ipv4(47, &[&[0xa0, 0, 0x65, 0x58, 0, 0, 0, 0, 0, 0, 0, 7][..], &frame].concat()), true),
        ("erspan II", LinkType::RawIp, erspan2, false),
        ("erspan III", LinkType::RawIp, erspan3, false),
        ("vxlan", LinkType::RawIp, vxlan(7), true),
        ("geneve", LinkType::RawIp, udp(6081, &geneve), true),
        ("gtp", LinkType::RawIp, gtp, false),
    ];
    for (name, link, bytes, scoped) in table {
        let got = read(link, &bytes).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        assert_eq!((got.len(), got[0].1, got[0].2.as_slice()), (1, 80, &b"GET /"[..]), "{name}");
        assert_eq!(got[0].0 != Scope::default(), scoped, "{name}");
    }
    assert_eq!(read(LinkType::RawIp, &teredo).unwrap()[0].1, 80);
    assert_ne!(
        read(LinkType::RawIp, &vxlan(1)).unwrap()[0].0,
        read(LinkType::RawIp, &vxlan(2)).unwrap()[0].0
    );
    let deep = (0..20).fold(inner.clone(), |p, _| ipv4(4, &p));
    assert_eq!(read(LinkType::RawIp, &deep), Err(Item::Tunnelled));
}

#[test]
fn fragments_of_both_versions_become_whole() {
    let whole = tcp(&[b'x'; 100]);
    let part = |from: usize, to: usize, more: bool| {
        let mut p = ipv4(6, &whole[20 + from..20 + to]);
        let field = u16::try_from(from / 8).unwrap() | if more { 0x2000 } else { 0 };
        p[6..8].copy_from_slice(&field.to_be_bytes());
        p
    };
    let (mut fragments, mut out) = (Fragments::default(), Vec::new());
    for frame in [part(64, 120, false), part(0, 64, true)] {
        parse(LinkType::RawIp, WallTime(1), &frame, &mut fragments, &mut |s| out.push(s.payload.len()))
            .unwrap();
    }
    assert_eq!(out, [100]);
    let part6 = |from: usize, to: usize, more: bool| {
        let field = u16::try_from(from).unwrap() | u16::from(more);
        let body = [&[6, 0][..], &field.to_be_bytes(), &[0, 0, 0, 9], &whole[20 + from..20 + to]].concat();
        let len = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&[0x60, 0, 0, 0][..], &len, &[44, 64], &[1; 16], &[2; 16], &body].concat()
    };
    for frame in [part6(0, 64, true), part6(64, 120, false)] {
        parse(LinkType::RawIp, WallTime(1), &frame, &mut fragments, &mut |s| out.push(s.payload.len()))
            .unwrap();
    }
    assert_eq!(out, [100, 100]);
}

#[test]
fn what_is_not_tcp_is_named() {
    assert_eq!(read(LinkType::RawIp, &udp(53, b"x")), Err(Item::FramesNotTcp));
    assert_eq!(read(LinkType::Ethernet, &[0; 5]), Err(Item::FramesUnparsed));
    assert_eq!(read(LinkType::Ethernet, &ether(0x0806, &[0; 28])), Err(Item::FramesNotTcp));
    // A port of a tunnel with something else behind it.
    assert_eq!(read(LinkType::RawIp, &udp(4789, b"not a tunnel")), Err(Item::FramesNotTcp));
    assert_eq!(LinkType::from_number(147), Err(147));
}

proptest! {
    /// On plain frames ours is what etherparse reads.
    #[test]
    fn plain_frames_are_those_of_etherparse(payload in prop::collection::vec(any::<u8>(), 0..60), vlan in 0u16..4096, v6 in any::<bool>(),
                                            seq in any::<u32>(), cut in 0usize..40, flags in 0u8..8) {
        let eth = PacketBuilder::ethernet2([1; 6], [2; 6]).single_vlan(vlan.try_into().unwrap());
        let ip = if v6 { eth.ipv6([3; 16], [4; 16], 9) } else { eth.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64) };
        let mut tcp = ip.tcp(4000, 80, seq, 500);
        if flags & 1 != 0 { tcp = tcp.syn(); }
        if flags & 2 != 0 { tcp = tcp.fin(); }
        if flags & 4 != 0 { tcp = tcp.ack(77); }
        let mut frame = Vec::new();
        tcp.write(&mut frame, &payload).unwrap();
        frame.truncate(frame.len() - cut.min(payload.len()));
        let want = etherparse::LaxPacketHeaders::from_ethernet(&frame).unwrap();
        let Some(etherparse::TransportHeader::Tcp(head)) = want.transport else { panic!("no TCP") };
        let mut seen = 0;
        parse(LinkType::Ethernet, WallTime(1), &frame, &mut Fragments::default(), &mut |s| {
            seen += 1;
            assert_eq!((s.seq, s.syn, s.fin, s.rst), (head.sequence_number, head.syn, head.fin, head.rst));
            assert_eq!((s.ack, s.from.port, s.to.port), (head.ack.then_some(head.acknowledgment_number), 4000, 80));
            assert_eq!((s.payload, s.missing as usize), (want.payload.slice(), cut.min(payload.len())));
        }).unwrap();
        prop_assert_eq!(seen, 1);
    }

    /// No bytes panic, whatever the link.
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0usize..6, start in 0usize..4) {
        let links = [LinkType::Ethernet, LinkType::RawIp, LinkType::Loopback, LinkType::LinuxSll, LinkType::LinuxSll2, LinkType::Ppp];
        // Beginnings that lead somewhere.
        let starts: [&[u8]; 4] = [&[], &[0x45, 0, 0, 60, 0, 0, 0, 0, 64, 47], &[0x60, 0, 0, 0, 0, 99, 44], &[0x45, 0, 0, 60, 0, 0, 0, 0, 64, 17]];
        let frame = [starts[start], &bytes].concat();
        drop(read(links[kind], &frame));
    }
}
