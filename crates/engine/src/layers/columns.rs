//! Sums over all rows (images and positions) of a matrix of rows x channels.
//!
//! Rows are cut into chunks by their number alone and the chunks' sums are joined in order, so no result depends on
//! threads. Within a chunk, sums over a few rows are made in f32 and joined in f64.

use nettriage_kernels::pool::{Chunks, Pool};
use nettriage_kernels::simd::{Simd, Task, dispatch, prefetch_l2};

/// Room for the chunks' sums of up to `K` quantities a channel.
pub(crate) struct Columns<const K: usize> {
    partial: Vec<f64>,
    channels: usize,
}

/// At most so many chunks.
const CHUNKS: usize = 32;

/// Rows whose sum is made in f32.
const RUN: usize = 32;

/// What is added to the sums of a row: `K` quantities a channel.
pub(crate) trait Terms<const K: usize>: Sync {
    /// Panics unless all that [`Terms::add`] reads is there for `rows` rows of `channels` channels.
    fn check(&self, rows: usize, channels: usize);

    /// Adds the terms of some channels in the row (of the whole matrix) `row` to `sums`.
    ///
    /// `data` are these channels in this row of the matrix that [`Columns::sum`] was given to change (null without one).
    ///
    /// # Safety
    /// As [`Simd`]; [`Terms::check`] has passed for the row and the channels, and `data` may be written for these.
    unsafe fn add<S: Simd>(&self, row: usize, channels: Span, data: *mut f32, sums: &mut [S::V; K]);
}

/// Neighbouring channels, at most a vector of them.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    /// The first.
    pub first: usize,
    /// How many.
    pub count: usize,
}

impl Span {
    /// The elements of `data` at these channels in a row that starts at `start`.
    ///
    /// # Safety
    /// As [`Simd`]; the row is in `data`: a check here would take as long as the work.
    #[inline(always)]
    pub unsafe fn load<S: Simd>(self, data: &[f32], start: usize) -> S::V {
        let from = start + self.first;
        debug_assert!(from + self.count <= data.len());
        unsafe { S::load_up_to(data.as_ptr().add(from), self.count) }
    }

    /// As [`Span::load`], from a large tensor that is read from front to back.
    ///
    /// # Safety
    /// As [`Span::load`].
    #[inline(always)]
    pub unsafe fn stream<S: Simd>(self, data: &[f32], start: usize) -> S::V {
        prefetch_l2(data.as_ptr().wrapping_add(start + self.first + AHEAD));
        unsafe { self.load::<S>(data, start) }
    }
}

/// Floats between what is read of a large tensor and what is asked for meanwhile: sixteen kilobytes.
pub(crate) const AHEAD: usize = 4096;

/// The channels in spans, whole vectors as long as there are.
#[inline(always)]
pub(crate) fn spans<S: Simd>(channels: usize) -> impl Iterator<Item = Span> {
    (0..channels).step_by(S::LANES).map(move |first| Span { first, count: S::LANES.min(channels - first) })
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
            dispatch(Chunk { rows: i * size..((i + 1) * size).min(rows), channels, data, sums, terms });
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

/// The sums of the rows `rows`.
struct Chunk<'a, T, const K: usize> {
    rows: std::ops::Range<usize>,
    channels: usize,
    data: &'a mut [f32],
    sums: &'a mut [f64],
    terms: &'a T,
}

impl<T: Terms<K>, const K: usize> Task for Chunk<'_, T, K> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Chunk { rows, channels, data, sums, terms } = self;
        assert!(data.is_empty() || data.len() >= rows.len() * channels);
        terms.check(rows.end, channels);
        for start in rows.clone().step_by(RUN) {
            for span in spans::<S>(channels) {
                // SAFETY: by the caller, and just checked.
                unsafe {
                    let mut run = [S::zero(); K];
                    for row in start..rows.end.min(start + RUN) {
                        let own = match data.is_empty() {
                            true => std::ptr::null_mut(),
                            false => data.as_mut_ptr().add((row - rows.start) * channels + span.first),
                        };
                        terms.add::<S>(row, span, own, &mut run);
                    }
                    for (k, run) in run.into_iter().enumerate() {
                        let mut values = [0f32; 16];
                        S::store(values.as_mut_ptr(), run);
                        let sums = &mut sums[k * channels + span.first..][..span.count];
                        sums.iter_mut().zip(values).for_each(|(sum, v)| *sum += f64::from(v));
                    }
                }
            }
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
    fn check(&self, rows: usize, channels: usize) {
        assert!(channels == self.channels && self.data.len() >= rows * channels);
    }

    #[inline(always)]
    unsafe fn add<S: Simd>(&self, row: usize, at: Span, _: *mut f32, [sum]: &mut [S::V; 1]) {
        unsafe { *sum = S::add(*sum, at.stream::<S>(self.data, row * self.channels)) }
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
