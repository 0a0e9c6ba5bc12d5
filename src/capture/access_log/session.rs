//! Sessions and connections of a log: recorded where the format has them, else by rule.
//!
//! With the client's port or the serial number of a connection, a session is that connection. Else it is one client
//! address with one user agent until it is idle for five minutes; within it up to six connections: a request takes
//! the first that is free at its start, as browsers do; over HTTP/2 all share one. Addresses are used to tell sessions
//! apart while capturing, as keyed hashes, and never leave.

use std::hash::{BuildHasher, Hash};

use foldhash::quality::FixedState;

use super::row::Row;
use crate::capture::RawEvent;
use crate::limits::{LOG_BUSY_ASSUMED, LOG_CONNECTIONS_MAX, LOG_SESSION_IDLE, LOG_SESSIONS_MAX};
use crate::lookup::Lookup;
use crate::trace::{ConnectionEvent, EventKind, Provenance};
use crate::units::WallTime;
use crate::wire::head::Version;

/// A hash of 128 bits: two different clients share one with a chance of 2^-64 in a capture of 2^32.
pub type Hash128 = (u64, u64);

/// Hashes parts, with the borders between them, into 128 bits.
#[must_use]
pub fn hash128(seed: u64, parts: &impl Hash) -> Hash128 {
    let one = |salt: u64| FixedState::with_seed(seed ^ salt).hash_one(parts);
    (one(0x5eed), one(0xfeed_beef))
}

/// Whose request it is, as far as the line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Who {
    /// Client and user agent, or client and port.
    pub key: Hash128,
    /// It is a real connection.
    pub recorded: bool,
    /// Requests share one connection: HTTP/2.
    pub shared: bool,
}

impl Who {
    /// From a line. `forwarded` says that the log was written behind a proxy: the first forwarded address is the client.
    /// `source` is the log's number: two servers count their connections alike.
    #[must_use]
    pub fn of(row: &Row<'_>, seed: u64, source: u64, behind_proxy: bool) -> Self {
        let shared = row.version == Some(Version::Http2);
        let first = row.forwarded.split(|b| *b == b',').next().unwrap_or_default().trim_ascii();
        if behind_proxy && !first.is_empty() {
            return Self {
                key: hash128(seed, &(first, &row.user_agent[..], shared)),
                recorded: false,
                shared,
            };
        }
        let recorded = !behind_proxy && (!row.port.is_empty() || !row.connection.is_empty());
        let agent: &[u8] = if recorded { b"" } else { &row.user_agent };
        let port: &[u8] = if row.connection.is_empty() { &row.port } else { &row.connection };
        let (port, source) = if recorded { (port, source) } else { (&b""[..], 0) };
        Self { key: hash128(seed, &(&row.client[..], agent, port, shared, source)), recorded, shared }
    }
}

/// Where a request belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Number of the session.
    pub session: u64,
    /// Connection within it.
    pub connection: u16,
}

#[derive(Debug)]
struct Session {
    number: u64,
    last: u64,
    /// Per connection: busy until then.
    busy_until: Vec<u64>,
    recorded: bool,
}

/// The sessions under way.
#[derive(Debug)]
pub struct Sessions {
    open: Lookup<Hash128, Session>,
    next: u64,
    swept: u64,
}

/// Sessions of lines are numbered apart from connections of packets, which may be in the same trace.
const LINES: u64 = 1 << 63;

/// And so are those of packets that were captured behind a proxy.
const PROXIED: u64 = 1 << 62;

const INFERRED: ConnectionEvent = ConnectionEvent { arrival: Provenance::Inferred };

impl Default for Sessions {
    fn default() -> Self {
        Self { open: Lookup::default(), next: LINES, swept: 0 }
    }
}

impl Sessions {
    /// Sessions of packets, not of lines.
    #[must_use]
    pub fn of_packets() -> Self {
        Self { next: PROXIED, ..Self::default() }
    }
}

fn idle_ns() -> u64 {
    LOG_SESSION_IDLE.as_nanos() as u64
}

impl Session {
    fn close(&self, out: &mut Vec<RawEvent>) {
        out.extend(self.busy_until.iter().enumerate().map(|(i, busy)| RawEvent {
            at: WallTime((*busy).max(self.last)),
            owner: self.number,
            connection: i as u16,
            kind: EventKind::Close(INFERRED),
            bytes: 0,
            client: None,
        }));
    }

    fn take_connection(&mut self, most: u16, at: u64, until: u64, opened: impl FnOnce(u16)) -> u16 {
        let free = self.busy_until.iter().position(|busy| *busy <= at);
        let index = match free {
            Some(i) => i,
            None if self.busy_until.len() < usize::from(most) => {
                self.busy_until.push(0);
                opened(self.busy_until.len() as u16 - 1);
                self.busy_until.len() - 1
            }
            // All are busy: the one that is free first, as a browser would queue.
            None => self.busy_until.iter().enumerate().min_by_key(|(_, b)| **b).map_or(0, |(i, _)| i),
        };
        self.busy_until[index] = until.max(self.busy_until[index]);
        index as u16
    }
}

impl Sessions {
    /// Finds the session and connection of a request that begins at `at`; opens what is needed.
    pub fn place(
        &mut self,
        at: WallTime,
        who: Who,
        duration_ns: Option<u64>,
        out: &mut Vec<RawEvent>,
    ) -> Place {
        let old = self.open.get(&who.key).is_some_and(|s| at.0.saturating_sub(s.last) > idle_ns());
        if old && let Some(session) = self.open.remove(&who.key) {
            session.close(out);
        }
        self.sweep(at.0, out);
        let next = &mut self.next;
        let session = self.open.get_or_insert_with(who.key, || {
            *next += 1;
            Session { number: *next, last: at.0, busy_until: Vec::new(), recorded: who.recorded }
        });
        session.last = session.last.max(at.0);
        let until = at.0.saturating_add(duration_ns.unwrap_or(LOG_BUSY_ASSUMED.as_nanos() as u64));
        let number = session.number;
        let most = if who.shared || session.recorded { 1 } else { LOG_CONNECTIONS_MAX };
        let connection = session.take_connection(most, at.0, until, |connection| {
            out.push(RawEvent {
                at,
                owner: number,
                connection,
                kind: EventKind::Open(INFERRED),
                bytes: 0,
                client: None,
            });
        });
        Place { session: number, connection }
    }

    /// Once a minute of the log, or when there are too many: ends the sessions that are idle, oldest first.
    fn sweep(&mut self, now: u64, out: &mut Vec<RawEvent>) {
        const MINUTE_NS: u64 = 60_000_000_000;
        let full = self.open.len() >= LOG_SESSIONS_MAX;
        if !full && now < self.swept.saturating_add(MINUTE_NS) {
            return;
        }
        self.swept = now;
        // Too many at once: those go that have been silent for longer than a fifth of the time.
        let idle = if full { idle_ns() / 5 } else { idle_ns() };
        let before = now.saturating_sub(idle);
        self.end_if(|s| s.last <= before, out);
        if self.open.len() >= LOG_SESSIONS_MAX {
            self.finish(out);
        }
    }

    fn end_if(&mut self, ends: impl Fn(&Session) -> bool, out: &mut Vec<RawEvent>) {
        let mut ended = self.open.take_if(|_, s| ends(s));
        ended.sort_unstable_by_key(|(_, s)| (s.last, s.number));
        ended.iter().for_each(|(_, s)| s.close(out));
    }

    /// Ends all sessions.
    pub fn finish(&mut self, out: &mut Vec<RawEvent>) {
        self.end_if(|_| true, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> WallTime {
        WallTime(ms * 1_000_000)
    }

    fn who(client: &'static str, version: Version) -> Who {
        let row = Row {
            client: client.as_bytes().into(),
            user_agent: b"ua"[..].into(),
            version: Some(version),
            ..Row::default()
        };
        Who::of(&row, 1, 0, false)
    }

    #[test]
    fn sessions_end_by_silence_and_connections_are_reused() {
        let (mut s, mut out) = (Sessions::default(), Vec::new());
        let half = Some(500_000_000);
        #[rustfmt::skip]
        let table = [
            (0, "1.1.1.1", 1, 0), (100, "1.1.1.1", 1, 1), (200, "2.2.2.2", 2, 0), (600, "1.1.1.1", 1, 0),
            (650, "1.1.1.1", 1, 1), (300_649, "1.1.1.1", 1, 0), (700_000, "1.1.1.1", 3, 0),
        ];
        for (ms, ip, session, connection) in table {
            assert_eq!(
                s.place(at(ms), who(ip, Version::Http11), half, &mut out),
                Place { session: LINES + session, connection },
                "{ms} {ip}"
            );
        }
        let count = |out: &[RawEvent], open: bool| {
            out.iter().filter(|e| matches!(e.kind, EventKind::Open(_)) == open).count()
        };
        assert_eq!((count(&out, true), count(&out, false)), (4, 3), "silent sessions were closed on the way");
        for _ in 0..3 {
            assert_eq!(
                s.place(at(700_001), who("1.1.1.1", Version::Http2), half, &mut out),
                Place { session: LINES + 4, connection: 0 },
                "one for all"
            );
        }
        for _ in 0..10 {
            assert!(
                s.place(at(700_001), who("1.1.1.1", Version::Http11), half, &mut out).connection
                    < LOG_CONNECTIONS_MAX
            );
        }
        s.finish(&mut out);
        assert_eq!(count(&out, true), count(&out, false), "every connection is closed");
    }

    #[test]
    fn real_connections_are_kept_and_proxies_seen_through() {
        let row = |client: &'static [u8],
                   port: &'static [u8],
                   serial: &'static [u8],
                   forwarded: &'static [u8]| Row {
            client: client.into(),
            port: port.into(),
            connection: serial.into(),
            forwarded: forwarded.into(),
            user_agent: b"ua"[..].into(),
            ..Row::default()
        };
        let edge = |r: &Row<'_>| Who::of(r, 1, 0, false);
        let a = edge(&row(b"1.1.1.1", b"10", b"", b""));
        assert!(
            a.recorded
                && a != edge(&row(b"1.1.1.1", b"11", b"", b""))
                && a != edge(&row(b"1.1.1.2", b"10", b"", b""))
        );
        assert_eq!(edge(&row(b"1.1.1.1", b"", b"7", b"")), edge(&row(b"1.1.1.1", b"", b"7", b"9.9.9.9")));
        let serial = row(b"1.1.1.1", b"", b"7", b"");
        assert_ne!(
            Who::of(&serial, 1, 0, false),
            Who::of(&serial, 1, 1, false),
            "another server's connection"
        );
        let proxied = |r: &Row<'_>| Who::of(r, 1, 0, true);
        let b = proxied(&row(b"10.0.0.1", b"10", b"7", b"9.9.9.9, 10.0.0.2"));
        assert!(
            !b.recorded && b == proxied(&row(b"10.0.0.3", b"11", b"8", b"9.9.9.9")),
            "the proxy's own connections say nothing"
        );
        assert!(!proxied(&row(b"10.0.0.1", b"10", b"7", b"")).recorded);
    }
}
