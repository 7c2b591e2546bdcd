//! The closed-form substitute: ridge regression from the block's input to its output before the closing activation.
//!
//! With X the N x (C k k) matrix of input patches and Y the N x F matrix of targets, both centred,
//!
//!   W = (X'X + lambda I)^-1 X'Y,   b = mean(y) - W' mean(x),   lambda = [`RIDGE`] trace(X'X) / (C k k).
//!
//! X'X and X'Y are summed over batches in f64, so memory does not grow with the number of images.
//! (Hoerl and Kennard, Ridge Regression, Technometrics 12, 1970.)

use faer::linalg::matmul::matmul;
use faer::linalg::solvers::Solve;
use faer::{Accum, Mat, MatMut, Par, Side};
use nettriage_net::{Conv, Shape, Tensor};

use crate::Error;

/// The ridge relative to the mean diagonal element of X'X.
pub const RIDGE: f64 = 1e-4;

/// Rows of patches multiplied at a time.
const ROWS: usize = 2048;

/// Sums of products over patches and targets, one matrix a group of the convolution.
pub struct NormalEquations {
    conv: Conv,
    input: Shape,
    output: Shape,
    groups: Vec<Group>,
    rows: f64,
    patches: Mat<f64>,
    targets: Mat<f64>,
}

/// Of one group: Z'Z and Z'Y, where Z is X with a column of ones.
struct Group {
    gram: Mat<f64>,
    cross: Mat<f64>,
}

impl NormalEquations {
    /// No sums yet, for a convolution from `input` to `output`.
    pub fn new(conv: Conv, input: Shape, output: Shape) -> NormalEquations {
        let unknowns = input.channels / conv.groups * conv.kernel[0] * conv.kernel[1] + 1;
        let filters = output.channels / conv.groups;
        let group = || Group { gram: Mat::zeros(unknowns, unknowns), cross: Mat::zeros(unknowns, filters) };
        NormalEquations {
            conv,
            input,
            output,
            groups: (0..conv.groups).map(|_| group()).collect(),
            rows: 0.0,
            patches: Mat::zeros(ROWS, unknowns),
            targets: Mat::zeros(ROWS, filters),
        }
    }

    /// Adds images: `x` is n x H x W x C of the input, `y` n x H x W x F of the target.
    pub fn add(&mut self, x: &[f32], y: &[f32]) {
        let positions = y.len() / self.output.channels;
        for start in (0..positions).step_by(ROWS) {
            let rows = ROWS.min(positions - start);
            for group in 0..self.conv.groups {
                self.gather(x, y, group, start, rows);
                let patches = self.patches.as_ref().subrows(0, rows);
                let targets = self.targets.as_ref().subrows(0, rows);
                let Group { gram, cross } = &mut self.groups[group];
                let add = |sum: MatMut<'_, f64>, right| {
                    matmul(sum, Accum::Add, patches.transpose(), right, 1.0, Par::Seq);
                };
                add(gram.as_mut(), patches);
                add(cross.as_mut(), targets);
            }
        }
        self.rows += positions as f64;
    }

    /// Copies the patches and targets of `rows` output positions from `start` on.
    fn gather(&mut self, x: &[f32], y: &[f32], group: usize, start: usize, rows: usize) {
        let Conv { kernel, stride, padding, dilation, .. } = self.conv;
        let (per_group, filters) = (self.input.channels / self.conv.groups, self.targets.ncols());
        let (width, area) = (self.output.width, self.output.width * self.output.height);
        let inside = |at: usize, tap: usize, before: usize, extent: usize| {
            (at + tap).checked_sub(before).filter(|&p| p < extent)
        };
        for row in 0..rows {
            let (image, position) = ((start + row) / area, (start + row) % area);
            let (top, left) = (position / width * stride[0], position % width * stride[1]);
            let mut column = 0;
            for channel in group * per_group..(group + 1) * per_group {
                for ky in 0..kernel[0] {
                    let y = inside(top, ky * dilation[0], padding.top, self.input.height);
                    for kx in 0..kernel[1] {
                        let x_at = inside(left, kx * dilation[1], padding.left, self.input.width);
                        self.patches[(row, column)] = match (y, x_at) {
                            (Some(y), Some(x_at)) => {
                                let pixel = (image * self.input.height + y) * self.input.width + x_at;
                                f64::from(x[pixel * self.input.channels + channel])
                            }
                            _ => 0.0,
                        };
                        column += 1;
                    }
                }
            }
            self.patches[(row, column)] = 1.0;
            for filter in 0..filters {
                let at = (start + row) * self.output.channels + group * filters + filter;
                self.targets[(row, filter)] = f64::from(y[at]);
            }
        }
    }

    /// The convolution's weight `[filters, channels / groups, rows, columns]` and bias.
    pub fn solve(&self) -> Result<(Tensor, Vec<f32>), Error> {
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for Group { gram, cross } in &self.groups {
            let n = gram.nrows() - 1;
            // The last row of Z'Z and Z'Y holds the sums, which centre the rest.
            let mean = |column: usize| gram[(n, column)] / self.rows;
            let target_mean = |filter: usize| cross[(n, filter)] / self.rows;
            let mut centred = Mat::from_fn(n, n, |i, j| gram[(i, j)] - self.rows * mean(i) * mean(j));
            let right = Mat::from_fn(n, cross.ncols(), |i, f| cross[(i, f)] - self.rows * mean(i) * target_mean(f));
            let trace: f64 = (0..n).map(|i| centred[(i, i)]).sum();
            // Where the input never varies any ridge gives zero weights; 1 keeps the system solvable.
            let ridge = if trace > 0.0 { RIDGE * trace / n as f64 } else { 1.0 };
            for i in 0..n {
                centred[(i, i)] += ridge;
            }
            let factor = centred.llt(Side::Lower).map_err(|_| {
                Error::Plan("least squares: the block's input holds values that are not finite".to_owned())
            })?;
            let solution = factor.solve(&right);
            for f in 0..solution.ncols() {
                weight.extend((0..n).map(|i| solution[(i, f)] as f32));
                let shift: f64 = (0..n).map(|i| solution[(i, f)] * mean(i)).sum();
                bias.push((target_mean(f) - shift) as f32);
            }
        }
        let shape =
            [self.output.channels, self.input.channels / self.conv.groups, self.conv.kernel[0], self.conv.kernel[1]];
        Ok((Tensor::new(&shape, weight), bias))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nettriage_net::Padding;

    /// A convolution by its definition, NHWC.
    fn convolve(conv: &Conv, input: Shape, output: Shape, w: &[f32], b: &[f32], x: &[f32]) -> Vec<f32> {
        let per_group = input.channels / conv.groups;
        let filters = output.channels / conv.groups;
        let mut y = Vec::new();
        for image in x.chunks(input.elements()) {
            for (oy, ox) in (0..output.height).flat_map(|oy| (0..output.width).map(move |ox| (oy, ox))) {
                for f in 0..output.channels {
                    let mut sum = b[f];
                    for c in 0..per_group {
                        for (ky, kx) in (0..conv.kernel[0]).flat_map(|a| (0..conv.kernel[1]).map(move |b| (a, b))) {
                            let iy = (oy * conv.stride[0] + ky) as isize - conv.padding.top as isize;
                            let ix = (ox * conv.stride[1] + kx) as isize - conv.padding.left as isize;
                            if iy < 0 || ix < 0 || iy >= input.height as isize || ix >= input.width as isize {
                                continue;
                            }
                            let channel = f / filters * per_group + c;
                            let at = (iy as usize * input.width + ix as usize) * input.channels + channel;
                            let weight = ((f * per_group + c) * conv.kernel[0] + ky) * conv.kernel[1] + kx;
                            sum += w[weight] * image[at];
                        }
                    }
                    y.push(sum);
                }
            }
        }
        y
    }

    fn noise(n: usize, mut state: u32) -> Vec<f32> {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    #[test]
    fn recovers_a_convolution_from_its_inputs_and_outputs() {
        for (groups, stride) in [(1, 1), (2, 1), (1, 2)] {
            let input = Shape::new(4, 6, 5);
            let output = Shape::new(6, 6usize.div_ceil(stride), 5usize.div_ceil(stride));
            let conv = Conv { groups, stride: [stride; 2], padding: Padding::all(1), ..Conv::same(6, 3) };
            let w = noise(6 * 4 / groups * 9, 1);
            let b = noise(6, 2);
            let x = noise(120 * input.elements(), 3);
            let y = convolve(&conv, input, output, &w, &b, &x);
            let mut sums = NormalEquations::new(conv, input, output);
            // In two parts of unequal size: sums do not depend on how images come.
            let cut = 37;
            sums.add(&x[..cut * input.elements()], &y[..cut * output.elements()]);
            sums.add(&x[cut * input.elements()..], &y[cut * output.elements()..]);
            let (weight, bias) = sums.solve().unwrap();
            let worst = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            // The ridge shrinks the solution by about 1e-4.
            assert!(worst(&weight.data, &w) < 2e-3, "{groups} groups: {}", worst(&weight.data, &w));
            assert!(worst(&bias, &b) < 2e-3);
        }
    }

    #[test]
    fn a_constant_input_gives_the_mean() {
        let shape = Shape::new(1, 2, 2);
        let mut sums = NormalEquations::new(Conv::same(1, 1), shape, shape);
        sums.add(&[3.0; 8], &[1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0]);
        let (weight, bias) = sums.solve().unwrap();
        assert_eq!((weight.data[0], bias[0]), (0.0, 2.5));
    }
}
