//! Decoding of one image to a square of RGB bytes.

use std::io::Cursor;

use image::imageops::{self, FilterType};
use image::{ColorType, DynamicImage, ImageDecoder, ImageReader, Limits};

use crate::error::one_line;

/// The most memory that one decoded image may take, in bytes.
pub(crate) const MAX_DECODED_BYTES: u64 = 256 << 20;

/// The most memory that an image of `encoded` bytes may take. An image of one colour compresses a thousandfold; a file that
/// claims more would occupy the decoder for seconds with a few bytes.
fn most(encoded: usize) -> u64 {
    MAX_DECODED_BYTES.min((16 << 20) + 2000 * encoded as u64)
}

/// Decodes an image and resizes its centre square to `size` x `size`; `out` is size x size x 3. Returns whether the file is grey.
///
/// The square is cropped before it is resized, so that extreme aspect ratios stay cheap.
pub(crate) fn decode(encoded: &[u8], size: usize, out: &mut [u8]) -> Result<bool, String> {
    let mut reader =
        ImageReader::new(Cursor::new(encoded)).with_guessed_format().map_err(|error| one_line(&error.to_string()))?;
    if reader.format().is_none() {
        return Err(format!("{} bytes that are not a JPEG, PNG, BMP or WebP image", encoded.len()));
    }
    let mut limits = Limits::default();
    let most = most(encoded.len());
    limits.max_alloc = Some(most);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(|error| one_line(&error.to_string()))?;
    let (width, height) = decoder.dimensions();
    if decoder.total_bytes() > most {
        return Err(format!(
            "{width}x{height} pixels in {} bytes take more than the {} MiB that such a file may",
            encoded.len(),
            most >> 20
        ));
    }
    let kind = decoder.color_type();
    let grey = matches!(kind, ColorType::L8 | ColorType::L16 | ColorType::La8 | ColorType::La16);
    let whole = DynamicImage::from_decoder(decoder).map_err(|error| one_line(&error.to_string()))?;
    if width == 0 || height == 0 {
        return Err("it has no pixels".into());
    }

    let side = width.min(height);
    let square = if width == height {
        whole.into_rgb8()
    } else {
        whole.crop_imm((width - side) / 2, (height - side) / 2, side, side).into_rgb8()
    };
    let scaled = if side as usize == size {
        square
    } else {
        imageops::resize(&square, size as u32, size as u32, FilterType::Triangle)
    };
    out.copy_from_slice(scaled.as_raw());
    Ok(grey)
}
