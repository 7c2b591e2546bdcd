//! The normal equations: sums of products over patches and targets, all that closed-form weights need of the images.
//!
//! A window is a kernel with stride and padding on one input tensor. With z the patch of an output position, with a constant
//! one appended, and t the parent's output there, the sums are Z'Z and Z'T. A smaller kernel's patches are part of a larger
//! one's, so one window serves several kernels, and every target of the same height and width.

use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::prelude::*;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use nettriage_net::{Conv, Shape};
use rand::RngExt;

use nettriage_train::seed;

use crate::parallel::in_parallel;

/// Rows in one matrix product: within a product sums are in f32, between products in f64.
const ROWS: usize = 512;

/// Columns of a matrix product that one thread computes at a time.
const COLUMNS: usize = 1024;

/// A kernel with stride and padding on one input tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// Stride, rows and columns.
    pub stride: [usize; 2],
    /// Padding above and to the left.
    pub padding: [usize; 2],
    /// Shape of the input tensor.
    pub input: Shape,
    /// Rows and columns of the output.
    pub output: [usize; 2],
}

impl Window {
    /// The window of a convolution without dilation.
    pub fn of(conv: &Conv, input: Shape, output: Shape) -> Window {
        Window {
            kernel: conv.kernel,
            stride: conv.stride,
            padding: [conv.padding.top, conv.padding.left],
            input,
            output: [output.height, output.width],
        }
    }

    /// Elements of a patch, in the order (row, column, channel).
    pub fn patch(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.input.channels
    }

    /// Output positions of an image.
    pub fn positions(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// The first tap of `inner` in this window, if every patch of `inner` is part of this one's.
    pub fn offset(&self, inner: &Window) -> Option<[usize; 2]> {
        let same = self.stride == inner.stride && self.input == inner.input && self.output == inner.output;
        let along = |axis: usize| {
            let before = self.padding[axis].checked_sub(inner.padding[axis])?;
            (before + inner.kernel[axis] <= self.kernel[axis]).then_some(before)
        };
        if same { Some([along(0)?, along(1)?]) } else { None }
    }

    /// Copies the patch of an output position of one image (H x W x C) to `patch`.
    fn gather(&self, image: &[f32], position: usize, patch: &mut [f32]) {
        let channels = self.input.channels;
        let top = (position / self.output[1] * self.stride[0]) as isize - self.padding[0] as isize;
        let left = (position % self.output[1] * self.stride[1]) as isize - self.padding[1] as isize;
        for (ky, row) in patch.chunks_exact_mut(self.kernel[1] * channels).enumerate() {
            let y = top + ky as isize;
            if y < 0 || y >= self.input.height as isize {
                row.fill(0.0);
                continue;
            }
            for (kx, tap) in row.chunks_exact_mut(channels).enumerate() {
                let x = left + kx as isize;
                if x < 0 || x >= self.input.width as isize {
                    tap.fill(0.0);
                } else {
                    let at = (y as usize * self.input.width + x as usize) * channels;
                    tap.copy_from_slice(&image[at..at + channels]);
                }
            }
        }
    }
}

/// Output positions that are used of each image: all, or some drawn without replacement.
pub struct Positions {
    order: Vec<u32>,
    take: usize,
}

impl Positions {
    /// `take` of the `of` positions of each image.
    pub fn new(take: usize, of: usize) -> Positions {
        Positions { order: (0..of as u32).collect(), take: take.min(of) }
    }

    /// Those of one image, by its index: the same for every tensor of that size.
    pub fn draw(&mut self, image: usize) -> &[u32] {
        if self.take < self.order.len() {
            let mut rng = seed::rng("scanned positions", &[&image.to_string()]);
            // Starting from the same order every time, so that an image's positions depend only on its index.
            self.order.iter_mut().zip(0..).for_each(|(at, number)| *at = number);
            for k in 0..self.take {
                let other = rng.random_range(k..self.order.len());
                self.order.swap(k, other);
            }
        }
        &self.order[..self.take]
    }
}

/// Rows of patches and targets in f32, gathered for one matrix product.
pub struct Rows {
    window: Window,
    /// Columns of targets.
    targets: usize,
    count: usize,
    /// A row's patch and a one, then the next row's.
    patches: Vec<f32>,
    values: Vec<f32>,
}

impl Rows {
    /// No row yet.
    pub fn new(window: Window, targets: usize) -> Rows {
        let patches = vec![1.0; (window.patch() + 1) * ROWS];
        Rows { window, targets, count: 0, patches, values: vec![0.0; targets * ROWS] }
    }

    /// Bytes of [`Rows::new`].
    pub fn bytes(window: &Window, targets: usize) -> usize {
        (window.patch() + 1 + targets) * ROWS * 4
    }

    /// Adds a row, all of it times `scale` (the root of its weight); true if no further row fits.
    pub fn push(&mut self, image: &[f32], position: usize, scale: f32, mut value: impl FnMut(&mut [f32])) -> bool {
        let (width, at) = (self.window.patch() + 1, self.count);
        let patch = &mut self.patches[at * width..(at + 1) * width];
        self.window.gather(image, position, &mut patch[..width - 1]);
        patch[width - 1] = 1.0;
        let values = &mut self.values[at * self.targets..(at + 1) * self.targets];
        value(values);
        if scale != 1.0 {
            patch.iter_mut().chain(values).for_each(|element| *element *= scale);
        }
        self.count += 1;
        self.count == ROWS
    }

    /// The patches, with their ones, as (patch + 1) x rows.
    pub fn patches(&self) -> MatRef<'_, f32> {
        let width = self.window.patch() + 1;
        MatRef::from_column_major_slice(&self.patches[..width * self.count], width, self.count)
    }

    /// The targets, as targets x rows.
    pub fn values(&self) -> MatRef<'_, f32> {
        MatRef::from_column_major_slice(&self.values[..self.targets * self.count], self.targets, self.count)
    }

    /// Removes all rows.
    pub fn clear(&mut self) {
        self.count = 0;
    }
}

/// Z'Z and Z'T.
pub struct Sums {
    /// (patch + 1) x (patch + 1); the lower triangle only.
    pub gram: Mat<f64>,
    /// (patch + 1) x targets.
    pub cross: Mat<f64>,
    /// The targets' squares.
    pub squares: Vec<f64>,
    gram_part: Mat<f32>,
    cross_part: Mat<f32>,
}

impl Sums {
    /// Zeros.
    pub fn new(window: &Window, targets: usize) -> Sums {
        let n = window.patch() + 1;
        Sums {
            gram: Mat::zeros(n, n),
            cross: Mat::zeros(n, targets),
            squares: vec![0.0; targets],
            gram_part: Mat::zeros(n, n),
            cross_part: Mat::zeros(n, targets),
        }
    }

    /// Bytes of [`Sums::new`].
    pub fn bytes(window: &Window, targets: usize) -> usize {
        let n = window.patch() + 1;
        (n * n + n * targets) * 12
    }

    /// Adds the rows gathered, on `threads` threads; the sums do not depend on their number.
    pub fn add(&mut self, rows: &Rows, threads: usize) {
        let (patches, values) = (rows.patches(), rows.values());
        in_column_blocks(&mut self.gram, &mut self.gram_part, threads, &|first, sum, part| {
            let width = part.ncols();
            let own = patches.subrows(first, width);
            // The lower triangle of the block, and what is below.
            let (mut triangle, mut below) = part.split_at_row_mut(first).1.split_at_row_mut(width);
            triangular::matmul(
                triangle.rb_mut(),
                BlockStructure::TriangularLower,
                Accum::Replace,
                own,
                BlockStructure::Rectangular,
                own.transpose(),
                BlockStructure::Rectangular,
                1.0,
                Par::Seq,
            );
            let rest = patches.subrows(first + width, below.nrows());
            matmul(below.rb_mut(), Accum::Replace, rest, own.transpose(), 1.0, Par::Seq);
            let (mut upper_sum, lower_sum) = sum.split_at_row_mut(first).1.split_at_row_mut(width);
            for column in 0..width {
                let from = triangle.rb().subrows(column, width - column);
                add_column(upper_sum.rb_mut().subrows_mut(column, width - column), from, column);
            }
            add_columns(lower_sum, below.rb());
        });
        add_product(&mut self.cross, &mut self.cross_part, patches, values, threads);
        for row in 0..values.ncols() {
            let values = values.col(row);
            self.squares.iter_mut().zip(values.iter()).for_each(|(sum, &v)| *sum += f64::from(v) * f64::from(v));
        }
    }
}

/// Adds patches times targets, transposed, to `sum`, by way of `part`, on `threads` threads.
pub fn add_product(
    sum: &mut Mat<f64>,
    part: &mut Mat<f32>,
    patches: MatRef<'_, f32>,
    values: MatRef<'_, f32>,
    threads: usize,
) {
    in_column_blocks(sum, part, threads, &|first, sum, mut part| {
        let own = values.subrows(first, part.ncols());
        matmul(part.rb_mut(), Accum::Replace, patches, own.transpose(), 1.0, Par::Seq);
        add_columns(sum, part.rb());
    });
}

fn add_columns(mut sum: MatMut<'_, f64>, part: MatRef<'_, f32>) {
    for column in 0..part.ncols() {
        add_column(sum.rb_mut(), part, column);
    }
}

fn add_column(sum: MatMut<'_, f64>, part: MatRef<'_, f32>, column: usize) {
    sum.col_mut(column).iter_mut().zip(part.col(column).iter()).for_each(|(sum, &part)| *sum += f64::from(part));
}

/// The first column of a block, and its columns of two matrices.
type Block<'a> = (usize, MatMut<'a, f64>, MatMut<'a, f32>);

/// Calls `work` for every block of columns of two matrices of one shape.
fn in_column_blocks(
    sum: &mut Mat<f64>,
    part: &mut Mat<f32>,
    threads: usize,
    work: &(impl Fn(usize, MatMut<'_, f64>, MatMut<'_, f32>) + Sync),
) {
    let (mut sum, mut part) = (sum.as_mut(), part.as_mut());
    let mut blocks: Vec<Block<'_>> = Vec::new();
    let mut first = 0;
    while part.ncols() > 0 {
        let width = part.ncols().min(COLUMNS);
        let (own_sum, rest_of_sum) = sum.split_at_col_mut(width);
        let (own_part, rest_of_part) = part.split_at_col_mut(width);
        blocks.push((first, own_sum, own_part));
        (sum, part, first) = (rest_of_sum, rest_of_part, first + width);
    }
    in_parallel(blocks, threads, &|(first, sum, part)| work(first, sum, part));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(kernel: usize, stride: usize) -> Window {
        let input = Shape::new(3, 6, 5);
        let output = [6usize.div_ceil(stride), 5usize.div_ceil(stride)];
        Window { kernel: [kernel; 2], stride: [stride; 2], padding: [kernel / 2; 2], input, output }
    }

    #[test]
    fn patches_are_the_inputs_of_a_convolution() {
        let window = window(3, 2);
        let image: Vec<f32> = (0..90).map(|v| v as f32).collect();
        let mut patch = vec![9.0; window.patch()];
        // Position (1, 2) of 3 x 3 covers rows 1 to 3 and columns 3 to 5, the last outside.
        window.gather(&image, 5, &mut patch);
        let pixel = |y: usize, x: usize, c: usize| if x < 5 { ((y * 5 + x) * 3 + c) as f32 } else { 0.0 };
        let expected: Vec<f32> = (1..4)
            .flat_map(|y| (3..6).map(move |x| (y, x)))
            .flat_map(|(y, x)| (0..3).map(move |c| (y, x, c)))
            .map(|(y, x, c)| pixel(y, x, c))
            .collect();
        assert_eq!(patch, expected);
    }

    #[test]
    fn a_smaller_kernel_is_found_in_a_larger_one() {
        assert_eq!(window(5, 1).offset(&window(3, 1)), Some([1, 1]));
        assert_eq!(window(3, 1).offset(&window(5, 1)), None);
        assert_eq!(window(5, 2).offset(&window(3, 1)), None);
    }

    #[test]
    fn positions_do_not_repeat_and_depend_on_the_image_alone() {
        let mut positions = Positions::new(5, 9);
        let first = positions.draw(4).to_vec();
        positions.draw(5);
        assert_eq!(positions.draw(4), first);
        let distinct: std::collections::HashSet<u32> = first.iter().copied().collect();
        assert_eq!(distinct.len(), 5);
        assert_eq!(Positions::new(20, 9).draw(0).len(), 9);
    }

    #[test]
    fn sums_match_their_definition() {
        let window = window(3, 1);
        let mut rows = Rows::new(window, 2);
        let mut sums = Sums::new(&window, 2);
        let image: Vec<f32> = (0..90).map(|v| ((v * 37) % 19) as f32 / 7.0 - 1.0).collect();
        let (mut gram, mut cross) = (vec![vec![0.0f64; 28]; 28], vec![vec![0.0f64; 2]; 28]);
        for position in 0..30 {
            let target = [position as f32, (position * position) as f32 / 10.0];
            rows.push(&image, position, 1.0, |values| values.copy_from_slice(&target));
            let mut patch = vec![0.0; 27];
            window.gather(&image, position, &mut patch);
            patch.push(1.0);
            for a in 0..28 {
                (0..28).for_each(|b| gram[a][b] += f64::from(patch[a]) * f64::from(patch[b]));
                (0..2).for_each(|f| cross[a][f] += f64::from(patch[a]) * f64::from(target[f]));
            }
        }
        sums.add(&rows, 1);
        for a in 0..28 {
            (0..=a).for_each(|b| assert!((sums.gram[(a, b)] - gram[a][b]).abs() < 1e-4));
            (0..2).for_each(|f| assert!((sums.cross[(a, f)] - cross[a][f]).abs() < 1e-2));
        }
        assert!((sums.squares[0] - (0..30).map(|p| f64::from(p * p)).sum::<f64>()).abs() < 1e-6);
    }
}
