//! Seeded random numbers whose values do not change with the version of a library.
//!
//! The split and the order of examples determine the result of a trial, so they must be the same on every machine and after
//! every update. The output of ChaCha is fixed by its specification; a library's shuffles and ranges are not, so they are
//! implemented here.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Most attempts to draw a number that is accepted.
const ATTEMPTS: usize = 100;

/// A random number generator for one purpose and one seed. Different purposes give independent streams.
pub(crate) struct SeededRng(ChaCha8Rng);

impl SeededRng {
    /// The key is the seed (8 bytes, little-endian) followed by the purpose (at most 24 bytes, zero-filled).
    pub(crate) fn new(seed: u64, purpose: &str) -> SeededRng {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..8 + purpose.len()].copy_from_slice(purpose.as_bytes());
        SeededRng(ChaCha8Rng::from_seed(key))
    }

    /// An integer in 0..n by the multiply-shift method. The bias is at most n / 2^64.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.0.next_u64()) * n as u128) >> 64) as usize
    }

    /// A number in [0, 1) of 24 random bits.
    pub(crate) fn unit(&mut self) -> f32 {
        self.below(1 << 24) as f32 / (1 << 24) as f32
    }

    /// A number of the distribution Beta(`shape`, `shape`), for a shape above 0 to 1 (Jöhnk, Metrika 8, 1964).
    pub(crate) fn beta(&mut self, shape: f32) -> f32 {
        // Nearly every draw is accepted for a small shape, half of them for 1.
        for _ in 0..ATTEMPTS {
            let [one, other] = [(); 2].map(|()| f64::from(self.unit()).powf(1.0 / f64::from(shape)));
            let sum = one + other;
            if sum > 0.0 && sum <= 1.0 {
                return (one / sum) as f32;
            }
        }
        1.0
    }

    /// The Fisher-Yates shuffle (Durstenfeld, CACM 7(7), 1964, algorithm 235).
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}
