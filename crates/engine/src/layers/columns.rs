//! Sums over all rows (images and positions) of a matrix of rows x channels, in f64.
//!
//! Rows are cut into chunks by their number alone and the chunks' sums are joined in order, so no result depends on threads.

use crate::pool::{Chunks, Pool};

/// Room for the chunks' sums of up to `K` quantities a channel.
pub(crate) struct Columns<const K: usize> {
    partial: Vec<f64>,
    channels: usize,
}

/// At most so many chunks.
const CHUNKS: usize = 32;

impl<const K: usize> Columns<K> {
    /// For matrices of `channels` columns.
    pub fn new(channels: usize) -> Columns<K> {
        Columns { partial: vec![0.0; CHUNKS * K * channels], channels }
    }

    /// Calls `add(rows, sums)` for ranges of rows, with zeroed `sums` (`K` x channels) to add to, and returns the sums over all `rows`.
    ///
    /// `data` (rows x channels, or empty) is handed out in the same pieces for `add` to change.
    pub fn sum(
        &mut self,
        pool: &Pool,
        rows: usize,
        data: &mut [f32],
        add: impl Fn(std::ops::Range<usize>, &mut [f32], &mut [f64]) + Sync,
    ) -> &[f64] {
        let width = K * self.channels;
        let size = rows.div_ceil(CHUNKS).max(16);
        let chunks = rows.div_ceil(size);
        let partial = &mut self.partial[..chunks.max(1) * width];
        partial.fill(0.0);
        let parts = (Chunks::new(&mut *partial, width), Chunks::new(data, size * self.channels));
        pool.each(chunks, parts, |i, (sums, data)| add(i * size..((i + 1) * size).min(rows), data, sums));
        let (total, rest) = partial.split_at_mut(width);
        for chunk in rest.chunks_exact(width) {
            for (total, &sum) in total.iter_mut().zip(chunk) {
                *total += sum;
            }
        }
        total
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        8 * self.partial.len()
    }
}

/// Adds the sum of `rows` (any number x channels) to `sums`.
pub(crate) fn add_rows(rows: &[f32], sums: &mut [f64]) {
    for row in rows.chunks_exact(sums.len()) {
        for (sum, &v) in sums.iter_mut().zip(row) {
            *sum += f64::from(v);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_right_and_do_not_depend_on_threads() {
        let channels = 5;
        for rows in [0, 1, 15, 16, 17, 1000] {
            let data: Vec<f32> = (0..rows * channels).map(|i| (i * 7919 % 101) as f32 / 7.0).collect();
            let mut results = Vec::new();
            for threads in [1, 3] {
                let pool = Pool::new(threads);
                let mut columns = Columns::<1>::new(channels);
                let sums = columns.sum(&pool, rows, &mut [], |range, _, sums| {
                    add_rows(&data[range.start * channels..range.end * channels], sums);
                });
                results.push(sums.to_vec());
            }
            assert_eq!(results[0], results[1]);
            for c in 0..channels {
                let want: f64 = (0..rows).map(|r| f64::from(data[r * channels + c])).sum();
                assert!((results[0][c] - want).abs() < 1e-9 * (1.0 + want));
            }
        }
    }
}
