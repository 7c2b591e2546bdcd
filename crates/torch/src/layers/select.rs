//! Layers that select or reorder along axes, reduce them, or give a constant.

use nettriage_net::{Axis, Shape, layer};

use super::{Backward, CHECKED, Context, Gradient, Gradients, Operation, Output, Pass, Traits};
use crate::Result;
use crate::abi::Argument::{Bool, Int, Ints, None, Some as Given, Tensor as T};
use crate::abi::Tensor;
use crate::parameters::ParameterId;

/// The dimension of N x C x H x W that an axis is.
pub(super) fn dimension(axis: Axis) -> i64 {
    match axis {
        Axis::Channels => 1,
        Axis::Rows => 2,
        Axis::Columns => 3,
    }
}

/// The elements under another order of axes.
pub(super) struct Permute {
    pub permute: layer::Permute,
    pub input: Shape,
}

impl Permute {
    /// `tensor` viewed with these extents of an image, its axes in this order, with these sizes.
    fn reordered(tensor: &Tensor, n: i64, extents: &[usize], order: &[usize], sizes: &[i64]) -> Result<Tensor> {
        let split: Vec<i64> = [n].into_iter().chain(extents.iter().map(|&extent| extent as i64)).collect();
        let order: Vec<i64> = [0].into_iter().chain(order.iter().map(|&axis| axis as i64 + 1)).collect();
        tensor.reshape(&split)?.permute(&order)?.reshape(sizes)
    }
}

impl Operation for Permute {
    fn traits(&self) -> Traits {
        Traits::default()
    }

    fn forward(&self, pass: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output> {
        let layer::Permute { extents, order, shape } = &self.permute;
        Ok(Permute::reordered(inputs[0], pass.n as i64, extents, order, &pass.sizes(*shape))?.into())
    }

    fn backward(&self, pass: &Pass<'_>, state: Backward<'_>) -> Result<Gradients> {
        let layer::Permute { extents, order, .. } = &self.permute;
        let moved: Vec<usize> = order.iter().map(|&axis| extents[axis]).collect();
        let mut back = vec![0; order.len()];
        order.iter().enumerate().for_each(|(at, &axis)| back[axis] = at);
        let sizes = pass.sizes(self.input);
        let gradient = Permute::reordered(&state.gradient.value, pass.n as i64, &moved, &back, &sizes)?;
        Ok(Gradients::of(state.gradient.view(gradient)))
    }
}

/// Positions along an axis.
pub(super) struct Gather {
    pub gather: layer::Gather,
    pub input: Shape,
}

impl Gather {
    fn indices(&self, pass: &Pass<'_>) -> Result<Tensor> {
        let indices: Vec<i64> = self.gather.indices.iter().map(|&index| index as i64).collect();
        pass.torch.upload(&indices, &[indices.len()])
    }
}

impl Operation for Gather {
    fn traits(&self) -> Traits {
        Traits { inputs: false, output: false, overwritable: true }
    }

    fn forward(&self, pass: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output> {
        let indices = self.indices(pass)?;
        let arguments = [T(inputs[0]), Int(dimension(self.gather.axis)), T(&indices)];
        Ok(inputs[0].one(c"aten::index_select", &arguments)?.into())
    }

    fn backward(&self, pass: &Pass<'_>, state: Backward<'_>) -> Result<Gradients> {
        let (indices, gradient) = (self.indices(pass)?, &state.gradient.value);
        let sizes = pass.sizes(self.input);
        let arguments = [T(gradient), Ints(&sizes), Int(dimension(self.gather.axis)), T(&indices)];
        Ok(Gradients::own(gradient.one(c"aten::index_select_backward", &arguments)?))
    }
}

/// A tensor that does not depend on the image.
pub(super) fn build_constant(cx: &mut Context<'_>) -> Constant {
    let weight = cx.weight("weight").expect(CHECKED);
    Constant { weight, trains: cx.trains, input: cx.inputs[0], output: cx.output }
}

/// The weight, for every image.
pub(super) struct Constant {
    weight: ParameterId,
    trains: bool,
    input: Shape,
    output: Shape,
}

impl Operation for Constant {
    fn traits(&self) -> Traits {
        Traits::default()
    }

    fn forward(&self, pass: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output> {
        let [_, sizes @ ..] = pass.sizes(self.output);
        let own = pass.parameters.value(self.weight).reshape(&[1, sizes[0], sizes[1], sizes[2]])?;
        let own = own.to_type(inputs[0].element_type().unwrap_or(crate::abi::Type::Float32))?;
        let all = own.one(c"aten::expand", &[T(&own), Ints(&pass.sizes(self.output)), Bool(false)])?;
        Ok(all.into())
    }

    fn backward(&self, pass: &Pass<'_>, state: Backward<'_>) -> Result<Gradients> {
        let mut gradients = Gradients::default();
        gradients.inputs.push(match state.needed[0] {
            true => Some(Gradient::own(pass.torch.full(&pass.sizes(self.input), 0.0)?)),
            false => Option::None,
        });
        if self.trains {
            gradients.weights.push((self.weight, state.gradient.value.float()?.sum(&[0], false)?));
        }
        Ok(gradients)
    }
}

/// Mean or maximum over whole axes.
pub(super) struct Reduce {
    pub reduce: layer::Reduce,
    pub input: Shape,
    pub output: Shape,
}

impl Operation for Reduce {
    fn traits(&self) -> Traits {
        let largest = self.reduce.function == layer::Reduction::Max;
        Traits { inputs: largest, output: largest, overwritable: !largest }
    }

    fn forward(&self, _: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output> {
        let axes: Vec<i64> = self.reduce.axes.iter().map(|&axis| dimension(axis)).collect();
        let x = inputs[0];
        Ok(match self.reduce.function {
            layer::Reduction::Mean => {
                x.overload(c"aten::mean", c"dim", &[T(x), Given(&Ints(&axes)), Bool(true), None])?.into()
            }
            layer::Reduction::Max => x.one(c"aten::amax", &[T(x), Ints(&axes), Bool(true)])?.into(),
        })
    }

    fn backward(&self, pass: &Pass<'_>, state: Backward<'_>) -> Result<Gradients> {
        let (torch, gradient) = (pass.torch, &state.gradient.value);
        let axes: Vec<i64> = self.reduce.axes.iter().map(|&axis| dimension(axis)).collect();
        Ok(Gradients::own(match self.reduce.function {
            layer::Reduction::Mean => {
                let share = self.output.elements() as f64 / self.input.elements() as f64;
                let all = gradient.one(c"aten::expand", &[T(gradient), Ints(&pass.sizes(self.input)), Bool(false)])?;
                all.mul(&torch.scalar(share)?)?
            }
            // Divided among equal elements.
            layer::Reduction::Max => {
                let equal = state.inputs[0].with(c"aten::eq", state.output())?;
                let equal = equal.to_type(gradient.element_type().unwrap_or(crate::abi::Type::Float32))?;
                equal.div(&equal.sum(&axes, true)?)?.mul(gradient)?
            }
        }))
    }
}
