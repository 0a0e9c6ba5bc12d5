//! The HTTP/1.1 lane: bytes as recorded, answers read as hyper reads them, and every way in which a target can end one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(clippy::disallowed_methods, reason = "tests measure real time against real servers")]

#[path = "support/lane_rig.rs"]
mod lane_rig;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use replay::edge::send::lane::Lane;
use replay::govern::gate::ShedReason;
use replay::measure::outcome::RunPhase;
use replay::measure::tally::Tally;
use replay::plan::PlannedRequest;
use replay::trace::AnswerFacts;
use replay::trace::shape::{Credentials, Header, HeaderValue, RequestShape, Scheme};
use replay::wire::answer::{AnswerReader, Found, Keep};
use replay::wire::body::Asked;
use replay::wire::head::Version;

// --- Answers read as hyper reads them ------------------------------------------------------------

/// What came of one request: status and body length, or nothing usable.
type Read1 = Result<(u16, u64), ()>;

fn ours(answers: &[Vec<u8>], piece: usize) -> Vec<Read1> {
    let bytes = answers.concat();
    let mut reader = AnswerReader::default();
    let (mut out, mut at, mut alive) = (Vec::new(), 0usize, true);
    for _ in answers {
        if !alive {
            return out;
        }
        reader.begin(Asked::Other, Keep::Cookies);
        let mut head = None;
        let result = loop {
            let end = at.saturating_add(piece).min(bytes.len());
            if at == bytes.len() {
                break match (reader.closed(), head) {
                    (Ok(Some(Found::End { body_bytes })), Some((status, _))) => {
                        alive = false;
                        Ok((status, body_bytes))
                    }
                    _ => Err(()),
                };
            }
            match reader.feed(&bytes[at..end]) {
                Ok((n, found)) => {
                    at += n;
                    let found = match found {
                        Some(Found::Head(h)) => {
                            head = Some((h.status, h.keep_alive));
                            reader.feed(&[]).ok().and_then(|(_, f)| f)
                        }
                        other => other,
                    };
                    if let (Some(Found::End { body_bytes }), Some((status, keep))) = (found, head) {
                        alive = keep;
                        break Ok((status, body_bytes));
                    }
                }
                Err(_) => break Err(()),
            }
        };
        let failed = result.is_err();
        out.push(result);
        if failed {
            return out;
        }
    }
    out
}

/// What hyper makes of the same answers, each given when its request has come, and then the end.
async fn hypers(answers: &[Vec<u8>]) -> Vec<Read1> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (client, mut server) = tokio::io::duplex(1 << 20);
    let mut out = Vec::new();
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(client)).await.unwrap();
    let driver = tokio::spawn(async move { drop(driver.await) });
    for (n, bytes) in answers.iter().enumerate() {
        if sender.ready().await.is_err() {
            break;
        }
        let request = hyper::Request::get("/").header("host", "x").body(Empty::<Bytes>::new());
        let asked = tokio::spawn(sender.send_request(request.unwrap()));
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(server.read_u8().await.unwrap());
        }
        server.write_all(bytes).await.unwrap();
        if n + 1 == answers.len() {
            server.shutdown().await.unwrap();
        }
        let result = async {
            let response = asked.await.unwrap().map_err(|_| ())?;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.map_err(|_| ())?;
            Ok((status, body.to_bytes().len() as u64))
        };
        out.push(result.await);
        if out.last().is_some_and(Result::is_err) {
            break;
        }
    }
    driver.abort();
    out
}

/// One answer on the wire, and whether it lasts until the connection ends.
fn answer() -> impl Strategy<Value = (Vec<u8>, bool)> {
    let status = prop_oneof![Just(200u16), Just(204), Just(304), Just(404), Just(503)];
    let interim = prop_oneof![4 => Just(""), 1 => Just("HTTP/1.1 100 Continue\r\n\r\n"), 1 => Just("HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\n")];
    let lines = prop_oneof![
        Just(""),
        Just("Server: x\r\nDate: y\r\n"),
        Just("Connection: close\r\n"),
        Just("X: \r\nX: 2\r\n")
    ];
    let chunks = prop::collection::vec((1usize..40, prop_oneof![Just(""), Just(";a=b")]), 0..4);
    let trailer = prop_oneof![Just(""), Just("T: 1\r\n")];
    let framing = prop_oneof![
        4 => (0usize..60).prop_map(|n| (format!("Content-Length: {n}\r\n"), vec![b'x'; n])),
        3 => (chunks, trailer).prop_map(|(chunks, trailer)| {
            let mut body = Vec::new();
            for (n, extension) in chunks {
                body.extend_from_slice(format!("{n:x}{extension}\r\n").as_bytes());
                body.extend(std::iter::repeat_n(b'y', n));
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(format!("0\r\n{trailer}\r\n").as_bytes());
            ("Transfer-Encoding: chunked\r\n".to_owned(), body)
        }),
        1 => Just((String::new(), Vec::new())),
    ];
    (interim, status, lines, framing).prop_map(|(interim, status, lines, (framing, body))| {
        let bodiless = matches!(status, 204 | 304);
        let mut out = format!("{interim}HTTP/1.1 {status} Word\r\n{lines}{framing}\r\n").into_bytes();
        if !bodiless {
            out.extend_from_slice(&body);
        }
        (out, framing.is_empty() && !bodiless)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// The same answers to the same bytes, in whatever pieces these come.
    #[test]
    fn answers_are_read_as_hyper_reads_them(
        answers in prop::collection::vec(answer(), 1..4), piece in prop_oneof![1usize..8, Just(usize::MAX)]
    ) {
        // After an answer that lasts until the end there is no other.
        let last = answers.iter().position(|(_, until_close)| *until_close).map_or(answers.len(), |n| n + 1);
        let answers: Vec<Vec<u8>> = answers.into_iter().take(last).map(|(bytes, _)| bytes).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let theirs = runtime.block_on(hypers(&answers));
        prop_assert_eq!(ours(&answers, piece), theirs, "{:?}", String::from_utf8_lossy(&answers.concat()));
    }

    /// Damaged bytes: where we read an answer, hyper reads the same one. We may refuse more.
    #[test]
    fn damaged_answers_are_never_read_as_something_else(
        answer in answer(), at in any::<prop::sample::Index>(), with in prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n'), Just(b','), Just(b'0')]
    ) {
        let mut bytes = answer.0;
        let at = at.index(bytes.len());
        bytes[at] = with;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answers = [bytes.clone()];
        let theirs = runtime.block_on(hypers(&answers));
        let ours = ours(&answers, usize::MAX);
        if ours.first().is_some_and(Result::is_ok) {
            prop_assert_eq!(ours, theirs, "{:?}", String::from_utf8_lossy(&bytes));
        }
    }
}

// --- One lane against targets that behave in every way ------------------------------------------

/// What the target does with one connection.
type Script = dyn Fn(TcpStream, usize) + Send + Sync;

struct Raw {
    addr: SocketAddr,
    connections: Arc<Mutex<usize>>,
}

fn serve(script: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> Raw {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let connections = Arc::new(Mutex::new(0));
    let (count, script): (_, Arc<Script>) = (Arc::clone(&connections), Arc::new(script));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let n = {
                let mut count = count.lock().unwrap();
                *count += 1;
                *count - 1
            };
            let script = Arc::clone(&script);
            std::thread::spawn(move || script(stream, n));
        }
    });
    Raw { addr, connections }
}

/// Reads one request head; false at the end.
fn head(stream: &mut TcpStream, into: &mut Vec<u8>) -> bool {
    into.clear();
    let mut byte = [0];
    while !into.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => into.push(byte[0]),
            _ => return false,
        }
    }
    true
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn shape(headers: &[(&str, &str)]) -> Arc<RequestShape> {
    let header = |(n, v): &(&str, &str)| Header {
        name: n.as_bytes().to_vec(),
        value: HeaderValue::Kept(v.as_bytes().to_vec()),
    };
    Arc::new(RequestShape {
        method: b"GET"[..].into(),
        scheme: Scheme::Http,
        authority: None,
        target: b"/x"[..].into(),
        version: Version::Http11,
        headers: headers.iter().map(header).collect(),
        credentials: Credentials::default(),
        target_redacted: false,
    })
}

/// Sends `n` requests, one every `every`, through one lane and returns what the book says of them.
fn send(raw: &Raw, n: usize, every: Duration, timeout: Duration) -> Tally {
    send_waiting(raw, n, every, timeout, Duration::from_secs(5))
}

/// The same, with a limit on waiting for the answer before.
fn send_waiting(raw: &Raw, n: usize, every: Duration, timeout: Duration, blocked: Duration) -> Tally {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    let (context, book) = lane_rig::context(raw.addr, timeout, blocked);
    let clock = context.clock;
    let shape = shape(&[("ACCEPT", "*/*"), ("x-a", "1"), ("X-A", "2")]);
    local.block_on(&runtime, async {
        // The bucket begins empty.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let lane = Lane::start(Rc::clone(&context), Rc::default(), false);
        for _ in 0..n {
            let planned = PlannedRequest {
                shape: Arc::clone(&shape),
                body_len: None,
                expected: Some(200),
                route: 0,
                cap: None,
                prepared: OnceLock::new(),
            };
            lane.request(book.due(clock.now(), RunPhase::Measure, Arc::new(planned), AnswerFacts::default()));
            tokio::time::sleep(every).await;
        }
        // What a worker does at each beat, until nothing is under way.
        let deadline = Instant::now() + Duration::from_secs(20);
        while context.gate.in_flight() > 0 {
            assert!(Instant::now() < deadline, "a request does not end");
            for lane in book.overdue(clock.now(), timeout) {
                lane.time_out();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(lane);
    });
    drop(local);
    assert_eq!(context.gate.in_flight(), 0, "every place is given back");
    let tally = book.take_tallies().1;
    let c = &tally.counts;
    assert!(c.due_adds_up() && c.sent_adds_up() && c.written_adds_up(), "{c:?}");
    tally
}

const SOON: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(10);

/// `ok`, errors by name, time-outs, connections.
fn summary(raw: &Raw, t: &Tally) -> (u64, Vec<&'static str>, u64, usize) {
    let errors =
        t.counts.error.iter().flat_map(|(k, n)| std::iter::repeat_n(k.name(), *n as usize)).collect();
    (t.counts.ok, errors, t.counts.timeout, *raw.connections.lock().unwrap())
}

#[test]
fn the_head_is_the_recorded_one() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let inside = Arc::clone(&seen);
    let raw = serve(move |mut s, _| {
        let mut h = Vec::new();
        while head(&mut s, &mut h) {
            inside.lock().unwrap().push(String::from_utf8(h.clone()).unwrap());
            s.write_all(OK).unwrap();
        }
    });
    let t = send(&raw, 3, SOON, LONG);
    assert_eq!(summary(&raw, &t), (3, vec![], 0, 1), "one session, one connection");
    let seen = seen.lock().unwrap();
    let start = format!(
        "GET /x HTTP/1.1\r\nHost: {}\r\nACCEPT: */*\r\nx-a: 1\r\nX-A: 2\r\nUser-Agent: - replay/test\r\n",
        raw.addr
    );
    assert!(seen.iter().all(|h| h.starts_with(&start)), "{seen:?}");
    assert_ne!(seen[0], seen[1], "each has a trace id of its own");
    assert_eq!(t.latency.response.count(), 3);
}

#[test]
fn every_way_to_end_an_answer() {
    let once = |bytes: &'static [u8], then_close: bool| {
        serve(move |mut s, _| {
            let mut h = Vec::new();
            while head(&mut s, &mut h) {
                // In two parts, so that a head is cut in its middle.
                let (a, b) = bytes.split_at(bytes.len() / 3);
                s.write_all(a).unwrap();
                std::thread::sleep(Duration::from_millis(2)); // another segment
                if s.write_all(b).is_err() || then_close {
                    return;
                }
            }
        })
    };
    type Want = (u64, Vec<&'static str>, u64, usize);
    let table: Vec<(&str, Raw, Want)> = vec![
        ("length", once(OK, false), (2, vec![], 0, 1)),
        (
            "chunked",
            once(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", false),
            (2, vec![], 0, 1),
        ),
        ("no body", once(b"HTTP/1.1 204 No\r\n\r\n", false), (2, vec![], 0, 1)),
        (
            "interim",
            once(b"HTTP/1.1 103 Hint\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false),
            (2, vec![], 0, 1),
        ),
        ("until close", once(b"HTTP/1.1 200 OK\r\n\r\nall of it", true), (2, vec![], 0, 2)),
        (
            "says close",
            once(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", true),
            (2, vec![], 0, 2),
        ),
        ("1.0", once(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", true), (2, vec![], 0, 2)),
        (
            "breaks off",
            once(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", true),
            (0, vec!["closed"; 2], 0, 2),
        ),
        ("closes at once", once(b"", true), (0, vec!["closed"; 2], 0, 2)),
        ("garbage", once(b"SSH-2.0-x\r\n\r\n", false), (0, vec!["protocol"; 2], 0, 2)),
        (
            "two lengths",
            once(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok", false),
            (0, vec!["protocol"; 2], 0, 2),
        ),
        ("too much", once(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nokay", false), (2, vec![], 0, 2)),
        ("other protocol", once(b"HTTP/1.1 101 S\r\n\r\n", false), (0, vec!["protocol"; 2], 0, 2)),
    ];
    for (name, raw, want) in table {
        let t = send(&raw, 2, Duration::from_millis(40), LONG);
        assert_eq!(summary(&raw, &t), want, "{name}");
    }
}

#[test]
fn a_hang_times_out_and_the_next_one_gets_a_fresh_connection() {
    let raw = serve(|mut s, n| {
        let mut h = Vec::new();
        while head(&mut s, &mut h) {
            if n > 0 {
                s.write_all(OK).unwrap();
            }
        }
    });
    let t = send(&raw, 3, SOON, Duration::from_millis(200));
    assert_eq!(summary(&raw, &t), (2, vec![], 1, 2));
    assert_eq!(t.reopened, 1);
}

#[test]
fn a_connection_closed_while_idle_is_opened_again() {
    let raw = serve(|mut s, _| {
        let mut h = Vec::new();
        if head(&mut s, &mut h) {
            s.write_all(OK).unwrap();
        }
    });
    let t = send(&raw, 3, Duration::from_millis(60), LONG);
    assert_eq!(summary(&raw, &t), (3, vec![], 0, 3));
    assert_eq!((t.connections, t.reopened), (3, 2));
}

#[test]
fn order_is_kept_and_one_is_under_way_at_a_time() {
    let most = Arc::new(Mutex::new(0));
    let inside = Arc::clone(&most);
    let raw = serve(move |mut s, _| {
        let mut h = Vec::new();
        while head(&mut s, &mut h) {
            std::thread::sleep(Duration::from_millis(30)); // a slow target
            // Whatever has come meanwhile was sent before its answer.
            s.set_nonblocking(true).unwrap();
            let early = s.peek(&mut [0; 1]).unwrap_or(0);
            s.set_nonblocking(false).unwrap();
            *inside.lock().unwrap() += early;
            s.write_all(OK).unwrap();
        }
    });
    let t = send(&raw, 10, Duration::from_millis(1), LONG);
    assert_eq!(summary(&raw, &t), (10, vec![], 0, 1));
    assert_eq!(*most.lock().unwrap(), 0, "nothing was pipelined");
    let (first, last) = (t.latency.response.quantile_ms(0.0).unwrap(), t.latency.response.max_ms().unwrap());
    assert!(last > first + 200.0, "the wait for the answers before counts: {first} {last}");
}

#[test]
fn an_endless_answer_is_read_in_turns() {
    let raw = serve(|mut s, _| {
        let mut h = Vec::new();
        while head(&mut s, &mut h) {
            let body = vec![b'x'; 1 << 20];
            s.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len() * 20).as_bytes())
                .unwrap();
            for _ in 0..20 {
                s.write_all(&body).unwrap();
            }
        }
    });
    let t = send(&raw, 2, SOON, LONG);
    assert_eq!((t.counts.ok, t.bytes), (2, 40 << 20));
}

/// What has waited too long is not worth a connection: once each lane opened one, in the middle of an outage, only to shed
/// what it was for.
#[test]
fn no_connection_is_opened_for_what_has_expired() {
    let raw = serve(|mut s, _| {
        let mut h = Vec::new();
        while head(&mut s, &mut h) {}
    });
    let t = send_waiting(
        &raw,
        5,
        Duration::from_millis(1),
        Duration::from_millis(200),
        Duration::from_millis(50),
    );
    assert_eq!(summary(&raw, &t), (0, vec![], 1, 1));
    assert_eq!(t.counts.shed.get(&ShedReason::SessionBlocked), Some(&4), "{:?}", t.counts);
}
