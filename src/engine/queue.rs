//! What a worker has in hand: batches as the feeder dealt them, taken apart one departure at a time, without a copy.

use std::collections::VecDeque;

use super::feeder::Batch;
use crate::measure::outcome::RunPhase;
use crate::plan::Departure;
use crate::units::RunTime;

/// A departure with the stage that it belongs to.
#[derive(Debug)]
pub struct Planned {
    /// Number of the stage.
    pub epoch: u64,
    /// Phase.
    pub phase: RunPhase,
    /// When it is due.
    pub due: RunTime,
    /// What.
    pub departure: Departure,
}

#[derive(Debug)]
struct InHand {
    epoch: u64,
    start: RunTime,
    phase: RunPhase,
    rest: std::vec::IntoIter<Departure>,
}

impl InHand {
    fn due(&self, departure: &Departure) -> RunTime {
        RunTime(self.start.0.saturating_add(departure.due_ns))
    }
}

/// The batches in hand; none of them is empty.
#[derive(Debug, Default)]
pub struct Queue(VecDeque<InHand>);

impl Queue {
    /// Takes a batch.
    pub fn take(&mut self, batch: Batch) {
        let Batch { epoch, start, phase, departures } = batch;
        if !departures.is_empty() {
            self.0.push_back(InHand { epoch, start, phase, rest: departures.into_iter() });
        }
    }

    /// Stage and due time of the next departure.
    #[must_use]
    pub fn front(&self) -> Option<(u64, RunTime)> {
        let batch = self.0.front()?;
        Some((batch.epoch, batch.due(batch.rest.as_slice().first()?)))
    }

    /// The next departure.
    pub fn pop(&mut self) -> Option<Planned> {
        let batch = self.0.front_mut()?;
        let departure = batch.rest.next()?;
        let planned =
            Planned { epoch: batch.epoch, phase: batch.phase, due: batch.due(&departure), departure };
        if batch.rest.len() == 0 {
            self.0.pop_front();
        }
        Some(planned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{DepartureKind, Instance};

    #[test]
    fn batches_come_apart_in_order() {
        let departure =
            |due_ns| Departure { due_ns, instance: Instance(1), connection: 0, kind: DepartureKind::Close };
        let batch = |epoch, start, dues: &[u64]| Batch {
            epoch,
            start: RunTime(start),
            phase: RunPhase::Measure,
            departures: dues.iter().map(|d| departure(*d)).collect(),
        };
        let mut queue = Queue::default();
        assert!(queue.front().is_none() && queue.pop().is_none());
        queue.take(batch(1, 100, &[1, 2]));
        queue.take(batch(1, 100, &[]));
        queue.take(batch(2, 200, &[7]));
        let mut seen = Vec::new();
        while let Some(front) = queue.front() {
            let planned = queue.pop().unwrap();
            assert_eq!((planned.epoch, planned.due), front);
            seen.push((planned.epoch, planned.due.0));
        }
        assert_eq!(seen, [(1, 101), (1, 102), (2, 207)]);
        assert!(queue.pop().is_none());
    }
}
