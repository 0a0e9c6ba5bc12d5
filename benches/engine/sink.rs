//! A server that remembers when each request came: one thread on core 0 that never sleeps, so that its stamps are late
//! by less than it takes to look once around.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How true the send times were.
#[derive(Debug, Clone, Copy)]
pub struct Truth {
    pub rate_error_percent: f64,
    pub p50_us: f64,
    pub p99_us: f64,
}

pub struct Sink {
    port: u16,
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Duration>>,
}

impl Sink {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let ended = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            let mut core = rustix::thread::CpuSet::new();
            core.set(0);
            let _anywhere = rustix::thread::sched_setaffinity(None, &core).is_err();
            serve(&listener, &stop)
        });
        Self { port, ended, thread }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// Ends it and compares with `rate`; the first second and what is past the last full one are left out.
    pub fn finish(self, rate: u64) -> Option<Truth> {
        self.ended.store(true, Ordering::SeqCst);
        let all = self.thread.join().ok()?;
        let first = *all.first()?;
        let end = *all.last()? - Duration::from_millis(300);
        let times: Vec<f64> = all
            .iter()
            .filter(|t| **t >= first + Duration::from_secs(1) && **t < end)
            .map(|t| t.as_secs_f64() * 1e6)
            .collect();
        if times.len() < 100 {
            return None;
        }
        let step = 1e6 / rate as f64;
        let mut errors: Vec<f64> =
            times.iter().enumerate().map(|(i, t)| t - times[0] - i as f64 * step).collect();
        errors.sort_by(f64::total_cmp);
        let middle = errors[errors.len() / 2];
        let mut off: Vec<f64> = errors.iter().map(|e| (e - middle).abs()).collect();
        off.sort_by(f64::total_cmp);
        let got = (times.len() - 1) as f64 / (times[times.len() - 1] - times[0]) * 1e6;
        let at = |q: f64| off[((off.len() as f64 * q) as usize).min(off.len() - 1)];
        Some(Truth {
            rate_error_percent: (got / rate as f64 - 1.0) * 100.0,
            p50_us: at(0.5),
            p99_us: at(0.99),
        })
    }
}

fn serve(listener: &TcpListener, stop: &AtomicBool) -> Vec<Duration> {
    let (mut streams, mut times): (Vec<(TcpStream, Vec<u8>)>, Vec<Duration>) = (Vec::new(), Vec::new());
    let start = Instant::now();
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true).unwrap();
            stream.set_nodelay(true).unwrap();
            streams.push((stream, Vec::new()));
        }
        streams.retain_mut(|(stream, head)| match stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(n) => {
                let now = start.elapsed();
                head.extend_from_slice(&buffer[..n]);
                while let Some(end) = head.windows(4).position(|w| w == b"\r\n\r\n") {
                    head.drain(..end + 4);
                    times.push(now);
                    if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                        return false;
                    }
                }
                true
            }
            Err(e) => e.kind() == ErrorKind::WouldBlock,
        });
    }
    times
}
