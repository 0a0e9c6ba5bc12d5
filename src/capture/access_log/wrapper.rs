//! What stands around a line: syslog, container runtimes, and quotes of an export.
//!
//! Forms seen in the field: `Feb 25 16:19:49 host haproxy[7]: `, RFC 5424 and ISO stamps with a host, Kubernetes CRI
//! (`TIME stdout F `), docker compose (`name  | `), a whole line in quotes. Only tried where the bare line has not the form.

use super::partial::Cri;

/// Bytes at the start of a line within which a wrapper must end.
const WRAPPER_BYTES_MAX: usize = 160;

/// What may stand around a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wrapper {
    /// Nothing.
    #[default]
    None,
    /// A container runtime's stamp and stream.
    Cri,
    /// Syslog's stamp, host and program.
    Syslog,
    /// Quotes around the whole line.
    Quotes,
    /// Docker compose's name.
    Compose,
}

impl Wrapper {
    /// All, the most likely first.
    pub const ALL: [Self; 5] = [Self::None, Self::Cri, Self::Syslog, Self::Quotes, Self::Compose];

    /// The line without it; `None` where it has none.
    #[must_use]
    pub fn strip(self, line: &[u8]) -> Option<&[u8]> {
        let head = &line[..line.len().min(WRAPPER_BYTES_MAX)];
        let behind = |text: &[u8]| memchr::memmem::find(head, text).map(|i| &line[i + text.len()..]);
        match self {
            Self::None => Some(line),
            Self::Cri => Cri::of(line)
                .map(|cri| cri.content)
                .or_else(|| behind(b" stdout F "))
                .or_else(|| behind(b" stderr F ")),
            Self::Syslog => behind(b"]: ").or_else(|| behind(b": ")),
            Self::Quotes => line.strip_prefix(b"\"").and_then(|l| l.strip_suffix(b"\"")),
            Self::Compose => behind(b" | ").map(<[u8]>::trim_ascii_start),
        }
    }
}

/// The JSON object in a line, without what stands before it.
#[must_use]
pub fn object(line: &[u8]) -> &[u8] {
    let start = line.iter().take(WRAPPER_BYTES_MAX).position(|b| *b == b'{').unwrap_or(0);
    line[start..].trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_come_off() {
        #[rustfmt::skip]
        let table = [
            ("Feb 25 16:19:49 192.168.4.2 haproxy[7]: 1.2.3.4:5 [x", "1.2.3.4:5 [x"),
            ("2025-12-31T17:40:00.000000100+01:00 stdout F GET", "GET"),
            ("2025-12-31T17:40:00.000000100+01:00 stderr F:tag GET", "GET"),
            ("\"1.2.3.4 - \"q\"\"", "1.2.3.4 - \"q\""),
            ("caddy  | 1.2.3.4 -", "1.2.3.4 -"),
            ("<134>Feb 25 16:19:49 host nginx: 1.2.3.4 -", "1.2.3.4 -"),
        ];
        for (line, want) in table {
            let mut bare = Wrapper::ALL.iter().filter_map(|w| w.strip(line.as_bytes()));
            assert!(bare.any(|c| c == want.as_bytes()), "{line}");
        }
        assert_eq!(Wrapper::ALL.iter().filter_map(|w| w.strip(b"GET /")).count(), 1);
        assert_eq!(object(b"2021-11-12T16:59:46 1.1.1.1  {\"a\":1} "), b"{\"a\":1}");
        assert_eq!(object(b"no object"), b"no object");
    }
}
