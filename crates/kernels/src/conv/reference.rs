//! Convolution in f64, directly from its definition: the reference that tests compare with. Slow.
//!
//! Images are N x H x W x C, weights `[filters, channels / groups, kernel rows, kernel columns]`.

use super::Geometry;

/// Calls `f(y index, x index, w index)` for every multiplication of the convolution of one image.
fn for_each_product(g: &Geometry, mut f: impl FnMut(usize, usize, usize)) {
    let ([ci, hi, wi], [co, ho, wo], c) = (g.input, g.output, g.conv);
    let (ig, og) = (ci / c.groups, co / c.groups);
    for o in 0..co {
        for i in 0..ig {
            for kh in 0..c.kernel[0] {
                for kw in 0..c.kernel[1] {
                    for oh in 0..ho {
                        for ow in 0..wo {
                            let h = (oh * c.stride[0] + kh * c.dilation[0]) as isize - c.padding.top as isize;
                            let w = (ow * c.stride[1] + kw * c.dilation[1]) as isize - c.padding.left as isize;
                            if h < 0 || w < 0 || h >= hi as isize || w >= wi as isize {
                                continue;
                            }
                            let y = (oh * wo + ow) * co + o;
                            let x = (h as usize * wi + w as usize) * ci + (o / og) * ig + i;
                            f(y, x, ((o * ig + i) * c.kernel[0] + kh) * c.kernel[1] + kw);
                        }
                    }
                }
            }
        }
    }
}

/// The forward convolution of `n` images.
pub fn forward(g: &Geometry, n: usize, x: &[f32], w: &[f32]) -> Vec<f64> {
    let mut out = vec![0.0; n * g.output_len()];
    for image in 0..n {
        let (x, out) = (&x[image * g.input_len()..], &mut out[image * g.output_len()..]);
        for_each_product(g, |iy, ix, iw| out[iy] += x[ix] as f64 * w[iw] as f64);
    }
    out
}

/// The input gradient of `n` images from the output gradient `gy`.
pub fn grad_input(g: &Geometry, n: usize, gy: &[f32], w: &[f32]) -> Vec<f64> {
    let mut out = vec![0.0; n * g.input_len()];
    for image in 0..n {
        let (gy, out) = (&gy[image * g.output_len()..], &mut out[image * g.input_len()..]);
        for_each_product(g, |iy, ix, iw| out[ix] += gy[iy] as f64 * w[iw] as f64);
    }
    out
}

/// The weight gradient, summed over `n` images, from the output gradient `gy`.
pub fn grad_weight(g: &Geometry, n: usize, x: &[f32], gy: &[f32]) -> Vec<f64> {
    let mut out = vec![0.0; g.weight_len()];
    for image in 0..n {
        let (x, gy) = (&x[image * g.input_len()..], &gy[image * g.output_len()..]);
        for_each_product(g, |iy, ix, iw| out[iw] += gy[iy] as f64 * x[ix] as f64);
    }
    out
}
