//! The operators that the layers share, as methods of tensors.

use std::ffi::CStr;

use crate::Result;
use crate::abi::Argument::{self, Bool, Format as Order, Int, Ints, None, Some as Given, Tensor as T, Type as Of};
use crate::abi::{Format, Tensor, Type};
use crate::device::channels_last;

impl Tensor {
    /// Overwrites a tensor N x C x H x W with values of the host's memory, (N, H, W, C).
    pub(crate) fn copy_from_host(&self, values: &[f32], [n, c, h, w]: [usize; 4]) -> Result<()> {
        let sizes = [n, c, h, w].map(|size| size as i64);
        self.overwrite(values, &sizes, &channels_last(sizes))
    }

    /// Calls an operator without overloads that has one result.
    pub(crate) fn one(&self, name: &CStr, arguments: &[Argument<'_>]) -> Result<Tensor> {
        self.overload(name, c"", arguments)
    }

    /// Calls an overload of an operator that has one result.
    pub(crate) fn overload(&self, name: &CStr, overload: &CStr, arguments: &[Argument<'_>]) -> Result<Tensor> {
        let [result] = self.library().call(name, overload, arguments)?;
        Ok(result)
    }

    /// f(self).
    pub(crate) fn map(&self, name: &CStr) -> Result<Tensor> {
        self.one(name, &[T(self)])
    }

    /// f(self, other), overload `Tensor`.
    pub(crate) fn with(&self, name: &CStr, other: &Tensor) -> Result<Tensor> {
        self.overload(name, c"Tensor", &[T(self), T(other)])
    }

    /// self + other.
    pub(crate) fn add(&self, other: &Tensor) -> Result<Tensor> {
        self.subtract(other, -1.0)
    }

    /// self x other.
    pub(crate) fn mul(&self, other: &Tensor) -> Result<Tensor> {
        self.with(c"aten::mul", other)
    }

    /// self / other.
    pub(crate) fn div(&self, other: &Tensor) -> Result<Tensor> {
        self.with(c"aten::div", other)
    }

    /// self x= other.
    pub(crate) fn mul_in_place(&self, other: &Tensor) -> Result<()> {
        self.with(c"aten::mul_", other).map(drop)
    }

    /// self where `condition` holds, `other` elsewhere.
    pub(crate) fn where_or(&self, condition: &Tensor, other: &Tensor) -> Result<Tensor> {
        self.overload(c"aten::where", c"self", &[T(condition), T(self), T(other)])
    }

    /// The same elements, row-major, with other sizes: a view where the order in memory allows.
    pub(crate) fn reshape(&self, sizes: &[i64]) -> Result<Tensor> {
        self.one(c"aten::reshape", &[T(self), Ints(sizes)])
    }

    /// Dimensions in another order: a view.
    pub(crate) fn permute(&self, order: &[i64]) -> Result<Tensor> {
        self.one(c"aten::permute", &[T(self), Ints(order)])
    }

    /// The same elements in this order: itself if they have it already.
    pub(crate) fn in_format(&self, format: Format) -> Result<Tensor> {
        self.one(c"aten::contiguous", &[T(self), Order(format)])
    }

    /// The same elements in another type: itself if they have it already.
    pub(crate) fn to_type(&self, of: Type) -> Result<Tensor> {
        self.overload(c"aten::to", c"dtype", &[T(self), Of(of), Bool(false), Bool(false), None])
    }

    /// Sum over dimensions.
    pub(crate) fn sum(&self, dimensions: &[i64], keep: bool) -> Result<Tensor> {
        self.overload(c"aten::sum", c"dim_IntList", &[T(self), Given(&Ints(dimensions)), Bool(keep), None])
    }

    /// Zeros of the same shape, type and order.
    pub(crate) fn zeros_like(&self) -> Result<Tensor> {
        self.one(c"aten::zeros_like", &[T(self), None, None, None, None, None])
    }

    /// A copy with memory of its own, in the same order.
    pub(crate) fn copied(&self) -> Result<Tensor> {
        self.one(c"aten::clone", &[T(self), None])
    }

    /// Softmax over dimension 1, or its logarithm.
    pub(crate) fn softmax(&self, log: bool) -> Result<Tensor> {
        self.one(if log { c"aten::_log_softmax" } else { c"aten::_softmax" }, &[T(self), Int(1), Bool(false)])
    }

    /// The gradient of the input of [`Tensor::softmax`], which returned `self`.
    pub(crate) fn softmax_backward(&self, gradient: &Tensor, log: bool) -> Result<Tensor> {
        let name = if log { c"aten::_log_softmax_backward_data" } else { c"aten::_softmax_backward_data" };
        self.one(name, &[T(gradient), T(self), Int(1), Of(Type::Float32)])
    }

    /// f32 elements.
    pub(crate) fn float(&self) -> Result<Tensor> {
        self.to_type(Type::Float32)
    }
}
