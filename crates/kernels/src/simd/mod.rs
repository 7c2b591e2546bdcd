//! Vectors of `f32`: one source for every instruction set, chosen at run time.
//!
//! [`Simd`] lists the operations of a vector. Kernels are generic over it and compiled once per instruction set;
//! [`kernels`] returns the table of those for the best instruction set of this processor, [`dispatch`] runs a [`Task`] on it.

mod bilinear;
pub(crate) mod depthwise;
mod epilogue;
pub(crate) mod f4_rows;
pub(crate) mod gemm;
mod kernels;
mod portable;
pub(crate) mod transform;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use epilogue::Epilogue;
pub(crate) use epilogue::ReluMask;
pub use kernels::{Kernels, all, dispatch, kernels, vectorised};

/// The operations of a vector of `f32`.
///
/// # Safety
/// Every function requires a processor with the instruction set of the implementation and a caller that is compiled for it
/// (as inside [`dispatch`]); pointers must be valid for what is read or written. No alignment is required.
#[allow(clippy::missing_safety_doc, reason = "stated once, for the trait")]
pub trait Simd: 'static {
    /// The vector.
    type V: Copy;
    /// Elements of a vector.
    const LANES: usize;

    /// All zeros.
    unsafe fn zero() -> Self::V;
    /// `value` in every lane.
    unsafe fn splat(value: f32) -> Self::V;
    /// Loads [`Simd::LANES`] elements.
    unsafe fn load(from: *const f32) -> Self::V;
    /// Stores [`Simd::LANES`] elements.
    unsafe fn store(to: *mut f32, v: Self::V);
    /// Loads the first `count` < [`Simd::LANES`] elements; the other lanes are 0.
    unsafe fn load_partial(from: *const f32, count: usize) -> Self::V;
    /// Stores the first `count` < [`Simd::LANES`] elements.
    unsafe fn store_partial(to: *mut f32, v: Self::V, count: usize);
    /// Transposes a matrix of at most [`Simd::LANES`] rows and columns: `rows` x `columns` elements with row stride
    /// `from_step` to `columns` x `rows` with row stride `to_step`.
    unsafe fn transpose(from: *const f32, from_step: usize, rows: usize, columns: usize, to: *mut f32, to_step: usize);
    /// a + b.
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// a - b.
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// a b.
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// a b + c, rounded once if the processor has fused multiply-add.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// c - a b, rounded once if the processor has fused multiply-add.
    unsafe fn fnma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// 0 where v < 0, v elsewhere (NaN stays NaN).
    unsafe fn relu(v: Self::V) -> Self::V;
    /// v where mask > 0, 0 elsewhere.
    unsafe fn where_positive(mask: Self::V, v: Self::V) -> Self::V;
    /// v where a = b, 0 elsewhere.
    unsafe fn where_equal(a: Self::V, b: Self::V, v: Self::V) -> Self::V;
    /// The maximum: a where they are equal; NaN where either is NaN, b's if both are.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The minimum: a where they are equal; NaN where either is NaN, b's if both are.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// Lane i of the result is lane `index[i]` of v, below the number of lanes.
    unsafe fn permute(v: Self::V, index: *const i32) -> Self::V;
    /// y where [`Simd::max`] returns b, x where it returns a.
    unsafe fn select(a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;

    /// v, computed at this point: the compiler may not delay it, which would keep all its operands live until then.
    #[inline(always)]
    unsafe fn materialise(v: Self::V) -> Self::V {
        v
    }

    /// Loads the first `count` elements; a whole vector where there are more.
    #[inline(always)]
    unsafe fn load_up_to(from: *const f32, count: usize) -> Self::V {
        unsafe { if count >= Self::LANES { Self::load(from) } else { Self::load_partial(from, count) } }
    }

    /// Stores the first `count` elements; a whole vector where there are more.
    #[inline(always)]
    unsafe fn store_up_to(to: *mut f32, v: Self::V, count: usize) {
        unsafe { if count >= Self::LANES { Self::store(to, v) } else { Self::store_partial(to, v, count) } }
    }
}

/// Code on vectors that is compiled for every instruction set.
pub trait Task {
    /// Runs it on the vectors `S`.
    ///
    /// # Safety
    /// As [`Simd`].
    unsafe fn run<S: Simd>(self);
}

/// Floats of a cache line.
pub(crate) const CACHE_LINE: usize = 16;

/// Prefetches the cache line at `p` into all cache levels; any address is allowed.
#[inline(always)]
pub(crate) fn prefetch_l1(p: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which never faults; part of every x86-64 processor.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// Prefetches the cache line at `p` into L2 only, for data in main memory; any address is allowed.
///
/// L1 has few line fill buffers, and loads that find none free stall (Zen 4: a sum over a large tensor takes half as long
/// again with prefetches into L1).
#[inline(always)]
pub fn prefetch_l2(p: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which never faults; part of every x86-64 processor.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// `number`, as a value that the compiler cannot predict.
///
/// The compiler hoists address computations out of loops, and spills them to the stack when there are more than registers;
/// an address derived from this value is computed where it is used.
#[inline(always)]
pub(crate) fn opaque(number: usize) -> usize {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    {
        let mut number = number;
        // SAFETY: no instruction at all.
        unsafe { std::arch::asm!("/* {0} */", inout(reg) number, options(pure, nomem, nostack, preserves_flags)) };
        number
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    number
}

/// [`opaque`] for a pointer.
#[inline(always)]
pub(crate) fn opaque_ptr(p: *mut f32) -> *mut f32 {
    p.with_addr(opaque(p.addr()))
}

/// Up to six addresses of a constant stride, from three registers beside that of the first address: x86 addressing modes
/// multiply a register by 1, 2 or 4.
pub(crate) struct Strides {
    /// The stride times one, three and five, in bytes.
    multiples: [usize; 3],
}

impl Strides {
    /// A stride of `floats`.
    #[inline(always)]
    pub fn new(floats: usize) -> Strides {
        let one = opaque(floats * size_of::<f32>());
        Strides { multiples: [one, opaque(3 * one), opaque(5 * one)] }
    }

    /// The address `i` < 6 strides after `first`.
    #[inline(always)]
    pub fn at(&self, first: *mut f32, i: usize) -> *mut f32 {
        let [one, three, five] = self.multiples;
        first.wrapping_byte_add(match i {
            0 => 0,
            1 => one,
            2 => 2 * one,
            3 => three,
            4 => 4 * one,
            _ => five,
        })
    }
}
