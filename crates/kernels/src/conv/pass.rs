//! A convolution-like pass over pictures, forward or backward, as every algorithm sees it.

use super::{Epilogue, Geometry};
use crate::memory::Scratch;
use crate::pool::Pool;
use crate::simd::tile::Finish;

/// Which way a pass runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// From the input to the output.
    Forward,
    /// From the output's gradient to the input's: the same sums with rows and columns of the weight exchanged.
    GradInput,
}

/// What a pass reads and writes.
#[derive(Clone, Copy)]
pub(super) struct Io<'a> {
    /// Images.
    pub n: usize,
    /// The weights, OIHW.
    pub w: &'a [f32],
    /// The source, n x H x W x C.
    pub x: &'a [f32],
    /// What is done to the sums.
    pub epilogue: Epilogue<'a>,
    /// Elements of the target whose counterpart here is not positive become 0.
    pub mask: Option<&'a [f32]>,
}

impl Io<'_> {
    /// The kernels' form of what is done to the sums of `y`; the epilogue's slices must hold a value a channel.
    pub fn finish(&self, channels: usize, y: &mut [f32]) -> SharedFinish {
        let pointer = |values: Option<&[f32]>| match values {
            Some(values) => values[..channels].as_ptr(),
            None => std::ptr::null(),
        };
        let e = self.epilogue;
        assert_eq!(e.scale.is_some(), e.shift.is_some(), "scale and shift come together");
        assert!(self.mask.is_none_or(|m| m.len() >= y.len()), "a mask as large as its target");
        SharedFinish(Finish {
            bias: pointer(e.bias),
            scale: pointer(e.scale),
            shift: pointer(e.shift),
            relu: e.relu,
            mask: self.mask.map_or(std::ptr::null(), |m| m.as_ptr()),
            target: y.as_ptr(),
        })
    }
}

/// One algorithm for [`Way::Forward`] or [`Way::GradInput`].
pub(super) trait Pass: Send {
    /// Overwrites `y`, n x H x W x C.
    fn run(&mut self, io: Io<'_>, y: &mut [f32], pool: &Pool, scratch: &mut Scratch);
    /// Whether [`Pass::run_pooled`] is there.
    fn pools(&self) -> bool {
        false
    }
    /// Overwrites `pooled`, the largest of every 2x2 pixels of what [`Pass::run`] writes, and `y` unless that is empty.
    fn run_pooled(&mut self, io: Io<'_>, y: &mut [f32], pooled: &mut [f32], pool: &Pool, scratch: &mut Scratch) {
        let _ = (io, y, pooled, pool, scratch);
        unreachable!("only where the pass pools");
    }
    /// The weights are no longer those that were packed.
    fn weights_changed(&mut self);
    /// Bytes of [`Scratch`] that the largest batch takes.
    fn scratch_bytes(&self) -> usize;
    /// Bytes of packed weights held.
    fn packed_bytes(&self) -> usize;
}

/// One algorithm for the weight's gradient.
pub(super) trait WeightPass: Send {
    /// Overwrites `gw` (OIHW) with the sum over the `n` images of `x` and `gy`.
    fn run(&mut self, n: usize, x: &[f32], gy: &[f32], gw: &mut [f32], pool: &Pool, scratch: &mut Scratch);
    /// Bytes of [`Scratch`] that the largest batch takes.
    fn scratch_bytes(&self) -> usize;
}

/// The pictures between which a pass runs: [C, H, W] of what it reads and of what it writes.
pub(super) fn sides(g: &Geometry, way: Way) -> ([usize; 3], [usize; 3]) {
    match way {
        Way::Forward => (g.input, g.output),
        Way::GradInput => (g.output, g.input),
    }
}

/// The weight between a pass's source channel `from` and target channel `to` of one group, in OIHW without the tap.
///
/// Returns `(start, source step, target step)`: the weights of the pair are the `taps` floats from
/// `start + from * source step + to * target step` on.
pub(super) fn weight_steps(g: &Geometry, way: Way, group: usize) -> (usize, usize, usize) {
    let taps = g.conv.kernel[0] * g.conv.kernel[1];
    let (og, ig) = (g.conv.filters / g.conv.groups, g.input[0] / g.conv.groups);
    let start = group * og * ig * taps;
    match way {
        Way::Forward => (start, taps, ig * taps),
        Way::GradInput => (start, ig * taps, taps),
    }
}

/// [`Finish`] for tasks on other threads.
#[derive(Clone, Copy)]
pub(super) struct SharedFinish(Finish);

// SAFETY: it points into slices that are borrowed, unchanged, for as long as the tasks run.
unsafe impl Send for SharedFinish {}
unsafe impl Sync for SharedFinish {}

impl SharedFinish {
    pub fn get(self) -> Finish {
        self.0
    }
}
