//! Regression problems: which substitutes are solved from the same normal equations.

use nettriage_net::surgery::AffineMap;
use nettriage_net::{Activation, Shape};

use crate::least_squares::solve::{Part, parts};
use crate::least_squares::sums::{Rows, Sums, Window};

/// A substitute whose weights are solved.
pub struct FitRequest {
    /// Its input tensor.
    pub input: String,
    /// Shape of that.
    pub from: Shape,
    /// The tensor that its affine map approximates.
    pub target: String,
    /// Shape of that.
    pub to: Shape,
    /// The affine map.
    pub map: AffineMap,
    /// The activation after the affine map.
    pub closing: Option<Activation>,
    /// Whether the target is already behind that activation, because pooling follows it.
    pub closed: bool,
}

/// Weights of a substitute; those of the branch, if it is on a residual one.
#[derive(Clone, Debug)]
pub struct Solution {
    /// `[o, i / groups, k, k]`, flat.
    pub weight: Vec<f32>,
    /// `[o]`.
    pub bias: Vec<f32>,
    /// The chosen ridge, as a share of the mean diagonal element of Z'Z.
    pub ridge: f64,
    /// Squared error on the held-out images divided by the target's variance there, before any refit.
    pub error: f64,
}

/// Several substitutes with one input tensor and one window (kernel, stride, padding): they share the matrix Z'Z.
pub struct Regression {
    pub(super) input: String,
    pub(super) window: Window,
    pub(super) targets: Vec<Target>,
    /// Indices of the requests, with the patch elements and targets of each group of the convolution.
    pub(super) fits: Vec<(usize, Vec<Part>)>,
}

/// A tensor that some of the substitutes approximate.
pub(super) struct Target {
    pub(super) tensor: String,
    pub(super) channels: usize,
    /// Its first column among those of all targets.
    pub(super) first: usize,
}

impl Regression {
    /// Columns of all targets.
    pub(super) fn columns(&self) -> usize {
        self.targets.last().map_or(0, |t| t.first + t.channels)
    }

    /// Its input tensor.
    pub fn input(&self) -> &str {
        &self.input
    }

    /// Bytes of its sums, its rows and its solutions.
    pub fn bytes(&self) -> usize {
        let solutions: usize = self.fits.iter().flat_map(|(_, parts)| parts).map(part_bytes).sum();
        2 * Sums::bytes(&self.window, self.columns()) + Rows::bytes(&self.window, self.columns()) + solutions
    }

    /// Indices of the requests that it solves.
    pub fn requests(&self) -> impl Iterator<Item = usize> {
        self.fits.iter().map(|(index, _)| *index)
    }
}

/// Bytes of a part's maps (first, refitted, and as f32) and right-hand sides.
fn part_bytes(part: &Part) -> usize {
    (part.index.len() + 1) * (part.targets[1] - part.targets[0]) * 40
}

/// Groups requests into regressions. If rows have weights, these depend on the target, so a regression has one target only.
pub fn group(requests: &[FitRequest], weighted: bool) -> Vec<Regression> {
    let window = |r: &FitRequest| Window::of(&r.map.conv, r.from, r.to);
    // Largest kernels first, so that smaller ones find a regression whose patches contain theirs.
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(window(&requests[i]).patch()));
    let mut regressions: Vec<Regression> = Vec::new();
    for index in order {
        let request = &requests[index];
        let inner = window(request);
        let fits = |regression: &Regression| {
            let other = weighted && regression.targets.iter().any(|target| target.tensor != request.target);
            regression.input == request.input && regression.window.offset(&inner).is_some() && !other
        };
        let at = regressions.iter().position(fits).unwrap_or_else(|| {
            regressions.push(Regression {
                input: request.input.clone(),
                window: inner,
                targets: Vec::new(),
                fits: Vec::new(),
            });
            regressions.len() - 1
        });
        let regression = &mut regressions[at];
        let first = match regression.targets.iter().find(|t| t.tensor == request.target) {
            Some(target) => target.first,
            None => {
                let first = regression.columns();
                let target = Target { tensor: request.target.clone(), channels: request.to.channels, first };
                regression.targets.push(target);
                first
            }
        };
        let offset = regression.window.offset(&inner).unwrap_or_default();
        regression.fits.push((index, parts(&regression.window, offset, &request.map, request.to.channels, first)));
    }
    regressions
}
