//! Sums over all rows (images and positions) of a matrix of rows x channels.
//!
//! Rows are cut into chunks by their number alone and the chunks' sums are joined in order, so no result depends on
//! threads. Within a chunk, sums over a few rows are made in f32 and joined in f64.

use crate::pool::{Chunks, Pool};
use crate::simd::vectorised;

/// Room for the chunks' sums of up to `K` quantities a channel.
pub(crate) struct Columns<const K: usize> {
    partial: Vec<f64>,
    channels: usize,
}

/// At most so many chunks.
const CHUNKS: usize = 32;

/// Rows whose sum is made in f32.
const RUN: usize = 32;

/// What is added to the sums of a row: `K` quantities for `G` neighbouring channels.
pub(crate) trait Terms<const K: usize>: Sync {
    /// Adds the terms of the channels from `first` on in the row (of the whole matrix) `row` to `sums`.
    ///
    /// `data` are these channels in this row of the matrix that [`Columns::sum`] was given to change (empty without one).
    fn add<const G: usize>(&self, row: usize, first: usize, data: &mut [f32], sums: &mut [[f32; G]; K]);
}

/// `G` elements from `at` on.
#[inline(always)]
pub(crate) fn group<const G: usize>(data: &[f32], at: usize) -> &[f32; G] {
    data[at..at + G].try_into().expect("a range of that length")
}

impl<const K: usize> Columns<K> {
    /// For matrices of `channels` columns.
    pub fn new(channels: usize) -> Columns<K> {
        Columns { partial: vec![0.0; CHUNKS * K * channels], channels }
    }

    /// The sums of `terms` over all `rows`, `K` x channels. `data` is a matrix of rows x channels that they may change, or empty.
    pub fn sum(&mut self, pool: &Pool, rows: usize, data: &mut [f32], terms: &impl Terms<K>) -> &[f64] {
        let channels = self.channels;
        let width = K * channels;
        let size = rows.div_ceil(CHUNKS).max(RUN);
        let chunks = rows.div_ceil(size);
        let partial = &mut self.partial[..chunks.max(1) * width];
        partial.fill(0.0);
        let parts = (Chunks::new(&mut *partial, width), Chunks::new(data, size * channels));
        pool.each(chunks, parts, |i, (sums, data)| {
            vectorised(
                #[inline(always)]
                || add_chunk(i * size..((i + 1) * size).min(rows), channels, data, sums, terms),
            );
        });
        let (total, rest) = partial.split_at_mut(width);
        for chunk in rest.chunks_exact(width) {
            for (total, &sum) in total.iter_mut().zip(chunk) {
                *total += sum;
            }
        }
        total
    }

    /// What [`Columns::sum`] returned last.
    pub fn last(&self) -> &[f64] {
        &self.partial[..K * self.channels]
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        8 * self.partial.len()
    }
}

#[inline(always)]
fn add_chunk<const K: usize>(
    rows: std::ops::Range<usize>,
    channels: usize,
    data: &mut [f32],
    sums: &mut [f64],
    terms: &impl Terms<K>,
) {
    let mut start = rows.start;
    while start < rows.end {
        let end = (start + RUN).min(rows.end);
        let data = if data.is_empty() { &mut [][..] } else { &mut data[(start - rows.start) * channels..] };
        let mut at = 0;
        while at + 32 <= channels {
            add_run::<K, 32>(start..end, at, channels, data, sums, terms);
            at += 32;
        }
        while at + 16 <= channels {
            add_run::<K, 16>(start..end, at, channels, data, sums, terms);
            at += 16;
        }
        while at + 8 <= channels {
            add_run::<K, 8>(start..end, at, channels, data, sums, terms);
            at += 8;
        }
        while at < channels {
            add_run::<K, 1>(start..end, at, channels, data, sums, terms);
            at += 1;
        }
        start = end;
    }
}

#[inline(always)]
fn add_run<const K: usize, const G: usize>(
    rows: std::ops::Range<usize>,
    at: usize,
    channels: usize,
    data: &mut [f32],
    sums: &mut [f64],
    terms: &impl Terms<K>,
) {
    let mut run = [[0f32; G]; K];
    let start = rows.start;
    for row in rows {
        let own = if data.is_empty() { &mut [][..] } else { &mut data[(row - start) * channels + at..][..G] };
        terms.add::<G>(row, at, own, &mut run);
    }
    for (k, run) in run.iter().enumerate() {
        for (sum, &v) in sums[k * channels + at..][..G].iter_mut().zip(run) {
            *sum += f64::from(v);
        }
    }
}

/// The sum of the matrix itself.
pub(crate) struct Plain<'a> {
    /// Rows x channels.
    pub data: &'a [f32],
    /// Channels.
    pub channels: usize,
}

impl Terms<1> for Plain<'_> {
    #[inline(always)]
    fn add<const G: usize>(&self, row: usize, first: usize, _: &mut [f32], [sum]: &mut [[f32; G]; 1]) {
        let x = group::<G>(self.data, row * self.channels + first);
        for c in 0..G {
            sum[c] += x[c];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_right_and_do_not_depend_on_threads() {
        for channels in [1, 5, 8, 47, 64] {
            for rows in [0, 1, 31, 32, 33, 3000] {
                let data: Vec<f32> = (0..rows * channels).map(|i| (i * 7919 % 101) as f32 / 7.0).collect();
                let mut results = Vec::new();
                for threads in [1, 3] {
                    let pool = Pool::new(threads);
                    let mut columns = Columns::<1>::new(channels);
                    let sums = columns.sum(&pool, rows, &mut [], &Plain { data: &data, channels });
                    results.push(sums.to_vec());
                }
                assert_eq!(results[0], results[1]);
                for c in 0..channels {
                    let want: f64 = (0..rows).map(|r| f64::from(data[r * channels + c])).sum();
                    assert!((results[0][c] - want).abs() < 1e-6 * (1.0 + want));
                }
            }
        }
    }
}
