//! Layers of several inputs: sum, product, concatenation.

use nettriage_net::Shape;

use super::{Backward, Context, Gradient, Gradients, Operation, Output, Pass, Traits};
use crate::Result;
use crate::abi::Argument::{Int, Tensors};
use crate::abi::Tensor;

/// For each input, whether it has one position and the output more.
fn broadcast(cx: &Context<'_>) -> Vec<bool> {
    cx.inputs.iter().map(|&input| input != cx.output).collect()
}

/// The gradient of an input that is broadcast.
fn reduced(gradient: &Tensor) -> Result<Tensor> {
    gradient.sum(&[2, 3], true)
}

/// The sum of all inputs.
pub(super) struct Add {
    broadcast: Vec<bool>,
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
        let passed = (0..self.broadcast.len()).filter(|&k| state.needed[k] && !self.broadcast[k]).count();
        let of = |k: usize| match (state.needed[k], self.broadcast[k]) {
            (false, _) => Ok(None),
            (true, true) => Ok(Some(Gradient::own(reduced(&gradient.value)?))),
            (true, false) => {
                Ok(Some(Gradient { value: gradient.value.clone(), shared: gradient.shared || passed > 1 }))
            }
        };
        Ok(Gradients { inputs: (0..self.broadcast.len()).map(of).collect::<Result<_>>()?, weights: Vec::new() })
    }
}

/// The product of all inputs.
pub(super) struct Mul {
    broadcast: Vec<bool>,
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
            Ok(Some(Gradient::own(if self.broadcast[k] { reduced(&product)? } else { product })))
        };
        Ok(Gradients { inputs: (0..self.broadcast.len()).map(of).collect::<Result<_>>()?, weights: Vec::new() })
    }
}

/// The inputs one after the other along the channels.
pub(super) struct Concat {
    pub inputs: Vec<Shape>,
}

impl Operation for Concat {
    fn traits(&self) -> Traits {
        Traits { inputs: false, output: false, overwritable: true }
    }

    fn forward(&self, _: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output> {
        Ok(inputs[0].one(c"aten::cat", &[Tensors(inputs), Int(1)])?.into())
    }

    fn backward(&self, _: &Pass<'_>, state: Backward<'_>) -> Result<Gradients> {
        let mut gradients = Gradients::default();
        let mut start = 0;
        for (input, needed) in self.inputs.iter().zip(state.needed) {
            let part = || Result::Ok(state.gradient.view(state.gradient.value.narrow(1, start, input.channels)?));
            gradients.inputs.push(needed.then(part).transpose()?);
            start += input.channels;
        }
        Ok(gradients)
    }
}
