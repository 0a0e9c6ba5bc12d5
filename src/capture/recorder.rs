//! Frames to events: the table of connections.
//!
//! A connection is known by both endpoints and its VLAN tags. The same endpoints make a new connection on
//! a SYN with another sequence number or after a long silence. Which side is the client is decided by the
//! SYN, else by content: never by port.

use std::collections::BTreeMap;
use std::time::Duration;

use super::RawEvent;
use super::flow::{Piece, Reassembler};
use super::frame::{self, Endpoint, LinkType, Segment};
use super::pairing::{Pairing, count_flow};
use crate::limits::{FLOW_IDLE_MAX, FLOWS_MAX};
use crate::trace::{Item, Ledger};
use crate::units::WallTime;
use crate::wire::head::{looks_like_request, looks_like_response};

type Key = ([u16; 2], Endpoint, Endpoint);

/// One connection. `low` is the endpoint that sorts first.
#[derive(Debug)]
struct Flow {
    pairing: Pairing,
    low: Reassembler,
    high: Reassembler,
    /// Whether the low endpoint is the client, once known.
    client_is_low: Option<bool>,
    /// Pieces from before that was known.
    early: Vec<(bool, Piece)>,
    client_isn: Option<u32>,
    last_at: WallTime,
    /// FIN seen from the low and from the high endpoint: copies of one are one.
    fins: (bool, bool),
    ended: bool,
}

/// Turns frames into raw events.
#[derive(Debug, Default)]
pub struct Recorder {
    flows: BTreeMap<Key, Flow>,
    next_owner: u64,
    ledger: Ledger,
    out: Vec<RawEvent>,
    last_sweep: WallTime,
}

impl Recorder {
    /// Takes one frame. `link` is `Err` with the number of an unsupported link type.
    pub fn frame(&mut self, link: Result<LinkType, i32>, at: WallTime, bytes: &[u8], sent_len: usize) {
        self.ledger.count(Item::Frames);
        self.ledger.add(Item::Bytes, bytes.len() as u64);
        let Ok(link) = link else { return self.ledger.count(Item::FramesUnsupported) };
        if bytes.len() < sent_len {
            self.ledger.count(Item::Truncated);
        }
        match frame::parse(link, at, bytes) {
            Ok(segment) => self.segment(&segment),
            Err(item) => self.ledger.count(item),
        }
    }

    fn segment(&mut self, s: &Segment<'_>) {
        let from_low = s.from <= s.to;
        let key = if from_low { (s.vlans, s.from, s.to) } else { (s.vlans, s.to, s.from) };
        if self.flows.get(&key).is_some_and(|f| f.is_other(s)) {
            self.close(key, false);
        }
        if !self.flows.contains_key(&key) {
            if s.payload.is_empty() && s.missing == 0 && !s.syn {
                return; // the tail of a connection that is over
            }
            self.make_room();
            self.open(key, s, from_low);
        }
        let (ledger, out) = (&mut self.ledger, &mut self.out);
        let Some(flow) = self.flows.get_mut(&key) else { return };
        flow.take(s, from_low, ledger, out);
        if flow.ended {
            self.close(key, true);
        }
        self.sweep(s.at);
    }

    fn open(&mut self, key: Key, s: &Segment<'_>, from_low: bool) {
        self.ledger.count(Item::Connections);
        if !s.syn {
            self.ledger.count(Item::ConnectionsMidstream);
        }
        let owner = self.next_owner;
        self.next_owner += 1;
        let client_is_low = s.syn.then_some(from_low == s.ack.is_none());
        let flow = Flow {
            pairing: Pairing::new(owner, s.at, s.syn),
            low: Reassembler::default(),
            high: Reassembler::default(),
            client_is_low,
            early: Vec::new(),
            client_isn: None,
            last_at: s.at,
            fins: (false, false),
            ended: false,
        };
        self.flows.insert(key, flow);
    }

    /// Closes the longest idle connection when the table is full.
    fn make_room(&mut self) {
        if self.flows.len() < FLOWS_MAX {
            return;
        }
        if let Some(key) = self.flows.iter().min_by_key(|(_, f)| f.last_at).map(|(k, _)| *k) {
            self.ledger.count(Item::ConnectionsEvicted);
            self.close(key, false);
        }
    }

    /// Once per ten seconds of capture time: idle connections end, old holes are given up.
    fn sweep(&mut self, now: WallTime) {
        let ten_seconds = 10_000_000_000;
        if now.0 < self.last_sweep.0.saturating_add(ten_seconds) {
            return;
        }
        self.last_sweep = now;
        let idle = |f: &Flow| now.0.saturating_sub(f.last_at.0) > FLOW_IDLE_MAX.as_nanos() as u64;
        let old: Vec<Key> = self.flows.iter().filter(|(_, f)| idle(f)).map(|(k, _)| *k).collect();
        for key in old {
            self.close(key, false);
        }
        for flow in self.flows.values_mut() {
            flow.tick(now, &mut self.ledger, &mut self.out);
        }
    }

    fn close(&mut self, key: Key, seen: bool) {
        if let Some(mut flow) = self.flows.remove(&key) {
            flow.finish(seen, &mut self.ledger, &mut self.out);
        }
    }

    /// Events that are complete.
    pub fn take_events(&mut self) -> Vec<RawEvent> {
        std::mem::take(&mut self.out)
    }

    /// The ledger, for counts that the reader of the file makes.
    pub fn ledger_mut(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// Ends all connections and gives the last events and the ledger.
    #[must_use]
    pub fn finish(mut self) -> (Vec<RawEvent>, Ledger) {
        // In a fixed order, so that the same input always gives the same output.
        let keys: Vec<Key> = self.flows.keys().copied().collect();
        for key in keys {
            self.close(key, false);
        }
        (self.out, self.ledger)
    }
}

impl Flow {
    /// Whether this segment belongs to a new connection between the same endpoints.
    fn is_other(&self, s: &Segment<'_>) -> bool {
        let new_syn = s.syn && s.ack.is_none() && self.client_isn != Some(s.seq);
        let silence = Duration::from_nanos(s.at.0.saturating_sub(self.last_at.0)) > FLOW_IDLE_MAX;
        new_syn || silence
    }

    fn take(&mut self, s: &Segment<'_>, from_low: bool, ledger: &mut Ledger, out: &mut Vec<RawEvent>) {
        self.last_at = self.last_at.max(s.at);
        let (mut pieces, mut peers) = (Vec::new(), Vec::new());
        {
            let (mine, peer) =
                if from_low { (&mut self.low, &mut self.high) } else { (&mut self.high, &mut self.low) };
            if s.syn {
                if s.ack.is_none() {
                    self.client_isn.get_or_insert(s.seq);
                }
                if !mine.has_begun() {
                    mine.begin(s.seq);
                }
            }
            if let Some(ack) = s.ack {
                peer.acknowledge(ack);
            }
            let seq = if s.syn { s.seq.wrapping_add(1) } else { s.seq };
            mine.push(s.at, seq, s.payload, s.missing, &mut pieces);
            // An acknowledgement may be the evidence that a hole of the other side waits for.
            peer.tick(s.at, &mut peers);
        }
        self.deliver(!from_low, peers, ledger, out);
        self.deliver(from_low, pieces, ledger, out);
        let fin = if from_low { &mut self.fins.0 } else { &mut self.fins.1 };
        *fin |= s.fin;
        self.ended = s.rst || self.fins == (true, true);
    }

    fn deliver(&mut self, from_low: bool, pieces: Vec<Piece>, ledger: &mut Ledger, out: &mut Vec<RawEvent>) {
        if pieces.is_empty() {
            return;
        }
        if self.client_is_low.is_none() {
            self.client_is_low = guess_client(from_low, &pieces);
        }
        let Some(client_is_low) = self.client_is_low else {
            if self.early.len() < crate::limits::REASSEMBLY_SEGMENTS_MAX {
                self.early.extend(pieces.into_iter().map(|p| (from_low, p)));
            }
            return;
        };
        let early = std::mem::take(&mut self.early);
        for (low, piece) in early.into_iter().chain(pieces.into_iter().map(|p| (from_low, p))) {
            if low == client_is_low {
                self.pairing.client(vec![piece], ledger, out);
            } else {
                self.pairing.server(vec![piece], ledger, out);
            }
        }
    }

    fn tick(&mut self, now: WallTime, ledger: &mut Ledger, out: &mut Vec<RawEvent>) {
        let (mut low, mut high) = (Vec::new(), Vec::new());
        self.low.tick(now, &mut low);
        self.high.tick(now, &mut high);
        self.deliver(true, low, ledger, out);
        self.deliver(false, high, ledger, out);
    }

    fn finish(&mut self, seen: bool, ledger: &mut Ledger, out: &mut Vec<RawEvent>) {
        let (mut low, mut high) = (Vec::new(), Vec::new());
        self.low.finish(&mut low);
        self.high.finish(&mut high);
        // Requests before responses: a response that waited for nothing but its own hole answers them.
        let low_first = self.client_is_low.unwrap_or(true);
        let both = if low_first { [(true, low), (false, high)] } else { [(false, high), (true, low)] };
        for (from_low, pieces) in both {
            self.deliver(from_low, pieces, ledger, out);
        }
        if self.client_is_low.is_none() && !self.early.is_empty() {
            ledger.count(Item::ConnectionsNotHttp);
        }
        count_flow(self.low.counts(), ledger);
        count_flow(self.high.counts(), ledger);
        self.pairing.finish(self.last_at, seen, ledger, out);
    }
}

/// Tells the client by what is said, in a connection whose beginning was not seen.
fn guess_client(from_low: bool, pieces: &[Piece]) -> Option<bool> {
    pieces.iter().find_map(|p| match p {
        Piece::Data { bytes, .. } if bytes.contains(&b'\n') && looks_like_request(bytes) => Some(from_low),
        Piece::Data { bytes, .. } if bytes.len() >= 9 && looks_like_response(bytes) => Some(!from_low),
        Piece::Data { .. } | Piece::Gap { .. } => None,
    })
}
