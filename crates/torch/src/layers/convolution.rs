//! Convolution and transposed convolution.

use nettriage_net::layer::ConvTranspose;
use nettriage_net::{Conv, Padding, Shape};

use super::{
    Backward, CHECKED, Context, Gradient, Gradients, Operation, Output, Pass, Traits, borders, inside, is_symmetric,
    pair,
};
use crate::Result;
use crate::abi::Argument::{Bool, Bools, Int, Ints, None, Some as Given, Tensor as T};
use crate::abi::{Format, Tensor, Type};
use crate::parameters::ParameterId;

/// A convolution.
pub(super) fn build(cx: &mut Context<'_>, conv: Conv) -> Convolution {
    let explicit = !is_symmetric(conv.padding);
    let padding = if explicit { [0, 0] } else { [conv.padding.top, conv.padding.left] };
    Convolution {
        border: explicit.then_some(conv.padding),
        ..Convolution::new(cx, conv, padding, Option::None, cx.inputs[0])
    }
}

/// A transposed convolution.
pub(super) fn build_transposed(cx: &mut Context<'_>, transposed: ConvTranspose) -> Transposed {
    let ConvTranspose { conv, output_padding } = transposed;
    // PyTorch's operator has no other padding at the end than at the start, and little output padding.
    let native = is_symmetric(conv.padding)
        && (0..2).all(|axis| output_padding[axis] < conv.stride[axis].max(conv.dilation[axis]));
    let (padding, output_padding) =
        if native { ([conv.padding.top, conv.padding.left], output_padding) } else { ([0, 0], [0, 0]) };
    let input = cx.inputs[0];
    let whole = |extent: usize, axis: usize| {
        (extent - 1) * conv.stride[axis] + (conv.kernel[axis] - 1) * conv.dilation[axis] + 1
    };
    let whole = Shape::new(conv.filters, whole(input.height, 0), whole(input.width, 1));
    let crop = (!native).then_some(Crop { start: [conv.padding.top, conv.padding.left], whole, output: cx.output });
    let mut convolution = Convolution::new(cx, conv, padding, Some(output_padding), input);
    // A bias is added after rows and columns are cut off and added.
    let bias = if native { Option::None } else { convolution.bias.take() };
    Transposed { convolution, crop, bias }
}

/// A convolution, or the transpose of one, with padding that PyTorch's operator takes.
pub(super) struct Convolution {
    weight: ParameterId,
    bias: Option<ParameterId>,
    trains: bool,
    filters: i64,
    stride: [i64; 2],
    padding: [i64; 2],
    dilation: [i64; 2],
    groups: i64,
    /// Of a transposed convolution.
    output_padding: Option<[i64; 2]>,
    /// Zeros that are put around the input before.
    border: Option<Padding>,
    input: Shape,
    format: Format,
}

impl Convolution {
    fn new(
        cx: &mut Context<'_>,
        conv: Conv,
        padding: [usize; 2],
        output_padding: Option<[usize; 2]>,
        input: Shape,
    ) -> Convolution {
        Convolution {
            weight: cx.weight("weight").expect(CHECKED),
            bias: cx.weight("bias"),
            trains: cx.trains,
            filters: conv.filters as i64,
            stride: pair(conv.stride),
            padding: pair(padding),
            dilation: pair(conv.dilation),
            groups: conv.groups as i64,
            output_padding: output_padding.map(pair),
            border: Option::None,
            input,
            format: super::format(cx.torch, input, cx.output),
        }
    }

    /// Input and weight as the operator takes them.
    fn operands(&self, pass: &Pass<'_>, x: &Tensor) -> Result<[Tensor; 2]> {
        let mut x = match self.border {
            Some(border) => x.pad(&borders(border), 0.0)?,
            Option::None => x.clone(),
        };
        let mut weight = pass.parameters.value(self.weight).clone();
        if pass.torch.mixed() {
            (x, weight) = (x.to_type(Type::Bfloat16)?, weight.to_type(Type::Bfloat16)?);
        }
        Ok([x.in_format(self.format)?, weight])
    }

    /// Whether the operands are new tensors, which the backward pass needs again.
    fn converts(&self, pass: &Pass<'_>) -> bool {
        pass.torch.mixed() || self.border.is_some()
    }
}

impl Operation for Convolution {
    fn traits(&self) -> Traits {
        Traits { inputs: true, output: false, overwritable: true }
    }

    fn forward(&self, pass: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output> {
        let [x, weight] = self.operands(pass, inputs[0])?;
        let bias =
            self.bias.map(|bias| pass.parameters.value(bias).to_type(weight.element_type().unwrap_or(Type::Float32)));
        let bias = bias.transpose()?;
        let bias = bias.as_ref().map(T);
        let value = x.one(
            c"aten::convolution",
            &[
                T(&x),
                T(&weight),
                bias.as_ref().map_or(None, Given),
                Ints(&self.stride),
                Ints(&self.padding),
                Ints(&self.dilation),
                Bool(self.output_padding.is_some()),
                Ints(&self.output_padding.unwrap_or_default()),
                Int(self.groups),
            ],
        )?;
        Ok(Output { value, saved: if self.converts(pass) { vec![x, weight] } else { Vec::new() } })
    }

    fn backward(&self, pass: &Pass<'_>, state: Backward<'_>) -> Result<Gradients> {
        let [x, weight] = match state.saved {
            [x, weight] => [x.clone(), weight.clone()],
            _ => self.operands(pass, &state.inputs[0])?,
        };
        let gradient =
            state.gradient.value.to_type(x.element_type().unwrap_or(Type::Float32))?.in_format(self.format)?;
        let needed = state.needed[0];
        let [input, weight_gradient, bias_gradient] = x.library().call(
            c"aten::convolution_backward",
            c"",
            &[
                T(&gradient),
                T(&x),
                T(&weight),
                Given(&Ints(&[self.filters])),
                Ints(&self.stride),
                Ints(&self.padding),
                Ints(&self.dilation),
                Bool(self.output_padding.is_some()),
                Ints(&self.output_padding.unwrap_or_default()),
                Int(self.groups),
                Bools(&[needed, self.trains, self.trains && self.bias.is_some()]),
            ],
        )?;
        let input = match self.border {
            Some(border) if needed => inside(&input, border, self.input)?,
            _ => input,
        };
        let mut weights = Vec::new();
        if self.trains {
            weights.push((self.weight, weight_gradient));
            weights.extend(self.bias.map(|bias| (bias, bias_gradient)));
        }
        Ok(Gradients { inputs: vec![needed.then(|| Gradient::own(input))], weights })
    }
}

/// Rows and columns that are cut off, or added as zeros, after a transposed convolution without padding.
struct Crop {
    start: [usize; 2],
    /// Of the convolution.
    whole: Shape,
    /// Of the layer.
    output: Shape,
}

impl Crop {
    /// What follows the convolution's output.
    fn missing(&self) -> Padding {
        let Crop { start: [top, left], whole, output } = self;
        Padding {
            bottom: (top + output.height).saturating_sub(whole.height),
            right: (left + output.width).saturating_sub(whole.width),
            ..Padding::default()
        }
    }
}

/// A transposed convolution.
pub(super) struct Transposed {
    convolution: Convolution,
    crop: Option<Crop>,
    /// Where it is not the convolution's.
    bias: Option<ParameterId>,
}

impl Operation for Transposed {
    fn traits(&self) -> Traits {
        Traits { overwritable: false, ..self.convolution.traits() }
    }

    fn forward(&self, pass: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output> {
        let mut output = self.convolution.forward(pass, inputs)?;
        if let Some(crop) = &self.crop {
            let whole = output.value.pad(&borders(crop.missing()), 0.0)?;
            let start = Padding { top: crop.start[0], left: crop.start[1], ..Padding::default() };
            output.value = inside(&whole, start, crop.output)?.in_format(self.convolution.format)?;
        }
        if let Some(bias) = self.bias {
            output.value =
                output.value.add(&pass.parameters.value(bias).reshape(&[1, self.convolution.filters, 1, 1])?)?;
        }
        Ok(output)
    }

    fn backward(&self, pass: &Pass<'_>, mut state: Backward<'_>) -> Result<Gradients> {
        let trained = self.bias.filter(|_| self.convolution.trains);
        let bias = trained
            .map(|bias| Result::Ok((bias, state.gradient.value.float()?.sum(&[0, 2, 3], false)?)))
            .transpose()?;
        if let Some(crop) = &self.crop {
            let Crop { start: [top, left], whole, output } = crop;
            // Put back where it was in the convolution's output with what was missing, which is then cut off.
            let missing = crop.missing();
            let border = Padding {
                top: *top,
                left: *left,
                bottom: (whole.height + missing.bottom) - (top + output.height),
                right: (whole.width + missing.right) - (left + output.width),
            };
            let placed = state.gradient.value.pad(&borders(border), 0.0)?;
            state.gradient = Gradient::own(inside(&placed, Padding::default(), *whole)?);
        }
        let mut gradients = self.convolution.backward(pass, state)?;
        gradients.weights.extend(bias);
        Ok(gradients)
    }
}
