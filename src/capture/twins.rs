//! Finds out whether two inputs hold the same traffic: a capture and the log of the same server, both sides of a balancer. A
//! trace of both would send everything twice.
//!
//! Popular requests are alike in any two captures of a site. Rare ones are not: when most of the methods and targets that one
//! input has once or twice stand in the other at the same times, it is the same traffic. A bounded sample is kept of each
//! input, of the same requests in all of them: those with the smallest hashes (Broder, "On the resemblance and containment of
//! documents", 1997). What it refuses to do: judge by a few requests.

use std::collections::BTreeMap;

use crate::capture::RawEvent;
use crate::limits::TWIN_SAMPLE_MAX;
use crate::trace::EventKind;
use crate::units::{NANOS_PER_SEC, WallTime};

/// Rare requests that must be comparable.
const RARE_MIN: usize = 20;

/// Of those, the share that must stand in both, in hundredths.
const SHARED_MIN_PERCENT: usize = 60;

/// Most times that a rare request may be there.
const RARE_MAX: usize = 2;

/// Distance of the stamps of one request in two inputs: a log has the end, cut to the second.
const APART_NS: u64 = 3 * NANOS_PER_SEC;

/// A sample of the requests of one input.
#[derive(Debug, Default)]
pub struct Sample {
    /// Times by hash of method and target; empty where there are more than [`RARE_MAX`].
    times: BTreeMap<u64, Vec<WallTime>>,
    /// Whether larger hashes were left out.
    full: bool,
    first: Option<WallTime>,
    last: WallTime,
}

impl Sample {
    /// Takes the requests among `events`.
    pub fn add(&mut self, events: &[RawEvent]) {
        for event in events {
            let EventKind::Request(r) = &event.kind else { continue };
            self.first = Some(self.first.map_or(event.at, |f| f.min(event.at)));
            self.last = self.last.max(event.at);
            let key = foldhash::quality::FixedState::default();
            let key = std::hash::BuildHasher::hash_one(&key, (&r.shape.method, &r.shape.target));
            if self.full && self.times.last_key_value().is_some_and(|(largest, _)| key > *largest) {
                continue;
            }
            let times = self.times.entry(key).or_insert_with(|| Vec::with_capacity(1));
            if times.len() <= RARE_MAX {
                times.push(event.at);
            }
            if self.times.len() > TWIN_SAMPLE_MAX {
                self.full = true;
                self.times.pop_last();
            }
        }
    }

    /// Largest hash up to which every request was sampled.
    fn reach(&self) -> u64 {
        if self.full { self.times.last_key_value().map_or(0, |(k, _)| *k) } else { u64::MAX }
    }

    /// Rare requests within a time and a reach.
    fn rare(&self, from: WallTime, to: WallTime, reach: u64) -> impl Iterator<Item = (u64, &[WallTime])> {
        let within = move |times: &[WallTime]| times.iter().all(|t| (from..=to).contains(t));
        let rare = move |(key, times): (&u64, &'_ Vec<WallTime>)| {
            *key <= reach && times.len() <= RARE_MAX && within(times)
        };
        self.times.iter().filter(move |(k, t)| rare((k, t))).map(|(k, t)| (*k, t.as_slice()))
    }

    /// How many of how many rare requests are in both, where that says that it is the same traffic.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> Option<(usize, usize)> {
        let (from, to) = (self.first?.max(other.first?), self.last.min(other.last));
        let reach = self.reach().min(other.reach());
        let near = |a: &[WallTime], b: &[WallTime]| {
            a.iter().any(|a| b.iter().any(|b| a.0.abs_diff(b.0) <= APART_NS))
        };
        let shared = |one: &Self, two: &Self| {
            let (mut all, mut both) = (0, 0);
            for (key, times) in one.rare(from, to, reach) {
                all += 1;
                both += usize::from(two.times.get(&key).is_some_and(|t| near(times, t)));
            }
            (both, all)
        };
        let both_ways = [shared(self, other), shared(other, self)];
        both_ways.into_iter().find(|(both, all)| *all >= RARE_MIN && both * 100 >= all * SHARED_MIN_PERCENT)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::capture::redact::Redactor;
    use crate::trace::{Fact, Provenance, RequestFacts, Scheme};
    use crate::wire::head::{RequestHead, Version};

    fn event(ms: u64, target: &str) -> RawEvent {
        let head = RequestHead {
            method: b"GET".to_vec(),
            target: target.as_bytes().to_vec(),
            version: Version::Http11,
            headers: Vec::new(),
        };
        let facts = RequestFacts {
            shape: Arc::new(Redactor::with_key(b"k").shape(&head, Scheme::Http)),
            arrival: Provenance::Recorded,
            connection: Provenance::Recorded,
            body_len: Fact::absent(),
            status: Fact::absent(),
            response_len: Fact::absent(),
            duration_ns: Fact::absent(),
            cache: Fact::absent(),
        };
        RawEvent {
            at: WallTime(ms * 1_000_000),
            owner: 0,
            connection: 0,
            kind: EventKind::Request(facts),
            bytes: 0,
            client: None,
        }
    }

    /// One request in ten is a product of its own, the others are the front page; `shift` in milliseconds, every `nth` of them.
    fn site(n: u64, shift: u64, nth: u64, salt: &str) -> Sample {
        let mut sample = Sample::default();
        for i in (0..n).filter(|i| i % nth == 0) {
            let target = if i % 10 == 0 { format!("/p/{salt}{i}") } else { "/".to_owned() };
            sample.add(&[event(i * 100 + shift, &target)]);
        }
        sample
    }

    #[test]
    fn rare_requests_at_the_same_times_tell() {
        let one = site(1_000, 0, 1, "");
        let table = [
            ("the same", site(1_000, 0, 1, ""), true),
            ("stamped at the end of a second", site(1_000, 900, 1, ""), true),
            ("half of it", site(1_000, 0, 20, ""), true),
            ("another server of the same site", site(1_000, 0, 1, "other"), false),
            ("the same an hour later", site(1_000, 3_600_000, 1, ""), false),
            ("the same a minute later", site(1_000, 60_000, 1, ""), false),
            ("too few to tell", site(150, 0, 1, ""), false),
            ("nothing", Sample::default(), false),
        ];
        for (what, other, same) in table {
            assert_eq!(
                (one.same_as(&other).is_some(), other.same_as(&one).is_some()),
                (same, same),
                "{what}"
            );
        }
        // Popular requests alone say nothing.
        let mut popular = [Sample::default(), Sample::default()];
        popular
            .iter_mut()
            .for_each(|s| (0..1_000).for_each(|i| s.add(&[event(i * 10, &format!("/{}", i % 7))])));
        assert_eq!(popular[0].same_as(&popular[1]), None);
    }

    #[test]
    fn a_sample_is_bounded_and_still_tells() {
        let large = || {
            let mut sample = Sample::default();
            (0..5 * TWIN_SAMPLE_MAX as u64).for_each(|i| sample.add(&[event(i * 10, &format!("/p/{i}"))]));
            sample
        };
        let (one, other) = (large(), large());
        assert_eq!(one.times.len(), TWIN_SAMPLE_MAX);
        assert!(one.same_as(&other).is_some());
    }
}
