//! Whom TLS trusts: the platform's roots, nothing else.
//!
//! `SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured, as the platform's own tools do. Verification cannot be
//! switched off: a replay against the wrong host is the accident this program exists to prevent.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

/// A TLS client configuration with the platform's roots, offering HTTP/1.1.
///
/// # Errors
/// When no root certificate can be loaded, or the crypto provider is unusable.
pub fn client_config() -> anyhow::Result<Arc<ClientConfig>> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map_or_else(|| "none found".to_owned(), ToString::to_string);
        anyhow::bail!(
            "no trusted root certificates on this machine ({why}); install ca-certificates or set SSL_CERT_FILE"
        );
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
