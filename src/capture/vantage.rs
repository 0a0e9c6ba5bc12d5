//! Where packets were captured: at the edge, where connections are those of clients, or behind a proxy, where they are its pool.
//!
//! Behind a proxy sessions come from the forwarded address and the user agent, as for logs, and connections are inferred. Told by
//! the first requests, unless it is said: four in five name a forwarded address. Until it is told they are held back. Where
//! that is not sure, because only some do, or because a few connections made all of them, whoever captures may be asked.

use std::collections::BTreeSet;

use super::RawEvent;
use super::access_log::LogRecorder;
use super::access_log::session::Who;
use super::access_log::window::Held;
use super::redact::Redactor;
use crate::limits::VANTAGE_REQUESTS;
use crate::trace::{EventKind, Ledger};
use crate::units::WallTime;

/// What the first requests of an input tell of where it was captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Guess {
    /// Requests looked at.
    pub requests: usize,
    /// Those that say for whom a proxy asked.
    pub forwarded: usize,
    /// Connections that made them, or addresses where there are no connections.
    pub peers: usize,
}

/// Requests from which a few connections that made them all are worth a question.
const FEW_PEERS_REQUESTS_MIN: usize = 50;

/// Requests of each of them.
const REQUESTS_PER_PEER: usize = 25;

impl Guess {
    /// Four in five say for whom a proxy asked: then the connections are the proxy's.
    #[must_use]
    pub fn behind_proxy(&self) -> bool {
        self.requests > 0 && self.forwarded * 5 >= self.requests * 4
    }

    /// Nearly all say it; or nearly none, and they do not look like the pool of a proxy that does not.
    #[must_use]
    pub fn is_sure(&self) -> bool {
        let pool = self.requests >= FEW_PEERS_REQUESTS_MIN && self.peers * REQUESTS_PER_PEER <= self.requests;
        self.forwarded * 20 >= self.requests * 19 || (self.forwarded * 20 <= self.requests && !pool)
    }
}

impl std::fmt::Display for Guess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { requests, forwarded, peers } = self;
        write!(f, "{forwarded} of {requests} requests name a forwarded address, and {peers} peers made them")
    }
}

/// Decides by a guess.
pub type Decide = fn(&str, &Guess) -> bool;

/// The vantage point of one capture.
#[derive(Debug)]
pub struct Vantage {
    behind_proxy: Option<bool>,
    /// Name of the input.
    name: String,
    decide: Decide,
    waiting: Vec<RawEvent>,
    guess: Guess,
    peers: BTreeSet<u64>,
    /// Requests of clients behind a proxy wait here for their sessions.
    log: LogRecorder,
}

impl Vantage {
    /// Known, or to be told; `decide` is given the name of the input and what can be guessed.
    #[must_use]
    pub fn new(behind_proxy: Option<bool>, decide: Decide, redactor: Redactor) -> Self {
        let (log, guess) = (LogRecorder::of_packets(redactor), Guess::default());
        let (name, waiting, peers) = (String::new(), Vec::new(), BTreeSet::new());
        Self { behind_proxy, name, decide, waiting, guess, peers, log }
    }

    /// Another input begins, whose vantage point is known or to be told.
    pub fn begin(&mut self, name: &str, behind_proxy: Option<bool>) {
        (self.behind_proxy, self.guess) = (behind_proxy, Guess::default());
        name.clone_into(&mut self.name);
        self.peers.clear();
    }

    /// Whether it is behind a proxy, once that is known.
    #[must_use]
    pub fn behind_proxy(&self) -> Option<bool> {
        self.behind_proxy
    }

    /// Takes events of connections and gives those whose sessions are known. At the `end` of an input what is known by then
    /// decides.
    pub fn take(&mut self, events: Vec<RawEvent>, end: bool) -> Vec<RawEvent> {
        let behind = match self.behind_proxy {
            Some(behind) => behind,
            None => {
                for event in events.iter().filter(|e| matches!(e.kind, EventKind::Request(_))) {
                    self.guess.requests += 1;
                    self.guess.forwarded += usize::from(event.client.is_some());
                    self.peers.insert(event.owner);
                }
                self.waiting.extend(events);
                self.guess.peers = self.peers.len();
                if self.guess.requests == 0 || (!end && self.guess.requests < VANTAGE_REQUESTS) {
                    return Vec::new();
                }
                self.behind_proxy = Some((self.decide)(&self.name, &self.guess));
                let waiting = std::mem::take(&mut self.waiting);
                return self.take(waiting, end);
            }
        };
        if !behind {
            return events;
        }
        events.into_iter().filter_map(held).for_each(|held| self.log.held(held));
        self.log.take_events()
    }

    /// Gives those that lie before `at`: nothing earlier will come any more.
    pub fn take_before(&mut self, at: WallTime) -> Vec<RawEvent> {
        self.log.drain_before(at);
        self.log.take_events()
    }

    /// Gives the rest, and what was counted.
    #[must_use]
    pub fn finish(self) -> (Vec<RawEvent>, Ledger) {
        self.log.finish()
    }
}

/// A request as a line of a log would say it. One that names nobody, such as a health check, keeps its connection.
fn held(event: RawEvent) -> Option<Held> {
    let EventKind::Request(r) = event.kind else { return None };
    let key = event.client.map_or((event.owner, 0), |c| (c, 1));
    Some(Held {
        at: event.at,
        arrival: r.arrival,
        who: Who { key, recorded: false, shared: false },
        shape: r.shape,
        bytes: event.bytes,
        status: r.status.value,
        request_body: r.body_len.value,
        response_len: r.response_len.value,
        duration_ns: r.duration_ns.value,
        cache: r.cache.value,
    })
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;
    use crate::capture::frame::LinkType;
    use crate::capture::recorder::Recorder;
    use crate::trace::Provenance;

    /// Requests of `clients` in turn over `pool` connections of a proxy: owners and provenance of the connections.
    fn captured(
        clients: u64,
        pool: u16,
        forwarded: bool,
        asked: Option<bool>,
    ) -> (Option<bool>, Vec<(u64, Provenance)>) {
        let redactor = Redactor::with_key(b"k");
        let mut recorder = Recorder::new(redactor.clone());
        for n in 0..240u64 {
            let (port, client) = (4_000 + (n % u64::from(pool)) as u16, n % clients);
            let line = if forwarded {
                format!("X-Forwarded-For: 192.0.2.{client}, 10.0.0.9\r\n")
            } else {
                String::new()
            };
            let head = format!("GET /{n} HTTP/1.1\r\nHost: h\r\n{line}\r\n");
            let seq = 1 + (n / u64::from(pool)) as u32 * 1_000;
            let mut frame = Vec::new();
            let tcp = PacketBuilder::ipv4([10, 0, 0, 9], [10, 0, 0, 2], 64).tcp(port, 80, seq, 500);
            // Each message fills its thousand bytes, so that sequence numbers are easy.
            let pad = format!("X-Pad: {}\r\nHost", "p".repeat(991 - head.len()));
            let body = head.replace("Host", &pad);
            assert_eq!(body.len(), 1_000);
            tcp.write(&mut frame, body.as_bytes()).unwrap();
            recorder.frame(Ok(LinkType::RawIp), WallTime(1_000_000_000 + n * 1_000_000), &frame, frame.len());
        }
        let (events, _) = recorder.finish();
        let mut vantage = Vantage::new(asked, |_, guess| guess.behind_proxy(), redactor);
        let mut out = vantage.take(events, true);
        let behind = vantage.behind_proxy();
        out.extend(vantage.finish().0);
        let of = |e: &RawEvent| match &e.kind {
            EventKind::Request(r) => Some((e.owner, r.connection)),
            EventKind::Open(_) | EventKind::Close(_) => None,
        };
        (behind, out.iter().filter_map(of).collect())
    }

    #[test]
    fn a_guess_says_whether_it_is_sure() {
        #[rustfmt::skip]
        let table = [
            (200, 200, 3, true, true), (200, 190, 90, true, true), (200, 180, 90, true, false), (200, 100, 90, false, false),
            (200, 10, 90, false, true), (200, 11, 90, false, false), (200, 0, 8, false, false), (200, 0, 9, false, true),
            (49, 0, 1, false, true), (50, 0, 2, false, false), (0, 0, 0, false, true),
        ];
        for (requests, forwarded, peers, behind, sure) in table {
            let guess = Guess { requests, forwarded, peers };
            assert_eq!((guess.behind_proxy(), guess.is_sure()), (behind, sure), "{guess}");
        }
    }

    /// What is decided counts, not what would be guessed; each input is decided by its name.
    #[test]
    fn whoever_captures_decides() {
        let mut vantage =
            Vantage::new(None, |name, guess| (name == "b") != guess.behind_proxy(), Redactor::with_key(b"k"));
        for (name, want) in [("a", false), ("b", true)] {
            vantage.begin(name, None);
            let open = EventKind::Open(crate::trace::ConnectionEvent { arrival: Provenance::Recorded });
            let event =
                |kind| RawEvent { at: WallTime(5), owner: 1, connection: 0, kind, bytes: 0, client: None };
            let head = crate::wire::head::RequestHead {
                method: b"GET".to_vec(),
                target: b"/".to_vec(),
                version: crate::wire::head::Version::Http11,
                headers: Vec::new(),
            };
            let request = EventKind::Request(crate::trace::RequestFacts {
                shape: std::sync::Arc::new(Redactor::with_key(b"k").shape(&head, crate::trace::Scheme::Http)),
                arrival: Provenance::Recorded,
                connection: Provenance::Recorded,
                body_len: crate::trace::Fact::absent(),
                status: crate::trace::Fact::absent(),
                response_len: crate::trace::Fact::absent(),
                duration_ns: crate::trace::Fact::absent(),
                cache: crate::trace::Fact::absent(),
            });
            assert!(vantage.take(vec![event(open)], false).is_empty() && vantage.behind_proxy().is_none());
            vantage.take(vec![event(request)], true);
            assert_eq!(vantage.behind_proxy(), Some(want), "{name}");
        }
    }

    #[test]
    fn sessions_behind_a_proxy_are_those_of_its_clients() {
        let table = [
            ("edge", 7, 3, false, None, (false, 3, Provenance::Recorded)),
            ("behind", 7, 3, true, None, (true, 7, Provenance::Inferred)),
            ("said to be the edge", 7, 3, true, Some(false), (false, 3, Provenance::Recorded)),
            ("said to be behind, and names nobody", 7, 3, false, Some(true), (true, 3, Provenance::Inferred)),
        ];
        for (what, clients, pool, forwarded, asked, want) in table {
            let (behind, requests) = captured(clients, pool, forwarded, asked);
            let mut owners: Vec<u64> = requests.iter().map(|r| r.0).collect();
            owners.sort_unstable();
            owners.dedup();
            assert_eq!(
                (requests.len(), behind, owners.len(), requests[0].1),
                (240, Some(want.0), want.1, want.2),
                "{what}"
            );
        }
    }
}
