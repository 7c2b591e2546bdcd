//! What happens to the accumulators of a convolution before they are stored.

#![allow(clippy::needless_range_loop)] // Indices over small constants unroll; iterators over vectors do not always inline.

use super::Simd;

/// The epilogue of a convolution's forward pass: `relu((sum + bias) * scale + shift)`, per output channel.
///
/// Absent steps are skipped, and each step rounds on its own (no fused multiply-add), so computing a step in a layer of its
/// own gives the same bits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// Added first, one value per channel.
    pub bias: Option<&'a [f32]>,
    /// Multiplied next, one value per channel; present exactly if `shift` is.
    pub scale: Option<&'a [f32]>,
    /// Added next, one value per channel; present exactly if `scale` is.
    pub shift: Option<&'a [f32]>,
    /// Whether a ReLU comes last.
    pub relu: bool,
}

impl<'a> Epilogue<'a> {
    /// The epilogue of the first `channels` channels.
    ///
    /// # Panics
    /// If a slice is shorter than that, or only one of `scale` and `shift` is present.
    pub(crate) fn checked(self, channels: usize) -> Epilogue<'a> {
        assert_eq!(self.scale.is_some(), self.shift.is_some(), "scale and shift come together");
        self.map(|values| &values[..channels])
    }

    /// The epilogue of the channels from `channel` on.
    #[inline(always)]
    pub(crate) fn skip(self, channel: usize) -> Epilogue<'a> {
        self.map(|values| &values[channel..])
    }

    #[inline(always)]
    fn map(self, f: impl Fn(&'a [f32]) -> &'a [f32]) -> Epilogue<'a> {
        Epilogue { bias: self.bias.map(&f), scale: self.scale.map(&f), shift: self.shift.map(&f), relu: self.relu }
    }

    /// Applies it to vectors that all hold the `count` channels from `channel` on (whole vectors where there are more).
    ///
    /// By value: accumulators whose address is taken would live on the stack throughout the GEMM.
    #[inline(always)]
    pub(super) unsafe fn apply<S: Simd, const M: usize>(
        &self,
        v: [S::V; M],
        channel: usize,
        count: usize,
    ) -> [S::V; M] {
        unsafe {
            let mut v = v;
            if let Some(bias) = self.bias {
                let bias = S::load_up_to(bias.as_ptr().wrapping_add(channel), count);
                for m in 0..M {
                    v[m] = S::add(v[m], bias);
                }
            }
            if let (Some(scale), Some(shift)) = (self.scale, self.shift) {
                let scale = S::load_up_to(scale.as_ptr().wrapping_add(channel), count);
                let shift = S::load_up_to(shift.as_ptr().wrapping_add(channel), count);
                for m in 0..M {
                    v[m] = S::add(S::mul(v[m], scale), shift);
                }
            }
            if self.relu {
                for m in 0..M {
                    v[m] = S::relu(v[m]);
                }
            }
            v
        }
    }
}

/// The mask of a fused ReLU backward: an element of the target is set to 0 unless the mask's element at the same index is
/// positive.
#[derive(Clone, Copy)]
pub(crate) struct ReluMask<'a> {
    values: &'a [f32],
    /// Address of the target's first element. A number, so that tasks can share it.
    target: usize,
}

impl<'a> ReluMask<'a> {
    /// # Panics
    /// If there are fewer `values` than elements of the target.
    pub fn new(values: &'a [f32], target: &[f32]) -> ReluMask<'a> {
        assert!(values.len() >= target.len(), "a mask as large as its target");
        ReluMask { values, target: target.as_ptr().addr() }
    }

    /// The mask's element for the target's element at `to`.
    #[inline(always)]
    pub fn at(&self, to: *const f32) -> *const f32 {
        self.values.as_ptr().wrapping_byte_add(to.addr().wrapping_sub(self.target))
    }

    /// Stores the first `count` elements of `v` at `to` (a whole vector where there are more), with the mask applied.
    #[inline(always)]
    pub(super) unsafe fn store<S: Simd>(&self, to: *mut f32, v: S::V, count: usize) {
        unsafe {
            let mask = S::load_up_to(self.at(to), count);
            S::store_up_to(to, S::where_positive(mask, v), count);
        }
    }
}
