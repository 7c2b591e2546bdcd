//! Sums per channel, over all rows of a matrix of rows x channels.
//!
//! Rows are divided into chunks by their number alone, and the sums of the chunks are added in order, so no result depends on
//! the number of threads. Within a chunk, a few rows at a time are summed in f32 and those sums added in f64.

use nettriage_kernels::pool::{Chunks, Pool};
use nettriage_kernels::simd::{Simd, Task, dispatch, prefetch_l2};

/// Computes up to `K` sums per channel.
pub(super) struct ChannelReduction<const K: usize> {
    /// The chunks' sums.
    partial: Vec<f64>,
    channels: usize,
}

/// The largest number of chunks.
const CHUNKS: usize = 32;

/// Rows that are summed in f32.
const F32_ROWS: usize = 32;

/// What is summed: `K` terms per row and channel.
pub(super) trait Summand<const K: usize>: Sync {
    /// Panics unless [`Summand::add`] can read everything it needs for `rows` rows of `channels` channels.
    fn check(&self, rows: usize, channels: usize);

    /// Adds the terms of the channels `span` of row `row` to `sums`.
    ///
    /// `data` points to these channels in this row of the matrix that [`ChannelReduction::sum`] may change (null without one).
    ///
    /// # Safety
    /// As [`Simd`]; [`Summand::check`] has passed for the row and the channels, and `data` is writable for them.
    unsafe fn add<S: Simd>(&self, row: usize, span: ChannelSpan, data: *mut f32, sums: &mut [S::V; K]);
}

/// Consecutive channels, at most one vector of them.
#[derive(Clone, Copy)]
pub(super) struct ChannelSpan {
    /// The first channel.
    pub first: usize,
    /// The number of channels.
    pub count: usize,
}

impl ChannelSpan {
    /// The elements of `data` at these channels, in the row that starts at `start`.
    ///
    /// # Safety
    /// As [`Simd`]; the row must be in `data`, which is not checked: a check would take as long as the work.
    #[inline(always)]
    pub unsafe fn load<S: Simd>(self, data: &[f32], start: usize) -> S::V {
        let from = start + self.first;
        debug_assert!(from + self.count <= data.len());
        unsafe { S::load_up_to(data.as_ptr().add(from), self.count) }
    }

    /// As [`ChannelSpan::load`], for a large tensor that is read sequentially: also prefetches what comes later.
    ///
    /// # Safety
    /// As [`ChannelSpan::load`].
    #[inline(always)]
    pub unsafe fn load_sequential<S: Simd>(self, data: &[f32], start: usize) -> S::V {
        prefetch_l2(data.as_ptr().wrapping_add(start + self.first + PREFETCH_DISTANCE));
        unsafe { self.load::<S>(data, start) }
    }
}

/// Floats between what is read of a large tensor and what is prefetched: 16 KiB.
pub(super) const PREFETCH_DISTANCE: usize = 4096;

/// All channels, one vector at a time; the last span may be shorter.
#[inline(always)]
pub(super) fn channel_spans<S: Simd>(channels: usize) -> impl Iterator<Item = ChannelSpan> {
    (0..channels).step_by(S::LANES).map(move |first| ChannelSpan { first, count: S::LANES.min(channels - first) })
}

impl<const K: usize> ChannelReduction<K> {
    /// For matrices of `channels` columns.
    pub fn new(channels: usize) -> ChannelReduction<K> {
        ChannelReduction { partial: vec![0.0; CHUNKS * K * channels], channels }
    }

    /// The sums of `summand` over `rows` rows, K x channels. `data` is a matrix of rows x channels that the summand may change,
    /// or empty.
    pub fn sum(&mut self, pool: &Pool, rows: usize, data: &mut [f32], summand: &impl Summand<K>) -> &[f64] {
        let channels = self.channels;
        let width = K * channels;
        let size = rows.div_ceil(CHUNKS).max(F32_ROWS);
        let chunks = rows.div_ceil(size);
        let partial = &mut self.partial[..chunks.max(1) * width];
        partial.fill(0.0);
        let parts = (Chunks::new(&mut *partial, width), Chunks::new(data, size * channels));
        pool.each(chunks, parts, |i, (sums, data)| {
            dispatch(SumRows { rows: i * size..((i + 1) * size).min(rows), channels, data, sums, summand });
        });
        let (total, rest) = partial.split_at_mut(width);
        for chunk in rest.chunks_exact(width) {
            for (total, &sum) in total.iter_mut().zip(chunk) {
                *total += sum;
            }
        }
        total
    }

    /// The result of the last [`ChannelReduction::sum`].
    pub fn last(&self) -> &[f64] {
        &self.partial[..K * self.channels]
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        size_of::<f64>() * self.partial.len()
    }
}

/// The sums over the rows of one chunk.
struct SumRows<'a, T, const K: usize> {
    rows: std::ops::Range<usize>,
    channels: usize,
    data: &'a mut [f32],
    sums: &'a mut [f64],
    summand: &'a T,
}

impl<T: Summand<K>, const K: usize> Task for SumRows<'_, T, K> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let SumRows { rows, channels, data, sums, summand } = self;
        assert!(data.is_empty() || data.len() >= rows.len() * channels);
        summand.check(rows.end, channels);
        for start in rows.clone().step_by(F32_ROWS) {
            for span in channel_spans::<S>(channels) {
                // SAFETY: by the caller, and checked above.
                unsafe {
                    let mut partial = [S::zero(); K];
                    for row in start..rows.end.min(start + F32_ROWS) {
                        let own = match data.is_empty() {
                            true => std::ptr::null_mut(),
                            false => data.as_mut_ptr().add((row - rows.start) * channels + span.first),
                        };
                        summand.add::<S>(row, span, own, &mut partial);
                    }
                    for (k, partial) in partial.into_iter().enumerate() {
                        let mut values = [0f32; 16];
                        S::store(values.as_mut_ptr(), partial);
                        let sums = &mut sums[k * channels + span.first..][..span.count];
                        sums.iter_mut().zip(values).for_each(|(sum, v)| *sum += f64::from(v));
                    }
                }
            }
        }
    }
}

/// The elements of a matrix of rows x channels.
pub(super) struct Elements<'a> {
    pub data: &'a [f32],
    pub channels: usize,
}

impl Summand<1> for Elements<'_> {
    fn check(&self, rows: usize, channels: usize) {
        assert!(channels == self.channels && self.data.len() >= rows * channels);
    }

    #[inline(always)]
    unsafe fn add<S: Simd>(&self, row: usize, span: ChannelSpan, _: *mut f32, [sum]: &mut [S::V; 1]) {
        unsafe { *sum = S::add(*sum, span.load_sequential::<S>(self.data, row * self.channels)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_match_f64_sums_and_are_independent_of_the_number_of_threads() {
        for channels in [1, 5, 8, 47, 64] {
            for rows in [0, 1, 31, 32, 33, 3000] {
                let data: Vec<f32> = (0..rows * channels).map(|i| (i * 7919 % 101) as f32 / 7.0).collect();
                let mut results = Vec::new();
                for threads in [1, 3] {
                    let pool = Pool::new(threads);
                    let mut reduction = ChannelReduction::<1>::new(channels);
                    let sums = reduction.sum(&pool, rows, &mut [], &Elements { data: &data, channels });
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
