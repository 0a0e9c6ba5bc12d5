//! `[tls]`: whom the target's certificate must be from, who we are, and how sessions come back to it.
//!
//! Verification cannot be switched off. Files are named here and read when a run is prepared.

use super::check::Reader;
use super::file::{PolicyFile, Word};

/// Whether connections take up earlier TLS sessions (RFC 8446, section 2.2; RFC 5077).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Resumption {
    /// As clients do: each session of the trace its own tickets.
    #[default]
    PerSession,
    /// Never: each connection pays for a whole handshake.
    None,
}

/// `[tls]`, checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsWords {
    /// PEM file of the authorities trusted instead of the platform's.
    pub ca_file: Option<String>,
    /// PEM files of our certificate chain and its key.
    pub identity: Option<(String, String)>,
    /// Name in the handshake, and that the certificate must have; else the target's host.
    pub server_name: Option<String>,
    /// TLS 1.2 is refused.
    pub tls13_only: bool,
    /// Resumption.
    pub resumption: Resumption,
}

/// `[tls]`: `None` after an error.
pub(super) fn tls(r: &mut Reader<'_>, file: &PolicyFile) -> Option<TlsWords> {
    let Some(t) = &file.tls else { return Some(TlsWords::default()) };
    let text = |w: &Option<Word>| w.as_ref().map(|w| w.get_ref().clone());
    let mut wrong = |key: &str, word: &Word, why: &str| {
        r.error("", Some(word.span().start), key, format!("{:?} {why}", word.get_ref()));
        None
    };
    let tls13_only = match t.min_version.as_ref().map(|w| (w, w.get_ref().as_str())) {
        None | Some((_, "1.2")) => false,
        Some((_, "1.3")) => true,
        Some((w, _)) => return wrong("tls.min_version", w, "is neither \"1.2\" nor \"1.3\""),
    };
    let resumption = match t.resumption.as_ref().map(|w| (w, w.get_ref().as_str())) {
        None | Some((_, "per_session")) => Resumption::PerSession,
        Some((_, "none")) => Resumption::None,
        Some((w, _)) => return wrong("tls.resumption", w, "is neither \"per_session\" nor \"none\""),
    };
    let identity = match (&t.cert_file, &t.key_file) {
        (None, None) => None,
        (Some(cert), Some(key)) => Some((cert.get_ref().clone(), key.get_ref().clone())),
        (Some(one), None) | (None, Some(one)) => {
            return wrong("tls.cert_file", one, "stands alone: cert_file and key_file belong together");
        }
    };
    if let Some(w) = &t.server_name
        && (w.get_ref().is_empty()
            || !w.get_ref().bytes().all(|b| b.is_ascii_alphanumeric() || b".-".contains(&b)))
    {
        return wrong("tls.server_name", w, "is no host name");
    }
    let (ca_file, server_name) = (text(&t.ca_file), text(&t.server_name));
    Some(TlsWords { ca_file, identity, server_name, tls13_only, resumption })
}

#[cfg(test)]
mod tests {
    use super::super::check::parse;
    use super::*;

    fn words(tail: &str) -> Result<TlsWords, String> {
        let text = format!("version = 1\nname = \"w\"\n[target]\nallow = [\"127.0.0.0/8\"]\n[tls]\n{tail}\n");
        parse(&text, "w").map(|p| p.tls).map_err(|e| e.to_string())
    }

    #[test]
    fn words_become_settings_or_are_named() {
        assert_eq!(words(""), Ok(TlsWords::default()));
        let all = words(
            "ca_file = \"ca.pem\"\ncert_file = \"c.pem\"\nkey_file = \"k.pem\"\nserver_name = \"api.example.com\"\nmin_version = \"1.3\"\nresumption = \"none\"",
        );
        let want = TlsWords {
            ca_file: Some("ca.pem".into()),
            identity: Some(("c.pem".into(), "k.pem".into())),
            server_name: Some("api.example.com".into()),
            tls13_only: true,
            resumption: Resumption::None,
        };
        assert_eq!(all, Ok(want));
        assert_eq!(words("min_version = \"1.2\"\nresumption = \"per_session\""), Ok(TlsWords::default()));
        for (bad, why) in [
            ("min_version = \"1.1\"", "line 6: tls.min_version: \"1.1\" is neither"),
            ("resumption = \"always\"", "line 6: tls.resumption: \"always\" is neither"),
            ("cert_file = \"c.pem\"", "line 6: tls.cert_file: \"c.pem\" stands alone"),
            ("key_file = \"k.pem\"", "line 6: tls.cert_file: \"k.pem\" stands alone"),
            ("server_name = \"a b\"", "line 6: tls.server_name: \"a b\" is no host name"),
            ("server_name = \"\"", "line 6: tls.server_name: \"\" is no host name"),
            ("insecure = true", "insecure"),
        ] {
            let said = words(bad).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }
}
