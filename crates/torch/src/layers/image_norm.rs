//! Norms by the statistics of one image: layer norm, root-mean-square norm, group norm.

use nettriage_net::{Shape, layer};

use super::{Backward, CHECKED, Context, Gradients, Operation, Output, Pass, Traits};
use crate::Result;
use crate::abi::Argument::{Bools, Float, Int, Ints, Some as Given, Tensor as T};
use crate::abi::{Tensor, Type};
use crate::parameters::ParameterId;

/// A layer norm, or without a mean a root-mean-square norm.
pub(super) fn build_layer_norm(cx: &mut Context<'_>, norm: layer::LayerNorm) -> LayerNorm {
    LayerNorm {
        weight: cx.weight("weight").expect(CHECKED),
        bias: if norm.centred { cx.weight("bias") } else { None },
        eps: f64::from(norm.eps),
        channels: cx.output.channels as i64,
        trains: cx.trains,
    }
}

/// Normalisation over the channels of each position.
pub(super) struct LayerNorm {
    weight: ParameterId,
    /// None for a root-mean-square norm.
    bias: Option<ParameterId>,
    eps: f64,
    channels: i64,
    trains: bool,
}

fn element_type(tensor: &Tensor) -> Type {
    tensor.element_type().unwrap_or(Type::Float32)
}

impl LayerNorm {
    /// 1 / sqrt(mean(x²) + eps) of each position of N x H x W x C.
    fn scale(&self, pass: &Pass<'_>, x: &Tensor) -> Result<Tensor> {
        let mean = x.mul(x)?.sum(&[3], true)?.mul(&pass.torch.scalar(1.0 / self.channels as f64)?)?;
        mean.add(&pass.torch.scalar(self.eps)?)?.map(c"aten::rsqrt")
    }
}

impl Operation for LayerNorm {
    fn traits(&self) -> Traits {
        Traits { inputs: true, output: false, overwritable: true }
    }

    fn forward(&self, pass: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output> {
        let of = element_type(inputs[0]);
        let x = inputs[0].permute(&[0, 2, 3, 1])?.float()?;
        let weight = pass.parameters.value(self.weight);
        let back = |y: Tensor| y.permute(&[0, 3, 1, 2])?.to_type(of);
        let Some(bias) = self.bias else {
            return Ok(back(x.mul(&self.scale(pass, &x)?)?.mul(weight)?)?.into());
        };
        let (weight, bias) = (T(weight), T(pass.parameters.value(bias)));
        let sizes = [self.channels];
        let arguments = [T(&x), Ints(&sizes), Given(&weight), Given(&bias), Float(self.eps)];
        let [y, mean, scale] = x.library().call(c"aten::native_layer_norm", c"", &arguments)?;
        Ok(Output { value: back(y)?, saved: vec![mean, scale] })
    }

    fn backward(&self, pass: &Pass<'_>, state: Backward<'_>) -> Result<Gradients> {
        let of = element_type(&state.gradient.value);
        let x = state.inputs[0].permute(&[0, 2, 3, 1])?.float()?;
        let gradient = state.gradient.value.permute(&[0, 2, 3, 1])?.float()?;
        let weight = pass.parameters.value(self.weight);
        let back = |y: Tensor| y.permute(&[0, 3, 1, 2])?.to_type(of);
        let Some(bias) = self.bias else {
            // With z = s x and h = g weight: dx = s (h - z mean(h z)).
            let scale = self.scale(pass, &x)?;
            let z = x.mul(&scale)?;
            let h = gradient.mul(weight)?;
            let dot = h.mul(&z)?.sum(&[3], true)?.mul(&pass.torch.scalar(1.0 / self.channels as f64)?)?;
            let mut gradients = Gradients::own(back(h.subtract(&z.mul(&dot)?, 1.0)?.mul(&scale)?)?);
            if self.trains {
                gradients.weights.push((self.weight, gradient.mul(&z)?.sum(&[0, 1, 2], false)?));
            }
            return Ok(gradients);
        };
        let (given, shift) = (T(weight), T(pass.parameters.value(bias)));
        let (sizes, mask) = ([self.channels], [true, self.trains, self.trains]);
        let arguments = [
            T(&gradient),
            T(&x),
            Ints(&sizes),
            T(&state.saved[0]),
            T(&state.saved[1]),
            Given(&given),
            Given(&shift),
            Bools(&mask),
        ];
        let [input, weight, shift] = x.library().call(c"aten::native_layer_norm_backward", c"", &arguments)?;
        let mut gradients = Gradients::own(back(input)?);
        if self.trains {
            gradients.weights.extend([(self.weight, weight), (bias, shift)]);
        }
        Ok(gradients)
    }
}

/// A group norm.
pub(super) fn build_group_norm(cx: &mut Context<'_>, norm: layer::GroupNorm) -> GroupNorm {
    let (weight, bias) = (cx.weight("weight").expect(CHECKED), cx.weight("bias").expect(CHECKED));
    GroupNorm { weight, bias, norm, shape: cx.output, trains: cx.trains }
}

/// Normalisation over groups of channels and all positions.
pub(super) struct GroupNorm {
    weight: ParameterId,
    bias: ParameterId,
    norm: layer::GroupNorm,
    shape: Shape,
    trains: bool,
}

impl GroupNorm {
    /// Images, channels, positions and groups.
    fn sizes(&self, pass: &Pass<'_>) -> [i64; 4] {
        let Shape { channels, height, width } = self.shape;
        [pass.n, channels, height * width, self.norm.groups].map(|size| size as i64)
    }
}

impl Operation for GroupNorm {
    fn traits(&self) -> Traits {
        Traits { inputs: true, output: false, overwritable: true }
    }

    fn forward(&self, pass: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output> {
        let x = inputs[0].float()?.in_format(crate::abi::Format::Contiguous)?;
        let [n, c, positions, groups] = self.sizes(pass);
        let (weight, bias) = (T(pass.parameters.value(self.weight)), T(pass.parameters.value(self.bias)));
        let eps = Float(self.norm.eps.into());
        let arguments = [T(&x), Given(&weight), Given(&bias), Int(n), Int(c), Int(positions), Int(groups), eps];
        let [y, mean, scale] = x.library().call(c"aten::native_group_norm", c"", &arguments)?;
        Ok(Output { value: y.to_type(element_type(inputs[0]))?, saved: vec![mean, scale] })
    }

    fn backward(&self, pass: &Pass<'_>, state: Backward<'_>) -> Result<Gradients> {
        let of = element_type(&state.gradient.value);
        let contiguous = |tensor: &Tensor| tensor.float()?.in_format(crate::abi::Format::Contiguous);
        let (x, gradient) = (contiguous(&state.inputs[0])?, contiguous(&state.gradient.value)?);
        let [n, c, positions, groups] = self.sizes(pass);
        let weight = T(pass.parameters.value(self.weight));
        let mask = [true, self.trains, self.trains];
        let arguments = [
            T(&gradient),
            T(&x),
            T(&state.saved[0]),
            T(&state.saved[1]),
            Given(&weight),
            Int(n),
            Int(c),
            Int(positions),
            Int(groups),
            Bools(&mask),
        ];
        let [input, weight, bias] = x.library().call(c"aten::native_group_norm_backward", c"", &arguments)?;
        let mut gradients = Gradients::own(input.to_type(of)?);
        if self.trains {
            gradients.weights.extend([(self.weight, weight), (self.bias, bias)]);
        }
        Ok(gradients)
    }
}
