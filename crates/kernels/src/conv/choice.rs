//! Which algorithm runs which shape.

use std::sync::OnceLock;

use super::{Geometry, channelwise, line, winograd};
use crate::simd::Kernels;
use crate::simd::transform::Transforms;

/// A way to compute a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Products straight on the pictures; covers every shape.
    Direct,
    /// Channel by channel; covers depthwise convolutions.
    Depthwise,
    /// F(2x2, 3x3); covers 3x3 kernels with stride 1.
    F2,
    /// F(4x4, 3x3); the same, with a larger rounding error.
    F4,
    /// The Toeplitz product for 2x2 pictures.
    Two,
    /// F(4, 3) along lines; covers 3x3 kernels with stride 1 and few channels. The input's gradient is direct.
    Line,
}

/// One of the three products of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The convolution itself.
    Forward,
    /// The gradient of its input.
    GradInput,
    /// The gradient of its weight.
    GradWeight,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Algorithm; 6] =
        [Algorithm::Direct, Algorithm::Depthwise, Algorithm::F2, Algorithm::F4, Algorithm::Two, Algorithm::Line];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Direct => "direct",
            Algorithm::Depthwise => "depthwise",
            Algorithm::F2 => "f2",
            Algorithm::F4 => "f4",
            Algorithm::Two => "two",
            Algorithm::Line => "line",
        }
    }

    /// Whether it can run `g` at all.
    pub fn covers(self, g: &Geometry) -> bool {
        match self {
            Algorithm::Direct => true,
            Algorithm::Depthwise => channelwise::covers(g),
            Algorithm::F2 | Algorithm::F4 => winograd::covers(g),
            Algorithm::Two => winograd::covers_two(g),
            Algorithm::Line => line::covers(g),
        }
    }

    /// Whether it rounds as a direct sum does.
    pub fn exact(self) -> bool {
        !matches!(self, Algorithm::F4 | Algorithm::Line)
    }

    /// Its tile transforms, if it has any.
    pub(super) fn transforms(self, kernels: &Kernels) -> Option<Transforms> {
        match self {
            Algorithm::Direct | Algorithm::Depthwise | Algorithm::Line => None,
            Algorithm::F2 => Some(kernels.f2),
            Algorithm::F4 => Some(kernels.f4),
            Algorithm::Two => Some(kernels.k3),
        }
    }
}

/// One line of a table: measured speeds for 3x3 kernels with stride 1 and a border of one.
struct Measured {
    /// Output picture's side.
    side: usize,
    /// Input channels and filters.
    channels: [usize; 2],
    /// Speed by direction and algorithm, in the order of [`TABLED`]; 0 where the algorithm does not cover the shape.
    speeds: [[f64; TABLED.len()]; 3],
}

/// The algorithms that tables compare.
pub const TABLED: [Algorithm; 5] = [Algorithm::Direct, Algorithm::F2, Algorithm::F4, Algorithm::Two, Algorithm::Line];

/// What `examples/conv_bench.rs --table` wrote; each file says where.
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

/// Share of the outputs that an algorithm computes which the picture needs, per side.
fn used(algorithm: Algorithm, outputs: usize) -> f64 {
    let tile = match algorithm {
        Algorithm::F2 => 2,
        Algorithm::F4 => 4,
        _ => 1,
    };
    outputs as f64 / outputs.next_multiple_of(tile) as f64
}

/// The algorithm for one direction of `g` on the instruction set called `set`.
///
/// A function of the shape alone: were it one of the batch or of the threads, they would change an image's bits.
pub(super) fn choose(set: &str, g: &Geometry, direction: Direction, exact: bool) -> Algorithm {
    if Algorithm::Depthwise.covers(g) {
        return Algorithm::Depthwise;
    }
    if !Algorithm::F2.covers(g) {
        return Algorithm::Direct;
    }
    // The nearest measured shape, every extent in octaves.
    let octaves = |a: usize, b: usize| (a.max(1) as f64 / b.max(1) as f64).log2().abs();
    let [h, w] = [g.output[1], g.output[2]];
    let side = ((h * w) as f64).sqrt().round() as usize;
    let distance =
        |m: &Measured| octaves(m.side, side) + octaves(m.channels[0], g.input[0]) + octaves(m.channels[1], g.output[0]);
    let Some(nearest) = table(set).iter().min_by(|a, b| distance(a).total_cmp(&distance(b))) else {
        return Algorithm::Direct;
    };
    let speed = |a: Algorithm| {
        let column = TABLED.iter().position(|t| *t == a).expect("a tabled algorithm");
        let measured = nearest.speeds[direction as usize][column];
        measured * used(a, h) * used(a, w) / used(a, nearest.side).powi(2)
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
    fn every_table_has_lines_that_name_what_they_cover() {
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
    fn choices_cover_their_shapes_and_exact_ones_are_exact() {
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

    /// What is known without a measurement: F4 wins by far on wide pictures, nothing pads a 1x1 picture to a tile.
    #[test]
    fn plain_cases() {
        for set in ["avx512", "avx2"] {
            for direction in DIRECTIONS {
                let wide = Geometry::of([64, 16, 16], Conv::same(64, 3));
                assert_eq!(choose(set, &wide, direction, false), Algorithm::F4);
                let point = Geometry::of([64, 1, 1], Conv::same(64, 3));
                assert_eq!(choose(set, &point, direction, false), Algorithm::Direct);
                let two = Geometry::of([128, 2, 2], Conv::same(128, 3));
                assert_eq!(choose(set, &two, direction, true), Algorithm::Two);
            }
        }
    }
}
