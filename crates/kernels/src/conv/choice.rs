//! The choice of an algorithm for a shape, from a table of measured speeds for each instruction set.

use std::sync::OnceLock;

use super::{Geometry, depthwise, f4_rows, winograd};
use crate::simd::Kernels;
use crate::simd::transform::Transforms;

/// An algorithm for a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// GEMMs directly on the images (implicit im2col); covers every shape.
    Direct,
    /// Channel by channel; covers depthwise convolutions with up to 64 taps.
    Depthwise,
    /// Winograd F(2x2, 3x3); covers dense 3x3 kernels with stride 1.
    F2,
    /// Winograd F(4x4, 3x3); covers the same shapes with fewer multiplications and a larger rounding error.
    F4,
    /// A bilinear algorithm for the Toeplitz product that a 3x3 kernel with padding 1 is on 2x2 images.
    Toeplitz2,
    /// One-dimensional Winograd F(4, 3) along image rows; covers dense 3x3 kernels with stride 1 and up to 4 input channels. The
    /// input gradient is computed directly.
    F4Rows,
}

/// One of the three computations of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The convolution itself.
    Forward,
    /// The gradient of the input.
    GradInput,
    /// The gradient of the weight.
    GradWeight,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Algorithm; 6] = [
        Algorithm::Direct,
        Algorithm::Depthwise,
        Algorithm::F2,
        Algorithm::F4,
        Algorithm::Toeplitz2,
        Algorithm::F4Rows,
    ];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Direct => "direct",
            Algorithm::Depthwise => "depthwise",
            Algorithm::F2 => "f2",
            Algorithm::F4 => "f4",
            Algorithm::Toeplitz2 => "toeplitz2",
            Algorithm::F4Rows => "f4-rows",
        }
    }

    /// Whether it can compute `g`.
    pub fn covers(self, g: &Geometry) -> bool {
        match self {
            Algorithm::Direct => true,
            Algorithm::Depthwise => depthwise::covers(g),
            Algorithm::F2 | Algorithm::F4 => winograd::covers(g),
            Algorithm::Toeplitz2 => winograd::covers_toeplitz2(g),
            Algorithm::F4Rows => f4_rows::covers(g),
        }
    }

    /// Whether its rounding error is no larger than a direct sum's.
    pub fn exact(self) -> bool {
        !matches!(self, Algorithm::F4 | Algorithm::F4Rows)
    }

    /// Its tile transforms, if it has any.
    pub(super) fn transforms(self, kernels: &Kernels) -> Option<Transforms> {
        match self {
            Algorithm::Direct | Algorithm::Depthwise | Algorithm::F4Rows => None,
            Algorithm::F2 => Some(kernels.f2),
            Algorithm::F4 => Some(kernels.f4),
            Algorithm::Toeplitz2 => Some(kernels.toeplitz2),
        }
    }
}

/// A row of a table: measured speeds for 3x3 kernels with stride 1 and padding 1.
struct Measured {
    /// Height and width of the image.
    side: usize,
    /// Input channels and filters.
    channels: [usize; 2],
    /// Speed by direction and algorithm, in the order of [`TABLED`]; 0 where the algorithm does not cover the shape.
    speeds: [[f64; TABLED.len()]; 3],
}

/// The algorithms that tables compare.
pub const TABLED: [Algorithm; 5] =
    [Algorithm::Direct, Algorithm::F2, Algorithm::F4, Algorithm::Toeplitz2, Algorithm::F4Rows];

/// The table that `examples/conv_bench.rs --table` wrote for an instruction set.
fn table(set: &str) -> &'static [Measured] {
    static TABLES: OnceLock<[Vec<Measured>; 3]> = OnceLock::new();
    let [avx512, avx2, portable] = TABLES.get_or_init(|| {
        let texts =
            [include_str!("choice/avx512.tsv"), include_str!("choice/avx2.tsv"), include_str!("choice/portable.tsv")];
        texts.map(parse)
    });
    match set {
        "avx512" => avx512,
        "avx2" => avx2,
        _ => portable,
    }
}

fn parse(text: &str) -> Vec<Measured> {
    let line = |line: &str| -> Option<Measured> {
        let numbers: Vec<f64> = line.split('\t').map(|n| n.parse().ok()).collect::<Option<_>>()?;
        let (shape, speeds) = numbers.split_at_checked(3)?;
        let speeds =
            std::array::from_fn(|d| std::array::from_fn(|a| speeds.get(d * TABLED.len() + a).copied().unwrap_or(0.0)));
        Some(Measured { side: shape[0] as usize, channels: [shape[1] as usize, shape[2] as usize], speeds })
    };
    text.lines().filter(|l| !l.starts_with('#')).filter_map(line).collect()
}

/// The fraction of an algorithm's computed outputs that lie inside the image, per axis: tiles at the edge are partial.
fn utilisation(algorithm: Algorithm, outputs: usize) -> f64 {
    let tile = match algorithm {
        Algorithm::F2 => 2,
        Algorithm::F4 => 4,
        _ => 1,
    };
    outputs as f64 / outputs.next_multiple_of(tile) as f64
}

/// The algorithm for one direction of `g` on the instruction set `set`.
///
/// It depends on the shape alone: if it depended on the batch size or the number of threads, they would change results.
pub(super) fn choose(set: &str, g: &Geometry, direction: Direction, exact: bool) -> Algorithm {
    if Algorithm::Depthwise.covers(g) {
        return Algorithm::Depthwise;
    }
    if !Algorithm::F2.covers(g) {
        return Algorithm::Direct;
    }
    // The nearest measured shape by the sum of log2 ratios.
    let log_ratio = |a: usize, b: usize| (a.max(1) as f64 / b.max(1) as f64).log2().abs();
    let [h, w] = [g.output[1], g.output[2]];
    let side = ((h * w) as f64).sqrt().round() as usize;
    let distance = |m: &Measured| {
        log_ratio(m.side, side) + log_ratio(m.channels[0], g.input[0]) + log_ratio(m.channels[1], g.output[0])
    };
    let Some(nearest) = table(set).iter().min_by(|a, b| distance(a).total_cmp(&distance(b))) else {
        return Algorithm::Direct;
    };
    let speed = |a: Algorithm| {
        let column = TABLED.iter().position(|t| *t == a).expect("a tabled algorithm");
        let measured = nearest.speeds[direction as usize][column];
        measured * utilisation(a, h) * utilisation(a, w) / utilisation(a, nearest.side).powi(2)
    };
    let allowed = TABLED.into_iter().filter(|a| a.covers(g) && (a.exact() || !exact));
    allowed.max_by(|a, b| speed(*a).total_cmp(&speed(*b))).unwrap_or(Algorithm::Direct)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::Conv;

    const DIRECTIONS: [Direction; 3] = [Direction::Forward, Direction::GradInput, Direction::GradWeight];

    #[test]
    fn tables_have_speeds_only_for_algorithms_that_cover_the_shape() {
        for set in ["avx512", "avx2", "portable"] {
            assert!(table(set).len() >= 10, "{set}");
            for m in table(set) {
                let g = Geometry::of([m.channels[0], m.side, m.side], Conv::same(m.channels[1], 3));
                for speeds in m.speeds {
                    for (a, speed) in TABLED.iter().zip(speeds) {
                        assert!(speed == 0.0 || a.covers(&g), "{set}: {a:?} for {g:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn choices_cover_their_shapes_and_respect_exact() {
        for set in ["avx512", "avx2", "portable"] {
            for g in super::super::tests::shapes() {
                for direction in DIRECTIONS {
                    assert!(choose(set, &g, direction, false).covers(&g));
                    let exact = choose(set, &g, direction, true);
                    assert!(exact.covers(&g) && exact.exact());
                }
            }
        }
    }

    /// Known without a measurement: F(4x4, 3x3) is fastest on large images, and a 1x1 image is never padded to a tile.
    #[test]
    fn clear_cases() {
        for set in ["avx512", "avx2"] {
            for direction in DIRECTIONS {
                let wide = Geometry::of([64, 16, 16], Conv::same(64, 3));
                assert_eq!(choose(set, &wide, direction, false), Algorithm::F4);
                let point = Geometry::of([64, 1, 1], Conv::same(64, 3));
                assert_eq!(choose(set, &point, direction, false), Algorithm::Direct);
                let two = Geometry::of([128, 2, 2], Conv::same(128, 3));
                assert_eq!(choose(set, &two, direction, true), Algorithm::Toeplitz2);
            }
        }
    }
}
