//! Permutation: the elements of an image under another order of axes.

use serde::{Deserialize, Serialize};

use super::operation::{Footprint, Operation, Parameter, Rank, Role};
use crate::Shape;
use crate::shape::check_extent;

/// The elements of an image in (C, H, W) order as a tensor of `extents`, its axes in another order, under another shape.
///
/// It splits channels into heads and positions into windows, moves them, and joins them again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permute {
    /// Extents whose product is the number of elements.
    pub extents: Vec<usize>,
    /// For each axis of the result, the axis of `extents` that it is.
    pub order: Vec<usize>,
    /// The shape that the result is viewed as.
    pub shape: Shape,
}

impl Permute {
    /// For each element of the result, in (C, H, W) order, the index of the input's element in that order.
    pub fn sources(&self) -> impl Iterator<Item = usize> {
        let steps = strides(&self.extents);
        let extents: Vec<usize> = self.order.iter().map(|&axis| self.extents[axis]).collect();
        let steps: Vec<usize> = self.order.iter().map(|&axis| steps[axis]).collect();
        let own = strides(&extents);
        (0..self.shape.elements())
            .map(move |at| (0..extents.len()).map(|axis| at / own[axis] % extents[axis] * steps[axis]).sum())
    }
}

/// The distance between neighbouring elements along each axis, in row-major order.
fn strides(extents: &[usize]) -> Vec<usize> {
    let mut steps = vec![1; extents.len()];
    for axis in (1..extents.len()).rev() {
        steps[axis - 1] = steps[axis] * extents[axis];
    }
    steps
}

impl Operation for Permute {
    fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let Permute { extents, order, shape } = self;
        check_extent(*shape)?;
        let elements = extents.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent));
        if elements != Some(inputs[0].elements()) || shape.elements() != inputs[0].elements() {
            return Err(format!("{} is not a tensor of {extents:?}, or not of {shape}", inputs[0]));
        }
        let mut axes = order.clone();
        axes.sort_unstable();
        if axes.len() != extents.len() || axes.iter().enumerate().any(|(index, &axis)| index != axis) {
            return Err(format!("{order:?} is not an order of {} axes", extents.len()));
        }
        Ok(*shape)
    }

    fn parameters(&self, _: Shape) -> Vec<Parameter> {
        Vec::new()
    }

    fn macs(&self, _: Shape, _: Shape) -> u64 {
        0
    }

    fn footprint(&self) -> Option<Footprint> {
        None
    }

    fn role(&self) -> Role {
        Role::Reshape
    }

    fn rank(&self) -> Rank {
        Rank::FeatureMap
    }

    fn describe(&self) -> String {
        format!("permute to {}", self.shape)
    }
}
