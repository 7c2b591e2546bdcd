//! 2x2 max-pooling: forward, by itself or as the last part of a convolution's node, and there backward in place of what was pooled.

use nettriage_kernels::pool::{Chunks, Pool};
use nettriage_kernels::simd::{Simd, Task, dispatch};
use nettriage_net::{Shape, Window};

use crate::layers::channelwise::Coefficients;
use crate::layers::columns::{Span, Terms, spans};

/// Pictures `width` pooled pixels wide and of any height, each from 2x2 pixels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiles {
    /// Channels.
    pub channels: usize,
    /// Pooled columns.
    pub width: usize,
}

impl Tiles {
    /// Those of max-pooling from `input` to `output`, if it pools 2x2 tiles without remainder.
    pub fn of(input: Shape, output: Shape, window: Window) -> Option<Tiles> {
        let whole = input.height == 2 * output.height && input.width == 2 * output.width;
        (window == Window::square(2) && whole).then_some(Tiles { channels: output.channels, width: output.width })
    }

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
        // The places of a batch fit 32 bits, whose division takes half the time.
        let (place, width) = (place as u32, self.width as u32);
        (place / width) as usize * self.pair() + 2 * (place % width) as usize * self.channels
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
        pool.each(total.div_ceil(rows), parts, |task, (pooled, full)| f(task * rows, pooled, full));
    }

    /// y = the largest of each tile of f(x), channel by channel: x * scale + shift, with ReLU, where there is a norm.
    pub fn forward(&self, x: &[f32], norm: Option<(&[f32], &[f32], bool)>, y: &mut [f32], pool: &Pool) {
        let pair = self.pair();
        self.rows(pool, y, &mut [], |first, y, _| match norm {
            None => dispatch(Pooled::<false> {
                tiles: *self,
                x: &x[first * pair..],
                scale: &[],
                shift: &[],
                relu: false,
                y,
            }),
            Some((scale, shift, relu)) => {
                dispatch(Pooled::<true> { tiles: *self, x: &x[first * pair..], scale, shift, relu, y })
            }
        });
    }

    /// Puts the gradient of what was pooled in its place: `full`, of which `y` are the largest, becomes `gy` (times
    /// `scale`) at the first place of each largest and 0 elsewhere; with `relu` only where the largest is above 0.
    pub fn backward(&self, y: &[f32], gy: &[f32], scale: Option<&[f32]>, relu: bool, full: &mut [f32], pool: &Pool) {
        let row = self.row();
        self.rows(pool, &mut [], full, |first, _, full| {
            let (y, gy) = (&y[first * row..], &gy[first * row..]);
            dispatch(Spread { tiles: *self, y, gy, scale, relu, full });
        });
    }

    /// The gradient of the norm's input in place of `z`: g scale + z slope + constant, with g at the place of the largest.
    pub fn backward_norm<const RELU: bool>(&self, k: &Coefficients<'_>, gy: &[f32], z: &mut [f32], pool: &Pool) {
        let row = self.row();
        self.rows(pool, &mut [], z, |first, _, z| {
            dispatch(Unpooled::<RELU> { tiles: *self, k, gy: &gy[first * row..], z })
        });
    }
}

/// [`Tiles::forward`] of whole rows.
struct Pooled<'a, const NORM: bool> {
    tiles: Tiles,
    x: &'a [f32],
    scale: &'a [f32],
    shift: &'a [f32],
    relu: bool,
    y: &'a mut [f32],
}

impl<const NORM: bool> Task for Pooled<'_, NORM> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Pooled { tiles, x, scale, shift, relu, y } = self;
        let taps = tiles.taps();
        assert!(!NORM || [scale, shift].iter().all(|k| k.len() == tiles.channels));
        assert!(y.len().is_multiple_of(tiles.row()) && x.len() >= 4 * y.len());
        for place in 0..y.len() / tiles.channels {
            let start = tiles.start(place);
            for at in spans::<S>(tiles.channels) {
                // SAFETY: by the caller, and just checked.
                unsafe {
                    let mut v = [S::zero(); 4];
                    for t in 0..4 {
                        v[t] = at.stream::<S>(x, start + taps[t]);
                        if NORM {
                            v[t] = S::add(S::mul(v[t], at.load::<S>(scale, 0)), at.load::<S>(shift, 0));
                        }
                    }
                    let largest = S::max(S::max(S::max(v[0], v[1]), v[2]), v[3]);
                    let largest = if relu { S::relu(largest) } else { largest };
                    S::store_up_to(y.as_mut_ptr().add(place * tiles.channels + at.first), largest, at.count);
                }
            }
        }
    }
}

/// [`Tiles::backward_norm`] of whole rows.
struct Unpooled<'a, const RELU: bool> {
    tiles: Tiles,
    k: &'a Coefficients<'a>,
    gy: &'a [f32],
    z: &'a mut [f32],
}

impl<const RELU: bool> Task for Unpooled<'_, RELU> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Unpooled { tiles, k, gy, z } = self;
        let taps = tiles.taps();
        assert!([k.scale, k.shift, k.slope, k.constant].iter().all(|k| k.len() == tiles.channels));
        assert!(z.len().is_multiple_of(tiles.pair()) && 4 * gy.len() >= z.len());
        for place in 0..z.len() / 4 / tiles.channels {
            let start = tiles.start(place);
            for at in spans::<S>(tiles.channels) {
                // SAFETY: by the caller, and just checked.
                unsafe {
                    let (scale, shift) = (at.load::<S>(k.scale, 0), at.load::<S>(k.shift, 0));
                    let (slope, constant) = (at.load::<S>(k.slope, 0), at.load::<S>(k.constant, 0));
                    // Loops, not closures: those are not compiled for the instruction set.
                    let (mut from, mut v) = ([S::zero(); 4], [S::zero(); 4]);
                    for t in 0..4 {
                        from[t] = at.stream::<S>(z, start + taps[t]);
                        v[t] = S::add(S::mul(from[t], scale), shift);
                    }
                    let largest = S::max(S::max(S::max(v[0], v[1]), v[2]), v[3]);
                    let mut left = S::mul(at.stream::<S>(gy, place * tiles.channels), scale);
                    if RELU {
                        left = S::where_positive(largest, left);
                    }
                    for t in 0..4 {
                        let here = S::where_equal(v[t], largest, left);
                        let to = S::add(here, S::add(S::mul(from[t], slope), constant));
                        S::store_up_to(z.as_mut_ptr().add(start + taps[t] + at.first), to, at.count);
                        // The first of the largest takes it all.
                        left = S::sub(left, here);
                    }
                }
            }
        }
    }
}

/// [`Tiles::backward`] of whole rows.
struct Spread<'a> {
    tiles: Tiles,
    y: &'a [f32],
    gy: &'a [f32],
    scale: Option<&'a [f32]>,
    relu: bool,
    full: &'a mut [f32],
}

impl Task for Spread<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Spread { tiles, y, gy, scale, relu, full } = self;
        let taps = tiles.taps();
        assert!(scale.is_none_or(|scale| scale.len() == tiles.channels));
        assert!(full.len().is_multiple_of(tiles.pair()) && 4 * y.len() >= full.len() && 4 * gy.len() >= full.len());
        for place in 0..full.len() / 4 / tiles.channels {
            let start = tiles.start(place);
            for at in spans::<S>(tiles.channels) {
                // SAFETY: by the caller, and just checked.
                unsafe {
                    let largest = at.stream::<S>(y, place * tiles.channels);
                    let mut left = at.stream::<S>(gy, place * tiles.channels);
                    if relu {
                        left = S::where_positive(largest, left);
                    }
                    if let Some(scale) = scale {
                        left = S::mul(left, at.load::<S>(scale, 0));
                    }
                    for tap in taps {
                        let here = S::where_equal(at.stream::<S>(full, start + tap), largest, left);
                        S::store_up_to(full.as_mut_ptr().add(start + tap + at.first), here, at.count);
                        // The first of the largest takes it all.
                        left = S::sub(left, here);
                    }
                }
            }
        }
    }
}

/// For a norm between `z` and the pooling: sums of z - origin and of its square over all pixels. What the norm makes the largest
/// of a tile, whatever its scale turns out to be, is written to the data: the norm of a pooled pixel is that of this one.
pub(crate) struct Peaks<'a> {
    pub tiles: Tiles,
    pub z: &'a [f32],
    pub origin: &'a [f32],
    /// 1, or -1 where the norm's scale is negative.
    pub sign: &'a [f32],
}

impl Terms<2> for Peaks<'_> {
    fn check(&self, places: usize, channels: usize) {
        let whole_rows = places.next_multiple_of(self.tiles.width);
        assert!(u32::try_from(whole_rows).is_ok(), "see `Tiles::start`");
        assert!(channels == self.tiles.channels && self.z.len() >= 4 * whole_rows * channels);
        assert!([self.origin, self.sign].iter().all(|k| k.len() == channels));
    }

    #[inline(always)]
    unsafe fn add<S: Simd>(&self, row: usize, at: Span, data: *mut f32, [sum, square]: &mut [S::V; 2]) {
        let start = self.tiles.start(row);
        unsafe {
            let (origin, sign) = (at.load::<S>(self.origin, 0), at.load::<S>(self.sign, 0));
            let (taps, mut v) = (self.tiles.taps(), [S::zero(); 4]);
            for t in 0..4 {
                let z = at.stream::<S>(self.z, start + taps[t]);
                let d = S::sub(z, origin);
                *sum = S::add(*sum, d);
                *square = S::add(*square, S::mul(d, d));
                v[t] = S::mul(z, sign);
            }
            let largest = S::max(S::max(S::max(v[0], v[1]), v[2]), v[3]);
            S::store_up_to(data, S::mul(largest, sign), at.count);
        }
    }
}

/// As [`Largest`], from the pooled output: the place of the largest need not be found again.
pub(crate) struct Known<'a, const RELU: bool> {
    pub y: &'a [f32],
    pub gy: &'a [f32],
    /// What is added to the normalised values, and 1 / scale: z - mean = (y - bias) / scale.
    pub bias: &'a [f32],
    pub inverse: &'a [f32],
}

impl<const RELU: bool> Terms<2> for Known<'_, RELU> {
    fn check(&self, places: usize, channels: usize) {
        assert!([self.bias, self.inverse].iter().all(|k| k.len() == channels));
        assert!(self.y.len() >= places * channels && self.gy.len() >= places * channels);
    }

    #[inline(always)]
    unsafe fn add<S: Simd>(&self, row: usize, at: Span, _: *mut f32, [sum, product]: &mut [S::V; 2]) {
        let start = row * self.bias.len();
        unsafe {
            let (y, mut g) = (at.stream::<S>(self.y, start), at.stream::<S>(self.gy, start));
            if RELU {
                g = S::where_positive(y, g);
            }
            *sum = S::add(*sum, g);
            let distance = S::mul(S::sub(y, at.load::<S>(self.bias, 0)), at.load::<S>(self.inverse, 0));
            *product = S::add(*product, S::mul(g, distance));
        }
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
    fn check(&self, places: usize, channels: usize) {
        let whole_rows = places.next_multiple_of(self.tiles.width);
        assert!(u32::try_from(whole_rows).is_ok(), "see `Tiles::start`");
        assert!(channels == self.tiles.channels && self.z.len() >= 4 * whole_rows * channels);
        assert!([self.mean, self.scale, self.shift].iter().all(|k| k.len() == channels));
        assert!(self.gy.len() >= places * channels);
    }

    #[inline(always)]
    unsafe fn add<S: Simd>(&self, row: usize, at: Span, _: *mut f32, [sum, product]: &mut [S::V; 2]) {
        let start = self.tiles.start(row);
        unsafe {
            let (scale, shift) = (at.load::<S>(self.scale, 0), at.load::<S>(self.shift, 0));
            let (taps, mut z, mut v) = (self.tiles.taps(), [S::zero(); 4], [S::zero(); 4]);
            for t in 0..4 {
                z[t] = at.stream::<S>(self.z, start + taps[t]);
                v[t] = S::add(S::mul(z[t], scale), shift);
            }
            // The first of the largest, and what it comes from.
            let (mut largest, mut from) = (v[0], z[0]);
            for t in 1..4 {
                from = S::select(largest, v[t], from, z[t]);
                largest = S::max(largest, v[t]);
            }
            let mut g = at.stream::<S>(self.gy, row * self.tiles.channels);
            if RELU {
                g = S::where_positive(largest, g);
            }
            *sum = S::add(*sum, g);
            *product = S::add(*product, S::mul(g, S::sub(from, at.load::<S>(self.mean, 0))));
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
    fn check(&self, rows: usize, channels: usize) {
        assert!(channels == self.channels && self.gy.len() >= rows * channels);
        assert!(!self.relu || self.y.len() >= rows * channels);
    }

    #[inline(always)]
    unsafe fn add<S: Simd>(&self, row: usize, at: Span, _: *mut f32, [sum]: &mut [S::V; 1]) {
        unsafe {
            let mut g = at.stream::<S>(self.gy, row * self.channels);
            if self.relu {
                g = S::where_positive(at.load::<S>(self.y, row * self.channels), g);
            }
            *sum = S::add(*sum, g);
        }
    }
}
