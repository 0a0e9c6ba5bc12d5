//! A metrics page under control: a real Prometheus scrapes it, and the test says what it shows.
//!
//! Why: what a guard sees is a rate over what was scraped. Counters that grow, stand still, start again or
//! vanish, and pages that are slow or stuck, come out of a real Prometheus only if a real page does so.
//!
//! `GET /metrics` in the text format 0.0.4, one request for each connection. Every wait is at most 60 s.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const CONNECTIONS_MAX: usize = 256;
const HEAD_MAX: usize = 64 * 1024;
/// The longest life of a connection.
const LIFE_MAX: Duration = Duration::from_secs(60);
/// How long anything blocks before it looks whether the exporter has gone.
const SLICE: Duration = Duration::from_millis(20);

/// The exporter; it ends with its handle.
///
/// A series is its whole text, such as `http_requests_total{code="200"}`.
pub struct Exporter {
    port: u16,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl Exporter {
    /// Serves an empty page on a free port of 127.0.0.1.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let inside = Arc::clone(&shared);
        let accepting = std::thread::spawn(move || accept(&listener, &inside));
        Self { port, shared, accepting: Some(accepting) }
    }

    /// Where to scrape.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sets a series to a value, where it stays.
    pub fn set(&self, series: &str, value: f64) {
        let cell = Cell { base: value, per_second: 0.0, since: Instant::now() };
        self.shared.state().series.insert(Key::of(series), cell);
    }

    /// Adds to a series (from 0 where there was none); a growing one goes on growing.
    pub fn add(&self, series: &str, delta: f64) {
        self.shared.state().cell(series).base += delta;
    }

    /// Takes a series off the page.
    pub fn remove(&self, series: &str) {
        self.shared.state().series.remove(&Key::of(series));
    }

    /// Lets a series grow with time from where it is (from 0 where there was none) until it is changed.
    pub fn grow(&self, series: &str, per_second: f64) {
        let now = Instant::now();
        let mut state = self.shared.state();
        let cell = state.cell(series);
        *cell = Cell { base: cell.value(now), per_second, since: now };
    }

    /// Serves the page as it is now until thawed. What is behind it goes on.
    pub fn freeze(&self, frozen: bool) {
        let mut state = self.shared.state();
        state.frozen = frozen.then(|| state.page(Instant::now()));
    }

    /// Waits before each answer; the page is that of the time after the wait.
    pub fn slow(&self, delay: Option<Duration>) {
        self.shared.state().slow = delay;
    }

    /// Sets counters to 0, as a restart does; growing ones grow on from there.
    pub fn reset_counters(&self) {
        let now = Instant::now();
        let mut state = self.shared.state();
        for (_, cell) in state.series.iter_mut().filter(|(key, _)| key.is_counter()) {
            *cell = Cell { base: 0.0, since: now, ..*cell };
        }
    }

    /// Pages answered.
    pub fn scrapes(&self) -> u64 {
        self.shared.state().scrapes
    }

    /// Gives each sample this time of its own (Unix milliseconds).
    pub fn own_timestamps(&self, unix_ms: Option<i64>) {
        self.shared.state().time = unix_ms;
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the accepting thread; the listener closes with it.
        drop(TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], self.port)), SLICE * 5));
        drop(self.accepting.take().map(JoinHandle::join));
        let deadline = Instant::now() + Duration::from_secs(1);
        while self.shared.live.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Name and labels apart: all series of a name must stand together, and `a_b` sorts before `a{`.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key(String, String);

impl Key {
    fn of(series: &str) -> Self {
        let (name, labels) = series.split_at(series.find('{').unwrap_or(series.len()));
        Self(name.trim().to_owned(), labels.to_owned())
    }

    fn is_counter(&self) -> bool {
        ["_total", "_bucket", "_count", "_sum"].iter().any(|end| self.0.ends_with(end))
    }
}

/// A value that may grow.
struct Cell {
    base: f64,
    per_second: f64,
    since: Instant,
}

impl Cell {
    fn value(&self, now: Instant) -> f64 {
        self.base + self.per_second * now.saturating_duration_since(self.since).as_secs_f64()
    }
}

#[derive(Default)]
struct State {
    series: BTreeMap<Key, Cell>,
    frozen: Option<String>,
    slow: Option<Duration>,
    scrapes: u64,
    time: Option<i64>,
}

impl State {
    fn cell(&mut self, series: &str) -> &mut Cell {
        let new = || Cell { base: 0.0, per_second: 0.0, since: Instant::now() };
        self.series.entry(Key::of(series)).or_insert_with(new)
    }

    fn page(&self, now: Instant) -> String {
        let (mut page, mut last) = (String::new(), "");
        for (key, cell) in &self.series {
            let (Key(name, labels), value) = (key, cell.value(now));
            if name != last {
                let kind = if key.is_counter() { "counter" } else { "gauge" };
                page.push_str(&format!("# TYPE {name} {kind}\n"));
                last = name;
            }
            let value =
                if value.is_infinite() { format!("{value:+}").replace('i', "I") } else { value.to_string() };
            let time = self.time.map_or_else(String::new, |t| format!(" {t}"));
            page.push_str(&format!("{name}{labels} {value}{time}\n"));
        }
        page
    }
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    live: AtomicUsize,
    state: Mutex<State>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        let Some(head) = self.head() else { return };
        let mut words = head.split([' ', '\r']);
        let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let (status, body) = match (method, target.split('?').next().unwrap_or("")) {
            ("GET", "/metrics") => match self.page() {
                Some(page) => ("200 OK", page),
                None => return,
            },
            ("GET", _) => ("404 Not Found", "not found\n".to_owned()),
            _ => ("405 Method Not Allowed", "GET only\n".to_owned()),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        self.send(&[head.as_bytes(), body.as_bytes()].concat());
    }

    fn over(&self) -> bool {
        self.shared.stop.load(Ordering::SeqCst) || Instant::now() >= self.deadline
    }

    fn head(&self) -> Option<String> {
        self.stream.set_nodelay(true).ok()?;
        self.stream.set_read_timeout(Some(SLICE)).ok()?;
        self.stream.set_write_timeout(Some(SLICE)).ok()?;
        let (mut head, mut part) = (Vec::new(), [0; 4096]);
        while head.len() < HEAD_MAX && !self.over() {
            match (&self.stream).read(&mut part) {
                Ok(0) => return None,
                Ok(n) => head.extend_from_slice(&part[..n]),
                Err(e) if waits(&e) => {}
                Err(_) => return None,
            }
            if head.windows(4).any(|w| w == b"\r\n\r\n") {
                return String::from_utf8(head).ok();
            }
        }
        None
    }

    /// The page, after the wait that is set; `None` when the exporter ends before.
    fn page(&self) -> Option<String> {
        let delay = self.shared.state().slow.unwrap_or_default();
        let end = Instant::now() + delay.min(LIFE_MAX);
        while Instant::now() < end {
            if self.over() {
                return None;
            }
            std::thread::sleep(end.saturating_duration_since(Instant::now()).min(SLICE));
        }
        let mut state = self.shared.state();
        state.scrapes += 1;
        Some(state.frozen.clone().unwrap_or_else(|| state.page(Instant::now())))
    }

    fn send(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.over() {
            match (&self.stream).write(bytes) {
                Ok(0) => return,
                Ok(n) => bytes = &bytes[n..],
                Err(e) if waits(&e) => {}
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(port: u16, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    fn page(exporter: &Exporter) -> String {
        get(exporter.port(), "/metrics").split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    fn value(exporter: &Exporter, series: &str) -> Option<f64> {
        page(exporter).lines().find_map(|l| l.strip_prefix(series)?.trim().parse().ok())
    }

    #[test]
    fn the_page_is_what_was_said() {
        let e = Exporter::start();
        e.set("a{x=\"1\"}", 1.5);
        e.set("a_total", 2.0);
        e.set("a", -1.0);
        e.set("inf", f64::INFINITY);
        e.set("least", f64::NEG_INFINITY);
        e.set("nan", f64::NAN);
        e.set("gone", 1.0);
        e.remove("gone");
        e.add("a_total", 3.0);
        e.add("h_bucket{le=\"+Inf\"}", 4.0);
        let want = "# TYPE a gauge\na -1\na{x=\"1\"} 1.5\n# TYPE a_total counter\na_total 5\n\
            # TYPE h_bucket counter\nh_bucket{le=\"+Inf\"} 4\n# TYPE inf gauge\ninf +Inf\n\
            # TYPE least gauge\nleast -Inf\n# TYPE nan gauge\nnan NaN\n";
        assert_eq!(page(&e), want);
        let whole = get(e.port(), "/metrics");
        assert!(
            whole.contains("text/plain; version=0.0.4") && whole.contains("Connection: close\r\n"),
            "{whole}"
        );
        assert!(get(e.port(), "/other").starts_with("HTTP/1.1 404 "));
        assert_eq!(e.scrapes(), 2);
        e.reset_counters();
        e.own_timestamps(Some(1_700_000_000_123));
        let got = page(&e);
        assert!(
            got.contains("\na_total 0 1700000000123\n") && got.contains("\na -1 1700000000123\n"),
            "{got}"
        );
    }

    #[test]
    fn growth_goes_with_time_and_through_resets() {
        let e = Exporter::start();
        let (series, start) = ("x_total{code=\"200\"}", Instant::now());
        e.set(series, 100.0);
        e.grow(series, 1_000.0);
        std::thread::sleep(Duration::from_millis(50));
        let got = value(&e, series).unwrap();
        assert!((150.0..=100.0 + start.elapsed().as_secs_f64() * 1e3).contains(&got), "{got}");
        e.add(series, 1e6);
        assert!(value(&e, series).unwrap() > 1e6);
        e.reset_counters();
        std::thread::sleep(Duration::from_millis(5));
        let got = value(&e, series).unwrap();
        assert!((5.0..1e5).contains(&got), "{got}");
        e.grow(series, 0.0);
        let got = value(&e, series);
        std::thread::sleep(Duration::from_millis(5));
        assert!(got.is_some() && got == value(&e, series), "it stands still");
    }

    #[test]
    fn frozen_is_the_same_page_and_slow_is_slow() {
        let e = Exporter::start();
        e.grow("x_total", 1_000.0);
        e.freeze(true);
        let frozen = page(&e);
        e.set("y", 1.0);
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(page(&e), frozen);
        e.freeze(false);
        assert_ne!(page(&e), frozen);
        e.slow(Some(Duration::from_millis(60)));
        let start = Instant::now();
        page(&e);
        assert!(start.elapsed() >= Duration::from_millis(60));
        e.slow(None);
        assert_eq!(e.scrapes(), 4);
    }

    #[test]
    fn it_ends_with_its_handle() {
        let e = Exporter::start();
        e.slow(Some(Duration::from_secs(60)));
        let (port, shared) = (e.port(), Arc::clone(&e.shared));
        let hanging = std::thread::spawn(move || {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            write!(stream, "GET /metrics HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
            let mut got = Vec::new();
            // Cut off with an end, or with a reset if the request had not been read.
            let cut = stream.read_to_end(&mut got).map_or_else(|e| !waits(&e), |_| true);
            (cut, got.len())
        });
        let deadline = Instant::now() + Duration::from_secs(5);
        while shared.live.load(Ordering::SeqCst) == 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        drop(e);
        assert_eq!(shared.live.load(Ordering::SeqCst), 0);
        assert_eq!(hanging.join().unwrap(), (true, 0));
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    }
}
