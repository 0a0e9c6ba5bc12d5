//! A calendar queue: puts nearly ordered things into the order of their times, cheaply and in bounded memory.
//!
//! Things wait in a bucket for each second; the oldest bucket is sorted when it is due to leave, which is when more wait
//! than may. Sorting runs that are nearly in order costs little, where a heap would move each thing a dozen times.
//! Source: Brown, "Calendar queues", CACM 31 (1988), without its resizing.

use std::collections::BTreeMap;

use super::order::Until;
use crate::units::{NANOS_PER_SEC, WallTime};

/// Things waiting, by second.
#[derive(Debug)]
pub struct Calendar<T> {
    seconds: BTreeMap<u64, (Vec<(WallTime, T)>, usize)>,
    waiting: usize,
    most: usize,
    bytes: usize,
    most_bytes: usize,
    /// The bucket that is leaving.
    leaving: std::vec::IntoIter<(WallTime, T)>,
}

impl<T> Calendar<T> {
    /// An empty calendar in which about `most` things of about `most_bytes` wait.
    #[must_use]
    pub fn new(most: usize, most_bytes: usize) -> Self {
        Self {
            seconds: BTreeMap::new(),
            waiting: 0,
            most,
            bytes: 0,
            most_bytes,
            leaving: Vec::new().into_iter(),
        }
    }

    /// Takes a thing of so many bytes.
    pub fn push(&mut self, at: WallTime, thing: T, bytes: usize) {
        let (things, weight) = self.seconds.entry(at.0 / NANOS_PER_SEC).or_default();
        things.push((at, thing));
        *weight += bytes;
        self.waiting += 1;
        self.bytes += bytes;
    }

    /// The oldest thing, when more wait than may, or of those that must leave: whole seconds before a time, or all. Things
    /// of the same time leave as they came. One that came too late leaves late: the caller sees that its time is before the
    /// last one's.
    pub fn pop(&mut self, until: Until) -> Option<(WallTime, T)> {
        if self.leaving.len() == 0 {
            let full = self.waiting > self.most || self.bytes > self.most_bytes;
            let (first, _) = self.seconds.first_key_value()?;
            let due = match until {
                Until::Full => false,
                Until::Before(at) => first.saturating_add(1).saturating_mul(NANOS_PER_SEC) <= at.0,
                Until::End => true,
            };
            if !full && !due {
                return None;
            }
            let (_, (mut bucket, bytes)) = self.seconds.pop_first()?;
            self.waiting -= bucket.len();
            self.bytes -= bytes;
            bucket.sort_by_key(|(at, _)| *at);
            self.leaving = bucket.into_iter();
        }
        self.leaving.next()
    }

    /// Time of the oldest thing that waits.
    #[must_use]
    pub fn first(&self) -> Option<WallTime> {
        let leaving = self.leaving.as_slice().first().map(|(at, _)| *at);
        leaving.or_else(|| self.seconds.first_key_value()?.1.0.iter().map(|(at, _)| *at).min())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Within the bound everything comes out in order; beyond it nothing is lost.
        #[test]
        fn order_and_completeness(times in prop::collection::vec(0u64..20_000_000_000, 0..300), most in 0usize..400) {
            let (mut calendar, mut out) = (Calendar::new(most, usize::MAX), Vec::new());
            for (i, at) in times.iter().enumerate() {
                calendar.push(WallTime(*at), i, 10);
                while let Some(thing) = calendar.pop(Until::Full) { out.push(thing); }
            }
            while let Some(thing) = calendar.pop(Until::End) { out.push(thing); }
            prop_assert_eq!(out.len(), times.len());
            if times.len() <= most {
                let mut want: Vec<_> = times.iter().enumerate().map(|(i, at)| (WallTime(*at), i)).collect();
                want.sort();
                prop_assert_eq!(out, want);
            }
        }
    }
}
