//! Frames to events: the table of connections.
//!
//! A connection is known by both endpoints and the VLANs and tunnels around it. The same endpoints make a new connection on
//! a SYN with another sequence number or after a long silence. Which side is the client is decided by the
//! SYN, else by content: never by port.

use std::sync::Arc;
use std::time::Duration;

use super::RawEvent;
use super::flow::{Piece, Reassembler};
use super::fragments::Fragments;
use super::frame::{self, Endpoint, LinkType, Scope, Segment};
use super::pairing::{Pairing, count_flow};
use super::redact::Redactor;
use super::tls::keylog::KeyLog;
use super::tls::{self, Tls};
use crate::limits::{
    CAPTURE_HELD_BYTES_MAX, EARLY_BYTES_MAX, FLOW_IDLE_MAX, FLOWS_MAX, OVER_KEPT, REASSEMBLY_SEGMENTS_MAX,
    SHAPES_BYTES_MAX,
};
use crate::lookup::Lookup;
use crate::trace::shape::SharedShape;
use crate::trace::{EventKind, Item, Ledger, Position};
use crate::units::WallTime;
use crate::wire::head::{looks_like_request, looks_like_response};

type Key = (Scope, Endpoint, Endpoint);

/// A piece from before it was known who is the client.
#[derive(Debug)]
enum Early {
    Data(WallTime, Vec<u8>),
    Gap(u64),
}

/// One connection. `low` is the endpoint that sorts first.
#[derive(Debug)]
struct Flow {
    pairing: Pairing,
    /// Carries TLS that may be opened.
    tls: Option<Box<Tls>>,
    low: Reassembler,
    high: Reassembler,
    /// Whether the low endpoint is the client, once known.
    client_is_low: Option<bool>,
    /// Pieces from before that was known, and their bytes.
    early: Vec<(bool, Early)>,
    early_bytes: usize,
    client_isn: Option<u32>,
    last_at: WallTime,
    /// The sequence number behind it.
    fins: (Option<u32>, Option<u32>),
    reset: bool,
    /// All is said: what still comes are copies.
    ended: bool,
    /// Bytes it held when last looked.
    held: usize,
}

/// Turns frames into raw events.
#[derive(Debug)]
pub struct Recorder {
    redactor: Redactor,
    keys: KeyLog,
    /// Which of the trace's sources the frames are from, and how many came from it.
    source: u32,
    frames: u64,
    flows: Lookup<Key, Flow>,
    /// Connections that are over, with the client's first sequence number and when: copies still come.
    over: Lookup<Key, (Option<u32>, WallTime)>,
    fragments: Fragments,
    next_owner: u64,
    ledger: Ledger,
    out: Vec<RawEvent>,
    last_sweep: WallTime,
    /// Bytes that all connections hold.
    held: usize,
    /// Shapes of late.
    shapes: Lookup<SharedShape, SharedShape>,
    shapes_bytes: usize,
}

impl Recorder {
    /// A recorder whose requests are redacted.
    #[must_use]
    pub fn new(redactor: Redactor) -> Self {
        Self {
            redactor,
            keys: KeyLog::default(),
            source: 0,
            frames: 0,
            flows: Lookup::default(),
            over: Lookup::default(),
            fragments: Fragments::default(),
            next_owner: 0,
            ledger: Ledger::default(),
            out: Vec::new(),
            last_sweep: WallTime::default(),
            held: 0,
            shapes: Lookup::default(),
            shapes_bytes: 0,
        }
    }

    /// Takes one frame. `link` is `Err` with the number of an unsupported link type.
    pub fn frame(&mut self, link: Result<LinkType, i32>, at: WallTime, bytes: &[u8], sent_len: usize) {
        self.frames += 1;
        self.ledger.at(Position { source: self.source, number: self.frames });
        self.ledger.count(Item::Frames);
        self.ledger.add(Item::Bytes, bytes.len() as u64);
        let Ok(link) = link else { return self.ledger.count(Item::FramesUnsupported) };
        if bytes.len() < sent_len {
            self.ledger.count(Item::Truncated);
        }
        // Out of its place, because segments are taken while it is read.
        let mut fragments = std::mem::take(&mut self.fragments);
        let read = frame::parse(link, at, bytes, &mut fragments, &mut |segment| self.segment(segment));
        self.ledger.add(Item::FragmentsLost, fragments.take_lost(false));
        self.fragments = fragments;
        if let Err(item) = read {
            self.ledger.count(item);
        }
    }

    fn segment(&mut self, s: &Segment<'_>) {
        let from_low = s.from <= s.to;
        let key = if from_low { (s.scope, s.from, s.to) } else { (s.scope, s.to, s.from) };
        if self.flows.get(&key).is_some_and(|f| f.is_other(s)) {
            self.close(key, false);
        }
        if self.flows.get(&key).is_none() {
            if self.is_copy(&key, s) {
                return self.ledger.count(Item::Duplicates);
            }
            if s.payload.is_empty() && s.missing == 0 && !s.syn {
                return; // the tail of a connection that is over
            }
            self.make_room();
            self.open(key, s, from_low);
        }
        let (ledger, out) = (&mut self.ledger, &mut self.out);
        let Some(flow) = self.flows.get_mut(&key) else { return };
        flow.take(s, from_low, &self.keys, ledger, out);
        let held = flow.held_bytes();
        self.held = self.held + held - flow.held;
        flow.held = held;
        let (ended, isn) = (flow.ended, flow.client_isn);
        if ended {
            self.close(key, true);
            // Behind a reset the same numbers may begin anew (RFC 9293, section 3.5.1).
            let isn = if s.rst { None } else { isn };
            if self.over.len() < FLOWS_MAX {
                self.over.insert(key, (isn, s.at));
            }
        } else if self.held > CAPTURE_HELD_BYTES_MAX {
            self.ledger.count(Item::ConnectionsEvicted);
            self.close(key, false);
        }
        self.sweep(s.at);
    }

    /// Whether a segment belongs to a connection that ended just now.
    fn is_copy(&mut self, key: &Key, s: &Segment<'_>) -> bool {
        let Some((isn, at)) = self.over.get(key) else { return false };
        let old = s.at.0.saturating_sub(at.0) > OVER_KEPT.as_nanos() as u64;
        let new = old || (s.syn && s.ack.is_none() && *isn != Some(s.seq));
        if new {
            self.over.remove(key);
        }
        !new
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
            pairing: Pairing::new(owner, s.at, s.syn, self.redactor.clone()),
            tls: None,
            low: Reassembler::default(),
            high: Reassembler::default(),
            client_is_low,
            early: Vec::new(),
            early_bytes: 0,
            client_isn: None,
            last_at: s.at,
            fins: (None, None),
            reset: false,
            ended: false,
            held: 0,
        };
        self.flows.insert(key, flow);
    }

    /// When the table is full, closes those that have been silent longest: a hundredth of them, so that it is seldom done.
    fn make_room(&mut self) {
        if self.flows.len() < FLOWS_MAX {
            return;
        }
        let mut silent: Vec<(WallTime, Key)> = Vec::with_capacity(self.flows.len());
        self.flows.for_each_sorted(|key, flow| silent.push((flow.last_at, *key)));
        silent.sort_unstable();
        for (_, key) in silent.into_iter().take(FLOWS_MAX / 100) {
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
        let old = self.flows.take_if(|_, f| idle(f));
        for (_, flow) in old {
            self.finish_flow(flow, false);
        }
        // Said to be over, and nothing came since: what is missing will not come.
        let quiet = |f: &Flow| now.0.saturating_sub(f.last_at.0) > ten_seconds;
        let said = self.flows.take_if(|_, f| (f.reset || matches!(f.fins, (Some(_), Some(_)))) && quiet(f));
        for (key, flow) in said {
            let isn = if flow.reset { None } else { flow.client_isn };
            self.over.insert(key, (isn, flow.last_at));
            self.finish_flow(flow, true);
        }
        self.over.take_if(|_, (_, at)| now.0.saturating_sub(at.0) > OVER_KEPT.as_nanos() as u64);
        let (keys, ledger, out, all) = (&self.keys, &mut self.ledger, &mut self.out, &mut self.held);
        self.flows.for_each_sorted(|_, flow| {
            flow.tick(now, keys, ledger, out);
            let held = flow.held_bytes();
            *all = *all + held - flow.held;
            flow.held = held;
        });
    }

    fn close(&mut self, key: Key, seen: bool) {
        if let Some(flow) = self.flows.remove(&key) {
            self.finish_flow(flow, seen);
        }
    }

    fn finish_flow(&mut self, mut flow: Flow, seen: bool) {
        self.held -= flow.held;
        flow.finish(seen, &self.keys, &mut self.ledger, &mut self.out);
    }

    /// Frames from here on are of another source of the trace.
    pub fn begin_source(&mut self, source: u32) {
        (self.source, self.frames) = (source, 0);
    }

    /// Takes secrets of TLS connections; they hold for those whose handshake is still to come.
    pub fn add_keys(&mut self, text: &[u8]) {
        self.keys.add(text);
    }

    /// The secrets that are known.
    #[must_use]
    pub fn keys(&self) -> &KeyLog {
        &self.keys
    }

    /// Nothing came until `now`: what is idle for too long ends.
    pub fn tick(&mut self, now: WallTime) {
        self.sweep(now);
    }

    /// When the oldest bytes came that may still become a request, or the oldest request began that is not complete: events
    /// before it will not come any more.
    #[must_use]
    pub fn oldest(&self) -> Option<WallTime> {
        self.flows.min_of(Flow::oldest)
    }

    /// The counts since they were last taken.
    pub fn take_ledger(&mut self) -> Ledger {
        let mut ledger = std::mem::take(&mut self.ledger);
        ledger.nowhere();
        ledger
    }

    /// Events that are complete.
    pub fn take_events(&mut self) -> Vec<RawEvent> {
        let mut events = std::mem::take(&mut self.out);
        events.iter_mut().for_each(|e| self.share(e));
        events
    }

    /// Requests that are alike share one shape.
    fn share(&mut self, event: &mut RawEvent) {
        let EventKind::Request(request) = &mut event.kind else { return };
        if let Some(shape) = self.shapes.get(&*request.shape) {
            request.shape = Arc::clone(shape);
            return;
        }
        let bytes = request.shape.weight();
        self.shapes_bytes += bytes;
        if self.shapes_bytes > SHAPES_BYTES_MAX {
            self.shapes.clear();
            self.shapes_bytes = bytes;
        }
        self.shapes.insert(Arc::clone(&request.shape), Arc::clone(&request.shape));
    }

    /// The ledger, for counts that the reader of the file makes.
    pub fn ledger_mut(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// Ends all connections and gives the last events and the ledger.
    #[must_use]
    pub fn finish(mut self) -> (Vec<RawEvent>, Ledger) {
        let lost = self.fragments.take_lost(true);
        self.ledger.add(Item::FragmentsLost, lost);
        // In the order of their keys, so that the same input always gives the same output.
        for (_, flow) in self.flows.take_if(|_, _| true) {
            self.finish_flow(flow, false);
        }
        (self.take_events(), self.ledger)
    }
}

impl Flow {
    /// Whether this segment belongs to a new connection between the same endpoints.
    fn is_other(&self, s: &Segment<'_>) -> bool {
        let new_syn = s.syn && s.ack.is_none() && self.client_isn != Some(s.seq);
        let silence = Duration::from_nanos(s.at.0.saturating_sub(self.last_at.0)) > FLOW_IDLE_MAX;
        new_syn || silence
    }

    fn take(
        &mut self,
        s: &Segment<'_>,
        from_low: bool,
        keys: &KeyLog,
        ledger: &mut Ledger,
        out: &mut Vec<RawEvent>,
    ) {
        self.last_at = self.last_at.max(s.at);
        let Self { low, high, client_is_low, early, early_bytes, pairing, tls, .. } = self;
        let (mine, peer) = if from_low { (low, high) } else { (high, low) };
        if s.syn {
            if s.ack.is_none() {
                self.client_isn.get_or_insert(s.seq);
            }
            mine.begin(s.seq);
        }
        if let Some(ack) = s.ack {
            peer.acknowledge(ack);
        }
        let mut to = Delivery { client_is_low, early, early_bytes, pairing, tls, keys };
        // What waited for this segment came before it, or nobody knows what it came behind.
        to.pairing.server_stands(None);
        let of_client = *to.client_is_low == Some(from_low);
        to.pairing.client_stands(if of_client { mine.standing() } else { None });
        // An acknowledgement may be the evidence that a hole of the other side waits for.
        peer.tick(s.at, &mut |piece| to.deliver(!from_low, piece, ledger, out));
        let seq = if s.syn { s.seq.wrapping_add(1) } else { s.seq };
        let is_client = |to: &Delivery<'_>| *to.client_is_low == Some(from_low);
        let is_server = |to: &Delivery<'_>| *to.client_is_low == Some(!from_low);
        // Who is not known yet to be the server may turn out to be the client by this.
        if !is_server(&to) {
            to.pairing.server_passed(peer.next_seq());
            if !mine.is_waiting() {
                to.pairing.server_stands(peer.standing().filter(|_| !to.within_record(false)));
            }
        } else {
            to.pairing.client_stands(peer.standing());
        }
        let segment = (seq, s.ack);
        mine.push(s.at, segment, s.payload, s.missing, &mut |piece| to.deliver(from_low, piece, ledger, out));
        match s.ack {
            // What this acknowledges was seen by the client, if not by us; what comes behind it should be next.
            Some(ack) if is_client(&to) && !s.rst && mine.standing().is_some() => peer.begin_at(ack),
            Some(_) if is_server(&to) => to.pairing.server_passed(mine.next_seq()),
            _ => {}
        }
        if s.fin {
            let behind = seq.wrapping_add(s.payload.len() as u32).wrapping_add(s.missing);
            let fin = if from_low { &mut self.fins.0 } else { &mut self.fins.1 };
            fin.get_or_insert(behind);
        }
        // A reset that is not where the stream is was meant for another, or forged (RFC 5961).
        self.reset |= s.rst && if from_low { self.low.is_near(s.seq) } else { self.high.is_near(s.seq) };
        let whole = |side: &Reassembler, fin: Option<u32>| fin.is_some_and(|f| side.is_whole_to(f));
        let both = whole(&self.low, self.fins.0) && whole(&self.high, self.fins.1);
        self.ended = both || (self.reset && self.low.held_bytes() + self.high.held_bytes() == 0);
    }

    fn oldest(&self) -> Option<WallTime> {
        let early =
            self.early.iter().find_map(|(_, e)| if let Early::Data(at, _) = e { Some(*at) } else { None });
        let tls = self.tls.as_ref().and_then(|t| t.oldest());
        [self.pairing.oldest(), self.low.oldest(), self.high.oldest(), early, tls].into_iter().flatten().min()
    }

    fn held_bytes(&self) -> usize {
        self.low.held_bytes()
            + self.high.held_bytes()
            + self.early_bytes
            + self.pairing.held_bytes()
            + self.tls.as_ref().map_or(0, |t| t.held_bytes())
    }

    fn tick(&mut self, now: WallTime, keys: &KeyLog, ledger: &mut Ledger, out: &mut Vec<RawEvent>) {
        let Self { low, high, client_is_low, early, early_bytes, pairing, tls, .. } = self;
        let mut to = Delivery { client_is_low, early, early_bytes, pairing, tls, keys };
        to.pairing.server_stands(None);
        to.pairing.client_stands(None);
        low.tick(now, &mut |piece| to.deliver(true, piece, ledger, out));
        high.tick(now, &mut |piece| to.deliver(false, piece, ledger, out));
    }

    fn finish(&mut self, seen: bool, keys: &KeyLog, ledger: &mut Ledger, out: &mut Vec<RawEvent>) {
        let Self { low, high, client_is_low, early, early_bytes, pairing, tls, .. } = self;
        // Requests before responses: a response that waited for nothing but its own hole answers them.
        let low_first = client_is_low.unwrap_or(true);
        let mut to = Delivery { client_is_low, early, early_bytes, pairing, tls, keys };
        to.pairing.server_stands(None);
        to.pairing.client_stands(None);
        let both = if low_first { [(true, low), (false, high)] } else { [(false, high), (true, low)] };
        for (from_low, side) in both {
            side.finish(&mut |piece| to.deliver(from_low, piece, ledger, out));
            count_flow(side.counts(), ledger);
        }
        if self.client_is_low.is_none() && !self.early.is_empty() {
            ledger.count(Item::ConnectionsNotHttp);
        }
        let untold = self.tls.as_ref().is_some_and(|t| !t.was_told());
        ledger.add(Item::ConnectionsTls, u64::from(untold));
        self.pairing.finish(self.last_at, seen, ledger, out);
    }
}

/// Where the pieces of a connection go.
struct Delivery<'f> {
    client_is_low: &'f mut Option<bool>,
    early: &'f mut Vec<(bool, Early)>,
    early_bytes: &'f mut usize,
    pairing: &'f mut Pairing,
    tls: &'f mut Option<Box<Tls>>,
    keys: &'f KeyLog,
}

impl Delivery<'_> {
    /// Whether a record of TLS of that side is under way.
    fn within_record(&self, is_client: bool) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_within_record(is_client))
    }

    fn deliver(&mut self, from_low: bool, piece: Piece<'_>, ledger: &mut Ledger, out: &mut Vec<RawEvent>) {
        if self.client_is_low.is_none() {
            *self.client_is_low = guess_client(from_low, piece);
            let Some(client_is_low) = *self.client_is_low else { return self.keep_early(from_low, piece) };
            *self.early_bytes = 0;
            for (low, early) in std::mem::take(self.early) {
                let piece = match &early {
                    Early::Data(at, bytes) => Piece::Data { at: *at, bytes, mark: None },
                    Early::Gap(len) => Piece::Gap { len: *len, mark: None },
                };
                self.pass(low == client_is_low, piece, ledger, out);
            }
        }
        let is_client = *self.client_is_low == Some(from_low);
        self.pass(is_client, piece, ledger, out);
    }

    fn pass(&mut self, is_client: bool, piece: Piece<'_>, ledger: &mut Ledger, out: &mut Vec<RawEvent>) {
        if let Piece::Data { bytes, .. } = piece
            && is_client
            && self.tls.is_none()
            && !self.keys.is_empty()
            && !self.pairing.is_http()
            && tls::begins(bytes)
        {
            *self.tls = Some(Box::default());
        }
        let Some(tls) = self.tls else { return self.hand_on(is_client, piece, ledger, out) };
        let (keys, pairing) = (self.keys, &mut *self.pairing);
        tls.push(is_client, piece, keys, &mut |found| match found {
            tls::Out::Plain(true, piece) => pairing.client(piece, ledger, out),
            tls::Out::Plain(false, piece) => pairing.server(piece, ledger, out),
            tls::Out::Closed => ledger.count(Item::ConnectionsTls),
            tls::Out::Lost => ledger.count(Item::TlsRecordsLost),
            tls::Out::Opened => {
                ledger.count(Item::ConnectionsDecrypted);
                pairing.opened_tls();
            }
        });
    }

    fn hand_on(&mut self, is_client: bool, piece: Piece<'_>, ledger: &mut Ledger, out: &mut Vec<RawEvent>) {
        if is_client {
            self.pairing.client(piece, ledger, out);
        } else {
            self.pairing.server(piece, ledger, out);
        }
    }

    /// What says nothing yet is kept, within bounds: what stays silent for longer is not HTTP.
    fn keep_early(&mut self, from_low: bool, piece: Piece<'_>) {
        let early = match piece {
            Piece::Data { at, bytes, .. } => Early::Data(at, bytes.to_vec()),
            Piece::Gap { len, .. } => Early::Gap(len),
        };
        let n = if let Early::Data(_, bytes) = &early { bytes.len() } else { 0 };
        if self.early.len() < REASSEMBLY_SEGMENTS_MAX && *self.early_bytes + n <= EARLY_BYTES_MAX {
            *self.early_bytes += n;
            self.early.push((from_low, early));
        }
    }
}

/// Tells the client by what is said, in a connection whose beginning was not seen.
fn guess_client(from_low: bool, piece: Piece<'_>) -> Option<bool> {
    match piece {
        Piece::Data { bytes, .. } if bytes.len() > 5 && tls::begins(bytes) => Some(from_low),
        Piece::Data { bytes, .. } if bytes.contains(&b'\n') && looks_like_request(bytes) => Some(from_low),
        Piece::Data { bytes, .. } if bytes.len() >= 9 && looks_like_response(bytes) => Some(!from_low),
        Piece::Data { .. } | Piece::Gap { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    /// From the client or not, sequence number, acknowledgement, flags (S, F, R), payload.
    type Step = (bool, u32, Option<u32>, &'static str, &'static str);

    fn requests(steps: &[Step]) -> (usize, Ledger) {
        let mut recorder = Recorder::new(Redactor::with_key(b"k"));
        for (i, (client, seq, ack, flags, payload)) in steps.iter().enumerate() {
            let (a, b) = ([10, 0, 0, 1], [10, 0, 0, 2]);
            let (from, to, ports) = if *client { (a, b, (4000, 80)) } else { (b, a, (80, 4000)) };
            let mut tcp = PacketBuilder::ipv4(from, to, 64).tcp(ports.0, ports.1, *seq, 500);
            if let Some(ack) = ack {
                tcp = tcp.ack(*ack);
            }
            for flag in flags.chars() {
                tcp = match flag {
                    'S' => tcp.syn(),
                    'F' => tcp.fin(),
                    _ => tcp.rst(),
                };
            }
            let mut frame = Vec::new();
            tcp.write(&mut frame, payload.as_bytes()).unwrap();
            recorder.frame(
                Ok(LinkType::RawIp),
                WallTime(1_000_000_000 + i as u64 * 1_000_000),
                &frame,
                frame.len(),
            );
        }
        let (events, ledger) = recorder.finish();
        (events.iter().filter(|e| matches!(e.kind, EventKind::Request(_))).count(), ledger)
    }

    const GET: &str = "GET / HTTP/1.1\r\n\r\n";
    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

    #[test]
    fn copies_after_the_end_are_no_requests() {
        let (n, ledger) = requests(&[
            (true, 100, None, "S", ""),
            (false, 900, Some(101), "S", ""),
            (true, 101, Some(901), "", GET),
            (false, 901, Some(119), "F", OK),
            (true, 119, Some(939), "F", ""),
            (false, 939, Some(120), "", ""),
            (true, 101, Some(901), "", GET),
            (true, 101, Some(901), "F", GET),
        ]);
        assert_eq!((n, ledger.get(Item::Connections)), (1, Some(1)));
    }

    /// Recovery of a half-open connection (RFC 9293, section 3.5.1): the same first number, behind a reset.
    #[test]
    fn a_connection_behind_a_reset_is_a_new_one() {
        let (n, _) = requests(&[
            (true, 100, None, "S", ""),
            (false, 5_000_000, Some(77), "", ""),
            (true, 77, None, "R", ""),
            (true, 100, None, "S", ""),
            (false, 900, Some(101), "S", ""),
            (true, 101, Some(901), "", GET),
            (false, 901, Some(119), "", OK),
            (true, 119, Some(939), "", GET),
        ]);
        assert_eq!(n, 2);
        // A forged reset far from the stream ends nothing.
        let (n, ledger) = requests(&[
            (true, 100, None, "S", ""),
            (false, 900, Some(101), "S", ""),
            (true, 3_000_000_000, None, "R", ""),
            (true, 101, Some(901), "", GET),
        ]);
        assert_eq!((n, ledger.get(Item::Connections)), (1, Some(1)));
    }
}

#[cfg(test)]
#[path = "step_tests.rs"]
mod step_tests;
