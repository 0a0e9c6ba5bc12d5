//! For how long answers belong to the requests that wait, in their order.
//!
//! HTTP/1 answers carry no name of their request. Behind a loss, or an answer that came before any request it could
//! belong to, the pairs could shift by one: then only those that waited have answers that can be told. They can be told
//! again when three things come together:
//!
//! - before the loss the client was seen to wait for each answer before it asked again, and never to do otherwise;
//! - the request acknowledges exactly what was seen of the server, and the last that was seen of the server acknowledges
//!   exactly what stands before the request: neither side has sent anything that the other has not;
//! - a whole answer came since the request before it began.
//!
//! What this cannot exclude: a client that waits at first, and asks ahead for the first time where that is lost.

use crate::capture::flow::{Mark, Standing};

/// Requests that must have waited for all answers before them until a client is taken for one that never asks ahead.
const ALTERNATED_MIN: u8 = 2;

/// What is known when a request begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun {
    /// Where its first byte stands.
    pub mark: Option<Mark>,
    /// How far the server was seen when it was captured.
    pub server: Option<Standing>,
    /// No answer is under way.
    pub between: bool,
    /// A request in front of it has no whole answer.
    pub unanswered: bool,
    /// It is the first that was seen, of a connection whose beginning was not, and something of the server was seen before it.
    pub amid: bool,
}

/// How many answers can be told apart, and what is known of how the client asks.
#[derive(Debug, Default)]
pub(super) struct Certainty {
    /// Answers that can still be told apart, once something was lost; none lost: all.
    left: Option<usize>,
    /// A request began before the one in front of it had its answer.
    asks_ahead: bool,
    /// Requests that began when all before them had their answers, while that was certain.
    alternated: u8,
    /// A whole answer came since the last request began.
    answered: bool,
    /// What the last request acknowledged.
    acked: Option<u32>,
    /// Something of the client is missing since the last request began.
    hole: bool,
    /// The byte behind the last answer that was told.
    end: Option<u32>,
    /// It is still to be said.
    ended: bool,
    /// Something of the server is missing, or answered nothing, before any request was seen; and the byte behind that, once
    /// it is known.
    early: Option<Option<u32>>,
}

/// Whether `a` is a sequence number behind `b`.
pub(super) fn is_behind(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

impl Certainty {
    /// Something was lost: only so many that wait now have answers that can be told.
    pub(super) fn doubt(&mut self, waiting: usize) {
        self.left = Some(self.left.map_or(waiting, |n| n.min(waiting)));
    }

    /// Nothing was ever lost, as far as that matters here.
    pub(super) fn forget(&mut self) {
        self.left = None;
    }

    /// Whether not one answer can be told.
    pub(super) fn is_over(&self) -> bool {
        self.left == Some(0)
    }

    /// Whether the last of so many that wait can be told its answer.
    pub(super) fn reaches(&self, waiting: usize) -> bool {
        self.left.is_none_or(|n| waiting <= n)
    }

    /// Whether the client is known to ask only when it has its answer.
    pub(super) fn waits_for_answers(&self) -> bool {
        self.alternated >= ALTERNATED_MIN && !self.asks_ahead
    }

    /// One was told.
    pub(super) fn told(&mut self) {
        self.left = self.left.map(|n| n.saturating_sub(1));
    }

    /// One that waited goes without.
    pub(super) fn gave_up(&mut self) {
        self.left = self.left.map(|n| n.saturating_sub(1));
    }

    /// An answer is whole, an interim one or not; `end` is the byte behind it, where that is known exactly.
    pub(super) fn answered(&mut self, is_final: bool, end: Option<u32>) {
        self.answered |= is_final;
        if is_final && !self.is_over() {
            self.end = end;
            self.ended = end.is_none();
        }
    }

    /// The byte of the server that is wanted next. An answer that was in records of TLS ended there at the latest.
    pub(super) fn passed(&mut self, next: Option<u32>) {
        if std::mem::take(&mut self.ended) {
            self.end = next;
        }
        if self.early == Some(None) {
            self.early = Some(next);
        }
    }

    /// Something of the server is missing, or answers nothing that was seen, before any request was.
    pub(super) fn lost_early(&mut self) {
        self.early = Some(None);
    }

    /// Something of the client is missing, in which a request may have been.
    pub(super) fn hole(&mut self) {
        self.hole = true;
    }

    /// A request begins.
    pub(super) fn begin(&mut self, Begun { mark, server, between, unanswered, amid }: Begun) {
        let (answered, hole) = (std::mem::take(&mut self.answered), std::mem::take(&mut self.hole));
        let before = std::mem::replace(&mut self.acked, mark.map(|m| m.ack));
        // What is missing was before the first request where its client had it: nothing that was asked was answered there.
        if let Some(early) = self.early.take()
            && early.zip(mark).is_none_or(|(behind, mark)| is_behind(behind, mark.ack))
        {
            self.doubt(0);
        }
        // What was seen of the server before it may be its answer, unless the client had that.
        if amid && mark.zip(server).is_none_or(|(mark, server)| is_behind(server.next, mark.ack)) {
            self.doubt(0);
        }
        let Some(mark) = mark else { return };
        // The client had nothing new since it asked the last time; or nothing behind the last answer that was told,
        // although what is missing had to be answered as well.
        self.asks_ahead |=
            before == Some(mark.ack) || (hole && self.end.is_some_and(|end| !is_behind(mark.ack, end)));
        let Some(server) = server else { return };
        // It asked before it had the answer that was told last.
        self.asks_ahead |= self.left.is_none() && self.end.is_some_and(|end| is_behind(end, mark.ack));
        if mark.ack != server.next || !between {
            return;
        }
        self.asks_ahead |= unanswered;
        if self.asks_ahead || !answered || server.told != Some(mark.seq) {
            return;
        }
        if self.left.is_none() {
            self.alternated = self.alternated.saturating_add(1);
        } else if self.alternated >= ALTERNATED_MIN {
            self.left = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests of 10 bytes and answers of 100, by number.
    fn next(n: u32) -> Begun {
        let (seq, ack) = (10 * n, 100 * n);
        let server = Some(Standing { next: ack, told: Some(seq) });
        Begun { mark: Some(Mark { seq, ack }), server, between: true, unanswered: false, amid: false }
    }

    /// The answer to the request of that number.
    fn answer(c: &mut Certainty, n: u32) {
        c.answered(true, Some(100 * (n + 1)));
    }

    /// A client that waited `waited` times; behind a loss, and what `change` makes of it, its next request.
    fn resumes(waited: u32, change: impl Fn(&mut Certainty, &mut Begun)) -> bool {
        let mut c = Certainty::default();
        c.begin(next(0));
        for n in 1..=waited {
            answer(&mut c, n - 1);
            c.begin(next(n));
        }
        c.doubt(0);
        answer(&mut c, waited);
        let mut begun = next(waited + 1);
        change(&mut c, &mut begun);
        c.begin(begun);
        !c.is_over()
    }

    #[test]
    fn answers_are_told_again_on_evidence_only() {
        type Change = fn(&mut Certainty, &mut Begun);
        #[rustfmt::skip]
        let table: [(u32, Change, bool); 10] = [
            (2, |_, _| (), true), (1, |_, _| (), false), (0, |_, _| (), false),
            (5, |_, b| b.mark = None, false),
            (5, |_, b| b.server = None, false),
            (5, |_, b| b.between = false, false),
            (5, |_, b| b.unanswered = true, false),
            // No answer since; the server has not all that was asked before; the client has not all, or more.
            (5, |c, _| c.answered = false, false),
            (5, |_, b| b.server = b.server.map(|s| Standing { told: s.told.map(|t| t - 10), ..s }), false),
            (5, |_, b| b.mark = b.mark.map(|m| Mark { ack: m.ack - 1, ..m }), false),
        ];
        for (i, (waited, change, want)) in table.into_iter().enumerate() {
            assert_eq!(resumes(waited, change), want, "row {i}");
        }
    }

    #[test]
    fn who_asked_ahead_once_is_not_believed_again() {
        type Ahead = fn(&mut Certainty);
        #[rustfmt::skip]
        let table: [(Ahead, bool); 5] = [
            (|_| (), true),
            // With the same acknowledgement; with one before what had come; while another waits; behind a hole in which another was.
            (|c| c.begin(Begun { server: None, ..next(9) }), false),
            (|c| { answer(c, 9); c.begin(Begun { mark: Some(Mark { seq: 100, ack: 950 }), ..next(10) }); }, false),
            (|c| c.begin(Begun { unanswered: true, ..next(10) }), false),
            (|c| { answer(c, 9); c.hole(); c.begin(Begun { server: None, ..next(10) }); }, false),
        ];
        for (i, (ahead, want)) in table.into_iter().enumerate() {
            let mut c = Certainty::default();
            for n in 0..10 {
                c.begin(next(n));
                if n < 9 {
                    answer(&mut c, n);
                }
            }
            ahead(&mut c);
            c.doubt(0);
            for n in 20..30 {
                answer(&mut c, n - 1);
                c.begin(next(n));
            }
            assert_eq!(!c.is_over(), want, "row {i}");
            assert_eq!(c.waits_for_answers(), want);
        }
    }

    /// A hole in the handshake of TLS costs no answers; one in which the first answer may have been costs them.
    #[test]
    fn what_is_missing_before_the_first_request_answers_nothing() {
        for (behind, want) in [(Some(0), false), (Some(50), true), (None, true)] {
            let mut c = Certainty::default();
            c.lost_early();
            c.passed(behind);
            c.begin(next(0));
            assert_eq!(c.is_over(), want, "{behind:?}");
        }
    }

    #[test]
    fn a_first_request_in_the_middle_may_have_its_answer_behind_it() {
        type Change = fn(&mut Begun);
        let table: [(Change, bool); 4] = [
            (|_| (), false),
            (|b| b.mark = None, true),
            (|b| b.server = None, true),
            (|b| b.server = Some(Standing { next: 40, told: None }), true),
        ];
        for (i, (change, want)) in table.into_iter().enumerate() {
            let (mut c, mut begun) = (Certainty::default(), Begun { amid: true, ..next(0) });
            change(&mut begun);
            c.begin(begun);
            assert_eq!(c.is_over(), want, "row {i}");
        }
    }

    #[test]
    fn those_that_waited_have_their_answers() {
        let mut c = Certainty::default();
        assert!(c.reaches(1_000) && !c.is_over());
        c.doubt(3);
        c.doubt(5);
        c.gave_up();
        assert!(c.reaches(2) && !c.reaches(3) && !c.is_over());
        c.told();
        c.told();
        assert!(c.is_over());
        c.told();
        c.forget();
        assert!(!c.is_over());
    }
}
