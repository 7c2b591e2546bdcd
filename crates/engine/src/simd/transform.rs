//! Bilinear algorithms on whole tiles: y = A^T [(G w G^T) . (B^T x B)] A, and its transposes for gradients.
//!
//! The transforms of a tile apply the one-dimensional ones of [`super::bilinear`] to its columns and then to its rows.

#![allow(clippy::needless_range_loop)] // Indices over small constants unroll; iterators over vectors do not always inline.

use super::bilinear::Bilinear;
use super::tile::Finish;
use super::{Simd, prefetch};

/// Room for a tile that is transformed along one axis.
///
/// Handed in as a plain pointer: of memory of its own, or behind a reference, the compiler would know that nothing else
/// writes to it, keep its values in registers, run out of these and spill them to memory that is not aligned.
#[repr(C, align(64))]
pub(crate) struct Half([f32; 36 * 16]);

impl Half {
    /// Zeros.
    pub fn new() -> Half {
        Half([0.0; 36 * 16])
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
    /// `(x, channels, v, plane)`: a tile of inputs to `products^2` planes from `v` on, in whole vectors.
    pub input: unsafe fn(&Source, usize, *mut f32, usize, *mut Half),
    /// `(m, plane, y, pooled, channels, finish)`: `products^2` planes from `m` on to the pixels of `y`, and the largest of
    /// every 2x2 of them to those of `pooled`.
    pub output: unsafe fn(*const f32, usize, &Target, &Target, usize, &Finish, *mut Half),
    /// `(w, u, plane)`: a panel of weights to `products^2` planes from `u` on.
    pub filter: unsafe fn(&Filters, *mut f32, usize),
    /// `(gy, channels, z)`: the transpose of `output`, into packed panels.
    pub grad_output: unsafe fn(&Source, usize, &PanelRow, *mut Half),
    /// `(m, plane, w, add)`: the transpose of `filter`, from `products^2` planes of a panel; `add` to what is there.
    pub grad_filter: unsafe fn(*const f32, usize, &Filters, bool),
}

/// Where the pixels of one tile come from.
pub(crate) struct Source {
    /// The first pixel of every row of the tile, even if that lies outside; of rows outside, a row of zeros.
    pub rows: [*const f32; 6],
    /// Floats between neighbouring pixels of a row.
    pub step: usize,
    /// The first column inside the picture and the first behind it; those outside count as zeros.
    pub columns: [usize; 2],
}

/// Where the pixels of one tile go.
pub(crate) struct Target {
    /// The first pixel; null where none is wanted.
    pub first: *mut f32,
    /// Floats between rows and between neighbouring pixels of a row.
    pub steps: [usize; 2],
    /// Rows and columns inside the picture; the others are left out.
    pub extents: [usize; 2],
}

impl Target {
    /// Nothing is wanted.
    pub const NONE: Target = Target { first: std::ptr::null_mut(), steps: [0; 2], extents: [0; 2] };
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

/// Where the row of one tile lies in a packed right-hand side: panels of two vectors, the last perhaps of one.
pub(crate) struct PanelRow {
    /// First element of the first panel in the first plane.
    pub z: *mut f32,
    /// Which row.
    pub row: usize,
    /// Rows of a panel.
    pub rows: usize,
    /// Distance between planes.
    pub plane: usize,
}

/// Column `column` of the first `R` rows of a tile, the channels from `c` on of which `left` are left.
#[inline(always)]
unsafe fn column<S: Simd, const R: usize>(x: &Source, column: usize, c: usize, left: usize) -> [S::V; R] {
    unsafe {
        let at = column * x.step + c;
        let mut values = [S::zero(); R];
        if (x.columns[0]..x.columns[1]).contains(&column) {
            if left >= S::LANES {
                for i in 0..R {
                    values[i] = S::load(x.rows[i].wrapping_add(at));
                }
            } else {
                for i in 0..R {
                    values[i] = S::load_part(x.rows[i].wrapping_add(at), left);
                }
            }
        }
        values
    }
}

#[inline(always)]
pub(super) unsafe fn input<S: Simd, B: Bilinear<I, P, O>, const I: usize, const P: usize, const O: usize>(
    x: &Source,
    channels: usize,
    v: *mut f32,
    plane: usize,
    half: *mut Half,
) {
    unsafe {
        let half = half.cast::<f32>();
        let mut c = 0;
        while c < channels {
            for j in 0..I {
                let column = B::input::<S>(column::<S, I>(x, j, c, channels - c));
                for i in 0..P {
                    S::store(half.add((i * I + j) * S::LANES), column[i]);
                }
            }
            for i in 0..P {
                let mut row = [S::zero(); I];
                for j in 0..I {
                    row[j] = S::load(half.add((i * I + j) * S::LANES));
                }
                let row = B::input::<S>(row);
                for j in 0..P {
                    let to = v.wrapping_add((i * P + j) * plane + c);
                    S::store(to, row[j]);
                    // The next vector or the next tile. Stores wait for their lines in order, and as many planes as there
                    // are products lie too far apart to be foreseen.
                    prefetch(to.wrapping_add(S::LANES));
                }
            }
            c += S::LANES;
        }
    }
}

#[inline(always)]
pub(super) unsafe fn output<S: Simd, B: Bilinear<I, P, O>, const I: usize, const P: usize, const O: usize>(
    m: *const f32,
    plane: usize,
    y: &Target,
    pooled: &Target,
    channels: usize,
    finish: &Finish,
    half: *mut Half,
) {
    unsafe {
        let half = half.cast::<f32>();
        let mut c = 0;
        while c < channels {
            let left = channels - c;
            for j in 0..P {
                let mut column = [S::zero(); P];
                for i in 0..P {
                    column[i] = S::load(m.add((i * P + j) * plane + c));
                }
                let column = B::output::<S>(column);
                for i in 0..O {
                    S::store(half.add((i * P + j) * S::LANES), column[i]);
                }
            }
            let mut above = [S::zero(); O];
            for i in 0..O {
                let mut row = [S::zero(); P];
                for j in 0..P {
                    row[j] = S::load(half.add((i * P + j) * S::LANES));
                }
                let row = finish.apply::<S, O>(B::output::<S>(row), c, left);
                if !y.first.is_null() && i < y.extents[0] {
                    let to = y.first.wrapping_add(i * y.steps[0] + c);
                    for j in 0..O {
                        if j < y.extents[1] {
                            finish.store::<S>(to.wrapping_add(j * y.steps[1]), row[j], left);
                        }
                    }
                }
                if !pooled.first.is_null() {
                    if i % 2 == 1 && i / 2 < pooled.extents[0] {
                        let to = pooled.first.wrapping_add(i / 2 * pooled.steps[0] + c);
                        for j in 0..O / 2 {
                            if j < pooled.extents[1] {
                                let largest = S::pick(S::pick(above[2 * j], above[2 * j + 1]), row[2 * j]);
                                let largest = S::pick(largest, row[2 * j + 1]);
                                S::store_up_to(to.wrapping_add(j * pooled.steps[1]), largest, left);
                            }
                        }
                    }
                    above = row;
                }
            }
            c += S::LANES;
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
        let mut taps = Half::new();
        let taps = taps.0.as_mut_ptr();
        for c in (0..w.width).step_by(S::LANES) {
            let lanes = S::LANES.min(w.columns.saturating_sub(c));
            for row in 0..w.rows {
                let first = w.first.wrapping_add(row * w.steps[0] + c * w.steps[1]);
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
                let u = u.wrapping_add(row * w.width + c);
                for i in 0..P {
                    let numbers = B::filter::<S>(half[i]);
                    for j in 0..P {
                        S::store(u.wrapping_add((i * P + j) * plane), numbers[j]);
                    }
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
    half: *mut Half,
) {
    unsafe {
        let half = half.cast::<f32>();
        let vectors = channels.div_ceil(S::LANES);
        for vector in 0..vectors {
            let c = vector * S::LANES;
            let width = if vector + 1 == vectors && vectors % 2 == 1 { 1 } else { 2 };
            let z = to.z.add(((vector / 2 * 2) * to.rows + to.row * width + vector % 2) * S::LANES);
            for j in 0..O {
                let column = B::grad_output::<S>(column::<S, O>(gy, j, c, channels - c));
                for i in 0..P {
                    S::store(half.add((i * O + j) * S::LANES), column[i]);
                }
            }
            for i in 0..P {
                let mut row = [S::zero(); O];
                for j in 0..O {
                    row[j] = S::load(half.add((i * O + j) * S::LANES));
                }
                let row = B::grad_output::<S>(row);
                for j in 0..P {
                    let z = z.wrapping_add((i * P + j) * to.plane);
                    S::store(z, row[j]);
                    // The next tile's, as in `input`.
                    prefetch(z.wrapping_add(width * S::LANES));
                }
            }
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
        let (mut taps, mut lane_by_lane) = (Half::new(), Half::new());
        let (taps, lane_by_lane) = (taps.0.as_mut_ptr(), lane_by_lane.0.as_mut_ptr());
        for c in (0..w.width).step_by(S::LANES) {
            let lanes = S::LANES.min(w.columns.saturating_sub(c));
            for row in 0..w.rows {
                let m = m.wrapping_add(row * w.width + c);
                let mut half = [[S::zero(); P]; 3];
                for j in 0..P {
                    let mut column = [S::zero(); P];
                    for i in 0..P {
                        column[i] = S::load(m.wrapping_add((i * P + j) * plane));
                    }
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
