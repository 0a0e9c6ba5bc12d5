//! Our own metrics, for Prometheus: that a run is active, and what it does.
//!
//! `replay_run_active{target,run}` is what keeps us from fooling ourselves: baselines and back-tests leave out the
//! times at which it was set, and another run on the same target refuses to start.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use prometheus::{Encoder, Gauge, GaugeVec, Opts, Registry, TextEncoder};

/// Numbers on the page.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Numbers {
    /// Whether this run is active.
    pub active: bool,
    /// Share of the plan allowed.
    pub share: f64,
    /// Ceiling, requests per second.
    pub ceiling_rps: f64,
    /// Requests sent.
    pub sent: f64,
    /// Requests that failed.
    pub failed: f64,
    /// Requests in flight.
    pub in_flight: f64,
}

/// The metrics of one run.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    active: GaugeVec,
    labels: [String; 2],
    share: Gauge,
    ceiling: Gauge,
    sent: Gauge,
    failed: Gauge,
    in_flight: Gauge,
}

impl Metrics {
    /// Metrics of run `run` against `target`, not active yet.
    ///
    /// # Errors
    /// Never for the fixed names here; the registry asks.
    pub fn new(target: &str, run: &str) -> anyhow::Result<Self> {
        let registry = Registry::new();
        let gauge = |name: &str, help: &str| -> anyhow::Result<Gauge> {
            let gauge = Gauge::with_opts(Opts::new(name, help))?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let share = gauge("replay_share", "Share of the plan allowed now.")?;
        let ceiling = gauge("replay_ceiling_rps", "Ceiling of the token bucket, requests per second.")?;
        let sent = gauge("replay_requests_sent", "Requests sent by this run.")?;
        let failed = gauge("replay_requests_failed", "Requests of this run that failed.")?;
        let in_flight = gauge("replay_in_flight", "Requests in flight.")?;
        let opts = Opts::new("replay_run_active", "1 while a run sends or may send to the target.");
        let active = GaugeVec::new(opts, &["target", "run"])?;
        registry.register(Box::new(active.clone()))?;
        let labels = [target.to_owned(), run.to_owned()];
        Ok(Self { registry, active, labels, share, ceiling, sent, failed, in_flight })
    }

    /// Shows the numbers of now.
    pub fn show(&self, n: Numbers) {
        let labels = [self.labels[0].as_str(), self.labels[1].as_str()];
        self.active.with_label_values(&labels).set(f64::from(u8::from(n.active)));
        self.share.set(n.share);
        self.ceiling.set(n.ceiling_rps);
        self.sent.set(n.sent);
        self.failed.set(n.failed);
        self.in_flight.set(n.in_flight);
    }

    fn page(&self) -> Vec<u8> {
        let mut out = Vec::new();
        // Writing to memory cannot fail.
        let _infallible = TextEncoder::new().encode(&self.registry.gather(), &mut out).is_ok();
        out
    }
}

/// The page; closed when dropped.
#[derive(Debug)]
pub struct MetricsPage {
    addr: SocketAddr,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl MetricsPage {
    /// Serves `metrics` at `listen`.
    ///
    /// # Errors
    /// When the address cannot be used.
    pub fn open(listen: &str, metrics: Metrics) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(listen)
            .with_context(|| format!("cannot serve our own metrics at {listen}; another run may do so"))?;
        let addr = listener.local_addr()?;
        let ended = Arc::new(AtomicBool::new(false));
        let inside = Arc::clone(&ended);
        let thread = std::thread::Builder::new().name("metrics".to_owned()).spawn(move || {
            for stream in listener.incoming() {
                if inside.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(stream) = stream {
                    let _gone = answer(&stream, &metrics).is_err();
                }
            }
        })?;
        Ok(Self { addr, ended, thread: Some(thread) })
    }

    /// Where it is served.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

fn answer(mut stream: &TcpStream, metrics: &Metrics) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    // Whatever is asked, there is one page. Reading once is enough for a scraper's short head.
    let mut head = [0u8; 4096];
    let _n = stream.read(&mut head)?;
    let page = metrics.page();
    let status = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close\r\n";
    write!(stream, "{status}Content-Length: {}\r\n\r\n", page.len())?;
    stream.write_all(&page)
}

impl Drop for MetricsPage {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let woken = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1)).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_active_run_shows_on_the_page() {
        let metrics = Metrics::new("api.example.com:443", "r1").unwrap();
        metrics.show(Numbers { active: true, sent: 5.0, ..Numbers::default() });
        let page = MetricsPage::open("127.0.0.1:0", metrics.clone()).unwrap();
        let get = || {
            let mut s = TcpStream::connect(page.addr()).unwrap();
            s.write_all(b"GET /metrics HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
            let mut text = String::new();
            s.read_to_string(&mut text).unwrap();
            text
        };
        let text = get();
        assert!(text.contains("replay_run_active{run=\"r1\",target=\"api.example.com:443\"} 1"), "{text}");
        assert!(text.contains("replay_requests_sent 5"), "{text}");
        metrics.show(Numbers::default());
        assert!(get().contains("target=\"api.example.com:443\"} 0"));
    }
}
