//! Batches: normalised, augmented images as f32.

use serde::{Deserialize, Serialize};

use crate::variation::Variation;
use crate::{Augmentation, Example, Images, Shape};

/// Mean and standard deviation per channel, of pixels scaled to 0..1: a network receives (pixel / 255 - mean) / std.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Normalization {
    /// Mean of every channel, C values.
    pub mean: Vec<f32>,
    /// Standard deviation of every channel, C values.
    pub std: Vec<f32>,
}

impl Normalization {
    /// Checks the values that a user gives for `channels` channels.
    ///
    /// # Errors
    /// What is wrong and what to do: another number of values, values that are not finite, a standard deviation that is not
    /// above 0, or values above 1, which are those of pixels from 0 to 255.
    pub fn new(mean: Vec<f32>, std: Vec<f32>, channels: usize) -> Result<Normalization, String> {
        if mean.len() != channels || std.len() != channels {
            let (means, stds) = (mean.len(), std.len());
            return Err(format!(
                "{means} values of mean and {stds} of std for images of {channels} channels: give {channels} each"
            ));
        }
        if !mean.iter().chain(&std).all(|value| value.is_finite()) || !std.iter().all(|&std| std > 0.0) {
            return Err("mean and std must be finite numbers, and std above 0".into());
        }
        if mean.iter().chain(&std).any(|&value| value > 1.0) {
            let scaled = |values: &[f32]| {
                let scale = if values.iter().any(|&value| value > 1.0) { 255.0 } else { 1.0 };
                values.iter().map(|value| format!("{:.4}", value / scale)).collect::<Vec<_>>().join(",")
            };
            return Err(format!(
                "pixels are scaled to 0..1, so mean and std are at most 1; divided by 255 where above 1 they are mean {} and std {}",
                scaled(&mean),
                scaled(&std)
            ));
        }
        Ok(Normalization { mean, std })
    }

    /// Mean and population standard deviation over all pixels of the images `indices`.
    ///
    /// The sums are exact integers, so the result depends neither on the order of the images nor on the machine. A constant
    /// channel gets a standard deviation of 1 and so becomes zero.
    ///
    /// # Panics
    /// If an index is out of range.
    pub fn of(images: &Images, shape: Shape, indices: &[u32]) -> Normalization {
        let channels = shape.channels;
        let mut sums = vec![(0u64, 0u64); channels];
        let mut buffer = Vec::new();
        for &index in indices {
            for pixel in images.read(index as usize, &mut buffer).chunks_exact(channels) {
                for (&byte, (sum, squares)) in pixel.iter().zip(&mut sums) {
                    *sum += u64::from(byte);
                    *squares += u64::from(byte) * u64::from(byte);
                }
            }
        }
        let count = (indices.len() * shape.height * shape.width).max(1) as f64;
        let statistics = sums.iter().map(|&(sum, squares)| {
            let mean = sum as f64 / count;
            let variance = (squares as f64 / count - mean * mean).max(0.0);
            let std = if variance > 0.0 { variance.sqrt() / 255.0 } else { 1.0 };
            ((mean / 255.0) as f32, std as f32)
        });
        let (mean, std) = statistics.unzip();
        Normalization { mean, std }
    }

    /// For each channel a lookup table over the 256 byte values: (byte / 255 - mean) / std, in f32 as PyTorch computes it.
    fn tables(&self) -> Vec<[f32; 256]> {
        let table = |(&mean, &std): (&f32, &f32)| std::array::from_fn(|byte| (byte as f32 / 255.0 - mean) / std);
        self.mean.iter().zip(&self.std).map(table).collect()
    }
}

/// Writes augmented, normalised examples: `out` is n x H x W x C, with n = `examples.len()`.
///
/// Element (y, x) of the crop is element (y + dy, x + dx) of the image; the crop is then flipped left to right if
/// [`Example::flip`] is set. Elements outside the image are zero *after* normalisation, so the border has the mean colour of
/// the training set. This is torchvision's `Normalize` followed by `RandomCrop(padding=…)`; the more common order,
/// `RandomCrop` before `Normalize`, gives a black border instead.
///
/// An example with a [`Example::variation`] is first cropped and resized and its colours are changed, by the settings of
/// `augmentation`; the cutout comes last.
///
/// # Panics
/// If `out` has another length, an image index is out of range, or the channels of `shape` and `normalization` differ.
pub fn fill(
    images: &Images,
    shape: Shape,
    examples: &[Example],
    augmentation: &Augmentation,
    normalization: &Normalization,
    out: &mut [f32],
) {
    let size = shape.elements();
    assert_eq!(out.len(), examples.len() * size, "the batch's length");
    assert_eq!(normalization.mean.len(), shape.channels, "the normalisation's channels");
    let tables = normalization.tables();
    let mut buffer = Vec::new();
    for (example, out) in examples.iter().zip(out.chunks_exact_mut(size.max(1))) {
        let image = images.read(example.image as usize, &mut buffer);
        if *example == Example::plain(example.image) {
            normalise(image, &tables, false, out);
        } else if example.variation != 0 && augmentation.varies() {
            Variation::of(example.variation, augmentation, shape).write(image, shape, example, normalization, out);
        } else {
            augment(image, shape, example, &tables, out);
        }
    }
}

/// Writes normalised images without augmentation: `out` is n x H x W x C, with n = `indices.len()`.
///
/// # Panics
/// As [`fill`].
pub fn fill_plain(images: &Images, shape: Shape, indices: &[u32], normalization: &Normalization, out: &mut [f32]) {
    let size = shape.elements();
    assert_eq!(out.len(), indices.len() * size, "the batch's length");
    assert_eq!(normalization.mean.len(), shape.channels, "the normalisation's channels");
    let tables = normalization.tables();
    let mut buffer = Vec::new();
    for (&index, out) in indices.iter().zip(out.chunks_exact_mut(size.max(1))) {
        normalise(images.read(index as usize, &mut buffer), &tables, false, out);
    }
}

/// Normalises whole pixels of C channels each; with `flip` in reverse order of pixels.
fn normalise(pixels: &[u8], tables: &[[f32; 256]], flip: bool, out: &mut [f32]) {
    // With 1 and 3 channels known at compile time there is no loop over channels.
    match tables {
        [a] => map_pixels(pixels.as_chunks().0, flip, out.as_chunks_mut().0, |[i]: [u8; 1]| [a[usize::from(i)]]),
        [a, b, c] => map_pixels(pixels.as_chunks().0, flip, out.as_chunks_mut().0, |[i, j, k]: [u8; 3]| {
            [a[usize::from(i)], b[usize::from(j)], c[usize::from(k)]]
        }),
        _ => {
            let write = |(pixel, out): (&[u8], &mut [f32])| {
                for ((&byte, table), out) in pixel.iter().zip(tables).zip(out) {
                    *out = table[usize::from(byte)];
                }
            };
            let (pixels, out) = (pixels.chunks_exact(tables.len()), out.chunks_exact_mut(tables.len()));
            if flip { pixels.zip(out.rev()).for_each(write) } else { pixels.zip(out).for_each(write) }
        }
    }
}

/// Writes `f` of every pixel; with `flip` in reverse order.
fn map_pixels<const C: usize>(pixels: &[[u8; C]], flip: bool, out: &mut [[f32; C]], f: impl Fn([u8; C]) -> [f32; C]) {
    if flip {
        pixels.iter().zip(out.iter_mut().rev()).for_each(|(&pixel, out)| *out = f(pixel));
    } else {
        pixels.iter().zip(out).for_each(|(&pixel, out)| *out = f(pixel));
    }
}

/// Writes one cropped and possibly flipped example, H x W x C; see [`fill`].
fn augment(image: &[u8], shape: Shape, example: &Example, tables: &[[f32; 256]], out: &mut [f32]) {
    let Shape { channels, height, width } = shape;
    let row = width * channels;
    let (dy, dx) = (isize::from(example.dy), isize::from(example.dx));
    // The columns of the crop that lie inside the image; the same in every row.
    let first = (-dx).clamp(0, width as isize) as usize;
    let end = (width as isize - dx).clamp(first as isize, width as isize) as usize;
    // Their place in the output.
    let (left, right) = if example.flip { (width - end, width - first) } else { (first, end) };
    for (y, out) in out.chunks_exact_mut(row).enumerate() {
        let source = y as isize + dy;
        if !(0..height as isize).contains(&source) || first == end {
            out.fill(0.0);
            continue;
        }
        let start = source as usize * row + (first as isize + dx) as usize * channels;
        let pixels = &image[start..][..(end - first) * channels];
        out[..left * channels].fill(0.0);
        normalise(pixels, tables, example.flip, &mut out[left * channels..right * channels]);
        out[right * channels..].fill(0.0);
    }
}
