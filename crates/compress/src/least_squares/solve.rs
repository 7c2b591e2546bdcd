//! Ridge regression from accumulated sums, its ridge chosen on held-out images (Hoerl and Kennard, 1970).
//!
//! With Z the patches and T the targets, both centred, W = (Z'Z + lambda I)^-1 Z'T and b = mean(t) - W' mean(z), where
//! lambda is a share of the mean diagonal element of Z'Z. On a residual branch the target is t - x with x the input at the
//! output's own position. That is an element of z, so that Z'(T - X) is Z'T less some columns of Z'Z.

use faer::linalg::solvers::{Llt, Solve};
use faer::{Mat, Side};
use nettriage_net::surgery::AffineMap;

use super::separable::separable;
use super::sums::{Sums, Window};

/// The ridges tried, as shares of the mean diagonal element of Z'Z.
pub const RIDGES: [f64; 6] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1];

/// Which patch elements and which targets belong together: all of a dense convolution's, or those of one group.
#[derive(Clone, Debug)]
pub struct Part {
    /// Rows of the sums, without that of the ones.
    pub index: Vec<usize>,
    /// First and one past the last column of the targets.
    pub targets: [usize; 2],
    /// On a residual branch: for each target the place in `index` of the input at its own position.
    pub own: Option<Vec<usize>>,
    /// Of a separable convolution, its kernel positions.
    pub separable: Option<usize>,
}

/// The parts of a convolution, one per group: its first tap is at `offset` in `window`, its first target in column
/// `first`.
pub fn parts(window: &Window, offset: [usize; 2], map: &AffineMap, filters: usize, first: usize) -> Vec<Part> {
    let conv = &map.conv;
    let (channels, per_group, per) =
        (window.input.channels, window.input.channels / conv.groups, filters / conv.groups);
    let index = |group: usize| -> Vec<usize> {
        let taps = (0..conv.kernel[0]).flat_map(|y| (0..conv.kernel[1]).map(move |x| (y, x)));
        let tap = |(y, x): (usize, usize)| ((offset[0] + y) * window.kernel[1] + offset[1] + x) * channels;
        taps.flat_map(|at| (group * per_group..(group + 1) * per_group).map(move |c| tap(at) + c)).collect()
    };
    let targets = |group: usize| [first + group * per, first + (group + 1) * per];
    // A residual branch has as many filters as channels, and its own position is behind the padding.
    let centre = (conv.padding.top * conv.kernel[1] + conv.padding.left) * per_group;
    let own = map.skip.then(|| (centre..centre + per).collect::<Vec<_>>());
    let separable = map.separable.then_some(conv.kernel[0] * conv.kernel[1]);
    let part = |group| Part { index: index(group), targets: targets(group), own: own.clone(), separable };
    (0..conv.groups).map(part).collect()
}

/// An affine map from patches to targets.
#[derive(Clone, Debug)]
pub struct Affine {
    /// Patch elements x targets.
    pub weight: Mat<f64>,
    /// One per target.
    pub bias: Vec<f64>,
}

impl Affine {
    /// Appends its filters as a convolution has them, `[o, i / groups, k, k]` and `[o]`; `taps` is the number of kernel positions.
    pub fn append(&self, taps: usize, weight: &mut Vec<f32>, bias: &mut Vec<f32>) {
        let channels = self.weight.nrows() / taps;
        for f in 0..self.weight.ncols() {
            for channel in 0..channels {
                weight.extend((0..taps).map(|tap| self.weight[(tap * channels + channel, f)] as f32));
            }
        }
        bias.extend(self.bias.iter().map(|&b| b as f32));
    }
}

/// Z'Z of some patch elements, centred, with what centring needs.
pub struct System {
    /// Both triangles.
    gram: Mat<f64>,
    mean: Vec<f64>,
    rows: f64,
}

impl System {
    /// From the sums of one or several sets of rows.
    pub fn new(sums: &[&Sums], index: &[usize]) -> System {
        let at = |a: usize, b: usize| -> f64 { sums.iter().map(|s| s.gram[(a.max(b), a.min(b))]).sum() };
        let ones = sums[0].gram.nrows() - 1;
        let rows = at(ones, ones);
        let mean: Vec<f64> = index.iter().map(|&a| at(a, ones) / rows).collect();
        let n = index.len();
        let mut gram = Mat::zeros(n, n);
        for b in 0..n {
            for a in b..n {
                let value = at(index[a], index[b]) - rows * mean[a] * mean[b];
                gram[(a, b)] = value;
                gram[(b, a)] = value;
            }
        }
        System { gram, mean, rows }
    }

    /// The number of patch elements.
    pub fn unknowns(&self) -> usize {
        self.mean.len()
    }

    /// Z'T, centred; `cross` has a row for every element and one for the ones.
    pub fn right(&self, cross: impl Fn(usize, usize) -> f64, targets: usize) -> (Mat<f64>, Vec<f64>) {
        let n = self.mean.len();
        let means: Vec<f64> = (0..targets).map(|f| cross(n, f) / self.rows).collect();
        let right = Mat::from_fn(n, targets, |a, f| cross(a, f) - self.rows * self.mean[a] * means[f]);
        (right, means)
    }

    /// Z'T of a part with these patch elements, from the sums of one or several sets of rows; Z'(T - X) on a residual branch.
    pub fn side(&self, sums: &[&Sums], part: &Part) -> (Mat<f64>, Vec<f64>) {
        self.side_of(sums, part, &(0..part.targets[1] - part.targets[0]).collect::<Vec<_>>())
    }

    /// Z'T of some of the part's targets, likewise.
    pub fn side_of(&self, sums: &[&Sums], part: &Part, targets: &[usize]) -> (Mat<f64>, Vec<f64>) {
        let ones = sums[0].gram.nrows() - 1;
        let row = |a: usize| part.index.get(a).copied().unwrap_or(ones);
        let cross = |a: usize, f: usize| sums.iter().map(|s| s.cross[(row(a), part.targets[0] + targets[f])]).sum();
        let mut side = self.right(cross, targets.len());
        if let Some(own) = &part.own {
            self.subtract_input(&mut side, targets.iter().map(|&f| own[f]));
        }
        side
    }

    /// Makes Z'T and the means of T those of T - X, where X are these patch elements, one for each target.
    pub fn subtract_input(&self, (right, means): &mut (Mat<f64>, Vec<f64>), own: impl Iterator<Item = usize>) {
        for (f, own) in own.enumerate() {
            (0..right.nrows()).for_each(|a| right[(a, f)] -= self.gram[(a, own)]);
            means[f] -= self.mean[own];
        }
    }

    /// Z'Z, centred; both triangles.
    pub fn gram(&self) -> &Mat<f64> {
        &self.gram
    }

    /// The number on the diagonal for a share of its mean. Where the input never varies any gives zero weights; 1 keeps the
    /// system solvable.
    pub fn lambda(&self, ridge: f64) -> f64 {
        let n = self.mean.len();
        let trace: f64 = (0..n).map(|a| self.gram[(a, a)]).sum();
        if trace > 0.0 { ridge * trace / n as f64 } else { 1.0 }
    }

    /// The factor of Z'Z + lambda I; none where Z'Z is not finite, or not positive for its rounding.
    pub fn factor(&self, ridge: f64) -> Option<Llt<f64>> {
        let lambda = self.lambda(ridge);
        let mut gram = self.gram.clone();
        (0..self.mean.len()).for_each(|a| gram[(a, a)] += lambda);
        gram.llt(Side::Lower).ok()
    }

    /// The map that a factor gives for a right-hand side.
    pub fn solve(&self, factor: &Llt<f64>, right: &Mat<f64>, means: &[f64]) -> Affine {
        self.with_bias(factor.solve(right), means)
    }

    /// The map of a part, whose factor is that of `ridge`: [`System::solve`], made separable if the part is.
    pub fn solve_part(
        &self,
        part: &Part,
        ridge: f64,
        factor: &Llt<f64>,
        (right, means): &(Mat<f64>, Vec<f64>),
    ) -> Affine {
        let dense = self.solve(factor, right, means);
        match part.separable {
            Some(taps) => separable(self, &dense, right, means, ridge, taps),
            None => dense,
        }
    }

    /// The map of these weights whose outputs have the targets' means.
    pub fn with_bias(&self, weight: Mat<f64>, means: &[f64]) -> Affine {
        let mut map = Affine { weight, bias: vec![0.0; means.len()] };
        map.bias = means.iter().enumerate().map(|(f, mean)| mean - self.mean_output(&map, f)).collect();
        map
    }

    /// What a map leaves unexplained of targets, by its rows' right-hand side and means ([`System::right`]) and the sums of
    /// their squares: the sum of squared errors, and that of the targets about their means.
    pub fn unexplained(&self, map: &Affine, (right, means): &(Mat<f64>, Vec<f64>), squares: &[f64]) -> (f64, f64) {
        let variance = self.variance(map);
        let (mut error, mut total) = (0.0, 0.0);
        for (f, mean) in means.iter().enumerate() {
            let about = (squares[f] - self.rows * mean * mean).max(0.0);
            let cross: f64 = (0..right.nrows()).map(|a| map.weight[(a, f)] * right[(a, f)]).sum();
            let shift = map.bias[f] + self.mean_output(map, f) - mean;
            error += (about - 2.0 * cross + self.rows * (variance[f] + shift * shift)).max(0.0);
            total += about;
        }
        (error, total)
    }

    /// The mean of a map's output `f`, without its bias.
    pub fn mean_output(&self, map: &Affine, f: usize) -> f64 {
        self.mean.iter().enumerate().map(|(a, mean)| map.weight[(a, f)] * mean).sum()
    }

    /// The variance of each of the map's outputs.
    pub fn variance(&self, map: &Affine) -> Vec<f64> {
        let product = &self.gram * &map.weight;
        let inner = |f: usize| -> f64 { (0..product.nrows()).map(|a| map.weight[(a, f)] * product[(a, f)]).sum() };
        (0..product.ncols()).map(|f| (inner(f) / self.rows).max(0.0)).collect()
    }

    /// The map, scaled and shifted so that its outputs have these means and variances; an output that never varies stays as it is.
    pub fn matched(&self, map: &Affine, wanted: &[(f64, f64)]) -> Affine {
        let variance = self.variance(map);
        let mut scaled = map.clone();
        for (f, (mean, wanted)) in wanted.iter().enumerate() {
            if variance[f] <= 0.0 {
                continue;
            }
            let factor = (wanted / variance[f]).sqrt();
            (0..scaled.weight.nrows()).for_each(|a| scaled.weight[(a, f)] *= factor);
            let output = map.bias[f] + self.mean_output(map, f);
            scaled.bias[f] = mean + factor * (map.bias[f] - output);
        }
        scaled
    }
}

/// Mean and variance of the targets of a part; of T - X on a residual branch.
pub fn moments(sums: &[&Sums], part: &Part) -> Vec<(f64, f64)> {
    let ones = sums[0].gram.nrows() - 1;
    let rows: f64 = sums.iter().map(|s| s.gram[(ones, ones)]).sum();
    let of = |f: usize| {
        let input = part.own.as_ref().map(|own| part.index[own[f]]);
        let f = part.targets[0] + f;
        let mean =
            sums.iter().map(|s| s.cross[(ones, f)] - input.map_or(0.0, |x| s.gram[(ones, x)])).sum::<f64>() / rows;
        let square = sums.iter().map(|s| squares(s, f, input)).sum::<f64>() / rows;
        (mean, (square - mean * mean).max(0.0))
    };
    (0..part.targets[1] - part.targets[0]).map(of).collect()
}

/// The sum of squares of a column of the targets, less that of the inputs `input` if there are any.
pub fn squares(sums: &Sums, target: usize, input: Option<usize>) -> f64 {
    let less = |x: usize| 2.0 * sums.cross[(x, target)] - sums.gram[(x, x)];
    sums.squares[target] - input.map_or(0.0, less)
}
