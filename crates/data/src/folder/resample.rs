//! Resizing and cropping as Pillow and torchvision do it: to the bit, except that Pillow 13 resamples columns first, and so
//! rounds differently, where an image is more than twice as high as wide.

/// The filter of a resize.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interpolation {
    /// Linear, with antialiasing (a triangle filter over source pixels): torchvision's default.
    #[default]
    Bilinear,
    /// Cubic with a = -1/2, with antialiasing.
    Bicubic,
}

impl std::str::FromStr for Interpolation {
    type Err = String;

    fn from_str(text: &str) -> Result<Interpolation, String> {
        match text {
            "bilinear" => Ok(Interpolation::Bilinear),
            "bicubic" => Ok(Interpolation::Bicubic),
            _ => Err("choose bilinear or bicubic".into()),
        }
    }
}

impl Interpolation {
    /// The radius of the filter in pixels, without downscaling.
    fn radius(self) -> f64 {
        match self {
            Interpolation::Bilinear => 1.0,
            Interpolation::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Interpolation::Bilinear if x < 1.0 => 1.0 - x,
            Interpolation::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Interpolation::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        }
    }
}

/// Rows and columns.
pub(crate) type Extent = (usize, usize);

/// The size to which an image is resized, and the first row and column of the centre crop of `target` out of it.
///
/// `shorter` is the length of the shorter side after resizing (torchvision's `Resize(shorter)`); without it, the smallest size
/// that covers `target`. The offset of the crop is rounded half to even (torchvision's `CenterCrop`).
pub(crate) fn placement(source: Extent, target: Extent, shorter: Option<usize>) -> (Extent, Extent) {
    let (height, width) = source;
    let resized = match shorter {
        Some(side) if height <= width => (side, side * width / height),
        Some(side) => (side * height / width, side),
        None if target.0 * width >= target.1 * height => (target.0, target.0 * width / height),
        None => (target.1 * height / width, target.1),
    };
    let offset = |extra: usize| extra / 2 + (extra % 2) * (extra / 2 % 2);
    (resized, (offset(resized.0 - target.0), offset(resized.1 - target.1)))
}

/// Bits after the binary point of a coefficient.
const PRECISION: u32 = 32 - 8 - 2;

/// The coefficients of one output pixel: the first source pixel, and the weights from there on, in fixed point.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// The taps of output pixels `from..from + count` of a resize from `source` to `size` pixels.
fn taps(filter: Interpolation, source: usize, size: usize, from: usize, count: usize) -> Vec<Taps> {
    let scale = source as f64 / size as f64;
    let stretch = scale.max(1.0);
    let radius = filter.radius() * stretch;
    let one = |pixel: usize| {
        let centre = (pixel as f64 + 0.5) * scale;
        let first = ((centre - radius + 0.5) as i64).max(0) as usize;
        let end = ((centre + radius + 0.5) as usize).min(source);
        let weights: Vec<f64> =
            (first..end).map(|at| filter.weight((at as f64 - centre + 0.5) * (1.0 / stretch))).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |weight: f64| {
            let weight = if sum == 0.0 { weight } else { weight / sum } * f64::from(1 << PRECISION);
            (weight + 0.5_f64.copysign(weight)) as i32
        };
        Taps { first, weights: weights.into_iter().map(fixed).collect() }
    };
    (from..from + count).map(one).collect()
}

fn rounded(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// Resizes an RGB image and writes the part of `target` rows and columns at `offset`: `out` is H x W x 3.
///
/// As in Pillow, rows are resampled first and rounded to bytes, then columns. Only pixels that the part needs are computed.
pub(crate) fn resize(
    pixels: &[u8],
    source: Extent,
    resized: Extent,
    offset: Extent,
    target: Extent,
    filter: Interpolation,
    out: &mut [u8],
) {
    let (height, width) = source;
    let columns = taps(filter, width, resized.1, offset.1, target.1);
    let rows = taps(filter, height, resized.0, offset.0, target.0);
    let needed = match height == resized.0 {
        true => offset.0..offset.0 + target.0,
        false => {
            let first = rows.first().map_or(0, |taps| taps.first);
            first..rows.last().map_or(0, |taps| taps.first + taps.weights.len())
        }
    };
    let start = needed.start;
    let mut narrow = vec![0; needed.len() * target.1 * 3];
    for (row, out) in needed.zip(narrow.chunks_exact_mut(target.1 * 3)) {
        let line = &pixels[row * width * 3..][..width * 3];
        if width == resized.1 {
            out.copy_from_slice(&line[offset.1 * 3..][..target.1 * 3]);
            continue;
        }
        for (taps, out) in columns.iter().zip(out.chunks_exact_mut(3)) {
            for (channel, out) in out.iter_mut().enumerate() {
                let source = line[taps.first * 3 + channel..].iter().step_by(3);
                let products = taps.weights.iter().zip(source).map(|(&weight, &byte)| weight * i32::from(byte));
                *out = rounded(products.fold(1 << (PRECISION - 1), i32::wrapping_add));
            }
        }
    }
    let line = target.1 * 3;
    if height == resized.0 {
        out.copy_from_slice(&narrow);
        return;
    }
    for (taps, out) in rows.iter().zip(out.chunks_exact_mut(line)) {
        for (at, out) in out.iter_mut().enumerate() {
            let source = narrow[(taps.first - start) * line + at..].iter().step_by(line);
            let products = taps.weights.iter().zip(source).map(|(&weight, &byte)| weight * i32::from(byte));
            *out = rounded(products.fold(1 << (PRECISION - 1), i32::wrapping_add));
        }
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::dataset::hex;

    /// The image of the comparison: byte (7 y + 13 x + 31 c + (x y) mod 97) mod 256.
    fn image(height: usize, width: usize) -> Vec<u8> {
        let pixel = |y: usize, x: usize, c: usize| ((7 * y + 13 * x + 31 * c + x * y % 97) % 256) as u8;
        (0..height).flat_map(|y| (0..width).flat_map(move |x| (0..3).map(move |c| pixel(y, x, c)))).collect()
    }

    #[test]
    fn resize_and_crop_equal_torchvision() {
        // torchvision 0.29, Pillow 13: Compose([Resize(shorter, interpolation), CenterCrop(size)]) of the image above.
        for (source, shorter, size, filter, expected) in CASES {
            let (resized, offset) = placement(source, size, Some(shorter));
            let mut out = vec![0; size.0 * size.1 * 3];
            resize(&image(source.0, source.1), source, resized, offset, size, filter, &mut out);
            assert_eq!(hex(&Sha256::digest(&out))[..16], *expected, "{source:?} {shorter} {size:?} {filter:?}");
        }
    }

    #[test]
    fn without_resize_the_image_covers_the_target() {
        assert_eq!(placement((375, 500), (224, 224), None), ((224, 298), (0, 37)));
        assert_eq!(placement((500, 375), (224, 224), None), ((298, 224), (37, 0)));
        assert_eq!(placement((10, 10), (32, 64), None), ((64, 64), (16, 0)));
        assert_eq!(placement((10, 10), (64, 32), None), ((64, 64), (0, 16)));
        assert_eq!(placement((375, 500), (224, 224), Some(256)), ((256, 341), (16, 58)));
    }

    #[rustfmt::skip]
    const CASES: [(Extent, usize, Extent, Interpolation, &str); 11] = [
        ((375, 500), 256, (224, 224), Interpolation::Bilinear, "5797b16d4aa7562b"),
        ((500, 375), 256, (224, 224), Interpolation::Bilinear, "bb34c2e5774960af"),
        ((375, 500), 256, (224, 224), Interpolation::Bicubic, "7af03bc137ec7b96"),
        ((375, 500), 224, (224, 224), Interpolation::Bilinear, "5b18b9100c5aa30e"),
        ((333, 500), 256, (224, 224), Interpolation::Bicubic, "3b4196d1cd7a0969"),
        ((17, 24), 32, (32, 32), Interpolation::Bilinear, "98d37f6827aa546d"),
        ((17, 24), 32, (24, 32), Interpolation::Bicubic, "9db535b2c23f64a3"),
        ((64, 64), 64, (48, 60), Interpolation::Bilinear, "45b20dad1c652cc7"),
        ((20, 2000), 16, (16, 16), Interpolation::Bilinear, "734bc76fabdf4fbd"),
        ((40, 41), 41, (40, 41), Interpolation::Bilinear, "431a9bf8d5368bd4"),
        ((101, 64), 64, (64, 64), Interpolation::Bicubic, "7bf2dc8839102107"),
    ];
}
