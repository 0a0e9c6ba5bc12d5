//! A pool of lanes: the next request takes the first one that is free, a new one while there may be more, or else waits
//! behind the fewest.

use crate::edge::send::lane::Lane;

/// The lanes of one worker's part of a pool.
#[derive(Debug)]
pub struct Pool {
    size: usize,
    /// Those for HTTP/1.1, and those that try HTTP/2.
    lanes: [Vec<Lane>; 2],
}

impl Pool {
    /// A pool of at most `size` lanes; none are opened before they are needed.
    #[must_use]
    pub fn new(size: usize) -> Self {
        Self { size, lanes: [Vec::new(), Vec::new()] }
    }

    /// Lanes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lanes.iter().map(Vec::len).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The lane for the next request; `start` makes a new one. None only where all are
    /// of the other kind, and busy.
    pub fn lane(&mut self, http2: bool, start: impl FnOnce() -> Lane) -> Option<&Lane> {
        let may_grow = self.len() < self.size;
        let lanes = &mut self.lanes[usize::from(http2)];
        // The lowest first: few requests at a time use few connections, as pools do.
        let free = lanes.iter().position(Lane::is_free);
        let index = match free {
            Some(index) => index,
            None if may_grow => {
                lanes.push(start());
                lanes.len() - 1
            }
            None => match lanes.iter().enumerate().min_by_key(|(_, lane)| lane.load()) {
                Some((index, _)) => index,
                // All are of the other kind: an idle one makes room, or this kind would starve for the whole run.
                None => {
                    let other = &mut self.lanes[usize::from(!http2)];
                    let idle = other.iter().rposition(|lane| lane.is_free() && lane.load() == 0)?;
                    drop(other.remove(idle));
                    self.lanes[usize::from(http2)].push(start());
                    0
                }
            },
        };
        self.lanes[usize::from(http2)].get(index)
    }

    /// Closes lanes until `keep` are left.
    pub fn close_to(&mut self, keep: usize) {
        while self.len() > keep {
            let [one, two] = &mut self.lanes;
            if two.pop().is_none() {
                one.pop();
            }
        }
    }
}
