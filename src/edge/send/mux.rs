//! One HTTP/2 connection of one session, on hyper: requests share it, none waits for another.
//!
//! The same rules as for a lane of HTTP/1.1: no request without a [`Slot`](crate::govern::gate::Slot), nothing twice,
//! each ends in one way. A request counts as written with the first bytes that the connection writes after it was handed
//! over. What the server allows at once is kept to here, so that nothing waits where it cannot be seen.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::header::HeaderMap;
use hyper::http::uri::Uri;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::book::Due;
use super::connect::Stream;
use super::lane::{Held, LaneContext, heed};
use crate::edge::clock::Clock;
use crate::limits::{HTTP2_WINDOW_BYTES, RESPONSE_BYTES_MAX, TAKE_BODY_BYTES_MAX};
use crate::measure::outcome::{Ending, ErrorKind};
use crate::plan::body::Filler;
use crate::plan::prepared::{Body, Prepared};
use crate::plan::take::Answer;
use crate::units::RunTime;
use crate::wire::answer::AnswerHead;

/// When each request that waits for it was written.
type Marks = Rc<RefCell<Vec<Rc<Cell<Option<RunTime>>>>>>;

/// Requests at once until the server has said how many: what RFC 9113 (section 6.5.2) asks servers for at least.
const STREAMS_AT_FIRST: usize = 100;

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
    marks: Marks,
    /// Requests under way.
    open: Rc<Cell<usize>>,
    /// Most of them, as the server says.
    most: Rc<Cell<usize>>,
}

/// The body of a request.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// All of it.
    Whole(Option<Bytes>),
    /// Made up, so much of it sent.
    Filler(Filler, u64),
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(match self.get_mut() {
            Self::Whole(body) => body.take().map(|b| Ok(Frame::data(b))),
            Self::Filler(filler, at) => {
                let part = filler.from(*at);
                *at += part.len() as u64;
                (!part.is_empty()).then(|| Ok(Frame::data(Bytes::from_static(part))))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_none(),
            Self::Filler(filler, at) => *at >= filler.len(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Whole(body) => body.as_ref().map_or(0, |b| b.len() as u64),
            Self::Filler(filler, at) => filler.len() - at,
        })
    }
}

/// The transport, which notes when it writes.
struct Noted {
    stream: Stream,
    marks: Marks,
    clock: Clock,
}

impl AsyncRead for Noted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Noted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        if matches!(written, Poll::Ready(Ok(n)) if n > 0) {
            let now = this.clock.now();
            this.marks.borrow_mut().drain(..).for_each(|m| m.set(Some(now)));
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
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
    pub(super) async fn start(stream: Stream, clock: Clock) -> anyhow::Result<Self> {
        let marks = Marks::default();
        let io = TokioIo::new(Noted { stream, marks: Rc::clone(&marks), clock });
        let (sender, connection) = Builder::new(Here)
            .initial_stream_window_size(HTTP2_WINDOW_BYTES)
            .initial_connection_window_size(HTTP2_WINDOW_BYTES)
            .handshake(io)
            .await?;
        let most = Rc::new(Cell::new(STREAMS_AT_FIRST));
        let told = Rc::clone(&most);
        tokio::task::spawn_local(async move {
            let mut connection = pin!(connection);
            let ended = poll_fn(|cx| {
                let polled = connection.as_mut().poll(cx);
                told.set(connection.current_max_send_streams());
                polled
            });
            drop(ended.await);
        });
        Ok(Self { sender, marks, open: Rc::default(), most })
    }

    /// Whether the connection still takes requests.
    pub(super) fn is_alive(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Whether one more request may be under way: the server says how many.
    pub(super) fn has_room(&self) -> bool {
        self.is_alive() && self.open.get() < self.most.get()
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.open.get() == 0
    }

    /// Hands a request over; its permit is spent, and `due` knows it.
    pub(super) fn send(&mut self, held: &Rc<Held>, due: Due, request: Request<Outgoing>, path: Vec<u8>) {
        let mark = Rc::new(Cell::new(None));
        self.marks.borrow_mut().push(Rc::clone(&mark));
        let answer = self.sender.send_request(request);
        self.open.set(self.open.get() + 1);
        let task = Exchange { held: Rc::downgrade(held), context: held.context(), path };
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
    mark: Rc<Cell<Option<RunTime>>>,
}

impl Flying {
    fn ended(mut self, ending: Ending, bytes: u64) {
        if let Some(mut due) = self.due.take() {
            due.written = self.mark.get();
            due.ended(ending, bytes);
        }
    }
}

impl Drop for Flying {
    fn drop(&mut self) {
        if let Some(due) = &mut self.due {
            due.written = self.mark.get();
        }
    }
}

/// One request and its answer.
struct Exchange {
    held: Weak<Held>,
    context: Rc<LaneContext>,
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
            Err(_) => flying.ended(Ending::Timeout, 0),
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
        heed(&self.context, head, now);
        let (mut bytes, mut kept) = (0u64, (!takes.is_empty()).then(Vec::new));
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
    let seconds =
        |v: &hyper::header::HeaderValue| v.to_str().ok().and_then(|t| t.trim().parse().ok()).unwrap_or(60);
    AnswerHead {
        status,
        keep_alive: true,
        stop: headers.contains_key("x-replay-stop"),
        set_cookie: headers.contains_key("set-cookie"),
        retry_after_s: headers.get("retry-after").map(seconds),
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
    let body = match &prepared.body {
        Body::Filler(filler) => Outgoing::Filler(*filler, 0),
        Body::Template(_) => Outgoing::Whole(out.get(end..).map(Bytes::copy_from_slice)),
        Body::None => Outgoing::Whole(None),
    };
    request.body(body).ok()
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
