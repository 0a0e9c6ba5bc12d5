//! A service with a knee: a capacity, a bounded queue, a time-out. Users and our traffic share it alike.

use crate::plan::draw::{Salt, hash64};

/// A service. One step is one tick of the governor.
#[derive(Debug, Clone)]
pub struct Plant {
    /// Requests a second that it carries.
    pub capacity_rps: f64,
    /// Time of one request without a queue, seconds.
    pub service_s: f64,
    /// Longest wait before a request fails, seconds.
    pub timeout_s: f64,
    queue: f64,
}

/// What one step of the plant gave, in requests of both kinds together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Served {
    /// Answered in time.
    pub ok: f64,
    /// Failed: the queue was longer than the time-out.
    pub failed: f64,
    /// Time of an answer now, seconds.
    pub latency_s: f64,
    /// Waiting.
    pub queue: f64,
}

impl Plant {
    /// An idle plant.
    #[must_use]
    pub fn new(capacity_rps: f64, service_s: f64, timeout_s: f64) -> Self {
        Self { capacity_rps, service_s, timeout_s, queue: 0.0 }
    }

    /// `arrivals` requests come within `dt_s` seconds.
    pub fn step(&mut self, arrivals: f64, dt_s: f64) -> Served {
        self.queue += arrivals;
        let ok = self.queue.min(self.capacity_rps * dt_s);
        self.queue -= ok;
        let longest = self.capacity_rps * (self.timeout_s - self.service_s).max(0.0);
        let failed = (self.queue - longest).max(0.0);
        self.queue -= failed;
        let latency_s = self.service_s + self.queue / self.capacity_rps.max(1e-9);
        Served { ok, failed, latency_s, queue: self.queue }
    }

    /// From now on it carries this much.
    pub fn set_capacity(&mut self, rps: f64) {
        self.capacity_rps = rps;
    }
}

/// Chance by seed: a counter and a fixed hash, nothing else.
#[derive(Debug, Clone)]
pub struct Chance {
    seed: u64,
    drawn: u64,
}

impl Chance {
    /// The same seed, the same chance.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, drawn: 0 }
    }

    /// Uniform in (0, 1).
    pub fn uniform(&mut self) -> f64 {
        self.drawn += 1;
        let bits = hash64(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.drawn, Salt::Jitter);
        ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// A count of mean `mean`: Poisson by sums of exponentials when small, by the normal curve when large.
    pub fn poisson(&mut self, mean: f64) -> f64 {
        if mean <= 0.0 {
            return 0.0;
        }
        if mean > 30.0 {
            let (a, b) = (self.uniform(), self.uniform());
            let normal = (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos();
            return (mean + mean.sqrt() * normal).round().max(0.0);
        }
        let (mut sum, mut n) = (0.0, 0.0);
        loop {
            sum -= self.uniform().ln();
            if sum > mean {
                return n;
            }
            n += 1.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_knee_is_where_it_was_built() {
        let mut plant = Plant::new(100.0, 0.02, 1.0);
        let below = (0..100).map(|_| plant.step(9.0, 0.1)).last().unwrap();
        assert!(below.failed == 0.0 && below.latency_s < 0.03, "{below:?}");
        let above: Vec<Served> = (0..100).map(|_| plant.step(15.0, 0.1)).collect();
        let last = above.last().unwrap();
        assert!((last.failed - 5.0).abs() < 1e-6 && last.latency_s > 0.9, "{last:?}");
    }

    #[test]
    fn chance_has_its_mean_and_its_seed() {
        for mean in [0.5, 5.0, 80.0] {
            let mut chance = Chance::new(7);
            let sum: f64 = (0..20_000).map(|_| chance.poisson(mean)).sum();
            assert!((sum / 20_000.0 - mean).abs() < mean * 0.03, "{mean}: {}", sum / 20_000.0);
        }
        assert_eq!(Chance::new(3).uniform().to_bits(), Chance::new(3).uniform().to_bits());
    }
}
