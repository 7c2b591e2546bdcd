//! Pooling: largest element or mean of a window, mean of a region.

use nettriage_net::{Shape, Window};

use crate::layers::tiles::Tiles;
use crate::op::{Context, Inputs, Op, Prepared, Reads};

/// The rows (or columns) of the input that output place `o` sees, with padding cut off.
fn span(o: usize, stride: usize, kernel: usize, before: usize, extent: usize) -> std::ops::Range<usize> {
    let start = o * stride;
    start.saturating_sub(before).min(extent)..(start + kernel).saturating_sub(before).min(extent)
}

/// Channels that a block of the inner loops works on at once.
const LANES: usize = 16;

/// Largest element of a window. The gradient goes to its first place in row-major order, as in PyTorch, found again by comparison.
pub(crate) struct MaxPool {
    input: Shape,
    output: Shape,
    window: Window,
    /// Where it pools 2x2 tiles without remainder.
    tiles: Option<Tiles>,
}

impl MaxPool {
    /// From `input` to `output`.
    pub fn new(input: Shape, output: Shape, window: Window) -> MaxPool {
        MaxPool { input, output, window, tiles: Tiles::of(input, output, window) }
    }

    /// The input's rows and columns seen from an output place.
    fn spans(&self, oh: usize, ow: usize) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let Window { kernel, stride, padding } = self.window;
        let rows = span(oh, stride[0], kernel[0], padding.top, self.input.height);
        (rows, span(ow, stride[1], kernel[1], padding.left, self.input.width))
    }
}

impl Op for MaxPool {
    fn reads(&self) -> Reads {
        Reads { inputs: true, output: true }
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        let (x, channels, row) = (x.get(0), self.input.channels, self.output.width * self.output.channels);
        if let Some(tiles) = self.tiles {
            return tiles.forward(x, None, y, cx.pool);
        }
        cx.pool.chunks(y, row, |task, y| {
            let (i, oh) = (task / self.output.height, task % self.output.height);
            let x = &x[i * self.input.elements()..][..self.input.elements()];
            for (ow, y) in y.chunks_exact_mut(channels).enumerate() {
                y.fill(f32::NEG_INFINITY);
                let (rows, columns) = self.spans(oh, ow);
                for h in rows {
                    for w in columns.clone() {
                        let x = &x[(h * self.input.width + w) * channels..][..channels];
                        for (y, &x) in y.iter_mut().zip(x) {
                            *y = if x > *y || x.is_nan() { x } else { *y };
                        }
                    }
                }
            }
        });
    }

    fn passes(&self, _: usize) -> bool {
        false
    }

    fn backward_input(
        &mut self,
        cx: &mut Context<'_>,
        _: usize,
        x: Inputs<'_>,
        Prepared { y, gy, .. }: Prepared<'_>,
        gx: &mut [f32],
    ) {
        let (x, channels) = (x.get(0), self.input.channels);
        let (size, output) = (self.input.elements(), self.output.elements());
        cx.pool.chunks(gx, size, |i, gx| {
            let (x, y, gy) = (&x[i * size..][..size], &y[i * output..][..output], &gy[i * output..][..output]);
            gx.fill(0.0);
            for place in 0..self.output.height * self.output.width {
                let (rows, columns) = self.spans(place / self.output.width, place % self.output.width);
                for first in (0..channels).step_by(LANES) {
                    let lanes = LANES.min(channels - first);
                    let (y, gy) = (&y[place * channels + first..][..lanes], &gy[place * channels + first..][..lanes]);
                    let mut found = [false; LANES];
                    for h in rows.clone() {
                        for w in columns.clone() {
                            let at = (h * self.input.width + w) * channels + first;
                            let (x, gx) = (&x[at..at + lanes], &mut gx[at..at + lanes]);
                            for c in 0..lanes {
                                let hit = x[c] == y[c] && !found[c];
                                found[c] |= hit;
                                gx[c] += if hit { gy[c] } else { 0.0 };
                            }
                        }
                    }
                }
            }
        });
    }
}

/// One output place's region and what its sum is divided by.
struct Region {
    rows: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
    share: f32,
}

/// Mean of a region of the input for every output place: average pooling, adaptive and global.
pub(crate) struct AvgPool {
    input: Shape,
    regions: Vec<Region>,
}

impl AvgPool {
    /// The mean of a window; `count_padding` counts the padding as zeros.
    pub fn window(input: Shape, output: Shape, window: Window, count_padding: bool) -> AvgPool {
        let Window { kernel, stride, padding } = window;
        let mut regions = Vec::with_capacity(output.height * output.width);
        for oh in 0..output.height {
            for ow in 0..output.width {
                let rows = span(oh, stride[0], kernel[0], padding.top, input.height);
                let columns = span(ow, stride[1], kernel[1], padding.left, input.width);
                let count = if count_padding { kernel[0] * kernel[1] } else { rows.len() * columns.len() };
                regions.push(Region { rows, columns, share: 1.0 / count.max(1) as f32 });
            }
        }
        AvgPool { input, regions }
    }

    /// A grid of `output` regions, as PyTorch's adaptive pooling cuts them: from floor(i H / h) to ceil((i + 1) H / h).
    pub fn adaptive(input: Shape, output: Shape) -> AvgPool {
        let cut = |i: usize, from: usize, to: usize| i * from / to..((i + 1) * from).div_ceil(to);
        let mut regions = Vec::with_capacity(output.height * output.width);
        for oh in 0..output.height {
            for ow in 0..output.width {
                let rows = cut(oh, input.height, output.height);
                let columns = cut(ow, input.width, output.width);
                let share = 1.0 / (rows.len() * columns.len()) as f32;
                regions.push(Region { rows, columns, share });
            }
        }
        AvgPool { input, regions }
    }
}

impl Op for AvgPool {
    fn reads(&self) -> Reads {
        Reads::default()
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        let (x, channels) = (x.get(0), self.input.channels);
        cx.pool.chunks(y, channels * self.regions.len(), |i, y| {
            let x = &x[i * self.input.elements()..];
            for (y, region) in y.chunks_exact_mut(channels).zip(&self.regions) {
                y.fill(0.0);
                for h in region.rows.clone() {
                    for w in region.columns.clone() {
                        let x = &x[(h * self.input.width + w) * channels..][..channels];
                        y.iter_mut().zip(x).for_each(|(y, &x)| *y += x);
                    }
                }
                y.iter_mut().for_each(|y| *y *= region.share);
            }
        });
    }

    fn passes(&self, _: usize) -> bool {
        false
    }

    fn backward_input(
        &mut self,
        cx: &mut Context<'_>,
        _: usize,
        _: Inputs<'_>,
        Prepared { gy, .. }: Prepared<'_>,
        gx: &mut [f32],
    ) {
        let channels = self.input.channels;
        cx.pool.chunks(gx, self.input.elements(), |i, gx| {
            gx.fill(0.0);
            let gy = &gy[i * channels * self.regions.len()..];
            for (gy, region) in gy.chunks_exact(channels).zip(&self.regions) {
                for h in region.rows.clone() {
                    for w in region.columns.clone() {
                        let gx = &mut gx[(h * self.input.width + w) * channels..][..channels];
                        gx.iter_mut().zip(gy).for_each(|(gx, &g)| *gx += g * region.share);
                    }
                }
            }
        });
    }

    fn bytes(&self) -> usize {
        self.regions.len() * size_of::<Region>()
    }
}
