//! Vectors of four lanes for any processor, vectorised by the compiler (SSE2 on x86-64, NEON on AArch64).

use super::Simd;

/// Four lanes in an array.
pub(super) struct Portable;

/// a b + c: fused where every processor of the architecture has the instruction; two roundings elsewhere, because a fused
/// multiply-add would be a library call.
#[inline(always)]
fn fused(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(target_arch = "aarch64") { a.mul_add(b, c) } else { a * b + c }
}

impl Simd for Portable {
    type V = [f32; 4];
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> [f32; 4] {
        [0.0; 4]
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> [f32; 4] {
        [value; 4]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; 4] {
        unsafe { from.cast::<[f32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: [f32; 4]) {
        unsafe { to.cast::<[f32; 4]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, count: usize) -> [f32; 4] {
        let mut v = [0.0; 4];
        for (i, v) in v.iter_mut().enumerate().take(count) {
            *v = unsafe { *from.add(i) };
        }
        v
    }
    #[inline(always)]
    unsafe fn store_partial(to: *mut f32, v: [f32; 4], count: usize) {
        for (i, v) in v.iter().enumerate().take(count) {
            unsafe { *to.add(i) = *v };
        }
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_step: usize, rows: usize, columns: usize, to: *mut f32, to_step: usize) {
        for row in 0..rows {
            for column in 0..columns {
                unsafe { *to.add(column * to_step + row) = *from.add(row * from_step + column) };
            }
        }
    }
    #[inline(always)]
    unsafe fn add(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        [a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]]
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        [a[0] - b[0], a[1] - b[1], a[2] - b[2], a[3] - b[3]]
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        [a[0] * b[0], a[1] * b[1], a[2] * b[2], a[3] * b[3]]
    }
    #[inline(always)]
    unsafe fn fma(a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        [fused(a[0], b[0], c[0]), fused(a[1], b[1], c[1]), fused(a[2], b[2], c[2]), fused(a[3], b[3], c[3])]
    }
    #[inline(always)]
    unsafe fn fnma(a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        [fused(-a[0], b[0], c[0]), fused(-a[1], b[1], c[1]), fused(-a[2], b[2], c[2]), fused(-a[3], b[3], c[3])]
    }
    #[inline(always)]
    unsafe fn relu(v: [f32; 4]) -> [f32; 4] {
        let one = |v: f32| if v < 0.0 { 0.0 } else { v };
        [one(v[0]), one(v[1]), one(v[2]), one(v[3])]
    }
    #[inline(always)]
    unsafe fn where_positive(mask: [f32; 4], v: [f32; 4]) -> [f32; 4] {
        let one = |mask: f32, v: f32| if mask > 0.0 { v } else { 0.0 };
        [one(mask[0], v[0]), one(mask[1], v[1]), one(mask[2], v[2]), one(mask[3], v[3])]
    }
    #[inline(always)]
    unsafe fn where_equal(a: [f32; 4], b: [f32; 4], v: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| if a[i] == b[i] { v[i] } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn permute(v: [f32; 4], index: *const i32) -> [f32; 4] {
        std::array::from_fn(|i| unsafe { v[*index.add(i) as usize] })
    }
    #[inline(always)]
    unsafe fn select(a: [f32; 4], b: [f32; 4], x: [f32; 4], y: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| if b[i] > a[i] || b[i].is_nan() { y[i] } else { x[i] })
    }
    #[inline(always)]
    unsafe fn max(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        let one = |a: f32, b: f32| if b > a || b.is_nan() { b } else { a };
        [one(a[0], b[0]), one(a[1], b[1]), one(a[2], b[2]), one(a[3], b[3])]
    }
    #[inline(always)]
    unsafe fn min(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        let one = |a: f32, b: f32| if b < a || b.is_nan() { b } else { a };
        [one(a[0], b[0]), one(a[1], b[1]), one(a[2], b[2]), one(a[3], b[3])]
    }
}
