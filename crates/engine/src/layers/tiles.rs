//! 2x2 max-pooling as the last part of a convolution's node: forward, and backward in place of what was pooled.

use crate::layers::channelwise::Coefficients;
use crate::layers::columns::{Terms, group};
use crate::pool::{Chunks, Pool};
use crate::simd::vectorised;

/// Pictures `width` pooled pixels wide and of any height, each from 2x2 pixels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiles {
    /// Channels.
    pub channels: usize,
    /// Pooled columns.
    pub width: usize,
}

/// The larger of two, the first if equal; NaN wins, as in PyTorch.
#[inline(always)]
fn pick(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}

impl Tiles {
    /// Elements of two unpooled rows.
    fn pair(&self) -> usize {
        4 * self.width * self.channels
    }

    /// Elements of a pooled row.
    fn row(&self) -> usize {
        self.width * self.channels
    }

    /// Start of the 2x2 pixels of the pooled pixel `place` (over all images); the others follow at [`Tiles::taps`].
    #[inline(always)]
    fn start(&self, place: usize) -> usize {
        let (row, column) = (place / self.width, place % self.width);
        row * self.pair() + 2 * column * self.channels
    }

    /// Distances of the four pixels from the first.
    #[inline(always)]
    fn taps(&self) -> [usize; 4] {
        let row = 2 * self.row();
        [0, self.channels, row, row + self.channels]
    }

    /// Calls `f(place, pooled row, pair of rows)` for all rows of all images, many at once.
    fn rows(
        &self,
        pool: &Pool,
        pooled: &mut [f32],
        full: &mut [f32],
        f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
    ) {
        let (row, pair) = (self.row(), self.pair());
        // Rows of about 16 Ki elements at a time.
        let rows = (super::CHUNK / pair).max(1);
        let total = if pooled.is_empty() { full.len() / pair } else { pooled.len() / row };
        let parts = (Chunks::new(pooled, rows * row), Chunks::new(full, rows * pair));
        pool.each(total.div_ceil(rows), parts, |task, (pooled, full)| {
            vectorised(
                #[inline(always)]
                || f(task * rows, pooled, full),
            );
        });
    }

    /// y = the largest of each tile of f(x), channel by channel: x * scale + shift, with ReLU, where there is a norm.
    pub fn forward(&self, x: &[f32], norm: Option<(&[f32], &[f32], bool)>, y: &mut [f32], pool: &Pool) {
        let (row, pair, channels) = (self.row(), self.pair(), self.channels);
        self.rows(
            pool,
            y,
            &mut [],
            #[inline(always)]
            |first, y, _| {
                for (r, y) in y.chunks_exact_mut(row).enumerate() {
                    let (above, below) = x[(first + r) * pair..][..pair].split_at(pair / 2);
                    let pixels = above.chunks_exact(2 * channels).zip(below.chunks_exact(2 * channels));
                    for (y, (above, below)) in y.chunks_exact_mut(channels).zip(pixels) {
                        let ((a, b), (c, d)) = (above.split_at(channels), below.split_at(channels));
                        let four = a.iter().zip(b).zip(c.iter().zip(d));
                        match norm {
                            None => {
                                for (y, ((&a, &b), (&c, &d))) in y.iter_mut().zip(four) {
                                    *y = pick(pick(pick(a, b), c), d);
                                }
                            }
                            Some((scale, shift, relu)) => {
                                let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
                                for ((y, ((&a, &b), (&c, &d))), (&s, &t)) in
                                    y.iter_mut().zip(four).zip(scale.iter().zip(shift))
                                {
                                    let v = pick(pick(pick(a * s + t, b * s + t), c * s + t), d * s + t);
                                    *y = if v < floor { floor } else { v };
                                }
                            }
                        }
                    }
                }
            },
        );
    }

    /// Puts the gradient of what was pooled in its place: `full`, of which `y` are the largest, becomes `gy` (times
    /// `scale`) at the first place of each largest and 0 elsewhere; with `relu` only where the largest is above 0.
    pub fn backward(&self, y: &[f32], gy: &[f32], scale: Option<&[f32]>, relu: bool, full: &mut [f32], pool: &Pool) {
        let (row, pair, channels) = (self.row(), self.pair(), self.channels);
        let bound = if relu { 0.0 } else { f32::NEG_INFINITY };
        self.rows(
            pool,
            &mut [],
            full,
            #[inline(always)]
            |first, _, full| {
                for (r, full) in full.chunks_exact_mut(pair).enumerate() {
                    let at = (first + r) * row;
                    let (above, below) = full.split_at_mut(pair / 2);
                    let pixels = above.chunks_exact_mut(2 * channels).zip(below.chunks_exact_mut(2 * channels));
                    let pooled = y[at..at + row].chunks_exact(channels).zip(gy[at..at + row].chunks_exact(channels));
                    for ((above, below), (y, gy)) in pixels.zip(pooled) {
                        let ((a, b), (c, d)) = (above.split_at_mut(channels), below.split_at_mut(channels));
                        let four = a.iter_mut().zip(b).zip(c.iter_mut().zip(d));
                        for (i, ((&y, &g), ((a, b), (c, d)))) in y.iter().zip(gy).zip(four).enumerate() {
                            let g = if y > bound { g } else { 0.0 };
                            let mut left = scale.map_or(g, |scale| g * scale[i]);
                            for tap in [a, b, c, d] {
                                let here = *tap == y;
                                *tap = if here { left } else { 0.0 };
                                left = if here { 0.0 } else { left };
                            }
                        }
                    }
                }
            },
        );
    }

    /// The gradient of the norm's input in place of `z`: g scale + z slope + constant, with g at the place of the largest.
    pub fn backward_norm<const RELU: bool>(&self, k: &Coefficients<'_>, gy: &[f32], z: &mut [f32], pool: &Pool) {
        let (row, pair, channels) = (self.row(), self.pair(), self.channels);
        self.rows(
            pool,
            &mut [],
            z,
            #[inline(always)]
            |first, _, z| {
                for (r, z) in z.chunks_exact_mut(pair).enumerate() {
                    let at = (first + r) * row;
                    let (above, below) = z.split_at_mut(pair / 2);
                    let pixels = above.chunks_exact_mut(2 * channels).zip(below.chunks_exact_mut(2 * channels));
                    for ((above, below), gy) in pixels.zip(gy[at..at + row].chunks_exact(channels)) {
                        let ((a, b), (c, d)) = (above.split_at_mut(channels), below.split_at_mut(channels));
                        let four = a.iter_mut().zip(b).zip(c.iter_mut().zip(d));
                        let maps = k.scale.iter().zip(k.shift).zip(k.slope.iter().zip(k.constant));
                        for ((&g, ((a, b), (c, d))), ((&s, &h), (&slope, &constant))) in gy.iter().zip(four).zip(maps) {
                            let v = [*a * s + h, *b * s + h, *c * s + h, *d * s + h];
                            let largest = pick(pick(pick(v[0], v[1]), v[2]), v[3]);
                            let mut left = if !RELU || largest > 0.0 { g * s } else { 0.0 };
                            for (tap, v) in [a, b, c, d].into_iter().zip(v) {
                                let here = v == largest;
                                *tap = (if here { left } else { 0.0 }) + (*tap * slope + constant);
                                left = if here { 0.0 } else { left };
                            }
                        }
                    }
                }
            },
        );
    }
}

/// For a norm (and `RELU`) between `z` and the pooling: sums over all pooled pixels of g and g (z - mean) at the place of the largest.
pub(crate) struct Largest<'a, const RELU: bool> {
    pub tiles: Tiles,
    pub z: &'a [f32],
    pub gy: &'a [f32],
    pub mean: &'a [f32],
    pub scale: &'a [f32],
    pub shift: &'a [f32],
}

impl<const RELU: bool> Terms<2> for Largest<'_, RELU> {
    #[inline(always)]
    fn add<const G: usize>(&self, row: usize, first: usize, _: &mut [f32], [sum, product]: &mut [[f32; G]; 2]) {
        let start = self.tiles.start(row) + first;
        let z = self.tiles.taps().map(|tap| group::<G>(self.z, start + tap));
        let (scale, shift) = (group::<G>(self.scale, first), group::<G>(self.shift, first));
        let (mean, gy) = (group::<G>(self.mean, first), group::<G>(self.gy, row * self.tiles.channels + first));
        for c in 0..G {
            // The first of the largest, as `pick` finds it.
            let (mut largest, mut at) = (z[0][c] * scale[c] + shift[c], z[0][c]);
            for z in &z[1..] {
                let v = z[c] * scale[c] + shift[c];
                let better = v > largest || v.is_nan();
                (largest, at) = (if better { v } else { largest }, if better { z[c] } else { at });
            }
            let g = if !RELU || largest > 0.0 { gy[c] } else { 0.0 };
            sum[c] += g;
            product[c] += g * (at - mean[c]);
        }
    }
}

/// The sum of a pooled gradient where the pooled output `y` passed a ReLU.
pub(crate) struct Passed<'a> {
    pub y: &'a [f32],
    pub gy: &'a [f32],
    pub channels: usize,
    pub relu: bool,
}

impl Terms<1> for Passed<'_> {
    #[inline(always)]
    fn add<const G: usize>(&self, row: usize, first: usize, _: &mut [f32], [sum]: &mut [[f32; G]; 1]) {
        let at = row * self.channels + first;
        let (y, g) = (group::<G>(self.y, at), group::<G>(self.gy, at));
        let bound = if self.relu { 0.0 } else { f32::NEG_INFINITY };
        for c in 0..G {
            sum[c] += if y[c] > bound { g[c] } else { 0.0 };
        }
    }
}
