//! Least squares: the weights of one convolution by ridge regression, from its inputs and targets batch by batch.
//!
//! The normal equations are accumulated (`sums`) and solved (`solve`), also for a separable convolution (`separable`) and for fewer
//! input channels (`eliminate`). A scan shares them between many substitutes (`scan::regression`).

mod eliminate;
mod separable;
pub(crate) mod solve;
pub(crate) mod sums;

use nettriage_net::Shape;
use nettriage_net::surgery::AffineMap;

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
    map: AffineMap,
    input: Shape,
    output: Shape,
    parts: Vec<Part>,
    rows: Rows,
    sums: Sums,
}

impl LeastSquares {
    /// No sums yet, for a map from `input` to `output`, not dilated: a convolution, or one on a residual branch, or separable.
    pub fn new(map: impl Into<AffineMap>, input: Shape, output: Shape) -> LeastSquares {
        let map = map.into();
        let (window, filters) = (Window::of(&map.conv, input, output), output.channels);
        let parts = parts(&window, [0, 0], &map, filters, 0);
        LeastSquares { map, input, output, parts, rows: Rows::new(window, filters), sums: Sums::new(&window, filters) }
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
        let channels = self.input.channels;
        let mut part = self.parts[0].clone();
        part.index.retain(|at| kept.binary_search(&(at % channels)).is_ok());
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

    /// Weight `[o, i / groups, k, k]` and bias `[o]`; none where an input is not finite. On a residual branch they are those of the
    /// branch. A separable convolution is given as the dense one that it is.
    ///
    /// With fewer rows than unknowns Z'Z is singular, and rounding may leave a small ridge too small to solve it. Then the ridge is
    /// raised tenfold until it does.
    pub fn solve(&self, ridge: f64) -> Option<(Vec<f32>, Vec<f32>)> {
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for part in &self.parts {
            let system = System::new(&[&self.sums], &part.index);
            let side = system.side(&[&self.sums], part);
            let ridges =
                std::iter::successors(Some(ridge), |ridge| Some(10.0 * ridge)).take_while(|ridge| *ridge <= 1.0);
            let (ridge, factor) = ridges.into_iter().find_map(|ridge| Some((ridge, system.factor(ridge)?)))?;
            let map = system.solve_part(part, ridge, &factor, &side);
            let [rows, columns] = self.map.conv.kernel;
            map.append(rows * columns, &mut weight, &mut bias);
        }
        Some((weight, bias))
    }
}

#[cfg(test)]
mod tests {
    use nettriage_net::{Conv, Padding};

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

    /// Inputs, and the outputs of a convolution and of its input added to it.
    fn with_input_added(conv: &Conv, shape: Shape, w: &[f32], b: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let x = noise(80 * shape.elements(), 5);
        let branch = convolve(conv, shape, shape, w, b, &x);
        let whole = x.iter().zip(&branch).map(|(x, y)| x + y).collect();
        (x, whole)
    }

    #[test]
    fn a_residual_branch_is_recovered_and_shrinks_to_zero() {
        let shape = Shape::new(4, 6, 5);
        for groups in [1, 2] {
            let conv = Conv { groups, ..Conv::same(4, 3) };
            let (w, b) = (noise(4 * 4 / groups * 9, 1), noise(4, 2));
            let (x, y) = with_input_added(&conv, shape, &w, &b);
            let solved = |map: AffineMap, ridge: f64| {
                let mut sums = LeastSquares::new(map, shape, shape);
                sums.add(&x, &y);
                sums.solve(ridge).unwrap()
            };
            let branch = AffineMap { skip: true, ..conv.into() };
            let (weight, bias) = solved(branch, 1e-6);
            let worst = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst(&weight, &w) < 1e-3 && worst(&bias, &b) < 1e-3, "{groups}: {}", worst(&weight, &w));
            // Without a ridge the whole is the branch with the input added. A ridge as large as the diagonal of Z'Z halves both, the
            // weight of the input in the whole too.
            let per_group = 4 / groups;
            for (ridge, input, tolerance) in [(1e-9, 1.0, 1e-4), (1.0, 0.5, 0.1)] {
                let [whole, added] = [conv.into(), branch].map(|map| solved(map, ridge).0);
                for (at, (whole, branch)) in whole.iter().zip(&added).enumerate() {
                    let (filter, channel, tap) = (at / 9 / per_group, at / 9 % per_group, at % 9);
                    let own = if channel == filter % per_group && tap == 4 { input } else { 0.0 };
                    assert!((whole - branch - own).abs() < tolerance, "{ridge}: {whole} {branch}");
                }
            }
        }
    }

    #[test]
    fn a_separable_convolution_is_recovered_and_is_no_worse_than_the_nearest_to_the_dense_one() {
        let (input, output) = (Shape::new(4, 6, 5), Shape::new(6, 3, 3));
        let conv = Conv { stride: [2; 2], ..Conv::same(6, 3) };
        let map = AffineMap { separable: true, ..conv.into() };
        let solved = |map: AffineMap, x: &[f32], y: &[f32]| {
            let mut sums = LeastSquares::new(map, input, output);
            sums.add(x, y);
            sums.solve(1e-6).unwrap()
        };
        let (d, p, b) = (noise(4 * 9, 1), noise(6 * 4, 2), noise(6, 3));
        let product: Vec<f32> = (0..6 * 4 * 9).map(|at| p[at / 9] * d[at / 9 % 4 * 9 + at % 9]).collect();
        let x = noise(120 * input.elements(), 4);
        let y = convolve(&conv, input, output, &product, &b, &x);
        let (weight, bias) = solved(map, &x, &y);
        let worst = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst(&weight, &product) < 1e-3 && worst(&bias, &b) < 1e-3, "{}", worst(&weight, &product));

        // Targets of a dense convolution, from channels that depend on each other.
        let dense = noise(6 * 4 * 9, 7);
        let mixed: Vec<f32> =
            x.chunks(4).flat_map(|x| [x[0], x[0] + 0.3 * x[1], x[1] - x[0] + 0.2 * x[2], x[3]]).collect();
        let y = convolve(&conv, input, output, &dense, &b, &mixed);
        let error = |weight: &[f32], bias: &[f32]| -> f64 {
            let fitted = convolve(&conv, input, output, weight, bias, &mixed);
            fitted.iter().zip(&y).map(|(a, b)| f64::from(a - b).powi(2)).sum()
        };
        let (weight, bias) = solved(map, &mixed, &y);
        let (d, p) = nettriage_net::init::separated(&solved(conv.into(), &mixed, &y).0, 6, 4, 9);
        let nearest: Vec<f32> = (0..6 * 4 * 9).map(|at| p[at / 9] * d[at / 9 % 4 * 9 + at % 9]).collect();
        let (own, other) = (error(&weight, &bias), error(&nearest, &bias));
        assert!(own > 0.0 && own < 0.9 * other, "{own} {other}");
        // It is a product: each channel's filters are multiples of one kernel.
        let (d, p) = nettriage_net::init::separated(&weight, 6, 4, 9);
        let again: Vec<f32> = (0..6 * 4 * 9).map(|at| p[at / 9] * d[at / 9 % 4 * 9 + at % 9]).collect();
        assert!(worst(&again, &weight) < 1e-5);
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
