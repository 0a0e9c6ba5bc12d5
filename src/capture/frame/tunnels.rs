//! Tunnels behind an IP header: over UDP, and GRE. A part of [`super::Peeling`].

use super::{Peeling, Sink, be16, be32, byte, rest};
use crate::trace::Item;

impl Peeling<'_> {
    /// Tunnels over UDP. A port alone proves nothing: the header behind it must be right, too.
    pub(super) fn udp(&mut self, bytes: &[u8], sink: Sink<'_>) -> Result<(), Item> {
        let ports = [be16(bytes, 0)?, be16(bytes, 2)?];
        let inner = rest(bytes, 8)?;
        let is = |port: u16| ports.contains(&port);
        let first = inner.first().copied().unwrap_or(0);
        if (is(4789) || is(4790) || is(8472)) && first & 0xc8 == 0x08 {
            self.scope = self.scope.within(3, u64::from(be32(inner, 4)? >> 8));
            let packet = rest(inner, 8)?;
            // The generic extension names what is inside.
            return match (first & 0x04 != 0, byte(inner, 3)?) {
                (true, 1 | 2) => self.ip(packet, sink),
                _ => self.ethernet(packet, sink),
            };
        }
        if is(4754) {
            return self.gre(inner, sink);
        }
        // AYIYA: lengths of identity and signature, then the next header (draft-massar-v6ops-ayiya).
        if is(5072) && inner.get(3) == Some(&41) {
            let identity = 1usize.checked_shl(u32::from(first >> 4)).unwrap_or(usize::MAX);
            let signature = usize::from(byte(inner, 1)? >> 4) * 4;
            return self.ip(rest(inner, 8usize.saturating_add(identity).saturating_add(signature))?, sink);
        }
        if is(6081) && first >> 6 == 0 {
            self.scope = self.scope.within(4, u64::from(be32(inner, 4)? >> 8));
            let options = usize::from(first & 0x3f) * 4;
            return self.ethertype(be16(inner, 2)?, rest(inner, 8 + options)?, sink);
        }
        if is(2152) && first >> 5 == 1 && inner.get(1) == Some(&0xff) {
            return self.gtp(inner, sink);
        }
        if is(3544) {
            return self.teredo(inner, sink);
        }
        Err(Item::FramesNotTcp)
    }

    /// User data of GTP version 1; tunnel ids differ by direction.
    fn gtp(&mut self, bytes: &[u8], sink: Sink<'_>) -> Result<(), Item> {
        let flags = byte(bytes, 0)?;
        let mut at = if flags & 0x07 == 0 { 8 } else { 12 };
        let mut next = if flags & 0x04 != 0 { byte(bytes, 11)? } else { 0 };
        while next != 0 {
            self.deeper()?;
            let len = usize::from(byte(bytes, at)?) * 4;
            if len == 0 {
                return Err(Item::FramesUnparsed);
            }
            next = byte(bytes, at + len - 1)?;
            at += len;
        }
        self.ip(rest(bytes, at)?, sink)
    }

    /// IPv6 behind the headers for authentication and origin, where they are.
    fn teredo(&mut self, mut bytes: &[u8], sink: Sink<'_>) -> Result<(), Item> {
        if bytes.starts_with(&[0, 1]) {
            let skipped = 4 + usize::from(byte(bytes, 2)?) + usize::from(byte(bytes, 3)?) + 9;
            bytes = rest(bytes, skipped)?;
        }
        if bytes.starts_with(&[0, 0]) {
            bytes = rest(bytes, 8)?;
        }
        if byte(bytes, 0)? >> 4 == 6 { self.ip(bytes, sink) } else { Err(Item::FramesNotTcp) }
    }

    pub(super) fn gre(&mut self, bytes: &[u8], sink: Sink<'_>) -> Result<(), Item> {
        let (flags, protocol) = (be16(bytes, 0)?, be16(bytes, 2)?);
        let (has_sum, has_key, has_seq) = (flags & 0xc000 != 0, flags & 0x2000 != 0, flags & 0x1000 != 0);
        let version = flags & 7;
        if version == 1 {
            // PPTP: a key always, an acknowledgement where bit 7 says so.
            let at = 8 + if has_seq { 4 } else { 0 } + if flags & 0x0080 != 0 { 4 } else { 0 };
            let inner = rest(bytes, at)?;
            return self.ppp(inner.strip_prefix(&[0xff, 0x03]).unwrap_or(inner), sink);
        }
        if version != 0 {
            return Err(Item::Tunnelled);
        }
        let mut at = 4 + if has_sum { 4 } else { 0 };
        let erspan = matches!(protocol, 0x88be | 0x22eb);
        if has_key {
            // The key of a mirror is that of the mirror, not of a network.
            if !erspan {
                self.scope = self.scope.within(5, u64::from(be32(bytes, at)?));
            }
            at += 4;
        }
        at += if has_seq { 4 } else { 0 };
        let inner = rest(bytes, at)?;
        match protocol {
            // Type I has no header of its own, and no sequence number to tell it by.
            0x88be if !has_seq => self.ethernet(inner, sink),
            0x88be => self.ethernet(rest(inner, 8)?, sink),
            0x22eb => {
                let options = if byte(inner, 11)? & 1 != 0 { 8 } else { 0 };
                self.ethernet(rest(inner, 12 + options)?, sink)
            }
            _ => self.ethertype(protocol, inner, sink),
        }
    }
}
