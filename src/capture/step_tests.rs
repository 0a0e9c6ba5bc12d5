//! Which answers belong to which requests behind a loss, told by the numbers of segments.

use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::*;
use crate::capture::frame::LinkType;

/// One connection from its handshake on, as both ends number it.
struct Wire {
    recorder: Recorder,
    /// The next number of the client, and of the server.
    next: (u32, u32),
    at_ms: u64,
    /// Bytes of a payload that are captured, at most.
    snap: usize,
    /// Frames that come late: behind the next one.
    late: Vec<bool>,
    behind: Option<(Vec<u8>, usize)>,
}

impl Wire {
    /// From the handshake on.
    fn new() -> Self {
        let mut wire = Self { next: (100, 900), ..Self::midstream() };
        wire.frame(true, (100, None), true, "");
        wire.frame(false, (900, Some(101)), true, "");
        wire.next = (101, 901);
        wire
    }

    /// From somewhere in the middle.
    fn midstream() -> Self {
        let recorder = Recorder::new(Redactor::with_key(b"k"));
        let next = (5_000, u32::MAX - 200);
        Self { recorder, next, at_ms: 1_000, snap: 9_000, late: Vec::new(), behind: None }
    }

    fn frame(&mut self, client: bool, (seq, ack): (u32, Option<u32>), syn: bool, payload: &str) {
        let (a, b) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let (from, to, ports) = if client { (a, b, (4000, 80)) } else { (b, a, (80, 4000)) };
        let mut tcp = PacketBuilder::ipv4(from, to, 64).tcp(ports.0, ports.1, seq, 500);
        if let Some(ack) = ack {
            tcp = tcp.ack(ack);
        }
        if syn {
            tcp = tcp.syn();
        }
        let mut frame = Vec::new();
        tcp.write(&mut frame, payload.as_bytes()).unwrap();
        let whole = frame.len();
        frame.truncate(whole - payload.len().saturating_sub(self.snap));
        let mut frames = vec![(frame, whole)];
        if self.late.pop() == Some(true) && self.behind.is_none() {
            self.behind = frames.pop();
        } else {
            frames.extend(self.behind.take());
        }
        for (frame, whole) in frames {
            self.at_ms += 10;
            self.recorder.frame(Ok(LinkType::RawIp), WallTime(self.at_ms * 1_000_000), &frame, whole);
        }
    }

    /// The client says something, having what the server said before; `seen` tells whether it is in the capture.
    fn client(&mut self, seen: bool, text: &str) {
        let (seq, ack) = self.next;
        self.next.0 = seq.wrapping_add(text.len() as u32);
        if seen {
            self.frame(true, (seq, Some(ack)), false, text);
        }
    }

    /// The server says something.
    fn server(&mut self, seen: bool, text: &str) {
        let (ack, seq) = self.next;
        self.next.1 = seq.wrapping_add(text.len() as u32);
        if seen {
            self.frame(false, (seq, Some(ack)), false, text);
        }
    }

    /// Asks for `/n`, which is answered with status 400 + n.
    fn ask(&mut self, n: u16) {
        self.client(true, &get(n));
        self.server(true, &answer(n));
    }

    /// Numbers of the requests, with those of their answers.
    fn pairs(mut self) -> Vec<(u16, Option<u16>)> {
        if let Some((frame, whole)) = self.behind.take() {
            self.recorder.frame(Ok(LinkType::RawIp), WallTime(self.at_ms * 1_000_000), &frame, whole);
        }
        let (events, _) = self.recorder.finish();
        let one = |e: &RawEvent| match &e.kind {
            EventKind::Request(r) => {
                let target = std::str::from_utf8(&r.shape.target).unwrap();
                Some((target[1..].parse().unwrap(), r.status.value.map(|s| s - 400)))
            }
            EventKind::Open(_) | EventKind::Close(_) => None,
        };
        let mut pairs: Vec<_> = events.iter().filter_map(one).collect();
        pairs.sort_unstable();
        pairs
    }
}

fn get(n: u16) -> String {
    format!("GET /{n} HTTP/1.1\r\nHost: x\r\n\r\n")
}

fn answer(n: u16) -> String {
    format!("HTTP/1.1 {} X\r\nContent-Length: 3\r\n\r\nabc", 400 + n)
}

/// A request that is not in the capture: what came while that was noticed goes without answers, what comes then has its own.
#[test]
fn answers_are_told_again_behind_a_lost_request() {
    let mut wire = Wire::new();
    (1..4).for_each(|n| wire.ask(n));
    wire.client(false, &get(4));
    wire.server(true, &answer(4));
    wire.ask(5);
    wire.at_ms += 2_000;
    (6..9).for_each(|n| wire.ask(n));
    let own = |n| (n, Some(n));
    assert_eq!(wire.pairs(), [own(1), own(2), own(3), (5, None), (6, None), own(7), own(8)]);
}

/// A queue that was merged late: the answer stands before its request in the capture.
#[test]
fn answers_are_told_again_behind_one_that_came_first() {
    let mut wire = Wire::new();
    (1..4).for_each(|n| wire.ask(n));
    let (client, server) = wire.next;
    wire.next.0 += get(4).len() as u32;
    wire.server(true, &answer(4));
    wire.frame(true, (client, Some(server)), false, &get(4));
    (5..8).for_each(|n| wire.ask(n));
    let own = |n| (n, Some(n));
    assert_eq!(wire.pairs(), [own(1), own(2), own(3), (4, None), (5, None), own(6), own(7)]);
}

/// Who has not been seen to wait for answers gets none behind a loss, and who asked ahead once gets none ever.
#[test]
fn who_may_ask_ahead_gets_no_answers_behind_a_loss() {
    let mut wire = Wire::new();
    wire.client(false, &get(1));
    wire.server(true, &answer(1));
    for n in 2..6 {
        wire.at_ms += 2_000;
        wire.ask(n);
    }
    assert!(wire.pairs().iter().all(|p| p.1.is_none()));
    let mut wire = Wire::new();
    (1..8).for_each(|n| wire.ask(n));
    wire.client(true, &(get(8) + &get(9)));
    wire.server(true, &(answer(8) + &answer(9)));
    wire.client(false, &get(10));
    wire.server(true, &answer(10));
    for n in 11..15 {
        wire.at_ms += 2_000;
        wire.ask(n);
    }
    let pairs = wire.pairs();
    assert!(pairs[..9].iter().all(|(n, status)| *status == Some(*n)), "{pairs:?}");
    assert!(pairs.len() == 13 && pairs[9..].iter().all(|p| p.1.is_none()), "{pairs:?}");
}

/// The first answer is missing, and with it the beginning of the server's stream: it is not taken from the one behind it.
#[test]
fn an_answer_that_was_missed_first_is_missed() {
    let mut wire = Wire::midstream();
    wire.client(true, &get(5));
    wire.server(false, &answer(5));
    for n in 6..12 {
        wire.at_ms += 700;
        wire.ask(n);
    }
    let pairs = wire.pairs();
    assert!(pairs.len() == 7 && pairs.iter().all(|(n, status)| status.is_none_or(|s| s == *n)), "{pairs:?}");
}

/// What is seen first is what the server said to somebody before: every request from then on has its answer.
#[test]
fn a_capture_that_begins_with_an_answer_has_those_behind_it() {
    for first in [answer(9), "the rest of a body".to_owned(), "\r\nThe-Rest: of a head\r\n\r\nabc".to_owned()]
    {
        let mut wire = Wire::midstream();
        wire.server(true, &first);
        (1..6).for_each(|n| wire.ask(n));
        assert_eq!(wire.pairs(), [1, 2, 3, 4, 5].map(|n| (n, Some(n))), "{first}");
    }
}

/// A client that asks ahead when its server is slow, for the first time where that is lost but for one request.
#[test]
fn asking_ahead_is_seen_behind_a_hole() {
    let mut wire = Wire::new();
    (1..4).for_each(|n| wire.ask(n));
    wire.client(false, &get(4));
    wire.client(true, &get(5));
    wire.at_ms += 1_500;
    wire.frame(false, (wire.next.1, Some(wire.next.0)), false, "");
    for n in 6..12 {
        wire.client(true, &get(n));
        wire.server(true, &answer(n - 2));
        wire.at_ms += 1_500;
    }
    let pairs = wire.pairs();
    assert!(pairs.len() == 10 && pairs[3..].iter().all(|(_, status)| status.is_none()), "{pairs:?}");
}

/// How a client asks, and what of it is captured.
#[derive(Debug, Clone)]
struct Talk {
    midstream: bool,
    /// Answers that it waits for before it asks ahead, and by how many requests then.
    habit: (u16, u16),
    /// Of a hundred frames so many are lost, behind so many answers.
    lost: (u64, u16),
    /// And so many come late.
    late: u64,
    /// Bytes of a payload that are captured: answers have 40, their heads 37.
    snap: usize,
    seed: u64,
}

impl Talk {
    fn any() -> impl Strategy<Value = Self> {
        let habit = prop_oneof![Just((0, 0)), (0u16..9, 1u16..4)];
        let loss = (0u64..40, prop_oneof![Just(0u16), Just(4)], prop_oneof![Just(0u64), 0u64..30]);
        let snap = prop_oneof![Just(9_000), 34usize..41];
        (any::<bool>(), habit, loss, snap, any::<u64>()).prop_map(
            |(midstream, habit, (lost, from, late), snap, seed)| Self {
                midstream,
                // How a client asks is only known by what was seen of it once.
                lost: (lost, if habit.1 > 0 { habit.0 + habit.1 + 2 } else { from }),
                // And what came late may look as if it had been asked for later.
                late: if habit.1 > 0 { 0 } else { late },
                habit,
                snap,
                seed,
            },
        )
    }

    /// Forty requests, some answers in two segments, then nine without a loss where it never asks ahead.
    fn pairs(&self) -> Vec<(u16, Option<u16>)> {
        let mut wire = if self.midstream { Wire::midstream() } else { Wire::new() };
        let ((waits, ahead), mut asked) = (self.habit, 0);
        wire.snap = self.snap;
        wire.late = (0..200).map(|i| crate::capture::mix64(!self.seed ^ i) % 100 < self.late).collect();
        for n in 1..=40u16 {
            let random = |salt: u64| crate::capture::mix64(self.seed ^ u64::from(n) << 8 ^ salt);
            let seen = |salt: u64| n <= self.lost.1 || random(salt) % 100 >= self.lost.0;
            while asked < n + if n > waits { ahead } else { 0 } {
                asked += 1;
                wire.client(seen(u64::from(asked) << 32), &get(asked));
            }
            let text = answer(n);
            let (head, rest) = text.split_at(if random(1) % 3 == 0 { text.len() - 2 } else { text.len() });
            wire.server(seen(2), head);
            if !rest.is_empty() {
                wire.server(seen(3), rest);
            }
            wire.at_ms += [0, 0, 100, 1_500][(random(4) % 4) as usize];
        }
        (wire.snap, wire.late) = (9_000, Vec::new());
        for n in 41..50 {
            wire.at_ms += 2_000;
            if ahead == 0 {
                wire.ask(n);
            }
        }
        wire.pairs()
    }
}

proptest! {
    /// Whatever is lost, and however far a client asks ahead, no request has the answer of another. Where it never asks ahead,
    /// answers are told again some time behind the last loss.
    #[test]
    fn no_request_has_the_answer_of_another(talk in Talk::any()) {
        let pairs = talk.pairs();
        prop_assert!(pairs.iter().all(|(n, status)| status.is_none_or(|s| s == *n)), "{:?}", pairs);
        if talk.habit == (0, 0) && talk.lost.1 > 0 && talk.late == 0 && talk.snap >= 37 {
            prop_assert_eq!(pairs.last(), Some(&(49, Some(49))));
        }
    }
}
