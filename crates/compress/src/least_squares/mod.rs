//! Least squares: the weights of one convolution by ridge regression, from its inputs and targets batch by batch.
//!
//! The normal equations are accumulated (`sums`) and solved (`solve`), also for fewer input channels (`eliminate`). A scan shares
//! them between many substitutes (`scan::regression`).

mod eliminate;
pub(crate) mod solve;
pub(crate) mod sums;

use nettriage_net::{Conv, Shape};

use solve::{Affine, Part, System, moments, parts};
use sums::{Positions, Rows, Sums, Window};

/// A convolution of some of the input channels.
pub(crate) struct Reduced {
    map: Affine,
    /// Mean of each output without its bias.
    pub mean: Vec<f64>,
    /// Variance of each output.
    pub variance: Vec<f64>,
}

impl Reduced {
    /// Weight `[o, i, k, k]`, flat, and bias `[o]`, of a kernel of `taps` positions.
    pub fn filters(&self, taps: usize) -> (Vec<f32>, Vec<f32>) {
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        self.map.append(taps, &mut weight, &mut bias);
        (weight, bias)
    }
}

/// Accumulates the patch and the target of every output position.
pub struct LeastSquares {
    conv: Conv,
    input: Shape,
    output: Shape,
    parts: Vec<Part>,
    rows: Rows,
    sums: Sums,
}

impl LeastSquares {
    /// No sums yet, for a convolution from `input` to `output`, not dilated.
    pub fn new(conv: Conv, input: Shape, output: Shape) -> LeastSquares {
        let (window, filters) = (Window::of(&conv, input, output), output.channels);
        let parts = parts(&window, [0, 0], &conv, filters, 0);
        LeastSquares { conv, input, output, parts, rows: Rows::new(window, filters), sums: Sums::new(&window, filters) }
    }

    /// Adds images: `x` is n x H x W x C of the input, `y` n x H x W x F of the target.
    pub fn add(&mut self, x: &[f32], y: &[f32]) {
        for (image, targets) in x.chunks_exact(self.input.elements()).zip(y.chunks_exact(self.output.elements())) {
            for (position, target) in targets.chunks_exact(self.output.channels).enumerate() {
                if self.rows.push(image, position, 1.0, |values| values.copy_from_slice(target)) {
                    self.flush();
                }
            }
        }
        self.flush();
    }

    /// As [`LeastSquares::add`], but only some positions of each image, drawn by its index; `first` is that of the first image.
    pub(crate) fn add_drawn(&mut self, x: &[f32], y: &[f32], first: usize, positions: &mut Positions) {
        let images = x.chunks_exact(self.input.elements()).zip(y.chunks_exact(self.output.elements()));
        for (index, (image, targets)) in (first..).zip(images) {
            for &position in positions.draw(index) {
                let at = position as usize * self.output.channels;
                let target = &targets[at..at + self.output.channels];
                if self.rows.push(image, position as usize, 1.0, |values| values.copy_from_slice(target)) {
                    self.sums.add(&self.rows, 1);
                    self.rows.clear();
                }
            }
        }
        self.flush();
    }

    /// Input channels in the order in which backward elimination leaves them out, the least needed first. The convolution is dense.
    pub(crate) fn elimination(&self, ridge: f64) -> Option<Vec<usize>> {
        let index = &self.parts[0].index;
        let system = System::new(&[&self.sums], index);
        let (right, _) = system.side(&[&self.sums], &self.parts[0]);
        let inverse = eliminate::inverse(&system, ridge)?;
        Some(eliminate::order(inverse, &right, self.input.channels))
    }

    /// The convolution of only the input channels `kept`, in ascending order, of least squares; none where an input is not finite.
    /// With `match_moments` mean and variance of each output are made those of its target. The convolution is dense.
    pub(crate) fn solve_channels(&self, kept: &[usize], ridge: f64, match_moments: bool) -> Option<Reduced> {
        let Part { index, targets } = &self.parts[0];
        let channels = self.input.channels;
        let part = Part {
            index: index.iter().copied().filter(|at| kept.binary_search(&(at % channels)).is_ok()).collect(),
            targets: *targets,
        };
        let sums = [&self.sums];
        let system = System::new(&sums, &part.index);
        let (right, means) = system.side(&sums, &part);
        let factor = system.factor(ridge)?;
        let mut map = system.solve(&factor, &right, &means);
        if match_moments {
            map = system.matched(&map, &moments(&sums, &part));
        }
        let variance = system.variance(&map);
        let mean = (0..means.len()).map(|f| system.mean_output(&map, f)).collect();
        Some(Reduced { map, mean, variance })
    }

    fn flush(&mut self) {
        self.sums.add(&self.rows, 1);
        self.rows.clear();
    }

    /// Weight `[o, i / groups, k, k]` and bias `[o]`; none where an input is not finite.
    ///
    /// With fewer rows than unknowns Z'Z is singular, and rounding may leave a small ridge too small to solve it. Then the ridge is
    /// raised tenfold until it does.
    pub fn solve(&self, ridge: f64) -> Option<(Vec<f32>, Vec<f32>)> {
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for part in &self.parts {
            let system = System::new(&[&self.sums], &part.index);
            let (right, means) = system.side(&[&self.sums], part);
            let ridges =
                std::iter::successors(Some(ridge), |ridge| Some(10.0 * ridge)).take_while(|ridge| *ridge <= 1.0);
            let factor = ridges.into_iter().find_map(|ridge| system.factor(ridge))?;
            let map = system.solve(&factor, &right, &means);
            map.append(self.conv.kernel[0] * self.conv.kernel[1], &mut weight, &mut bias);
        }
        Some((weight, bias))
    }
}

#[cfg(test)]
mod tests {
    use nettriage_net::Padding;

    use super::*;

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
    fn fewer_rows_than_unknowns_are_solved_by_a_larger_ridge() {
        // 64 rows for 9 x 64 unknowns, with channels that repeat each other: Z'Z has a rank far below its size.
        let (input, output, conv) = (Shape::new(64, 8, 8), Shape::new(2, 8, 8), Conv::same(2, 3));
        let mut equations = LeastSquares::new(conv, input, output);
        let x: Vec<f32> = (0..input.elements()).map(|i| 1e3 + ((i / 64 * 37) % 101) as f32).collect();
        let y: Vec<f32> = (0..output.elements()).map(|i| ((i / 2 * 37) % 101) as f32).collect();
        equations.add(&x, &y);
        let (weight, bias) = equations.solve(1e-12).expect("the inputs are finite");
        assert!(weight.iter().chain(&bias).all(|value| value.is_finite()));
        equations.add(&vec![f32::NAN; input.elements()], &y);
        assert_eq!(equations.solve(1e-12), None);
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
            let mut sums = LeastSquares::new(conv, input, output);
            // In two parts of unequal size: sums do not depend on how images come.
            let cut = 37;
            sums.add(&x[..cut * input.elements()], &y[..cut * output.elements()]);
            sums.add(&x[cut * input.elements()..], &y[cut * output.elements()..]);
            let (weight, bias) = sums.solve(1e-4).unwrap();
            let worst = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            // The ridge shrinks the solution by about 1e-4.
            assert!(worst(&weight, &w) < 2e-3, "{groups} groups: {}", worst(&weight, &w));
            assert!(worst(&bias, &b) < 2e-3);
        }
    }

    #[test]
    fn a_constant_input_gives_the_mean() {
        let shape = Shape::new(1, 2, 2);
        let mut sums = LeastSquares::new(Conv::same(1, 1), shape, shape);
        sums.add(&[3.0; 8], &[1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0]);
        let (weight, bias) = sums.solve(1e-4).unwrap();
        assert_eq!((weight[0], bias[0]), (0.0, 2.5));
    }
}
