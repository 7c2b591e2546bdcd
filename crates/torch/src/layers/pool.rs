//! Pooling: maximum, mean, and mean over a fixed grid.

use nettriage_net::{Padding, Shape, Window, layer};

use super::{Backward, Gradients, Operation, Output, Pass, Traits, borders, inside, is_symmetric, pair};
use crate::Result;
use crate::abi::Argument::{Bool, Ints, None, Tensor as T};
use crate::abi::Tensor;

/// A window as PyTorch's operators take it, with the border that is put around the input before.
struct Native {
    kernel: [i64; 2],
    stride: [i64; 2],
    padding: [i64; 2],
    border: Option<Padding>,
}

impl Native {
    /// PyTorch pads by the same on opposite sides, and by at most half the window.
    fn of(window: Window) -> Native {
        let Window { kernel, stride, padding } = window;
        let native = is_symmetric(padding) && 2 * padding.top <= kernel[0] && 2 * padding.left <= kernel[1];
        let (inner, border) =
            if native { ([padding.top, padding.left], Option::None) } else { ([0, 0], Some(padding)) };
        Native { kernel: pair(kernel), stride: pair(stride), padding: pair(inner), border }
    }

    /// The input with its border of `value`.
    fn bordered(&self, x: &Tensor, value: f64) -> Result<Tensor> {
        match self.border {
            Some(border) => x.pad(&borders(border), value),
            Option::None => Ok(x.clone()),
        }
    }

    /// The gradient of the input, from that of the input with its border.
    fn unbordered(&self, gradient: Tensor, shape: Shape) -> Result<Tensor> {
        match self.border {
            Some(border) => inside(&gradient, border, shape),
            Option::None => Ok(gradient),
        }
    }
}

/// The largest element of each window.
pub(super) struct MaxPool {
    pub window: Window,
    pub input: Shape,
}

impl Operation for MaxPool {
    fn traits(&self) -> Traits {
        Traits { inputs: true, output: false, overwritable: true }
    }

    fn forward(&self, _: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output> {
        let native = Native::of(self.window);
        let x = native.bordered(inputs[0], f64::NEG_INFINITY)?;
        let arguments =
            [T(&x), Ints(&native.kernel), Ints(&native.stride), Ints(&native.padding), Ints(&[1, 1]), Bool(false)];
        let [value, indices] = x.library().call(c"aten::max_pool2d_with_indices", c"", &arguments)?;
        let saved = if native.border.is_some() { vec![indices, x] } else { vec![indices] };
        Ok(Output { value, saved })
    }

    fn backward(&self, _: &Pass<'_>, state: Backward<'_>) -> Result<Gradients> {
        let native = Native::of(self.window);
        let (indices, x) = match state.saved {
            [indices, x] => (indices, x),
            saved => (&saved[0], &state.inputs[0]),
        };
        let arguments = [
            T(&state.gradient.value),
            T(x),
            Ints(&native.kernel),
            Ints(&native.stride),
            Ints(&native.padding),
            Ints(&[1, 1]),
            Bool(false),
            T(indices),
        ];
        let gradient = x.one(c"aten::max_pool2d_with_indices_backward", &arguments)?;
        Ok(Gradients::own(native.unbordered(gradient, self.input)?))
    }
}

/// The mean of each window.
pub(super) struct AvgPool {
    pub pool: layer::AvgPool,
    pub input: Shape,
}

impl AvgPool {
    /// The share of each window that is no border, if the mean leaves the border out: a tensor 1 x 1 x H x W.
    fn shares(&self, pass: &Pass<'_>, native: &Native) -> Result<Option<Tensor>> {
        if self.pool.count_padding || native.border.is_none() {
            return Ok(Option::None);
        }
        let ones = pass.torch.full(&[1, 1, self.input.height as i64, self.input.width as i64], 1.0)?;
        Ok(Some(self.mean(&native.bordered(&ones, 0.0)?, native)?))
    }

    fn mean(&self, x: &Tensor, native: &Native) -> Result<Tensor> {
        let (kernel, stride, padding) = (Ints(&native.kernel), Ints(&native.stride), Ints(&native.padding));
        x.one(c"aten::avg_pool2d", &[T(x), kernel, stride, padding, Bool(false), Bool(self.pool.count_padding), None])
    }
}

impl Operation for AvgPool {
    fn traits(&self) -> Traits {
        Traits { inputs: true, output: false, overwritable: true }
    }

    fn forward(&self, pass: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output> {
        let native = Native::of(self.pool.window);
        let mean = self.mean(&native.bordered(inputs[0], 0.0)?, &native)?;
        Ok(match self.shares(pass, &native)? {
            Some(shares) => mean.div(&shares)?.into(),
            Option::None => mean.into(),
        })
    }

    fn backward(&self, pass: &Pass<'_>, state: Backward<'_>) -> Result<Gradients> {
        let native = Native::of(self.pool.window);
        let gradient = match self.shares(pass, &native)? {
            Some(shares) => state.gradient.value.div(&shares)?,
            Option::None => state.gradient.value.clone(),
        };
        let x = native.bordered(&state.inputs[0], 0.0)?;
        let arguments = [
            T(&gradient),
            T(&x),
            Ints(&native.kernel),
            Ints(&native.stride),
            Ints(&native.padding),
            Bool(false),
            Bool(self.pool.count_padding),
            None,
        ];
        Ok(Gradients::own(native.unbordered(x.one(c"aten::avg_pool2d_backward", &arguments)?, self.input)?))
    }
}

/// The mean over each cell of a grid.
pub(super) struct AdaptivePool {
    pub grid: layer::AdaptiveAvgPool,
}

impl Operation for AdaptivePool {
    fn traits(&self) -> Traits {
        Traits { inputs: true, output: false, overwritable: true }
    }

    fn forward(&self, _: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output> {
        let grid = pair([self.grid.height, self.grid.width]);
        Ok(inputs[0].one(c"aten::_adaptive_avg_pool2d", &[T(inputs[0]), Ints(&grid)])?.into())
    }

    fn backward(&self, _: &Pass<'_>, state: Backward<'_>) -> Result<Gradients> {
        let gradient = &state.gradient.value;
        let arguments = [T(gradient), T(&state.inputs[0])];
        Ok(Gradients::own(gradient.one(c"aten::_adaptive_avg_pool2d_backward", &arguments)?))
    }
}
