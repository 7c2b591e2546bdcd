//! Seeded draws whose values never change with a library's version.
//!
//! A split or an order of examples is part of what determines a trial, so it must be the same on every
//! machine and after every update. ChaCha's output is fixed by its specification; the library shuffles and
//! ranges on top of it are not, hence the few lines here.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A stream of numbers for one purpose of one seed; streams of different purposes are independent.
pub(crate) struct Draws(ChaCha8Rng);

impl Draws {
    /// The key is the seed (8 bytes, little-endian) followed by the purpose (at most 24 bytes, zero-filled).
    pub(crate) fn new(seed: u64, purpose: &str) -> Draws {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..8 + purpose.len()].copy_from_slice(purpose.as_bytes());
        Draws(ChaCha8Rng::from_seed(key))
    }

    /// An integer in 0..n by the multiply-shift method; its bias, n / 2^64, is far below anything measurable.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.0.next_u64()) * n as u128) >> 64) as usize
    }

    /// Fisher and Yates' shuffle (Durstenfeld, CACM 7(7), 1964, algorithm 235).
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}
