//! Bilinear algorithms on whole tiles: y = A^T [(G w G^T) . (B^T x B)] A, and its transposes for gradients.
//!
//! The transforms of a tile apply the one-dimensional ones of [`super::bilinear`] to its columns and then to its rows.

#![allow(clippy::needless_range_loop)] // Indices over small constants unroll; iterators over vectors do not always inline.

use super::bilinear::Bilinear;
use super::tile::Finish;
use super::{LINE, Simd, Spaced, opaque, opaque_at, prefetch, prefetch_near};

/// Room for the taps of some filters, nine vectors at least.
#[repr(C, align(64))]
struct Taps([f32; 9 * 16]);

impl Taps {
    fn new() -> Taps {
        Taps([0.0; 9 * 16])
    }
}

/// The transforms of whole tiles of one algorithm.
#[derive(Clone, Copy)]
pub(crate) struct Transforms {
    /// Inputs a side.
    pub inputs: usize,
    /// Products a side.
    pub products: usize,
    /// Outputs a side.
    pub outputs: usize,
    /// `(x, channels, v, v_step, plane, part)`: tiles of inputs to those of the `products^2` planes from `v` on that are in the
    /// part, in whole vectors, tiles `v_step` apart.
    pub input: unsafe fn(&Source, usize, *mut f32, usize, usize, Part),
    /// `(m, m_step, plane, tiles, y, pooled, channels, finish)`: `products^2` planes from `m` on, `tiles` of them `m_step` apart, to
    /// the pixels of `y`, and the largest of every 2x2 of them to those of `pooled`.
    pub output: unsafe fn(*const f32, usize, usize, usize, &Target, &Target, usize, &Finish),
    /// `(w, u, plane)`: a panel of weights to `products^2` planes from `u` on.
    pub filter: unsafe fn(&Filters, *mut f32, usize),
    /// `(gy, channels, z, part)`: the transpose of `output`, into packed panels of the planes in the part.
    pub grad_output: unsafe fn(&Source, usize, &PanelRow, Part),
    /// `(m, plane, w, add)`: the transpose of `filter`, from `products^2` planes of a panel; `add` to what is there.
    pub grad_filter: unsafe fn(*const f32, usize, &Filters, bool),
}

/// Where the pixels of neighbouring tiles of a row come from.
pub(crate) struct Source {
    /// The first pixel of every row of the first tile, even if that lies outside; of rows outside, zeros for all tiles.
    pub rows: [*const f32; 6],
    /// Floats between neighbouring pixels of a row.
    pub step: usize,
    /// The first column inside the picture and the first behind it, counted from the first tile's; those outside count as zeros.
    pub columns: [usize; 2],
    /// How many tiles, each as far from the last as the algorithm has outputs a side.
    pub tiles: usize,
    /// The first pixel of what the tile below the first reads and none above it, and floats between its rows: it is asked for
    /// meanwhile. Tiles touch short runs of many rows, which no processor foresees.
    pub below: (*const f32, usize),
}

/// Where the pixels of neighbouring tiles of a row go.
pub(crate) struct Target {
    /// The first pixel; null where none is wanted.
    pub first: *mut f32,
    /// Floats between rows and between neighbouring pixels of a row.
    pub steps: [usize; 2],
    /// Rows and columns inside the picture, counted from the first tile's; the others are left out.
    pub extents: [usize; 2],
}

impl Target {
    /// Nothing is wanted.
    pub const NONE: Target = Target { first: std::ptr::null_mut(), steps: [0; 2], extents: [0; 2] };

    /// The tile that starts `pixels` behind the first.
    #[inline(always)]
    fn tile(&self, pixels: usize) -> Target {
        // Null is left as it is.
        let first = self.first.wrapping_add(pixels * self.steps[1]);
        let [rows, columns] = self.extents;
        Target { first, steps: self.steps, extents: [rows, columns.saturating_sub(pixels)] }
    }
}

/// Where the weights of one panel lie, or their gradients: 3x3 of them side by side for every pair of channels.
pub(crate) struct Filters {
    /// Those of the panel's first column and row; only gradients are written.
    pub first: *mut f32,
    /// Floats between rows of the panel and between its columns.
    pub steps: [usize; 2],
    /// Rows of the panel.
    pub rows: usize,
    /// Width of the panel: whole vectors.
    pub width: usize,
    /// Columns that exist; the others are zeros.
    pub columns: usize,
    /// Whether the 3x3 weights are turned around.
    pub turned: bool,
}

/// Where the rows of neighbouring tiles lie in a packed right-hand side: panels of two vectors, the last perhaps of one.
pub(crate) struct PanelRow {
    /// First element of the first panel in the first plane.
    pub z: *mut f32,
    /// That of the first tile; the others follow.
    pub row: usize,
    /// Rows of a panel.
    pub rows: usize,
    /// Distance between planes.
    pub plane: usize,
}

/// The columns of the first `R` rows of neighbouring tiles, one after the other; whole vectors or not.
struct Columns<'a, const R: usize, const WHOLE: bool> {
    x: &'a Source,
    rows: [*const f32; R],
    /// The next column, counted from the first tile's.
    column: usize,
    /// Floats from the start of a row to the next column.
    at: usize,
    /// Channels left.
    left: usize,
}

impl<'a, const R: usize, const WHOLE: bool> Columns<'a, R, WHOLE> {
    /// The channels from `c` on of `channels`.
    #[inline(always)]
    fn new(x: &'a Source, c: usize, channels: usize) -> Columns<'a, R, WHOLE> {
        let mut rows = [std::ptr::null(); R];
        rows.copy_from_slice(&x.rows[..R]);
        Columns { x, rows, column: 0, at: c, left: channels - c }
    }

    /// The next one.
    #[inline(always)]
    unsafe fn next<S: Simd>(&mut self) -> [S::V; R] {
        unsafe {
            let mut values = [S::zero(); R];
            let [first, end] = self.x.columns;
            if self.column.wrapping_sub(first) < end - first {
                for i in 0..R {
                    let from = self.rows[i].wrapping_add(self.at);
                    values[i] = if WHOLE { S::load(from) } else { S::load_part(from, self.left) };
                }
            }
            // Opaque, or the compiler would make all addresses and tests of a tile ahead, more than there are registers for.
            self.column = opaque(self.column + 1);
            self.at = opaque(self.at + self.x.step);
            values
        }
    }
}

/// Asks for what lies `at` floats behind the first pixel below the first tile, and `O` x `O` pixels from there on.
#[inline(always)]
fn expect<const O: usize>(x: &Source, at: usize) {
    let (first, row) = x.below;
    let mut at = opaque(at);
    let columns = Spaced::new(x.step);
    for _ in 0..O {
        for j in 0..O {
            prefetch_near(columns.at(first.wrapping_add(at).cast_mut(), j));
        }
        at = opaque(at + row);
    }
}

/// Rows of filters between those that are transformed and those that are asked for: every lane has its own place in memory.
const AHEAD: usize = 4;

/// Which numbers of a transformed tile are made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All.
    Whole,
    /// Those of the first [`ROWS`] rows.
    First,
    /// The others.
    Second,
}

impl Part {
    /// Their planes, with `products` numbers a side.
    pub fn planes(self, products: usize) -> std::ops::Range<usize> {
        let (middle, end) = (ROWS.min(products) * products, products * products);
        match self {
            Part::Whole => 0..end,
            Part::First => 0..middle,
            Part::Second => middle..end,
        }
    }
}

/// Rows of a transformed tile that are made at a time: between the two axes they stay in registers, and to read the tile
/// once more takes less than to write these numbers and read them back.
const ROWS: usize = 3;

#[inline(always)]
pub(super) unsafe fn input<S: Simd, B: Bilinear<I, P, O>, const I: usize, const P: usize, const O: usize>(
    x: &Source,
    channels: usize,
    v: *mut f32,
    v_step: usize,
    plane: usize,
    part: Part,
) {
    unsafe {
        for c in (0..channels).step_by(S::LANES) {
            let v = v.wrapping_add(c);
            let whole = channels - c >= S::LANES;
            if part != Part::Second {
                if whole {
                    input_rows::<S, B, I, P, O, 0, true>(x, c, channels, v, v_step, plane);
                } else {
                    input_rows::<S, B, I, P, O, 0, false>(x, c, channels, v, v_step, plane);
                }
            }
            if P > ROWS && part != Part::First {
                if whole {
                    input_rows::<S, B, I, P, O, ROWS, true>(x, c, channels, v, v_step, plane);
                } else {
                    input_rows::<S, B, I, P, O, ROWS, false>(x, c, channels, v, v_step, plane);
                }
            }
        }
    }
}

/// Column `j` of the rows from `FIRST` on of a transformed tile, all of whose numbers are `column`.
#[inline(always)]
unsafe fn set_column<S: Simd, const P: usize, const N: usize, const FIRST: usize>(
    half: &mut [[S::V; N]; ROWS],
    j: usize,
    column: [S::V; P],
) {
    for r in 0..ROWS {
        if FIRST + r < P {
            half[r][j] = unsafe { S::hold(column[FIRST + r]) };
        }
    }
}

/// The rows from `FIRST` on. What neighbouring tiles share of their columns is transformed once.
#[inline(always)]
unsafe fn input_rows<
    S: Simd,
    B: Bilinear<I, P, O>,
    const I: usize,
    const P: usize,
    const O: usize,
    const FIRST: usize,
    const WHOLE: bool,
>(
    x: &Source,
    c: usize,
    channels: usize,
    v: *mut f32,
    v_step: usize,
    plane: usize,
) {
    unsafe {
        let planes = Spaced::new(plane);
        let mut half = [[S::zero(); I]; ROWS];
        let mut columns = Columns::<I, WHOLE>::new(x, c, channels);
        for j in 0..I - O {
            set_column::<S, P, I, FIRST>(&mut half, j, B::input::<S>(columns.next::<S>()));
        }
        let mut v = v.wrapping_add(FIRST * P * plane);
        let mut below = c;
        for _ in 0..x.tiles {
            if FIRST == 0 && c.is_multiple_of(LINE) {
                expect::<O>(x, below);
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
                        // In scratch that the block before has used: near enough, to ask for the next tile's place takes longer.
                        S::store(planes.at(to, j), row[j]);
                    }
                    to = opaque_at(to.wrapping_add(P * plane));
                    for j in 0..I - O {
                        half[r][j] = half[r][j + O];
                    }
                }
            }
            v = opaque_at(v.wrapping_add(v_step));
        }
    }
}

#[allow(clippy::too_many_arguments)]
#[inline(always)]
pub(super) unsafe fn output<S: Simd, B: Bilinear<I, P, O>, const I: usize, const P: usize, const O: usize>(
    m: *const f32,
    m_step: usize,
    plane: usize,
    tiles: usize,
    y: &Target,
    pooled: &Target,
    channels: usize,
    finish: &Finish,
) {
    unsafe {
        let rows = Spaced::new(P * plane);
        for tile in 0..tiles {
            let (m, y, pooled) = (m.wrapping_add(tile * m_step), &y.tile(tile * O), &pooled.tile(tile * O / 2));
            for c in (0..channels).step_by(S::LANES) {
                output_rows::<S, B, I, P, O, 0>(m, plane, &rows, y, pooled, c, channels, finish);
                if O > 2 {
                    output_rows::<S, B, I, P, O, 2>(m, plane, &rows, y, pooled, c, channels, finish);
                }
            }
        }
    }
}

/// The two rows from `FIRST` on, as in [`input_rows`].
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
    plane: usize,
    rows: &Spaced,
    y: &Target,
    pooled: &Target,
    c: usize,
    channels: usize,
    finish: &Finish,
) {
    unsafe {
        let left = channels - c;
        let mut at = opaque(c);
        let mut half = [[S::zero(); P]; 2];
        for j in 0..P {
            let mut column = [S::zero(); P];
            for i in 0..P {
                column[i] = S::load(rows.at(m.wrapping_add(at).cast_mut(), i));
            }
            at = opaque(at + plane);
            let column = B::output::<S>(column);
            for r in 0..2 {
                half[r][j] = S::hold(column[FIRST + r]);
            }
        }
        let mut done = [[S::zero(); O]; 2];
        for r in 0..2 {
            done[r] = finish.apply::<S, O>(B::output::<S>(half[r]), c, left);
        }
        if !y.first.is_null() {
            let pixels = Spaced::new(y.steps[1]);
            let mut at = opaque(FIRST * y.steps[0] + c);
            for r in 0..2 {
                let to = y.first.wrapping_add(at);
                if FIRST + r < y.extents[0] {
                    // Whole vectors of a whole row under no mask.
                    if y.extents[1] >= O && left >= S::LANES && finish.mask.is_null() {
                        for j in 0..O {
                            S::store(pixels.at(to, j), done[r][j]);
                        }
                    } else {
                        for j in 0..O {
                            if j < y.extents[1] {
                                finish.store::<S>(pixels.at(to, j), done[r][j], left);
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
                    let largest = S::pick(S::pick(done[0][2 * j], done[0][2 * j + 1]), done[1][2 * j]);
                    let largest = S::pick(largest, done[1][2 * j + 1]);
                    S::store_up_to(to.wrapping_add(j * pooled.steps[1]), largest, left);
                }
            }
        }
    }
}

#[inline(always)]
pub(super) unsafe fn filter<S: Simd, B: Bilinear<I, P, O>, const I: usize, const P: usize, const O: usize>(
    w: &Filters,
    u: *mut f32,
    plane: usize,
) {
    unsafe {
        let mut taps = Taps::new();
        let taps = taps.0.as_mut_ptr();
        let planes = Spaced::new(plane);
        for c in (0..w.width).step_by(S::LANES) {
            let lanes = S::LANES.min(w.columns.saturating_sub(c));
            for row in 0..w.rows {
                let first = w.first.wrapping_add(row * w.steps[0] + c * w.steps[1]);
                let soon = first.wrapping_add(AHEAD * w.steps[0]);
                for lane in 0..S::LANES {
                    prefetch_near(soon.wrapping_add(lane * w.steps[1]));
                }
                // Nine taps of a lane lie side by side, and are to be nine vectors of lanes.
                for tap in (0..9).step_by(S::LANES) {
                    let count = S::LANES.min(9 - tap);
                    S::transpose(first.wrapping_add(tap), w.steps[1], lanes, count, taps.add(tap * S::LANES), S::LANES);
                }
                let mut half = [[S::zero(); 3]; P];
                for j in 0..3 {
                    let mut column = [S::zero(); 3];
                    for i in 0..3 {
                        let tap = if w.turned { 8 - (i * 3 + j) } else { i * 3 + j };
                        column[i] = S::load(taps.add(tap * S::LANES));
                    }
                    let column = B::filter::<S>(column);
                    for i in 0..P {
                        half[i][j] = column[i];
                    }
                }
                let mut u = u.wrapping_add(row * w.width + c);
                for i in 0..P {
                    let numbers = B::filter::<S>(half[i]);
                    for j in 0..P {
                        let to = planes.at(u, j);
                        S::store(to, numbers[j]);
                        // Stores wait for their lines in order, and as many planes as there are products lie too far apart
                        // to be foreseen.
                        prefetch(to.wrapping_add(2 * w.width));
                    }
                    u = u.wrapping_add(opaque(P * plane));
                }
            }
        }
    }
}

#[inline(always)]
pub(super) unsafe fn grad_output<S: Simd, B: Bilinear<I, P, O>, const I: usize, const P: usize, const O: usize>(
    gy: &Source,
    channels: usize,
    to: &PanelRow,
    part: Part,
) {
    unsafe {
        for c in (0..channels).step_by(S::LANES) {
            let whole = channels - c >= S::LANES;
            if part != Part::Second {
                if whole {
                    grad_output_rows::<S, B, I, P, O, 0, true>(gy, c, channels, to);
                } else {
                    grad_output_rows::<S, B, I, P, O, 0, false>(gy, c, channels, to);
                }
            }
            if P > ROWS && part != Part::First {
                if whole {
                    grad_output_rows::<S, B, I, P, O, ROWS, true>(gy, c, channels, to);
                } else {
                    grad_output_rows::<S, B, I, P, O, ROWS, false>(gy, c, channels, to);
                }
            }
        }
    }
}

/// The rows from `FIRST` on, as in [`input_rows`].
#[inline(always)]
unsafe fn grad_output_rows<
    S: Simd,
    B: Bilinear<I, P, O>,
    const I: usize,
    const P: usize,
    const O: usize,
    const FIRST: usize,
    const WHOLE: bool,
>(
    gy: &Source,
    c: usize,
    channels: usize,
    to: &PanelRow,
) {
    unsafe {
        let planes = Spaced::new(to.plane);
        let (vector, vectors) = (c / S::LANES, channels.div_ceil(S::LANES));
        let width = if vector + 1 == vectors && vectors % 2 == 1 { 1 } else { 2 };
        let mut columns = Columns::<O, WHOLE>::new(gy, c, channels);
        let z = to.z.wrapping_add(((vector / 2 * 2) * to.rows + to.row * width + vector % 2) * S::LANES);
        let mut z = z.wrapping_add(FIRST * P * to.plane);
        let mut below = c;
        for _ in 0..gy.tiles {
            if FIRST == 0 && c.is_multiple_of(LINE) {
                expect::<O>(gy, below);
                below += O * gy.step;
            }
            let mut half = [[S::zero(); O]; ROWS];
            for j in 0..O {
                set_column::<S, P, O, FIRST>(&mut half, j, B::grad_output::<S>(columns.next::<S>()));
            }
            let mut to_row = z;
            for r in 0..ROWS {
                if FIRST + r < P {
                    let numbers = B::grad_output::<S>(half[r]);
                    for j in 0..P {
                        let z = planes.at(to_row, j);
                        S::store(z, numbers[j]);
                        // The next tile's, as in `filter`.
                        prefetch(z.wrapping_add(width * S::LANES));
                    }
                    to_row = opaque_at(to_row.wrapping_add(P * to.plane));
                }
            }
            z = opaque_at(z.wrapping_add(width * S::LANES));
        }
    }
}

#[inline(always)]
pub(super) unsafe fn grad_filter<S: Simd, B: Bilinear<I, P, O>, const I: usize, const P: usize, const O: usize>(
    m: *const f32,
    plane: usize,
    w: &Filters,
    add: bool,
) {
    unsafe {
        let (mut taps, mut lane_by_lane) = (Taps::new(), Taps::new());
        let (taps, lane_by_lane) = (taps.0.as_mut_ptr(), lane_by_lane.0.as_mut_ptr());
        let planes = Spaced::new(P * plane);
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
                        prefetch(from.wrapping_add(2 * w.width));
                    }
                    m = m.wrapping_add(opaque(plane));
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
                let (to, step) = if add { (lane_by_lane, 9) } else { (first, w.steps[1]) };
                for tap in (0..9).step_by(S::LANES) {
                    let count = S::LANES.min(9 - tap);
                    S::transpose(taps.add(tap * S::LANES), S::LANES, count, lanes, to.wrapping_add(tap), step);
                }
                if add {
                    for lane in 0..lanes {
                        for tap in 0..9 {
                            *first.wrapping_add(lane * w.steps[1] + tap) += *lane_by_lane.add(lane * 9 + tap);
                        }
                    }
                }
            }
        }
    }
}
