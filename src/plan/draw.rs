//! Fixed hashes and seeded draws: the same on every machine and in every version.
//!
//! Each purpose has its own salt, so that the sessions which one decision favours are not the ones that
//! another favours too.

/// Purpose of a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Salt {
    /// Which sessions get the extra clone of a fractional scale.
    Scale,
    /// Which sessions the share keeps.
    Share,
    /// Which shard sends a session.
    Shard,
    /// Which worker sends a session.
    Worker,
    /// When a clone starts.
    Jitter,
    /// The identity of a clone.
    Instance,
    /// Which session the stationary plan draws.
    Stationary,
    /// Ids of traces and spans.
    Trace,
}

impl Salt {
    fn bits(self) -> u64 {
        match self {
            Self::Scale => 0x51ca_1e00,
            Self::Share => 0x5a8e_0000,
            Self::Shard => 0x5a4d_0000,
            Self::Worker => 0x3042_e400,
            Self::Jitter => 0x1177_e400,
            Self::Instance => 0x1457_a4ce,
            Self::Stationary => 0x57a7_1041,
            Self::Trace => 0x72ac_e1d5,
        }
    }
}

/// SplitMix64's finaliser over key and salt.
#[must_use]
pub fn hash64(key: u64, salt: Salt) -> u64 {
    let mut z = key ^ salt.bits().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number below `n`, evenly from a hash; 0 when `n` is 0.
#[must_use]
pub fn below(hash: u64, n: u64) -> u64 {
    ((u128::from(hash) * u128::from(n)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_frozen_and_even() {
        assert_eq!(hash64(1, Salt::Scale), hash64(1, Salt::Scale));
        assert_ne!(hash64(1, Salt::Scale), hash64(1, Salt::Share));
        for salt in [Salt::Scale, Salt::Share, Salt::Worker] {
            let kept = (0..10_000u64).filter(|k| below(hash64(*k, salt), 1000) < 250).count();
            assert!((2_300..2_700).contains(&kept), "{salt:?}: {kept}");
        }
        assert_eq!(below(u64::MAX, 10), 9);
        assert_eq!(below(5, 0), 0);
    }
}
