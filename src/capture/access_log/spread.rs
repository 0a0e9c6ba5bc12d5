//! Spreads stamps that are cut to the second, in the order of the file and never across the second.
//!
//! Uniformly by seed unless another way is asked for: a Poisson process conditioned on its count per second. Measured on
//! real captures this understates bursts within a second (index of dispersion of counts in 10 ms: 1.1 to 1.5 against 2.0).
//! A cascade, with bursts as long as each client's requests, has 1.95 on a real shop's log, by the choice of its gaps: a
//! model, not a measurement. Evenly there are no bursts at all (0.6 to 0.9). All say so in every report.
//! What it refuses to do: leave stamps at the start of their second, which would be a herd that never was.

use super::session::Hash128;
use crate::capture::mix64;
use crate::lookup::Lookup;
use crate::trace::Spreading;
use crate::units::NANOS_PER_SEC;

/// Gaps in a client's run, nanoseconds: sixteenths of a log-normal distribution with a median of 4 ms and a sigma of 1.2,
/// its ends cut at the 200th part. As numbers, because logarithms differ between machines in their last bits.
const GAPS_NS: [u64; 17] = [
    180_000, 630_000, 1_010_000, 1_380_000, 1_780_000, 2_230_000, 2_730_000, 3_310_000, 4_000_000, 4_830_000,
    5_860_000, 7_180_000, 8_990_000, 11_600_000, 15_900_000, 25_200_000, 88_000_000,
];

/// Spreads stamps of one-second resolution.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    seed: u64,
    way: Spreading,
}

impl Spread {
    /// A spread by `seed`.
    #[must_use]
    pub fn new(seed: u64, way: Spreading) -> Self {
        Self { seed, way }
    }

    /// Nanoseconds within `second`, in their order, for the lines of these clients in the order of the file; `round` differs
    /// where a second is spread again, for lines that came late.
    #[must_use]
    pub fn places(&self, second: u64, clients: impl Iterator<Item = Hash128>, round: u64) -> Vec<u64> {
        let seed = self.seed ^ mix64(second ^ round << 40);
        let mut places: Vec<u64> = match self.way {
            Spreading::Uniform => clients.zip(0u64..).map(|(_, i)| mix64(seed ^ i) % NANOS_PER_SEC).collect(),
            Spreading::Even => even(clients.count() as u64),
            Spreading::Cascade => cascade(seed, clients),
        };
        places.sort_unstable();
        places
    }
}

fn even(n: u64) -> Vec<u64> {
    // In the middle of its share, so that a second with one line has it in its middle.
    let place = |i: u64| u128::from(2 * i + 1) * u128::from(NANOS_PER_SEC) / u128::from(2 * n);
    (0..n).map(|i| place(i) as u64).collect()
}

/// For the lines of each client a run of places that begins somewhere in the second and ends within it. Who gets which place
/// is decided by the order of the file.
fn cascade(seed: u64, clients: impl Iterator<Item = Hash128>) -> Vec<u64> {
    // Of each client the gaps in its run, and in front of them its number in the order of appearance.
    let (mut numbers, mut runs): (Lookup<Hash128, usize>, Vec<Vec<u64>>) = (Lookup::default(), Vec::new());
    for (client, i) in clients.zip(0u64..) {
        let next = runs.len();
        let number = *numbers.get_or_insert_with(client, || next);
        match runs.get_mut(number) {
            Some(run) => run.push(gap(mix64(seed ^ i))),
            None => runs.push(Vec::new()),
        }
    }
    let place = |(run, number): (Vec<u64>, u64)| {
        let all: u64 = run.iter().sum();
        // A run that is longer than the second is pressed into it.
        let room = all.min(NANOS_PER_SEC - 1);
        let press = move |ns: u64| (u128::from(ns) * u128::from(room) / u128::from(all.max(1))) as u64;
        let begin = mix64(!seed ^ number) % (NANOS_PER_SEC - room);
        let ends = run.into_iter().scan(0, |at, gap| {
            *at += gap;
            Some(*at)
        });
        std::iter::once(0).chain(ends).map(move |at| begin + press(at))
    };
    runs.into_iter().zip(0u64..).flat_map(place).collect()
}

/// A gap by 64 random bits: one of the sixteenths, and a place in it.
fn gap(random: u64) -> u64 {
    let i = (random & 15) as usize;
    GAPS_NS[i] + (random >> 4) % (GAPS_NS[i + 1] - GAPS_NS[i])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn places(way: Spreading, seed: u64, second: u64, clients: &[u64]) -> Vec<u64> {
        Spread::new(seed, way).places(second, clients.iter().map(|c| (*c, 0)), 0)
    }

    proptest! {
        #[test]
        fn order_and_second_are_kept(second in any::<u32>(), clients in prop::collection::vec(0u64..20, 0..200), seed in any::<u64>()) {
            for way in Spreading::ALL {
                let got = places(way, seed, u64::from(second), &clients);
                prop_assert!(got.len() == clients.len() && got.is_sorted() && got.iter().all(|p| *p < NANOS_PER_SEC));
                prop_assert_eq!(&got, &places(way, seed, u64::from(second), &clients));
            }
        }
    }

    /// Variance over mean of the counts in 10 ms.
    fn dispersion(way: Spreading) -> f64 {
        let (mut counts, mut all) = ([0f64; 100], 0f64);
        let (mut sum, mut squares) = (0.0, 0.0);
        for second in 0..200 {
            // 30 clients, the first of which ask for one thing, the last for eight.
            let clients: Vec<u64> = (0..135).map(|i| mix64(second ^ i) % 30).collect();
            counts.fill(0.0);
            places(way, 1, second, &clients).iter().for_each(|p| counts[(p / 10_000_000) as usize] += 1.0);
            sum += counts.iter().sum::<f64>();
            squares += counts.iter().map(|n| n * n).sum::<f64>();
            all += 100.0;
        }
        let mean = sum / all;
        (squares / all - mean * mean) / mean
    }

    #[test]
    fn each_way_has_its_bursts() {
        let [uniform, even, cascade] = Spreading::ALL.map(dispersion);
        assert!((0.9..1.1).contains(&uniform), "{uniform}");
        assert!(even < 0.5, "{even}");
        assert!((1.6..4.0).contains(&cascade), "{cascade}");
    }

    #[test]
    fn few_lines_and_long_runs() {
        assert_eq!(places(Spreading::Even, 1, 7, &[1]), [500_000_000]);
        assert_eq!(places(Spreading::Even, 1, 7, &[1, 2]), [250_000_000, 750_000_000]);
        let long = places(Spreading::Cascade, 1, 7, &[5; 2_000]);
        assert!(long[0] == 0 && long[1_999] == NANOS_PER_SEC - 1, "pressed into the second");
        assert!(GAPS_NS.is_sorted());
    }
}
