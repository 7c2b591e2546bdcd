//! Dropout masks on the device: the numbers of [`nettriage_engine::random`], computed by PyTorch's integer operators.

use nettriage_engine::random::{FACTORS, SHIFTS, STEP};

use crate::abi::Argument::{Int, None, Tensor as T};
use crate::abi::Tensor;
use crate::{Result, Torch};

/// The factors of a dropout layer for a batch N x C x H x W: 0 with probability `p`, else 1 / (1 - `p`).
pub(crate) fn dropout_factors(torch: &Torch, key: u64, sizes: [usize; 4], p: f32) -> Result<Tensor> {
    // The random number is an integer of 24 bits over 2^24, and compared with p: so it drops the integers below p 2^24.
    let bound = (f64::from(p) * f64::from(1 << 24)).ceil();
    let kept = random_bits(torch, key, sizes)?.with(c"aten::ge", &torch.integer(bound as i64)?)?;
    kept.float()?.mul(&torch.scalar(f64::from(1.0 / (1.0 - p)))?)
}

/// The 24 random bits of each element of a tensor N x C x H x W, whose index is that in the order N x H x W x C.
fn random_bits(torch: &Torch, key: u64, [n, c, h, w]: [usize; 4]) -> Result<Tensor> {
    // Products and sums of i64 wrap, as those of u64 do. The state of element i is the key plus i steps: a running sum.
    let mut z = torch.whole_numbers(n * c * h * w, STEP as i64)?;
    z.narrow(0, 0, 1)?.copy_from(&torch.integer(key as i64)?)?;
    z = z.one(c"aten::cumsum", &[T(&z), Int(0), None])?;
    for (shift, factor) in SHIFTS.into_iter().zip(FACTORS.map(Some).into_iter().chain([Option::None])) {
        z = z.with(c"aten::bitwise_xor", &shifted(torch, &z, shift)?)?;
        if let Some(factor) = factor {
            z = z.mul(&torch.integer(factor as i64)?)?;
        }
    }
    let sizes = [n, h, w, c].map(|size| size as i64);
    shifted(torch, &z, 40)?.reshape(&sizes)?.permute(&[0, 3, 1, 2])
}

/// `z` as unsigned numbers shifted right: the shift of signed ones, without the copies of the sign.
fn shifted(torch: &Torch, z: &Tensor, by: u32) -> Result<Tensor> {
    let shifted = z.with(c"aten::bitwise_right_shift", &torch.integer(i64::from(by))?)?;
    shifted.with(c"aten::bitwise_and", &torch.integer((u64::MAX >> by) as i64)?)
}
