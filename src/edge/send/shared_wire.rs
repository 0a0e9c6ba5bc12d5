//! The wire under a shared connection: what has left, what may still leave, and whether anything comes back.
//!
//! hyper takes a request at once and writes it when it can. What lies in between must not outlive its leave: after a stop,
//! or when the grant it was sent under would be over, the connection is closed instead, and a body that is under way
//! ends. A request counts as written when the last byte of its head has left, not before.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::edge::clock::Clock;
use crate::govern::latch::Latch;
use crate::limits::GRANT_TTL;
use crate::plan::body::Filler;
use crate::units::RunTime;
use crate::wire::http2::SentFrames;

/// One request on its way to the wire.
#[derive(Debug)]
pub(super) struct Mark {
    /// When it was handed over.
    pub(super) handed: RunTime,
    /// When the last byte of its head had left.
    pub(super) written: Cell<Option<RunTime>>,
    /// Nobody waits for it any more.
    pub(super) over: Cell<bool>,
}

/// What is known of a shared connection's wire.
#[derive(Debug)]
pub(super) struct Wire {
    clock: Clock,
    latch: Latch,
    /// Handed over and not written, in order.
    unwritten: RefCell<VecDeque<Rc<Mark>>>,
    last_read: Cell<RunTime>,
    /// A request got no byte at all in its time: whoever is there does not answer.
    dead: Cell<bool>,
}

impl Wire {
    pub(super) fn new(clock: Clock, latch: Latch) -> Rc<Self> {
        let unwritten = RefCell::default();
        Rc::new(Self {
            clock,
            latch,
            unwritten,
            last_read: Cell::new(RunTime::START),
            dead: Cell::new(false),
        })
    }

    /// A request is handed over.
    pub(super) fn hand_over(&self, now: RunTime) -> Rc<Mark> {
        let mark = Rc::new(Mark { handed: now, written: Cell::new(None), over: Cell::new(false) });
        let mut unwritten = self.unwritten.borrow_mut();
        unwritten.retain(|m| !m.over.get());
        unwritten.push_back(Rc::clone(&mark));
        mark
    }

    /// A request got no answer in its time; where nothing at all came since it was handed over, the connection is dead.
    pub(super) fn timed_out(&self, mark: &Mark) {
        self.dead.set(self.dead.get() || self.last_read.get() <= mark.handed);
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.get()
    }

    /// Why nothing more may be written now: requests that have not left have lost their leave.
    fn objection(&self, now: RunTime) -> Option<&'static str> {
        let mut unwritten = self.unwritten.borrow_mut();
        unwritten.retain(|m| !m.over.get());
        let oldest = unwritten.front()?;
        if self.latch.is_set() {
            return Some("the run was stopped");
        }
        (now.since(oldest.handed) > GRANT_TTL)
            .then_some("a request waited for the wire longer than its grant lives")
    }

    /// So many heads have left.
    fn wrote(&self, heads: usize, now: RunTime) {
        let mut unwritten = self.unwritten.borrow_mut();
        for _ in 0..heads {
            if let Some(mark) = unwritten.pop_front() {
                mark.written.set(Some(now));
            }
        }
    }
}

/// The transport of a shared connection.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    wire: Rc<Wire>,
    frames: SentFrames,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, wire: Rc<Wire>) -> Self {
        Self { stream, wire, frames: SentFrames::default() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            this.wire.last_read.set(this.wire.clock.now());
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(why) = this.wire.objection(this.wire.clock.now()) {
            return Poll::Ready(Err(io::Error::other(why)));
        }
        let n = ready!(Pin::new(&mut this.stream).poll_write(cx, buf))?;
        let heads = this.frames.feed(buf.get(..n).unwrap_or_default());
        this.wire.wrote(heads, this.wire.clock.now());
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// What a request carries.
#[derive(Debug)]
pub(super) enum Carried {
    /// All of it.
    Whole(Option<Bytes>),
    /// Made up, so much of it sent.
    Filler(Filler, u64),
}

/// The body of a request. It ends early when the run is stopped or nobody waits for its answer any more.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) carried: Carried,
    /// Its request and the stop of the run, once it is handed over.
    pub(super) until: Option<(Rc<Mark>, Latch)>,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let part = match &mut this.carried {
            Carried::Whole(body) => body.take(),
            Carried::Filler(filler, at) => {
                let part = filler.from(*at);
                *at += part.len() as u64;
                (!part.is_empty()).then(|| Bytes::from_static(part))
            }
        };
        let Some(part) = part else { return Poll::Ready(None) };
        // Without a request that it belongs to it goes nowhere.
        let goes_on = this.until.as_ref().is_some_and(|(mark, latch)| !mark.over.get() && !latch.is_set());
        Poll::Ready(Some(if goes_on {
            Ok(Frame::data(part))
        } else {
            Err(io::Error::other("the request is over, or the run was stopped"))
        }))
    }

    fn is_end_stream(&self) -> bool {
        match &self.carried {
            Carried::Whole(body) => body.is_none(),
            Carried::Filler(filler, at) => *at >= filler.len(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match &self.carried {
            Carried::Whole(body) => body.as_ref().map_or(0, |b| b.len() as u64),
            Carried::Filler(filler, at) => filler.len() - at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::govern::latch::StopCause;

    fn at(ms: u64) -> RunTime {
        RunTime::from_millis(ms)
    }

    fn wire() -> (Rc<Wire>, Latch) {
        let latch = Latch::new();
        (Wire::new(Clock::start(), latch.clone()), latch)
    }

    #[test]
    fn what_has_not_left_may_not_leave_after_a_stop_or_its_grant() {
        let (wire, latch) = wire();
        assert_eq!(wire.objection(at(9_000)), None, "nothing waits");
        let (one, two) = (wire.hand_over(at(1_000)), wire.hand_over(at(1_200)));
        let ttl = GRANT_TTL.as_millis() as u64;
        assert_eq!(wire.objection(at(1_000 + ttl)), None);
        assert!(wire.objection(at(1_001 + ttl)).is_some());
        wire.wrote(1, at(1_300));
        assert_eq!((one.written.get(), two.written.get()), (Some(at(1_300)), None));
        assert_eq!(wire.objection(at(1_200 + ttl)), None, "the second has its own time");
        latch.set(StopCause::Signal);
        assert_eq!(wire.objection(at(1_301)), Some("the run was stopped"));
        two.over.set(true);
        assert_eq!(wire.objection(at(1_301)), None, "what nobody waits for does not hold answers back");
        wire.wrote(1, at(1_400));
        assert_eq!(two.written.get(), None);
    }

    #[test]
    fn marks_do_not_gather_on_a_wire_that_takes_nothing() {
        let (wire, _) = wire();
        for i in 0..1_000 {
            wire.hand_over(at(i)).over.set(true);
        }
        assert_eq!(wire.unwritten.borrow().len(), 1);
    }

    #[test]
    fn a_connection_is_dead_when_nothing_came_back_at_all() {
        let (wire, _) = wire();
        wire.last_read.set(at(500));
        let mark = wire.hand_over(at(400));
        wire.timed_out(&mark);
        assert!(!wire.is_dead(), "something came since");
        let mark = wire.hand_over(at(500));
        wire.timed_out(&mark);
        assert!(wire.is_dead());
    }

    #[test]
    fn a_body_ends_with_its_request_and_with_the_run() {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut frames = |end: fn(&Mark, &Latch), known: bool| {
            let (wire, latch) = wire();
            let mark = wire.hand_over(at(1));
            let carried = Carried::Filler(Filler::new(None, 200_000), 0);
            let until = known.then(|| (Rc::clone(&mark), latch.clone()));
            let mut body = Outgoing { carried, until };
            let mut next = || match Pin::new(&mut body).poll_frame(&mut cx) {
                Poll::Ready(Some(frame)) => frame.is_ok(),
                other => panic!("{other:?}"),
            };
            let first = next();
            end(&mark, &latch);
            (first, next())
        };
        assert_eq!(frames(|_, _| (), true), (true, true));
        assert_eq!(frames(|mark, _| mark.over.set(true), true), (true, false));
        assert_eq!(frames(|_, latch| latch.set(StopCause::KillFile), true), (true, false));
        assert_eq!(frames(|_, _| (), false), (false, false));
    }
}
