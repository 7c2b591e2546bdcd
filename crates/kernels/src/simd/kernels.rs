//! The kernels compiled for each instruction set, and the choice at run time.

use std::sync::OnceLock;

use super::bilinear::{F2, F4, Toeplitz2};
use super::depthwise::{self, DepthwiseGradient, DepthwisePixel, DepthwiseTile};
use super::f4_rows::{self, F4RowKernels, RowCorrelation, RowGradients, RowOutputs};
use super::gemm::{self, BatchedGemm, BatchedGemmFn, IndirectGemm, IndirectGemmFn};
use super::gemm::{StridedGemm, StridedGemmFn, TransposedGemm, TransposedGemmFn};
use super::transform::{self, FilterPanel, PackedRows, PlaneSet, TileSource, TileTarget, Transforms};
use super::{Epilogue, Simd, Task, portable::Portable};

/// The kernels of one instruction set.
///
/// # Safety
/// Those of a table from [`kernels`] or [`all`] may be called on this processor; each states what its pointers must allow.
pub struct Kernels {
    /// The instruction set: `avx512`, `avx2` or `portable`.
    pub name: &'static str,
    /// Elements of a vector.
    pub lanes: usize,
    /// Micro-kernels for panels of one vector (`1`) and of two (`2`), `[rows of the register tile - 1]`.
    indirect1: &'static [IndirectGemmFn],
    indirect2: &'static [IndirectGemmFn],
    strided1: &'static [StridedGemmFn],
    strided2: &'static [StridedGemmFn],
    batched1: &'static [BatchedGemmFn],
    batched2: &'static [BatchedGemmFn],
    transposed1: &'static [TransposedGemmFn],
    transposed2: &'static [TransposedGemmFn],
    /// F(4x4, 3x3).
    pub(crate) f4: Transforms,
    /// F(2x2, 3x3).
    pub(crate) f2: Transforms,
    /// The Toeplitz algorithm for 2x2 images.
    pub(crate) toeplitz2: Transforms,
    /// F(4, 3) along the rows of images with few channels.
    pub(crate) f4_rows: F4RowKernels,
    /// One output pixel of a depthwise convolution.
    pub(crate) depthwise_pixel: unsafe fn(&DepthwisePixel),
    /// Neighbouring output pixels of a depthwise convolution.
    pub(crate) depthwise_tile: unsafe fn(&DepthwiseTile),
    /// As `depthwise_tile`, with a few channels in a group.
    pub(crate) grouped_tile: unsafe fn(&DepthwiseTile),
    /// The depthwise weight gradient of some kernel rows.
    pub(crate) depthwise_gradient: unsafe fn(&DepthwiseGradient),
}

impl Kernels {
    /// Columns of a full packed panel: two vectors.
    pub(crate) fn panel(&self) -> usize {
        2 * self.lanes
    }

    /// `columns` rounded up to whole vectors, as packed panels store them.
    pub(crate) fn padded(&self, columns: usize) -> usize {
        columns.next_multiple_of(self.lanes)
    }

    /// Width of the packed panel that starts at column `at` of `columns`: two vectors, or one at the end.
    pub(crate) fn width(&self, at: usize, columns: usize) -> usize {
        if columns - at <= self.lanes { self.lanes } else { 2 * self.lanes }
    }

    /// Micro-kernels for panels of `width` columns, `[rows of the register tile - 1]`.
    pub(crate) fn indirect_gemm(&self, width: usize) -> &'static [IndirectGemmFn] {
        if width == self.lanes { self.indirect1 } else { self.indirect2 }
    }

    /// As [`Kernels::indirect_gemm`].
    pub(crate) fn strided_gemm(&self, width: usize) -> &'static [StridedGemmFn] {
        if width == self.lanes { self.strided1 } else { self.strided2 }
    }

    /// As [`Kernels::indirect_gemm`].
    pub(crate) fn batched_gemm(&self, width: usize) -> &'static [BatchedGemmFn] {
        if width == self.lanes { self.batched1 } else { self.batched2 }
    }

    /// As [`Kernels::indirect_gemm`].
    pub(crate) fn transposed_gemm(&self, width: usize) -> &'static [TransposedGemmFn] {
        if width == self.lanes { self.transposed1 } else { self.transposed2 }
    }
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// The functions of one instruction set, each compiled with its features enabled.
macro_rules! instruction_set {
    ($module:ident, $name:literal, $simd:ty, [$($feature:literal)?], one: [$($r1:literal)*], two: [$($r2:literal)*]) => {
        pub(super) mod $module {
            use super::*;

            $(#[target_feature(enable = $feature)])?
            unsafe fn indirect_gemm<const M: usize, const N: usize>(t: &IndirectGemm) {
                unsafe { gemm::indirect_gemm::<$simd, M, N>(t) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn transposed_gemm<const M: usize, const N: usize>(t: &TransposedGemm) {
                unsafe { gemm::transposed_gemm::<$simd, M, N>(t) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn batched_gemm<const M: usize, const N: usize>(t: &BatchedGemm) {
                unsafe { gemm::batched_gemm::<$simd, M, N>(t) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn strided_gemm<const M: usize, const N: usize>(t: &StridedGemm) {
                unsafe { gemm::strided_gemm::<$simd, M, N>(t) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn depthwise_pixel(t: &DepthwisePixel) {
                unsafe { depthwise::pixel::<$simd>(t) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn depthwise_tile(t: &DepthwiseTile) {
                unsafe { depthwise::tile::<$simd>(t) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn grouped_tile(t: &DepthwiseTile) {
                unsafe { depthwise::grouped_tile::<$simd>(t) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn depthwise_gradient(t: &DepthwiseGradient) {
                unsafe { depthwise::gradient::<$simd>(t) }
            }
            instruction_set!(@transforms f4, F4, 6, 6, 4, $simd, [$($feature)?]);
            instruction_set!(@transforms f2, F2, 4, 4, 2, $simd, [$($feature)?]);
            instruction_set!(@transforms toeplitz2, Toeplitz2, 2, 3, 2, $simd, [$($feature)?]);

            mod rows {
                use super::*;
                $(#[target_feature(enable = $feature)])?
                unsafe fn input(pixels: *const f32, channels: usize, groups: usize, v: *mut f32) {
                    unsafe { f4_rows::input::<$simd>(pixels, channels, groups, v) }
                }
                $(#[target_feature(enable = $feature)])?
                unsafe fn filter(taps: *const f32, channels: usize, u: *mut f32) {
                    unsafe { f4_rows::filter::<$simd>(taps, channels, u) }
                }
                $(#[target_feature(enable = $feature)])?
                unsafe fn output(t: &RowOutputs) {
                    unsafe { f4_rows::output::<$simd>(t) }
                }
                $(#[target_feature(enable = $feature)])?
                unsafe fn grad_output(t: &RowGradients) {
                    unsafe { f4_rows::grad_output::<$simd>(t) }
                }
                $(#[target_feature(enable = $feature)])?
                unsafe fn correlate(t: &RowCorrelation) {
                    unsafe { f4_rows::correlate::<$simd>(t) }
                }
                $(#[target_feature(enable = $feature)])?
                unsafe fn grad_filter(sums: *const f32, channels: usize, taps: *mut f32) {
                    unsafe { f4_rows::grad_filter::<$simd>(sums, channels, taps) }
                }
                pub(super) const KERNELS: F4RowKernels =
                    F4RowKernels { input, filter, output, grad_output, correlate, grad_filter };
            }

            /// Runs `f` compiled for this instruction set.
            #[allow(dead_code)] // Not used for the portable one, which needs no features.
            $(#[target_feature(enable = $feature)])?
            pub(in super::super) unsafe fn run<R>(f: impl FnOnce() -> R) -> R {
                f()
            }

            pub(super) static KERNELS: Kernels = Kernels {
                name: $name,
                lanes: <$simd as Simd>::LANES,
                indirect1: &[$(indirect_gemm::<$r1, 1>),*],
                indirect2: &[$(indirect_gemm::<$r2, 2>),*],
                transposed1: &[$(transposed_gemm::<$r1, 1>),*],
                transposed2: &[$(transposed_gemm::<$r2, 2>),*],
                batched1: &[$(batched_gemm::<$r1, 1>),*],
                batched2: &[$(batched_gemm::<$r2, 2>),*],
                strided1: &[$(strided_gemm::<$r1, 1>),*],
                strided2: &[$(strided_gemm::<$r2, 2>),*],
                f4: f4::TRANSFORMS,
                f2: f2::TRANSFORMS,
                toeplitz2: toeplitz2::TRANSFORMS,
                f4_rows: rows::KERNELS,
                depthwise_pixel,
                depthwise_tile,
                grouped_tile,
                depthwise_gradient,
            };
        }
    };
    (@transforms $module:ident, $b:ty, $i:literal, $p:literal, $o:literal, $simd:ty, [$($feature:literal)?]) => {
        mod $module {
            use super::*;
            $(#[target_feature(enable = $feature)])?
            unsafe fn input(x: &TileSource, channels: usize, v: *mut f32, v_step: usize, plane_step: usize, set: PlaneSet) {
                unsafe { transform::input::<$simd, $b, $i, $p, $o>(x, channels, v, v_step, plane_step, set) }
            }
            $(#[target_feature(enable = $feature)])?
            #[allow(clippy::too_many_arguments)]
            unsafe fn output(
                m: *const f32,
                m_step: usize,
                plane_step: usize,
                tiles: usize,
                y: &TileTarget,
                pooled: &TileTarget,
                channels: usize,
                epilogue: &Epilogue,
            ) {
                unsafe {
                    transform::output::<$simd, $b, $i, $p, $o>(
                        m, m_step, plane_step, tiles, y, pooled, channels, epilogue,
                    )
                }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn filter(w: &FilterPanel, u: *mut f32, plane_step: usize) {
                unsafe { transform::filter::<$simd, $b, $i, $p, $o>(w, u, plane_step) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn grad_output(gy: &TileSource, channels: usize, to: &PackedRows, set: PlaneSet) {
                unsafe { transform::grad_output::<$simd, $b, $i, $p, $o>(gy, channels, to, set) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn grad_filter(m: *const f32, plane_step: usize, w: &FilterPanel, accumulate: bool) {
                unsafe { transform::grad_filter::<$simd, $b, $i, $p, $o>(m, plane_step, w, accumulate) }
            }
            pub(super) const TRANSFORMS: Transforms =
                Transforms { inputs: $i, coefficients: $p, outputs: $o, input, output, filter, grad_output, grad_filter };
        }
    };
}

instruction_set!(plain, "portable", Portable, [], one: [1 2 3 4 5 6 7 8], two: [1 2 3 4 5 6]);

#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512};
#[cfg(target_arch = "x86_64")]
instruction_set!(avx2, "avx2", Avx2, ["avx2,fma"], one: [1 2 3 4 5 6 7 8], two: [1 2 3 4 5 6]);
#[cfg(target_arch = "x86_64")]
instruction_set!(avx512, "avx512", Avx512, ["avx512f,avx512vl,avx512bw,avx512dq,avx2,fma"],
    one: [1 2 3 4 5 6 7 8 9 10 11 12], two: [1 2 3 4 5 6 7 8 9 10 11 12]);

/// The tables of all instruction sets of this processor, the best first.
pub fn all() -> &'static [&'static Kernels] {
    static ALL: OnceLock<Vec<&'static Kernels>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
            {
                found.push(&avx512::KERNELS);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                found.push(&avx2::KERNELS);
            }
        }
        found.push(&plain::KERNELS);
        found
    })
}

/// The table of the best instruction set of this processor.
#[inline]
pub fn kernels() -> &'static Kernels {
    all()[0]
}

/// Runs plain loops compiled for the best instruction set of this processor. `f` should be `#[inline(always)]`.
///
/// The result does not depend on the instruction set: the compiler neither reorders sums nor contracts multiplications and
/// additions.
#[inline(always)]
pub fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    match kernels().lanes {
        // SAFETY: the table was chosen because the processor has these features.
        16 => return unsafe { avx512::run(f) },
        8 => return unsafe { avx2::run(f) },
        _ => {}
    }
    f()
}

/// Runs a task on the vectors of the best instruction set of this processor.
#[inline(always)]
pub fn dispatch(task: impl Task) {
    // SAFETY: the table was chosen because the processor has these features.
    unsafe { dispatch_to(kernels(), task) }
}

/// Runs a task on the vectors of one instruction set.
///
/// # Safety
/// The processor has it.
#[inline(always)]
unsafe fn dispatch_to(kernels: &Kernels, task: impl Task) {
    unsafe {
        #[cfg(target_arch = "x86_64")]
        match kernels.lanes {
            16 => {
                return avx512::run(
                    #[inline(always)]
                    || task.run::<Avx512>(),
                );
            }
            8 => {
                return avx2::run(
                    #[inline(always)]
                    || task.run::<Avx2>(),
                );
            }
            _ => {}
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = kernels;
        task.run::<Portable>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Applies the comparing operations to all pairs of values, and transposes a matrix of `rows` x `columns`.
    struct Compare<'a> {
        pairs: &'a [[f32; 2]],
        found: &'a mut Vec<[f32; 5]>,
        transposed: &'a mut Vec<f32>,
        rows: usize,
        columns: usize,
    }

    impl Task for Compare<'_> {
        unsafe fn run<S: Simd>(self) {
            let mut out = [[0f32; 16]; 5];
            for &[a, b] in self.pairs {
                unsafe {
                    let (va, vb) = (S::splat(a), S::splat(b));
                    S::store(out[0].as_mut_ptr(), S::where_equal(va, vb, S::splat(7.0)));
                    S::store(out[1].as_mut_ptr(), S::where_positive(va, vb));
                    S::store(out[2].as_mut_ptr(), S::max(va, vb));
                    S::store(out[3].as_mut_ptr(), S::select(va, vb, S::splat(1.0), S::splat(2.0)));
                    S::store(out[4].as_mut_ptr(), S::min(va, vb));
                }
                self.found.extend((0..S::LANES).map(|lane| out.map(|values| values[lane])));
            }
            let (rows, columns) = (self.rows.min(S::LANES), self.columns.min(S::LANES));
            let from: Vec<f32> = (0..20 * rows).map(|i| i as f32).collect();
            self.transposed.resize(columns * 17, -1.0);
            unsafe { S::transpose(from.as_ptr(), 20, rows, columns, self.transposed.as_mut_ptr(), 17) };
        }
    }

    #[test]
    fn comparisons_and_transposes_agree_with_scalar_code() {
        let values = [f32::NAN, f32::NEG_INFINITY, -1.0, -0.0, 0.0, 1.0, 2.0, f32::INFINITY];
        let pairs: Vec<[f32; 2]> = values.iter().flat_map(|&a| values.map(|b| [a, b])).collect();
        for kernels in all() {
            for (rows, columns) in [(16, 16), (16, 9), (9, 16), (3, 5), (1, 1)] {
                let (mut found, mut transposed) = (Vec::new(), Vec::new());
                let (of, to) = (&mut found, &mut transposed);
                // SAFETY: this processor has the instruction set.
                unsafe { dispatch_to(kernels, Compare { pairs: &pairs, found: of, transposed: to, rows, columns }) };
                for (i, found) in found.iter().enumerate() {
                    let [a, b] = pairs[i / kernels.lanes];
                    let takes_b = b > a || b.is_nan();
                    let expected = [
                        if a == b { 7.0 } else { 0.0 },
                        if a > 0.0 { b } else { 0.0 },
                        if takes_b { b } else { a },
                        if takes_b { 2.0 } else { 1.0 },
                        if b < a || b.is_nan() { b } else { a },
                    ];
                    let bits = |values: &[f32; 5]| values.map(|v| if v.is_nan() { f32::NAN } else { v }.to_bits());
                    assert_eq!(bits(found), bits(&expected), "{kernels:?}: {a} and {b}");
                }
                let (rows, columns) = (rows.min(kernels.lanes), columns.min(kernels.lanes));
                for (i, &value) in transposed.iter().enumerate() {
                    let (column, row) = (i / 17, i % 17);
                    let expected = if row < rows { (row * 20 + column) as f32 } else { -1.0 };
                    assert_eq!(value, expected, "{kernels:?}: {rows} x {columns}, row {row}, column {column}");
                }
            }
        }
    }
}
