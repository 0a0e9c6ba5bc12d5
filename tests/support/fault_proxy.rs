//! A TCP proxy between the program and a real Prometheus that gives, when told to, every bad answer we know.
//!
//! Why: a guard that cannot get one fresh finite number must never let a run grow, and only a real exchange
//! over a socket shows what the client makes of a reset, a redirect or a body without an end.
//!
//! Each connection carries one GET with `Connection: close`. The fault that is set when the head of the request
//! has arrived holds for that connection to its end. What is made up here (and is not an error) has the value
//! 0, the most harmless number: a program that believes it goes on. Every wait is at most 60 s.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const CONNECTIONS_MAX: usize = 256;
const RECORDED_MAX: usize = 1024;
const HEAD_MAX: usize = 64 * 1024;
const ANSWER_MAX: usize = 64 * 1024 * 1024;
/// The longest life of a connection.
const LIFE_MAX: Duration = Duration::from_secs(60);
/// How long anything blocks before it looks whether the proxy or its client has gone.
const SLICE: Duration = Duration::from_millis(20);
/// Each match of the bomb is 258 bytes in 2 bits.
const BOMB_MATCHES: u32 = 1 << 20;

/// What the proxy does to a question or to its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Passes bytes unchanged, and remembers the first good answer to each query.
    None,
    /// Resets the connection when the request comes. The socket goes on listening: a port given up could be
    /// taken by one of the many outgoing connections of a test.
    Refuse,
    /// Reads the request and never answers.
    Hang,
    /// A whole head and half of the body, then a reset.
    ResetMidBody,
    /// A good answer, one byte each second.
    OneBytePerSecond,
    /// The answer of Prometheus, 5 s after it was given.
    Delay5s,
    /// Elsewhere, which is Prometheus itself: who follows gets a good answer.
    Redirect302,
    /// 401 with a challenge.
    Unauthorized401,
    /// 422, as Prometheus refuses a query.
    BadQuery422,
    /// 429 with `Retry-After`.
    TooMany429,
    /// 503 with a page of a balancer.
    Unavailable503,
    /// 200 with a login page.
    Html200,
    /// 200 and a whole body that ends two brackets too early.
    TruncatedJson,
    /// A good answer in gzip (not asked for), followed by 258 MiB of spaces in 260 kB.
    GzipBomb,
    /// A good answer followed by 10 MB of spaces.
    Body10Mb,
    /// 200 with `"status":"error"` and nevertheless data.
    StatusErrorIn200,
    /// The value `NaN`.
    NaN,
    /// The value `+Inf`.
    PlusInf,
    /// The value is an empty string.
    EmptyString,
    /// A good value with a warning that a part is missing.
    Warnings,
    /// Two series where one was asked for.
    TwoSeries,
    /// A matrix where a vector was asked for.
    MatrixForVector,
    /// The first answer recorded for this query, unchanged; where there is none, the present one dated back
    /// 120 s.
    OldAnswer,
    /// Answers change places between connections: to other queries where one waits, else the answer that an
    /// earlier asker left behind. Who is alone waits.
    SwappedAnswers,
    /// The server's clock is 10 s ahead.
    ServerClockAhead10s,
    /// The server's clock is 60 s ahead.
    ServerClockAhead60s,
}

impl Fault {
    /// Every fault; `None` is none.
    pub const ALL: [Self; 25] = [
        Self::Refuse,
        Self::Hang,
        Self::ResetMidBody,
        Self::OneBytePerSecond,
        Self::Delay5s,
        Self::Redirect302,
        Self::Unauthorized401,
        Self::BadQuery422,
        Self::TooMany429,
        Self::Unavailable503,
        Self::Html200,
        Self::TruncatedJson,
        Self::GzipBomb,
        Self::Body10Mb,
        Self::StatusErrorIn200,
        Self::NaN,
        Self::PlusInf,
        Self::EmptyString,
        Self::Warnings,
        Self::TwoSeries,
        Self::MatrixForVector,
        Self::OldAnswer,
        Self::SwappedAnswers,
        Self::ServerClockAhead10s,
        Self::ServerClockAhead60s,
    ];
}

/// The proxy; it ends with its handle.
pub struct FaultProxy {
    port: u16,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl FaultProxy {
    /// Listens on a free port of 127.0.0.1, in front of a Prometheus on another.
    pub fn start(upstream_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            upstream: upstream_port,
            stop: AtomicBool::new(false),
            live: AtomicUsize::new(0),
            state: Mutex::new(State {
                fault: Fault::None,
                asked: 0,
                last: None,
                recorded: BTreeMap::new(),
                held: Vec::new(),
            }),
        });
        let inside = Arc::clone(&shared);
        let accepting = std::thread::spawn(move || accept(&listener, &inside));
        Self { port, shared, accepting: Some(accepting) }
    }

    /// Where to ask.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sets what happens to requests from now on. Answers held for a swap are forgotten.
    pub fn set(&self, fault: Fault) {
        let mut state = self.shared.state();
        state.fault = fault;
        state.held.clear();
    }

    /// Requests seen, with those that were refused.
    pub fn asked(&self) -> u64 {
        self.shared.state().asked
    }

    /// When the last request was seen.
    pub fn last_asked_at(&self) -> Option<Instant> {
        self.shared.state().last
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the accepting thread; the listener closes with it.
        drop(TcpStream::connect_timeout(&address(self.port), SLICE * 5));
        drop(self.accepting.take().map(JoinHandle::join));
        let deadline = Instant::now() + Duration::from_secs(1);
        while self.shared.live.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

struct Shared {
    upstream: u16,
    stop: AtomicBool,
    live: AtomicUsize,
    state: Mutex<State>,
}

struct State {
    fault: Fault,
    asked: u64,
    last: Option<Instant>,
    recorded: BTreeMap<String, Vec<u8>>,
    held: Vec<Held>,
}

/// An answer that waits for somebody else.
struct Held {
    asker: u64,
    key: String,
    answer: Vec<u8>,
    /// Its asker got another answer or went away.
    left: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let accepted = listener.accept();
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok((stream, _)) = accepted else {
            std::thread::sleep(SLICE);
            continue;
        };
        if shared.live.load(Ordering::SeqCst) >= CONNECTIONS_MAX {
            continue;
        }
        shared.live.fetch_add(1, Ordering::SeqCst);
        let client = Client { stream, shared: Arc::clone(shared), deadline: Instant::now() + LIFE_MAX };
        std::thread::spawn(move || client.serve());
    }
}

/// Not data, but no end either.
fn waits(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// One connection.
struct Client {
    stream: TcpStream,
    shared: Arc<Shared>,
    deadline: Instant,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shared.live.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Client {
    fn serve(&self) {
        let Some(request) = self.head() else { return };
        let (fault, number) = self.count();
        // The kernel answers the closing of a socket with unread data by RST, and std has no stable way to
        // set SO_LINGER: who is to be reset is left unread.
        match fault {
            Fault::Refuse => return,
            Fault::ResetMidBody => {
                let whole = ok(vector("0").as_bytes());
                self.send(&whole[..whole.len() - vector("0").len() / 2]);
                // The reset may overtake what the client has not read yet.
                self.pause(Duration::from_millis(50));
                return;
            }
            _ => {}
        }
        if (&self.stream).read_exact(&mut vec![0; request.len()]).is_err() {
            return;
        }
        match fault {
            Fault::Hang => {
                self.pause(LIFE_MAX);
            }
            Fault::OneBytePerSecond => {
                let whole = ok(vector("0").as_bytes());
                let mut bytes = whole.chunks(1);
                while bytes.next().is_some_and(|b| self.send(b)) && self.pause(Duration::from_secs(1)) {}
            }
            Fault::Body10Mb => {
                // In parts: many clients that do not read must not cost 10 MB each.
                let (start, spaces) = (vector("0"), [b' '; 10_000]);
                let head = head("200 OK", JSON, start.len() + 1_000 * spaces.len());
                let mut sent = self.send((head + &start).as_bytes());
                for _ in 0..1_000 {
                    sent = sent && !self.over() && self.send(&spaces);
                }
            }
            fault => {
                if let Some(answer) = made_up(fault).or_else(|| self.answer(fault, number, &request)) {
                    self.send(&answer);
                }
            }
        }
    }

    /// The head of the request, without taking it from the socket.
    fn head(&self) -> Option<Vec<u8>> {
        self.stream.set_nodelay(true).ok()?;
        self.stream.set_read_timeout(Some(SLICE)).ok()?;
        self.stream.set_write_timeout(Some(SLICE)).ok()?;
        let mut buffer = vec![0; HEAD_MAX];
        while !self.over() {
            match self.stream.peek(&mut buffer) {
                Ok(0) => return None,
                Ok(n) => {
                    if let Some(end) = find(&buffer[..n], b"\r\n\r\n") {
                        return Some(buffer[..end + 4].to_vec());
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(e) if waits(&e) => {}
                Err(_) => return None,
            }
        }
        None
    }

    /// Counts the request; the fault that it meets, and its number.
    fn count(&self) -> (Fault, u64) {
        let mut state = self.shared.state();
        state.asked += 1;
        state.last = Some(Instant::now());
        (state.fault, state.asked)
    }

    fn over(&self) -> bool {
        self.shared.stop.load(Ordering::SeqCst) || Instant::now() >= self.deadline
    }

    /// Neither proxy nor client has gone.
    fn goes_on(&self) -> bool {
        if self.over() || self.stream.set_nonblocking(true).is_err() {
            return false;
        }
        let there = match self.stream.peek(&mut [0]) {
            Ok(n) => n > 0,
            Err(e) => waits(&e),
        };
        self.stream.set_nonblocking(false).is_ok() && there
    }

    /// Waits; false when there is nothing to wait for any more.
    fn pause(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.goes_on() {
                return left.is_zero();
            }
            std::thread::sleep(left.min(SLICE));
        }
    }

    /// Writes everything; false when that was not possible.
    fn send(&self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            match (&self.stream).write(bytes) {
                Ok(0) => return false,
                Ok(n) => bytes = &bytes[n..],
                Err(e) if waits(&e) && self.goes_on() => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// The answer of Prometheus, as bytes. Without one the connection just closes.
    fn fetch(&self, request: &[u8]) -> Option<Vec<u8>> {
        let mut server = TcpStream::connect_timeout(&address(self.shared.upstream), SLICE * 5).ok()?;
        server.set_read_timeout(Some(SLICE)).ok()?;
        server.set_write_timeout(Some(SLICE * 5)).ok()?;
        server.write_all(request).ok()?;
        let (mut answer, mut part) = (Vec::new(), vec![0; 64 * 1024]);
        while answer.len() <= ANSWER_MAX && !self.over() {
            match server.read(&mut part) {
                Ok(0) => return Some(answer),
                Ok(n) => answer.extend_from_slice(&part[..n]),
                Err(e) if waits(&e) && self.goes_on() => {}
                Err(_) => return None,
            }
        }
        None
    }

    /// What begins with an answer of Prometheus.
    fn answer(&self, fault: Fault, number: u64, request: &[u8]) -> Option<Vec<u8>> {
        let text = String::from_utf8_lossy(request);
        let target = text.split(' ').nth(1).unwrap_or("/");
        let key = key(target);
        match fault {
            Fault::Redirect302 => {
                let place = format!("Location: http://{}{target}\r\n", address(self.shared.upstream));
                Some(response("302 Found", &place, b""))
            }
            Fault::OldAnswer => {
                let old = self.shared.state().recorded.get(&key).map(|body| ok(body));
                old.or_else(|| Some(dated(&self.fetch(request)?, -120.0)))
            }
            Fault::ServerClockAhead10s => Some(dated(&self.fetch(request)?, 10.0)),
            Fault::ServerClockAhead60s => Some(dated(&self.fetch(request)?, 60.0)),
            Fault::Delay5s => {
                let answer = self.fetch(request)?;
                self.pause(Duration::from_secs(5)).then_some(answer)
            }
            Fault::SwappedAnswers => {
                let answer = self.fetch(request)?;
                self.swap(number, &key, answer)
            }
            _ => {
                let answer = self.fetch(request)?;
                self.record(key, &answer);
                Some(answer)
            }
        }
    }

    fn record(&self, key: String, answer: &[u8]) {
        let Some((200, body)) = parse(answer) else { return };
        let recorded = &mut self.shared.state().recorded;
        if find(&body, b"\"status\":\"success\"").is_some() && recorded.len() < RECORDED_MAX {
            recorded.entry(key).or_insert(body);
        }
    }

    /// Leaves an answer for somebody else and waits for theirs.
    fn swap(&self, asker: u64, key: &str, answer: Vec<u8>) -> Option<Vec<u8>> {
        let held = Held { asker, key: key.to_owned(), answer, left: false };
        self.shared.state().held.push(held);
        loop {
            let goes_on = self.goes_on();
            let mut state = self.shared.state();
            let wrong = state.held.iter().position(|h| h.key != key);
            let at = wrong.or_else(|| state.held.iter().position(|h| h.asker != asker && h.left));
            let theirs = at.filter(|_| goes_on).map(|i| state.held.remove(i).answer);
            if theirs.is_some() || !goes_on {
                state.held.iter_mut().filter(|h| h.asker == asker).for_each(|h| h.left = true);
                let excess = state.held.len().saturating_sub(CONNECTIONS_MAX);
                state.held.drain(..excess);
                return theirs;
            }
            drop(state);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Answers that Prometheus has no part in.
fn made_up(fault: Fault) -> Option<Vec<u8>> {
    let page = |status, title| {
        let body = format!("<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>");
        response(status, "Content-Type: text/html\r\n", body.as_bytes())
    };
    let failed =
        |body: &str| body.replace("success", "error").replace("\"data\"", &format!("{WHY},\"data\""));
    let text = match fault {
        Fault::Unauthorized401 => {
            return Some(response("401 Unauthorized", "WWW-Authenticate: Basic\r\n", b"Unauthorized\n"));
        }
        Fault::BadQuery422 => {
            let body = format!("{{\"status\":\"error\",{WHY}}}");
            return Some(response("422 Unprocessable Entity", JSON, body.as_bytes()));
        }
        Fault::TooMany429 => {
            return Some(response("429 Too Many Requests", "Retry-After: 1\r\n", b"slow down\n"));
        }
        Fault::Unavailable503 => return Some(page("503 Service Unavailable", "503 Service Unavailable")),
        Fault::Html200 => return Some(page("200 OK", "Please log in")),
        Fault::GzipBomb => {
            let head = format!("{JSON}Content-Encoding: gzip\r\n");
            return Some(response("200 OK", &head, &bomb(&format!("{} ", vector("0")))));
        }
        Fault::TruncatedJson => vector("0").trim_end_matches("}}").to_owned(),
        Fault::StatusErrorIn200 => failed(&vector("0")),
        Fault::NaN => vector("NaN"),
        Fault::PlusInf => vector("+Inf"),
        Fault::EmptyString => vector(""),
        Fault::Warnings => {
            vector("0").replace("\"data\"", "\"warnings\":[\"store down: results are partial\"],\"data\"")
        }
        Fault::TwoSeries => {
            let one = |name| sample(&format!("\"instance\":\"{name}\""), "0");
            success("vector", &format!("{},{}", one("a"), one("b")))
        }
        Fault::MatrixForVector => {
            success("matrix", &format!("{{\"metric\":{{}},\"values\":[{}]}}", point("0")))
        }
        _ => return None,
    };
    Some(ok(text.as_bytes()))
}

const JSON: &str = "Content-Type: application/json\r\n";
const WHY: &str = "\"errorType\":\"execution\",\"error\":\"expanding series: fault_proxy\"";

fn head(status: &str, more: &str, length: usize) -> String {
    format!("HTTP/1.1 {status}\r\n{more}Content-Length: {length}\r\nConnection: close\r\n\r\n")
}

fn response(status: &str, more: &str, body: &[u8]) -> Vec<u8> {
    [head(status, more, body.len()).as_bytes(), body].concat()
}

fn ok(body: &[u8]) -> Vec<u8> {
    response("200 OK", JSON, body)
}

fn success(kind: &str, series: &str) -> String {
    format!("{{\"status\":\"success\",\"data\":{{\"resultType\":\"{kind}\",\"result\":[{series}]}}}}")
}

fn point(value: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    format!("[{now:.3},\"{value}\"]")
}

fn sample(labels: &str, value: &str) -> String {
    format!("{{\"metric\":{{{labels}}},\"value\":{}}}", point(value))
}

fn vector(value: &str) -> String {
    success("vector", &sample("", value))
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|w| w == what)
}

/// What makes two questions the same: path and query, whatever the other parameters are.
fn key(target: &str) -> String {
    let (path, rest) = target.split_once('?').unwrap_or((target, ""));
    let query = rest.split('&').find(|p| p.starts_with("query=")).unwrap_or(rest);
    format!("{path}?{query}")
}

/// Status and body of a whole answer.
fn parse(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = find(answer, b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let mut rest = &answer[end + 4..];
    if !head.contains("transfer-encoding: chunked") {
        return Some((status, rest.to_vec()));
    }
    let mut body = Vec::new();
    loop {
        let line = find(rest, b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).ok()?.trim(), 16).ok()?;
        if size == 0 {
            return Some((status, body));
        }
        body.extend_from_slice(rest.get(line + 2..line + 2 + size)?);
        rest = rest.get(line + 4 + size..)?;
    }
}

/// A good answer with its times moved; any other answer as it is.
fn dated(answer: &[u8], seconds: f64) -> Vec<u8> {
    match parse(answer) {
        Some((200, body)) => ok(moved(&String::from_utf8_lossy(&body), seconds).as_bytes()),
        _ => answer.to_vec(),
    }
}

/// Moves the time of each sample: `"value":[<time>,`, and `"result":[<time>,` in a scalar.
fn moved(body: &str, seconds: f64) -> String {
    let mut text = body.to_owned();
    for mark in ["\"value\":[", "\"result\":["] {
        let mut parts = text.split(mark);
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            out.push_str(mark);
            match part.split_once(',').map(|(t, rest)| (t.trim().parse::<f64>(), rest)) {
                Some((Ok(time), rest)) => out.push_str(&format!("{:.3},{rest}", time + seconds)),
                _ => out.push_str(part),
            }
        }
        text = out;
    }
    text
}

/// Bits in the order of deflate: the lowest first.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    open: u32,
    count: u32,
}

impl Bits {
    fn push(&mut self, value: u32, bits: u32) {
        self.open |= value << self.count;
        self.count += bits;
        while self.count >= 8 {
            self.bytes.push((self.open & 0xFF) as u8);
            self.open >>= 8;
            self.count -= 8;
        }
    }
}

/// A gzip file by hand: `start` (which ends with a space) stored, then spaces without an end in sight.
fn bomb(start: &str) -> Vec<u8> {
    let mut out = vec![0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 0xFF];
    // A stored block, not the last.
    let length = start.len() as u16;
    out.push(0);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&(!length).to_le_bytes());
    out.extend_from_slice(start.as_bytes());
    // The last block has codes of its own with one bit each: 256 (end), 285 (a match of 258 bytes), and
    // distance 1. It gives 286 lengths of literals, 1 of distances and 18 of the code for these lengths.
    let mut bits = Bits::default();
    for (value, width) in [(1, 1), (2, 2), (286 - 257, 5), (0, 5), (18 - 4, 4)] {
        bits.push(value, width);
    }
    // In the order 16, 17, 18, 0, … 14, 1: "18" (many zeros) and "1" have one bit, the others do not occur.
    for i in 0..18 {
        bits.push(u32::from(i == 2 || i == 17), 3);
    }
    // 138 + 118 zeros, 256, 28 zeros, 285, and the distance.
    for (value, width) in [(1, 1), (138 - 11, 7), (1, 1), (118 - 11, 7), (0, 1), (1, 1), (28 - 11, 7), (0, 2)]
    {
        bits.push(value, width);
    }
    // Eight matches at a time: 1 for 285, 0 for the distance.
    for _ in 0..BOMB_MATCHES / 8 {
        bits.push(0x5555, 16);
    }
    bits.push(0, 8);
    out.append(&mut bits.bytes);
    let first = start.bytes().fold(u32::MAX, crc_step);
    let spaces = BOMB_MATCHES * 258;
    out.extend_from_slice(&(!crc_of_many(first, b' ', spaces)).to_le_bytes());
    out.extend_from_slice(&(spaces + u32::from(length)).to_le_bytes());
    out
}

fn crc_step(crc: u32, byte: u8) -> u32 {
    (0..8).fold(crc ^ u32::from(byte), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xEDB8_8320 } else { c >> 1 })
}

/// The CRC after many equal bytes. A step is affine, and so is a step taken twice: no need to take each.
fn crc_of_many(mut crc: u32, byte: u8, mut times: u32) -> u32 {
    let mut constant = crc_step(0, byte);
    let mut columns: [u32; 32] = std::array::from_fn(|i| crc_step(1 << i, byte) ^ constant);
    while times > 0 {
        let linear = |x: u32| (0..32).filter(|i| (x >> i) & 1 == 1).fold(0, |sum, i| sum ^ columns[i]);
        if times & 1 == 1 {
            crc = linear(crc) ^ constant;
        }
        (columns, constant) = (columns.map(linear), linear(constant) ^ constant);
        times >>= 1;
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Prometheus whose n-th answer, in two chunks, has the time 1700000000.5 + n and the value `<query>-<n>`.
    fn upstream() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for (n, stream) in listener.incoming().flatten().enumerate() {
                let (mut head, mut byte) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") && (&stream).read(&mut byte).is_ok_and(|n| n == 1) {
                    head.push(byte[0]);
                }
                let head = String::from_utf8(head).unwrap();
                let query = head.split(['=', ' ']).nth(2).unwrap_or("");
                let sample =
                    format!("{{\"metric\":{{}},\"value\":[{}.5,\"{query}-{n}\"]}}", 1_700_000_000 + n);
                let body = success("vector", &sample);
                let (a, b) = body.split_at(70);
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{a}\r\n{:x}\r\n{b}\r\n0\r\n\r\n",
                    a.len(),
                    b.len()
                );
                drop((&stream).write_all(answer.as_bytes()));
            }
        });
        port
    }

    /// Asks; what came within `limit`, and how it ended.
    fn ask_for(port: u16, query: &str, limit: Duration) -> (Vec<u8>, Option<ErrorKind>) {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(limit)).unwrap();
        write!(stream, "GET /api/v1/query?query={query} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut got = Vec::new();
        let ended = stream.read_to_end(&mut got);
        (got, ended.err().map(|e| e.kind()))
    }

    fn ask(port: u16, query: &str) -> String {
        let (got, ended) = ask_for(port, query, Duration::from_secs(5));
        assert_eq!(ended, None);
        String::from_utf8_lossy(&got).into_owned()
    }

    #[test]
    fn without_a_fault_bytes_pass_unchanged_and_are_counted() {
        let proxy = FaultProxy::start(upstream());
        assert_eq!((proxy.asked(), proxy.last_asked_at()), (0, None));
        let got = ask(proxy.port(), "up");
        assert!(got.starts_with("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n46\r\n{"), "{got}");
        assert!(got.ends_with("\r\n0\r\n\r\n"), "{got}");
        assert_eq!(proxy.asked(), 1);
        assert!(proxy.last_asked_at().unwrap().elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn answers_are_as_bad_as_they_are_named() {
        let proxy = FaultProxy::start(upstream());
        let good = "\"resultType\":\"vector\",\"result\":[{\"metric\":{},\"value\":[";
        #[rustfmt::skip]
        let table = [
            (Fault::Unauthorized401, "HTTP/1.1 401 ", "Unauthorized\n"), (Fault::TooMany429, "HTTP/1.1 429 ", "slow down\n"),
            (Fault::BadQuery422, "HTTP/1.1 422 ", "{\"status\":\"error\",\"errorType\""), (Fault::Unavailable503, "HTTP/1.1 503 ", "<html>"),
            (Fault::Html200, "HTTP/1.1 200 ", "Please log in"), (Fault::Redirect302, "HTTP/1.1 302 ", "/api/v1/query?query=up\r\n"),
            (Fault::TruncatedJson, "HTTP/1.1 200 ", ",\"0\"]}]"), (Fault::StatusErrorIn200, "HTTP/1.1 200 ", "\"status\":\"error\",\"errorType\""),
            (Fault::NaN, "HTTP/1.1 200 ", ",\"NaN\"]}]}}"), (Fault::PlusInf, "HTTP/1.1 200 ", ",\"+Inf\"]}]}}"),
            (Fault::EmptyString, "HTTP/1.1 200 ", ",\"\"]}]}}"), (Fault::Warnings, "\"warnings\":[\"store down", good),
            (Fault::TwoSeries, "{\"metric\":{\"instance\":\"a\"},", ",{\"metric\":{\"instance\":\"b\"},"),
            (Fault::MatrixForVector, "\"resultType\":\"matrix\"", "\"values\":[["), (Fault::Body10Mb, good, ",\"0\"]}]}}     "),
        ];
        for (fault, one, two) in table {
            proxy.set(fault);
            let got = ask(proxy.port(), "up");
            let start = &got[..got.len().min(500)];
            assert!(got.contains(one) && got.contains(two), "{fault:?}: {start}");
            let body = got.split_once("\r\n\r\n").unwrap().1;
            assert!(got.contains(&format!("Content-Length: {}\r\n", body.len())), "{fault:?}: {start}");
            assert_eq!(body.ends_with("]}]"), fault == Fault::TruncatedJson, "{fault:?}: {start}");
            assert_eq!(body.len() > 10_000_000, fault == Fault::Body10Mb, "{fault:?}");
        }
        assert_eq!(proxy.asked(), table.len() as u64);
    }

    #[test]
    fn resets_are_resets_and_slow_is_slow() {
        let proxy = FaultProxy::start(upstream());
        let (long, soon) = (Duration::from_secs(5), Duration::from_millis(300));
        #[rustfmt::skip]
        let table = [
            (Fault::Refuse, long, ErrorKind::ConnectionReset, 0..1), (Fault::ResetMidBody, long, ErrorKind::ConnectionReset, 100..180),
            (Fault::Hang, soon, ErrorKind::WouldBlock, 0..1), (Fault::Delay5s, soon, ErrorKind::WouldBlock, 0..1),
            (Fault::OneBytePerSecond, soon, ErrorKind::WouldBlock, 1..2),
        ];
        for (fault, limit, end, bytes) in table {
            proxy.set(fault);
            let (got, ended) = ask_for(proxy.port(), "up", limit);
            assert_eq!(ended, Some(end), "{fault:?}");
            assert!(bytes.contains(&got.len()), "{fault:?}: {}", String::from_utf8_lossy(&got));
        }
    }

    #[test]
    fn old_answers_and_clocks_ahead_have_the_wrong_time() {
        let proxy = FaultProxy::start(upstream());
        ask(proxy.port(), "a");
        ask(proxy.port(), "a");
        for (fault, query, want) in [
            (Fault::OldAnswer, "a", "[1700000000.5,\"a-0\"]"),
            (Fault::OldAnswer, "b", "[1699999882.500,\"b-2\"]"),
            (Fault::ServerClockAhead10s, "a", "[1700000013.500,\"a-3\"]"),
            (Fault::ServerClockAhead60s, "a", "[1700000064.500,\"a-4\"]"),
        ] {
            proxy.set(fault);
            let got = ask(proxy.port(), query);
            assert!(got.contains(want), "{fault:?}: {got}");
        }
        assert_eq!(moved("{\"result\":[5,\"1\"]}", 1.0), "{\"result\":[6.000,\"1\"]}");
        assert_eq!(moved("{\"result\":[]}", 1.0), "{\"result\":[]}");
    }

    #[test]
    fn swapped_answers_go_to_somebody_else() {
        let proxy = FaultProxy::start(upstream());
        proxy.set(Fault::SwappedAnswers);
        let port = proxy.port();
        let other = std::thread::spawn(move || ask(port, "a"));
        let mine = ask(port, "b");
        assert!(mine.contains("\"a-"), "{mine}");
        assert!(other.join().unwrap().contains("\"b-"));
        // One asker alone, who gives up: its answer comes to the next one.
        proxy.set(Fault::SwappedAnswers);
        assert_eq!(ask_for(port, "a", Duration::from_millis(300)), (Vec::new(), Some(ErrorKind::WouldBlock)));
        for (query, want) in [("a", "\"a-2\""), ("b", "\"a-3\""), ("a", "\"b-4\"")] {
            let got = ask(port, query);
            assert!(got.contains(want), "{got}");
        }
    }

    #[test]
    fn the_bomb_is_small_and_large() {
        for n in [0, 1, 2, 1_000] {
            assert_eq!(crc_of_many(7, b' ', n), (0..n).fold(7, |c, _| crc_step(c, b' ')));
        }
        assert_eq!(!b"123456789".iter().fold(u32::MAX, |c, b| crc_step(c, *b)), 0xCBF4_3926);
        let proxy = FaultProxy::start(upstream());
        proxy.set(Fault::GzipBomb);
        let got = ask_for(proxy.port(), "up", Duration::from_secs(5)).0;
        assert!(got.len() < 300_000 && find(&got, b"Content-Encoding: gzip\r\n").is_some());
        let size = got.last_chunk().map(|b| u32::from_le_bytes(*b)).unwrap();
        assert!(size > 250 << 20, "{size}");
    }

    #[test]
    fn it_ends_with_its_handle() {
        let proxy = FaultProxy::start(upstream());
        let (port, shared) = (proxy.port(), Arc::clone(&proxy.shared));
        proxy.set(Fault::Hang);
        let hanging = std::thread::spawn(move || ask_for(port, "up", Duration::from_secs(5)));
        let deadline = Instant::now() + Duration::from_secs(5);
        while proxy.asked() == 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        drop(proxy);
        assert_eq!(shared.live.load(Ordering::SeqCst), 0);
        assert_eq!(hanging.join().unwrap(), (Vec::new(), None));
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    }

    #[test]
    fn every_fault_is_listed_once() {
        for (i, fault) in Fault::ALL.iter().enumerate() {
            assert!(*fault != Fault::None && *fault as usize == i + 1, "{fault:?}");
        }
        assert_eq!(Fault::ALL.len(), Fault::ServerClockAhead60s as usize);
    }
}
