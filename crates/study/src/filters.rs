//! A substitute's filters, summarised for the record.

use base64::Engine as _;
use faer::Mat;
use nettriage_net::Tensor;
use nettriage_records::record::{FilterImages, Filters, Patch};

/// Most filters shown, and most channels of each.
pub(crate) const SHOWN: (usize, usize) = (16, 8);

/// Reads convolution filters `[filters, channels / groups, rows, columns]` before and after training.
pub fn read(before: &Tensor, after: &Tensor, dead: u64, patches: Vec<Vec<Patch>>) -> Filters {
    let shape: [usize; 4] = after.shape.as_slice().try_into().expect("a convolution's weight has four axes");
    Filters {
        shape,
        norms_before: norms(before),
        norms: norms(after),
        dead,
        effective_rank: effective_rank(after),
        images: images(before, after, shape),
        patches,
    }
}

fn norms(weight: &Tensor) -> Vec<f32> {
    let norm = |filter: &[f32]| filter.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>().sqrt() as f32;
    weight.data.chunks(weight.data.len() / weight.shape[0]).map(norm).collect()
}

/// exp of the entropy of the normalised singular values (Roy and Vetterli, The effective rank, EUSIPCO 2007).
fn effective_rank(weight: &Tensor) -> f64 {
    let columns = weight.data.len() / weight.shape[0];
    if weight.data.iter().any(|w| !w.is_finite()) {
        return 0.0;
    }
    let matrix = Mat::from_fn(weight.shape[0], columns, |i, j| f64::from(weight.data[i * columns + j]));
    // A decomposition fails to converge only on values that are not finite, excluded above.
    let Ok(values) = matrix.singular_values() else { return 0.0 };
    let sum: f64 = values.iter().sum();
    if sum == 0.0 {
        return 0.0;
    }
    let shares = values.iter().map(|v| v / sum).filter(|p| *p > 0.0);
    shares.map(|p| -p * p.ln()).sum::<f64>().exp()
}

fn images(before: &Tensor, after: &Tensor, shape: [usize; 4]) -> FilterImages {
    let [filters, channels, rows, columns] = shape;
    let (filters, area) = (filters.min(SHOWN.0), rows * columns);
    let all_channels = channels;
    let channels = channels.min(SHOWN.1);
    // The channels of largest norm at the end, so that before and after show the same ones.
    let strongest = |filter: usize| {
        let energy = |c: usize| {
            let start = (filter * all_channels + c) * area;
            after.data[start..start + area].iter().map(|&w| f64::from(w).powi(2)).sum::<f64>()
        };
        let mut order: Vec<usize> = (0..all_channels).collect();
        if all_channels > channels {
            order.sort_by(|&a, &b| energy(b).total_cmp(&energy(a)).then(a.cmp(&b)));
        }
        order.truncate(channels);
        order
    };
    let shown: Vec<usize> =
        (0..filters).flat_map(|f| strongest(f).into_iter().map(move |c| (f * all_channels + c) * area)).collect();
    let encode = |weight: &Tensor| {
        let largest = weight.data.iter().fold(0.0f32, |m, w| m.max(w.abs())).max(f32::MIN_POSITIVE);
        let byte = |w: &f32| (128.0 + 127.0 * w / largest).round().clamp(1.0, 255.0) as u8;
        let bytes: Vec<u8> = shown.iter().flat_map(|&at| weight.data[at..at + area].iter().map(byte)).collect();
        base64::engine::general_purpose::STANDARD.encode(bytes)
    };
    FilterImages { filters, channels, kernel: [rows, columns], before: encode(before), after: encode(after) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_rank_counts_equal_directions() {
        let identity = Tensor::new(&[3, 3, 1, 1], vec![2.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 2.0]);
        assert!((effective_rank(&identity) - 3.0).abs() < 1e-9);
        assert!((effective_rank(&Tensor::full(&[4, 2, 1, 1], 1.0)) - 1.0).abs() < 1e-6);
        assert_eq!(effective_rank(&Tensor::zeros(&[2, 2, 1, 1])), 0.0);
    }

    #[test]
    fn images_show_the_strongest_channels_scaled_to_the_layer() {
        let mut weight = Tensor::zeros(&[1, 9, 1, 1]);
        weight.data[0] = 0.25;
        weight.data[8] = -0.5;
        let filters = read(&Tensor::zeros(&[1, 9, 1, 1]), &weight, 0, Vec::new());
        let bytes = base64::engine::general_purpose::STANDARD.decode(&filters.images.after).unwrap();
        assert_eq!(filters.images.channels, 8);
        assert_eq!(bytes[..3], [1, 192, 128]);
        assert!((filters.norms[0] - 0.559_017).abs() < 1e-6);
    }
}
