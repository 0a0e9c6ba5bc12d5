//! A relay between us and Prometheus, for drills: while it lives bytes pass, when it is dropped Prometheus is gone.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;

use crate::policy::target::split;

/// Connections that may be open at once.
const CONNECTIONS_MAX: usize = 64;

/// The relay; Prometheus is cut off when it is dropped.
#[derive(Debug)]
pub struct Relay {
    url: String,
    addr: SocketAddr,
    ended: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Relay {
    /// Starts a relay on this machine to the Prometheus at `url` (plain http).
    ///
    /// # Errors
    /// For https: its certificate would not fit the relay's name.
    pub fn start(url: &str) -> anyhow::Result<Self> {
        let (https, host, port) = split(url).with_context(|| format!("{url:?} is no URL"))?;
        anyhow::ensure!(
            !https,
            "the drill cannot stand between us and an https Prometheus; cut it off by hand (firewall) and watch a run end"
        );
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let addr = listener.local_addr()?;
        let (ended, open) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Vec<TcpStream>>>::default());
        let (stop, streams) = (Arc::clone(&ended), Arc::clone(&open));
        std::thread::Builder::new().name("relay".to_owned()).spawn(move || {
            for client in listener.incoming().flatten() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                // What cannot be relayed is dropped, which reads as "unreachable".
                let _gone = pass(client, &host, port, &streams).is_err();
            }
        })?;
        Ok(Self { url: format!("http://{addr}"), addr, ended, open })
    }

    /// Where to ask instead.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// Copies both ways on threads of their own, until either side ends.
fn pass(client: TcpStream, host: &str, port: u16, open: &Mutex<Vec<TcpStream>>) -> std::io::Result<()> {
    let server = TcpStream::connect((host.trim_matches(['[', ']']), port))?;
    let limit = Some(Duration::from_secs(30));
    for stream in [&client, &server] {
        stream.set_read_timeout(limit)?;
        stream.set_write_timeout(limit)?;
    }
    let mut all = open.lock().unwrap_or_else(PoisonError::into_inner);
    all.push(client.try_clone()?);
    let excess = all.len().saturating_sub(CONNECTIONS_MAX);
    all.drain(..excess);
    drop(all);
    for (mut from, mut to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
        std::thread::spawn(move || {
            let _ended = std::io::copy(&mut from, &mut to).is_err();
            let _gone = to.shutdown(std::net::Shutdown::Write).is_err();
        });
    }
    Ok(())
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _woken = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1)).is_ok();
        for stream in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _gone = stream.shutdown(std::net::Shutdown::Both).is_err();
        }
    }
}
