//! One lane: one connection of one session, one request at a time, in order.
//!
//! HTTP/1.1 by `hyper::client::conn`, never a pooling client: a pool would retry and would mix sessions.
//! A request whose predecessor has not been answered waits in the lane, up to a limit, because order
//! within a session is part of the shape; past it, it is shed and not sent later.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::Response;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::book::{Book, Due};
use super::connect::Connector;
use super::gated::{GatedIo, SharedArmed};
use super::request::{self, Marking};
use crate::edge::clock::Clock;
use crate::govern::gate::{Gate, ShedReason};
use crate::govern::latch::StopCause;
use crate::limits::{LANE_QUEUE_MAX, RESPONSE_BYTES_MAX};
use crate::measure::outcome::{Ending, ErrorKind, RunPhase};

/// Longest quiet that an answer may ask for: beyond it the run is over anyway.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

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
}

/// What a lane is told.
#[derive(Debug)]
enum Command {
    Open(RunPhase),
    /// A request, and whether the lane was connected and idle when it was handed over.
    Request(Due, bool),
}

/// The worker's end of a lane. Dropping it lets the lane finish what it holds and close.
#[derive(Debug)]
pub struct Lane {
    commands: mpsc::Sender<Command>,
    /// Connected and without work: what is late now is late because of us.
    idle: Rc<Cell<bool>>,
}

impl Lane {
    /// Starts a lane; must be called inside a `LocalSet`.
    #[must_use]
    pub fn start(context: Rc<LaneContext>) -> Self {
        let (commands, receiver) = mpsc::channel(LANE_QUEUE_MAX);
        let idle = Rc::new(Cell::new(false));
        let task = Task {
            context,
            connection: None,
            idle: Rc::clone(&idle),
            opened_before: false,
            connections_opened: 0,
        };
        tokio::task::spawn_local(task.run(receiver));
        Self { commands, idle }
    }

    /// Asks for the connection ahead of its first request, as recorded.
    pub fn open(&self, phase: RunPhase) {
        // A full queue means that requests wait already, and the first of them opens it.
        let _full = self.commands.try_send(Command::Open(phase)).is_err();
    }

    /// Hands a due request over.
    pub fn request(&self, due: Due) {
        let own_lag = self.idle.replace(false);
        if !own_lag {
            due.lag();
        }
        match self.commands.try_send(Command::Request(due, own_lag)) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(Command::Request(due, _))) => {
                due.shed(ShedReason::SessionBlocked);
            }
            // A lane that has ended drops what it is given, which sheds it.
            Err(_) => {}
        }
    }
}

struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    armed: SharedArmed,
    driver: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

struct Task {
    context: Rc<LaneContext>,
    connection: Option<Connection>,
    idle: Rc<Cell<bool>>,
    opened_before: bool,
    connections_opened: u64,
}

impl Task {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(command) = commands.recv().await {
            self.idle.set(false);
            match command {
                Command::Open(phase) => drop(self.connect(phase).await),
                Command::Request(due, own_lag) => self.request(due, own_lag).await,
            }
            self.idle.set(self.connection.is_some() && commands.is_empty());
        }
    }

    async fn connect(&mut self, phase: RunPhase) -> Result<(), ShedReason> {
        if self.connection.as_ref().is_some_and(|c| !c.sender.is_closed()) {
            return Ok(());
        }
        self.connection = None;
        let c = Rc::clone(&self.context);
        let permit = c.gate.connect(c.clock.now())?;
        let opened = c.connector.open(permit, c.gate.latch()).await;
        let (stream, times) = match opened {
            Ok(both) => both,
            Err(error) => {
                c.book.connect_failed(phase, &format!("{error:#}"));
                return Err(ShedReason::Connecting);
            }
        };
        let armed = SharedArmed::default();
        let io = TokioIo::new(GatedIo::new(stream, Rc::clone(&armed), c.clock));
        let handshake = Builder::new().title_case_headers(true).handshake(io).await;
        let Ok((sender, driver)) = handshake else {
            c.book.connect_failed(phase, "HTTP/1.1 handshake failed");
            return Err(ShedReason::Connecting);
        };
        c.book.connected(phase, times, self.opened_before);
        self.opened_before = true;
        self.connections_opened += 1;
        let driver = tokio::task::spawn_local(async move { drop(driver.await) }).abort_handle();
        self.connection = Some(Connection { sender, armed, driver });
        Ok(())
    }

    async fn request(&mut self, due: Due, own_lag: bool) {
        let connections = self.connections_opened;
        let c = Rc::clone(&self.context);
        let limit = due.due.plus(c.session_blocked_max);
        if c.clock.now() > limit {
            return due.shed(ShedReason::SessionBlocked);
        }
        if let Err(reason) = self.ready(due.phase).await {
            return due.shed(reason);
        }
        if c.clock.now() > limit {
            return due.shed(ShedReason::Connecting);
        }
        let number = c.number.replace(c.number.get() + 1);
        let Ok(request) = request::build(&due.planned, &c.marking, number) else {
            // Planning accepts only what can be built; if that were ever wrong, it is not sent.
            return due.shed(ShedReason::Connecting);
        };
        let Some(connection) = &mut self.connection else { return due.shed(ShedReason::Connecting) };
        let permit = match c.gate.permit(c.clock.now()) {
            Ok(permit) => permit,
            Err(reason) => return due.shed(reason),
        };
        let mut due = due;
        connection.armed.borrow_mut().arm(permit);
        // A connection that had to be opened again took the target's time, not ours.
        due.sent(Rc::clone(&connection.armed), own_lag && connections == self.connections_opened);
        let answer = async {
            let response = connection.sender.send_request(request).await.map_err(|e| kind_of(&e))?;
            heed(&c, &response);
            let status = response.status().as_u16();
            read_body(&c.book, response).await.map(|bytes| (status, bytes))
        };
        let ended = tokio::time::timeout(c.request_timeout, answer).await;
        match ended {
            Ok(Ok((status, bytes))) => due.ended(Ending::Answered(status), bytes),
            Ok(Err(kind)) => {
                let refused = self.connection.take().is_some_and(|c| c.armed.borrow().refused().is_some());
                due.ended(if refused { Ending::FailedBeforeWrite } else { Ending::Error(kind) }, 0);
            }
            Err(_) => {
                self.connection = None;
                due.ended(Ending::Timeout, 0);
            }
        }
    }

    /// Makes sure that there is a connection that can take a request; opens it again where the target has
    /// closed it in the meantime.
    async fn ready(&mut self, phase: RunPhase) -> Result<(), ShedReason> {
        if let Some(connection) = &mut self.connection {
            let ready = tokio::time::timeout(self.context.request_timeout, connection.sender.ready()).await;
            if matches!(ready, Ok(Ok(()))) {
                return Ok(());
            }
            self.connection = None;
        }
        self.connect(phase).await?;
        let Some(connection) = &mut self.connection else { return Err(ShedReason::Connecting) };
        connection.sender.ready().await.map_err(|_| ShedReason::Connecting)
    }
}

fn kind_of(error: &hyper::Error) -> ErrorKind {
    let io = std::error::Error::source(error).and_then(|s| s.downcast_ref::<std::io::Error>());
    match io.map(std::io::Error::kind) {
        Some(std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe) => ErrorKind::Reset,
        _ if error.is_parse() => ErrorKind::Protocol,
        _ if error.is_incomplete_message() || error.is_closed() || error.is_canceled() => ErrorKind::Closed,
        _ => ErrorKind::Other,
    }
}

/// What an answer may tell us about the run: stop for good, or be quiet for a while.
fn heed(c: &LaneContext, response: &Response<Incoming>) {
    let headers = response.headers();
    if headers.contains_key("x-replay-stop") {
        c.gate.latch().set(StopCause::TargetSaidStop);
    }
    if matches!(response.status().as_u16(), 429 | 503)
        && let Some(value) = headers.get("retry-after")
    {
        // A date, or anything that cannot be read, still asks for quiet.
        let seconds = value.to_str().ok().and_then(|v| v.trim().parse().ok()).unwrap_or(60);
        let quiet = Duration::from_secs(seconds).min(RETRY_AFTER_MAX);
        c.book.quiet_until(c.clock.now().plus(quiet));
    }
}

async fn read_body(book: &Book, response: Response<Incoming>) -> Result<u64, ErrorKind> {
    let mut body = response.into_body();
    let mut bytes = 0u64;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| kind_of(&e))?;
        let more = frame.data_ref().map_or(0, |d| d.len() as u64);
        book.received(more);
        bytes += more;
        if bytes > RESPONSE_BYTES_MAX {
            return Err(ErrorKind::TooLarge);
        }
    }
    Ok(bytes)
}
