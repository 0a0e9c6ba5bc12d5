//! Secrets of TLS connections, by their client random.
//!
//! The format is NSS's (draft-ietf-tls-keylogfile): `LABEL CLIENT_RANDOM SECRET`, the last two in hexadecimal. Secrets are held in
//! memory only; nothing of them reaches a trace or a message.

use crate::limits::KEYLOG_CONNECTIONS_MAX;
use crate::lookup::Lookup;

/// What is known of one connection.
#[derive(Clone, Default)]
pub struct Secrets {
    /// TLS 1.2: the master secret.
    pub master: Option<Vec<u8>>,
    /// TLS 1.3, from the client: early data, handshake, application.
    pub client: [Option<Vec<u8>>; 3],
    /// TLS 1.3, from the server: never early data, handshake, application.
    pub server: [Option<Vec<u8>>; 3],
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets")
    }
}

/// All that is known.
#[derive(Debug, Default)]
pub struct KeyLog {
    connections: Lookup<[u8; 32], Secrets>,
    /// Lines that are no secrets, and secrets of connections beyond [`KEYLOG_CONNECTIONS_MAX`].
    unused: u64,
}

impl KeyLog {
    /// Takes the lines of a key log.
    pub fn add(&mut self, text: &[u8]) {
        for line in text.split(|b| *b == b'\n').map(<[u8]>::trim_ascii) {
            if !line.is_empty() && !line.starts_with(b"#") && self.line(line).is_none() {
                self.unused += 1;
            }
        }
    }

    fn line(&mut self, line: &[u8]) -> Option<()> {
        let mut words = line.split(|b| *b == b' ').filter(|w| !w.is_empty());
        let (label, random, secret) = (words.next()?, hex(words.next()?)?, hex(words.next()?)?);
        let random: [u8; 32] = random.try_into().ok()?;
        if self.connections.get(&random).is_none() && self.connections.len() >= KEYLOG_CONNECTIONS_MAX {
            return None;
        }
        let place = |s: &mut Secrets| -> Option<()> {
            let place = match label {
                b"CLIENT_RANDOM" if secret.len() == 48 => &mut s.master,
                b"CLIENT_EARLY_TRAFFIC_SECRET" => &mut s.client[0],
                b"CLIENT_HANDSHAKE_TRAFFIC_SECRET" => &mut s.client[1],
                b"CLIENT_TRAFFIC_SECRET_0" => &mut s.client[2],
                b"SERVER_HANDSHAKE_TRAFFIC_SECRET" => &mut s.server[1],
                b"SERVER_TRAFFIC_SECRET_0" => &mut s.server[2],
                // Exporters: of no use here, and no fault.
                b"EXPORTER_SECRET" | b"EARLY_EXPORTER_SECRET" => return Some(()),
                _ => return None,
            };
            *place = Some(secret.clone());
            Some(())
        };
        place(self.connections.get_or_insert_with(random, Secrets::default))
    }

    /// What is known of the connection with this client random.
    #[must_use]
    pub fn get(&self, random: &[u8; 32]) -> Option<&Secrets> {
        self.connections.get(random)
    }

    /// Connections that are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Lines that were of no use.
    #[must_use]
    pub fn unused(&self) -> u64 {
        self.unused
    }
}

/// Pairs of hexadecimal digits, at most 64 bytes of them.
fn hex(text: &[u8]) -> Option<Vec<u8>> {
    if text.is_empty() || !text.len().is_multiple_of(2) || text.len() > 128 {
        return None;
    }
    let digit = |b: u8| char::from(b).to_digit(16);
    text.chunks(2).map(|p| Some((digit(p[0])? * 16 + digit(p[1])?) as u8)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_by_label_and_others_counted() {
        let (random, secret) = ("ab".repeat(32), "01".repeat(48));
        let text = format!(
            "# a comment\n\nCLIENT_RANDOM {random} {secret}\r\nCLIENT_TRAFFIC_SECRET_0 {random} {}\nEXPORTER_SECRET {random} 00\n\
             CLIENT_RANDOM {random}\nRSA 00 11\nCLIENT_RANDOM zz{} {secret}\nCLIENT_RANDOM {random} 0102\n",
            "02".repeat(32),
            "ab".repeat(31)
        );
        let mut log = KeyLog::default();
        log.add(text.as_bytes());
        let found = log.get(&[0xab; 32]).unwrap();
        assert_eq!(
            (found.master.as_deref(), found.client[2].as_deref()),
            (Some(&[1u8; 48][..]), Some(&[2u8; 32][..]))
        );
        assert_eq!((log.len(), log.unused(), format!("{found:?}")), (1, 4, "Secrets".to_owned()));
    }
}
