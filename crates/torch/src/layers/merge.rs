//! Layers of several inputs: sum, product, concatenation.

use nettriage_net::{Axis, Shape};

use super::select::dimension;
use super::{Backward, Context, Gradient, Gradients, Operation, Output, Pass, Traits};
use crate::Result;
use crate::abi::Argument::{Int, Tensors};
use crate::abi::Tensor;

/// For each input, the dimensions along which it is broadcast.
fn broadcast(cx: &Context<'_>) -> Vec<Vec<i64>> {
    let along = |input: Shape| {
        let axes = Axis::ALL.into_iter().filter(move |&axis| input.extent(axis) != cx.output.extent(axis));
        axes.map(dimension).collect()
    };
    cx.inputs.iter().map(|&input| along(input)).collect()
}

/// The sum of all inputs.
pub(super) struct Add {
    /// For each input, the dimensions along which it is broadcast.
    broadcast: Vec<Vec<i64>>,
}

impl Add {
    pub fn new(cx: &Context<'_>) -> Add {
        Add { broadcast: broadcast(cx) }
    }
}

impl Operation for Add {
    fn traits(&self) -> Traits {
        Traits { inputs: false, output: false, overwritable: true }
    }

    fn forward(&self, _: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output> {
        let sum = inputs[2..].iter().try_fold(inputs[0].add(inputs[1])?, |sum, input| sum.add(input))?;
        Ok(sum.into())
    }

    fn backward(&self, _: &Pass<'_>, state: Backward<'_>) -> Result<Gradients> {
        let gradient = &state.gradient;
        let passed = (0..self.broadcast.len()).filter(|&k| state.needed[k] && self.broadcast[k].is_empty()).count();
        let of = |k: usize| match (state.needed[k], self.broadcast[k].as_slice()) {
            (false, _) => Ok(None),
            (true, along @ [_, ..]) => Ok(Some(Gradient::own(gradient.value.sum(along, true)?))),
            (true, []) => Ok(Some(Gradient { value: gradient.value.clone(), shared: gradient.shared || passed > 1 })),
        };
        Ok(Gradients { inputs: (0..self.broadcast.len()).map(of).collect::<Result<_>>()?, weights: Vec::new() })
    }
}

/// The product of all inputs.
pub(super) struct Mul {
    /// For each input, the dimensions along which it is broadcast.
    broadcast: Vec<Vec<i64>>,
}

impl Mul {
    pub fn new(cx: &Context<'_>) -> Mul {
        Mul { broadcast: broadcast(cx) }
    }
}

impl Operation for Mul {
    fn traits(&self) -> Traits {
        Traits { inputs: true, output: false, overwritable: true }
    }

    fn forward(&self, _: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output> {
        let product = inputs[2..].iter().try_fold(inputs[0].mul(inputs[1])?, |product, input| product.mul(input))?;
        Ok(product.into())
    }

    fn backward(&self, _: &Pass<'_>, state: Backward<'_>) -> Result<Gradients> {
        let of = |k: usize| -> Result<Option<Gradient>> {
            if !state.needed[k] {
                return Ok(None);
            }
            let others = state.inputs.iter().enumerate().filter(|(j, _)| *j != k);
            let mut product = state.gradient.value.clone();
            for (_, other) in others {
                product = product.mul(other)?;
            }
            let along = &self.broadcast[k];
            Ok(Some(Gradient::own(if along.is_empty() { product } else { product.sum(along, true)? })))
        };
        Ok(Gradients { inputs: (0..self.broadcast.len()).map(of).collect::<Result<_>>()?, weights: Vec::new() })
    }
}

/// The inputs one after the other along an axis.
pub(super) struct Concat {
    pub inputs: Vec<Shape>,
    pub axis: Axis,
}

impl Operation for Concat {
    fn traits(&self) -> Traits {
        Traits { inputs: false, output: false, overwritable: true }
    }

    fn forward(&self, _: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output> {
        Ok(inputs[0].one(c"aten::cat", &[Tensors(inputs), Int(dimension(self.axis))])?.into())
    }

    fn backward(&self, _: &Pass<'_>, state: Backward<'_>) -> Result<Gradients> {
        let mut gradients = Gradients::default();
        let mut start = 0;
        for (input, needed) in self.inputs.iter().zip(state.needed) {
            let (at, extent) = (dimension(self.axis) as usize, input.extent(self.axis));
            let part = || Result::Ok(state.gradient.view(state.gradient.value.narrow(at, start, extent)?));
            gradients.inputs.push(needed.then(part).transpose()?);
            start += extent;
        }
        Ok(gradients)
    }
}
