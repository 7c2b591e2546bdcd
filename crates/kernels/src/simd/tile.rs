//! The micro-kernels of all products: a tile of sums held in registers.
//!
//! A sum is one chain of fused multiply-adds in the order of k, whatever the tile's extent, so an element's bits do
//! not depend on where in which tile it is computed.

#![allow(clippy::needless_range_loop)] // Indices over small constants unroll; iterators over vectors do not always inline.

use super::{LINE, Simd, Spaced, prefetch, prefetch_near};

/// Rows of the largest tile of any instruction set.
pub(crate) const MAX_ROWS: usize = 12;

/// What to do with a tile's sums at the end: `relu((sum + bias) * scale + shift)`, each part where it is asked for.
///
/// Pointers are to the first column of the tile, or null.
#[derive(Clone, Copy)]
pub(crate) struct Finish {
    /// Added first.
    pub bias: *const f32,
    /// Multiplied next.
    pub scale: *const f32,
    /// Added then; null exactly where `scale` is.
    pub shift: *const f32,
    /// Negative values become 0.
    pub relu: bool,
    /// Where the element at `target + i` is written, `mask + i` must be positive, or 0 is; null if there is no mask.
    pub mask: *const f32,
    /// The start of what the mask belongs to.
    pub target: *const f32,
}

impl Finish {
    /// The sums as they are.
    pub const NONE: Finish = Finish {
        bias: std::ptr::null(),
        scale: std::ptr::null(),
        shift: std::ptr::null(),
        relu: false,
        mask: std::ptr::null(),
        target: std::ptr::null(),
    };

    /// The same for columns `columns` further on.
    #[inline(always)]
    pub fn advance(self, columns: usize) -> Finish {
        let step = |p: *const f32| if p.is_null() { p } else { p.wrapping_add(columns) };
        Finish { bias: step(self.bias), scale: step(self.scale), shift: step(self.shift), ..self }
    }

    /// The mask's element beside the element at `to` of its target.
    #[inline(always)]
    pub fn beside(&self, to: *const f32) -> *const f32 {
        self.mask.wrapping_byte_add((to as usize).wrapping_sub(self.target as usize))
    }

    /// Writes the first `count` lanes to `to`, under the mask if there is one.
    #[inline(always)]
    pub unsafe fn store<S: Simd>(&self, to: *mut f32, v: S::V, count: usize) {
        unsafe {
            if self.mask.is_null() {
                S::store_up_to(to, v, count);
            } else {
                let mask = S::load_up_to(self.beside(to), count);
                S::store_up_to(to, S::where_positive(mask, v), count);
            }
        }
    }

    /// Applies it to vectors that all hold the `count` columns from `at` on.
    ///
    /// By value: sums whose address is taken would be kept in memory throughout the product.
    #[inline(always)]
    pub unsafe fn apply<S: Simd, const M: usize>(&self, v: [S::V; M], at: usize, count: usize) -> [S::V; M] {
        unsafe {
            let mut v = v;
            if !self.bias.is_null() {
                let bias = S::load_up_to(self.bias.wrapping_add(at), count);
                for m in 0..M {
                    v[m] = S::add(v[m], bias);
                }
            }
            if !self.scale.is_null() {
                let scale = S::load_up_to(self.scale.wrapping_add(at), count);
                let shift = S::load_up_to(self.shift.wrapping_add(at), count);
                for m in 0..M {
                    v[m] = S::add(S::mul(v[m], scale), shift);
                }
            }
            if self.relu {
                for m in 0..M {
                    v[m] = S::relu(v[m]);
                }
            }
            v
        }
    }
}

/// What a product asks for meanwhile, a little with every tile: memory would idle otherwise, and be waited for afterwards.
pub(crate) struct Soon {
    /// Runs of floats, the next one last.
    runs: [(*const f32, usize); 3],
    /// How many runs are left.
    left: usize,
    /// Cache lines of a tile.
    each: usize,
}

impl Soon {
    /// Nothing.
    pub const fn new() -> Soon {
        Soon { runs: [(std::ptr::null(), 0); 3], left: 0, each: 0 }
    }

    /// Before what was said earlier, `floats` from `first` on.
    pub fn add(&mut self, first: *const f32, floats: usize) {
        if floats > 0 {
            self.runs[self.left] = (first, floats.div_ceil(LINE));
            self.left += 1;
        }
    }

    /// All of it within `tiles` tiles, each of which asks for lines of one run.
    pub fn within(&mut self, tiles: usize) {
        let lines: usize = self.runs[..self.left].iter().map(|run| run.1).sum();
        self.each = lines.div_ceil((tiles + 1).saturating_sub(self.left).max(1));
    }

    /// A tile's lines: the first, and how many in each of `turns` turns; none where there are no turns.
    #[inline(always)]
    fn take(&mut self, turns: usize) -> (*const f32, usize) {
        if self.left == 0 || turns == 0 {
            return (std::ptr::null(), 0);
        }
        let (at, lines) = &mut self.runs[self.left - 1];
        let first = *at;
        // Whose division takes half the time of one of 64 bits.
        let each = (self.each.min(*lines) as u32).div_ceil(turns as u32) as usize;
        let count = (each * turns).min(*lines);
        *at = at.wrapping_add(count * LINE);
        *lines -= count;
        if *lines == 0 {
            self.left -= 1;
        }
        (first, each)
    }
}

/// Asks for `lines` cache lines from `at` on, and returns where they end.
#[inline(always)]
fn ask(at: *const f32, lines: usize) -> *const f32 {
    let mut at = at;
    for _ in 0..lines {
        prefetch_near(at);
        at = at.wrapping_add(LINE);
    }
    at
}

/// `c[m][..] (+)= sum over segments s and k of a[m][segment s + k step] * b[s, k][..]`.
///
/// The rows of A are runs of k anywhere in memory; the rows of B are one or two vectors wide.
pub(crate) struct Rows {
    /// First element of each row of A.
    pub a: [*const f32; MAX_ROWS],
    /// First element of each row of C.
    pub c: [*mut f32; MAX_ROWS],
    /// Offsets of the runs, added to every row's pointer.
    pub segments: *const isize,
    /// How many runs.
    pub count: usize,
    /// Elements of a run.
    pub k: usize,
    /// Distance between the elements of a run.
    pub a_step: usize,
    /// For every k of every run, one or two vectors.
    pub b: *const f32,
    /// Distance between those; their width in a packed panel.
    pub b_step: usize,
    /// Whether C's elements are added to.
    pub add: bool,
    /// Columns of C that exist, at most the panel's width.
    pub columns: usize,
    /// What is done to the sums.
    pub finish: Finish,
}

/// A kernel on [`Rows`] for one tile extent.
pub(crate) type RowsFn = unsafe fn(&Rows);

/// See [`Rows`]; `M` rows, `N` vectors.
#[inline(always)]
pub(super) unsafe fn rows<S: Simd, const M: usize, const N: usize>(t: &Rows) {
    unsafe {
        let mut acc = [[S::zero(); M]; N];
        if t.add {
            for v in 0..N {
                let left = t.columns.saturating_sub(v * S::LANES);
                for m in 0..M {
                    acc[v][m] = S::load_up_to(t.c[m].wrapping_add(v * S::LANES), left);
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
            let left = t.columns.saturating_sub(v * S::LANES);
            let done = t.finish.apply::<S, M>(acc[v], v * S::LANES, left);
            for m in 0..M {
                S::store_up_to(t.c[m].wrapping_add(v * S::LANES), done[m], left);
            }
        }
        // In a pass of its own over the written tile: this branch among the sums would keep them in memory throughout.
        if !t.finish.mask.is_null() {
            for m in 0..M {
                for v in 0..N {
                    let left = t.columns.saturating_sub(v * S::LANES);
                    let to = t.c[m].wrapping_add(v * S::LANES);
                    t.finish.store::<S>(to, S::load_up_to(to, left), left);
                }
            }
        }
    }
}

/// The sums with one more k, `k` further on in rows that start at `at`, six and six, and in the panel `b`; rows are `STEP` apart
/// or, if that is 0, as `rows` says.
#[inline(always)]
unsafe fn step<S: Simd, const M: usize, const N: usize, const STEP: usize>(
    acc: [[S::V; M]; N],
    rows: &Spaced,
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

/// [`Rows`] whose rows lie evenly spaced, and that overwrites: pixels side by side, with few channels under each tap.
///
/// Lists of pointers would take as long there as the sums.
pub(crate) struct Strip {
    /// First element of the first row of A.
    pub a: *const f32,
    /// Distance between rows of A.
    pub a_step: usize,
    /// First element of the first row of C.
    pub c: *mut f32,
    /// Distance between rows of C.
    pub c_step: usize,
    /// Offsets of the runs of k in A.
    pub runs: *const isize,
    /// How many runs.
    pub count: usize,
    /// Elements of a run, which lie side by side.
    pub k: usize,
    /// The panel.
    pub b: *const f32,
    /// Columns of C that exist, at most the panel's width.
    pub columns: usize,
    /// What is done to the sums; no mask.
    pub finish: Finish,
}

/// A kernel on [`Strip`] for one tile extent.
pub(crate) type StripFn = unsafe fn(&Strip);

/// See [`Strip`]; `M` rows, `N` vectors.
#[inline(always)]
pub(super) unsafe fn strip<S: Simd, const M: usize, const N: usize>(t: &Strip) {
    unsafe {
        let mut acc = [[S::zero(); M]; N];
        let (rows, mut b) = (Spaced::new(t.a_step), t.b);
        for s in 0..t.count {
            let mut a = t.a.wrapping_offset(*t.runs.add(s));
            for _ in 0..t.k {
                acc = step::<S, M, N, 0>(acc, &rows, [a, a.wrapping_add(6 * t.a_step)], b, 0);
                b = b.add(N * S::LANES);
                a = a.wrapping_add(1);
            }
        }
        for v in 0..N {
            let left = t.columns.saturating_sub(v * S::LANES);
            let done = t.finish.apply::<S, M>(acc[v], v * S::LANES, left);
            for m in 0..M {
                S::store_up_to(t.c.wrapping_add(m * t.c_step + v * S::LANES), done[m], left);
            }
        }
    }
}

/// `c[m][..] (+)= sum over k of a[m][k] * b[k][..]` for tiles of rows that lie evenly spaced, and the same for planes of
/// all three: no list of pointers, one call for all.
///
/// The planes of C may lie one before those of A: a plane is read to its end before the next one's sums are written there.
pub(crate) struct Matrix {
    /// First element of A, whose rows are contiguous.
    pub a: *const f32,
    /// Distance between rows of A.
    pub a_step: usize,
    /// The panel, one or two vectors wide.
    pub b: *const f32,
    /// First element of C.
    pub c: *mut f32,
    /// Distance between rows of C.
    pub c_step: usize,
    /// Elements of a row of A.
    pub k: usize,
    /// Whether C's elements are added to.
    pub add: bool,
    /// How many tiles follow each other.
    pub tiles: usize,
    /// How many planes.
    pub planes: usize,
    /// Distances between the planes of A, B and C.
    pub plane: [usize; 3],
    /// What is asked for meanwhile, or null; the caller's alone.
    pub soon: *mut Soon,
}

/// A kernel on [`Matrix`] for one tile extent.
pub(crate) type MatrixFn = unsafe fn(&Matrix);

/// Steps of k between which addresses are computed anew: sums of integers take the places of multiply-adds.
const UNROLL: usize = 4;

/// See [`Matrix`]; `M` rows, `N` vectors.
#[inline(always)]
pub(super) unsafe fn matrix<S: Simd, const M: usize, const N: usize>(t: &Matrix) {
    unsafe {
        // A multiply-add that reads memory by a register's multiple is two operations to Intel's processors, and one vector wide
        // every one reads memory where the instruction set allows it.
        match t.a_step {
            16 if N == 1 && S::LANES == 16 => planes::<S, M, N, 16>(t),
            32 if N == 1 && S::LANES == 16 => planes::<S, M, N, 32>(t),
            _ => planes::<S, M, N, 0>(t),
        }
    }
}

/// [`matrix`] for rows `STEP` apart, or any distance if that is 0.
#[inline(always)]
unsafe fn planes<S: Simd, const M: usize, const N: usize, const STEP: usize>(t: &Matrix) {
    unsafe {
        let rows = Spaced::new(t.a_step);
        for plane in 0..t.planes {
            let (mut a, panel) = (t.a.wrapping_add(plane * t.plane[0]), t.b.wrapping_add(plane * t.plane[1]));
            let mut c = t.c.wrapping_add(plane * t.plane[2]);
            for _ in 0..t.tiles {
                let mut acc = [[S::zero(); M]; N];
                if t.add {
                    for v in 0..N {
                        for m in 0..M {
                            acc[v][m] = S::load(c.add(m * t.c_step + v * S::LANES));
                        }
                    }
                }
                let mut at = [a, a.wrapping_add(6 * t.a_step)];
                let mut b = panel;
                // Not all at once: there are few places for lines on their way, and the product needs some of them.
                let (mut next, lines) = match t.soon.as_mut() {
                    Some(soon) => soon.take(t.k / UNROLL),
                    None => (std::ptr::null(), 0),
                };
                for _ in 0..t.k / UNROLL {
                    next = ask(next, lines);
                    for k in 0..UNROLL {
                        acc = step::<S, M, N, STEP>(acc, &rows, at, b, k);
                    }
                    at = at.map(|at| at.wrapping_add(UNROLL));
                    b = b.wrapping_add(UNROLL * N * S::LANES);
                }
                for _ in 0..t.k % UNROLL {
                    acc = step::<S, M, N, STEP>(acc, &rows, at, b, 0);
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

/// `c[m][..] (+)= sum over segments s and k of a[segment s + k step + m] * b[s, k][..]`: the transposed product of weight gradients.
///
/// The M elements of one k lie side by side in A; B is a packed panel, one or two vectors wide.
pub(crate) struct Cols {
    /// First element of A.
    pub a: *const f32,
    /// Distance between successive k in A.
    pub a_step: usize,
    /// Offsets of the runs of k in A.
    pub segments: *const isize,
    /// How many runs.
    pub count: usize,
    /// Length of a run.
    pub k: usize,
    /// The panel.
    pub b: *const f32,
    /// The tile of C, whole panels wide.
    pub c: *mut f32,
    /// Distance between rows of C.
    pub c_step: usize,
    /// Whether C's elements are added to, as another sum would be, made elsewhere.
    pub add: bool,
    /// What is asked for meanwhile, or null; the caller's alone.
    pub soon: *mut Soon,
}

/// A kernel on [`Cols`] for one tile extent.
pub(crate) type ColsFn = unsafe fn(&Cols);

/// See [`Cols`]; `M` rows, `N` vectors.
#[inline(always)]
pub(super) unsafe fn cols<S: Simd, const M: usize, const N: usize>(t: &Cols) {
    unsafe {
        let mut acc = [[S::zero(); N]; M];
        // Read at the end.
        if t.add {
            for m in 0..M {
                for v in 0..N {
                    prefetch(t.c.wrapping_add(m * t.c_step + v * S::LANES));
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
                S::store(c, if t.add { S::add(S::load(c), acc[m][v]) } else { acc[m][v] });
            }
        }
        if let Some(soon) = t.soon.as_mut() {
            let (next, lines) = soon.take(1);
            ask(next, lines);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_asked_for_within_the_tiles_said() {
        let floats = vec![0f32; 3 * 4096];
        let place = |at: *const f32| (at.addr() - floats.as_ptr().addr()) / (LINE * size_of::<f32>());
        for runs in [&[][..], &[0], &[1], &[4000], &[3000, 0, 17], &[100, 2000, 900]] {
            for tiles in [1, 3, 7, 100] {
                for turns in [1, 4, 13] {
                    let mut soon = Soon::new();
                    let starts = floats.chunks(4096).map(<[f32]>::as_ptr);
                    runs.iter().zip(starts.clone()).for_each(|(&run, start)| soon.add(start, run));
                    let tiles = tiles.max(soon.left);
                    soon.within(tiles);
                    let mut asked = std::collections::BTreeSet::new();
                    for _ in 0..tiles {
                        let (first, each) = soon.take(turns);
                        if each > 0 {
                            asked.extend(place(first)..place(first) + each * turns);
                        }
                    }
                    for (&run, start) in runs.iter().zip(starts) {
                        let mut lines = place(start)..place(start) + run.div_ceil(LINE);
                        assert!(lines.all(|line| asked.contains(&line)), "{runs:?}, {tiles} tiles, {turns} turns");
                    }
                    assert_eq!(soon.take(turns).1, 0, "nothing is left");
                }
            }
        }
    }
}
