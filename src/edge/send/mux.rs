//! One HTTP/2 connection of one session, on hyper: requests share it, none waits for another.
//!
//! The same rules as for a lane of HTTP/1.1: no request without a [`Slot`](crate::govern::gate::Slot), nothing twice,
//! each ends in one way. What lies between hyper and the wire is watched (`shared_wire`). What the server allows at once is
//! kept to here, so that nothing waits where it cannot be seen.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2::{Builder, Connection, SendRequest};
use hyper::header::HeaderMap;
use hyper::http::uri::Uri;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

use super::book::Due;
use super::connect::Stream;
use super::lane::{Held, LaneContext, heed};
use super::session::Session;
use super::shared_wire::{Carried, Mark, Outgoing, Watched, Wire};
use crate::limits::{HTTP2_SEND_BUFFER_BYTES, HTTP2_WINDOW_BYTES, RESPONSE_BYTES_MAX, TAKE_BODY_BYTES_MAX};
use crate::measure::outcome::{Ending, ErrorKind};
use crate::plan::prepared::{Body, Prepared};
use crate::plan::take::{Answer, Take};
use crate::units::RunTime;
use crate::wire::answer::AnswerHead;
use crate::wire::cache::CacheLines;

/// hyper's side of a connection.
type Driven = Connection<TokioIo<Watched<Stream>>, Outgoing, Here>;

/// Lines that HTTP/2 has in another place, or not at all (RFC 9113, section 8.2.2).
const NOT_IN_HTTP2: [&str; 7] = [
    "host",
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// A connection that many requests share.
#[derive(Debug)]
pub(super) struct Mux {
    sender: SendRequest<Outgoing>,
    wire: Rc<Wire>,
    /// Requests under way.
    open: Rc<Cell<usize>>,
    /// Knows how many the server allows now.
    connection: Rc<RefCell<Pin<Box<Driven>>>>,
}

/// Spawns on the worker's own thread.
#[derive(Debug, Clone, Copy)]
struct Here;

impl<F> hyper::rt::Executor<F> for Here
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move { drop(future.await) });
    }
}

impl Mux {
    /// Begins to speak HTTP/2 on a connection.
    ///
    /// # Errors
    /// When the server does not.
    pub(super) async fn start(stream: Stream, held: &Rc<Held>) -> anyhow::Result<Self> {
        let context = held.context();
        let wire = Wire::new(context.clock, context.gate.latch().clone());
        let io = TokioIo::new(Watched::new(stream, Rc::clone(&wire)));
        let (sender, connection) = Builder::new(Here)
            .initial_stream_window_size(HTTP2_WINDOW_BYTES)
            .initial_connection_window_size(HTTP2_WINDOW_BYTES)
            .max_send_buf_size(HTTP2_SEND_BUFFER_BYTES)
            .handshake(io)
            .await?;
        let connection = Rc::new(RefCell::new(Box::pin(connection)));
        let driven = Rc::clone(&connection);
        tokio::task::spawn_local(async move {
            drop(poll_fn(|cx| driven.borrow_mut().as_mut().poll(cx)).await);
        });
        Ok(Self { sender, wire, open: Rc::default(), connection })
    }

    /// Whether the connection still takes requests.
    pub(super) fn is_alive(&self) -> bool {
        !self.sender.is_closed() && !self.wire.is_dead()
    }

    /// Whether one more request may be under way: the server says how many.
    pub(super) fn has_room(&self) -> bool {
        let most = self.connection.try_borrow().map_or(0, |c| c.current_max_send_streams());
        self.is_alive() && self.open.get() < most
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.open.get() == 0
    }

    /// Hands a request over; its permit is spent, and `due` knows it.
    pub(super) fn send(
        &mut self,
        held: &Rc<Held>,
        due: Due,
        now: RunTime,
        mut request: Request<Outgoing>,
        path: Vec<u8>,
    ) {
        let (context, mark) = (held.context(), self.wire.hand_over(now));
        request.body_mut().until = Some((Rc::clone(&mark), context.gate.latch().clone()));
        let answer = self.sender.send_request(request);
        self.open.set(self.open.get() + 1);
        let wire = Rc::clone(&self.wire);
        let task = Exchange { held: Rc::downgrade(held), _session: held.session(), context, wire, path };
        let open = Open(Rc::clone(&self.open), Rc::downgrade(held));
        let flying = Flying { due: Some(due), mark };
        tokio::task::spawn_local(async move {
            task.run(flying, answer).await;
            drop(open);
        });
    }
}

/// A place among the requests under way; the lane looks for its next one when it is given back.
struct Open(Rc<Cell<usize>>, Weak<Held>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
        if let Some(held) = self.1.upgrade() {
            held.wake();
        }
    }
}

/// A request under way. However it ends, it knows whether it was written.
struct Flying {
    due: Option<Due>,
    mark: Rc<Mark>,
}

impl Flying {
    fn ended(mut self, ending: Ending, bytes: u64) {
        if let Some(mut due) = self.due.take() {
            due.written = self.mark.written.get();
            due.ended(ending, bytes);
        }
    }
}

impl Drop for Flying {
    fn drop(&mut self) {
        self.mark.over.set(true);
        if let Some(due) = &mut self.due {
            due.written = self.mark.written.get();
        }
    }
}

/// One request and its answer.
struct Exchange {
    held: Weak<Held>,
    /// Held, so that its account is not free while this is under way.
    _session: Session,
    context: Rc<LaneContext>,
    wire: Rc<Wire>,
    path: Vec<u8>,
}

/// A whole answer.
struct Whole {
    status: u16,
    bytes: u64,
    grpc_failed: bool,
}

impl Exchange {
    async fn run(&self, mut flying: Flying, answer: impl Future<Output = hyper::Result<Response<Incoming>>>) {
        let read = self.read(&mut flying, answer);
        match tokio::time::timeout(self.context.request_timeout, read).await {
            Err(_) => {
                self.wire.timed_out(&flying.mark);
                flying.ended(Ending::Timeout, 0);
            }
            Ok(Err(kind)) => flying.ended(Ending::Error(kind), 0),
            Ok(Ok(whole)) if whole.grpc_failed => flying.ended(Ending::Error(ErrorKind::Grpc), whole.bytes),
            Ok(Ok(whole)) => flying.ended(Ending::Answered(whole.status), whole.bytes),
        }
    }

    async fn read(
        &self,
        flying: &mut Flying,
        answer: impl Future<Output = hyper::Result<Response<Incoming>>>,
    ) -> Result<Whole, ErrorKind> {
        let response = answer.await.map_err(|e| kind_of(&e))?;
        let now = self.context.clock.now();
        let mut takes: Box<[u16]> = Box::default();
        if let Some(due) = &mut flying.due {
            due.first_byte = Some(now);
            if let Some(Some(prepared)) = due.planned.prepared.get() {
                takes.clone_from(&prepared.takes);
            }
        }
        let (parts, mut body) = response.into_parts();
        let head = head_of(parts.status.as_u16(), &parts.headers);
        if let Some(due) = &mut flying.due {
            due.cache = head.cache;
        }
        heed(&self.context, head, now);
        let rules = &self.context.marking.rewrite.takes;
        let of_body = |n: &u16| rules.get(usize::from(*n)).is_some_and(Take::needs_body);
        let (mut bytes, mut kept) = (0u64, takes.iter().any(of_body).then(Vec::new));
        let mut grpc = parts.headers.get("grpc-status").cloned();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| kind_of(&e))?;
            if let Some(data) = frame.data_ref() {
                bytes += data.len() as u64;
                self.context.book.received(data.len() as u64);
                if bytes > RESPONSE_BYTES_MAX {
                    return Err(ErrorKind::TooLarge);
                }
                kept = kept.filter(|_| bytes <= TAKE_BODY_BYTES_MAX as u64);
                if let Some(kept) = &mut kept {
                    kept.extend_from_slice(data);
                }
            } else if let Some(trailers) = frame.trailers_ref() {
                grpc = trailers.get("grpc-status").cloned().or(grpc);
            }
        }
        let lines: Vec<(&str, &[u8])> =
            parts.headers.iter().map(|(n, v)| (n.as_str(), v.as_bytes())).collect();
        if let Some(held) = self.held.upgrade()
            && (head.set_cookie || !takes.is_empty())
        {
            held.learn(head.status, &takes, &self.path, &Answer { headers: &lines, body: kept.as_deref() });
        }
        let is_grpc = |v: &hyper::header::HeaderValue| v.as_bytes().starts_with(b"application/grpc");
        let grpc_failed =
            parts.headers.get("content-type").is_some_and(is_grpc) && grpc.is_none_or(|s| s != "0");
        Ok(Whole { status: head.status, bytes, grpc_failed })
    }
}

fn head_of(status: u16, headers: &HeaderMap) -> AnswerHead {
    let mut cache = CacheLines::default();
    headers.iter().for_each(|(name, value)| cache.take(name.as_str(), value.as_bytes()));
    let seconds =
        |v: &hyper::header::HeaderValue| v.to_str().ok().and_then(|t| t.trim().parse().ok()).unwrap_or(60);
    AnswerHead {
        status,
        keep_alive: true,
        stop: headers.contains_key("x-replay-stop"),
        set_cookie: headers.contains_key("set-cookie"),
        retry_after_s: headers.get("retry-after").map(seconds),
        cache: cache.status(),
    }
}

fn kind_of(error: &hyper::Error) -> ErrorKind {
    if error.is_closed() || error.is_incomplete_message() || error.is_canceled() {
        return ErrorKind::Closed;
    }
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return match io.kind() {
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => ErrorKind::Reset,
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionAborted => ErrorKind::Closed,
                _ => ErrorKind::Other,
            };
        }
        source = inner.source();
    }
    // A stream that the server reset, a frame that makes no sense.
    ErrorKind::Protocol
}

/// A request of HTTP/2 from the bytes of one of HTTP/1.1, which rules and marks made; `None` where it has no such form.
pub(super) fn request(out: &[u8], https: bool, prepared: &Prepared) -> Option<Request<Outgoing>> {
    let mut lines = [httparse::EMPTY_HEADER; crate::limits::HEADERS_MAX];
    let mut head = httparse::Request::new(&mut lines);
    let httparse::Status::Complete(end) = head.parse(out).ok()? else { return None };
    let host = head.headers.iter().find(|h| h.name.eq_ignore_ascii_case("host"))?;
    let authority = std::str::from_utf8(host.value).ok()?;
    let scheme = if https { "https" } else { "http" };
    let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(head.path?).build().ok()?;
    let mut request = Request::builder().method(head.method?).uri(uri);
    for line in head.headers.iter() {
        let is = |n: &str| line.name.eq_ignore_ascii_case(n);
        if !NOT_IN_HTTP2.iter().any(|n| is(n)) {
            request = request.header(line.name, line.value);
        }
    }
    let carried = match &prepared.body {
        Body::Filler(filler) => Carried::Filler(*filler, 0),
        Body::Template(_) => Carried::Whole(out.get(end..).map(Bytes::copy_from_slice)),
        Body::None => Carried::Whole(None),
    };
    request.body(Outgoing { carried, until: None }).ok()
}

/// TLS settings by what a connection should speak.
#[derive(Debug, Clone)]
pub struct Alpn {
    /// Offers HTTP/1.1.
    pub http1: Arc<rustls::ClientConfig>,
    /// Offers HTTP/2, and HTTP/1.1 where the server does not have it.
    pub http2: Arc<rustls::ClientConfig>,
}

impl Alpn {
    /// Both, from settings that offer HTTP/1.1.
    #[must_use]
    pub fn of(http1: Arc<rustls::ClientConfig>) -> Self {
        let mut http2 = rustls::ClientConfig::clone(&http1);
        http2.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self { http1, http2: Arc::new(http2) }
    }
}
