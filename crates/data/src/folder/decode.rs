//! Decoding of one image to RGB bytes of a given size.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::FolderOptions;
use super::resample::{placement, resize};
use crate::error::one_line;

/// The most memory that one decoded image may take, in bytes.
pub(crate) const MAX_DECODED_BYTES: u64 = 256 << 20;

/// The most memory that an image of `encoded` bytes may take. An image of one colour compresses a thousandfold; a file that
/// claims more would occupy the decoder for seconds with a few bytes.
fn most(encoded: usize) -> u64 {
    MAX_DECODED_BYTES.min((16 << 20) + 2000 * encoded as u64)
}

/// What is known of a decoded image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decoded {
    /// Whether the file is grey.
    pub grey: bool,
    /// Whether it has an EXIF orientation that requires a rotation or a reflection.
    pub oriented: bool,
}

/// Decodes an image, resizes it and crops its centre; `out` is H x W x 3.
pub(crate) fn decode(encoded: &[u8], options: &FolderOptions, out: &mut [u8]) -> Result<Decoded, String> {
    let failed = |error: image::ImageError| one_line(&error.to_string());
    let mut reader =
        ImageReader::new(Cursor::new(encoded)).with_guessed_format().map_err(|error| one_line(&error.to_string()))?;
    match reader.format() {
        None => return Err(format!("{} bytes that are not a JPEG, PNG, BMP, WebP or PNM image", encoded.len())),
        // The decoder fills up what is missing with grey.
        Some(ImageFormat::Jpeg) if !jpeg_has_end(encoded) => {
            return Err(format!("truncated: no end mark in its {} bytes", encoded.len()));
        }
        _ => {}
    }
    let mut limits = Limits::default();
    let most = most(encoded.len());
    limits.max_alloc = Some(most);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(failed)?;
    let (width, height) = decoder.dimensions();
    if decoder.total_bytes() > most {
        return Err(format!(
            "{width}x{height} pixels in {} bytes take more than the {} MiB that such a file may",
            encoded.len(),
            most >> 20
        ));
    }
    if width == 0 || height == 0 {
        return Err("it has no pixels".into());
    }
    let kind = decoder.color_type();
    let grey = matches!(kind, ColorType::L8 | ColorType::L16 | ColorType::La8 | ColorType::La16);
    // Damaged metadata does no harm to the pixels.
    let oriented = decoder.orientation().is_ok_and(|orientation| orientation != Orientation::NoTransforms);
    let pixels = DynamicImage::from_decoder(decoder).map_err(failed)?.into_rgb8();
    let (source, target) = ((height as usize, width as usize), (options.size.height, options.size.width));
    let (resized, offset) = placement(source, target, options.resize);
    resize(pixels.as_raw(), source, resized, offset, target, options.interpolation, out);
    Ok(Decoded { grey, oriented })
}

/// Whether a JPEG file has the mark at its end (EOI), after at least one scan. Markers within segments, such as those of a thumbnail,
/// do not count.
fn jpeg_has_end(bytes: &[u8]) -> bool {
    const SOS: u8 = 0xda;
    const EOI: u8 = 0xd9;
    let mut at = 2;
    let mut scanned = false;
    // Outside the segments and within the entropy-coded data, a marker is 0xff and a byte other than 0 and 0xff.
    while let Some(found) = bytes.get(at..).and_then(|rest| rest.iter().position(|&byte| byte == 0xff)) {
        at += found + 1;
        match bytes.get(at) {
            Some(&EOI) => return scanned,
            // Stuffed zeros, fill bytes, restarts, and other markers without a segment.
            Some(0x00 | 0x01 | 0xd0..=0xd8) => at += 1,
            Some(0xff) => {}
            Some(&marker) => {
                scanned |= marker == SOS;
                let Some(&[high, low]) = bytes.get(at + 1..at + 3) else { return false };
                at += 1 + usize::from(u16::from_be_bytes([high, low]));
            }
            None => return false,
        }
    }
    false
}
