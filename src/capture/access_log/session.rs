//! Sessions and connections that a log does not show, by rule.
//!
//! A session is one client address with one user agent until it is idle for five minutes. Within it up to
//! six connections: a request takes the first that is free at its start, as browsers do; over HTTP/2 all share
//! one. The address is used as a key while capturing and never leaves.

use std::collections::BTreeMap;

use super::line::LogLine;
use crate::capture::RawEvent;
use crate::limits::{LOG_BUSY_ASSUMED, LOG_CONNECTIONS_MAX, LOG_SESSION_IDLE, LOG_SESSIONS_MAX};
use crate::trace::{ConnectionEvent, EventKind, Provenance};
use crate::units::WallTime;
use crate::wire::head::Version;

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
}

/// Client address, user agent, and whether it speaks HTTP/2.
type Key = (Vec<u8>, Option<Vec<u8>>, bool);

/// The sessions under way.
#[derive(Debug, Default)]
pub struct Sessions {
    open: BTreeMap<Key, Session>,
    next: u64,
}

const INFERRED: ConnectionEvent = ConnectionEvent { arrival: Provenance::Inferred };

fn close(session: &Session, out: &mut Vec<RawEvent>) {
    let end = |i: usize| WallTime(session.busy_until[i].max(session.last));
    out.extend((0..session.busy_until.len()).map(|i| RawEvent {
        at: end(i),
        owner: session.number,
        connection: i as u16,
        kind: EventKind::Close(INFERRED),
    }));
}

impl Sessions {
    /// Finds the session and connection of a request that begins at `at`; opens what is needed.
    pub fn place(&mut self, at: WallTime, line: &LogLine, out: &mut Vec<RawEvent>) -> Place {
        let shared = line.version == Version::Http2;
        let key = (line.client.clone(), line.user_agent.clone(), shared);
        let idle = LOG_SESSION_IDLE.as_nanos() as u64;
        let old = self.open.get(&key).is_some_and(|s| at.0.saturating_sub(s.last) > idle);
        if old && let Some(session) = self.open.remove(&key) {
            close(&session, out);
        }
        if self.open.len() >= LOG_SESSIONS_MAX {
            self.finish(out);
        }
        let next = &mut self.next;
        let session = self.open.entry(key).or_insert_with(|| {
            *next += 1;
            Session { number: *next, last: at.0, busy_until: Vec::new() }
        });
        session.last = session.last.max(at.0);
        let until = at.0 + line.duration_ns.unwrap_or(LOG_BUSY_ASSUMED.as_nanos() as u64);
        let number = session.number;
        let most = if shared { 1 } else { LOG_CONNECTIONS_MAX };
        let connection = session.take_connection(most, at.0, until, |connection| {
            out.push(RawEvent { at, owner: number, connection, kind: EventKind::Open(INFERRED) });
        });
        Place { session: number, connection }
    }

    /// Ends all sessions.
    pub fn finish(&mut self, out: &mut Vec<RawEvent>) {
        for session in std::mem::take(&mut self.open).values() {
            close(session, out);
        }
    }
}

impl Session {
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

#[cfg(test)]
mod tests {
    use super::super::line::parse;
    use super::*;

    fn at(ms: u64) -> WallTime {
        WallTime(ms * 1_000_000)
    }

    #[test]
    fn sessions_end_by_silence_and_connections_are_reused() {
        let line = |ip: &str| {
            parse(
                format!("{ip} - - [10/Oct/2000:13:55:36 +0000] \"GET / HTTP/1.1\" 200 5 \"-\" \"ua\" 0.500")
                    .as_bytes(),
            )
            .unwrap()
        };
        let (mut s, mut out) = (Sessions::default(), Vec::new());
        #[rustfmt::skip]
        let table = [
            (0, "1.1.1.1", 1, 0), (100, "1.1.1.1", 1, 1), (200, "2.2.2.2", 2, 0), (600, "1.1.1.1", 1, 0),
            (650, "1.1.1.1", 1, 1), (300_649, "1.1.1.1", 1, 0), (700_000, "1.1.1.1", 3, 0),
        ];
        for (ms, ip, session, connection) in table {
            assert_eq!(s.place(at(ms), &line(ip), &mut out), Place { session, connection }, "{ms} {ip}");
        }
        let opens = out.iter().filter(|e| matches!(e.kind, EventKind::Open(_))).count();
        assert_eq!(opens, 4);
        let h2 =
            parse(b"1.1.1.1 - - [10/Oct/2000:13:55:36 +0000] \"GET / HTTP/2.0\" 200 5 \"-\" \"ua\" 0.500")
                .unwrap();
        for _ in 0..3 {
            assert_eq!(
                s.place(at(700_001), &h2, &mut out),
                Place { session: 4, connection: 0 },
                "one for all"
            );
        }
        for _ in 0..10 {
            assert!(s.place(at(700_001), &line("1.1.1.1"), &mut out).connection < LOG_CONNECTIONS_MAX);
        }
    }
}
