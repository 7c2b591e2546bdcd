//! GEMM micro-kernels: an `M` x `N` vectors tile of C is accumulated in registers, C (+)= A B.
//!
//! Each accumulator is one chain of fused multiply-adds in the order of k, whatever the extent of the tile, so the bits of an
//! element do not depend on the tile in which it is computed.

#![allow(clippy::needless_range_loop)] // Indices over small constants unroll; iterators over vectors do not always inline.

use super::{CACHE_LINE, Epilogue, ReluMask, Simd, Strides, prefetch_l1, prefetch_l2};

/// Rows of the largest register tile of any instruction set.
pub(crate) const MAX_ROWS: usize = 12;

/// Memory ranges to prefetch into L2 during a GEMM, a few cache lines per register tile: main memory would be idle
/// otherwise, and the code after the GEMM would wait for it.
pub(crate) struct PrefetchQueue {
    /// Ranges as first float and number of cache lines, the next one last.
    ranges: [(*const f32, usize); 3],
    /// How many ranges are left.
    left: usize,
    /// Cache lines per register tile.
    lines_per_tile: usize,
}

impl PrefetchQueue {
    /// An empty queue.
    pub const fn new() -> PrefetchQueue {
        PrefetchQueue { ranges: [(std::ptr::null(), 0); 3], left: 0, lines_per_tile: 0 }
    }

    /// Adds `floats` floats from `first` on, to be prefetched before those added earlier.
    pub fn push(&mut self, first: *const f32, floats: usize) {
        if floats > 0 {
            self.ranges[self.left] = (first, floats.div_ceil(CACHE_LINE));
            self.left += 1;
        }
    }

    /// Spreads the queue evenly over `tiles` register tiles. A tile prefetches from one range only.
    pub fn spread_over(&mut self, tiles: usize) {
        let lines: usize = self.ranges[..self.left].iter().map(|range| range.1).sum();
        self.lines_per_tile = lines.div_ceil((tiles + 1).saturating_sub(self.left).max(1));
    }

    /// Takes one tile's lines, for `steps` steps of its loop: the first address, and the lines per step (none if there are
    /// no steps).
    #[inline(always)]
    fn take(&mut self, steps: usize) -> (*const f32, usize) {
        if self.left == 0 || steps == 0 {
            return (std::ptr::null(), 0);
        }
        let (at, lines) = &mut self.ranges[self.left - 1];
        let first = *at;
        // A 32-bit division takes half the time of a 64-bit one.
        let per_step = (self.lines_per_tile.min(*lines) as u32).div_ceil(steps as u32) as usize;
        let count = (per_step * steps).min(*lines);
        *at = at.wrapping_add(count * CACHE_LINE);
        *lines -= count;
        if *lines == 0 {
            self.left -= 1;
        }
        (first, per_step)
    }
}

/// Prefetches `lines` cache lines from `at` on into L2, and returns the address after them.
#[inline(always)]
fn prefetch_lines(at: *const f32, lines: usize) -> *const f32 {
    let mut at = at;
    for _ in 0..lines {
        prefetch_l2(at);
        at = at.wrapping_add(CACHE_LINE);
    }
    at
}

/// `c[m][..] (+)= sum over segments s and k of a[m][segment s + k step] * b[s, k][..]`, with the rows of A and C given by
/// pointers: the inner loop of an indirect convolution (Dukhan, arXiv:1907.02129).
///
/// A row of A consists of segments at the same offsets from each row's pointer; B is one or two vectors wide.
pub(crate) struct IndirectGemm<'a> {
    /// First element of each row of A.
    pub a: [*const f32; MAX_ROWS],
    /// First element of each row of C.
    pub c: [*mut f32; MAX_ROWS],
    /// Offsets of the segments from each row's pointer.
    pub segments: *const isize,
    /// How many segments.
    pub count: usize,
    /// Elements of a segment.
    pub k: usize,
    /// Stride of the elements of a segment.
    pub a_step: usize,
    /// One or two vectors for every k of every segment.
    pub b: *const f32,
    /// Stride of the rows of B; the panel's width if it is packed.
    pub b_step: usize,
    /// Whether the product is added to C.
    pub accumulate: bool,
    /// Columns of C that exist, at most the panel's width.
    pub columns: usize,
    /// Applied to the accumulators, with channel 0 at the first column.
    pub epilogue: Epilogue<'a>,
    /// Applied to C last.
    pub mask: Option<ReluMask<'a>>,
}

/// The micro-kernel of an [`IndirectGemm`] for one tile extent.
pub(crate) type IndirectGemmFn = unsafe fn(&IndirectGemm);

/// [`IndirectGemm`] with `M` rows and `N` vectors.
#[inline(always)]
pub(super) unsafe fn indirect_gemm<S: Simd, const M: usize, const N: usize>(t: &IndirectGemm) {
    unsafe {
        let mut acc = [[S::zero(); M]; N];
        if t.accumulate {
            for v in 0..N {
                let count = t.columns.saturating_sub(v * S::LANES);
                for m in 0..M {
                    acc[v][m] = S::load_up_to(t.c[m].wrapping_add(v * S::LANES), count);
                }
            }
        }
        let mut b = t.b;
        for s in 0..t.count {
            let offset = *t.segments.add(s);
            let mut a = [std::ptr::null(); M];
            for m in 0..M {
                a[m] = t.a[m].wrapping_offset(offset);
            }
            let mut at = 0;
            for _ in 0..t.k {
                let mut bv = [S::zero(); N];
                for v in 0..N {
                    bv[v] = S::load(b.add(v * S::LANES));
                }
                b = b.wrapping_add(t.b_step);
                for m in 0..M {
                    let av = S::splat(*a[m].add(at));
                    for v in 0..N {
                        acc[v][m] = S::fma(av, bv[v], acc[v][m]);
                    }
                }
                at += t.a_step;
            }
        }
        for v in 0..N {
            let count = t.columns.saturating_sub(v * S::LANES);
            let c = t.epilogue.apply::<S, M>(acc[v], v * S::LANES, count);
            for m in 0..M {
                S::store_up_to(t.c[m].wrapping_add(v * S::LANES), c[m], count);
            }
        }
        // In a second pass over the stored tile: a branch here would keep the accumulators on the stack throughout.
        if let Some(mask) = &t.mask {
            for m in 0..M {
                for v in 0..N {
                    let count = t.columns.saturating_sub(v * S::LANES);
                    let to = t.c[m].wrapping_add(v * S::LANES);
                    mask.store::<S>(to, S::load_up_to(to, count), count);
                }
            }
        }
    }
}

/// The accumulators after the rank-1 update by column `k` of A and row `k` of the panel `b`. `at` holds the addresses of rows 0
/// and 6 of A; the stride of the rows is `STEP`, or `rows` if that is 0.
#[inline(always)]
unsafe fn rank1_update<S: Simd, const M: usize, const N: usize, const STEP: usize>(
    acc: [[S::V; M]; N],
    rows: &Strides,
    at: [*const f32; 2],
    b: *const f32,
    k: usize,
) -> [[S::V; M]; N] {
    unsafe {
        let mut acc = acc;
        let mut bv = [S::zero(); N];
        for v in 0..N {
            bv[v] = S::load(b.add((k * N + v) * S::LANES));
        }
        for m in 0..M {
            let av = match STEP {
                0 => rows.at(at[m / 6].cast_mut(), m % 6),
                _ => at[0].wrapping_add(m * STEP).cast_mut(),
            };
            let av = S::splat(*av.add(k));
            for v in 0..N {
                acc[v][m] = S::fma(av, bv[v], acc[v][m]);
            }
        }
        acc
    }
}

/// `c[m][..] = sum over segments s and k of a[m][segment s + k] * b[s, k][..]` for rows of constant stride: the pixels of a 1x1
/// convolution, and neighbouring pixels of an image with few channels, where setting up the pointers of an [`IndirectGemm`] would
/// take as long as the product.
pub(crate) struct StridedGemm<'a> {
    /// First element of the first row of A.
    pub a: *const f32,
    /// Stride of the rows of A.
    pub a_step: usize,
    /// First element of the first row of C.
    pub c: *mut f32,
    /// Stride of the rows of C.
    pub c_step: usize,
    /// Offsets of the segments from the start of each row.
    pub segments: *const isize,
    /// How many segments.
    pub count: usize,
    /// Elements of a segment, which are contiguous.
    pub k: usize,
    /// The packed panel of B.
    pub b: *const f32,
    /// Columns of C that exist, at most the panel's width.
    pub columns: usize,
    /// Applied to the accumulators, with channel 0 at the first column.
    pub epilogue: Epilogue<'a>,
}

/// The micro-kernel of a [`StridedGemm`] for one tile extent.
pub(crate) type StridedGemmFn = unsafe fn(&StridedGemm);

/// [`StridedGemm`] with `M` rows and `N` vectors.
#[inline(always)]
pub(super) unsafe fn strided_gemm<S: Simd, const M: usize, const N: usize>(t: &StridedGemm) {
    unsafe {
        let mut acc = [[S::zero(); M]; N];
        let (rows, mut b) = (Strides::new(t.a_step), t.b);
        for s in 0..t.count {
            let a = t.a.wrapping_offset(*t.segments.add(s));
            let mut at = [a, a.wrapping_add(6 * t.a_step)];
            for _ in 0..t.k / UNROLL {
                for k in 0..UNROLL {
                    acc = rank1_update::<S, M, N, 0>(acc, &rows, at, b, k);
                }
                at = at.map(|at| at.wrapping_add(UNROLL));
                b = b.wrapping_add(UNROLL * N * S::LANES);
            }
            for _ in 0..t.k % UNROLL {
                acc = rank1_update::<S, M, N, 0>(acc, &rows, at, b, 0);
                at = at.map(|at| at.wrapping_add(1));
                b = b.wrapping_add(N * S::LANES);
            }
        }
        for v in 0..N {
            let count = t.columns.saturating_sub(v * S::LANES);
            let c = t.epilogue.apply::<S, M>(acc[v], v * S::LANES, count);
            for m in 0..M {
                S::store_up_to(t.c.wrapping_add(m * t.c_step + v * S::LANES), c[m], count);
            }
        }
    }
}

/// A batch of GEMMs, one per plane: `c[m][..] (+)= sum over k of a[m][k] * b[k][..]` for several register tiles of rows of
/// constant stride, in one call.
///
/// C's planes may overlap A's by one plane: C's plane i + 1 is written only after A's plane i has been read completely.
pub(crate) struct BatchedGemm {
    /// First element of A, whose rows are contiguous.
    pub a: *const f32,
    /// Stride of the rows of A.
    pub a_step: usize,
    /// The packed panel of B, one or two vectors wide.
    pub b: *const f32,
    /// First element of C.
    pub c: *mut f32,
    /// Stride of the rows of C.
    pub c_step: usize,
    /// Elements of a row of A.
    pub k: usize,
    /// Whether the products are added to C.
    pub accumulate: bool,
    /// How many register tiles follow each other.
    pub tiles: usize,
    /// How many planes.
    pub planes: usize,
    /// Strides of the planes of A, B and C.
    pub plane_strides: [usize; 3],
    /// What to prefetch meanwhile, or null; not shared between threads.
    pub prefetch: *mut PrefetchQueue,
}

/// The micro-kernel of a [`BatchedGemm`] for one tile extent.
pub(crate) type BatchedGemmFn = unsafe fn(&BatchedGemm);

/// Steps of k per update of the addresses: integer additions compete with multiply-adds for issue slots.
const UNROLL: usize = 4;

/// [`BatchedGemm`] with `M` rows and `N` vectors.
#[inline(always)]
pub(super) unsafe fn batched_gemm<S: Simd, const M: usize, const N: usize>(t: &BatchedGemm) {
    unsafe {
        // With one vector per row, every multiply-add of AVX-512 broadcasts its operand from memory. With an index register in
        // its address it decodes to two micro-operations on Intel's processors; a constant stride needs no index.
        match t.a_step {
            16 if N == 1 && S::LANES == 16 => batched_gemm_of_stride::<S, M, N, 16>(t),
            32 if N == 1 && S::LANES == 16 => batched_gemm_of_stride::<S, M, N, 32>(t),
            _ => batched_gemm_of_stride::<S, M, N, 0>(t),
        }
    }
}

/// [`batched_gemm`] where the rows of A have the stride `STEP`, or any if that is 0.
#[inline(always)]
unsafe fn batched_gemm_of_stride<S: Simd, const M: usize, const N: usize, const STEP: usize>(t: &BatchedGemm) {
    unsafe {
        let rows = Strides::new(t.a_step);
        for plane in 0..t.planes {
            let (mut a, panel) =
                (t.a.wrapping_add(plane * t.plane_strides[0]), t.b.wrapping_add(plane * t.plane_strides[1]));
            let mut c = t.c.wrapping_add(plane * t.plane_strides[2]);
            for _ in 0..t.tiles {
                let mut acc = [[S::zero(); M]; N];
                if t.accumulate {
                    for v in 0..N {
                        for m in 0..M {
                            acc[v][m] = S::load(c.add(m * t.c_step + v * S::LANES));
                        }
                    }
                }
                let mut at = [a, a.wrapping_add(6 * t.a_step)];
                let mut b = panel;
                // A few lines per step: the GEMM's own loads need line fill buffers too.
                let (mut next, lines) = match t.prefetch.as_mut() {
                    Some(queue) => queue.take(t.k / UNROLL),
                    None => (std::ptr::null(), 0),
                };
                for _ in 0..t.k / UNROLL {
                    next = prefetch_lines(next, lines);
                    for k in 0..UNROLL {
                        acc = rank1_update::<S, M, N, STEP>(acc, &rows, at, b, k);
                    }
                    at = at.map(|at| at.wrapping_add(UNROLL));
                    b = b.wrapping_add(UNROLL * N * S::LANES);
                }
                for _ in 0..t.k % UNROLL {
                    acc = rank1_update::<S, M, N, STEP>(acc, &rows, at, b, 0);
                    at = at.map(|at| at.wrapping_add(1));
                    b = b.wrapping_add(N * S::LANES);
                }
                for v in 0..N {
                    for m in 0..M {
                        S::store(c.add(m * t.c_step + v * S::LANES), acc[v][m]);
                    }
                }
                a = a.wrapping_add(M * t.a_step);
                c = c.wrapping_add(M * t.c_step);
            }
        }
    }
}

/// `c[m][..] (+)= sum over segments s and k of a[segment s + k step + m] * b[s, k][..]`: C (+)= A^T B, as weight gradients need.
///
/// The elements of one k are contiguous in A; B is a packed panel, one or two vectors wide.
pub(crate) struct TransposedGemm {
    /// First element of A.
    pub a: *const f32,
    /// Stride of k in A.
    pub a_step: usize,
    /// Offsets of the segments of k in A.
    pub segments: *const isize,
    /// How many segments.
    pub count: usize,
    /// Length of a segment.
    pub k: usize,
    /// The packed panel of B.
    pub b: *const f32,
    /// The register tile of C, as wide as the panel.
    pub c: *mut f32,
    /// Stride of the rows of C.
    pub c_step: usize,
    /// Whether the product is added to C. It is accumulated from zero and then added, as a partial sum is.
    pub accumulate: bool,
    /// What to prefetch meanwhile, or null; not shared between threads.
    pub prefetch: *mut PrefetchQueue,
}

/// The micro-kernel of a [`TransposedGemm`] for one tile extent.
pub(crate) type TransposedGemmFn = unsafe fn(&TransposedGemm);

/// [`TransposedGemm`] with `M` rows and `N` vectors.
#[inline(always)]
pub(super) unsafe fn transposed_gemm<S: Simd, const M: usize, const N: usize>(t: &TransposedGemm) {
    unsafe {
        let mut acc = [[S::zero(); N]; M];
        // C is read at the end.
        if t.accumulate {
            for m in 0..M {
                for v in 0..N {
                    prefetch_l1(t.c.wrapping_add(m * t.c_step + v * S::LANES));
                }
            }
        }
        let mut b = t.b;
        for s in 0..t.count {
            let mut a = t.a.wrapping_offset(*t.segments.add(s));
            for _ in 0..t.k {
                let mut bv = [S::zero(); N];
                for v in 0..N {
                    bv[v] = S::load(b.add(v * S::LANES));
                }
                b = b.add(N * S::LANES);
                for m in 0..M {
                    let av = S::splat(*a.add(m));
                    for v in 0..N {
                        acc[m][v] = S::fma(av, bv[v], acc[m][v]);
                    }
                }
                a = a.wrapping_add(t.a_step);
            }
        }
        for m in 0..M {
            for v in 0..N {
                let c = t.c.add(m * t.c_step + v * S::LANES);
                S::store(c, if t.accumulate { S::add(S::load(c), acc[m][v]) } else { acc[m][v] });
            }
        }
        if let Some(queue) = t.prefetch.as_mut() {
            let (next, lines) = queue.take(1);
            prefetch_lines(next, lines);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_prefetches_every_line_within_the_given_tiles() {
        let floats = vec![0f32; 3 * 4096];
        let line = |at: *const f32| (at.addr() - floats.as_ptr().addr()) / (CACHE_LINE * size_of::<f32>());
        for ranges in [&[][..], &[0], &[1], &[4000], &[3000, 0, 17], &[100, 2000, 900]] {
            for tiles in [1, 3, 7, 100] {
                for steps in [1, 4, 13] {
                    let mut queue = PrefetchQueue::new();
                    let starts = floats.chunks(4096).map(<[f32]>::as_ptr);
                    ranges.iter().zip(starts.clone()).for_each(|(&floats, start)| queue.push(start, floats));
                    let tiles = tiles.max(queue.left);
                    queue.spread_over(tiles);
                    let mut prefetched = std::collections::BTreeSet::new();
                    for _ in 0..tiles {
                        let (first, per_step) = queue.take(steps);
                        if per_step > 0 {
                            prefetched.extend(line(first)..line(first) + per_step * steps);
                        }
                    }
                    for (&floats, start) in ranges.iter().zip(starts) {
                        let mut lines = line(start)..line(start) + floats.div_ceil(CACHE_LINE);
                        assert!(
                            lines.all(|line| prefetched.contains(&line)),
                            "{ranges:?}, {tiles} tiles, {steps} steps"
                        );
                    }
                    assert_eq!(queue.take(steps).1, 0, "nothing is left");
                }
            }
        }
    }
}
