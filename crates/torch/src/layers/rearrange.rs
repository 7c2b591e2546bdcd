//! Layers that move, select, add or repeat elements.

use nettriage_net::{Shape, layer};

use super::{Backward, Gradients, Operation, Output, Pass, Traits, borders, inside, pair};
use crate::Result;
use crate::abi::Argument::{Int, Ints, None, Tensor as T};
use crate::abi::Tensor;

/// What a layer reads whose backward pass reads nothing, and whose output may be a view of its input.
const VIEW: Traits = Traits { inputs: false, output: false, overwritable: false };

/// The input unchanged.
pub(super) struct Identity;

impl Operation for Identity {
    fn traits(&self) -> Traits {
        VIEW
    }

    fn forward(&self, _: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output> {
        Ok(inputs[0].clone().into())
    }

    fn backward(&self, _: &Pass<'_>, state: Backward<'_>) -> Result<Gradients> {
        Ok(Gradients::of(state.gradient))
    }
}

/// The same elements, in (C, H, W) order, under another shape.
pub(super) struct Reshape {
    pub input: Shape,
    pub output: Shape,
}

impl Operation for Reshape {
    fn traits(&self) -> Traits {
        VIEW
    }

    fn forward(&self, pass: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output> {
        Ok(inputs[0].reshape(&pass.sizes(self.output))?.into())
    }

    fn backward(&self, pass: &Pass<'_>, state: Backward<'_>) -> Result<Gradients> {
        let view = state.gradient.value.reshape(&pass.sizes(self.input))?;
        Ok(Gradients::of(state.gradient.view(view)))
    }
}

/// Channels as a matrix of `groups` rows, transposed.
pub(super) struct Shuffle {
    pub groups: usize,
    pub channels: usize,
}

/// `tensor` with its channels shuffled in this many groups.
fn shuffled(tensor: &Tensor, groups: usize) -> Result<Tensor> {
    tensor.one(c"aten::channel_shuffle", &[T(tensor), Int(groups as i64)])
}

impl Operation for Shuffle {
    fn traits(&self) -> Traits {
        VIEW
    }

    fn forward(&self, _: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output> {
        Ok(shuffled(inputs[0], self.groups)?.into())
    }

    fn backward(&self, _: &Pass<'_>, state: Backward<'_>) -> Result<Gradients> {
        let back = shuffled(&state.gradient.value, self.channels / self.groups)?;
        Ok(Gradients::of(state.gradient.view(back)))
    }
}

/// A range of channels.
pub(super) struct Slice {
    pub slice: layer::Slice,
    /// Of the input.
    pub channels: usize,
}

impl Operation for Slice {
    fn traits(&self) -> Traits {
        VIEW
    }

    fn forward(&self, _: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output> {
        let layer::Slice { start, end } = self.slice;
        Ok(inputs[0].narrow(1, start, end - start)?.into())
    }

    fn backward(&self, _: &Pass<'_>, state: Backward<'_>) -> Result<Gradients> {
        let layer::Slice { start, end } = self.slice;
        let border = [0, 0, 0, 0, start as i64, (self.channels - end) as i64];
        Ok(Gradients::own(state.gradient.value.pad(&border, 0.0)?))
    }
}

/// A constant border.
pub(super) struct Pad {
    pub pad: layer::Pad,
    pub input: Shape,
}

impl Operation for Pad {
    fn traits(&self) -> Traits {
        VIEW
    }

    fn forward(&self, _: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output> {
        let layer::Pad { channels: [before, after], padding, value } = self.pad;
        let [left, right, top, bottom] = borders(padding);
        let border = [left, right, top, bottom, before as i64, after as i64];
        Ok(inputs[0].pad(&border, value.into())?.into())
    }

    fn backward(&self, _: &Pass<'_>, state: Backward<'_>) -> Result<Gradients> {
        let layer::Pad { channels: [before, _], padding, .. } = self.pad;
        let part = state.gradient.value.narrow(1, before, self.input.channels)?;
        Ok(Gradients::of(state.gradient.view(inside(&part, padding, self.input)?)))
    }
}

/// Every element repeated along rows and columns.
pub(super) struct Upsample {
    pub input: Shape,
    pub output: Shape,
}

impl Operation for Upsample {
    fn traits(&self) -> Traits {
        VIEW
    }

    fn forward(&self, _: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output> {
        let extent = pair([self.output.height, self.output.width]);
        Ok(inputs[0].one(c"aten::upsample_nearest2d", &[T(inputs[0]), Ints(&extent), None, None])?.into())
    }

    fn backward(&self, pass: &Pass<'_>, state: Backward<'_>) -> Result<Gradients> {
        let extent = pair([self.output.height, self.output.width]);
        let gradient = &state.gradient.value;
        let arguments = [T(gradient), Ints(&extent), Ints(&pass.sizes(self.input)), None, None];
        Ok(Gradients::own(gradient.one(c"aten::upsample_nearest2d_backward", &arguments)?))
    }
}
