//! Connections that requests share: what happens to them at a stop, on a wire that takes nothing, and on one that answers
//! nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(clippy::disallowed_methods, reason = "tests measure real time against real servers")]

#[path = "support/lane_rig.rs"]
mod lane_rig;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use replay::edge::send::book::Book;
use replay::edge::send::lane::{Lane, LaneContext};
use replay::govern::gate::ShedReason;
use replay::govern::latch::StopCause;
use replay::measure::outcome::RunPhase;
use replay::measure::tally::Tally;
use replay::plan::PlannedRequest;
use replay::trace::AnswerFacts;
use replay::trace::shape::{Credentials, RequestShape, Scheme};
use replay::wire::head::Version;

/// What the server does with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    /// Answers at once.
    Well,
    /// Takes 16 KiB of a body each 20 ms and answers at its end.
    SlowReader,
    /// Answers nothing on its first connection.
    DeafAtFirst,
    /// One request at once, for 400 ms each.
    OneAtOnce,
}

struct Server {
    addr: SocketAddr,
    connections: Arc<AtomicU64>,
    body_bytes: Arc<AtomicU64>,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    fn start(mood: Mood) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let (connections, body_bytes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (addr, (count, bytes)) =
            (listener.local_addr().unwrap(), (Arc::clone(&connections), Arc::clone(&body_bytes)));
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (number, bytes) = (count.fetch_add(1, Ordering::SeqCst), Arc::clone(&bytes));
                let service = service_fn(move |r| answer(r, mood, number, Arc::clone(&bytes)));
                tokio::spawn(async move {
                    let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    if mood == Mood::OneAtOnce {
                        http.max_concurrent_streams(1);
                    }
                    drop(http.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Self { addr, connections, body_bytes, _runtime: runtime }
    }
}

async fn answer(
    request: Request<Incoming>,
    mood: Mood,
    connection: u64,
    bytes: Arc<AtomicU64>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    if mood == Mood::DeafAtFirst && connection == 0 {
        std::future::pending::<()>().await;
    }
    if mood == Mood::OneAtOnce {
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    let mut body = request.into_body();
    let mut owed = 0;
    while let Some(Ok(frame)) = body.frame().await {
        let n = frame.data_ref().map_or(0, |d| d.len() as u64);
        bytes.fetch_add(n, Ordering::SeqCst);
        owed += n;
        while mood == Mood::SlowReader && owed >= 16_384 {
            owed -= 16_384;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(Response::new(Empty::new()))
}

/// Runs `act` beside a lane of HTTP/2 and waits until nothing is under way.
fn beside<F: Future<Output = ()>>(
    addr: SocketAddr,
    timeout: Duration,
    blocked: Duration,
    act: impl FnOnce(Rc<LaneContext>, Book, Rc<Lane>) -> F,
) -> Tally {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    let (context, book) = lane_rig::context(addr, timeout, blocked);
    local.block_on(&runtime, async {
        // The bucket begins empty.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let lane = Rc::new(Lane::start(Rc::clone(&context), Rc::default(), true));
        act(Rc::clone(&context), book.clone(), lane).await;
        let deadline = Instant::now() + Duration::from_secs(20);
        while context.gate.in_flight() > 0 {
            assert!(Instant::now() < deadline, "a request does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    drop(local);
    let tally = book.take_tallies().1;
    let c = &tally.counts;
    assert!(c.due_adds_up() && c.sent_adds_up() && c.written_adds_up(), "{c:?}");
    tally
}

fn request(context: &LaneContext, book: &Book, lane: &Lane, body_len: Option<u64>) {
    let shape = Arc::new(RequestShape {
        method: if body_len.is_some() { b"POST"[..].into() } else { b"GET"[..].into() },
        scheme: Scheme::Http,
        authority: None,
        target: b"/x"[..].into(),
        version: Version::Http2,
        headers: [].into(),
        credentials: Credentials::default(),
        target_redacted: false,
    });
    let planned = PlannedRequest {
        shape,
        body_len,
        expected: Some(200),
        route: 0,
        cap: None,
        prepared: OnceLock::new(),
    };
    lane.request(book.due(context.clock.now(), RunPhase::Measure, Arc::new(planned), AnswerFacts::default()));
}

const LONG: Duration = Duration::from_secs(10);

async fn until(what: &str, mut f: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !f() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[test]
fn a_stop_ends_bodies_under_way() {
    let server = Server::start(Mood::SlowReader);
    let bytes = Arc::clone(&server.body_bytes);
    // 50 MB at 800 KB/s: a minute.
    let tally = beside(server.addr, LONG, LONG, |c, b, lane| async move {
        request(&c, &b, &lane, Some(50_000_000));
        until("the body begins", || bytes.load(Ordering::SeqCst) > 100_000).await;
        c.gate.latch().set(StopCause::Signal);
        until("the request ends", || c.gate.in_flight() == 0).await;
    });
    assert_eq!((tally.counts.written, tally.counts.error_total()), (1, 1), "{:?}", tally.counts);
    // What is between us and the server is bounded by the window, not by the body.
    let got = server.body_bytes.load(Ordering::SeqCst);
    assert!(got < 5_000_000, "{got}");
}

#[test]
fn a_connection_that_answers_nothing_is_left_for_another() {
    let server = Server::start(Mood::DeafAtFirst);
    let tally = beside(server.addr, Duration::from_millis(300), LONG, |c, b, lane| async move {
        request(&c, &b, &lane, None);
        until("the first one times out", || c.gate.in_flight() == 0 && b.take_beat().flow.bad > 0).await;
        // What the server said of itself when it began may have come after the first one was handed over: then the second
        // shows that nothing comes any more.
        let mut ok = false;
        while !ok {
            request(&c, &b, &lane, None);
            let mut ended = false;
            until("it ends", || {
                let flow = b.take_beat().flow;
                (ok, ended) = (ok || flow.ok > 0, ended || flow.ok + flow.bad > 0);
                ended
            })
            .await;
        }
    });
    let c = &tally.counts;
    assert!((1..=2).contains(&c.timeout) && c.ok == 1, "{c:?}");
    assert_eq!(server.connections.load(Ordering::SeqCst), 2);
}

#[test]
fn what_the_server_does_not_allow_at_once_waits_and_is_shed_in_time() {
    let server = Server::start(Mood::OneAtOnce);
    let tally = beside(server.addr, LONG, Duration::from_millis(600), |c, b, lane| async move {
        lane.open(RunPhase::Measure);
        // The server says how many once it is asked anything.
        request(&c, &b, &lane, None);
        until("the first one ends", || b.take_beat().flow.ok > 0).await;
        (0..4).for_each(|_| request(&c, &b, &lane, None));
        // One at once, 400 ms each: two go in time, the others have waited too long by then.
        until("all are decided", || c.gate.in_flight() == 0).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    });
    let c = &tally.counts;
    assert_eq!(c.ok, 3, "{c:?}");
    assert_eq!(c.shed.get(&ShedReason::SessionBlocked), Some(&2), "{c:?}");
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[test]
fn many_requests_share_a_connection_and_all_end_well() {
    let server = Server::start(Mood::Well);
    let tally = beside(server.addr, LONG, LONG, |c, b, lane| async move {
        for _ in 0..50 {
            (0..10).for_each(|_| request(&c, &b, &lane, Some(10_000)));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert_eq!((tally.counts.ok, tally.counts.written), (500, 500), "{:?}", tally.counts);
    assert_eq!(server.body_bytes.load(Ordering::SeqCst), 5_000_000);
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}
