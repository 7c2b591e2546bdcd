//! Convolution by plain loops: any shape, no kernels.

use super::{Epilogue, Geometry};
use crate::pool::Pool;

/// Weights as `[kernel rows][kernel columns][in / groups][filters]`, so that the innermost loop runs over filters.
pub(super) struct Plain {
    g: Geometry,
    weights: Vec<f32>,
}

impl Plain {
    pub fn new(g: &Geometry) -> Plain {
        Plain { g: *g, weights: vec![0.0; g.weight_len()] }
    }

    pub fn bytes(&self) -> usize {
        self.weights.len() * 4
    }

    pub fn set_weights(&mut self, oihw: &[f32]) {
        let (o, i) = (self.g.conv.filters, self.g.input[0] / self.g.conv.groups);
        let taps = self.g.conv.kernel[0] * self.g.conv.kernel[1];
        for f in 0..o {
            for c in 0..i {
                for t in 0..taps {
                    self.weights[(t * i + c) * o + f] = oihw[(f * i + c) * taps + t];
                }
            }
        }
    }

    /// Calls `f(output pixel, input pixel, tap)` for every tap inside the picture.
    fn taps(g: &Geometry, mut f: impl FnMut(usize, usize, usize)) {
        let c = &g.conv;
        for oh in 0..g.output[1] {
            for ow in 0..g.output[2] {
                for kh in 0..c.kernel[0] {
                    let Some(h) = (oh * c.stride[0] + kh * c.dilation[0]).checked_sub(c.padding.top) else { continue };
                    for kw in 0..c.kernel[1] {
                        let Some(w) = (ow * c.stride[1] + kw * c.dilation[1]).checked_sub(c.padding.left) else {
                            continue;
                        };
                        if h < g.input[1] && w < g.input[2] {
                            f(oh * g.output[2] + ow, h * g.input[2] + w, kh * c.kernel[1] + kw);
                        }
                    }
                }
            }
        }
    }

    pub fn forward(&self, x: &[f32], epilogue: Epilogue<'_>, y: &mut [f32], pool: &Pool) {
        let g = &self.g;
        let (o, ci) = (g.output[0], g.input[0]);
        let (og, ig) = (o / g.conv.groups, ci / g.conv.groups);
        pool.chunks(y, g.output_len(), |image, y| {
            let x = &x[image * g.input_len()..][..g.input_len()];
            y.fill(0.0);
            Self::taps(g, |to, from, tap| {
                for group in 0..g.conv.groups {
                    let sums = &mut y[to * o + group * og..][..og];
                    for c in 0..ig {
                        let value = x[from * ci + group * ig + c];
                        let row = &self.weights[(tap * ig + c) * o + group * og..][..og];
                        sums.iter_mut().zip(row).for_each(|(s, w)| *s += value * w);
                    }
                }
            });
            for pixel in y.chunks_mut(o) {
                for (f, v) in pixel.iter_mut().enumerate() {
                    if let Some(bias) = epilogue.bias {
                        *v += bias[f];
                    }
                    if let (Some(scale), Some(shift)) = (epilogue.scale, epilogue.shift) {
                        *v = *v * scale[f] + shift[f];
                    }
                    if epilogue.relu {
                        *v = v.max(0.0);
                    }
                }
            }
        });
    }

    pub fn grad_input(&self, gy: &[f32], gx: &mut [f32], pool: &Pool) {
        let g = &self.g;
        let (o, ci) = (g.output[0], g.input[0]);
        let (og, ig) = (o / g.conv.groups, ci / g.conv.groups);
        pool.chunks(gx, g.input_len(), |image, gx| {
            let gy = &gy[image * g.output_len()..][..g.output_len()];
            gx.fill(0.0);
            Self::taps(g, |to, from, tap| {
                for group in 0..g.conv.groups {
                    let grads = &gy[to * o + group * og..][..og];
                    for c in 0..ig {
                        let row = &self.weights[(tap * ig + c) * o + group * og..][..og];
                        gx[from * ci + group * ig + c] += grads.iter().zip(row).map(|(a, b)| a * b).sum::<f32>();
                    }
                }
            });
        });
    }

    /// One task a filter; images in order.
    pub fn grad_weight(&self, n: usize, x: &[f32], gy: &[f32], gw: &mut [f32], pool: &Pool) {
        let g = &self.g;
        let (o, ci) = (g.output[0], g.input[0]);
        let (og, ig) = (o / g.conv.groups, ci / g.conv.groups);
        let taps = g.conv.kernel[0] * g.conv.kernel[1];
        pool.chunks(gw, ig * taps, |f, gw| {
            let group = f / og;
            gw.fill(0.0);
            for image in 0..n {
                let (x, gy) = (&x[image * g.input_len()..], &gy[image * g.output_len()..]);
                Self::taps(g, |to, from, tap| {
                    let grad = gy[to * o + f];
                    for c in 0..ig {
                        gw[c * taps + tap] += grad * x[from * ci + group * ig + c];
                    }
                });
            }
        });
    }
}
