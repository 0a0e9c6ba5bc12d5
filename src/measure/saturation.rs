//! Whether the generator itself was at its limit: a program that is late, has no CPU left or has it taken away by the
//! host measures itself, and calls it the target.
//!
//! One verdict a second, from three kinds of evidence: how late requests left, how much of the second our threads ran
//! or waited for a CPU, and how much of the machine's time the host took (steal). What cannot be read is not judged,
//! and the lateness always can.

use std::fmt;
use std::mem::Discriminant;
use std::time::Duration;

use crate::limits::{LAG_LIMIT, LAG_SECONDS, OWN_BUSY_LIMIT, OWN_STEAL_LIMIT, OWN_WAIT_LIMIT};

/// What one of our threads did in a stretch of time, as shares of it.
#[derive(Debug, Clone, PartialEq)]
pub struct ThreadLoad {
    /// Name.
    pub name: String,
    /// On a CPU.
    pub ran: f64,
    /// Ready, but without one.
    pub waited: f64,
}

/// What we and our host did in a second.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OwnLoad {
    /// Our threads; empty where it cannot be read.
    pub threads: Vec<ThreadLoad>,
    /// Share of the machine's time that the host gave to others.
    pub steal: Option<f64>,
}

/// Why a second is not to be trusted.
#[derive(Debug, Clone, PartialEq)]
pub enum Saturated {
    /// Requests left late: 99th percentile.
    Late(Duration),
    /// A thread had next to no time left.
    Busy(ThreadLoad),
    /// A thread was kept waiting for a CPU.
    Waiting(ThreadLoad),
    /// The host took this share.
    Steal(f64),
}

impl fmt::Display for Saturated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: f64| format!("{:.0} %", share * 100.0);
        match self {
            Self::Late(p99) => {
                write!(f, "requests left late: 99th percentile {:.0} ms", p99.as_secs_f64() * 1e3)
            }
            Self::Busy(t) => write!(
                f,
                "thread {} had no time left: busy {} of the time",
                t.name,
                percent(t.ran + t.waited)
            ),
            Self::Waiting(t) => {
                write!(
                    f,
                    "thread {} waited for a CPU {} of the time: something else runs on this machine",
                    t.name,
                    percent(t.waited)
                )
            }
            Self::Steal(share) => {
                write!(f, "the host took {} of this machine's time (steal)", percent(*share))
            }
        }
    }
}

/// Judges one second. A worker that spins is busy by design.
#[must_use]
pub fn judge(load: &OwnLoad, lag_p99: Option<Duration>, spins: bool) -> Option<Saturated> {
    if let Some(p99) = lag_p99.filter(|p99| *p99 > LAG_LIMIT) {
        return Some(Saturated::Late(p99));
    }
    let most = |of: fn(&ThreadLoad) -> f64| load.threads.iter().max_by(|a, b| of(a).total_cmp(&of(b)));
    if let Some(t) = most(|t| t.waited).filter(|t| t.waited > OWN_WAIT_LIMIT) {
        return Some(Saturated::Waiting(t.clone()));
    }
    if let Some(t) = most(|t| t.ran + t.waited).filter(|t| !spins && t.ran + t.waited > OWN_BUSY_LIMIT) {
        return Some(Saturated::Busy(t.clone()));
    }
    load.steal.filter(|s| *s > OWN_STEAL_LIMIT).map(Saturated::Steal)
}

/// Seconds judged one after the other.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seconds {
    /// Bad ones in a row, now.
    pub(crate) in_a_row: u32,
    /// Seconds in which traffic of the measure phase flowed.
    pub measured: u64,
    /// Bad ones among them, in stretches of [`LAG_SECONDS`] and more.
    pub saturated: u64,
    /// The first reason of each kind, in words.
    pub reasons: Vec<String>,
    /// Their kinds.
    pub(crate) kinds: Vec<Discriminant<Saturated>>,
    /// Highest share of a second that one of our threads ran.
    pub ran_max: Option<f64>,
    /// Highest steal.
    pub steal_max: Option<f64>,
}

impl Seconds {
    /// A second is over. Returns what to tell when a stretch begins that counts.
    pub fn end(&mut self, load: &OwnLoad, bad: Option<Saturated>, measuring: bool) -> Option<String> {
        let ran = load
            .threads
            .iter()
            .map(|t| t.ran)
            .fold(None, |m: Option<f64>, r| Some(m.map_or(r, |m| m.max(r))));
        let higher = |a: Option<f64>, b: Option<f64>| a.map_or(b, |a| Some(b.map_or(a, |b| a.max(b))));
        self.ran_max = higher(self.ran_max, ran);
        self.steal_max = higher(self.steal_max, load.steal);
        self.measured += u64::from(measuring);
        let Some(bad) = bad else {
            self.in_a_row = 0;
            return None;
        };
        self.in_a_row += 1;
        if self.in_a_row < LAG_SECONDS {
            return None;
        }
        let begins = self.in_a_row == LAG_SECONDS;
        if measuring {
            self.saturated += if begins { u64::from(LAG_SECONDS) } else { 1 };
            self.saturated = self.saturated.min(self.measured);
        }
        let words = bad.to_string();
        let kind = std::mem::discriminant(&bad);
        if measuring && !self.kinds.contains(&kind) {
            self.kinds.push(kind);
            self.reasons.push(words.clone());
        }
        begins.then(|| format!("the generator is at its limit: {words}"))
    }

    /// Whether nothing may grow now.
    #[must_use]
    pub fn is_saturated(&self) -> bool {
        self.in_a_row >= LAG_SECONDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(ran: f64, waited: f64, steal: Option<f64>) -> OwnLoad {
        let calm = ThreadLoad { name: "governor".into(), ran: 0.01, waited: 0.0 };
        OwnLoad { threads: vec![calm, ThreadLoad { name: "worker-1".into(), ran, waited }], steal }
    }

    #[test]
    fn a_second_is_bad_for_one_reason() {
        let ms = |n| Some(Duration::from_millis(n));
        #[rustfmt::skip]
        let table: [(OwnLoad, Option<Duration>, bool, Option<&str>); 10] = [
            (load(0.5, 0.0, Some(0.0)), ms(1), false, None),
            (load(0.5, 0.0, None), ms(50), false, None),
            (load(0.5, 0.0, None), ms(51), false, Some("requests left late: 99th percentile 51 ms")),
            (load(0.97, 0.0, None), ms(1), false, None),
            (load(0.96, 0.02, None), ms(1), false, Some("thread worker-1 had no time left: busy 98 % of the time")),
            (load(1.0, 0.0, None), ms(1), true, None),
            (load(0.4, 0.6, None), ms(1), true, Some("thread worker-1 waited for a CPU 60 % of the time: something else runs on this machine")),
            (load(0.1, 0.0, Some(0.3)), None, false, Some("the host took 30 % of this machine's time (steal)")),
            (load(0.1, 0.0, Some(0.25)), None, false, None),
            (OwnLoad::default(), None, false, None),
        ];
        for (load, lag, spins, want) in table {
            assert_eq!(judge(&load, lag, spins).map(|s| s.to_string()).as_deref(), want, "{load:?} {lag:?}");
        }
    }

    #[test]
    fn three_in_a_row_count() {
        let bad = || judge(&load(0.1, 0.0, Some(0.5)), None, false);
        let mut s = Seconds::default();
        let mut told = Vec::new();
        // Two, then a good one; then four while measuring; then one before the measure phase would not count.
        for (second, is_bad) in [true, true, false, true, true, true, true, false].into_iter().enumerate() {
            let words = s.end(&load(0.2, 0.0, Some(0.5)), bad().filter(|_| is_bad), true);
            told.extend(words.map(|w| (second, w)));
        }
        assert_eq!((s.saturated, s.measured, s.is_saturated()), (4, 8, false));
        let words = "the host took 50 % of this machine's time (steal)";
        assert_eq!(told, [(5, format!("the generator is at its limit: {words}"))]);
        assert_eq!((s.reasons, s.ran_max, s.steal_max), (vec![words.to_owned()], Some(0.2), Some(0.5)));

        let mut early = Seconds::default();
        let told = (0..4).filter_map(|_| early.end(&OwnLoad::default(), bad(), false)).count();
        assert_eq!((told, early.saturated, early.reasons.len(), early.is_saturated()), (1, 0, 0, true));
    }
}
