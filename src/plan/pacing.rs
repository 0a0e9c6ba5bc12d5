//! When a worker wakes: each departure on time, or all that are due within one quantum together.
//!
//! Below saturation wake-ups decide the cost, and their number is the rate or one per quantum, whichever is lower.
//! Whatever is chosen, nothing leaves early, and nothing is later because of it than one quantum.

use std::time::Duration;

use crate::units::{RunTime, parse_duration};

/// Longest quantum: coarser than that is another shape.
const QUANTUM_MAX: Duration = Duration::from_millis(10);

/// How a worker paces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pacing {
    /// Exact while wake-ups are few, a quantum that grows with the rate above that.
    #[default]
    Auto,
    /// Never sleep: a whole core for each worker, and the least error.
    Spin,
    /// At most one wake-up in this time; zero is each departure on its own.
    Every(Duration),
}

/// A duration that may also be microseconds.
fn parse(text: &str) -> Result<Duration, String> {
    match text.strip_suffix("us").map(str::parse) {
        Some(Ok(us)) => Ok(Duration::from_micros(us)),
        Some(Err(_)) | None => parse_duration(text).map_err(|e| e.to_string()),
    }
}

impl Pacing {
    /// Parses `auto`, `spin`, `exact` or a duration such as `100us`.
    ///
    /// # Errors
    /// In words.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "spin" => Ok(Self::Spin),
            "exact" => Ok(Self::Every(Duration::ZERO)),
            other => match parse(other) {
                Ok(d) if d <= QUANTUM_MAX => Ok(Self::Every(d)),
                Ok(_) => Err(format!("{other:?} is above {} ms", QUANTUM_MAX.as_millis())),
                Err(e) => Err(format!("{e}, nor \"auto\", \"spin\" or \"exact\"")),
            },
        }
    }

    /// The quantum at a rate of wake-ups that a worker would have without one.
    #[must_use]
    pub fn quantum(self, departures_per_s: u64) -> Duration {
        match self {
            Self::Every(quantum) => quantum,
            Self::Spin => Duration::ZERO,
            // Measured: a wake-up costs some 20 us on both sides together, so 5,000 a second are a tenth of a core.
            Self::Auto if departures_per_s <= 5_000 => Duration::ZERO,
            Self::Auto if departures_per_s <= 20_000 => Duration::from_micros(200),
            Self::Auto => Duration::from_micros(500),
        }
    }
}

/// The wake-ups of one worker.
#[derive(Debug)]
pub struct Pacer {
    pacing: Pacing,
    last_wake: RunTime,
    /// The second counted now, departures in it, and those of the one before.
    second: (u64, u64, u64),
}

impl Pacer {
    /// A pacer.
    #[must_use]
    pub fn new(pacing: Pacing) -> Self {
        Self { pacing, last_wake: RunTime::START, second: (0, 0, 0) }
    }

    /// Whether the worker never sleeps.
    #[must_use]
    pub fn spins(&self) -> bool {
        self.pacing == Pacing::Spin
    }

    /// The worker woke and sent this many, the first of them due at `first`.
    pub fn woke(&mut self, now: RunTime, first: RunTime, sent: u64) {
        if sent > 0 {
            // The moment it should have woken: were it the moment it did, every wake-up would carry the lateness of all
            // before it. But what is overdue by more than a quantum is not caught up with.
            let (_, count, before) = self.second;
            let quantum = self.pacing.quantum(count.max(before));
            let ideal = self.wake_at(first);
            self.last_wake = if now.since(ideal) > quantum { now } else { ideal.min(now) };
        }
        let second = now.0 / crate::units::NANOS_PER_SEC;
        let (old, count, before) = self.second;
        self.second = if second == old {
            (old, count + sent, before)
        } else {
            (second, sent, if second == old + 1 { count } else { 0 })
        };
    }

    /// When to wake for a departure that is due at `due`.
    #[must_use]
    pub fn wake_at(&self, due: RunTime) -> RunTime {
        let (_, count, before) = self.second;
        due.max(self.last_wake.plus(self.pacing.quantum(count.max(before))))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn us(us: u64) -> RunTime {
        RunTime(us * 1_000)
    }

    #[test]
    fn words_become_quanta() {
        let every = |us| Ok(Pacing::Every(Duration::from_micros(us)));
        assert_eq!(Pacing::parse("exact"), every(0));
        assert_eq!(Pacing::parse("100us"), every(100));
        assert_eq!(Pacing::parse("1ms"), every(1_000));
        assert_eq!((Pacing::parse("auto"), Pacing::parse("spin")), (Ok(Pacing::Auto), Ok(Pacing::Spin)));
        assert!(Pacing::parse("11ms").unwrap_err().contains("10 ms"));
        assert!(Pacing::parse("soon").unwrap_err().contains("exact"));
    }

    #[test]
    fn the_first_after_a_pause_is_on_time_and_the_rest_wait_for_the_quantum() {
        let mut p = Pacer::new(Pacing::Every(Duration::from_micros(1_000)));
        assert_eq!(p.wake_at(us(5_000)), us(5_000));
        p.woke(us(5_003), us(5_000), 1);
        assert_eq!(p.wake_at(us(5_100)), us(6_000), "one quantum after the last was meant to wake");
        assert_eq!(p.wake_at(us(9_000)), us(9_000), "on time again after a pause");
        p.woke(us(7_000), us(5_100), 0);
        assert_eq!(p.wake_at(us(5_100)), us(6_000), "a wake-up that sent nothing delays nothing");
        p.woke(us(9_000), us(5_100), 1);
        assert_eq!(p.wake_at(us(5_200)), us(10_000), "far too late: a quantum from now");
    }

    /// A wake-up is always a little late. Once that lateness was carried on until it was a whole quantum.
    #[test]
    fn the_lateness_of_a_wake_up_is_not_carried_on() {
        let mut p = Pacer::new(Pacing::Every(Duration::from_micros(1_000)));
        for n in 1..1_000 {
            let due = us(n * 1_000);
            assert_eq!(p.wake_at(due), due, "each has a quantum of its own");
            p.woke(due.plus(Duration::from_micros(60)), due, 1);
        }
    }

    #[test]
    fn the_quantum_grows_with_the_rate_and_shrinks_again() {
        let mut p = Pacer::new(Pacing::Auto);
        let at = |s: u64| RunTime(s * 1_000_000_000);
        p.woke(at(1), at(1), 4_000);
        assert_eq!(p.wake_at(at(1)), at(1), "exact");
        p.woke(at(1), at(1), 4_000);
        assert!(p.wake_at(at(1)) > at(1));
        p.woke(at(2), at(2), 1);
        assert!(p.wake_at(at(2)) > at(2), "the last second counts, too");
        p.woke(at(3), at(3), 1);
        assert_eq!(p.wake_at(at(3)), at(3));
    }

    proptest! {
        /// Never early, never later than one quantum, and at most one wake-up in a quantum.
        #[test]
        fn nothing_is_early_and_nothing_later_than_a_quantum(
            mut dues in prop::collection::vec(0u64..200_000, 1..200),
            quantum_us in prop_oneof![Just(0u64), Just(100), Just(1_000)],
        ) {
            dues.sort_unstable();
            let quantum = Duration::from_micros(quantum_us);
            let mut p = Pacer::new(Pacing::Every(quantum));
            let (mut i, mut last) = (0, None);
            while i < dues.len() {
                let wake = p.wake_at(us(dues[i]));
                let sent = dues[i..].iter().take_while(|d| us(**d) <= wake).count();
                prop_assert!(sent > 0);
                for due in &dues[i..i + sent] {
                    prop_assert!(wake.since(us(*due)) <= quantum);
                }
                if let Some(last) = last {
                    prop_assert!(wake.since(last) >= quantum);
                }
                p.woke(wake, us(dues[i]), sent as u64);
                (last, i) = (Some(wake), i + sent);
            }
        }
    }
}
