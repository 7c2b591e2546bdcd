//! Values that stay on the device: the activations of many images, read batch by batch without a copy.

use crate::abi::Tensor;
use crate::device::batch_sizes;
use crate::{Result, Torch};

/// A row of f32 on a device, for images one after the other, each H x W x C.
pub struct Storage {
    values: Tensor,
}

impl Storage {
    /// Space for `length` values.
    ///
    /// # Errors
    /// Too little memory on the device.
    pub fn new(torch: &Torch, length: usize) -> Result<Storage> {
        Ok(Storage { values: torch.full(&[length as i64], 0.0)? })
    }

    /// A batch of `n` images of `shape` = [C, H, W] from element `at` on, N x C x H x W: a view of the stored values.
    ///
    /// # Errors
    /// More than there are.
    pub fn batch(&self, at: usize, n: usize, shape: [usize; 3]) -> Result<Tensor> {
        let [n, c, h, w] = batch_sizes(n, shape);
        self.values.narrow(0, at, (n * c * h * w) as usize)?.reshape(&[n, h, w, c])?.permute(&[0, 3, 1, 2])
    }

    /// Overwrites the values of such a batch with those of the host's memory, (N, H, W, C).
    ///
    /// # Errors
    /// As [`Storage::batch`].
    pub fn write_host(&self, at: usize, n: usize, [c, h, w]: [usize; 3], values: &[f32]) -> Result<()> {
        self.batch(at, n, [c, h, w])?.copy_from_host(values, [n, c, h, w])
    }

    /// Overwrites the values of such a batch with those of a tensor N x C x H x W, wherever it is.
    ///
    /// # Errors
    /// As [`Storage::batch`].
    pub fn write(&self, at: usize, n: usize, shape: [usize; 3], batch: &Tensor) -> Result<()> {
        let to = self.batch(at, n, shape)?;
        to.copy_from(&batch.reshape(&batch_sizes(n, shape))?)
    }
}
