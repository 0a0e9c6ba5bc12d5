//! Opens one connection: TCP, then TLS where the target wants it.

use core::net::{IpAddr, SocketAddr};
use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::dns::Resolver;
use super::mux::Alpn;
use super::session::SessionData;
use crate::edge::clock::Clock;
use crate::govern::gate::ConnectPermit;
use crate::govern::latch::Latch;
use crate::measure::tally::ConnectTimes;
use crate::policy::target::Target;
use crate::policy::tls::Resumption;

/// A connection to the target.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
}

/// What opening needs to know.
#[derive(Debug)]
pub struct Connector {
    /// Whom.
    pub target: Target,
    /// Where.
    pub resolver: Resolver,
    /// TLS, for https targets.
    pub tls: Option<Alpn>,
    /// Name in the handshake; else the target's host.
    pub server_name: Option<String>,
    /// Resumption.
    pub resumption: Resumption,
    /// Local addresses that connections come from, in turn.
    pub sources: Sources,
    /// Longest time in all.
    pub timeout: Duration,
    /// Clock.
    pub clock: Clock,
}

/// Local addresses, taken in turn; none leaves the choice to the kernel.
#[derive(Debug, Default)]
pub struct Sources {
    addrs: Vec<IpAddr>,
    turn: Cell<usize>,
}

impl Sources {
    /// These.
    #[must_use]
    pub fn new(addrs: &[IpAddr]) -> Self {
        Self { addrs: addrs.to_vec(), turn: Cell::new(0) }
    }

    /// The next one of the family of `to`.
    ///
    /// # Errors
    /// When there are some, but none of that family.
    fn next(&self, to: SocketAddr) -> anyhow::Result<Option<IpAddr>> {
        let mut tried = 0;
        while tried < self.addrs.len() {
            let turn = self.turn.get();
            self.turn.set((turn + 1) % self.addrs.len());
            tried += 1;
            if let Some(addr) = self.addrs.get(turn).filter(|a| a.is_ipv4() == to.is_ipv4()) {
                return Ok(Some(*addr));
            }
        }
        anyhow::ensure!(tried == 0, "no --source-ip is of the family of {}", to.ip());
        Ok(None)
    }
}

/// Connects, from `source` where there is one.
async fn tcp(to: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let Some(source) = source else { return TcpStream::connect(to).await };
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(source, 0))?;
    socket.connect(to).await
}

/// Says what stands behind the number of an error where people would look at the target for it.
fn name(error: &io::Error, to: SocketAddr, source: Option<IpAddr>) -> anyhow::Error {
    let from = source.map_or_else(String::new, |s| format!(" from {s}"));
    match error.kind() {
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "no local port is left{from} to {to}: give more addresses (--source-ip), or a wider net.ipv4.ip_local_port_range"
        ),
        _ if matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) => {
            anyhow::anyhow!(
                "no file descriptor is left for a connection to {to}: raise LimitNOFILE= or ulimit -n"
            )
        }
        _ => anyhow::anyhow!("cannot connect{from} to {to}: {error}"),
    }
}

/// The process, or the machine, has too many files open (errno(3)).
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;

impl Connector {
    /// Opens a connection. The permit is used up whether or not it succeeds.
    ///
    /// # Errors
    /// When the name, the address, the handshake or the time-out says no.
    pub async fn open(
        &self,
        permit: ConnectPermit,
        latch: &Latch,
        session: &SessionData,
        http2: bool,
    ) -> anyhow::Result<(Stream, ConnectTimes)> {
        drop(permit);
        tokio::time::timeout(self.timeout, self.open_inner(latch, session, http2))
            .await
            .map_err(|_| anyhow::anyhow!("connecting took longer than connect_timeout"))?
    }

    async fn open_inner(
        &self,
        latch: &Latch,
        session: &SessionData,
        http2: bool,
    ) -> anyhow::Result<(Stream, ConnectTimes)> {
        let (addr, dns) = self.resolver.next(&self.target).await?;
        // Resolving may have taken a while.
        anyhow::ensure!(!latch.is_set(), "the run was stopped");
        let start = self.clock.now();
        let source = self.sources.next(addr.get())?;
        let tcp = tcp(addr.get(), source).await.map_err(|e| name(&e, addr.get(), source))?;
        tcp.set_nodelay(true)?;
        let connect = Some(self.clock.now().since(start));
        let Some(config) = &self.tls else {
            return Ok((Stream::Plain(tcp), ConnectTimes { dns, connect, tls: None, resumed: false, http2 }));
        };
        let start = self.clock.now();
        // The policy's name, wherever --connect-to or DNS led us.
        let name = self.server_name.as_deref().unwrap_or(self.target.host());
        let name = ServerName::try_from(name.to_owned())?;
        let tls = TlsConnector::from(session.tls(config, http2, self.resumption))
            .connect(name, tcp)
            .await
            .context("the TLS handshake failed")?;
        let resumed = tls.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        // Only where the server took it up.
        let http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        let times = ConnectTimes { dns, connect, tls: Some(self.clock.now().since(start)), resumed, http2 };
        Ok((Stream::Tls(Box::new(tls)), times))
    }
}

impl Stream {
    /// Whether written bytes may still lie in a buffer of ours.
    #[must_use]
    pub fn is_buffered(&self) -> bool {
        matches!(self, Self::Tls(_))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tls(s) => Pin::new(s.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tls(s) => Pin::new(s.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_flush(cx),
            Self::Tls(s) => Pin::new(s.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tls(s) => Pin::new(s.as_mut()).poll_shutdown(cx),
        }
    }
}
