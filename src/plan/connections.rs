//! Whether connections are the recorded ones or a pool.
//!
//! A user's connection opens, idles and closes with the user, and a balancer sees thousands of them. A pool is what a
//! service in front of another one has: few connections, always open, each carrying whatever comes next.

use std::fmt;

use crate::limits::POOL_MAX;

/// Connections of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Connections {
    /// One for each recorded one, opened and closed when that was.
    #[default]
    Recorded,
    /// At most so many for all requests.
    Pool(u32),
}

impl Connections {
    /// Parses `recorded` or `pool:N`.
    ///
    /// # Errors
    /// A message that names what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let allowed =
            || format!("{text:?} is neither \"recorded\" nor \"pool:N\" with N from 1 to {POOL_MAX}");
        match text.strip_prefix("pool:") {
            None if text == "recorded" => Ok(Self::Recorded),
            None => Err(allowed()),
            Some(n) => {
                let n = n.parse().ok().filter(|n| (1..=POOL_MAX).contains(n));
                n.map(Self::Pool).ok_or_else(allowed)
            }
        }
    }

    /// The part of a pool that one of `workers` workers has; none where there is no pool.
    #[must_use]
    pub fn share_of(self, worker: usize, workers: usize) -> Option<usize> {
        let Self::Pool(n) = self else { return None };
        let (n, workers) = (n as usize, workers.max(1));
        Some(n / workers + usize::from(worker < n % workers))
    }
}

impl fmt::Display for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Recorded => f.write_str("recorded"),
            Self::Pool(n) => write!(f, "pool:{n}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed() {
        use Connections::{Pool, Recorded};
        let table =
            [("recorded", Some(Recorded)), ("pool:1", Some(Pool(1))), ("pool:4096", Some(Pool(4096)))];
        let bad = ["", "pool", "pool:", "pool:0", "pool:-1", "pool:4097", "pool:1x", "Recorded"];
        for (text, want) in table.into_iter().chain(bad.map(|b| (b, None))) {
            assert_eq!(Connections::parse(text).ok(), want, "{text}");
            if let Some(want) = want {
                assert_eq!(want.to_string(), text);
            }
        }
    }

    #[test]
    fn workers_share_a_pool_wholly() {
        for (n, workers) in [(1u32, 1usize), (7, 3), (64, 5), (3, 3)] {
            let parts: Vec<_> =
                (0..workers).filter_map(|w| Connections::Pool(n).share_of(w, workers)).collect();
            assert_eq!(parts.iter().sum::<usize>(), n as usize);
            assert!(parts.iter().max().unwrap() - parts.iter().min().unwrap() <= 1);
        }
        assert_eq!(Connections::Recorded.share_of(0, 1), None);
    }
}
