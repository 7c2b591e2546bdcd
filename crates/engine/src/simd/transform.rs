//! Bilinear algorithms on whole tiles: y = A^T [(G w G^T) . (B^T x B)] A, and its transposes for gradients.
//!
//! The transforms of a tile apply the one-dimensional ones of [`super::bilinear`] to its columns and then to its rows.

#![allow(clippy::needless_range_loop)] // Indices over small constants unroll; iterators over vectors do not always inline.

use super::Simd;
use super::bilinear::Bilinear;
use super::tile::Finish;

/// Room for a tile that is transformed along one axis.
///
/// Handed in, so that it is aligned memory and not whatever the compiler makes of spilled registers.
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
    /// `(x, channels, v, plane)`: the tile whose pixels start at `x[0..inputs^2]`, to `products^2` planes from `v` on,
    /// in whole vectors.
    pub input: unsafe fn(*const *const f32, usize, *mut f32, usize, *mut Half),
    /// `(m, plane, targets, channels, finish)`: `products^2` planes from `m` on to the pixels that start at `targets`.
    pub output: unsafe fn(*const f32, usize, &Targets, usize, &Finish, *mut Half),
    /// `(w, plane, count, u, plane)`: 9 planes of weights to `products^2`; `count` is a whole number of vectors.
    pub filter: unsafe fn(*const f32, usize, usize, *mut f32, usize),
    /// `(gy, channels, z)`: the transpose of `output` on the pixels that start at `gy[0..outputs^2]`, into packed panels.
    pub grad_output: unsafe fn(*const *const f32, usize, &PanelRow, *mut Half),
    /// `(m, plane, count, w, plane)`: the transpose of `filter`.
    pub grad_filter: unsafe fn(*const f32, usize, usize, *mut f32, usize),
}

/// Where a tile's outputs go; what is null is left out.
pub(crate) struct Targets {
    /// The pixels, row by row.
    pub y: [*mut f32; 16],
    /// The largest of every 2x2 pixels, row by row.
    pub pooled: [*mut f32; 4],
    /// Whether any of `pooled` is wanted.
    pub pools: bool,
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

#[inline(always)]
pub(super) unsafe fn input<S: Simd, B: Bilinear<I, P, O>, const I: usize, const P: usize, const O: usize>(
    x: *const *const f32,
    channels: usize,
    v: *mut f32,
    plane: usize,
    half: *mut Half,
) {
    unsafe {
        let half = half.cast::<f32>();
        let mut c = 0;
        while c < channels {
            let left = channels - c;
            for j in 0..I {
                let mut column = [S::zero(); I];
                for i in 0..I {
                    column[i] = S::load_up_to((*x.add(i * I + j)).wrapping_add(c), left);
                }
                let column = B::input::<S>(column);
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
                    S::store(v.add((i * P + j) * plane + c), row[j]);
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
    targets: &Targets,
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
                for j in 0..O {
                    let to = targets.y[i * O + j];
                    if !to.is_null() {
                        finish.store::<S>(to.wrapping_add(c), row[j], left);
                    }
                }
                if targets.pools {
                    for j in 0..if i % 2 == 1 { O / 2 } else { 0 } {
                        let to = targets.pooled[i / 2 * (O / 2) + j];
                        if !to.is_null() {
                            let largest = S::pick(S::pick(above[2 * j], above[2 * j + 1]), row[2 * j]);
                            S::store_up_to(to.wrapping_add(c), S::pick(largest, row[2 * j + 1]), left);
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
    w: *const f32,
    from_plane: usize,
    count: usize,
    u: *mut f32,
    to_plane: usize,
) {
    unsafe {
        let mut c = 0;
        while c < count {
            let mut half = [[S::zero(); 3]; P];
            for j in 0..3 {
                let mut column = [S::zero(); 3];
                for i in 0..3 {
                    column[i] = S::load(w.add((i * 3 + j) * from_plane + c));
                }
                let column = B::filter::<S>(column);
                for i in 0..P {
                    half[i][j] = column[i];
                }
            }
            for i in 0..P {
                let row = B::filter::<S>(half[i]);
                for j in 0..P {
                    S::store(u.add((i * P + j) * to_plane + c), row[j]);
                }
            }
            c += S::LANES;
        }
    }
}

#[inline(always)]
pub(super) unsafe fn grad_output<S: Simd, B: Bilinear<I, P, O>, const I: usize, const P: usize, const O: usize>(
    gy: *const *const f32,
    channels: usize,
    to: &PanelRow,
    half: *mut Half,
) {
    unsafe {
        let half = half.cast::<f32>();
        let vectors = channels.div_ceil(S::LANES);
        for vector in 0..vectors {
            let c = vector * S::LANES;
            let left = channels - c;
            let width = if vector + 1 == vectors && vectors % 2 == 1 { 1 } else { 2 };
            let z = to.z.add(((vector / 2 * 2) * to.rows + to.row * width + vector % 2) * S::LANES);
            for j in 0..O {
                let mut column = [S::zero(); O];
                for i in 0..O {
                    column[i] = S::load_up_to((*gy.add(i * O + j)).wrapping_add(c), left);
                }
                let column = B::grad_output::<S>(column);
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
                    S::store(z.add((i * P + j) * to.plane), row[j]);
                }
            }
        }
    }
}

#[inline(always)]
pub(super) unsafe fn grad_filter<S: Simd, B: Bilinear<I, P, O>, const I: usize, const P: usize, const O: usize>(
    m: *const f32,
    from_plane: usize,
    count: usize,
    w: *mut f32,
    to_plane: usize,
) {
    unsafe {
        let mut c = 0;
        while c < count {
            let mut half = [[S::zero(); P]; 3];
            for j in 0..P {
                let mut column = [S::zero(); P];
                for i in 0..P {
                    column[i] = S::load(m.add((i * P + j) * from_plane + c));
                }
                let column = B::grad_filter::<S>(column);
                for i in 0..3 {
                    half[i][j] = column[i];
                }
            }
            for i in 0..3 {
                let row = B::grad_filter::<S>(half[i]);
                for j in 0..3 {
                    S::store(w.add((i * 3 + j) * to_plane + c), row[j]);
                }
            }
            c += S::LANES;
        }
    }
}
