//! AVX2 with FMA (8 lanes) and AVX-512 (16 lanes).

use std::arch::x86_64::*;

use super::Simd;

/// AVX2 and FMA: 16 registers of eight lanes.
pub(super) struct Avx2;

/// AVX-512: 32 registers of sixteen lanes.
pub(super) struct Avx512;

/// Eight set lanes, then eight clear ones: the mask of the first `count` lanes starts at index `8 - count`.
static MASK: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

#[inline(always)]
unsafe fn mask(count: usize) -> __m256i {
    debug_assert!(count <= 8);
    unsafe { _mm256_loadu_si256(MASK.as_ptr().add(8 - count).cast()) }
}

/// [`Simd::materialise`]: a function of its own, because `asm!` may use the registers only where the instruction set is enabled.
#[inline]
#[target_feature(enable = "avx")]
unsafe fn materialise_256(v: __m256) -> __m256 {
    let mut v = v;
    // SAFETY: no instruction at all.
    unsafe { std::arch::asm!("/* {0} */", inout(ymm_reg) v, options(nomem, nostack, preserves_flags)) };
    v
}

/// [`Simd::materialise`].
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn materialise_512(v: __m512) -> __m512 {
    let mut v = v;
    // SAFETY: no instruction at all.
    unsafe { std::arch::asm!("/* {0} */", inout(zmm_reg) v, options(nomem, nostack, preserves_flags)) };
    v
}

impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> __m256 {
        unsafe { _mm256_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> __m256 {
        unsafe { _mm256_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: __m256) {
        unsafe { _mm256_storeu_ps(to, v) }
    }
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, count: usize) -> __m256 {
        unsafe { _mm256_maskload_ps(from, mask(count)) }
    }
    /// Without the masked store, which is slow on Zen 3.
    #[inline(always)]
    unsafe fn store_partial(to: *mut f32, v: __m256, count: usize) {
        unsafe {
            let (mut to, mut rest) = (to, _mm256_castps256_ps128(v));
            if count & 4 != 0 {
                _mm_storeu_ps(to, rest);
                (to, rest) = (to.add(4), _mm256_extractf128_ps::<1>(v));
            }
            if count & 2 != 0 {
                _mm_storel_pd(to.cast(), _mm_castps_pd(rest));
                (to, rest) = (to.add(2), _mm_movehl_ps(rest, rest));
            }
            if count & 1 != 0 {
                _mm_store_ss(to, rest);
            }
        }
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_step: usize, rows: usize, columns: usize, to: *mut f32, to_step: usize) {
        unsafe {
            let mut r = [_mm256_setzero_ps(); 8];
            for (i, r) in r.iter_mut().enumerate().take(rows) {
                *r = Self::load_up_to(from.add(i * from_step), columns);
            }
            // Interleaves adjacent rows, then adjacent pairs, then halves.
            let mut a = r;
            for i in 0..4 {
                a[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                a[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
            }
            for i in 0..2 {
                let k = 4 * i;
                r[k] = _mm256_shuffle_ps::<0x44>(a[k], a[k + 2]);
                r[k + 1] = _mm256_shuffle_ps::<0xee>(a[k], a[k + 2]);
                r[k + 2] = _mm256_shuffle_ps::<0x44>(a[k + 1], a[k + 3]);
                r[k + 3] = _mm256_shuffle_ps::<0xee>(a[k + 1], a[k + 3]);
            }
            for i in 0..4 {
                a[i] = _mm256_permute2f128_ps::<0x20>(r[i], r[i + 4]);
                a[i + 4] = _mm256_permute2f128_ps::<0x31>(r[i], r[i + 4]);
            }
            for (i, a) in a.into_iter().enumerate().take(columns) {
                Self::store_up_to(to.add(i * to_step), a, rows);
            }
        }
    }
    #[inline(always)]
    unsafe fn materialise(v: __m256) -> __m256 {
        unsafe { materialise_256(v) }
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn fnma(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn relu(v: __m256) -> __m256 {
        // The instruction returns its second operand where either is NaN.
        unsafe { _mm256_max_ps(_mm256_setzero_ps(), v) }
    }
    #[inline(always)]
    unsafe fn where_positive(mask: __m256, v: __m256) -> __m256 {
        unsafe { _mm256_and_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(mask, _mm256_setzero_ps()), v) }
    }
    #[inline(always)]
    unsafe fn where_equal(a: __m256, b: __m256, v: __m256) -> __m256 {
        unsafe { _mm256_and_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(a, b), v) }
    }
    #[inline(always)]
    unsafe fn permute(v: __m256, index: *const i32) -> __m256 {
        unsafe { _mm256_permutevar8x32_ps(v, _mm256_loadu_si256(index.cast())) }
    }
    #[inline(always)]
    unsafe fn select(a: __m256, b: __m256, x: __m256, y: __m256) -> __m256 {
        unsafe {
            let larger = _mm256_cmp_ps::<_CMP_GT_OQ>(b, a);
            _mm256_blendv_ps(x, y, _mm256_or_ps(larger, _mm256_cmp_ps::<_CMP_UNORD_Q>(b, b)))
        }
    }
    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        // The instruction returns its second operand where they are equal or either is NaN.
        unsafe { _mm256_blendv_ps(_mm256_max_ps(b, a), b, _mm256_cmp_ps::<_CMP_UNORD_Q>(b, b)) }
    }
    #[inline(always)]
    unsafe fn min(a: __m256, b: __m256) -> __m256 {
        // As for the maximum.
        unsafe { _mm256_blendv_ps(_mm256_min_ps(b, a), b, _mm256_cmp_ps::<_CMP_UNORD_Q>(b, b)) }
    }
}

impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: __m512) {
        unsafe { _mm512_storeu_ps(to, v) }
    }
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, count: usize) -> __m512 {
        unsafe { _mm512_maskz_loadu_ps((1u32 << count).wrapping_sub(1) as u16, from) }
    }
    #[inline(always)]
    unsafe fn store_partial(to: *mut f32, v: __m512, count: usize) {
        unsafe { _mm512_mask_storeu_ps(to, (1u32 << count).wrapping_sub(1) as u16, v) }
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_step: usize, rows: usize, columns: usize, to: *mut f32, to_step: usize) {
        unsafe {
            let mut r = [_mm512_setzero_ps(); 16];
            for (i, r) in r.iter_mut().enumerate().take(rows) {
                *r = Self::load_up_to(from.add(i * from_step), columns);
            }
            // Interleaves adjacent rows, then adjacent pairs, then quarters twice.
            let mut a = r;
            for i in 0..8 {
                a[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                a[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
            }
            for i in 0..4 {
                let k = 4 * i;
                r[k] = _mm512_shuffle_ps::<0x44>(a[k], a[k + 2]);
                r[k + 1] = _mm512_shuffle_ps::<0xee>(a[k], a[k + 2]);
                r[k + 2] = _mm512_shuffle_ps::<0x44>(a[k + 1], a[k + 3]);
                r[k + 3] = _mm512_shuffle_ps::<0xee>(a[k + 1], a[k + 3]);
            }
            for i in 0..4 {
                a[i] = _mm512_shuffle_f32x4::<0x88>(r[i], r[i + 4]);
                a[i + 4] = _mm512_shuffle_f32x4::<0xdd>(r[i], r[i + 4]);
                a[i + 8] = _mm512_shuffle_f32x4::<0x88>(r[i + 8], r[i + 12]);
                a[i + 12] = _mm512_shuffle_f32x4::<0xdd>(r[i + 8], r[i + 12]);
            }
            for i in 0..8 {
                r[i] = _mm512_shuffle_f32x4::<0x88>(a[i], a[i + 8]);
                r[i + 8] = _mm512_shuffle_f32x4::<0xdd>(a[i], a[i + 8]);
            }
            for (i, r) in r.into_iter().enumerate().take(columns) {
                Self::store_up_to(to.add(i * to_step), r, rows);
            }
        }
    }
    #[inline(always)]
    unsafe fn materialise(v: __m512) -> __m512 {
        unsafe { materialise_512(v) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn fnma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn relu(v: __m512) -> __m512 {
        // The instruction returns its second operand where either is NaN.
        unsafe { _mm512_max_ps(_mm512_setzero_ps(), v) }
    }
    #[inline(always)]
    unsafe fn where_positive(mask: __m512, v: __m512) -> __m512 {
        unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(mask, _mm512_setzero_ps()), v) }
    }
    #[inline(always)]
    unsafe fn where_equal(a: __m512, b: __m512, v: __m512) -> __m512 {
        unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b), v) }
    }
    #[inline(always)]
    unsafe fn permute(v: __m512, index: *const i32) -> __m512 {
        unsafe { _mm512_permutexvar_ps(_mm512_loadu_si512(index.cast()), v) }
    }
    #[inline(always)]
    unsafe fn select(a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
        unsafe {
            let larger = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(b, a);
            _mm512_mask_mov_ps(x, larger | _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(b, b), y)
        }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        // The instruction returns its second operand where they are equal or either is NaN.
        unsafe { _mm512_mask_mov_ps(_mm512_max_ps(b, a), _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(b, b), b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        // As for the maximum.
        unsafe { _mm512_mask_mov_ps(_mm512_min_ps(b, a), _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(b, b), b) }
    }
}
