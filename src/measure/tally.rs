//! Tallies of a phase: the identities, statuses, routes, latencies.

use std::collections::BTreeMap;
use std::time::Duration;

use super::latency::Latency;
use super::outcome::{Ending, ErrorKind, Outcome, is_expected};
use super::pace::Pace;
use super::route::RouteTally;
use crate::govern::gate::ShedReason;
use crate::units::RunTime;

/// Kinds of connect errors told apart.
const CONNECT_ERRORS_MAX: usize = 8;

/// Counts of requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Due.
    pub due: u64,
    /// Cut, by reason.
    pub shed: BTreeMap<ShedReason, u64>,
    /// Handed to a connection under a permit.
    pub sent: u64,
    /// Head handed wholly to the kernel.
    pub written: u64,
    /// Sent, but the head was never written.
    pub failed_before_write: u64,
    /// Whole answers that mean what was recorded.
    pub ok: u64,
    /// Whole answers that do not, as `from→to`.
    pub unexpected: BTreeMap<String, u64>,
    /// No usable answer, by kind.
    pub error: BTreeMap<ErrorKind, u64>,
    /// Timed out.
    pub timeout: u64,
    /// Given up at the end.
    pub cancelled: u64,
}

impl Counts {
    /// All that was shed.
    #[must_use]
    pub fn shed_total(&self) -> u64 {
        self.shed.values().sum()
    }

    /// All unexpected answers.
    #[must_use]
    pub fn unexpected_total(&self) -> u64 {
        self.unexpected.values().sum()
    }

    /// All errors.
    #[must_use]
    pub fn error_total(&self) -> u64 {
        self.error.values().sum()
    }

    /// `due = sent + shed`.
    #[must_use]
    pub fn due_adds_up(&self) -> bool {
        self.due == self.sent + self.shed_total()
    }

    /// `sent = written + failed_before_write`.
    #[must_use]
    pub fn sent_adds_up(&self) -> bool {
        self.sent == self.written + self.failed_before_write
    }

    /// `written = ok + unexpected + error + timeout + cancelled`: nothing is in flight after the end.
    #[must_use]
    pub fn written_adds_up(&self) -> bool {
        let ended = self.ok + self.unexpected_total() + self.error_total() + self.timeout + self.cancelled;
        self.written == ended
    }

    /// Adds all of `o`.
    pub fn merge(&mut self, o: &Self) {
        fn add<K: Ord + Clone>(mine: &mut BTreeMap<K, u64>, theirs: &BTreeMap<K, u64>) {
            theirs.iter().for_each(|(k, n)| *mine.entry(k.clone()).or_default() += n);
        }
        self.due += o.due;
        self.sent += o.sent;
        self.written += o.written;
        self.failed_before_write += o.failed_before_write;
        self.ok += o.ok;
        self.timeout += o.timeout;
        self.cancelled += o.cancelled;
        add(&mut self.shed, &o.shed);
        add(&mut self.unexpected, &o.unexpected);
        add(&mut self.error, &o.error);
    }
}

/// Latencies of a phase.
#[derive(Debug, Clone, Default)]
pub struct Latencies {
    /// Due to done.
    pub response: Latency,
    /// Written to done.
    pub service: Latency,
    /// Name resolution.
    pub dns: Latency,
    /// TCP handshake.
    pub connect: Latency,
    /// TLS handshake.
    pub tls: Latency,
    /// Written to first byte.
    pub wait: Latency,
    /// First byte to last.
    pub receive: Latency,
}

impl Latencies {
    /// All, with their names.
    #[must_use]
    pub fn rows(&self) -> [(&'static str, &Latency); 7] {
        [
            ("response", &self.response),
            ("service", &self.service),
            ("dns", &self.dns),
            ("connect", &self.connect),
            ("tls", &self.tls),
            ("wait", &self.wait),
            ("receive", &self.receive),
        ]
    }

    fn merge(&mut self, o: &Self) {
        self.response.merge(&o.response);
        self.service.merge(&o.service);
        self.dns.merge(&o.dns);
        self.connect.merge(&o.connect);
        self.tls.merge(&o.tls);
        self.wait.merge(&o.wait);
        self.receive.merge(&o.receive);
    }
}

/// Times of one opened connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectTimes {
    /// Name resolution, where it was not cached.
    pub dns: Option<Duration>,
    /// TCP handshake.
    pub connect: Option<Duration>,
    /// TLS handshake.
    pub tls: Option<Duration>,
    /// It took up an earlier TLS session.
    pub resumed: bool,
    /// It speaks HTTP/2.
    pub http2: bool,
}

/// Everything about one phase.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Counts.
    pub counts: Counts,
    /// Latencies.
    pub latency: Latencies,
    /// How late we handed a request over against its due time, where nothing but us could be late.
    pub send_lag: Latency,
    /// Answers by status.
    pub status: BTreeMap<u16, u64>,
    /// Per route, by its number.
    pub routes: Vec<RouteTally>,
    /// Planned against sent.
    pub pace: Pace,
    /// Connections that the plan asked for.
    pub lanes: u64,
    /// Connections opened.
    pub connections: u64,
    /// Those that speak HTTP/2.
    pub http2: u64,
    /// Those that took up an earlier TLS session.
    pub tls_resumed: u64,
    /// Connections that could not be opened.
    pub connect_failures: u64,
    /// Why connections could not be opened; bounded.
    pub connect_errors: BTreeMap<String, u64>,
    /// Connections that had to be opened again because the target closed them.
    pub reopened: u64,
    /// Body bytes received.
    pub bytes: u64,
}

/// Whether the reason itself says that the target was slow.
fn is_slow(reason: ShedReason) -> bool {
    matches!(reason, ShedReason::SessionBlocked | ShedReason::Connecting | ShedReason::InFlight)
}

impl Tally {
    /// A request of a route was due.
    pub fn due(&mut self, due: RunTime, route: u16) {
        self.counts.due += 1;
        self.pace.due(due);
        self.route(route).due += 1;
    }

    fn route(&mut self, number: u16) -> &mut RouteTally {
        let at = usize::from(number);
        if at >= self.routes.len() {
            self.routes.resize_with(at + 1, RouteTally::default);
        }
        &mut self.routes[at]
    }

    /// A due request was cut.
    pub fn shed(&mut self, reason: ShedReason) {
        *self.counts.shed.entry(reason).or_default() += 1;
        if is_slow(reason) {
            // It would have been slow: percentiles without it are lower bounds.
            self.latency.response.censor();
        }
    }

    /// A request that had waited is about to be cut for a reason that does not tell so.
    pub fn censor_unless(&mut self, reason: ShedReason) {
        if !is_slow(reason) {
            self.latency.response.censor();
        }
    }

    /// A request was handed over under a permit.
    pub fn sent(&mut self, at: RunTime) {
        self.counts.sent += 1;
        self.pace.sent(at);
    }

    /// A connection could not be opened, for this reason.
    pub fn connect_failed(&mut self, why: &str) {
        self.connect_failures += 1;
        let known = self.connect_errors.len() < CONNECT_ERRORS_MAX || self.connect_errors.contains_key(why);
        *self.connect_errors.entry(if known { why } else { "other" }.to_owned()).or_default() += 1;
    }

    /// A connection was opened.
    pub fn connected(&mut self, times: ConnectTimes) {
        self.connections += 1;
        self.tls_resumed += u64::from(times.resumed);
        self.http2 += u64::from(times.http2);
        let rows = [
            (times.dns, &mut self.latency.dns),
            (times.connect, &mut self.latency.connect),
            (times.tls, &mut self.latency.tls),
        ];
        for (time, latency) in rows {
            if let Some(time) = time {
                latency.add(time);
            }
        }
    }

    /// A sent request ended.
    pub fn ended(&mut self, o: &Outcome) {
        let Some(written) = o.written else {
            self.counts.failed_before_write += 1;
            self.latency.response.censor();
            return;
        };
        self.counts.written += 1;
        self.bytes += o.bytes;
        self.route(o.route).ended(o);
        match o.ending {
            Ending::Answered(status) => {
                *self.status.entry(status).or_default() += 1;
                if is_expected(o.expected, status) {
                    self.counts.ok += 1;
                } else {
                    let from = o.expected.map_or_else(|| "-".to_owned(), |s| s.to_string());
                    *self.counts.unexpected.entry(format!("{from}→{status}")).or_default() += 1;
                }
            }
            Ending::Error(kind) => *self.counts.error.entry(kind).or_default() += 1,
            Ending::FailedBeforeWrite => *self.counts.error.entry(ErrorKind::Other).or_default() += 1,
            Ending::Timeout => self.counts.timeout += 1,
            Ending::Cancelled => self.counts.cancelled += 1,
        }
        self.times(o, written);
    }

    fn times(&mut self, o: &Outcome, written: RunTime) {
        let response = o.done.since(o.due);
        match o.ending {
            Ending::Answered(_) => {
                self.latency.response.add(response);
                self.latency.service.add(o.done.since(written));
                if let Some(first) = o.first_byte {
                    self.latency.wait.add(first.since(written));
                    self.latency.receive.add(o.done.since(first));
                }
            }
            // It took at least this long: it belongs into the distribution, and its end was not seen.
            Ending::Timeout => {
                self.latency.response.add(response);
                self.latency.service.add(o.done.since(written));
                self.latency.response.censor();
                self.latency.service.censor();
            }
            Ending::Error(_) | Ending::Cancelled | Ending::FailedBeforeWrite => {
                self.latency.response.censor();
                self.latency.service.censor();
            }
        }
    }

    /// Adds all of `o`.
    pub fn merge(&mut self, o: &Self) {
        self.counts.merge(&o.counts);
        self.latency.merge(&o.latency);
        self.send_lag.merge(&o.send_lag);
        o.status.iter().for_each(|(s, n)| *self.status.entry(*s).or_default() += n);
        for (number, theirs) in o.routes.iter().enumerate() {
            self.route(number as u16).merge(theirs);
        }
        self.pace.merge(&o.pace);
        self.lanes += o.lanes;
        self.connections += o.connections;
        self.tls_resumed += o.tls_resumed;
        self.http2 += o.http2;
        self.connect_failures += o.connect_failures;
        o.connect_errors.iter().for_each(|(w, n)| *self.connect_errors.entry(w.clone()).or_default() += n);
        self.reopened += o.reopened;
        self.bytes += o.bytes;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::measure::outcome::RunPhase;

    fn outcome(ending: Ending, written: bool) -> Outcome {
        let ms = RunTime::from_millis;
        Outcome {
            phase: RunPhase::Measure,
            route: 1,
            expected: Some(200),
            recorded: crate::trace::AnswerFacts::default(),
            cache: None,
            due: ms(100),
            written: written.then_some(ms(110)),
            first_byte: Some(ms(150)),
            done: ms(160),
            bytes: 5,
            ending,
        }
    }

    #[test]
    fn response_counts_from_due_and_service_from_written() {
        let mut t = Tally::default();
        t.ended(&outcome(Ending::Answered(200), true));
        let ms = |l: &Latency| l.quantile_ms(0.5).unwrap().round();
        assert_eq!((ms(&t.latency.response), ms(&t.latency.service)), (60.0, 50.0));
        assert_eq!((ms(&t.latency.wait), ms(&t.latency.receive)), (40.0, 10.0));
    }

    proptest! {
        /// However requests end, the identities hold, also after a merge.
        #[test]
        fn identities_hold(endings in prop::collection::vec((0u8..7, any::<bool>()), 0..60)) {
            let (mut a, mut b) = (Tally::default(), Tally::default());
            for (i, (ending, written)) in endings.iter().enumerate() {
                let t = if i % 2 == 0 { &mut a } else { &mut b };
                t.due(RunTime::from_millis(100), 1);
                if *ending == 6 { t.shed(ShedReason::Bucket); continue; }
                t.sent(RunTime::from_millis(110));
                let ending = [Ending::Answered(200), Ending::Answered(503), Ending::Timeout, Ending::Cancelled,
                              Ending::Error(ErrorKind::Reset), Ending::FailedBeforeWrite][usize::from(*ending)];
                t.ended(&outcome(ending, *written));
            }
            a.merge(&b);
            prop_assert!(a.counts.due_adds_up() && a.counts.sent_adds_up() && a.counts.written_adds_up(), "{:?}", a.counts);
            prop_assert_eq!(a.counts.due, endings.len() as u64);
        }
    }
}
