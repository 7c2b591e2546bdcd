//! Matrix products of tensors: attention, and bilinear interpolation as a product with two matrices.

use nettriage_net::{Shape, layer};

use super::{Backward, Gradient, Gradients, Operation, Output, Pass, Traits};
use crate::Result;
use crate::abi::Argument::Tensor as T;
use crate::abi::Tensor;

fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    a.one(c"aten::matmul", &[T(a), T(b)])
}

/// N x C x H x W as N x H matrices of W x C, or back.
fn matrices(tensor: &Tensor) -> Result<Tensor> {
    tensor.permute(&[0, 2, 3, 1])
}

fn maps(matrices: &Tensor) -> Result<Tensor> {
    matrices.permute(&[0, 3, 1, 2])
}

fn transposed(matrices: &Tensor) -> Result<Tensor> {
    matrices.permute(&[0, 1, 3, 2])
}

/// One matrix product per row of two feature maps.
pub(super) struct MatMul {
    pub transposed: bool,
}

impl MatMul {
    /// The second factor as K x N.
    fn second(&self, input: &Tensor) -> Result<Tensor> {
        let b = matrices(input)?;
        if self.transposed { transposed(&b) } else { Ok(b) }
    }
}

impl Operation for MatMul {
    fn traits(&self) -> Traits {
        Traits { inputs: true, output: false, overwritable: false }
    }

    fn forward(&self, _: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output> {
        Ok(maps(&product(&matrices(inputs[0])?, &self.second(inputs[1])?)?)?.into())
    }

    fn backward(&self, _: &Pass<'_>, state: Backward<'_>) -> Result<Gradients> {
        let gradient = matrices(&state.gradient.value)?;
        let mut inputs = vec![None, None];
        if state.needed[0] {
            let b = transposed(&self.second(&state.inputs[1])?)?;
            inputs[0] = Some(Gradient::own(maps(&product(&gradient, &b)?)?));
        }
        if state.needed[1] {
            let a = matrices(&state.inputs[0])?;
            let b = product(&transposed(&a)?, &gradient)?;
            inputs[1] = Some(Gradient::own(maps(&if self.transposed { transposed(&b)? } else { b })?));
        }
        Ok(Gradients { inputs, weights: Vec::new() })
    }
}

/// Bilinear interpolation: y = R x C' with a matrix of row weights and one of column weights.
pub(super) struct Resize {
    pub resize: layer::Resize,
    pub input: Shape,
    pub output: Shape,
}

impl Resize {
    /// The weights of an axis, [to, from], or their transpose.
    fn weights(&self, pass: &Pass<'_>, like: &Tensor, from: usize, to: usize, turned: bool) -> Result<Tensor> {
        let mut matrix = vec![0f32; from * to];
        for (row, (first, second, share)) in self.resize.taps(from, to).into_iter().enumerate() {
            let at = |column: usize| if turned { column * to + row } else { row * from + column };
            matrix[at(first)] += 1.0 - share;
            matrix[at(second)] += share;
        }
        let sizes = if turned { [from, to] } else { [to, from] };
        pass.torch.upload(&matrix, &sizes)?.to_type(like.element_type().unwrap_or(crate::abi::Type::Float32))
    }
}

impl Operation for Resize {
    fn traits(&self) -> Traits {
        Traits { inputs: false, output: false, overwritable: true }
    }

    fn forward(&self, pass: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output> {
        let (x, from, to) = (inputs[0], self.input, self.output);
        let rows = self.weights(pass, x, from.height, to.height, false)?;
        let columns = self.weights(pass, x, from.width, to.width, true)?;
        Ok(product(&product(&rows, x)?, &columns)?.into())
    }

    fn backward(&self, pass: &Pass<'_>, state: Backward<'_>) -> Result<Gradients> {
        let (gradient, from, to) = (&state.gradient.value, self.input, self.output);
        let rows = self.weights(pass, gradient, from.height, to.height, true)?;
        let columns = self.weights(pass, gradient, from.width, to.width, false)?;
        Ok(Gradients::own(product(&product(&rows, gradient)?, &columns)?))
    }
}
