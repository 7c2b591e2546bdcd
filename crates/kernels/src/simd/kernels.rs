//! The kernels of each instruction set, compiled for it, and the choice at run time.

use std::sync::OnceLock;

use super::bilinear::{F2, F4, K3};
use super::depthwise::{self, Correlate, Gather};
use super::line::{self, Correlation, Gradients, LineKernels, Sums};
use super::tile::{self, Cols, ColsFn, Finish, Matrix, MatrixFn, Rows, RowsFn, Strip, StripFn};
use super::transform::{self, Filters, PanelRow, Part, Source, Target, Transforms};
use super::{Simd, Task, portable::Portable};

/// The kernels of one instruction set.
///
/// # Safety
/// Those of a table from [`kernels`] or [`all`] may be called on this processor; each states what its pointers must allow.
pub struct Kernels {
    /// The instruction set.
    pub name: &'static str,
    /// Elements of a vector.
    pub lanes: usize,
    /// Tiles of one vector: `[rows - 1]`.
    rows1: &'static [RowsFn],
    /// Tiles of two vectors.
    rows2: &'static [RowsFn],
    cols1: &'static [ColsFn],
    cols2: &'static [ColsFn],
    matrix1: &'static [MatrixFn],
    matrix2: &'static [MatrixFn],
    strip1: &'static [StripFn],
    strip2: &'static [StripFn],
    /// F(4x4, 3x3).
    pub(crate) f4: Transforms,
    /// F(2x2, 3x3).
    pub(crate) f2: Transforms,
    /// 2x2 pictures.
    pub(crate) k3: Transforms,
    /// F(4, 3) along lines of pictures with few channels.
    pub(crate) line: LineKernels,
    /// One pixel of a depthwise convolution.
    pub(crate) gather: unsafe fn(&Gather),
    /// One tap's run of a depthwise weight gradient.
    pub(crate) correlate: unsafe fn(&Correlate),
}

impl Kernels {
    /// Columns of a whole packed panel: two vectors.
    pub(crate) fn panel(&self) -> usize {
        2 * self.lanes
    }

    /// `columns` rounded up to whole vectors: what they take in packed panels.
    pub(crate) fn padded(&self, columns: usize) -> usize {
        columns.next_multiple_of(self.lanes)
    }

    /// Width of the packed panel that starts at column `at` of `columns`: two vectors, or one at the end.
    pub(crate) fn width(&self, at: usize, columns: usize) -> usize {
        if columns - at <= self.lanes { self.lanes } else { 2 * self.lanes }
    }

    /// Row kernels for panels of `width` columns, `[rows - 1]`.
    pub(crate) fn rows(&self, width: usize) -> &'static [RowsFn] {
        if width == self.lanes { self.rows1 } else { self.rows2 }
    }

    /// Kernels on matrices for panels of `width` columns, `[rows of a tile - 1]`.
    pub(crate) fn matrix(&self, width: usize) -> &'static [MatrixFn] {
        if width == self.lanes { self.matrix1 } else { self.matrix2 }
    }

    /// Kernels on strips of pixels for panels of `width` columns, `[rows of a tile - 1]`.
    pub(crate) fn strip(&self, width: usize) -> &'static [StripFn] {
        if width == self.lanes { self.strip1 } else { self.strip2 }
    }

    /// Column kernels for panels of `width` columns, `[rows - 1]`.
    pub(crate) fn cols(&self, width: usize) -> &'static [ColsFn] {
        if width == self.lanes { self.cols1 } else { self.cols2 }
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
            unsafe fn rows<const M: usize, const N: usize>(t: &Rows) {
                unsafe { tile::rows::<$simd, M, N>(t) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn cols<const M: usize, const N: usize>(t: &Cols) {
                unsafe { tile::cols::<$simd, M, N>(t) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn matrix<const M: usize, const N: usize>(t: &Matrix) {
                unsafe { tile::matrix::<$simd, M, N>(t) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn strip<const M: usize, const N: usize>(t: &Strip) {
                unsafe { tile::strip::<$simd, M, N>(t) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn gather(t: &Gather) {
                unsafe { depthwise::gather::<$simd>(t) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn correlate(t: &Correlate) {
                unsafe { depthwise::correlate::<$simd>(t) }
            }
            instruction_set!(@transforms f4, F4, 6, 6, 4, $simd, [$($feature)?]);
            instruction_set!(@transforms f2, F2, 4, 4, 2, $simd, [$($feature)?]);
            instruction_set!(@transforms k3, K3, 2, 3, 2, $simd, [$($feature)?]);

            mod lines {
                use super::*;
                $(#[target_feature(enable = $feature)])?
                unsafe fn input(pixels: *const f32, channels: usize, groups: usize, v: *mut f32) {
                    unsafe { line::input::<$simd>(pixels, channels, groups, v) }
                }
                $(#[target_feature(enable = $feature)])?
                unsafe fn filter(taps: *const f32, channels: usize, u: *mut f32) {
                    unsafe { line::filter::<$simd>(taps, channels, u) }
                }
                $(#[target_feature(enable = $feature)])?
                unsafe fn output(t: &Sums) {
                    unsafe { line::output::<$simd>(t) }
                }
                $(#[target_feature(enable = $feature)])?
                unsafe fn grad_output(t: &Gradients) {
                    unsafe { line::grad_output::<$simd>(t) }
                }
                $(#[target_feature(enable = $feature)])?
                unsafe fn correlate(t: &Correlation) {
                    unsafe { line::correlate::<$simd>(t) }
                }
                $(#[target_feature(enable = $feature)])?
                unsafe fn grad_filter(sums: *const f32, channels: usize, taps: *mut f32) {
                    unsafe { line::grad_filter::<$simd>(sums, channels, taps) }
                }
                pub(super) const KERNELS: LineKernels =
                    LineKernels { input, filter, output, grad_output, correlate, grad_filter };
            }

            /// Runs `f` compiled for this instruction set.
            #[allow(dead_code)] // The portable one is a plain call.
            $(#[target_feature(enable = $feature)])?
            pub(in super::super) unsafe fn run<R>(f: impl FnOnce() -> R) -> R {
                f()
            }

            pub(super) static KERNELS: Kernels = Kernels {
                name: $name,
                lanes: <$simd as Simd>::LANES,
                rows1: &[$(rows::<$r1, 1>),*],
                rows2: &[$(rows::<$r2, 2>),*],
                cols1: &[$(cols::<$r1, 1>),*],
                cols2: &[$(cols::<$r2, 2>),*],
                matrix1: &[$(matrix::<$r1, 1>),*],
                matrix2: &[$(matrix::<$r2, 2>),*],
                strip1: &[$(strip::<$r1, 1>),*],
                strip2: &[$(strip::<$r2, 2>),*],
                f4: f4::TRANSFORMS,
                f2: f2::TRANSFORMS,
                k3: k3::TRANSFORMS,
                line: lines::KERNELS,
                gather,
                correlate,
            };
        }
    };
    (@transforms $module:ident, $b:ty, $i:literal, $p:literal, $o:literal, $simd:ty, [$($feature:literal)?]) => {
        mod $module {
            use super::*;
            $(#[target_feature(enable = $feature)])?
            unsafe fn input(x: &Source, channels: usize, v: *mut f32, v_step: usize, plane: usize, part: Part) {
                unsafe { transform::input::<$simd, $b, $i, $p, $o>(x, channels, v, v_step, plane, part) }
            }
            $(#[target_feature(enable = $feature)])?
            #[allow(clippy::too_many_arguments)]
            unsafe fn output(
                m: *const f32,
                m_step: usize,
                plane: usize,
                tiles: usize,
                y: &Target,
                pooled: &Target,
                channels: usize,
                finish: &Finish,
            ) {
                unsafe { transform::output::<$simd, $b, $i, $p, $o>(m, m_step, plane, tiles, y, pooled, channels, finish) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn filter(w: &Filters, u: *mut f32, plane: usize) {
                unsafe { transform::filter::<$simd, $b, $i, $p, $o>(w, u, plane) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn grad_output(gy: &Source, channels: usize, to: &PanelRow, part: Part) {
                unsafe { transform::grad_output::<$simd, $b, $i, $p, $o>(gy, channels, to, part) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn grad_filter(m: *const f32, plane: usize, w: &Filters, add: bool) {
                unsafe { transform::grad_filter::<$simd, $b, $i, $p, $o>(m, plane, w, add) }
            }
            pub(super) const TRANSFORMS: Transforms =
                Transforms { inputs: $i, products: $p, outputs: $o, input, output, filter, grad_output, grad_filter };
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

/// The tables of every instruction set that this processor has, the best first.
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

/// The table of the best instruction set that this processor has.
pub fn kernels() -> &'static Kernels {
    all()[0]
}

/// Runs plain loops compiled for the best instruction set that this processor has.
///
/// No bit depends on which: the compiler neither reorders sums nor fuses multiplications and additions.
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

/// Runs a task on the vectors of the best instruction set that this processor has.
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

    /// What vectors make of all pairs of some numbers: choices, then the transpose of `rows` x `columns` of them.
    struct Choices<'a> {
        pairs: &'a [[f32; 2]],
        found: &'a mut Vec<[f32; 4]>,
        transposed: &'a mut Vec<f32>,
        rows: usize,
        columns: usize,
    }

    impl Task for Choices<'_> {
        unsafe fn run<S: Simd>(self) {
            let mut out = [[0f32; 16]; 4];
            for &[a, b] in self.pairs {
                unsafe {
                    let (va, vb) = (S::splat(a), S::splat(b));
                    S::store(out[0].as_mut_ptr(), S::where_equal(va, vb, S::splat(7.0)));
                    S::store(out[1].as_mut_ptr(), S::where_positive(va, vb));
                    S::store(out[2].as_mut_ptr(), S::pick(va, vb));
                    S::store(out[3].as_mut_ptr(), S::follow(va, vb, S::splat(1.0), S::splat(2.0)));
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
    fn vectors_choose_and_turn_as_single_numbers_do() {
        let numbers = [f32::NAN, f32::NEG_INFINITY, -1.0, -0.0, 0.0, 1.0, 2.0, f32::INFINITY];
        let pairs: Vec<[f32; 2]> = numbers.iter().flat_map(|&a| numbers.map(|b| [a, b])).collect();
        for kernels in all() {
            for (rows, columns) in [(16, 16), (16, 9), (9, 16), (3, 5), (1, 1)] {
                let (mut found, mut transposed) = (Vec::new(), Vec::new());
                let (of, to) = (&mut found, &mut transposed);
                // SAFETY: of the sets that this processor has.
                unsafe { dispatch_to(kernels, Choices { pairs: &pairs, found: of, transposed: to, rows, columns }) };
                for (i, found) in found.iter().enumerate() {
                    let [a, b] = pairs[i / kernels.lanes];
                    let later = b > a || b.is_nan();
                    let expected = [
                        if a == b { 7.0 } else { 0.0 },
                        if a > 0.0 { b } else { 0.0 },
                        if later { b } else { a },
                        if later { 2.0 } else { 1.0 },
                    ];
                    let bits = |values: &[f32; 4]| values.map(|v| if v.is_nan() { f32::NAN } else { v }.to_bits());
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
