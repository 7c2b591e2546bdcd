//! Layers that copy elements into a picture of another extent: slice, pad, upsample.

use nettriage_net::{Padding, Shape};

use crate::op::{Context, Inputs, Op, Prepared, Reads};

/// Channels `start..start + output.channels` of the input.
pub(crate) struct Slice {
    input: usize,
    start: usize,
    output: usize,
    positions: usize,
}

impl Slice {
    /// Of `shape`.
    pub fn new(shape: Shape, start: usize, end: usize) -> Slice {
        Slice { input: shape.channels, start, output: end - start, positions: shape.height * shape.width }
    }
}

impl Op for Slice {
    fn reads(&self) -> Reads {
        Reads::default()
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        let x = x.get(0);
        cx.pool.chunks(y, self.output * self.positions, |i, y| {
            let x = x[i * self.input * self.positions..].chunks_exact(self.input);
            for (y, x) in y.chunks_exact_mut(self.output).zip(x) {
                y.copy_from_slice(&x[self.start..self.start + self.output]);
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
        cx.pool.chunks(gx, self.input * self.positions, |i, gx| {
            gx.fill(0.0);
            let gy = gy[i * self.output * self.positions..].chunks_exact(self.output);
            for (gx, gy) in gx.chunks_exact_mut(self.input).zip(gy) {
                gx[self.start..self.start + self.output].copy_from_slice(gy);
            }
        });
    }
}

/// A constant border around rows, columns and channels.
pub(crate) struct Pad {
    input: Shape,
    output: Shape,
    first: usize,
    padding: Padding,
    value: f32,
}

impl Pad {
    /// Of `input`, with `channels` before and after.
    pub fn new(input: Shape, channels: [usize; 2], padding: Padding, value: f32) -> Pad {
        let output = Shape {
            channels: input.channels + channels[0] + channels[1],
            height: input.height + padding.top + padding.bottom,
            width: input.width + padding.left + padding.right,
        };
        Pad { input, output, first: channels[0], padding, value }
    }

    /// Calls `f(start in the output image, start in the input image)` for every run of the input's channels.
    fn runs(&self, mut f: impl FnMut(usize, usize)) {
        for h in 0..self.input.height {
            for w in 0..self.input.width {
                let to = ((h + self.padding.top) * self.output.width + w + self.padding.left) * self.output.channels;
                f(to + self.first, (h * self.input.width + w) * self.input.channels);
            }
        }
    }
}

impl Op for Pad {
    fn reads(&self) -> Reads {
        Reads::default()
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        let (x, channels) = (x.get(0), self.input.channels);
        cx.pool.chunks(y, self.output.elements(), |i, y| {
            let x = &x[i * self.input.elements()..];
            y.fill(self.value);
            self.runs(|to, from| y[to..to + channels].copy_from_slice(&x[from..from + channels]));
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
            let gy = &gy[i * self.output.elements()..];
            self.runs(|from, to| gx[to..to + channels].copy_from_slice(&gy[from..from + channels]));
        });
    }
}

/// Every element repeated over `factor` rows and columns.
pub(crate) struct Upsample {
    input: Shape,
    factor: [usize; 2],
}

impl Upsample {
    /// Of `input`.
    pub fn new(input: Shape, factor: [usize; 2]) -> Upsample {
        Upsample { input, factor }
    }

    /// Calls `f(output position, input position)` for all positions of an image, in elements.
    fn runs(&self, mut f: impl FnMut(usize, usize)) {
        let Shape { channels, height, width } = self.input;
        let [rows, columns] = self.factor;
        for h in 0..height * rows {
            for w in 0..width * columns {
                f((h * width * columns + w) * channels, (h / rows * width + w / columns) * channels);
            }
        }
    }
}

impl Op for Upsample {
    fn reads(&self) -> Reads {
        Reads::default()
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        let (x, size, channels) = (x.get(0), self.input.elements(), self.input.channels);
        cx.pool.chunks(y, size * self.factor[0] * self.factor[1], |i, y| {
            let x = &x[i * size..];
            self.runs(|to, from| y[to..to + channels].copy_from_slice(&x[from..from + channels]));
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
        let (size, channels) = (self.input.elements(), self.input.channels);
        cx.pool.chunks(gx, size, |i, gx| {
            let gy = &gy[i * size * self.factor[0] * self.factor[1]..];
            gx.fill(0.0);
            self.runs(|from, to| {
                gx[to..to + channels].iter_mut().zip(&gy[from..from + channels]).for_each(|(gx, &g)| *gx += g);
            });
        });
    }
}
