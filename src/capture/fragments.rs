//! Fragments of IP datagrams, put together within named bounds.
//!
//! The first copy of a byte wins, as it does for TCP. A datagram that stays incomplete for 30 seconds of the capture, or
//! has to make room, is given up and its parts are counted: what was in it is not known, and the hole shows in its
//! connection. Sources: RFC 791 section 3.2, RFC 8200 section 4.5, RFC 5722 (overlaps).

use std::collections::VecDeque;

use super::frame::Scope;
use crate::limits::{DATAGRAM_BYTES_MAX, FRAGMENT_AGE_MAX, FRAGMENTED_MAX};
use crate::lookup::Lookup;
use crate::units::WallTime;

/// One part of a datagram.
#[derive(Debug, Clone, Copy)]
pub struct Fragment<'a> {
    /// Network.
    pub scope: Scope,
    /// Sender.
    pub from: [u8; 16],
    /// Receiver.
    pub to: [u8; 16],
    /// Identification.
    pub id: u32,
    /// Protocol behind the header.
    pub protocol: u8,
    /// Where in the datagram its bytes belong.
    pub offset: usize,
    /// It is not the last.
    pub more: bool,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// Parts of one datagram, copies among them.
const PARTS_MAX: u64 = 512;

type Key = (Scope, [u8; 16], [u8; 16], u32, u8);

#[derive(Debug, Default)]
struct Datagram {
    began: WallTime,
    /// Bytes so far, with holes.
    bytes: Vec<u8>,
    /// Which parts are there: start and end, in order, without overlaps.
    there: Vec<(usize, usize)>,
    /// Length, once the last part has come.
    len: Option<usize>,
    parts: u64,
}

impl Datagram {
    /// Puts in what is not there yet.
    fn put(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        self.bytes.resize(self.bytes.len().max(end), 0);
        let mut at = offset;
        let mut holes = Vec::new();
        for (from, to) in &self.there {
            if *from > at {
                holes.push((at, (*from).min(end)));
            }
            at = at.max(*to);
        }
        holes.push((at, end));
        for (from, to) in holes.into_iter().filter(|(from, to)| from < to) {
            if let (Some(place), Some(new)) =
                (self.bytes.get_mut(from..to), bytes.get(from - offset..to - offset))
            {
                place.copy_from_slice(new);
                self.there.push((from, to));
            }
        }
        self.there.sort_unstable();
        let mut joined: Vec<(usize, usize)> = Vec::with_capacity(self.there.len());
        for (from, to) in self.there.drain(..) {
            match joined.last_mut() {
                Some(last) if last.1 >= from => last.1 = last.1.max(to),
                _ => joined.push((from, to)),
            }
        }
        self.there = joined;
    }

    fn is_whole(&self) -> bool {
        self.len.is_some_and(|len| self.there.first().is_some_and(|(from, to)| *from == 0 && *to >= len))
    }
}

/// Datagrams under way.
#[derive(Debug, Default)]
pub struct Fragments {
    open: Lookup<Key, Datagram>,
    /// Keys in the order in which they began.
    order: VecDeque<(WallTime, Key)>,
    lost: u64,
}

impl Fragments {
    /// Takes a part; gives the datagram when it is whole.
    pub fn push(&mut self, at: WallTime, part: &Fragment<'_>) -> Option<Vec<u8>> {
        self.forget(at);
        let end = part.offset + part.bytes.len();
        // Longer than a datagram can be, or a middle part that is not a multiple of eight: forged or broken.
        if end > DATAGRAM_BYTES_MAX || (part.more && !part.bytes.len().is_multiple_of(8)) {
            self.lost += 1;
            return None;
        }
        let key = (part.scope, part.from, part.to, part.id, part.protocol);
        let order = &mut self.order;
        let datagram = self.open.get_or_insert_with(key, || {
            order.push_back((at, key));
            Datagram { began: at, ..Datagram::default() }
        });
        datagram.parts += 1;
        // More parts than a datagram of 64 KiB has at the smallest of MTUs, with copies: forged.
        if datagram.parts > PARTS_MAX {
            self.lost += self.open.remove(&key).map_or(0, |d| d.parts);
            return None;
        }
        if !part.more {
            datagram.len.get_or_insert(end);
        }
        datagram.put(part.offset, part.bytes);
        if !datagram.is_whole() {
            return None;
        }
        let mut whole = self.open.remove(&key)?;
        if self.order.len() > 2 * self.open.len() + 64 {
            let open = &self.open;
            self.order.retain(|(began, key)| open.get(key).is_some_and(|d| d.began == *began));
        }
        whole.bytes.truncate(whole.len?);
        Some(whole.bytes)
    }

    /// Gives up what is too old, and the oldest where there are too many.
    fn forget(&mut self, now: WallTime) {
        while let Some((began, key)) = self.order.front().copied() {
            let old = now.0.saturating_sub(began.0) > FRAGMENT_AGE_MAX.as_nanos() as u64;
            let stale = self.open.get(&key).is_none_or(|d| d.began != began);
            if !stale && !old && self.open.len() < FRAGMENTED_MAX {
                return;
            }
            self.order.pop_front();
            if !stale && let Some(datagram) = self.open.remove(&key) {
                self.lost += datagram.parts;
            }
        }
    }

    /// Parts of datagrams that were given up, since the last call; at the end of input also those that wait.
    pub fn take_lost(&mut self, end: bool) -> u64 {
        if end {
            for (_, datagram) in self.open.take_if(|_, _| true) {
                self.lost += datagram.parts;
            }
            self.order.clear();
        }
        std::mem::take(&mut self.lost)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(id: u32, offset: usize, more: bool, bytes: &[u8]) -> Fragment<'_> {
        Fragment { scope: Scope::default(), from: [1; 16], to: [2; 16], id, protocol: 6, offset, more, bytes }
    }

    fn at(s: u64) -> WallTime {
        WallTime(s * 1_000_000_000)
    }

    #[test]
    fn the_first_copy_wins_and_what_is_old_is_given_up() {
        let mut f = Fragments::default();
        assert_eq!(f.push(at(0), &part(1, 8, false, b"world")), None);
        assert_eq!(f.push(at(0), &part(1, 8, false, b"WORLD")), None);
        assert_eq!(f.push(at(1), &part(1, 0, true, b"hello, w")), Some(b"hello, wworld".to_vec()));
        assert_eq!(f.push(at(2), &part(2, 0, true, b"lost....")), None);
        assert_eq!(f.push(at(33), &part(2, 8, false, b"late")), None, "the first part was forgotten");
        assert_eq!((f.take_lost(false), f.take_lost(true), f.take_lost(true)), (1, 1, 0));
        assert_eq!(f.push(at(40), &part(3, 65_528, false, &[0; 9])), None);
        assert_eq!(f.push(at(40), &part(3, 0, true, b"seven..")), None);
        assert_eq!(f.take_lost(true), 2, "neither is a part of anything");
    }

    #[test]
    fn room_is_bounded() {
        let mut f = Fragments::default();
        for id in 0..3 * FRAGMENTED_MAX as u32 {
            assert_eq!(f.push(at(1), &part(id, 0, true, b"12345678")), None);
            assert!(f.open.len() <= FRAGMENTED_MAX && f.order.len() <= FRAGMENTED_MAX + 1);
        }
        assert_eq!(f.take_lost(true), 3 * FRAGMENTED_MAX as u64);
    }

    proptest! {
        /// Parts in any order, some of them twice, make the datagram.
        #[test]
        fn order_does_not_matter(blocks in 1usize..40, cuts in prop::collection::vec(0usize..40, 0..6), tail in 1usize..9, seed in any::<u64>()) {
            let data: Vec<u8> = (0..blocks * 8 + tail).map(|i| i as u8).collect();
            let mut ends: Vec<usize> = cuts.into_iter().map(|c| c % blocks * 8).filter(|c| *c > 0).chain([data.len()]).collect();
            ends.sort_unstable();
            ends.dedup();
            let mut parts: Vec<(usize, usize)> = std::iter::once(0).chain(ends.iter().copied()).zip(ends.iter().copied()).collect();
            let n = parts.len();
            for i in 0..n { parts.swap(i, (crate::capture::mix64(seed ^ i as u64) as usize) % n); }
            let mut f = Fragments::default();
            let mut got = None;
            for (from, to) in &parts {
                for _ in 0..2 {
                    if got.is_none() {
                        got = f.push(at(1), &part(9, *from, *to < data.len(), &data[*from..*to]));
                    }
                }
            }
            prop_assert_eq!(got, Some(data));
        }
    }
}
