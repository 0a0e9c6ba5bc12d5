//! For how long answers belong to the requests that wait, in their order.
//!
//! HTTP/1 answers carry no name of their request. Behind a loss, or an answer that came before any request it could
//! belong to, the pairs could shift by one: then only those that waited have answers that can be told. They can be told
//! again where an acknowledgement says which comes next: of a client that was seen to wait for all answers before it asked
//! again, and never otherwise, and that has acknowledged exactly what was seen of its server, the next answer is its own.

/// Requests that must have waited for all answers before them until a client is taken for one that never asks ahead.
const ALTERNATED_MIN: u8 = 2;

/// What is known when a request begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun {
    /// Its segment was the next one of its stream, and acknowledged all that was seen of the server, and no more.
    pub in_step: bool,
    /// No answer is under way.
    pub between: bool,
    /// A request in front of it has no whole answer.
    pub unanswered: bool,
    /// It is not the first of the connection.
    pub again: bool,
}

/// How many answers can be told apart, and what is known of how the client asks.
#[derive(Debug, Default)]
pub(super) struct Certainty {
    /// Answers that can still be told apart, once something was lost; none lost: all.
    left: Option<usize>,
    /// Something of the server was seen since the last request began in step, or may have been.
    heard: bool,
    /// A request began before the one in front of it had its answer.
    asks_ahead: bool,
    /// Requests that began when all before them had their answers, while that was certain.
    alternated: u8,
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

    /// One was told.
    pub(super) fn told(&mut self) {
        self.left = self.left.map(|n| n.saturating_sub(1));
    }

    /// Something of the server was seen.
    pub(super) fn hear(&mut self) {
        self.heard = true;
    }

    /// A request begins.
    pub(super) fn begin(&mut self, request: Begun) {
        // Only two requests that are both in step tell that nothing came between them.
        let heard = std::mem::replace(&mut self.heard, !request.in_step);
        if !request.in_step || !request.between {
            return;
        }
        self.asks_ahead |= request.unanswered || (request.again && !heard);
        if self.asks_ahead {
            return;
        }
        if self.left.is_none() {
            self.alternated = self.alternated.saturating_add(u8::from(request.again));
        } else if self.alternated >= ALTERNATED_MIN {
            self.left = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEXT: Begun = Begun { in_step: true, between: true, unanswered: false, again: true };

    /// A client that waited `waited` times, then `next` behind a loss: whether answers are told again.
    fn resumes(waited: usize, next: Begun) -> bool {
        let mut c = Certainty::default();
        c.begin(Begun { again: false, ..NEXT });
        for _ in 0..waited {
            c.hear();
            c.begin(NEXT);
        }
        c.doubt(0);
        c.hear();
        c.begin(next);
        !c.is_over()
    }

    #[test]
    fn answers_are_told_again_on_evidence_only() {
        #[rustfmt::skip]
        let table = [
            (2, NEXT, true), (1, NEXT, false), (0, NEXT, false),
            (5, Begun { in_step: false, ..NEXT }, false),
            (5, Begun { between: false, ..NEXT }, false),
            (5, Begun { unanswered: true, ..NEXT }, false),
        ];
        for (waited, next, want) in table {
            assert_eq!(resumes(waited, next), want, "{waited} {next:?}");
        }
        // Who asked ahead once is not believed again.
        for ahead in [true, false] {
            let mut c = Certainty::default();
            for _ in 0..9 {
                c.hear();
                c.begin(NEXT);
            }
            if ahead {
                c.begin(NEXT);
            }
            c.doubt(0);
            for _ in 0..9 {
                c.hear();
                c.begin(NEXT);
            }
            assert_eq!(c.is_over(), ahead, "two requests and nothing between them");
        }
    }

    #[test]
    fn those_that_waited_have_their_answers() {
        let mut c = Certainty::default();
        assert!(c.reaches(1_000) && !c.is_over());
        c.doubt(2);
        c.doubt(5);
        assert!(c.reaches(2) && !c.reaches(3) && !c.is_over());
        c.told();
        c.told();
        assert!(c.is_over());
        c.told();
        c.forget();
        assert!(!c.is_over());
    }
}
