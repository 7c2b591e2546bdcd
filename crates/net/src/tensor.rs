//! Tensors and the named weights of a network, as plain data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A dense tensor of `f32` in row-major order.
///
/// Convolution weights are `[out, in / groups, kernel rows, kernel columns]` and linear weights `[out, in]`, as in
/// PyTorch and ONNX. Engines may use another memory layout internally.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tensor {
    /// Extent of every axis, outermost first.
    pub shape: Vec<usize>,
    /// The elements, as many as the product of `shape`.
    pub data: Vec<f32>,
}

impl Tensor {
    /// A tensor of the given shape with every element equal to `value`.
    pub fn full(shape: &[usize], value: f32) -> Tensor {
        Tensor { shape: shape.to_vec(), data: vec![value; shape.iter().product()] }
    }

    /// A tensor of zeros.
    pub fn zeros(shape: &[usize]) -> Tensor {
        Tensor::full(shape, 0.0)
    }

    /// A tensor from its elements in row-major order.
    ///
    /// # Panics
    /// If `data` does not hold exactly the product of `shape` elements.
    pub fn new(shape: &[usize], data: Vec<f32>) -> Tensor {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "a tensor of shape {shape:?}");
        Tensor { shape: shape.to_vec(), data }
    }
}

/// The weights of a network, keyed `"<layer>.<parameter>"`: `weight` and `bias` for convolutions,
/// linear, affine and batch-norm layers, `running_mean` and `running_var` for batch norm,
/// `weight` (slopes) for PReLU.
pub type Weights = BTreeMap<String, Tensor>;
