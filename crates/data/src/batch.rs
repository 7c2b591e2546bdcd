//! From bytes to the numbers that a network sees.

use serde::{Deserialize, Serialize};

use crate::{Example, Images, Shape};

/// Mean and standard deviation per channel, of pixels scaled to 0..1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Normalization {
    /// Means, one a channel.
    pub mean: Vec<f32>,
    /// Standard deviations, one a channel.
    pub std: Vec<f32>,
}

impl Normalization {
    /// The statistics of the images `indices`, over all their pixels: mean and population standard deviation.
    ///
    /// Sums are exact integers, so neither the order of the images nor the machine matters. A channel without
    /// any variation gets a deviation of 1, so that it normalises to zero.
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

    /// For each channel, what each byte becomes: (byte / 255 - mean) / std, in f32 as PyTorch computes it.
    fn tables(&self) -> Vec<[f32; 256]> {
        let table = |(&mean, &std): (&f32, &f32)| std::array::from_fn(|byte| (byte as f32 / 255.0 - mean) / std);
        self.mean.iter().zip(&self.std).map(table).collect()
    }
}

/// Writes varied, normalised examples: `out` is n x H x W x C, with n = `examples.len()`.
///
/// Window element (y, x) is image element (y + dy, x + dx), and the window is then mirrored if the example says so.
/// Where that lies outside the image it is zero *after* normalisation, which is the colour of the training set's
/// mean: torchvision's `Normalize` followed by `RandomCrop(padding=…)`. The more usual order there, crop first, has
/// a black border instead.
///
/// # Panics
/// If `out` has another length, an image index is out of range, or the channels of `shape` and `normalization` differ.
pub fn fill(images: &Images, shape: Shape, examples: &[Example], normalization: &Normalization, out: &mut [f32]) {
    let size = shape.elements();
    assert_eq!(out.len(), examples.len() * size, "the batch's length");
    assert_eq!(normalization.mean.len(), shape.channels, "the normalisation's channels");
    let tables = normalization.tables();
    let mut buffer = Vec::new();
    for (example, out) in examples.iter().zip(out.chunks_exact_mut(size.max(1))) {
        let image = images.read(example.image as usize, &mut buffer);
        if *example == Example::plain(example.image) {
            normalise(image, &tables, false, out);
        } else {
            vary(image, shape, example, &tables, out);
        }
    }
}

/// Writes normalised images as they are: `out` is n x H x W x C, with n = `indices.len()`.
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

/// Pixels, H x W x C or any part of it that begins with channel 0; with `flip` the last one first.
fn normalise(pixels: &[u8], tables: &[[f32; 256]], flip: bool, out: &mut [f32]) {
    // With the usual counts of channels known ahead, the compiler leaves no loop within a pixel.
    match tables {
        [a] => each(pixels.as_chunks().0, flip, out.as_chunks_mut().0, |[i]: [u8; 1]| [a[usize::from(i)]]),
        [a, b, c] => each(pixels.as_chunks().0, flip, out.as_chunks_mut().0, |[i, j, k]: [u8; 3]| {
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

/// Writes `f` of every pixel; with `flip` that of the last one first.
fn each<const C: usize>(pixels: &[[u8; C]], flip: bool, out: &mut [[f32; C]], f: impl Fn([u8; C]) -> [f32; C]) {
    if flip {
        pixels.iter().zip(out.iter_mut().rev()).for_each(|(&pixel, out)| *out = f(pixel));
    } else {
        pixels.iter().zip(out).for_each(|(&pixel, out)| *out = f(pixel));
    }
}

fn vary(image: &[u8], shape: Shape, example: &Example, tables: &[[f32; 256]], out: &mut [f32]) {
    let Shape { channels, height, width } = shape;
    let row = width * channels;
    let (dy, dx) = (isize::from(example.dy), isize::from(example.dx));
    // The window's columns that lie inside the image; the same in every row.
    let first = (-dx).clamp(0, width as isize) as usize;
    let end = (width as isize - dx).clamp(first as isize, width as isize) as usize;
    // Where they go.
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
