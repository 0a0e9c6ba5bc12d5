//! One look at the target before a run: name, address, handshake, and one HEAD request.
//!
//! It is the only request that leaves without a permit of the governor: it exists for `replay check`, where there
//! is no governor yet, is sent once, and is told.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::connect::Stream;
use super::dns::Resolver;
use crate::policy::target::Target;
use crate::units::{NANOS_PER_SEC, WallTime};

/// Headers that show which boxes stand on the way.
const PATH_HEADERS: [&str; 10] = [
    "server",
    "via",
    "x-cache",
    "age",
    "cf-ray",
    "x-served-by",
    "x-envoy-upstream-service-time",
    "alt-svc",
    "x-amz-cf-pop",
    "x-replay-stop",
];

/// Deadline of each part.
const PART: Duration = Duration::from_secs(5);

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Addresses behind the name, all permitted.
    pub addresses: Vec<String>,
    /// TLS version and cipher suite, for https.
    pub tls: Option<String>,
    /// Protocol that the server chose for HTTP, where it chose one.
    pub alpn: Option<String>,
    /// When the target's certificate ends.
    pub certificate_ends: Option<WallTime>,
    /// Status of `HEAD /`.
    pub status: u16,
    /// Headers that show the path.
    pub headers: Vec<(String, String)>,
}

async fn within<T>(what: &str, part: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    match tokio::time::timeout(PART, part).await {
        Ok(result) => result.with_context(|| format!("{what} failed")),
        Err(_) => anyhow::bail!("{what} took longer than {} s", PART.as_secs()),
    }
}

/// Looks at the target at the addresses that the resolver gives.
///
/// # Errors
/// The first part that fails, by name.
pub async fn look(
    target: &Target,
    resolver: &Resolver,
    server_name: Option<&str>,
    tls: Option<Arc<ClientConfig>>,
) -> anyhow::Result<Seen> {
    let permitted = within("resolving the name", resolver.all(target)).await?;
    let first = permitted.first().context("the name has no address")?.get();
    let mut seen =
        Seen { addresses: permitted.iter().map(|a| a.get().ip().to_string()).collect(), ..Seen::default() };
    let tcp = within("connecting", async { Ok(TcpStream::connect(first).await?) }).await?;
    let stream = match tls.filter(|_| target.https()) {
        None => Stream::Plain(tcp),
        Some(config) => {
            let name = ServerName::try_from(server_name.unwrap_or(target.host()).to_owned())?;
            let shake = async { Ok(TlsConnector::from(config).connect(name, tcp).await?) };
            let stream = within("the TLS handshake (certificate, name, protocol)", shake).await?;
            let (_, state) = stream.get_ref();
            let version = state.protocol_version().map_or_else(|| "?".to_owned(), |v| format!("{v:?}"));
            let suite = state
                .negotiated_cipher_suite()
                .map_or_else(|| "?".to_owned(), |s| format!("{:?}", s.suite()));
            seen.tls = Some(format!("{version} {suite}"));
            seen.certificate_ends = state.peer_certificates().and_then(first_end);
            seen.alpn = state.alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned());
            Stream::Tls(Box::new(stream))
        }
    };
    within("HEAD /", ask(stream, target, &mut seen)).await?;
    Ok(seen)
}

/// When the first certificate of a chain ends; `None` when one cannot be read.
fn first_end(chain: &[CertificateDer<'_>]) -> Option<WallTime> {
    chain.iter().map(ends).collect::<Option<Vec<_>>>()?.into_iter().min()
}

/// The end of a certificate's validity (RFC 5280, section 4.1.2.5).
fn ends(certificate: &CertificateDer<'_>) -> Option<WallTime> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    Some(WallTime(seconds.saturating_mul(NANOS_PER_SEC)))
}

async fn ask(stream: Stream, target: &Target, seen: &mut Seen) -> anyhow::Result<()> {
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(async move { drop(driver.await) });
    let request = Request::head("/")
        .header("host", target.authority())
        .header("user-agent", concat!("replay/", env!("CARGO_PKG_VERSION"), " (check)"))
        .header("connection", "close")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    driver.abort();
    seen.status = response.status().as_u16();
    for name in PATH_HEADERS {
        if let Some(value) = response.headers().get(name) {
            seen.headers.push((name.to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_read() {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2031, 5, 6);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        assert_eq!(ends(certificate.der()).unwrap().rfc3339(), "2031-05-06T00:00:00.000000Z");
        let (sooner, broken) = (certificate.der().clone(), CertificateDer::from(vec![0x30, 0x82, 0x01]));
        params.not_after = rcgen::date_time_ymd(2041, 5, 6);
        let later = params.self_signed(&key).unwrap().der().clone();
        assert_eq!(first_end(&[later.clone(), sooner.clone()]), ends(&sooner));
        assert_eq!((ends(&broken), first_end(&[later, broken.clone()]), first_end(&[])), (None, None, None));
    }
}
