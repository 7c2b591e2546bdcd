//! Layers of several inputs: sum, product, concatenation.

use nettriage_kernels::simd::vectorised;

use crate::layers::activation::mask_all;
use crate::op::{Context, Inputs, Op, Prepared, Reads};

/// Sum of all inputs, with the ReLU that may follow. A (C, 1, 1) input is spread over all positions.
pub(crate) struct Add {
    channels: usize,
    positions: usize,
    spread: Vec<bool>,
    relu: bool,
    /// Whether the gradient comes with ReLU's mask on.
    masked: bool,
}

impl Add {
    /// To `channels` at `positions` per image; `spread` marks the inputs of shape (C, 1, 1), where the output's is not.
    pub fn new(channels: usize, positions: usize, spread: Vec<bool>, relu: bool) -> Add {
        Add { channels, positions, spread, relu, masked: false }
    }
}

impl Op for Add {
    fn reads(&self) -> Reads {
        Reads { inputs: false, output: self.masks() }
    }

    fn masks(&self) -> bool {
        self.relu && !self.masked
    }

    fn comes_masked(&mut self) {
        self.masked = true;
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        let (channels, image) = (self.channels, self.channels * self.positions);
        cx.pool.chunks(y, image, |i, y| {
            vectorised(
                #[inline(always)]
                || {
                    for (k, &spread) in self.spread.iter().enumerate() {
                        let x = x.get(k);
                        if !spread {
                            let x = &x[i * image..][..image];
                            if k == 0 {
                                y.copy_from_slice(x);
                            } else {
                                y.iter_mut().zip(x).for_each(|(y, &x)| *y += x);
                            }
                        } else {
                            let x = &x[i * channels..][..channels];
                            for y in y.chunks_exact_mut(channels) {
                                for (y, &x) in y.iter_mut().zip(x) {
                                    *y = if k == 0 { x } else { *y + x };
                                }
                            }
                        }
                    }
                    if self.relu {
                        y.iter_mut().for_each(|y| *y = if *y < 0.0 { 0.0 } else { *y });
                    }
                },
            )
        });
    }

    fn passes(&self, k: usize) -> bool {
        !self.spread[k]
    }

    fn backward(&mut self, cx: &mut Context<'_>, _: Inputs<'_>, y: &[f32], _: &mut [f32], gy: &mut [f32]) {
        if self.masks() {
            mask_all(gy, y, cx.pool);
        }
    }

    fn backward_input(
        &mut self,
        cx: &mut Context<'_>,
        _: usize,
        _: Inputs<'_>,
        Prepared { gy, .. }: Prepared<'_>,
        gx: &mut [f32],
    ) {
        let (channels, image) = (self.channels, self.channels * self.positions);
        cx.pool.chunks(gx, channels, |i, gx| {
            gx.fill(0.0);
            for g in gy[i * image..][..image].chunks_exact(channels) {
                gx.iter_mut().zip(g).for_each(|(gx, &g)| *gx += g);
            }
        });
    }
}

/// Product of all inputs. A (C, 1, 1) input is spread over all positions.
pub(crate) struct Mul {
    channels: usize,
    positions: usize,
    spread: Vec<bool>,
}

impl Mul {
    /// As [`Add::new`].
    pub fn new(channels: usize, positions: usize, spread: Vec<bool>) -> Mul {
        Mul { channels, positions, spread }
    }

    /// Calls `f(place in the image, element of input k)` along image `i`.
    fn walk(&self, x: Inputs<'_>, k: usize, i: usize, mut f: impl FnMut(usize, f32)) {
        let (channels, image) = (self.channels, self.channels * self.positions);
        if self.spread[k] {
            let x = &x.get(k)[i * channels..][..channels];
            (0..self.positions).for_each(|p| x.iter().enumerate().for_each(|(c, &x)| f(p * channels + c, x)));
        } else {
            x.get(k)[i * image..][..image].iter().enumerate().for_each(|(e, &x)| f(e, x));
        }
    }
}

impl Op for Mul {
    fn reads(&self) -> Reads {
        Reads { inputs: true, output: false }
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        cx.pool.chunks(y, self.channels * self.positions, |i, y| {
            self.walk(x, 0, i, |e, x| y[e] = x);
            for k in 1..x.len() {
                self.walk(x, k, i, |e, x| y[e] *= x);
            }
        });
    }

    fn passes(&self, _: usize) -> bool {
        false
    }

    fn backward_input(
        &mut self,
        cx: &mut Context<'_>,
        k: usize,
        x: Inputs<'_>,
        Prepared { gy, .. }: Prepared<'_>,
        gx: &mut [f32],
    ) {
        let (channels, image) = (self.channels, self.channels * self.positions);
        let size = if self.spread[k] { channels } else { image };
        cx.pool.chunks(gx, size, |i, gx| {
            let gy = &gy[i * image..][..image];
            if self.spread[k] {
                gx.fill(0.0);
            }
            for (e, &g) in gy.iter().enumerate() {
                // The product of the other inputs, in their order.
                let mut product = g;
                for (other, &spread) in self.spread.iter().enumerate() {
                    if other != k {
                        let x = x.get(other);
                        product *= if spread { x[i * channels + e % channels] } else { x[i * image + e] };
                    }
                }
                if self.spread[k] {
                    gx[e % channels] += product;
                } else {
                    gx[e] = product;
                }
            }
        });
    }
}

/// Inputs side by side along the channels.
pub(crate) struct Concat {
    channels: usize,
    positions: usize,
    /// Of every input: its first channel in the output, and its channels.
    parts: Vec<(usize, usize)>,
}

impl Concat {
    /// Of inputs with so many channels each, at `positions` per image.
    pub fn new(channels: &[usize], positions: usize) -> Concat {
        let mut start = 0;
        let mut parts = Vec::with_capacity(channels.len());
        for &channels in channels {
            parts.push((start, channels));
            start += channels;
        }
        Concat { channels: start, positions, parts }
    }
}

impl Op for Concat {
    fn reads(&self) -> Reads {
        Reads::default()
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        let total = self.channels;
        cx.pool.chunks(y, total * self.positions, |i, y| {
            for (k, &(start, channels)) in self.parts.iter().enumerate() {
                let x = &x.get(k)[i * channels * self.positions..];
                for (y, x) in y.chunks_exact_mut(total).zip(x.chunks_exact(channels)) {
                    y[start..start + channels].copy_from_slice(x);
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
        k: usize,
        _: Inputs<'_>,
        Prepared { gy, .. }: Prepared<'_>,
        gx: &mut [f32],
    ) {
        let (total, (start, channels)) = (self.channels, self.parts[k]);
        cx.pool.chunks(gx, channels * self.positions, |i, gx| {
            let gy = &gy[i * total * self.positions..];
            for (gx, gy) in gx.chunks_exact_mut(channels).zip(gy.chunks_exact(total)) {
                gx.copy_from_slice(&gy[start..start + channels]);
            }
        });
    }
}
