//! What one route of the run was like: how often, how its requests ended, how long that took, and whether its answers
//! are the recorded ones.
//!
//! A run that meets another application than the one that was recorded (a page that is an error now, a cache that is
//! cold, answers of another size) is fast or slow for reasons of its own; the comparison here says so.

use std::collections::BTreeMap;

use super::latency::{CoarseLatency, Latency};
use super::outcome::{Ending, Outcome, is_expected};
use crate::wire::cache::CacheStatus;

/// How a written request ended, as far as a route tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndClass {
    /// A whole answer, by the first digit of its status.
    Status(u8),
    /// No usable answer.
    Error,
    /// Too long.
    Timeout,
    /// Given up at the end of the run.
    Cancelled,
}

impl EndClass {
    fn of(ending: Ending) -> Self {
        match ending {
            Ending::Answered(status) => Self::Status((status / 100).min(9) as u8),
            Ending::Error(_) | Ending::FailedBeforeWrite => Self::Error,
            Ending::Timeout => Self::Timeout,
            Ending::Cancelled => Self::Cancelled,
        }
    }

    /// Name in reports.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Status(digit) => format!("{digit}xx"),
            Self::Error => "error".to_owned(),
            Self::Timeout => "timeout".to_owned(),
            Self::Cancelled => "cancelled".to_owned(),
        }
    }
}

/// Sizes of answers beside the recorded ones: only where both are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// Answers compared.
    pub answers: u64,
    /// Body bytes when recorded.
    pub recorded: u64,
    /// Body bytes now.
    pub received: u64,
}

impl Sizes {
    fn add(&mut self, o: Self) {
        // Recorded sizes are numbers of a file, which may be anything.
        self.answers = self.answers.saturating_add(o.answers);
        self.recorded = self.recorded.saturating_add(o.recorded);
        self.received = self.received.saturating_add(o.received);
    }

    /// Bytes now over bytes then; none without bytes then.
    #[must_use]
    pub fn ratio(self) -> Option<f64> {
        (self.recorded > 0).then(|| self.received as f64 / self.recorded as f64)
    }
}

/// Answers that said whether they came from a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hits {
    /// That said so.
    pub known: u64,
    /// That came from one.
    pub hits: u64,
}

impl Hits {
    fn note(&mut self, status: Option<CacheStatus>) {
        self.known += u64::from(status.is_some());
        self.hits += u64::from(status == Some(CacheStatus::Hit));
    }

    fn add(&mut self, o: Self) {
        self.known += o.known;
        self.hits += o.hits;
    }

    /// Hits over answers that said so.
    #[must_use]
    pub fn share(self) -> Option<f64> {
        (self.known > 0).then(|| self.hits as f64 / self.known as f64)
    }
}

/// Tally of one route.
#[derive(Debug, Clone, Default)]
pub struct RouteTally {
    /// Due.
    pub due: u64,
    /// Written.
    pub written: u64,
    /// As recorded.
    pub ok: u64,
    /// Not as recorded, errors and time-outs.
    pub bad: u64,
    /// Due to done, by how it ended.
    pub response: BTreeMap<EndClass, CoarseLatency>,
    /// Classes of status when recorded, of the requests that were answered; 0 is unknown.
    pub recorded: [u64; 10],
    /// Classes now, of the requests whose recorded status is known.
    pub now: [u64; 10],
    /// Sizes.
    pub sizes: Sizes,
    /// Answers of caches, when recorded.
    pub cache_recorded: Hits,
    /// Answers of caches, now.
    pub cache_seen: Hits,
}

impl RouteTally {
    /// A written request ended.
    pub fn ended(&mut self, o: &Outcome) {
        self.written += 1;
        let good = matches!(o.ending, Ending::Answered(s) if is_expected(o.expected, s));
        self.ok += u64::from(good);
        self.bad += u64::from(!good);
        self.response.entry(EndClass::of(o.ending)).or_default().add(o.done.since(o.due));
        if let Ending::Answered(status) = o.ending {
            let class = |s: u16| usize::from(s / 100).min(9);
            // Without what the client had cached, an unchanged document is sent whole: that is as recorded.
            let then = match o.expected {
                Some(304) if class(status) == 2 => 2,
                Some(expected) => class(expected),
                None => 0,
            };
            self.recorded[then] += 1;
            self.now[class(status)] += u64::from(then > 0);
            self.cache_recorded.note(o.recorded.cache());
            self.cache_seen.note(o.cache);
            // An error page says nothing about the size of the page.
            if let Some(recorded) = o.recorded.response_len().filter(|_| o.expected == Some(status)) {
                self.sizes.add(Sizes { answers: 1, recorded, received: o.bytes });
            }
        }
    }

    /// Whole answers, by time from due to done.
    #[must_use]
    pub fn answered(&self) -> Latency {
        let mut all = CoarseLatency::default();
        for (class, latency) in &self.response {
            if matches!(class, EndClass::Status(_)) {
                all.merge(latency);
            }
        }
        all.get().clone()
    }

    /// Answers by class of their status.
    pub fn classes(&self) -> impl Iterator<Item = (u8, u64)> + '_ {
        self.response.iter().filter_map(|(class, latency)| match class {
            EndClass::Status(digit) => Some((*digit, latency.get().count())),
            EndClass::Error | EndClass::Timeout | EndClass::Cancelled => None,
        })
    }

    /// Adds all of `o`.
    pub fn merge(&mut self, o: &Self) {
        self.due += o.due;
        self.written += o.written;
        self.ok += o.ok;
        self.bad += o.bad;
        o.response.iter().for_each(|(c, l)| self.response.entry(*c).or_default().merge(l));
        self.recorded.iter_mut().zip(o.recorded).for_each(|(mine, n)| *mine += n);
        self.now.iter_mut().zip(o.now).for_each(|(mine, n)| *mine += n);
        self.sizes.add(o.sizes);
        self.cache_recorded.add(o.cache_recorded);
        self.cache_seen.add(o.cache_seen);
    }
}

/// Answers of a route below which it is not judged: a few may be anything.
const ANSWERS_MIN: u64 = 50;
/// Difference of a share (status classes, cache hits) that counts as another application.
const SHARE_DRIFT: f64 = 0.05;
/// The same for caches, which are colder or warmer by nature.
const HITS_DRIFT: f64 = 0.2;
/// Size of answers against the recorded one that counts as another application.
const SIZE_DRIFT: core::ops::RangeInclusive<f64> = 0.67..=1.5;

/// How the answers of a route differ from the recorded ones, in words; empty where they do not.
#[must_use]
pub fn drift(name: &str, r: &RouteTally) -> Vec<String> {
    let mut out = Vec::new();
    let known: u64 = r.now.iter().sum();
    if known >= ANSWERS_MIN {
        let share = |n: u64| n as f64 / known as f64;
        for (class, (n, before)) in r.now.into_iter().zip(r.recorded).enumerate().skip(1) {
            let (now, then) = (share(n), share(before));
            if now - then > SHARE_DRIFT {
                out.push(format!(
                    "{name}: {:.0} % of the answers were {class}xx, when recorded {:.0} %",
                    now * 1e2,
                    then * 1e2
                ));
            }
        }
    }
    if r.sizes.answers >= ANSWERS_MIN
        && let Some(ratio) = r.sizes.ratio().filter(|x| !SIZE_DRIFT.contains(x))
    {
        let mean = |bytes: u64| bytes as f64 / r.sizes.answers as f64;
        out.push(format!(
            "{name}: answers had {:.0} bytes on average, when recorded {:.0} (x {ratio:.2})",
            mean(r.sizes.received),
            mean(r.sizes.recorded)
        ));
    }
    if let (Some(now), Some(then)) = (r.cache_seen.share(), r.cache_recorded.share())
        && r.cache_seen.known.min(r.cache_recorded.known) >= ANSWERS_MIN
        && (now - then).abs() > HITS_DRIFT
    {
        out.push(format!(
            "{name}: {:.0} % of the answers came from a cache, when recorded {:.0} %",
            now * 1e2,
            then * 1e2
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::outcome::RunPhase;
    use crate::trace::AnswerFacts;
    use crate::units::RunTime;

    /// One answered request: recorded status, status now, recorded bytes, bytes now, cache then, cache now.
    type Answer = (Option<u16>, u16, Option<u64>, u64, Option<CacheStatus>, Option<CacheStatus>);

    fn outcome((expected, status, len, bytes, then, now): Answer) -> Outcome {
        Outcome {
            phase: RunPhase::Measure,
            route: 0,
            expected,
            recorded: AnswerFacts::new(len, then),
            cache: now,
            due: RunTime::START,
            written: Some(RunTime::START),
            first_byte: None,
            done: RunTime::from_millis(7),
            bytes,
            ending: Ending::Answered(status),
        }
    }

    #[test]
    fn another_application_is_told_from_the_recorded_one() {
        use CacheStatus::{Hit, Miss};
        let same: Answer = (Some(200), 200, Some(100), 100, Some(Hit), Some(Hit));
        #[rustfmt::skip]
        let table: [(&str, Answer, u64, &[&str]); 12] = [
            ("the same", same, 100, &[]),
            ("redirects to a log-in", (Some(200), 302, Some(100), 0, None, None), 10, &["10 % of the answers were 3xx, when recorded 0 %"]),
            ("a few of them", (Some(200), 302, Some(100), 0, None, None), 3, &[]),
            ("nothing was recorded", (None, 302, None, 0, None, None), 100, &[]),
            ("a document that was cached by the client", (Some(304), 200, None, 100, None, None), 60, &[]),
            ("not modified where nothing was", (Some(200), 304, Some(100), 0, None, None), 60, &["60 % of the answers were 3xx, when recorded 0 %"]),
            ("sizes of a forged file", (Some(200), 200, Some((1 << 62) - 2), 100, None, None), 40, &["answers had 100 bytes on average, when recorded 184467440737095520 (x 0.00)"]),
            ("larger", (Some(200), 200, Some(100), 1_000, None, None), 20, &["answers had 280 bytes on average, when recorded 100 (x 2.80)"]),
            ("a little larger", (Some(200), 200, Some(100), 300, None, None), 20, &[]),
            ("errors are small", (Some(200), 500, Some(100), 0, None, None), 4, &[]),
            ("a cold cache", (Some(200), 200, Some(100), 100, Some(Hit), Some(Miss)), 30, &["70 % of the answers came from a cache, when recorded 100 %"]),
            ("a cache that says nothing", (Some(200), 200, Some(100), 100, Some(Hit), None), 90, &[]),
        ];
        for (name, odd, n, want) in table {
            let mut r = RouteTally::default();
            (0..100 - n).for_each(|_| r.ended(&outcome(same)));
            (0..n).for_each(|_| r.ended(&outcome(odd)));
            let told = drift("GET /x", &r);
            assert_eq!(told, want.iter().map(|w| format!("GET /x: {w}")).collect::<Vec<_>>(), "{name}");
        }
        // One answer without a recorded status must not blind it to all others.
        let mut blind = RouteTally::default();
        blind.ended(&outcome((None, 302, None, 0, None, None)));
        (0..100).for_each(|_| blind.ended(&outcome((Some(200), 302, None, 0, None, None))));
        assert_eq!(drift("x", &blind), ["x: 100 % of the answers were 3xx, when recorded 0 %"]);
        let mut few = RouteTally::default();
        (0..49).for_each(|_| few.ended(&outcome((Some(200), 404, Some(100), 0, Some(Hit), Some(Miss)))));
        assert_eq!(drift("x", &few), Vec::<String>::new(), "49 are too few");
    }

    #[test]
    fn latency_is_kept_by_how_it_ended() {
        let mut r = RouteTally::default();
        r.ended(&outcome((Some(200), 200, None, 0, None, None)));
        r.ended(&outcome((Some(200), 503, None, 0, None, None)));
        r.ended(&Outcome { ending: Ending::Timeout, ..outcome((None, 0, None, 0, None, None)) });
        let names: Vec<_> = r.response.keys().map(|c| c.name()).collect();
        assert_eq!(
            (names, r.answered().count(), r.ok, r.bad),
            (vec!["2xx".into(), "5xx".into(), "timeout".to_owned()], 2, 1, 2)
        );
        let mut twice = r.clone();
        twice.merge(&r);
        assert_eq!((twice.answered().count(), twice.written), (4, 6));
    }
}
