//! Winograd transforms of tiles: y = A^T [(G w G^T) ⊙ (B^T x B)] A (Lavin and Gray, arXiv:1509.09308, equation 8), and their
//! transposes for gradients.
//!
//! The transform of a tile applies a one-dimensional one of [`super::bilinear`] to its columns and then to its rows. The
//! Winograd-domain coefficients of all tiles are stored plane by plane: plane i holds coefficient i of every tile.

#![allow(clippy::needless_range_loop)] // Indices over small constants unroll; iterators over vectors do not always inline.

use std::marker::PhantomData;

use super::bilinear::Bilinear;
use super::{CACHE_LINE, Epilogue, ReluMask, Simd, Strides, opaque, opaque_ptr, prefetch_l1, prefetch_l2};

/// A buffer for the 3x3 taps of one vector of filters, of any instruction set.
#[repr(C, align(64))]
struct TapBuffer([f32; 9 * 16]);

impl TapBuffer {
    fn new() -> TapBuffer {
        TapBuffer([0.0; 9 * 16])
    }
}

/// The tile transforms of one algorithm.
#[derive(Clone, Copy)]
pub(crate) struct Transforms {
    /// Inputs per side of a tile.
    pub inputs: usize,
    /// Winograd-domain coefficients per side of a tile.
    pub coefficients: usize,
    /// Outputs per side of a tile.
    pub outputs: usize,
    /// `(x, channels, v, v_step, plane_step, set)`: V = B^T x B, the planes of the set from `v` on, tiles `v_step` apart.
    /// Writes whole vectors.
    pub input: unsafe fn(&TileSource, usize, *mut f32, usize, usize, PlaneSet),
    /// `(m, m_step, plane_step, tiles, y, pooled, channels, epilogue)`: y = A^T M A of `tiles` tiles, `m_step` apart in the
    /// planes from `m` on, and the 2x2 max pooling of y to `pooled`.
    pub output: unsafe fn(*const f32, usize, usize, usize, &TileTarget, &TileTarget, usize, &Epilogue),
    /// `(w, u, plane_step)`: U = G w G^T of a panel of filters, all planes from `u` on.
    pub filter: unsafe fn(&FilterPanel, *mut f32, usize),
    /// `(gy, channels, z, set)`: Z = A gy A^T, the transpose of `output`, to packed panels in the planes of the set.
    pub grad_output: unsafe fn(&TileSource, usize, &PackedRows, PlaneSet),
    /// `(m, plane_step, w, accumulate)`: gw (+)= G^T M G, the transpose of `filter`, from all planes of a panel.
    pub grad_filter: unsafe fn(*const f32, usize, &FilterPanel, bool),
}

/// The source pixels of horizontally adjacent tiles.
pub(crate) struct TileSource {
    /// The address of column 0 of the first tile in each of its rows, even if that is padding. Rows of padding point to zeros.
    pub rows: [*const f32; 6],
    /// Floats between neighbouring pixels of a row.
    pub step: usize,
    /// The first column inside the image and the one after the last, relative to the first tile; other columns are padding.
    pub columns: [usize; 2],
    /// How many tiles; neighbours are as many columns apart as a tile has outputs per side.
    pub tiles: usize,
    /// The first pixel that the tile below the first one reads and its upper neighbour does not, and floats between rows. The
    /// transforms prefetch it: hardware prefetchers do not predict tiles, which read short runs from many rows.
    pub below: (*const f32, usize),
}

/// The target pixels of horizontally adjacent tiles.
pub(crate) struct TileTarget<'a> {
    /// The first pixel of the first tile; null if there is no target.
    pub first: *mut f32,
    /// Floats between rows and between neighbouring pixels of a row.
    pub steps: [usize; 2],
    /// Rows and columns inside the image, relative to the first tile; the others are not stored.
    pub extents: [usize; 2],
    /// Applied to what is stored.
    pub mask: Option<ReluMask<'a>>,
}

impl TileTarget<'_> {
    /// No target.
    pub const NONE: TileTarget<'static> =
        TileTarget { first: std::ptr::null_mut(), steps: [0; 2], extents: [0; 2], mask: None };

    /// The target of the tile that starts `pixels` columns to the right.
    #[inline(always)]
    fn tile(&self, pixels: usize) -> Self {
        // Without a target the step is 0, so null stays null.
        let first = self.first.wrapping_add(pixels * self.steps[1]);
        let [rows, columns] = self.extents;
        TileTarget { first, steps: self.steps, extents: [rows, columns.saturating_sub(pixels)], mask: self.mask }
    }
}

/// The 3x3 filters of one panel, or their gradients: nine contiguous taps for every pair of channels.
pub(crate) struct FilterPanel {
    /// Those of the panel's first row and column; written only if they are gradients.
    pub first: *mut f32,
    /// Floats between rows of the panel and between its columns.
    pub steps: [usize; 2],
    /// Rows of the panel.
    pub rows: usize,
    /// Width of the panel: whole vectors.
    pub width: usize,
    /// Columns that exist; the others are zeros.
    pub columns: usize,
    /// Whether the taps are rotated by 180°.
    pub rotated180: bool,
}

/// The rows of adjacent tiles in a packed right-hand side of a GEMM: panels of two vectors, the last one possibly of one.
pub(crate) struct PackedRows {
    /// First element of the first panel in the first plane.
    pub z: *mut f32,
    /// The row of the first tile; the others follow.
    pub row: usize,
    /// Rows of a panel.
    pub rows: usize,
    /// Floats between planes.
    pub plane_step: usize,
}

/// Reads the columns of adjacent tiles from left to right, `R` rows high; a whole vector of channels or a partial one.
struct ColumnReader<'a, const R: usize, const WHOLE: bool> {
    x: &'a TileSource,
    rows: [*const f32; R],
    /// The next column, relative to the first tile.
    column: usize,
    /// Floats from the start of a row to the next column.
    at: usize,
    /// Channels from the first one on.
    channels: usize,
}

impl<'a, const R: usize, const WHOLE: bool> ColumnReader<'a, R, WHOLE> {
    /// Of the channels from `c` on, out of `channels`.
    #[inline(always)]
    fn new(x: &'a TileSource, c: usize, channels: usize) -> ColumnReader<'a, R, WHOLE> {
        let mut rows = [std::ptr::null(); R];
        rows.copy_from_slice(&x.rows[..R]);
        ColumnReader { x, rows, column: 0, at: c, channels: channels - c }
    }

    /// The next column.
    #[inline(always)]
    unsafe fn next<S: Simd>(&mut self) -> [S::V; R] {
        unsafe {
            let mut values = [S::zero(); R];
            let [first, end] = self.x.columns;
            if self.column.wrapping_sub(first) < end - first {
                for i in 0..R {
                    let from = self.rows[i].wrapping_add(self.at);
                    values[i] = if WHOLE { S::load(from) } else { S::load_partial(from, self.channels) };
                }
            }
            // Opaque, or the compiler would compute all addresses and bounds of a tile first, more than fit into registers.
            self.column = opaque(self.column + 1);
            self.at = opaque(self.at + self.x.step);
            values
        }
    }
}

/// Prefetches `O` x `O` pixels of the tile below, `at` floats after the first pixel of [`TileSource::below`].
#[inline(always)]
fn prefetch_below<const O: usize>(x: &TileSource, at: usize) {
    let (first, row) = x.below;
    let mut at = opaque(at);
    let columns = Strides::new(x.step);
    for _ in 0..O {
        for j in 0..O {
            prefetch_l2(columns.at(first.wrapping_add(at).cast_mut(), j));
        }
        at = opaque(at + row);
    }
}

/// Prefetch distance in rows of a filter panel. Every lane reads another filter, from a place of its own in memory.
const PREFETCH_DISTANCE: usize = 4;

/// Which coefficients of a tile are computed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum PlaneSet {
    /// All.
    All,
    /// Those of the first [`ROWS`] rows.
    First,
    /// Those of the other rows.
    Second,
}

impl PlaneSet {
    /// Their planes, with `coefficients` per side of a tile.
    pub fn planes(self, coefficients: usize) -> std::ops::Range<usize> {
        let (middle, end) = (ROWS.min(coefficients) * coefficients, coefficients * coefficients);
        match self {
            PlaneSet::All => 0..end,
            PlaneSet::First => 0..middle,
            PlaneSet::Second => middle..end,
        }
    }
}

/// Rows of coefficients that are computed at a time: between the two one-dimensional transforms they stay in registers.
/// Reading the tile twice is faster than spilling them.
const ROWS: usize = 3;

/// A transform into the Winograd domain, by vectors of channels and [`ROWS`] rows of coefficients.
trait TileTransform {
    /// Computes the rows from `FIRST` on for the vector of channels from `c` on: a whole vector, or the partial one at the end.
    unsafe fn rows<const FIRST: usize, const WHOLE: bool>(&self, c: usize);
}

/// Runs a transform with `P` coefficients per side for all vectors of `channels`.
#[inline(always)]
unsafe fn for_all_vectors<S: Simd, const P: usize>(t: &impl TileTransform, channels: usize, set: PlaneSet) {
    unsafe {
        for c in (0..channels).step_by(S::LANES) {
            if channels - c >= S::LANES {
                for_all_rows::<P, true>(t, c, set);
            } else {
                for_all_rows::<P, false>(t, c, set);
            }
        }
    }
}

/// Runs a transform for one vector of channels and the rows of the set.
#[inline(always)]
unsafe fn for_all_rows<const P: usize, const WHOLE: bool>(t: &impl TileTransform, c: usize, set: PlaneSet) {
    unsafe {
        if set != PlaneSet::Second {
            t.rows::<0, WHOLE>(c);
        }
        if P > ROWS && set != PlaneSet::First {
            t.rows::<ROWS, WHOLE>(c);
        }
    }
}

/// See [`Transforms::input`].
#[inline(always)]
pub(super) unsafe fn input<S: Simd, B: Bilinear<I, P, O>, const I: usize, const P: usize, const O: usize>(
    x: &TileSource,
    channels: usize,
    v: *mut f32,
    v_step: usize,
    plane_step: usize,
    set: PlaneSet,
) {
    let transform = InputTransform::<S, B, I, P, O> { x, channels, v, v_step, plane_step, algorithm: PhantomData };
    unsafe { for_all_vectors::<S, P>(&transform, channels, set) }
}

/// Takes the rows from `FIRST` on out of column `j` of the half-transformed tile.
#[inline(always)]
unsafe fn set_column<S: Simd, const P: usize, const N: usize, const FIRST: usize>(
    half: &mut [[S::V; N]; ROWS],
    j: usize,
    column: [S::V; P],
) {
    for r in 0..ROWS {
        if FIRST + r < P {
            half[r][j] = unsafe { S::materialise(column[FIRST + r]) };
        }
    }
}

/// V = B^T x B.
struct InputTransform<'a, S, B, const I: usize, const P: usize, const O: usize> {
    x: &'a TileSource,
    channels: usize,
    v: *mut f32,
    v_step: usize,
    plane_step: usize,
    algorithm: PhantomData<(S, B)>,
}

impl<S: Simd, B: Bilinear<I, P, O>, const I: usize, const P: usize, const O: usize> TileTransform
    for InputTransform<'_, S, B, I, P, O>
{
    /// Columns that adjacent tiles share are transformed once.
    #[inline(always)]
    unsafe fn rows<const FIRST: usize, const WHOLE: bool>(&self, c: usize) {
        let &InputTransform { x, channels, v, v_step, plane_step, .. } = self;
        unsafe {
            let planes = Strides::new(plane_step);
            let mut half = [[S::zero(); I]; ROWS];
            let mut columns = ColumnReader::<I, WHOLE>::new(x, c, channels);
            for j in 0..I - O {
                set_column::<S, P, I, FIRST>(&mut half, j, B::input::<S>(columns.next::<S>()));
            }
            let mut v = v.wrapping_add(c).wrapping_add(FIRST * P * plane_step);
            let mut below = c;
            for _ in 0..x.tiles {
                if FIRST == 0 && c.is_multiple_of(CACHE_LINE) {
                    prefetch_below::<O>(x, below);
                    below += O * x.step;
                }
                for j in I - O..I {
                    set_column::<S, P, I, FIRST>(&mut half, j, B::input::<S>(columns.next::<S>()));
                }
                let mut to = v;
                for r in 0..ROWS {
                    if FIRST + r < P {
                        let row = B::input::<S>(half[r]);
                        for j in 0..P {
                            // No prefetch of the next tile's place: this scratch is still in a cache from the previous block.
                            S::store(planes.at(to, j), row[j]);
                        }
                        to = opaque_ptr(to.wrapping_add(P * plane_step));
                        for j in 0..I - O {
                            half[r][j] = half[r][j + O];
                        }
                    }
                }
                v = opaque_ptr(v.wrapping_add(v_step));
            }
        }
    }
}

/// See [`Transforms::output`].
#[allow(clippy::too_many_arguments)]
#[inline(always)]
pub(super) unsafe fn output<S: Simd, B: Bilinear<I, P, O>, const I: usize, const P: usize, const O: usize>(
    m: *const f32,
    m_step: usize,
    plane_step: usize,
    tiles: usize,
    y: &TileTarget,
    pooled: &TileTarget,
    channels: usize,
    epilogue: &Epilogue,
) {
    unsafe {
        let rows = Strides::new(P * plane_step);
        for tile in 0..tiles {
            let (m, y, pooled) = (m.wrapping_add(tile * m_step), &y.tile(tile * O), &pooled.tile(tile * O / 2));
            for c in (0..channels).step_by(S::LANES) {
                output_rows::<S, B, I, P, O, 0>(m, plane_step, &rows, y, pooled, c, channels, epilogue);
                if O > 2 {
                    output_rows::<S, B, I, P, O, 2>(m, plane_step, &rows, y, pooled, c, channels, epilogue);
                }
            }
        }
    }
}

/// The two rows of outputs from `FIRST` on, which stay in registers between the two one-dimensional transforms.
#[allow(clippy::too_many_arguments)]
#[inline(always)]
unsafe fn output_rows<
    S: Simd,
    B: Bilinear<I, P, O>,
    const I: usize,
    const P: usize,
    const O: usize,
    const FIRST: usize,
>(
    m: *const f32,
    plane_step: usize,
    rows: &Strides,
    y: &TileTarget,
    pooled: &TileTarget,
    c: usize,
    channels: usize,
    epilogue: &Epilogue,
) {
    unsafe {
        let count = channels - c;
        let mut at = opaque(c);
        let mut half = [[S::zero(); P]; 2];
        for j in 0..P {
            let mut column = [S::zero(); P];
            for i in 0..P {
                column[i] = S::load(rows.at(m.wrapping_add(at).cast_mut(), i));
            }
            at = opaque(at + plane_step);
            let column = B::output::<S>(column);
            for r in 0..2 {
                half[r][j] = S::materialise(column[FIRST + r]);
            }
        }
        let mut done = [[S::zero(); O]; 2];
        for r in 0..2 {
            done[r] = epilogue.apply::<S, O>(B::output::<S>(half[r]), c, count);
        }
        if !y.first.is_null() {
            let pixels = Strides::new(y.steps[1]);
            let mut at = opaque(FIRST * y.steps[0] + c);
            for r in 0..2 {
                let to = y.first.wrapping_add(at);
                if FIRST + r < y.extents[0] {
                    // The common case without branches: whole vectors, a whole row, no mask.
                    if y.extents[1] >= O && count >= S::LANES && y.mask.is_none() {
                        for j in 0..O {
                            S::store(pixels.at(to, j), done[r][j]);
                        }
                    } else {
                        for j in 0..O {
                            if j < y.extents[1] {
                                match &y.mask {
                                    Some(mask) => mask.store::<S>(pixels.at(to, j), done[r][j], count),
                                    None => S::store_up_to(pixels.at(to, j), done[r][j], count),
                                }
                            }
                        }
                    }
                }
                at = opaque(at + y.steps[0]);
            }
        }
        if !pooled.first.is_null() && FIRST / 2 < pooled.extents[0] {
            let to = pooled.first.wrapping_add(FIRST / 2 * pooled.steps[0] + c);
            for j in 0..O / 2 {
                if j < pooled.extents[1] {
                    let max = S::max(S::max(done[0][2 * j], done[0][2 * j + 1]), done[1][2 * j]);
                    let max = S::max(max, done[1][2 * j + 1]);
                    S::store_up_to(to.wrapping_add(j * pooled.steps[1]), max, count);
                }
            }
        }
    }
}

/// See [`Transforms::filter`].
#[inline(always)]
pub(super) unsafe fn filter<S: Simd, B: Bilinear<I, P, O>, const I: usize, const P: usize, const O: usize>(
    w: &FilterPanel,
    u: *mut f32,
    plane_step: usize,
) {
    unsafe {
        let mut taps = TapBuffer::new();
        let taps = taps.0.as_mut_ptr();
        let planes = Strides::new(plane_step);
        for c in (0..w.width).step_by(S::LANES) {
            let lanes = S::LANES.min(w.columns.saturating_sub(c));
            for row in 0..w.rows {
                let first = w.first.wrapping_add(row * w.steps[0] + c * w.steps[1]);
                let ahead = first.wrapping_add(PREFETCH_DISTANCE * w.steps[0]);
                for lane in 0..S::LANES {
                    prefetch_l2(ahead.wrapping_add(lane * w.steps[1]));
                }
                // From nine contiguous taps per lane to nine vectors.
                for tap in (0..9).step_by(S::LANES) {
                    let count = S::LANES.min(9 - tap);
                    S::transpose(first.wrapping_add(tap), w.steps[1], lanes, count, taps.add(tap * S::LANES), S::LANES);
                }
                let mut half = [[S::zero(); 3]; P];
                for j in 0..3 {
                    let mut column = [S::zero(); 3];
                    for i in 0..3 {
                        let tap = if w.rotated180 { 8 - (i * 3 + j) } else { i * 3 + j };
                        column[i] = S::load(taps.add(tap * S::LANES));
                    }
                    let column = B::filter::<S>(column);
                    for i in 0..P {
                        half[i][j] = column[i];
                    }
                }
                let mut u = u.wrapping_add(row * w.width + c);
                for i in 0..P {
                    let coefficients = B::filter::<S>(half[i]);
                    for j in 0..P {
                        let to = planes.at(u, j);
                        S::store(to, coefficients[j]);
                        // Stores retire in order and wait for their cache lines, and hardware prefetchers do not follow as
                        // many streams as there are planes.
                        prefetch_l1(to.wrapping_add(2 * w.width));
                    }
                    u = u.wrapping_add(opaque(P * plane_step));
                }
            }
        }
    }
}

/// See [`Transforms::grad_output`].
#[inline(always)]
pub(super) unsafe fn grad_output<S: Simd, B: Bilinear<I, P, O>, const I: usize, const P: usize, const O: usize>(
    gy: &TileSource,
    channels: usize,
    to: &PackedRows,
    set: PlaneSet,
) {
    let transform = GradOutputTransform::<S, B, I, P, O> { gy, channels, to, algorithm: PhantomData };
    unsafe { for_all_vectors::<S, P>(&transform, channels, set) }
}

/// Z = A gy A^T.
struct GradOutputTransform<'a, S, B, const I: usize, const P: usize, const O: usize> {
    gy: &'a TileSource,
    channels: usize,
    to: &'a PackedRows,
    algorithm: PhantomData<(S, B)>,
}

impl<S: Simd, B: Bilinear<I, P, O>, const I: usize, const P: usize, const O: usize> TileTransform
    for GradOutputTransform<'_, S, B, I, P, O>
{
    #[inline(always)]
    unsafe fn rows<const FIRST: usize, const WHOLE: bool>(&self, c: usize) {
        let &GradOutputTransform { gy, channels, to, .. } = self;
        unsafe {
            let planes = Strides::new(to.plane_step);
            let (vector, vectors) = (c / S::LANES, channels.div_ceil(S::LANES));
            let width = if vector + 1 == vectors && vectors % 2 == 1 { 1 } else { 2 };
            let mut columns = ColumnReader::<O, WHOLE>::new(gy, c, channels);
            let z = to.z.wrapping_add(((vector / 2 * 2) * to.rows + to.row * width + vector % 2) * S::LANES);
            let mut z = z.wrapping_add(FIRST * P * to.plane_step);
            let mut below = c;
            for _ in 0..gy.tiles {
                if FIRST == 0 && c.is_multiple_of(CACHE_LINE) {
                    prefetch_below::<O>(gy, below);
                    below += O * gy.step;
                }
                let mut half = [[S::zero(); O]; ROWS];
                for j in 0..O {
                    set_column::<S, P, O, FIRST>(&mut half, j, B::grad_output::<S>(columns.next::<S>()));
                }
                let mut to_row = z;
                for r in 0..ROWS {
                    if FIRST + r < P {
                        let coefficients = B::grad_output::<S>(half[r]);
                        for j in 0..P {
                            let z = planes.at(to_row, j);
                            S::store(z, coefficients[j]);
                            // The next tile's place, as in `filter`.
                            prefetch_l1(z.wrapping_add(width * S::LANES));
                        }
                        to_row = opaque_ptr(to_row.wrapping_add(P * to.plane_step));
                    }
                }
                z = opaque_ptr(z.wrapping_add(width * S::LANES));
            }
        }
    }
}

/// See [`Transforms::grad_filter`].
#[inline(always)]
pub(super) unsafe fn grad_filter<S: Simd, B: Bilinear<I, P, O>, const I: usize, const P: usize, const O: usize>(
    m: *const f32,
    plane_step: usize,
    w: &FilterPanel,
    accumulate: bool,
) {
    unsafe {
        let (mut taps, mut by_lane) = (TapBuffer::new(), TapBuffer::new());
        let (taps, by_lane) = (taps.0.as_mut_ptr(), by_lane.0.as_mut_ptr());
        let planes = Strides::new(P * plane_step);
        for c in (0..w.width).step_by(S::LANES) {
            let lanes = S::LANES.min(w.columns.saturating_sub(c));
            for row in 0..w.rows {
                let mut m = m.wrapping_add(row * w.width + c).cast_mut();
                let mut half = [[S::zero(); P]; 3];
                for j in 0..P {
                    let mut column = [S::zero(); P];
                    for i in 0..P {
                        let from = planes.at(m, i);
                        column[i] = S::load(from);
                        prefetch_l1(from.wrapping_add(2 * w.width));
                    }
                    m = m.wrapping_add(opaque(plane_step));
                    let column = B::grad_filter::<S>(column);
                    for i in 0..3 {
                        half[i][j] = column[i];
                    }
                }
                for i in 0..3 {
                    let row = B::grad_filter::<S>(half[i]);
                    for j in 0..3 {
                        S::store(taps.add((i * 3 + j) * S::LANES), row[j]);
                    }
                }
                let first = w.first.wrapping_add(row * w.steps[0] + c * w.steps[1]);
                let (to, step) = if accumulate { (by_lane, 9) } else { (first, w.steps[1]) };
                for tap in (0..9).step_by(S::LANES) {
                    let count = S::LANES.min(9 - tap);
                    S::transpose(taps.add(tap * S::LANES), S::LANES, count, lanes, to.wrapping_add(tap), step);
                }
                if accumulate {
                    for lane in 0..lanes {
                        for tap in 0..9 {
                            *first.wrapping_add(lane * w.steps[1] + tap) += *by_lane.add(lane * 9 + tap);
                        }
                    }
                }
            }
        }
    }
}
