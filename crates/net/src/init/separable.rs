//! The weights of a separable substitute from those of a dense convolution.

/// A dense kernel as a depthwise one and a 1x1 convolution after it, the nearest in squared error of the weights.
///
/// `weight` is `[filters, channels, taps]`. With W_c the matrix `[filters, taps]` of input channel c, W_c is approximated
/// by p_c d_c', its best approximation of rank one (Eckart and Young, 1936). Returns d as `[channels, taps]`, each row of
/// length 1, and p as `[filters, channels]`. Exact where the dense kernel is such a product.
pub fn separated(weight: &[f32], filters: usize, channels: usize, taps: usize) -> (Vec<f32>, Vec<f32>) {
    let (mut depthwise, mut pointwise) = (Vec::with_capacity(channels * taps), vec![0.0; filters * channels]);
    for channel in 0..channels {
        let row = |filter: usize| &weight[(filter * channels + channel) * taps..][..taps];
        let kernel = leading(taps, (0..filters).map(row));
        for filter in 0..filters {
            let product: f64 = row(filter).iter().zip(&kernel).map(|(&w, d)| f64::from(w) * d).sum();
            pointwise[filter * channels + channel] = product as f32;
        }
        depthwise.extend(kernel.into_iter().map(|d| d as f32));
    }
    (depthwise, pointwise)
}

/// The direction d of length 1 in which rows w have the largest sum of (w d)²: the leading eigenvector of their products,
/// by power iteration. The first axis where all rows are zero.
pub(super) fn leading<'a>(length: usize, rows: impl Iterator<Item = &'a [f32]>) -> Vec<f64> {
    // For kernels of up to 7x7 more steps change the squared error by less than f32 resolves.
    const STEPS: usize = 100;
    let mut products = vec![0.0; length * length];
    for row in rows {
        for (a, &x) in row.iter().enumerate() {
            let sums = &mut products[a * length..][..length];
            sums.iter_mut().zip(row).for_each(|(sum, &y)| *sum += f64::from(x) * f64::from(y));
        }
    }
    let largest =
        (0..length).fold(0, |best, a| if products[a * length + a] > products[best * length + best] { a } else { best });
    let mut vector = vec![0.0; length];
    vector[largest] = 1.0;
    for _ in 0..STEPS {
        let next: Vec<f64> =
            products.chunks_exact(length).map(|row| row.iter().zip(&vector).map(|(p, v)| p * v).sum()).collect();
        let norm = next.iter().map(|v: &f64| v * v).sum::<f64>().sqrt();
        if norm == 0.0 || !norm.is_finite() {
            break;
        }
        vector = next.into_iter().map(|v| v / norm).collect();
    }
    vector
}
