//! The server's side of a connection: answers, and the requests they belong to.
//!
//! A part of [`super::Pairing`]. An answer goes to the first request that waits, as long as that is certain
//! ([`super::certainty`]), and never to one whose client had it when it asked.

use super::certainty::is_behind;
use super::{Pairing, Pending, cache_of};
use crate::capture::RawEvent;
use crate::capture::flow::Piece;
use crate::trace::{Item, Ledger};
use crate::units::WallTime;
use crate::wire::body::Asked;
use crate::wire::head::values;
use crate::wire::stream::{Event, Loss, Over};

impl Pairing {
    /// Takes a piece of the server's byte stream.
    pub fn server(&mut self, piece: Piece<'_>, ledger: &mut Ledger, out: &mut Vec<RawEvent>) {
        self.heard_server = true;
        if self.http2.is_some() {
            return self.frames(false, piece, ledger, out);
        }
        match piece {
            Piece::Gap { len, mark } => {
                let ack = mark.map(|m| m.ack);
                // Between two answers: whole ones may have stood in it, and the next one may answer any that waits.
                if self.responses.may_miss_messages() {
                    self.lose_answers(ack, ledger, out);
                }
                let event = self.responses.gap(Some(len));
                match event {
                    // A head or a body of unknown length.
                    Some(Event::Lost(_)) => self.lose_answers(ack, ledger, out),
                    Some(Event::End { .. }) => {
                        let end = mark.map(|m| m.seq.wrapping_add(len as u32));
                        self.certainty.answered(self.is_final, end);
                    }
                    _ => {}
                }
                self.on_response_event(event, self.last_at, ledger, out);
            }
            Piece::Data { at, bytes, mark } => {
                self.last_at = self.last_at.max(at);
                if let Some(mark) = mark {
                    // What ended in a hole ended in front of this.
                    self.certainty.passed(Some(mark.seq));
                }
                let mut rest = bytes;
                loop {
                    let (n, event) = self.responses.advance(rest, self.asked());
                    let stop = n == 0 && event.is_none();
                    rest = &rest[n..];
                    let passed = (bytes.len() - rest.len()) as u32;
                    match event {
                        Some(Event::Start) => self.answer_seq = mark.map(|m| m.seq.wrapping_add(passed)),
                        Some(Event::End { .. }) => {
                            self.certainty.answered(self.is_final, mark.map(|m| m.seq.wrapping_add(passed)));
                        }
                        Some(Event::Lost(_)) => self.lose_answers(mark.map(|m| m.ack), ledger, out),
                        _ => {}
                    }
                    self.on_response_event(event, at, ledger, out);
                    if self.http2.is_some() {
                        // It was switched to by this answer.
                        let rest = Piece::Data { at, bytes: rest, mark: None };
                        return self.frames(false, rest, ledger, out);
                    }
                    if stop {
                        break;
                    }
                }
            }
        }
        self.flush_done(out);
    }

    /// Something of the answers is missing, in front of a segment that acknowledged `ack`. One answer was in it, that of the only
    /// request that waits, where its client asks one thing at a time, or where the server had not more than was seen of the
    /// client. Of others nobody knows how many.
    fn lose_answers(&mut self, ack: Option<u32>, ledger: &mut Ledger, out: &mut Vec<RawEvent>) {
        let unanswered = self.waiting.iter().filter(|p| p.answer.is_none()).count();
        let had_no_more = ack.zip(self.client).is_some_and(|(ack, client)| !is_behind(ack, client.next));
        if self.from_start && !self.asked_once {
            self.certainty.lost_early();
        } else if unanswered != 1 || !(had_no_more || self.certainty.waits_for_answers()) {
            self.certainty.doubt(0);
        }
        self.give_up_pairs(ledger, out);
    }

    /// What the next response answers.
    fn asked(&self) -> Asked {
        self.waiting.iter().find(|p| p.answer.is_none()).map_or(self.unpaired, |p| p.asked)
    }

    pub(super) fn on_response_event(
        &mut self,
        event: Option<Event>,
        at: WallTime,
        ledger: &mut Ledger,
        out: &mut Vec<RawEvent>,
    ) {
        match event {
            None | Some(Event::Start | Event::Request(_)) => {}
            Some(Event::Response(head)) => {
                self.is_final = head.status >= 200;
                // What the client had when it asked is no answer to that.
                let seq = self.answer_seq.take();
                let front = self.waiting.iter().find(|p| p.answer.is_none());
                if front.and_then(|p| p.acked).zip(seq).is_some_and(|(acked, seq)| is_behind(acked, seq)) {
                    self.certainty.doubt(0);
                    self.give_up_pairs(ledger, out);
                }
                if self.certainty.is_over() {
                    return ledger.count(Item::UnpairedResponses);
                }
                let front = self.waiting.iter_mut().find(|p| p.answer.is_none());
                let tunnel = head.status == 101
                    || front.as_ref().is_some_and(|p| p.asked == Asked::Connect && head.status / 100 == 2);
                match front {
                    Some(p) if head.status >= 200 || tunnel => {
                        (p.status, p.cache) = (Some(head.status), cache_of(&head.headers));
                        self.certainty.told();
                    }
                    Some(_) => {}
                    None => {
                        ledger.count(Item::UnpairedResponses);
                        // An answer to what was asked before the capture began, or one that overtook its request in it:
                        // then all that follow would be off by one.
                        if self.asked_once || self.from_start {
                            self.certainty.doubt(0);
                        } else {
                            self.certainty.lost_early();
                        }
                    }
                }
                if tunnel {
                    let h2c = head.status == 101
                        && values(&head.headers, "upgrade").any(|v| v.eq_ignore_ascii_case(b"h2c"));
                    if h2c {
                        // The request that asked for it is stream 1, answered there (RFC 7540, section 3.2).
                        self.begin_http2(ledger);
                        if let (Some(streams), Some(p)) = (self.http2.as_mut(), self.waiting.pop_front()) {
                            let p = Pending { status: None, ..p };
                            streams.open.insert(1, p);
                        }
                        return;
                    }
                    if let Some(p) = self.waiting.iter_mut().find(|p| p.answer.is_none()) {
                        p.answer = Some((0, at));
                        p.body_len.get_or_insert(0);
                    }
                    self.on_over(Over::Tunnel, ledger);
                }
            }
            Some(Event::End { body_len, .. }) => {
                // Without a final status this was an interim response.
                let front = self.waiting.iter_mut().find(|p| p.answer.is_none());
                if let Some(p) = front.filter(|p| p.status.is_some()) {
                    p.answer = Some((body_len, at));
                }
            }
            Some(Event::Lost(loss)) => {
                ledger.count(if loss == Loss::Gap { Item::LostResponses } else { Item::MalformedResponses });
                self.give_up_pairs(ledger, out);
            }
            // The client's side alone says what a connection carries: a server may greet first.
            Some(Event::Over(_)) => {}
        }
    }
}
