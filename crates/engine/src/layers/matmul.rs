//! Matrix products of two tensors.

use gemm::Parallelism;
use nettriage_net::Shape;

use crate::lowering::LayerContext;
use crate::operation::{BackwardState, Context, Inputs, Operation, SavedForBackward};

/// One product for each row of the feature maps.
pub(super) fn build(layer: &LayerContext<'_, '_>, transposed: bool) -> MatMul {
    let (a, Shape { channels, height, width }) = (layer.input(), layer.output());
    MatMul { groups: height, m: width, n: channels, k: a.channels, transposed }
}

/// Y = A B for each of `groups` matrices, A of m x k and B of k x n, or n x k where it is transposed.
pub(super) struct MatMul {
    groups: usize,
    m: usize,
    n: usize,
    k: usize,
    transposed: bool,
}

/// A matrix in memory: its elements, and the distances between neighbouring rows and columns.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    turned: bool,
}

impl<'a> Matrix<'a> {
    /// Row by row.
    fn new(data: &'a [f32], rows: usize, columns: usize) -> Matrix<'a> {
        assert!(data.len() == rows * columns);
        Matrix { data, rows, columns, turned: false }
    }

    fn transpose(self) -> Matrix<'a> {
        Matrix { rows: self.columns, columns: self.rows, turned: !self.turned, ..self }
    }

    /// Distances between rows and between columns.
    fn strides(&self) -> (isize, isize) {
        if self.turned { (1, self.rows as isize) } else { (self.columns as isize, 1) }
    }
}

/// y = a b, row by row.
fn multiply(a: Matrix<'_>, b: Matrix<'_>, y: &mut [f32]) {
    let (m, k, n) = (a.rows, a.columns, b.columns);
    assert!(b.rows == k && y.len() == m * n);
    let ((a_row, a_column), (b_row, b_column)) = (a.strides(), b.strides());
    // SAFETY: the slices hold matrices of these extents and strides, as `Matrix::new` and the assertion check. One thread: the
    // products of all images and rows run in parallel.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            y.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.data.as_ptr(),
            a_column,
            a_row,
            b.data.as_ptr(),
            b_column,
            b_row,
            0.0f32,
            1.0f32,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

impl MatMul {
    fn a<'a>(&self, x: Inputs<'a>, group: usize) -> Matrix<'a> {
        let size = self.m * self.k;
        Matrix::new(&x.get(0)[group * size..][..size], self.m, self.k)
    }

    /// k x n, however it is stored.
    fn b<'a>(&self, x: Inputs<'a>, group: usize) -> Matrix<'a> {
        let size = self.n * self.k;
        let data = &x.get(1)[group * size..][..size];
        if self.transposed { Matrix::new(data, self.n, self.k).transpose() } else { Matrix::new(data, self.k, self.n) }
    }
}

impl Operation for MatMul {
    fn saved_for_backward(&self) -> SavedForBackward {
        SavedForBackward { inputs: true, output: false }
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        debug_assert_eq!(y.len(), cx.n * self.groups * self.m * self.n);
        cx.pool.chunks(y, self.m * self.n, |group, y| multiply(self.a(x, group), self.b(x, group), y));
    }

    fn passes_gradient_through(&self, _: usize) -> bool {
        false
    }

    /// dA = dY B', dB = A' dY.
    fn backward_input(
        &mut self,
        cx: &mut Context<'_>,
        k: usize,
        x: Inputs<'_>,
        BackwardState { gy, .. }: BackwardState<'_>,
        gx: &mut [f32],
    ) {
        let size = self.m * self.n;
        let gradient = |group: usize| Matrix::new(&gy[group * size..][..size], self.m, self.n);
        if k == 0 {
            cx.pool.chunks(gx, self.m * self.k, |group, gx| {
                multiply(gradient(group), self.b(x, group).transpose(), gx);
            });
        } else if self.transposed {
            cx.pool.chunks(gx, self.n * self.k, |group, gx| {
                multiply(gradient(group).transpose(), self.a(x, group), gx);
            });
        } else {
            cx.pool.chunks(gx, self.n * self.k, |group, gx| {
                multiply(self.a(x, group).transpose(), gradient(group), gx);
            });
        }
    }
}
