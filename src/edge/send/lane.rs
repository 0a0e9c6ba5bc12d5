//! One lane: one HTTP/1.1 connection of one session, one request at a time, in order.
//!
//! Sending is a copy of prepared bytes and one write, made right where the departure is dispatched when the connection
//! is idle; reading is a task that wakes when the answer comes. A request whose predecessor has not been answered waits
//! in the lane, up to a limit, because order within a session is part of the shape; past it, it is shed and not sent
//! later. Nothing is ever sent twice, and no byte leaves without a [`Slot`](crate::govern::gate::Slot), which only a
//! permit becomes.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::book::{Book, Due};
use super::connect::{Connector, Stream};
use super::mux::{self, Mux};
use super::session::Session;
use crate::edge::clock::{Clock, wall};
use crate::govern::gate::{ConnectPermit, Gate, ShedReason};
use crate::govern::latch::StopCause;
use crate::limits::{LANE_QUEUE_MAX, RESPONSE_BYTES_MAX};
use crate::measure::outcome::{Ending, ErrorKind, RunPhase};
use crate::measure::tally::ConnectTimes;
use crate::plan::body::Filler;
use crate::plan::cookies::Now;
use crate::plan::prepared::{Body, Marking, Prepared, written_path};
use crate::plan::session::AccountPool;
use crate::plan::take::{Answer, Take};
use crate::units::{NANOS_PER_SEC, RunTime};
use crate::wire::answer::{AnswerError, AnswerHead, AnswerReader, Found, Keep, lines_of};

/// Longest quiet that an answer may ask for: beyond it the run is over anyway.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

/// Bytes read at once; one buffer for all lanes of a worker, because nothing of an answer is kept.
const READ_BYTES: usize = 64 * 1024;

/// Bytes of answers read in one turn of a lane, so that a fast one does not starve the others.
const TURN_BYTES_MAX: usize = 4 * READ_BYTES;

/// What all lanes of a worker share.
#[derive(Debug)]
pub struct LaneContext {
    /// The gate.
    pub gate: Arc<Gate>,
    /// The clock.
    pub clock: Clock,
    /// The book.
    pub book: Book,
    /// How to open connections.
    pub connector: Connector,
    /// How traffic is marked.
    pub marking: Marking,
    /// Longest time of one request.
    pub request_timeout: Duration,
    /// Longest wait for the previous answer.
    pub session_blocked_max: Duration,
    /// Number of the next request, for trace ids.
    pub number: Cell<u64>,
    /// Where answers are read.
    pub scratch: RefCell<Box<[u8]>>,
    /// Answers teach sessions: not in a pool, where a connection is nobody's.
    pub learns: bool,
    /// Accounts that no session of this worker uses now.
    pub accounts: RefCell<AccountPool>,
}

/// A made-up body up to this size leaves with its head, in one write.
const BODY_WITH_HEAD_MAX: u64 = 16 * 1024;

impl LaneContext {
    /// A buffer for [`LaneContext::scratch`].
    #[must_use]
    pub fn scratch() -> RefCell<Box<[u8]>> {
        RefCell::new(vec![0; READ_BYTES].into_boxed_slice())
    }
}

/// The worker's end of a lane. Dropping it lets the lane finish what it holds and close.
#[derive(Debug)]
pub struct Lane(Rc<Held>);

/// A lane as the worker, its own task and the book know it.
#[derive(Debug)]
pub struct Held {
    context: Rc<LaneContext>,
    session: Session,
    /// It tries HTTP/2.
    http2: bool,
    state: RefCell<State>,
    /// The lane's task, asleep.
    task: RefCell<Option<Waker>>,
}

#[derive(Debug, Default)]
struct State {
    connection: Option<Stream>,
    /// The connection, where it speaks HTTP/2.
    mux: Option<Mux>,
    /// Somebody asked for a connection ahead of its first request.
    wanted: Option<RunPhase>,
    opened_before: bool,
    closing: bool,
    /// The request under way.
    current: Option<Due>,
    waiting: VecDeque<Due>,
    out: Vec<u8>,
    out_at: usize,
    /// The head under way was offered to the kernel at least once.
    begun: bool,
    answer: AnswerReader,
    head: AnswerHead,
    /// The request asked for the connection to end with its answer.
    closes: bool,
    /// The made-up body under way, and how much of it was written.
    body: Option<(Filler, u64)>,
}

/// A connection: for one request at a time, or for many.
enum Link {
    One(Stream),
    Many(Mux),
}

/// What the lane's task must do.
enum Turn {
    Connect(RunPhase),
    End,
}

impl Lane {
    /// Starts a lane; must be called inside a `LocalSet`.
    #[must_use]
    pub fn start(context: Rc<LaneContext>, session: Session, http2: bool) -> Self {
        let held =
            Rc::new(Held { context, session, http2, state: RefCell::default(), task: RefCell::default() });
        tokio::task::spawn_local(run(Rc::clone(&held)));
        Self(held)
    }

    /// Asks for the connection ahead of its first request, as recorded.
    pub fn open(&self, phase: RunPhase) {
        self.0.state.borrow_mut().wanted = Some(phase);
        self.0.wake();
    }

    /// Whether a request would be sent at once.
    #[must_use]
    pub fn is_free(&self) -> bool {
        let state = self.0.state.borrow();
        let one = state.connection.is_some() && state.current.is_none();
        state.waiting.is_empty() && (one || state.mux.as_ref().is_some_and(Mux::has_room))
    }

    /// Requests it holds.
    #[must_use]
    pub fn load(&self) -> usize {
        let state = self.0.state.borrow();
        state.waiting.len() + usize::from(state.current.is_some())
    }

    /// Hands a due request over: it is sent now if the connection is idle.
    pub fn request(&self, due: Due) {
        let held = &self.0;
        let mut state = held.state.borrow_mut();
        if state.waiting.is_empty() && state.mux.as_ref().is_some_and(Mux::has_room) {
            held.send_mux(&mut state, due, true);
            return;
        }
        let idle = state.connection.is_some() && state.current.is_none() && state.waiting.is_empty();
        if idle {
            held.send(&mut state, due, true);
            return;
        }
        // What comes after this is not our lateness.
        due.lag();
        if state.waiting.len() >= LANE_QUEUE_MAX {
            return due.shed(ShedReason::SessionBlocked);
        }
        let full = state.mux.as_ref().is_some_and(|m| m.is_alive() && !m.has_room());
        if full {
            held.wake_when_too_late(due.due);
        }
        state.waiting.push_back(due);
        if state.connection.is_none() {
            held.wake();
        }
    }
}

impl State {
    /// Whether there is a connection that may take requests, now or later.
    fn is_connected(&self) -> bool {
        self.connection.is_some() || self.mux.as_ref().is_some_and(Mux::is_alive)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.0.state.borrow_mut().closing = true;
        self.0.wake();
    }
}

impl Held {
    /// What all lanes share.
    pub(super) fn context(&self) -> Rc<LaneContext> {
        Rc::clone(&self.context)
    }

    /// The session.
    pub(super) fn session(&self) -> Session {
        Rc::clone(&self.session)
    }

    /// Looks at what waits once it has waited too long: a connection that is there but full wakes nobody.
    fn wake_when_too_late(self: &Rc<Self>, due: RunTime) {
        let c = &self.context;
        let left = due.plus(c.session_blocked_max).since(c.clock.now()) + Duration::from_millis(1);
        let held = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(left).await;
            if let Some(held) = held.upgrade() {
                held.wake();
            }
        });
    }

    /// Hands one request to the connection that others share.
    fn send_mux(self: &Rc<Self>, state: &mut State, mut due: Due, own_lag: bool) {
        let c = &self.context;
        let planned = Arc::clone(&due.planned);
        let prepared = planned.prepared.get_or_init(|| Prepared::of(&planned, &c.marking));
        let Some(prepared) = prepared else { return due.shed(ShedReason::Connecting) };
        let number = c.number.replace(c.number.get() + 1);
        if !self.fill(prepared, number, state) {
            return due.shed(ShedReason::NoValue);
        }
        let path = written_path(&state.out).1.to_vec();
        let request = mux::request(&state.out, c.marking.https, prepared);
        let (Some(request), Some(mux)) = (request, &mut state.mux) else {
            return due.shed(ShedReason::Connecting);
        };
        let now = c.clock.now();
        match c.gate.permit(now).and_then(|permit| permit.spend(now)) {
            Ok(slot) => {
                // Its time-out is its own: the connection is others', too.
                due.sent(now, slot, Weak::new(), own_lag);
                mux.send(self, due, now, request, path);
            }
            Err(reason) if own_lag => due.shed(reason),
            Err(reason) => due.shed_late(reason),
        }
    }

    pub(super) fn wake(&self) {
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }

    /// Sends one request on the idle connection.
    fn send(self: &Rc<Self>, state: &mut State, mut due: Due, own_lag: bool) {
        let c = &self.context;
        let planned = Arc::clone(&due.planned);
        let prepared = planned.prepared.get_or_init(|| Prepared::of(&planned, &c.marking));
        // Planning accepts only what can be written; if that were ever wrong, it is not sent.
        let Some(prepared) = prepared else { return due.shed(ShedReason::Connecting) };
        let number = c.number.replace(c.number.get() + 1);
        if !self.fill(prepared, number, state) {
            return due.shed(ShedReason::NoValue);
        }
        let now = c.clock.now();
        let slot = match c.gate.permit(now).and_then(|permit| permit.spend(now)) {
            Ok(slot) => slot,
            Err(reason) if own_lag => return due.shed(reason),
            // Behind a slow answer: the burst after it is not sent, and is not forgotten either.
            Err(reason) => return due.shed_late(reason),
        };
        (state.out_at, state.begun) = (0, false);
        state.answer.begin(prepared.asked, keep(&c.marking.rewrite.takes, &prepared.takes));
        state.closes = prepared.closes;
        due.sent(now, slot, Rc::downgrade(self), own_lag);
        state.current = Some(due);
        // The task reads; it also writes what the kernel does not take now.
        let mut cx = Context::from_waker(Waker::noop());
        match self.write(state, &mut cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => {
                self.fail(state, kind_of(&error));
                self.wake();
            }
            Poll::Pending => self.wake(),
        }
    }

    /// Makes the bytes of a request from what its session knows; whether that is enough. Where it is not, the rest of
    /// the session is not sent either.
    fn fill(&self, prepared: &Prepared, number: u64, state: &mut State) -> bool {
        let c = &self.context;
        let mut session = self.session.state.borrow_mut();
        let fits = !session.broken
            && (!prepared.needs_account || c.accounts.borrow_mut().lend(&mut session))
            && prepared.write(&c.marking, number, &session, c.clock.now(), &mut state.out).is_ok();
        // On a pool's connection the next request is another session's.
        session.broken |= !fits && c.learns;
        state.body = None;
        if let Body::Filler(filler) = prepared.body {
            if filler.len() <= BODY_WITH_HEAD_MAX {
                let begin = state.out.len() as u64;
                loop {
                    let part = filler.from(state.out.len() as u64 - begin);
                    if part.is_empty() {
                        break;
                    }
                    state.out.extend_from_slice(part);
                }
            } else {
                state.body = Some((filler, 0));
            }
        }
        fits
    }

    /// Writes what is left of the request under way, and notes when all of its head is with the kernel.
    fn write(&self, state: &mut State, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let State { connection: Some(stream), current: Some(due), out, out_at, begun, body, .. } = state
        else {
            return Poll::Ready(Ok(()));
        };
        if due.written.is_some() && body.is_none() {
            return Poll::Ready(Ok(()));
        }
        // The rest of a request that the kernel would not take at once: not after the latch.
        if *begun && self.context.gate.latch().is_set() {
            return Poll::Ready(Err(io::Error::other("the run was stopped")));
        }
        *begun = true;
        while *out_at < out.len() {
            let part = out.get(*out_at..).unwrap_or_default();
            *out_at += ready!(poll_some(stream, cx, part))?;
        }
        if due.written.is_none() {
            if stream.is_buffered() {
                ready!(Pin::new(&mut *stream).poll_flush(cx))?;
            }
            due.written = Some(self.context.clock.now());
        }
        while let Some((filler, at)) = body {
            let part = filler.from(*at);
            if part.is_empty() {
                if stream.is_buffered() {
                    ready!(Pin::new(&mut *stream).poll_flush(cx))?;
                }
                *body = None;
                break;
            }
            *at += ready!(poll_some(stream, cx, part))? as u64;
        }
        Poll::Ready(Ok(()))
    }

    /// The request under way has no usable answer; the connection is of no more use.
    fn fail(&self, state: &mut State, kind: ErrorKind) {
        state.connection = None;
        // Also where not all of the head was written: it is the target's doing, and the governor must hear of it.
        if let Some(due) = state.current.take() {
            due.ended(Ending::Error(kind), 0);
        }
    }

    /// The request under way took too long.
    pub fn time_out(&self) {
        let mut state = self.state.borrow_mut();
        state.connection = None;
        if let Some(due) = state.current.take() {
            due.ended(Ending::Timeout, 0);
        }
        drop(state);
        self.wake();
    }

    /// Sends the next one that waits, if the connection is idle; sheds those that waited too long.
    fn next(self: &Rc<Self>, state: &mut State) {
        while state.mux.as_ref().is_some_and(Mux::has_room) {
            let Some(due) = state.waiting.pop_front() else { return };
            if self.context.clock.now() > due.due.plus(self.context.session_blocked_max) {
                due.shed(ShedReason::SessionBlocked);
            } else {
                self.send_mux(state, due, false);
            }
        }
        while state.connection.is_some() && state.current.is_none() {
            let Some(due) = state.waiting.pop_front() else { return };
            if self.context.clock.now() > due.due.plus(self.context.session_blocked_max) {
                due.shed(ShedReason::SessionBlocked);
            } else {
                self.send(state, due, false);
            }
        }
    }

    /// One turn of the lane's task: writes, reads, sends what waits, until nothing is ready.
    fn turn(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<Turn> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|t| t.will_wake(cx.waker())) {
            *task = Some(cx.waker().clone());
        }
        drop(task);
        if let Poll::Ready(Err(error)) = self.write(state, cx) {
            self.fail(state, kind_of(&error));
        }
        // The next one leaves only when the kernel has nothing more of this connection, not even its end.
        if self.read(state, cx) {
            self.next(state);
        }
        let idle = state.current.is_none() && state.mux.as_ref().is_none_or(Mux::is_idle);
        if state.closing && idle && state.waiting.is_empty() {
            return Poll::Ready(Turn::End);
        }
        let wanted = state.wanted.take();
        if state.connection.is_none() && state.mux.as_ref().is_none_or(|m| !m.has_room()) {
            self.expire(state, ShedReason::SessionBlocked);
        }
        if !state.is_connected()
            && let Some(phase) = state.waiting.front().map(|d| d.phase).or(wanted)
        {
            return Poll::Ready(Turn::Connect(phase));
        }
        Poll::Pending
    }

    /// Reads what is there; whether that was all of it.
    fn read(&self, state: &mut State, cx: &mut Context<'_>) -> bool {
        let context = Rc::clone(&self.context);
        let mut scratch = context.scratch.borrow_mut();
        let mut taken = 0;
        while let Some(stream) = &mut state.connection {
            let mut buf = ReadBuf::new(&mut scratch);
            match Pin::new(stream).poll_read(cx, &mut buf) {
                Poll::Pending => return true,
                Poll::Ready(Err(error)) => self.fail(state, kind_of(&error)),
                Poll::Ready(Ok(())) if buf.filled().is_empty() => self.eof(state),
                Poll::Ready(Ok(())) => {
                    let (now, bytes) = (context.clock.now(), buf.filled());
                    taken += bytes.len();
                    self.take(state, bytes, now);
                }
            }
            if taken >= TURN_BYTES_MAX {
                cx.waker().wake_by_ref();
                return false;
            }
        }
        true
    }

    /// Bytes of an answer came.
    fn take(&self, state: &mut State, bytes: &[u8], now: RunTime) {
        if let Some(due) = &mut state.current {
            due.first_byte.get_or_insert(now);
        }
        let mut rest = bytes;
        loop {
            if state.current.is_none() {
                if !rest.is_empty() {
                    // Bytes that nobody asked for: the next answer would be read out of them.
                    state.connection = None;
                }
                return;
            }
            let before = state.answer.body_bytes();
            let (n, found) = match state.answer.feed(rest) {
                Ok(fed) => fed,
                Err(error) => return self.fail(state, kind_of_answer(error)),
            };
            self.context.book.received(state.answer.body_bytes() - before);
            rest = rest.get(n..).unwrap_or_default();
            if state.answer.body_bytes() > RESPONSE_BYTES_MAX {
                return self.fail(state, ErrorKind::TooLarge);
            }
            match found {
                Some(Found::Interim(head)) => heed(&self.context, head, now),
                Some(Found::Head(head)) => {
                    heed(&self.context, head, now);
                    state.head = head;
                }
                Some(Found::End { body_bytes }) => self.end(state, body_bytes, now),
                None if n == 0 || rest.is_empty() => return,
                None => {}
            }
        }
    }

    fn end(&self, state: &mut State, body_bytes: u64, now: RunTime) {
        let Some(mut due) = state.current.take() else { return };
        due.cache = state.head.cache;
        self.learn_from(state, &due);
        // An answer before all of the request was written leaves a connection that cannot be trusted.
        let early = due.written.is_none() || state.body.take().is_some();
        if !state.head.keep_alive || state.closes || early {
            state.connection = None;
        }
        due.ended_at(now, Ending::Answered(state.head.status), body_bytes);
    }

    /// Keeps what the answer gives the session: cookies and values.
    fn learn_from(&self, state: &State, due: &Due) {
        let head = state.answer.kept_head();
        if head.is_empty() {
            return;
        }
        let takes = match due.planned.prepared.get() {
            Some(Some(prepared)) => &prepared.takes[..],
            Some(None) | None => &[],
        };
        let lines = lines_of(head);
        let answer = Answer { headers: &lines, body: state.answer.kept_body() };
        self.learn(state.head.status, takes, written_path(&state.out).1, &answer);
    }

    /// Keeps cookies and values of an answer to a request for `path`.
    pub(super) fn learn(&self, status: u16, takes: &[u16], path: &[u8], answer: &Answer<'_>) {
        if !self.context.learns {
            return;
        }
        let unix_s = (wall().0 / NANOS_PER_SEC) as i64;
        let now = Now { run: self.context.clock.now(), unix_s };
        let mut session = self.session.state.borrow_mut();
        session.heed(&self.context.marking.rewrite, takes, status, path, answer, now);
    }

    /// The target closed its side.
    fn eof(&self, state: &mut State) {
        match state.answer.closed() {
            Ok(Some(Found::End { body_bytes })) => self.end(state, body_bytes, self.context.clock.now()),
            Ok(_) if state.current.is_none() => {}
            Ok(_) | Err(_) => self.fail(state, ErrorKind::Closed),
        }
        state.connection = None;
    }

    /// Opens a connection, and begins to speak HTTP/2 on it where both sides want to.
    async fn open(self: &Rc<Self>, permit: ConnectPermit) -> anyhow::Result<(Link, ConnectTimes)> {
        let c = &self.context;
        let opened = c.connector.open(permit, c.gate.latch(), &self.session, self.http2).await;
        let (stream, times) = opened?;
        if !times.http2 {
            return Ok((Link::One(stream), times));
        }
        let mux = tokio::time::timeout(c.connector.timeout, Mux::start(stream, self)).await;
        Ok((
            Link::Many(mux.map_err(|_| anyhow::anyhow!("HTTP/2 did not begin within connect_timeout"))??),
            times,
        ))
    }

    async fn connect(self: &Rc<Self>, phase: RunPhase) {
        let c = &self.context;
        let opened = match c.gate.connect(c.clock.now()) {
            Ok(permit) => self.open(permit).await.map_err(|error| {
                c.book.connect_failed(phase, &format!("{error:#}"));
                ShedReason::Connecting
            }),
            Err(reason) => Err(reason),
        };
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        match opened {
            Ok((link, times)) => {
                c.book.connected(phase, times, state.opened_before);
                state.opened_before = true;
                match link {
                    Link::One(stream) => (state.connection, state.mux) = (Some(stream), None),
                    Link::Many(mux) => state.mux = Some(mux),
                }
                self.expire(state, ShedReason::Connecting);
                self.next(state);
            }
            // The one that asked for it is lost; the next one tries again.
            Err(reason) => {
                if let Some(due) = state.waiting.pop_front() {
                    due.shed(reason);
                }
                self.expire(state, ShedReason::Connecting);
            }
        }
    }

    /// Sheds what has waited too long.
    fn expire(&self, state: &mut State, reason: ShedReason) {
        let (limit, now) = (self.context.session_blocked_max, self.context.clock.now());
        while state.waiting.front().is_some_and(|d| now > d.due.plus(limit)) {
            if let Some(due) = state.waiting.pop_front() {
                due.shed(reason);
            }
        }
    }
}

async fn run(held: Rc<Held>) {
    loop {
        match poll_fn(|cx| held.turn(cx)).await {
            Turn::Connect(phase) => held.connect(phase).await,
            Turn::End => return,
        }
    }
}

/// Writes some of `part`: at least one byte.
fn poll_some(stream: &mut Stream, cx: &mut Context<'_>, part: &[u8]) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(stream).poll_write(cx, part)) {
        Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        other => Poll::Ready(other),
    }
}

/// What of an answer is kept for what is taken from it.
fn keep(rules: &[Take], takes: &[u16]) -> Keep {
    let of = |n: &u16| match rules.get(usize::from(*n)) {
        Some(take) if take.needs_body() => Keep::Body,
        Some(_) | None => Keep::Head,
    };
    takes.iter().map(of).max().unwrap_or_default()
}

fn kind_of(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => ErrorKind::Reset,
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionAborted => ErrorKind::Closed,
        _ => ErrorKind::Other,
    }
}

fn kind_of_answer(error: AnswerError) -> ErrorKind {
    match error {
        AnswerError::Closed => ErrorKind::Closed,
        AnswerError::Head | AnswerError::Length | AnswerError::Chunk | AnswerError::Switched => {
            ErrorKind::Protocol
        }
    }
}

/// What an answer may tell us about the run: stop for good, or be quiet for a while.
pub(super) fn heed(c: &LaneContext, head: AnswerHead, now: RunTime) {
    if head.stop {
        c.gate.latch().set(StopCause::TargetSaidStop);
    }
    if let (429 | 503, Some(seconds)) = (head.status, head.retry_after_s) {
        c.book.quiet_until(now.plus(Duration::from_secs(seconds).min(RETRY_AFTER_MAX)));
    }
}
