//! Whom TLS trusts, and who we are: the platform's roots, or the authorities that a policy names instead of them.
//!
//! `SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured, as the platform's own tools do. Verification cannot be
//! switched off: a replay against the wrong host is the accident this program exists to prevent.

use std::sync::Arc;

use anyhow::{Context, ensure};
use rustls::client::Resumption as Store;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::policy::tls::TlsWords;

/// A TLS client configuration with the platform's roots, offering HTTP/1.1.
///
/// # Errors
/// When no root certificate can be loaded, or the crypto provider is unusable.
pub fn client_config() -> anyhow::Result<Arc<ClientConfig>> {
    configure(&TlsWords::default())
}

/// A TLS client configuration as a policy says it, without resumption.
///
/// # Errors
/// When a file cannot be read, holds no certificate or no key, or key and certificate do not fit.
pub fn configure(words: &TlsWords) -> anyhow::Result<Arc<ClientConfig>> {
    let roots = match &words.ca_file {
        Some(file) => named(file)?,
        None => platform()?,
    };
    let versions: &[&rustls::SupportedProtocolVersion] = if words.tls13_only {
        &[&rustls::version::TLS13]
    } else {
        &[&rustls::version::TLS13, &rustls::version::TLS12]
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_root_certificates(roots);
    let mut config = match &words.identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = certificates(cert)?;
            let key_text = PrivateKeyDer::from_pem_file(key);
            let key_der = key_text.map_err(|e| anyhow::anyhow!("{key} holds no private key in PEM: {e}"))?;
            builder
                .with_client_auth_cert(chain, key_der)
                .with_context(|| format!("the key {key} does not fit the certificate {cert}"))?
        }
    };
    config.resumption = Store::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn platform() -> anyhow::Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map_or_else(|| "none found".to_owned(), ToString::to_string);
        anyhow::bail!(
            "no trusted root certificates on this machine ({why}); install ca-certificates or set SSL_CERT_FILE"
        );
    }
    Ok(roots)
}

fn named(file: &str) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).with_context(|| format!("{file} holds a certificate that is no authority"))?;
    }
    Ok(roots)
}

fn certificates(file: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(file).map_err(|e| anyhow::anyhow!("cannot read {file}: {e}"))?;
    let all: Result<Vec<_>, _> = read.collect();
    let all = all.map_err(|e| anyhow::anyhow!("{file} is not PEM: {e}"))?;
    ensure!(!all.is_empty(), "{file} holds no certificate in PEM");
    Ok(all)
}
