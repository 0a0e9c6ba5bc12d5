//! Thinning: which sessions the share leaves out.
//!
//! A session is kept iff its hash is below the share, so a cut takes whole sessions and the shape survives;
//! every kept session is kept again at any higher share. One that was left out comes back only whole: at
//! its first request, or after a minute, when nothing of what it missed can matter any more.

use std::collections::BTreeMap;

use super::Instance;
use super::draw::{Salt, below, hash64};
use crate::limits::THINNED_RETURN_AFTER;
use crate::units::{RunTime, Share};

/// Sessions remembered as left out; beyond it the oldest half is forgotten (they may come back early).
const REMEMBERED_MAX: usize = 200_000;

/// The sessions that were left out lately.
#[derive(Debug, Default)]
pub struct Thinner {
    left_out: BTreeMap<Instance, RunTime>,
}

/// The share from which on a session is kept, in parts per million.
#[must_use]
pub fn threshold(instance: Instance) -> u32 {
    below(hash64(instance.0, Salt::Share), u64::from(Share::PPM)) as u32
}

impl Thinner {
    /// Whether a departure of `instance` at `now` is kept at `share`.
    pub fn keeps(&mut self, instance: Instance, now: RunTime, share: Share) -> bool {
        if threshold(instance) >= share.ppm() {
            self.remember(instance, now);
            return false;
        }
        match self.left_out.get(&instance) {
            Some(since) if now.since(*since) < THINNED_RETURN_AFTER => false,
            Some(_) => {
                self.left_out.remove(&instance);
                true
            }
            None => true,
        }
    }

    fn remember(&mut self, instance: Instance, now: RunTime) {
        self.left_out.entry(instance).or_insert(now);
        if self.left_out.len() > REMEMBERED_MAX {
            let mut times: Vec<RunTime> = self.left_out.values().copied().collect();
            let middle = times.len() / 2;
            let (_, median, _) = times.select_nth_unstable(middle);
            let median = *median;
            self.left_out.retain(|_, since| *since > median);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_halving_halves_and_nests() {
        let keep = |share: f64| {
            let mut t = Thinner::default();
            let share = Share::from_f64(share);
            (0..20_000u64).filter(|k| t.keeps(Instance(*k), RunTime::START, share)).collect::<Vec<_>>()
        };
        let (full, half, quarter) = (keep(1.0), keep(0.5), keep(0.25));
        assert_eq!(full.len(), 20_000);
        assert!((9_700..10_300).contains(&half.len()), "{}", half.len());
        assert!(quarter.iter().all(|k| half.contains(k)));
        assert!(keep(0.0).is_empty());
    }

    #[test]
    fn a_session_left_out_comes_back_whole_or_after_a_minute() {
        let mut t = Thinner::default();
        let session = (0..).map(Instance).find(|i| (400_000..500_000).contains(&threshold(*i))).unwrap();
        let at = |s: u64| RunTime::from_millis(s * 1000);
        assert!(t.keeps(session, at(0), Share::ONE));
        assert!(!t.keeps(session, at(1), Share::from_f64(0.2)));
        assert!(!t.keeps(session, at(2), Share::ONE), "its first requests are missing");
        assert!(t.keeps(session, at(61), Share::ONE));
        assert!(t.keeps(session, at(62), Share::ONE));
    }
}
