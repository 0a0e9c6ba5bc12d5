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

#[cfg(test)]
mod tests {
    use super::super::scripted::{Reply, Scripted};
    use super::*;

    fn got(url: &str) -> Result<Got, NoData> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(get(url, None, None))
    }

    #[test]
    fn urls_are_split_into_origin_and_path() {
        let table = [
            ("http://a", Some((false, "a", 80, "/"))),
            ("https://a/b?c=d", Some((true, "a", 443, "/b?c=d"))),
            ("http://a:81?c", Some((false, "a", 81, "?c"))),
            ("http://[::1]:82/x", Some((false, "[::1]", 82, "/x"))),
            ("a/b", None),
            ("ftp://a", None),
        ];
        for (url, want) in table {
            let found = parts(url);
            let plain =
                found.as_ref().map(|((tls, host, port), path)| (*tls, host.as_str(), *port, path.as_str()));
            assert_eq!(plain, want, "{url}");
        }
    }

    #[test]
    fn an_answer_is_status_and_whole_body_or_none() {
        let server = Scripted::start(&[
            ("/ok", Reply::Body("hello".into())),
            ("/no", Reply::Status(500)),
            ("/large", Reply::Body("x".repeat(WATCH_BODY_BYTES_MAX + 1))),
            ("/most", Reply::Body("x".repeat(WATCH_BODY_BYTES_MAX))),
        ]);
        let seen = |path: &str| got(&format!("{}{path}", server.url)).map(|g| (g.status, g.body.len()));
        assert_eq!(seen("/ok"), Ok((200, 5)));
        assert_eq!(seen("/no"), Ok((500, 2)));
        assert_eq!(seen("/most"), Ok((200, WATCH_BODY_BYTES_MAX)));
        assert_eq!(seen("/large"), Err(NoData::BadJson));
        assert_eq!(got("http://127.0.0.1:1/").map(|g| g.status), Err(NoData::Unreachable));
        assert_eq!(
            got(&server.url.replace("http:", "https:")).map(|g| g.status),
            Err(NoData::Unreachable),
            "no TLS given"
        );
        assert_eq!(got("nonsense").map(|g| g.status), Err(NoData::Unreachable));
    }
}
