//! TCP reassembly of one direction: in order, within named bounds, first copy wins.
//!
//! A hole is declared lost only on evidence: the peer acknowledged past it a second ago, the buffer is
//! full, the hole is 30 s old, or the connection ended. "The other side spoke" alone is no evidence; a
//! capture merges queues late. Sequence numbers are unwrapped to 64 bits, so a wrap is nothing special.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::limits::{GAP_AGE_MAX, REASSEMBLY_BYTES_MAX, REASSEMBLY_SEGMENTS_MAX};
use crate::units::WallTime;

/// Capture time that data past a hole must wait although the peer acknowledged it.
const ACKED_WAIT: Duration = Duration::from_secs(1);

/// Where a piece of a byte stream stands among those of both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Sequence number of its first byte.
    pub seq: u32,
    /// What its segment acknowledged of the other side: everything before this number.
    pub ack: u32,
}

/// How far one side of a connection was seen, where nothing of it waits behind a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Sequence number of the next byte wanted.
    pub next: u32,
    /// What the last of its segments with data acknowledged of the other side.
    pub told: Option<u32>,
}

/// A piece of a byte stream, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Bytes and the time at which their first copy was captured.
    Data {
        /// When.
        at: WallTime,
        /// What.
        bytes: &'a [u8],
        /// Where, where that is known.
        mark: Option<Mark>,
    },
    /// Bytes that were never seen.
    Gap {
        /// How many; [`u64::MAX`] where that is not known.
        len: u64,
        /// Where, and what the segment behind them acknowledged, where that is known.
        mark: Option<Mark>,
    },
}

/// Takes the pieces as they come into order.
pub type Sink<'s> = &'s mut dyn FnMut(Piece<'_>);

#[derive(Debug, Clone)]
struct Held {
    at: WallTime,
    ack: Option<u32>,
    bytes: Vec<u8>,
    missing: u32,
}

/// Numbers of one direction, for the ledger.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlowCounts {
    /// Segments whose bytes had all been seen.
    pub duplicates: u64,
    /// Segments that had to wait.
    pub out_of_order: u64,
    /// Holes.
    pub gaps: u64,
    /// Bytes in them.
    pub gap_bytes: u64,
}

/// Puts the segments of one direction in order.
#[derive(Debug, Clone, Default)]
pub struct Reassembler {
    /// Sequence number and stream offset of the next byte wanted.
    next: Option<(u32, u64)>,
    /// That is only what the peer acknowledged: nothing of the stream was seen.
    inferred: bool,
    held: BTreeMap<u64, Held>,
    held_bytes: usize,
    /// What the last segment with data acknowledged.
    told: Option<u32>,
    /// Highest offset the peer has acknowledged.
    acked: u64,
    counts: FlowCounts,
}

impl Reassembler {
    /// The stream begins behind a SYN with this sequence number, unless it has begun.
    pub fn begin(&mut self, syn_seq: u32) {
        if self.next.is_none() || self.inferred {
            (self.next, self.inferred) = (Some((syn_seq.wrapping_add(1), 0)), false);
        }
    }

    /// Nothing of the stream was seen yet, and the peer says that it has everything before `seq`: what comes next should begin
    /// there. A SYN knows better, and so does a segment that lies elsewhere.
    pub fn begin_at(&mut self, seq: u32) {
        if self.next.is_none() {
            (self.next, self.inferred) = (Some((seq, 0)), true);
        }
    }

    /// When the oldest bytes came that wait behind a hole.
    #[must_use]
    pub fn oldest(&self) -> Option<WallTime> {
        self.held.values().map(|h| h.at).min()
    }

    /// Whether the beginning of the stream is known.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.next.is_some()
    }

    /// Numbers so far.
    #[must_use]
    pub fn counts(&self) -> FlowCounts {
        self.counts
    }

    /// The offset that `seq` stands for, near the next byte wanted; negative is old.
    fn offset_of(&self, seq: u32) -> Option<i64> {
        let (next_seq, next_off) = self.next?;
        let delta = i64::from(seq.wrapping_sub(next_seq).cast_signed());
        Some(next_off.cast_signed() + delta)
    }

    /// The peer acknowledged everything before `ack`.
    pub fn acknowledge(&mut self, ack: u32) {
        if let Some(offset) = self.offset_of(ack) {
            self.acked = self.acked.max(u64::try_from(offset).unwrap_or(0));
        }
    }

    /// Whether a sequence number lies where the stream is now; also where nothing of it was seen.
    #[must_use]
    pub fn is_near(&self, seq: u32) -> bool {
        self.inferred || self.is_within_reach(seq)
    }

    fn is_within_reach(&self, seq: u32) -> bool {
        self.next.is_none_or(|(next, _)| {
            let distance = seq.wrapping_sub(next).cast_signed();
            (-1..=REASSEMBLY_BYTES_MAX as i32).contains(&distance)
        })
    }

    /// Whether everything before the sequence number `fin` has come in order; also where nothing of this side was seen.
    #[must_use]
    pub fn is_whole_to(&self, fin: u32) -> bool {
        self.held.is_empty()
            && self
                .next
                .filter(|_| !self.inferred)
                .is_none_or(|(seq, _)| fin.wrapping_sub(seq).cast_signed() <= 1)
    }

    /// How far the stream was seen; unknown while something waits behind a hole.
    #[must_use]
    pub fn standing(&self) -> Option<Standing> {
        let (next, _) = self.next.filter(|_| self.held.is_empty())?;
        Some(Standing { next, told: self.told })
    }

    /// Whether something waits behind a hole.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.held.is_empty()
    }

    /// Sequence number of the next byte wanted.
    #[must_use]
    pub fn next_seq(&self) -> Option<u32> {
        self.next.map(|(seq, _)| seq)
    }

    /// Bytes held out of order.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Takes one segment, which acknowledged `ack` of the other side, and gives what is in order now to `out`.
    pub fn push(
        &mut self,
        at: WallTime,
        (seq, ack): (u32, Option<u32>),
        bytes: &[u8],
        missing: u32,
        out: Sink<'_>,
    ) {
        if bytes.is_empty() && missing == 0 {
            return;
        }
        if std::mem::take(&mut self.inferred) && !self.is_within_reach(seq) {
            // Far from what was acknowledged: what lies between was not seen, and nobody can tell how much.
            self.counts.gaps += 1;
            out(Piece::Gap { len: u64::MAX, mark: ack.map(|ack| Mark { seq, ack }) });
            self.next = None;
        }
        let (_, next) = *self.next.get_or_insert((seq, 0));
        let Some(start) = self.offset_of(seq) else { return };
        let end = start + bytes.len() as i64 + i64::from(missing);
        if end <= next.cast_signed() {
            self.counts.duplicates += 1;
            return;
        }
        // The part in front of the next byte wanted was seen before.
        let skip = usize::try_from((next.cast_signed() - start).max(0)).unwrap_or(0);
        let seen_missing = skip.saturating_sub(bytes.len()) as u32;
        let (bytes, missing) = (bytes.get(skip..).unwrap_or(&[]), missing - seen_missing.min(missing));
        let start = u64::try_from(start.max(next.cast_signed())).unwrap_or(next);
        if start == next {
            // In order, as nearly all are: not copied.
            self.emit((at, ack), bytes, missing, out);
        } else {
            self.hold(start, Held { at, ack, bytes: bytes.to_vec(), missing });
        }
        if !self.held.is_empty() {
            self.drain(at, out);
        }
    }

    fn hold(&mut self, start: u64, held: Held) {
        self.counts.out_of_order += 1;
        let longer = self.held.get(&start).is_none_or(|old| old.bytes.len() < held.bytes.len());
        if longer {
            self.held_bytes += held.bytes.len();
            if let Some(old) = self.held.insert(start, held) {
                self.held_bytes -= old.bytes.len();
            }
        } else {
            self.counts.duplicates += 1;
        }
    }

    fn advance(&mut self, n: u64) {
        if let Some((seq, off)) = self.next {
            self.next = Some((seq.wrapping_add(n as u32), off + n));
        }
    }

    fn emit(&mut self, (at, ack): (WallTime, Option<u32>), bytes: &[u8], missing: u32, out: Sink<'_>) {
        if !bytes.is_empty() {
            let mark = self.next_seq().zip(ack).map(|(seq, ack)| Mark { seq, ack });
            out(Piece::Data { at, bytes, mark });
            self.told = ack;
        }
        self.advance(bytes.len() as u64);
        if missing > 0 {
            self.gap(u64::from(missing), ack, out);
        }
    }

    fn gap(&mut self, len: u64, ack: Option<u32>, out: Sink<'_>) {
        self.counts.gaps += 1;
        self.counts.gap_bytes += len;
        out(Piece::Gap { len, mark: self.next_seq().zip(ack).map(|(seq, ack)| Mark { seq, ack }) });
        self.advance(len);
    }

    /// Emits all that is in order, and gives up on holes for which there is evidence.
    fn drain(&mut self, now: WallTime, out: Sink<'_>) {
        while let Some((&start, first)) = self.held.first_key_value() {
            let next = self.next.map_or(start, |(_, off)| off);
            if start > next && !self.is_lost(start, first.at, now) {
                return;
            }
            if start > next {
                let ack = first.ack;
                self.gap(start - next, ack, out);
            }
            self.emit_first(out);
        }
    }

    fn is_lost(&self, hole_end: u64, held_since: WallTime, now: WallTime) -> bool {
        let age = Duration::from_nanos(now.0.saturating_sub(held_since.0));
        let full = self.held_bytes > REASSEMBLY_BYTES_MAX || self.held.len() > REASSEMBLY_SEGMENTS_MAX;
        full || age >= GAP_AGE_MAX || (self.acked >= hole_end && age >= ACKED_WAIT)
    }

    fn emit_first(&mut self, out: Sink<'_>) {
        let Some((start, mut held)) = self.held.pop_first() else { return };
        self.held_bytes -= held.bytes.len();
        let next = self.next.map_or(start, |(_, off)| off);
        let overlap = usize::try_from(next.saturating_sub(start)).unwrap_or(usize::MAX);
        if overlap >= held.bytes.len() + held.missing as usize {
            self.counts.duplicates += 1;
            return;
        }
        held.missing -= (overlap.saturating_sub(held.bytes.len()) as u32).min(held.missing);
        let bytes = held.bytes.get(overlap.min(held.bytes.len())..).unwrap_or_default();
        self.emit((held.at, held.ack), bytes, held.missing, out);
    }

    /// Time has passed without a segment: gives up on holes that are old enough.
    pub fn tick(&mut self, now: WallTime, out: Sink<'_>) {
        if !self.held.is_empty() {
            self.drain(now, out);
        }
    }

    /// The connection has ended: emits everything, with holes where bytes are missing.
    pub fn finish(&mut self, out: Sink<'_>) {
        while let Some((&start, first)) = self.held.first_key_value() {
            let next = self.next.map_or(start, |(_, off)| off);
            if start > next {
                let ack = first.ack;
                self.gap(start - next, ack, out);
            }
            self.emit_first(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> WallTime {
        WallTime(1_000_000_000_000 + ms * 1_000_000)
    }

    /// Appends what comes into order, with the length of holes in angles.
    fn to(out: &mut String) -> impl FnMut(Piece<'_>) {
        |p| match p {
            Piece::Data { bytes, .. } => out.push_str(&String::from_utf8_lossy(bytes)),
            Piece::Gap { len, .. } => out.push_str(&format!("<{len}>")),
        }
    }

    #[test]
    fn order_overlap_and_copies() {
        #[rustfmt::skip]
        let table: [(&[(u32, &str)], &str); 6] = [
            (&[(1, "abc"), (4, "def")], "abcdef"),
            (&[(4, "def"), (1, "abc")], "abcdef"),
            (&[(1, "abc"), (1, "abc"), (4, "def"), (1, "abc")], "abcdef"),
            (&[(1, "abc"), (2, "XXdef")], "abcdef"),                // first copy wins
            (&[(7, "ghi"), (4, "def"), (5, "Xf"), (1, "abc")], "abcdefghi"),
            (&[(5, "ef"), (1, "abcdXX"), (7, "g")], "abcdXXg"),
        ];
        for (segments, want) in table {
            let (mut r, mut out) = (Reassembler::default(), String::new());
            r.begin(0);
            segments
                .iter()
                .for_each(|(seq, s)| r.push(at(0), (*seq, None), s.as_bytes(), 0, &mut to(&mut out)));
            assert_eq!(out, want, "{segments:?}");
        }
    }

    #[test]
    fn a_hole_is_lost_only_on_evidence() {
        let start = || {
            let (mut r, mut out) = (Reassembler::default(), String::new());
            r.begin(0);
            r.push(at(0), (1, None), b"ab", 0, &mut to(&mut out));
            r.push(at(10), (6, None), b"f", 0, &mut to(&mut out));
            (r, out)
        };
        let (mut r, mut out) = start();
        r.tick(at(20_000), &mut to(&mut out));
        assert_eq!(out, "ab", "20 s without an acknowledgement prove nothing");
        r.tick(at(30_010), &mut to(&mut out));
        assert_eq!(out, "ab<3>f");
        let (mut r, mut out) = start();
        r.acknowledge(7);
        r.tick(at(500), &mut to(&mut out));
        assert_eq!(out, "ab", "a queue may still deliver it");
        r.tick(at(1_011), &mut to(&mut out));
        assert_eq!(out, "ab<3>f");
        let (mut r, mut out) = start();
        r.finish(&mut to(&mut out));
        assert_eq!((out.as_str(), r.counts().gap_bytes), ("ab<3>f", 3));
    }

    #[test]
    fn bytes_cut_by_the_snapshot_length_are_a_gap_of_known_size() {
        let (mut r, mut out) = (Reassembler::default(), String::new());
        r.begin(0);
        r.push(at(0), (1, None), b"abc", 5, &mut to(&mut out));
        r.push(at(0), (9, None), b"z", 0, &mut to(&mut out));
        assert_eq!(out, "abc<5>z");
    }

    #[test]
    fn the_buffer_is_bounded() {
        let (mut r, mut out) = (Reassembler::default(), String::new());
        r.begin(0);
        for i in 0..2_000u32 {
            r.push(at(0), (10 + i * 2_000, None), &[b'x'; 1_000], 0, &mut to(&mut out));
            assert!(r.held_bytes <= REASSEMBLY_BYTES_MAX + 1_000);
        }
        assert!(r.counts().gaps > 0);
    }

    proptest! {
        /// Any order of any cuts, across the wrap of the sequence number, gives the same bytes.
        #[test]
        fn order_does_not_matter(isn in any::<u32>(), len in 1usize..400, cuts in prop::collection::vec(0usize..400, 0..10),
                                 order in any::<u64>()) {
            let data: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c % len).chain([0, len]).collect();
            cuts.sort_unstable();
            let mut parts: Vec<(usize, usize)> = cuts.windows(2).map(|w| (w[0], w[1])).collect();
            let n = parts.len();
            for i in 0..n { parts.swap(i, (crate::capture::mix64(order ^ i as u64) as usize) % n); }
            let (mut r, mut got) = (Reassembler::default(), Vec::new());
            r.begin(isn.wrapping_sub(1));
            for (a, b) in parts { r.push(at(0), (isn.wrapping_add(a as u32), None), &data[a..b], 0, &mut |p| if let Piece::Data { bytes, .. } = p { got.extend_from_slice(bytes); }); }
            prop_assert_eq!(got, data);
            prop_assert_eq!(r.counts().gaps, 0);
        }
    }
}
