//! Vectors of f32 and the kernels on them, one source for every instruction set.
//!
//! [`Simd`] is what a vector can do; the kernels ([`tile`], [`transform`], [`depthwise`]) are generic over it, and
//! [`kernels`] hands out the table of those compiled for the best instruction set that the processor has.

mod bilinear;
pub(crate) mod depthwise;
mod kernels;
pub(crate) mod line;
mod portable;
pub(crate) mod tile;
pub(crate) mod transform;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use kernels::{Kernels, all, dispatch, kernels, vectorised};

/// What a kernel needs of a vector of f32.
///
/// # Safety
/// Every function may run only where the processor has the instruction set of the implementation, inside a function
/// that enables it; pointers must be valid for what is read or written. Nothing need be aligned.
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
    /// [`Simd::LANES`] elements from `from`.
    unsafe fn load(from: *const f32) -> Self::V;
    /// [`Simd::LANES`] elements to `to`.
    unsafe fn store(to: *mut f32, v: Self::V);
    /// The first `count` < [`Simd::LANES`] elements from `from`, the rest zeros.
    unsafe fn load_part(from: *const f32, count: usize) -> Self::V;
    /// The first `count` < [`Simd::LANES`] elements to `to`.
    unsafe fn store_part(to: *mut f32, v: Self::V, count: usize);
    /// The transpose of a matrix of at most [`Simd::LANES`] rows and columns: `rows` x `columns` elements, rows `from_step`
    /// apart, to `columns` x `rows`, rows `to_step` apart.
    unsafe fn transpose(from: *const f32, from_step: usize, rows: usize, columns: usize, to: *mut f32, to_step: usize);
    /// a + b.
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// a - b.
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// a b.
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// a b + c, rounded once where the processor can.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// c - a b, rounded once where the processor can.
    unsafe fn fnma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// 0 where v < 0, v elsewhere (so NaN stays NaN).
    unsafe fn relu(v: Self::V) -> Self::V;
    /// v where mask > 0, 0 elsewhere.
    unsafe fn where_positive(mask: Self::V, v: Self::V) -> Self::V;
    /// v where a = b, 0 elsewhere.
    unsafe fn where_equal(a: Self::V, b: Self::V, v: Self::V) -> Self::V;
    /// The larger, a if they are equal; NaN wins, the later one.
    unsafe fn pick(a: Self::V, b: Self::V) -> Self::V;
    /// y where [`Simd::pick`] takes b, x where it takes a.
    unsafe fn follow(a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;

    /// v, which is computed here: not later, with all that it is computed from kept until then.
    #[inline(always)]
    unsafe fn hold(v: Self::V) -> Self::V {
        v
    }

    /// The first `count` elements, at most a whole vector.
    #[inline(always)]
    unsafe fn load_up_to(from: *const f32, count: usize) -> Self::V {
        unsafe { if count >= Self::LANES { Self::load(from) } else { Self::load_part(from, count) } }
    }

    /// Writes the first `count` elements, at most a whole vector.
    #[inline(always)]
    unsafe fn store_up_to(to: *mut f32, v: Self::V, count: usize) {
        unsafe { if count >= Self::LANES { Self::store(to, v) } else { Self::store_part(to, v, count) } }
    }
}

/// Work on vectors of any instruction set.
pub trait Task {
    /// Does it.
    ///
    /// # Safety
    /// As [`Simd`].
    unsafe fn run<S: Simd>(self);
}

/// Floats of a cache line.
pub const LINE: usize = 16;

/// Asks for the cache line at `p`, if there is one, from a cache near by; any address is allowed.
#[inline(always)]
pub(crate) fn prefetch(p: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which never faults; part of every x86-64 processor.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// As [`prefetch`], but only into the second cache: for what lies in main memory. The first cache has few places for lines
/// on their way, and what waits for one of them holds up all else (Zen 4: half as long again for a sum over a large tensor).
#[inline(always)]
pub fn prefetch_near(p: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as there.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// `number`, of which the compiler knows nothing any more.
///
/// What it can compute ahead of a loop it does, and where there is more of that than there are registers it reads it back
/// from memory all the time; an address made of this is computed where it is used.
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

/// `place`, as [`opaque`] a number.
#[inline(always)]
pub(crate) fn opaque_at(place: *mut f32) -> *mut f32 {
    place.with_addr(opaque(place.addr()))
}

/// Up to six places in memory, evenly spaced, whose addresses take three registers beside that of the first.
pub(crate) struct Spaced {
    /// Once, three and five times the distance, in bytes.
    distances: [usize; 3],
}

impl Spaced {
    /// Places `floats` apart.
    #[inline(always)]
    pub fn new(floats: usize) -> Spaced {
        let one = opaque(floats * size_of::<f32>());
        Spaced { distances: [one, opaque(3 * one), opaque(5 * one)] }
    }

    /// Place `i` where place 0 is `first`.
    #[inline(always)]
    pub fn at(&self, first: *mut f32, i: usize) -> *mut f32 {
        let [one, three, five] = self.distances;
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
