//! Augmentation of photographs: a random part of the image, resized; other colours; a square left out.

use crate::random::SeededRng;
use crate::{Augmentation, Example, Normalization, Shape};

/// What happens to one example, beside its shift and flip.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Variation {
    /// First row, first column, rows and columns of the part that is resized to the whole.
    crop: [usize; 4],
    /// Factors of brightness, contrast and saturation.
    colours: Option<[f32; 3]>,
    /// First row and column after the last, first column and column after the last of the square that is left out.
    cutout: Option<[usize; 4]>,
}

/// Most attempts to find a crop that fits, as in torchvision.
const ATTEMPTS: usize = 10;

impl Variation {
    /// That of a seed, for images of a shape.
    pub fn of(seed: u32, augmentation: &Augmentation, shape: Shape) -> Variation {
        let Shape { height, width, .. } = shape;
        let rng = |purpose| SeededRng::new(u64::from(seed), purpose);
        let crop = augmentation.crop.map(|least| crop(&mut rng("crop"), least, height, width));
        let mut draw = rng("colours");
        let jitter = augmentation.jitter;
        let colours = (jitter > 0.0).then(|| [(); 3].map(|()| 1.0 - jitter + 2.0 * jitter * draw.unit()));
        let mut draw = rng("cutout");
        let side = augmentation.cutout;
        let cutout = (side > 0).then(|| {
            // The centre lies in the image.
            let mut ends = |extent: usize| {
                let first = draw.below(extent) as isize - side as isize / 2;
                [first.max(0) as usize, (first + side as isize).clamp(0, extent as isize) as usize]
            };
            let ([top, bottom], [left, right]) = (ends(height), ends(width));
            [top, bottom, left, right]
        });
        Variation { crop: crop.unwrap_or([0, 0, height, width]), colours, cutout }
    }

    /// Writes the example, H x W x C; see [`crate::fill`].
    pub fn write(&self, image: &[u8], shape: Shape, example: &Example, normalization: &Normalization, out: &mut [f32]) {
        let Shape { channels, height, width } = shape;
        let mut pixels = resized(image, shape, self.crop);
        if let Some(factors) = self.colours {
            change_colours(&mut pixels, channels, factors);
        }
        for pixel in pixels.chunks_exact_mut(channels) {
            for ((value, mean), std) in pixel.iter_mut().zip(&normalization.mean).zip(&normalization.std) {
                *value = (*value - mean) / std;
            }
        }
        let (dy, dx) = (isize::from(example.dy), isize::from(example.dx));
        let inside = |at: isize, extent: usize| usize::try_from(at).ok().filter(|at| *at < extent);
        for (y, row) in out.chunks_exact_mut(width * channels).enumerate() {
            for (x, out) in row.chunks_exact_mut(channels).enumerate() {
                let x = if example.flip { width - 1 - x } else { x };
                match (inside(y as isize + dy, height), inside(x as isize + dx, width)) {
                    (Some(y), Some(x)) => out.copy_from_slice(&pixels[(y * width + x) * channels..][..channels]),
                    _ => out.fill(0.0),
                }
            }
        }
        if let Some([top, bottom, left, right]) = self.cutout {
            for row in out.chunks_exact_mut(width * channels).take(bottom).skip(top) {
                row[left * channels..right * channels].fill(0.0);
            }
        }
    }
}

/// A part of an image of at least the share `least` of its area, as torchvision's `RandomResizedCrop` draws it.
fn crop(rng: &mut SeededRng, least: f32, height: usize, width: usize) -> [usize; 4] {
    let area = (height * width) as f32;
    for _ in 0..ATTEMPTS {
        let target = area * (least + (1.0 - least) * rng.unit());
        let (low, high) = ((3.0f32 / 4.0).ln(), (4.0f32 / 3.0).ln());
        let ratio = (low + (high - low) * rng.unit()).exp();
        let (w, h) = ((target * ratio).sqrt().round() as usize, (target / ratio).sqrt().round() as usize);
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            return [rng.below(height - h + 1), rng.below(width - w + 1), h, w];
        }
    }
    // The largest part in the middle whose ratio is allowed.
    let (h, w) = match width as f32 / height as f32 {
        ratio if ratio < 3.0 / 4.0 => ((width as f32 * 4.0 / 3.0).round() as usize, width),
        ratio if ratio > 4.0 / 3.0 => (height, (height as f32 * 4.0 / 3.0).round() as usize),
        _ => (height, width),
    };
    let (h, w) = (h.clamp(1, height), w.clamp(1, width));
    [(height - h) / 2, (width - w) / 2, h, w]
}

/// A part of an image, scaled to 0..1 and resized to the image's size by bilinear interpolation between the centres of pixels, as
/// `torch.nn.functional.interpolate` with `align_corners=False`.
fn resized(image: &[u8], shape: Shape, [top, left, rows, columns]: [usize; 4]) -> Vec<f32> {
    let Shape { channels, height, width } = shape;
    // Two neighbours and the weight of the second, for each place in the output.
    let places = |extent: usize, part: usize| -> Vec<(usize, usize, f32)> {
        let place = |at: usize| {
            let source = ((at as f32 + 0.5) * part as f32 / extent as f32 - 0.5).max(0.0);
            let first = (source as usize).min(part - 1);
            (first, (first + 1).min(part - 1), source - first as f32)
        };
        (0..extent).map(place).collect()
    };
    let across = places(width, columns);
    let mut out = Vec::with_capacity(height * width * channels);
    for (above, below, down) in places(height, rows) {
        let pixel = |row: usize, column: usize, c: usize| {
            f32::from(image[((top + row) * width + left + column) * channels + c]) / 255.0
        };
        for &(before, after, right) in &across {
            for c in 0..channels {
                let upper = pixel(above, before, c) * (1.0 - right) + pixel(above, after, c) * right;
                let lower = pixel(below, before, c) * (1.0 - right) + pixel(below, after, c) * right;
                out.push(upper * (1.0 - down) + lower * down);
            }
        }
    }
    out
}

/// The weights of red, green and blue in grey (ITU-R 601-2, as torchvision and Pillow have them).
const GREY: [f32; 3] = [0.2989, 0.587, 0.114];

/// Multiplies brightness, contrast and saturation of pixels in 0..1, each step cut to 0..1. Contrast is the distance to the mean
/// grey, saturation the distance to a pixel's own grey; images of other than three channels have no saturation.
fn change_colours(pixels: &mut [f32], channels: usize, [brightness, contrast, saturation]: [f32; 3]) {
    let grey = |pixel: &[f32]| match pixel {
        [r, g, b] => GREY[0] * r + GREY[1] * g + GREY[2] * b,
        _ => pixel.iter().sum::<f32>() / pixel.len() as f32,
    };
    let blend = |value: f32, other: f32, factor: f32| (factor * value + (1.0 - factor) * other).clamp(0.0, 1.0);
    pixels.iter_mut().for_each(|value| *value = blend(*value, 0.0, brightness));
    let count = (pixels.len() / channels).max(1);
    let mean = (pixels.chunks_exact(channels).map(|pixel| f64::from(grey(pixel))).sum::<f64>() / count as f64) as f32;
    pixels.iter_mut().for_each(|value| *value = blend(*value, mean, contrast));
    if channels == 3 {
        for pixel in pixels.chunks_exact_mut(channels) {
            let own = grey(pixel);
            pixel.iter_mut().for_each(|value| *value = blend(*value, own, saturation));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { channels: 3, height: 4, width: 4 };

    fn image() -> Vec<u8> {
        (0..48).map(|i: u32| (i * 37 % 251) as u8).collect()
    }

    #[track_caller]
    fn close(found: &[f32], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!((f64::from(*found) - expected).abs() < 2e-6, "element {at}: {found}, not {expected}");
        }
    }

    // x = (torch.arange(48) * 37 % 251).double().view(4, 4, 3).permute(2, 0, 1)[None] / 255
    // F.interpolate(x[:, :, 1:4, 0:2], size=(4, 4), mode="bilinear", align_corners=False)[0, :, 1].T.flatten()
    const RESIZED: [f64; 12] = [
        0.614705882,
        0.759803922,
        0.535784314,
        0.63125,
        0.62254902,
        0.490808824,
        0.664338235,
        0.348039216,
        0.400857843,
        0.680882353,
        0.210784314,
        0.355882353,
    ];
    // torchvision.transforms.functional: adjust_brightness(x, 1.2), adjust_contrast(…, 0.7), adjust_saturation(…, 1.3),
    // the first row, channels last.
    const COLOURS: [f64; 12] = [
        0.136541056,
        0.294988115,
        0.453435174,
        0.502199085,
        0.660646143,
        0.819093202,
        1.0,
        0.128120715,
        0.286567774,
        0.406666807,
        0.565113866,
        0.723560925,
    ];

    #[test]
    fn a_resized_part_is_that_of_pytorch() {
        let found = resized(&image(), SHAPE, [1, 0, 3, 2]);
        close(&found[12..24], &RESIZED);
        // The whole image is unchanged.
        let whole: Vec<f64> = image().iter().map(|&byte| f64::from(byte) / 255.0).collect();
        close(&resized(&image(), SHAPE, [0, 0, 4, 4]), &whole);
    }

    #[test]
    fn colours_are_those_of_torchvision() {
        let mut pixels = resized(&image(), SHAPE, [0, 0, 4, 4]);
        change_colours(&mut pixels, 3, [1.2, 0.7, 1.3]);
        close(&pixels[..12], &COLOURS);
        let mut same = resized(&image(), SHAPE, [0, 0, 4, 4]);
        change_colours(&mut same, 3, [1.0; 3]);
        let whole: Vec<f64> = image().iter().map(|&byte| f64::from(byte) / 255.0).collect();
        close(&same, &whole);
    }

    #[test]
    fn crops_have_their_areas_and_ratios() {
        let mut shares = Vec::new();
        for seed in 1..2000 {
            let augmentation = Augmentation { crop: Some(0.25), ..Augmentation::default() };
            let shape = Shape { channels: 1, height: 60, width: 80 };
            let [top, left, rows, columns] = Variation::of(seed, &augmentation, shape).crop;
            assert!(top + rows <= 60 && left + columns <= 80);
            let (share, ratio) = ((rows * columns) as f64 / 4800.0, columns as f64 / rows as f64);
            assert!(share > 0.24 && (0.73..1.37).contains(&ratio), "{share} {ratio}");
            shares.push(share);
        }
        // Uniform in 0.25..1, but for large crops that do not fit with their ratio.
        let mean = shares.iter().sum::<f64>() / shares.len() as f64;
        assert!((0.5..0.63).contains(&mean), "{mean}");
    }

    #[test]
    fn cutouts_are_squares_around_a_place_in_the_image() {
        let augmentation = Augmentation { cutout: 2, ..Augmentation::default() };
        let normalization = Normalization { mean: vec![0.0; 3], std: vec![1.0; 3] };
        let bright = vec![255; 48];
        let mut places = std::collections::BTreeSet::new();
        for seed in 1..400 {
            let variation = Variation::of(seed, &augmentation, SHAPE);
            let mut out = [f32::NAN; 48];
            variation.write(
                &bright,
                SHAPE,
                &Example { variation: seed, ..Example::plain(0) },
                &normalization,
                &mut out,
            );
            let dark = out.iter().filter(|value| **value == 0.0).count();
            assert!([3, 6, 12].contains(&dark), "{dark}");
            assert_eq!(dark + out.iter().filter(|value| **value == 1.0).count(), 48);
            places.insert(variation.cutout.unwrap());
        }
        assert_eq!(places.len(), 16, "every pixel is a centre");
    }

    #[test]
    fn shift_and_flip_are_those_without_a_variation() {
        let normalization = Normalization { mean: vec![0.4, 0.5, 0.6], std: vec![0.2, 0.25, 0.3] };
        let images = crate::Images { pixels: image().into(), labels: vec![0] };
        let none = Augmentation { jitter: 0.0, ..Augmentation::default() };
        for (dy, dx, flip) in [(0, 0, false), (1, -1, false), (-2, 1, true), (0, 3, true)] {
            let plain = Example { image: 0, dy, dx, flip, variation: 0 };
            let (mut one, mut other) = ([f32::NAN; 48], [f32::NAN; 48]);
            crate::fill(&images, SHAPE, &[plain], &none, &normalization, &mut one);
            crate::fill(&images, SHAPE, &[Example { variation: 7, ..plain }], &none, &normalization, &mut other);
            close(&other, &one.map(f64::from));
        }
    }
}
