//! What an init must say and do, and the layer that it initialises.

use rand::Rng;

use crate::block::Block;
use crate::surgery;
use crate::{Conv, Error, Kind, Network, Tensor};

/// A way to initialise a substitute. The built-in ones implement it in one file each; a program's own is made known by
/// [`register`](super::register).
pub trait InitMethod: Send + Sync {
    /// Its name in study files and records: letters, digits, `-` and `_`.
    fn name(&self) -> &str;

    /// Other names that are accepted for it.
    fn aliases(&self) -> &[&str] {
        &[]
    }

    /// Its formula in one line, in plain text.
    fn describe(&self) -> &str;

    /// Whether the values depend on the random generator. A substitute that is neither random nor trained is the same
    /// for every seed and is evaluated once.
    fn is_random(&self) -> bool;

    /// Whether the values depend on images, which are not available here: the program that has them computes the
    /// values and calls [`set_affine`](super::set_affine).
    fn needs_images(&self) -> bool {
        false
    }

    /// Whether the substitute is meant as a fixed affine map, so that its norm gets the statistics of the
    /// convolution's output on images ([`calibrate`](super::calibrate)) before it is used or trained.
    fn is_calibrated(&self) -> bool;

    /// The initial values of the substitute.
    ///
    /// # Errors
    /// A block for which the init is not defined: see [`InitProblem::error`].
    fn values(&self, problem: &InitProblem<'_>, rng: &mut dyn Rng) -> Result<InitialValues, Error>;
}

/// What an init is computed from.
pub struct InitProblem<'a> {
    /// The network before the replacement, with its weights.
    pub parent: &'a Network,
    /// The block of the parent that is replaced.
    pub block: &'a Block,
    /// The layer to initialise.
    pub layer: SubstituteLayer,
}

impl InitProblem<'_> {
    /// An error that names the block.
    pub fn error(&self, problem: impl Into<String>) -> Error {
        Error::block(&self.block.name, problem)
    }
}

/// Initial values of a substitute.
pub enum InitialValues {
    /// A convolution with a zero bias, or with a fresh norm: weight 1, bias 0, mean 0, variance 1.
    FromScratch {
        /// As [`SubstituteLayer::shape`].
        weight: Tensor,
    },
    /// The affine map y = W * x + b before the closing activation, set as by [`set_affine`](super::set_affine).
    Affine {
        /// W, as [`SubstituteLayer::shape`].
        weight: Tensor,
        /// b, one element a filter.
        bias: Vec<f32>,
    },
    /// A convolution with values both for a bias and for a norm; used is the one that the substitute has.
    WithNorm {
        /// As [`SubstituteLayer::shape`].
        weight: Tensor,
        /// One element a filter.
        bias: Vec<f32>,
        /// Weight, bias, running mean and running variance of the norm, one element a filter each.
        norm: [Vec<f32>; 4],
    },
}

/// The substitute's convolution or linear layer; a linear layer is a 1x1 convolution.
///
/// The two convolutions of a separable substitute are initialised one by one, or, by an init that is
/// [calibrated](InitMethod::is_calibrated), as the one dense convolution that they stand for.
#[derive(Clone, Debug)]
pub struct SubstituteLayer {
    /// Its name in the child; of a separable substitute as one, that of its 1x1 convolution.
    pub name: String,
    /// Shape of its weight: `[filters, channels / groups, rows, columns]`, or `[filters, channels]` if it is linear.
    pub shape: Vec<usize>,
    /// Output channels.
    pub filters: usize,
    /// Input channels.
    pub channels: usize,
    /// Groups; 1 is dense.
    pub groups: usize,
    /// Kernel extent, [rows, columns].
    pub kernel: [usize; 2],
    /// Stride, [rows, columns].
    pub stride: [usize; 2],
    /// Padding above and to the left.
    pub padding: [usize; 2],
    /// Which of the convolutions of a separable substitute it is, if it is one of them.
    pub part: Option<SeparablePart>,
}

/// One of the two convolutions of a separable substitute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeparablePart {
    /// The first: one filter per channel.
    Depthwise,
    /// The second, of 1x1.
    Pointwise,
}

impl SubstituteLayer {
    /// What replaces `block` in `child`, a separable substitute as one convolution; `None` where that is no affine map, or
    /// nothing.
    ///
    /// # Errors
    /// A network that is not [`compress`](crate::surgery::compress)'s.
    pub fn of(child: &Network, block: &Block) -> Result<Option<SubstituteLayer>, Error> {
        let graph = &child.graph;
        let Some((map, name)) = surgery::affine_map(block, child).zip(surgery::last_product(block, graph)) else {
            return Ok(None);
        };
        let first = surgery::substitute_layers(block, child).swap_remove(0);
        let input = graph.layer(&first).and_then(|layer| layer.inputs.first());
        let Some(input) = input else { return Err(Error::layer(&first, "it has no input")) };
        let channels = graph.shape_of(input)?.channels;
        let linear = matches!(graph.layer(&name).map(|layer| &layer.kind), Some(Kind::Linear(_)));
        Ok(Some(SubstituteLayer::new(name, &map.conv, channels, linear)))
    }

    /// The depthwise convolution before it, if it is a separable substitute.
    pub(super) fn depthwise(child: &Network, block: &Block) -> Option<SubstituteLayer> {
        let separable = surgery::affine_map(block, child)?.separable;
        let name = Some(format!("{}.depthwise", block.name)).filter(|_| separable)?;
        let conv = child.graph.layer(&name)?.kind.as_convolution()?;
        let layer = SubstituteLayer::new(name, &conv, conv.filters, false);
        Some(SubstituteLayer { part: Some(SeparablePart::Depthwise), ..layer })
    }

    pub(super) fn new(name: String, conv: &Conv, channels: usize, linear: bool) -> SubstituteLayer {
        let mut shape = vec![conv.filters, channels / conv.groups];
        if !linear {
            shape.extend(conv.kernel);
        }
        SubstituteLayer {
            name,
            shape,
            filters: conv.filters,
            channels,
            groups: conv.groups,
            kernel: conv.kernel,
            stride: conv.stride,
            padding: conv.padding.before(),
            part: None,
        }
    }

    /// The 1x1 convolution of a separable substitute, which is seen as this one.
    pub(super) fn pointwise(&self) -> SubstituteLayer {
        SubstituteLayer {
            shape: vec![self.filters, self.channels, 1, 1],
            kernel: [1; 2],
            stride: [1; 2],
            padding: [0; 2],
            part: Some(SeparablePart::Pointwise),
            ..self.clone()
        }
    }

    /// The kernel position that reads the output's own position.
    pub(super) fn centre(&self) -> [usize; 2] {
        [0, 1].map(|axis| self.padding[axis].min(self.kernel[axis] - 1))
    }

    /// Input channels of a group.
    pub fn channels_per_group(&self) -> usize {
        self.channels / self.groups
    }

    /// Elements of the weight.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Inputs of one output: channels of a group times kernel positions.
    pub fn fan_in(&self) -> f64 {
        self.channels_per_group() as f64 * (self.kernel[0] * self.kernel[1]) as f64
    }

    /// Filters times kernel positions.
    pub fn fan_out(&self) -> f64 {
        self.filters as f64 * (self.kernel[0] * self.kernel[1]) as f64
    }

    /// A weight from its elements at (filter, input channel, row, column); channels are counted over all groups.
    pub fn weight(&self, mut element: impl FnMut(usize, usize, usize, usize) -> f32) -> Tensor {
        let mut data = Vec::with_capacity(self.elements());
        let filters_per_group = self.filters / self.groups;
        for filter in 0..self.filters {
            let first = filter / filters_per_group * self.channels_per_group();
            for channel in first..first + self.channels_per_group() {
                for row in 0..self.kernel[0] {
                    for column in 0..self.kernel[1] {
                        data.push(element(filter, channel, row, column));
                    }
                }
            }
        }
        Tensor { shape: self.shape.clone(), data }
    }
}
