//! Records of GoReplay (`.gor`): requests as bytes, answers beside them where they were tracked.
//!
//! A record is a line of facts (`1 ID NANOSECONDS` for a request, `2 ID NANOSECONDS LATENCY` for its answer), the bytes of
//! the message, and a line of three monkeys. Who asked is not in it: a session is one user agent with the same cookies,
//! credentials and forwarded address, told by a keyed hash. Source: GoReplay's own documentation, "Saving and Replaying from
//! file". What it refuses to do: to take answers of a replay (type 3) for recorded ones.

use std::collections::VecDeque;

use super::access_log::row::LineError;
use super::access_log::session::{Who, hash128};
use super::access_log::window::Held;
use super::order::shape_bytes;
use super::redact::Redactor;
use crate::limits::GOR_WAITING_MAX;
use crate::lookup::Lookup;
use crate::trace::{Provenance, Scheme};
use crate::units::WallTime;
use crate::wire::body::Asked;
use crate::wire::body::{Framing, of_request, of_response};
use crate::wire::cache::CacheLines;
use crate::wire::head::{RequestHead, parse_request, parse_response, values};

/// What stands between records.
pub const SEPARATOR: &[u8] = "\n🐵🙈🙉\n".as_bytes();

/// Requests that wait for their answers.
#[derive(Debug)]
pub struct Gor {
    seed: u64,
    redactor: Redactor,
    waiting: Lookup<Vec<u8>, Held>,
    order: VecDeque<Vec<u8>>,
}

/// The first line of a record.
struct Facts<'a> {
    kind: u8,
    id: &'a [u8],
    at: u64,
    latency: Option<u64>,
    message: &'a [u8],
}

fn facts(record: &[u8]) -> Option<Facts<'_>> {
    let end = record.iter().position(|b| *b == b'\n')?;
    let number = |w: &[u8]| std::str::from_utf8(w).ok()?.parse::<u64>().ok();
    let mut words = record[..end].split(|b| *b == b' ').filter(|w| !w.is_empty());
    let (kind, id, at) = (words.next()?, words.next()?, number(words.next()?)?);
    let [kind @ b'1'..=b'3'] = kind else { return None };
    Some(Facts { kind: *kind, id, at, latency: words.next().and_then(number), message: &record[end + 1..] })
}

/// Whether a file begins as these do.
#[must_use]
pub fn looks_like(head: &[u8]) -> bool {
    facts(head).is_some_and(|f| {
        f.id.len() >= 8 && f.id.iter().all(u8::is_ascii_alphanumeric) && f.at > 1_000_000_000
    })
}

impl Gor {
    /// Sessions are told by hashes with `seed`.
    #[must_use]
    pub fn new(seed: u64, redactor: Redactor) -> Self {
        Self { seed, redactor, waiting: Lookup::default(), order: VecDeque::new() }
    }

    /// Takes one record, without the separator. Complete requests go to `out`.
    ///
    /// # Errors
    /// Why it was not used.
    pub fn record(&mut self, record: &[u8], out: &mut Vec<Held>) -> Result<(), LineError> {
        let record = record.strip_prefix(b"\n").unwrap_or(record);
        let Some(facts) = facts(record) else {
            return Err(LineError::Form { at: 0, want: "TYPE ID NANOSECONDS is expected" });
        };
        match facts.kind {
            b'1' => self.request(&facts, out),
            b'2' => self.answer(&facts, out),
            _ => Err(LineError::Other),
        }
    }

    fn request(&mut self, facts: &Facts<'_>, out: &mut Vec<Held>) -> Result<(), LineError> {
        let (head, len) = parse_request(facts.message).ok().flatten().ok_or(LineError::Request)?;
        let framing = of_request(&head).map_err(|_| LineError::Request)?;
        let request_body = match framing {
            Framing::Length(n) => Some(n),
            Framing::None => Some(0),
            // As it was on the wire, with its chunk lines.
            Framing::Chunked | Framing::UntilClose | Framing::Tunnel => {
                (facts.message.len() > len).then(|| (facts.message.len() - len) as u64)
            }
        };
        let shape = self.redactor.shape(&head, Scheme::Http);
        let held = Held {
            at: WallTime(facts.at),
            arrival: Provenance::Recorded,
            who: self.who(&head),
            bytes: shape_bytes(&shape),
            shape: std::sync::Arc::new(shape),
            status: None,
            request_body,
            response_len: None,
            duration_ns: None,
            cache: None,
        };
        if let Some(old) = self.waiting.insert(facts.id.to_vec(), held) {
            out.push(old);
        } else {
            self.order.push_back(facts.id.to_vec());
        }
        while self.order.len() > GOR_WAITING_MAX {
            let oldest = self.order.pop_front();
            out.extend(oldest.and_then(|id| self.waiting.remove(&id)));
        }
        Ok(())
    }

    /// Who asked, as far as the request tells; only a hash of it is kept.
    fn who(&self, head: &RequestHead) -> Who {
        let all = |name: &str| values(&head.headers, name).map(<[u8]>::to_vec).collect::<Vec<_>>();
        let parts = (all("cookie"), all("authorization"), all("user-agent"), all("x-forwarded-for"));
        Who { key: hash128(self.seed, &parts), recorded: false, shared: false }
    }

    fn answer(&mut self, facts: &Facts<'_>, out: &mut Vec<Held>) -> Result<(), LineError> {
        let Some(mut held) = self.waiting.remove(facts.id) else { return Err(LineError::Missing("request")) };
        if let Ok(Some((head, len))) = parse_response(facts.message) {
            held.status = Some(head.status);
            held.duration_ns = facts.latency;
            held.response_len = match of_response(&head, Asked::by(&held.shape.method)) {
                Ok(Framing::Length(n)) => Some(n),
                Ok(Framing::None) => Some(0),
                _ => (facts.message.len() > len).then(|| (facts.message.len() - len) as u64),
            };
            let mut cache = CacheLines::default();
            for h in &head.headers {
                cache.take(&String::from_utf8_lossy(&h.name), &h.value);
            }
            held.cache = cache.status();
        }
        out.push(held);
        Ok(())
    }

    /// The requests that have no answers.
    pub fn finish(&mut self, out: &mut Vec<Held>) {
        while let Some(id) = self.order.pop_front() {
            out.extend(self.waiting.remove(&id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(records: &[&str]) -> (Vec<String>, Vec<Result<(), LineError>>) {
        let (mut gor, mut out) = (Gor::new(1, Redactor::with_key(b"k")), Vec::new());
        let results = records.iter().map(|r| gor.record(r.as_bytes(), &mut out)).collect();
        gor.finish(&mut out);
        let one = |h: &Held| {
            let target = String::from_utf8_lossy(&h.shape.target).into_owned();
            format!(
                "{} {target} {:?} {:?} {:?} {:?}",
                h.at.0, h.request_body, h.status, h.response_len, h.duration_ns
            )
        };
        (out.iter().map(one).collect(), results)
    }

    #[test]
    fn requests_meet_their_answers() {
        let id = |n: u32| format!("{n:024x}");
        let post = format!(
            "1 {} 1700000000000000500 0\nPOST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi",
            id(2)
        );
        let get = format!(
            "1 {} 1700000000000000000\nGET /a HTTP/1.1\r\nHost: h\r\nCookie: sid=seeded-secret\r\n\r\n",
            id(1)
        );
        let ok = format!(
            "2 {} 1700000000005000000 5000000\nHTTP/1.1 201 Created\r\nContent-Length: 9\r\n\r\nignored!!",
            id(2)
        );
        let replayed = format!("3 {} 1 1\nHTTP/1.1 200 OK\r\n\r\n", id(1));
        let stray = format!("2 {} 1 1\nHTTP/1.1 200 OK\r\n\r\n", id(9));
        let bad = format!("1 {} 5\nGET /\r\n\r\n", id(3));
        let (got, results) = told(&[&get, &post, &ok, &replayed, &stray, &bad, "nonsense"]);
        assert_eq!(
            got,
            [
                "1700000000000000500 /b Some(2) Some(201) Some(9) Some(5000000)",
                "1700000000000000000 /a Some(0) None None None",
            ]
        );
        let want = [Err(LineError::Other), Err(LineError::Missing("request")), Err(LineError::Request)];
        assert_eq!(&results[3..6], &want);
        assert!(results[..3].iter().all(Result::is_ok) && matches!(results[6], Err(LineError::Form { .. })));
        assert!(looks_like(get.as_bytes()) && !looks_like(b"1 2 3\n") && !looks_like(b"GET / HTTP/1.1\r\n"));
    }

    #[test]
    fn what_waits_is_bounded_and_nothing_is_lost() {
        let (mut gor, mut out) = (Gor::new(1, Redactor::with_key(b"k")), Vec::new());
        for n in 0..2 * GOR_WAITING_MAX {
            let record =
                format!("1 {n:024x} {}\nGET / HTTP/1.1\r\n\r\n", 1_700_000_000_000_000_000u64 + n as u64);
            gor.record(record.as_bytes(), &mut out).unwrap();
            assert!(gor.waiting.len() <= GOR_WAITING_MAX);
        }
        gor.finish(&mut out);
        assert_eq!(out.len(), 2 * GOR_WAITING_MAX);
    }
}
