//! Fully connected layers.

use super::{Backward, CHECKED, Context, Gradient, Gradients, Operation, Output, Pass, Traits};
use crate::Result;
use crate::abi::Argument::{None, Some as Given, Tensor as T};
use crate::abi::{Tensor, Type};
use crate::parameters::ParameterId;

/// A fully connected layer.
pub(super) fn build(cx: &mut Context<'_>) -> Linear {
    Linear {
        weight: cx.weight("weight").expect(CHECKED),
        bias: cx.weight("bias"),
        trains: cx.trains,
        inputs: cx.inputs[0].channels as i64,
        outputs: cx.output.channels as i64,
    }
}

/// y = W x + b.
pub(super) struct Linear {
    weight: ParameterId,
    bias: Option<ParameterId>,
    trains: bool,
    inputs: i64,
    outputs: i64,
}

impl Linear {
    /// Rows of `columns` elements, in the type that products are computed in.
    fn matrix(pass: &Pass<'_>, tensor: &Tensor, columns: i64) -> Result<Tensor> {
        let matrix = tensor.reshape(&[pass.n as i64, columns])?;
        matrix.to_type(Linear::product_type(pass))
    }

    fn product_type(pass: &Pass<'_>) -> Type {
        if pass.torch.mixed() { Type::Bfloat16 } else { Type::Float32 }
    }
}

impl Operation for Linear {
    fn traits(&self) -> Traits {
        Traits { inputs: true, output: false, overwritable: true }
    }

    fn forward(&self, pass: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output> {
        let x = Linear::matrix(pass, inputs[0], self.inputs)?;
        let of = Linear::product_type(pass);
        let weight = pass.parameters.value(self.weight).to_type(of)?;
        let bias = self.bias.map(|bias| pass.parameters.value(bias).to_type(of)).transpose()?;
        let bias = bias.as_ref().map(T);
        let y = x.one(c"aten::linear", &[T(&x), T(&weight), bias.as_ref().map_or(None, Given)])?;
        Ok(y.reshape(&[pass.n as i64, self.outputs, 1, 1])?.into())
    }

    fn backward(&self, pass: &Pass<'_>, state: Backward<'_>) -> Result<Gradients> {
        let gradient = Linear::matrix(pass, &state.gradient.value, self.outputs)?;
        let product = |a: &Tensor, b: &Tensor| a.one(c"aten::mm", &[T(a), T(b)]);
        let mut gradients = Gradients { inputs: vec![Option::None], weights: Vec::new() };
        if self.trains {
            let x = Linear::matrix(pass, &state.inputs[0], self.inputs)?;
            gradients.weights.push((self.weight, product(&gradient.map(c"aten::t")?, &x)?));
            if let Some(bias) = self.bias {
                gradients.weights.push((bias, gradient.float()?.sum(&[0], false)?));
            }
        }
        if state.needed[0] {
            let weight = pass.parameters.value(self.weight).to_type(Linear::product_type(pass))?;
            let input = product(&gradient, &weight)?.reshape(&[pass.n as i64, self.inputs, 1, 1])?;
            gradients.inputs[0] = Some(Gradient::own(input));
        }
        Ok(gradients)
    }
}
