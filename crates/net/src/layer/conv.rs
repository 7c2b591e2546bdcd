//! Convolution and transposed convolution.

use serde::{Deserialize, Serialize};

use super::operation::{
    Footprint, Initial, Operation, Padding, Parameter, Rank, Role, check_divides, describe_pair, saturating_product,
    windows,
};
use crate::{Shape, random};

/// A two-dimensional convolution (cross-correlation).
///
/// Parameters: `weight` `[filters, C / groups, rows, columns]` and, with a bias, `bias` `[filters]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conv {
    /// Output channels.
    pub filters: usize,
    /// Kernel extent, [rows, columns].
    pub kernel: [usize; 2],
    /// Stride, [rows, columns].
    pub stride: [usize; 2],
    /// Zero padding.
    pub padding: Padding,
    /// Distance between kernel taps, [rows, columns]; 1 is dense.
    pub dilation: [usize; 2],
    /// Groups; input and output channels are divisible by it.
    pub groups: usize,
    /// Whether a bias is added.
    pub bias: bool,
}

impl Conv {
    /// A dense `kernel` x `kernel` convolution, stride 1, padded so that an odd kernel keeps H and W.
    pub fn same(filters: usize, kernel: usize) -> Conv {
        Conv {
            filters,
            kernel: [kernel; 2],
            stride: [1; 2],
            padding: Padding::all(kernel / 2),
            dilation: [1; 2],
            groups: 1,
            bias: true,
        }
    }

    /// Whether it has one filter for every input channel and several of them.
    pub fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.filters
    }

    fn check_groups(&self, input: Shape) -> Result<(), String> {
        check_divides(self.groups, input.channels, "groups", "input channels")?;
        check_divides(self.groups, self.filters, "groups", "filters")
    }

    /// `weight` of this shape, normal with variance 2 / fan-in (He et al., arXiv:1502.01852, eq. 10), and `bias` 0.
    fn weights(&self, weight: Vec<usize>) -> Vec<Parameter> {
        let deviation = (2.0 / random::fan_in(&weight)).sqrt();
        let mut list = vec![Parameter::trained("weight", weight, Initial::Normal { deviation })];
        if self.bias {
            list.push(Parameter::trained("bias", vec![self.filters], Initial::Constant(0.0)));
        }
        list
    }

    fn in_words(&self, name: &str) -> String {
        let mut text = format!("{name} {}x{}, {}", self.kernel[0], self.kernel[1], self.filters);
        if self.stride != [1, 1] {
            text += &format!(", stride {}", describe_pair(self.stride));
        }
        if self.dilation != [1, 1] {
            text += &format!(", dilation {}", describe_pair(self.dilation));
        }
        if self.groups != 1 {
            text += &format!(", groups {}", self.groups);
        }
        let same = |axis: usize| self.dilation[axis].saturating_mul(self.kernel[axis] / 2);
        let usual = Padding { top: same(0), bottom: same(0), left: same(1), right: same(1) };
        if self.padding != usual {
            text += &format!(", padding {}", self.padding.describe());
        }
        text
    }
}

impl Operation for Conv {
    fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
        self.check_groups(inputs[0])?;
        let (rows, columns) = windows(inputs[0], self.kernel, self.stride, self.dilation, &self.padding)?;
        Ok(Shape::new(self.filters, rows, columns))
    }

    fn parameters(&self, input: Shape) -> Vec<Parameter> {
        self.weights(vec![self.filters, input.channels / self.groups.max(1), self.kernel[0], self.kernel[1]])
    }

    fn macs(&self, input: Shape, output: Shape) -> u64 {
        let per_position = [self.kernel[0], self.kernel[1], input.channels / self.groups, self.filters];
        saturating_product(&per_position).saturating_mul(saturating_product(&[output.height, output.width]))
    }

    fn footprint(&self) -> Option<Footprint> {
        let Conv { kernel, stride, dilation, padding, .. } = *self;
        Some(Footprint { kernel, stride, dilation, before: padding.before() })
    }

    fn role(&self) -> Role {
        Role::Convolution
    }

    fn rank(&self) -> Rank {
        Rank::FeatureMap
    }

    fn describe(&self) -> String {
        self.in_words("conv")
    }
}

/// A transposed convolution: the gradient of a convolution with respect to its input, as a layer.
///
/// Parameters: `weight` `[C, filters / groups, rows, columns]` and, with a bias, `bias` `[filters]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConvTranspose {
    /// The convolution whose transpose this is; `filters` are the output channels of this layer.
    pub conv: Conv,
    /// Extra rows and columns at the end of the output.
    pub output_padding: [usize; 2],
}

impl Operation for ConvTranspose {
    /// Dumoulin and Visin, arXiv:1603.07285, relationship 13: the input extent from which a convolution of the same
    /// settings makes this layer's input extent.
    fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let (conv, input) = (&self.conv, inputs[0]);
        conv.check_groups(input)?;
        let along = |extent: usize, axis: usize, padding: usize| -> Option<usize> {
            let (kernel, dilation, stride) = (conv.kernel[axis], conv.dilation[axis], conv.stride[axis]);
            let span = kernel.checked_sub(1)?.checked_mul(dilation)?.checked_add(1)?;
            let whole = (extent - 1).checked_mul(stride)?.checked_add(span)?.checked_add(self.output_padding[axis])?;
            whole.checked_sub(padding)
        };
        let vertical = conv.padding.top.checked_add(conv.padding.bottom).ok_or("padding overflows")?;
        let horizontal = conv.padding.left.checked_add(conv.padding.right).ok_or("padding overflows")?;
        let rows = along(input.height, 0, vertical).ok_or("its padding leaves no rows")?;
        let columns = along(input.width, 1, horizontal).ok_or("its padding leaves no columns")?;
        Ok(Shape::new(conv.filters, rows, columns))
    }

    fn parameters(&self, input: Shape) -> Vec<Parameter> {
        let conv = &self.conv;
        conv.weights(vec![input.channels, conv.filters / conv.groups.max(1), conv.kernel[0], conv.kernel[1]])
    }

    fn macs(&self, input: Shape, _: Shape) -> u64 {
        let conv = &self.conv;
        let per_position = [conv.kernel[0], conv.kernel[1], input.channels, conv.filters / conv.groups];
        saturating_product(&per_position).saturating_mul(saturating_product(&[input.height, input.width]))
    }

    fn footprint(&self) -> Option<Footprint> {
        None
    }

    fn role(&self) -> Role {
        Role::TransposedConvolution
    }

    fn rank(&self) -> Rank {
        Rank::FeatureMap
    }

    fn describe(&self) -> String {
        self.conv.in_words("transposed conv")
    }
}
