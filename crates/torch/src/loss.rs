//! Loss functions on the device, as [`nettriage_engine::loss`] defines them. Each returns the loss, averaged over the batch, and its
//! gradient.

use crate::abi::Argument::{Int, None, Tensor as T};
use crate::abi::Tensor;
use crate::{Result, Torch};

/// A loss and its gradient.
pub struct Loss {
    value: Tensor,
    /// dLoss/dOutput, with the output's number of elements.
    pub gradient: Tensor,
}

impl Loss {
    /// The loss: waits until the device has computed it.
    ///
    /// # Errors
    /// PyTorch fails.
    pub fn value(&self) -> Result<f64> {
        Ok(f64::from(self.value.item()?))
    }

    /// The loss times a factor.
    ///
    /// # Errors
    /// PyTorch fails.
    pub fn times(&self, torch: &Torch, factor: f32) -> Result<Loss> {
        let factor = torch.scalar(f64::from(factor))?;
        Ok(Loss { value: self.value.mul(&factor)?, gradient: self.gradient.mul(&factor)? })
    }

    /// This loss, its value increased by that of `other`, which is one of another tensor.
    ///
    /// # Errors
    /// PyTorch fails.
    pub fn with_value_of(&self, other: &Loss) -> Result<Loss> {
        Ok(Loss { value: self.value.add(&other.value)?, gradient: self.gradient.clone() })
    }

    /// This loss and the sum of the products of `output` and `weights`, which have its number of elements.
    ///
    /// # Errors
    /// PyTorch fails.
    pub fn plus_linear(&self, output: &Tensor, weights: &Tensor) -> Result<Loss> {
        let flat = |tensor: &Tensor| tensor.float()?.reshape(&[1, tensor.elements() as i64]);
        let weights = flat(weights)?;
        let added = flat(output)?.mul(&weights)?.sum(&[0, 1], false)?;
        let [images, classes] = [self.gradient.elements() as i64, 1];
        let gradient = self.gradient.reshape(&[images, classes])?;
        let gradient = gradient.subtract(&weights.reshape(&[images, classes])?, -1.0)?;
        Ok(Loss { value: self.value.subtract(&added, -1.0)?, gradient })
    }
}

/// The mean over the batch, as PyTorch numbers reductions.
const MEAN: i64 = 1;

/// A label that is never used.
const IGNORED: i64 = -100;

/// The logits (N, C) in f32.
fn rows(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let images = labels.elements();
    logits.float()?.reshape(&[images as i64, (logits.elements() / images.max(1)) as i64])
}

/// Cross entropy of the softmax, as [`nettriage_engine::loss::cross_entropy`].
///
/// # Errors
/// PyTorch fails.
pub fn cross_entropy(torch: &Torch, logits: &Tensor, labels: &Tensor) -> Result<Loss> {
    let logarithms = rows(logits, labels)?.softmax(true)?;
    let library = logits.library();
    let arguments = [T(&logarithms), T(labels), None, Int(MEAN), Int(IGNORED)];
    let [value, weight] = library.call(c"aten::nll_loss_forward", c"", &arguments)?;
    let one = torch.full(&[], 1.0)?;
    let arguments = [T(&one), T(&logarithms), T(labels), None, Int(MEAN), Int(IGNORED), T(&weight)];
    let gradient = logits.one(c"aten::nll_loss_backward", &arguments)?;
    Ok(Loss { value, gradient: logarithms.softmax_backward(&gradient, true)? })
}

/// Cross entropy against softened labels, as [`nettriage_engine::loss::smoothed_cross_entropy`].
///
/// # Errors
/// PyTorch fails.
pub fn smoothed_cross_entropy(torch: &Torch, logits: &Tensor, labels: &Tensor, smoothing: f32) -> Result<Loss> {
    let plain = cross_entropy(torch, logits, labels)?;
    if smoothing == 0.0 {
        return Ok(plain);
    }
    let smoothing = f64::from(smoothing);
    let weighted = |tensor: &Tensor, factor: f64| tensor.mul(&torch.scalar(factor)?);
    let rows = rows(logits, labels)?;
    let images = labels.elements().max(1) as f64;
    let classes = (rows.elements() as f64 / images).max(1.0);
    // -1/(N C) times the sum of all logarithms, whose gradient is (q - 1/C) / N.
    let uniform = weighted(&rows.softmax(true)?.sum(&[0, 1], false)?, -1.0 / (images * classes))?;
    let gradient = weighted(&rows.softmax(false)?.subtract(&torch.scalar(1.0 / classes)?, 1.0)?, 1.0 / images)?;
    Ok(Loss {
        value: weighted(&plain.value, 1.0 - smoothing)?.subtract(&uniform, -smoothing)?,
        gradient: weighted(&plain.gradient, 1.0 - smoothing)?.subtract(&gradient, -smoothing)?,
    })
}

/// Knowledge distillation, as [`nettriage_engine::loss::distillation`].
///
/// # Errors
/// PyTorch fails.
pub fn distillation(
    torch: &Torch,
    logits: &Tensor,
    teacher_logits: &Tensor,
    labels: &Tensor,
    temperature: f32,
    alpha: f32,
) -> Result<Loss> {
    let (t, alpha) = (f64::from(temperature), f64::from(alpha));
    let hard = cross_entropy(torch, logits, labels)?;
    let soft = |tensor: &Tensor| rows(tensor, labels)?.div(&torch.scalar(t)?);
    let (student, teacher) = (soft(logits)?, soft(teacher_logits)?);
    let log_q = student.softmax(true)?;
    let (q, p) = (student.softmax(false)?, teacher.softmax(false)?);
    let images = labels.elements().max(1) as f64;
    // p log p is 0 where p is.
    let entropy = p.with(c"aten::xlogy", &p)?;
    let cross = p.mul(&log_q)?;
    let divergence = entropy.subtract(&cross, 1.0)?.sum(&[0, 1], false)?;
    let weighted = |tensor: &Tensor, factor: f64| tensor.mul(&torch.scalar(factor)?);
    let value = weighted(&hard.value, 1.0 - alpha)?.subtract(&divergence, -alpha * t * t / images)?;
    let gradient = weighted(&hard.gradient, 1.0 - alpha)?.subtract(&q.subtract(&p, 1.0)?, -alpha * t / images)?;
    Ok(Loss { value, gradient })
}

/// Mean squared error over all elements, as [`nettriage_engine::loss::mean_squared`].
///
/// # Errors
/// PyTorch fails.
pub fn mean_squared(torch: &Torch, output: &Tensor, target: &Tensor) -> Result<Loss> {
    let output = output.float()?;
    let value = output.one(c"aten::mse_loss", &[T(&output), T(target), Int(MEAN)])?;
    let one = torch.full(&[], 1.0)?;
    let gradient = output.one(c"aten::mse_loss_backward", &[T(&one), T(&output), T(target), Int(MEAN)])?;
    Ok(Loss { value, gradient })
}
