//! The shapes of a convolution.

/// Zeros around an image, per side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Padding {
    /// Rows above.
    pub top: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns to the left.
    pub left: usize,
    /// Columns to the right.
    pub right: usize,
}

impl Padding {
    /// The same padding on all four sides.
    pub fn all(amount: usize) -> Padding {
        Padding { top: amount, bottom: amount, left: amount, right: amount }
    }
}

/// A two-dimensional convolution (cross-correlation).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

impl Conv {
    /// A dense `kernel` x `kernel` convolution, stride 1, padded so that an odd kernel keeps the image's size.
    pub fn same(filters: usize, kernel: usize) -> Conv {
        Conv {
            filters,
            kernel: [kernel; 2],
            stride: [1; 2],
            padding: Padding::all(kernel / 2),
            dilation: [1; 2],
            groups: 1,
        }
    }
}

/// The shapes of one convolution. Shapes are given as [C, H, W]; images are stored as N x H x W x C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// An input image, [C, H, W].
    pub input: [usize; 3],
    /// An output image, [C, H, W].
    pub output: [usize; 3],
    /// Kernel, stride, padding, dilation and groups.
    pub conv: Conv,
}

impl Geometry {
    /// The geometry of `conv` on images of shape `input` = [C, H, W].
    ///
    /// # Panics
    /// If the dilated kernel is larger than the padded image, or a stride is 0.
    pub fn of(input: [usize; 3], conv: Conv) -> Geometry {
        let extent = |axis: usize, size: usize, pad: usize| {
            let kernel = conv.dilation[axis] * (conv.kernel[axis] - 1) + 1;
            let free = (size + pad).checked_sub(kernel).expect("a kernel that fits into the padded image");
            free / conv.stride[axis] + 1
        };
        let p = conv.padding;
        let output = [conv.filters, extent(0, input[1], p.top + p.bottom), extent(1, input[2], p.left + p.right)];
        Geometry { input, output, conv }
    }

    /// Panics if the shapes contradict each other. The output may be smaller than the convolution's, as it is for the
    /// transpose of a convolution with output padding.
    pub(crate) fn check(&self) {
        let ([channels, ..], conv) = (self.input, self.conv);
        assert!(
            conv.groups > 0 && channels.is_multiple_of(conv.groups) && conv.filters.is_multiple_of(conv.groups),
            "input channels and filters are divisible by the groups: {self:?}"
        );
        let [filters, height, width] = Geometry::of(self.input, conv).output;
        let [c, h, w] = self.output;
        assert!(c == filters && h <= height && w <= width, "the output is that of the convolution: {self:?}");
    }

    /// Elements of one input image.
    pub fn input_len(&self) -> usize {
        self.input.iter().product()
    }

    /// Elements of one output image.
    pub fn output_len(&self) -> usize {
        self.output.iter().product()
    }

    /// Elements of the weight.
    pub fn weight_len(&self) -> usize {
        self.conv.filters * (self.input[0] / self.conv.groups) * self.conv.kernel[0] * self.conv.kernel[1]
    }
}
