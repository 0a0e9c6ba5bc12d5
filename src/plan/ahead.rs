//! Departures that are known ahead of their time, handed out in the order of due times.
//!
//! Nearly all come in order already and wait in line; only what is jittered or held back goes through a heap, whose
//! cost per item is that of several cache misses once it is large.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};

use super::Departure;

/// A departure and when it was put in: equal due times keep their order.
#[derive(Debug)]
struct Queued(Departure, u64);

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.0.due_ns, self.1).cmp(&(other.0.due_ns, other.1))
    }
}

/// The departures.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    in_order: VecDeque<Queued>,
    others: BinaryHeap<Reverse<Queued>>,
    put: u64,
}

impl Ahead {
    pub(super) fn push(&mut self, departure: Departure) {
        self.put += 1;
        let queued = Queued(departure, self.put);
        if self.in_order.back().is_none_or(|last| last.0.due_ns <= queued.0.due_ns) {
            self.in_order.push_back(queued);
        } else {
            self.others.push(Reverse(queued));
        }
    }

    /// Whether the next one is not from the line.
    fn is_other(&self) -> bool {
        match (self.in_order.front(), self.others.peek()) {
            (Some(line), Some(Reverse(other))) => other < line,
            (line, _) => line.is_none(),
        }
    }

    /// When the next one is due.
    pub(super) fn next_due_ns(&self) -> Option<u64> {
        let next = if self.is_other() { self.others.peek().map(|r| &r.0) } else { self.in_order.front() };
        next.map(|q| q.0.due_ns)
    }

    pub(super) fn pop(&mut self) -> Option<Departure> {
        let next = if self.is_other() { self.others.pop().map(|r| r.0) } else { self.in_order.pop_front() };
        next.map(|q| q.0)
    }

    pub(super) fn len(&self) -> usize {
        self.in_order.len() + self.others.len()
    }

    /// All of them, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Departure> {
        self.in_order.iter().chain(self.others.iter().map(|r| &r.0)).map(|q| &q.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::{DepartureKind, Instance};

    proptest! {
        /// As a stable sort would, however puts and takes mix.
        #[test]
        fn in_the_order_of_due_times(steps in prop::collection::vec(prop::option::weighted(0.7, 0u64..30), 0..200)) {
            let (mut ahead, mut want) = (Ahead::default(), Vec::new());
            for (n, step) in steps.into_iter().enumerate() {
                match step {
                    Some(due_ns) => {
                        ahead.push(Departure { due_ns, instance: Instance(n as u64), connection: 0, kind: DepartureKind::Close });
                        want.push((due_ns, n as u64));
                        want.sort_by_key(|(due, _)| *due);
                    }
                    None => {
                        let next = (!want.is_empty()).then(|| want.remove(0));
                        prop_assert_eq!(ahead.next_due_ns(), next.map(|(due, _)| due));
                        prop_assert_eq!(ahead.pop().map(|d| (d.due_ns, d.instance.0)), next);
                    }
                }
                prop_assert_eq!((ahead.len(), ahead.iter().count()), (want.len(), want.len()));
            }
        }
    }
}
