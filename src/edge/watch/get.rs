//! One HTTP GET with a limit on everything: no redirects, no retries, no pool.

use std::sync::Arc;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::govern::reading::NoData;
use crate::limits::WATCH_BODY_BYTES_MAX;
use crate::policy::target::split;

/// An answer: status and whole body.
#[derive(Debug)]
pub struct Got {
    /// Status.
    pub status: u16,
    /// Body.
    pub body: Bytes,
}

/// Splits a URL into its origin and its path with query.
fn parts(url: &str) -> Option<((bool, String, u16), String)> {
    let start = url.find("://")? + 3;
    let slash = url[start..].find(['/', '?']).map_or(url.len(), |i| start + i);
    let path = &url[slash..];
    let path = if path.is_empty() { "/".to_owned() } else { path.to_owned() };
    Some((split(&url[..slash])?, path))
}

/// Gets `url`. The caller sets the deadline around it.
///
/// # Errors
/// Why there is no data.
pub async fn get(url: &str, tls: Option<&Arc<ClientConfig>>, token: Option<&str>) -> Result<Got, NoData> {
    let ((https, host, port), path) = parts(url).ok_or(NoData::Unreachable)?;
    let bare = host.trim_matches(['[', ']']).to_owned();
    let tcp = TcpStream::connect((bare.as_str(), port)).await.map_err(|_| NoData::Unreachable)?;
    if https {
        let config = tls.ok_or(NoData::Unreachable)?;
        let name = ServerName::try_from(bare).map_err(|_| NoData::Unreachable)?;
        let stream = TlsConnector::from(Arc::clone(config)).connect(name, tcp).await;
        ask(stream.map_err(|_| NoData::Unreachable)?, &host, port, &path, token).await
    } else {
        ask(tcp, &host, port, &path, token).await
    }
}

/// The task that drives one connection; it ends with the question, also when a deadline cuts that off.
struct Driver(tokio::task::JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn ask<S>(stream: S, host: &str, port: u16, path: &str, token: Option<&str>) -> Result<Got, NoData>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, driver) = handshake.map_err(|_| NoData::Unreachable)?;
    let driver = Driver(tokio::spawn(async move { drop(driver.await) }));
    let mut request = Request::get(path);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request
        .header("host", format!("{host}:{port}"))
        .header("user-agent", concat!("replay/", env!("CARGO_PKG_VERSION"), " (guard)"))
        .header("accept", "application/json, text/plain")
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| NoData::Unreachable)?;
    let response = sender.send_request(request).await.map_err(|_| NoData::Unreachable)?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), WATCH_BODY_BYTES_MAX).collect().await;
    drop(driver);
    let body = body.map_err(|_| NoData::BadJson)?.to_bytes();
    Ok(Got { status, body })
}
