//! The interface of all algorithms.

use std::ops::Range;

use super::{Direction, Epilogue, Geometry};
use crate::activation::Activation;
use crate::memory::{Scratch, SharedPtr};
use crate::pool::Pool;
use crate::simd::{ReluMask, Simd, Task, dispatch, vectorised};

/// The arguments of a pass.
#[derive(Clone, Copy)]
pub(super) struct PassArgs<'a> {
    /// Images.
    pub n: usize,
    /// The weights, `[filters, channels / groups, kernel rows, kernel columns]`.
    pub w: &'a [f32],
    /// The source, n x H x W x C.
    pub x: &'a [f32],
    /// Applied to the sums.
    pub epilogue: Epilogue<'a>,
    /// What follows, while the target is in cache.
    pub post_ops: PostOps<'a>,
    /// The mask of a fused ReLU backward, as large as the target.
    pub mask: Option<&'a [f32]>,
}

/// What follows the epilogue of a forward pass (post-ops): y = activation(y + add).
///
/// Each step rounds on its own, so computing it in a layer of its own gives the same bits.
#[derive(Clone, Copy, Debug, Default)]
pub struct PostOps<'a> {
    /// Added first, as large as the output: a residual connection.
    pub add: Option<&'a [f32]>,
    /// Applied last.
    pub activation: Option<Activation>,
}

impl PostOps<'_> {
    /// Whether nothing follows.
    pub(crate) fn is_none(&self) -> bool {
        self.add.is_none() && self.activation.is_none()
    }

    /// Applies them to a part of the output that starts at its element `first`.
    pub(crate) fn run(&self, first: usize, y: &mut [f32]) {
        if let Some(add) = self.add {
            let add = &add[first..][..y.len()];
            vectorised(
                #[inline(always)]
                || y.iter_mut().zip(add).for_each(|(y, add)| *y += add),
            );
        }
        if let Some(activation) = self.activation {
            activation.apply(y);
        }
    }

    /// Applies them to the channels `channels` of `pixels` in the output `y`, which has `width` channels.
    ///
    /// # Safety
    /// No other thread accesses these elements, which exist.
    pub(super) unsafe fn run_pixels(&self, y: SharedPtr, pixels: Range<usize>, channels: Range<usize>, width: usize) {
        if self.is_none() {
            return;
        }
        let run = |first: usize, count: usize| {
            // SAFETY: by the caller.
            self.run(first, unsafe { std::slice::from_raw_parts_mut(y.at(first), count) });
        };
        if channels.len() == width {
            return run(pixels.start * width, pixels.len() * width);
        }
        pixels.for_each(|pixel| run(pixel * width + channels.start, channels.len()));
    }
}

impl<'a> PassArgs<'a> {
    /// The epilogue for `channels` channels and the mask for the target `y`, checked.
    pub fn epilogue_and_mask(&self, channels: usize, y: &[f32]) -> (Epilogue<'a>, Option<ReluMask<'a>>) {
        (self.epilogue.checked(channels), self.mask.map(|mask| ReluMask::new(mask, y)))
    }
}

/// An algorithm for [`Direction::Forward`] or [`Direction::GradInput`].
pub(super) trait Pass: Send {
    /// Overwrites `y`, n x H x W x C.
    fn run(&mut self, args: PassArgs<'_>, y: &mut [f32], pool: &Pool, scratch: &mut Scratch);
    /// Whether [`Pass::run`] applies [`PassArgs::post_ops`]; otherwise the caller does.
    fn applies_post_ops(&self) -> bool {
        false
    }
    /// Whether [`Pass::run_pooled`] is implemented for this shape.
    fn supports_pooling(&self) -> bool {
        false
    }
    /// Overwrites `pooled` with the 2x2 max pooling of what [`Pass::run`] computes, and `y` with that itself unless it is empty.
    fn run_pooled(
        &mut self,
        args: PassArgs<'_>,
        y: &mut [f32],
        pooled: &mut [f32],
        pool: &Pool,
        scratch: &mut Scratch,
    ) {
        let _ = (args, y, pooled, pool, scratch);
        unreachable!("only called if the pass supports pooling");
    }
    /// The weights have changed since they were packed.
    fn weights_changed(&mut self);
    /// Bytes of [`Scratch`] for the largest batch.
    fn scratch_bytes(&self) -> usize;
    /// Bytes of packed weights.
    fn packed_bytes(&self) -> usize;
}

/// An algorithm for [`Direction::GradWeight`].
pub(super) trait WeightPass: Send {
    /// Overwrites `gw`, laid out as the weights, with the sum over the `n` images of `x` and `gy`.
    fn run(&mut self, n: usize, x: &[f32], gy: &[f32], gw: &mut [f32], pool: &Pool, scratch: &mut Scratch);
    /// Bytes of [`Scratch`] for the largest batch.
    fn scratch_bytes(&self) -> usize;
}

/// The source and the target of a pass, [C, H, W] each. The weight gradient correlates the same images as the forward pass.
pub(super) fn source_and_target(g: &Geometry, direction: Direction) -> ([usize; 3], [usize; 3]) {
    match direction {
        Direction::Forward | Direction::GradWeight => (g.input, g.output),
        Direction::GradInput => (g.output, g.input),
    }
}

/// Where the taps between source channel `from` and target channel `to` of a group start in the weights.
///
/// Returns `(start, source step, target step)`: they are contiguous from `start + from * source step + to * target step` on.
pub(super) fn weight_steps(g: &Geometry, direction: Direction, group: usize) -> (usize, usize, usize) {
    let taps = g.conv.kernel[0] * g.conv.kernel[1];
    let (og, ig) = (g.conv.filters / g.conv.groups, g.input[0] / g.conv.groups);
    let start = group * og * ig * taps;
    match direction {
        Direction::Forward | Direction::GradWeight => (start, taps, ig * taps),
        Direction::GradInput => (start, ig * taps, taps),
    }
}

/// Adds up `count` partial sums of `len` floats, `step` apart, into the first one. Pairwise, in an order that `count` alone
/// determines.
///
/// # Safety
/// No other thread accesses the partial sums.
pub(super) unsafe fn add_pairwise(first: SharedPtr, count: usize, step: usize, len: usize) {
    let mut distance = 1;
    while distance < count {
        for i in (0..count - distance).step_by(2 * distance) {
            // SAFETY: by the caller; the two sums do not overlap.
            let (to, from) = unsafe {
                let to = std::slice::from_raw_parts_mut(first.at(i * step), len);
                (to, std::slice::from_raw_parts(first.at((i + distance) * step), len))
            };
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        }
        distance *= 2;
    }
}

/// Transposes a matrix of `rows` x `columns`: to[column][row] = from[row][column].
///
/// # Safety
/// Both matrices exist with these distances between their rows, and only the caller accesses `to`.
pub(super) unsafe fn transpose(
    from: *const f32,
    from_step: usize,
    [rows, columns]: [usize; 2],
    to: *mut f32,
    to_step: usize,
) {
    struct Blocks {
        from: *const f32,
        steps: [usize; 2],
        extents: [usize; 2],
        to: *mut f32,
    }
    impl Task for Blocks {
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            let ([from_step, to_step], [rows, columns]) = (self.steps, self.extents);
            for column in (0..columns).step_by(S::LANES) {
                for row in (0..rows).step_by(S::LANES) {
                    let (from, to) = (row * from_step + column, column * to_step + row);
                    let extents = [S::LANES.min(rows - row), S::LANES.min(columns - column)];
                    // SAFETY: blocks of the two matrices.
                    unsafe {
                        S::transpose(
                            self.from.wrapping_add(from),
                            from_step,
                            extents[0],
                            extents[1],
                            self.to.wrapping_add(to),
                            to_step,
                        );
                    }
                }
            }
        }
    }
    dispatch(Blocks { from, steps: [from_step, to_step], extents: [rows, columns], to });
}

/// How many of `left` rows the next register tile of at most `most` rows takes, so that the last tiles are balanced.
pub(super) fn balanced_rows(left: usize, most: usize) -> usize {
    if left <= most {
        left
    } else if left < 2 * most {
        left.div_ceil(2)
    } else {
        most
    }
}

/// Copies one image [C, H, W] (stored as H x W x C) into the middle of a larger one of zeros: `before` rows and columns of
/// padding above and to the left, `padded` rows and columns in all.
///
/// # Safety
/// `to` is valid for `padded[0] * padded[1] * C` floats.
pub(super) unsafe fn pad(image: &[f32], source: [usize; 3], before: [usize; 2], padded: [usize; 2], to: *mut f32) {
    let [c, h, w] = source;
    let row = padded[1] * c;
    unsafe {
        let (left, right) = (before[1] * c, row - (before[1] + w) * c);
        to.write_bytes(0, before[0] * row);
        for i in 0..h {
            let line = to.add((before[0] + i) * row);
            line.write_bytes(0, left);
            line.add(left).copy_from_nonoverlapping(image[i * w * c..].as_ptr(), w * c);
            line.add(row - right).write_bytes(0, right);
        }
        to.add((before[0] + h) * row).write_bytes(0, (padded[0] - before[0] - h) * row);
    }
}
