//! Images of the data set in the page: patches that excite filters, and test images whose answer changes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nettriage_records::SampleImages;
use nettriage_records::record::Patch;

use super::escape::text;
use crate::analysis::Flips;
use crate::data::RunData;

/// Filters whose patches are shown.
const FILTERS: usize = 8;
/// The most rows or columns of a picture in the page; larger ones are thinned out.
const LARGEST: usize = 64;
/// Images shown of those lost, and of those gained.
const FLIPPED: usize = 12;

/// Rows of patches, one a filter, as one picture.
pub(crate) fn patches(pictures: &SampleImages, patches: &[Vec<Patch>], block: &str) -> String {
    let [rows, columns, channels] = pictures.shape;
    let (images, size) = (pictures.validation(), pictures.size());
    let shown: Vec<&Vec<Patch>> = patches.iter().filter(|list| !list.is_empty()).take(FILTERS).collect();
    let abreast = shown.iter().map(|list| list.len()).max().unwrap_or(0);
    let fits = |patch: &Patch| {
        let ends = (patch.top.checked_add(patch.height), patch.left.checked_add(patch.width));
        matches!(ends, (Some(bottom), Some(right)) if bottom <= rows && right <= columns)
            && patch.image.checked_add(1).and_then(|end| end.checked_mul(size)).is_some_and(|end| end <= images.len())
    };
    if abreast == 0 || size == 0 || !shown.iter().all(|list| list.iter().all(fits)) {
        return String::new();
    }
    let largest = |read: fn(&Patch) -> usize| shown.iter().flat_map(|list| list.iter()).map(read).max().unwrap_or(1);
    let tile = largest(|patch| patch.height).max(largest(|patch| patch.width)).clamp(1, LARGEST);
    let (width, height) = (abreast * (tile + 1) - 1, shown.len() * (tile + 1) - 1);
    let mut rgba = vec![0; width * height * 4];
    for (row, list) in shown.iter().enumerate() {
        for (column, patch) in list.iter().enumerate() {
            // A patch at the picture's edge is smaller: it keeps its scale. A large one is thinned out.
            let thin = patch.height.max(patch.width).div_ceil(tile).max(1);
            for y in 0..patch.height / thin {
                for x in 0..patch.width / thin {
                    let from = &images[patch.image * size..];
                    let at = ((patch.top + y * thin) * columns + patch.left + x * thin) * channels;
                    let to = ((row * (tile + 1) + y) * width + column * (tile + 1) + x) * 4;
                    rgba[to..to + 4].copy_from_slice(&pixel(&from[at..at + channels]));
                }
            }
        }
    }
    let Some(png) = png(&rgba, width, height) else { return String::new() };
    let scale = (300 / width).clamp(1, 10);
    format!(
        "<div class=\"patches\"><small>what excites its first {} live filters most, a row each, in validation images</small>\
         <img src=\"data:image/png;base64,{png}\" width=\"{}\" height=\"{}\" alt=\"Patches that excite the filters of {} most\"></div>",
        shown.len(),
        scale * width,
        scale * height,
        text(block)
    )
}

/// The images that a block's replacement loses and gains every time.
pub(crate) fn flipped(data: &RunData, flips: &Flips) -> String {
    let Some(pictures) = &data.pictures else { return String::new() };
    let bytes = pictures.test();
    let strip = |what: &str, images: &[usize]| {
        let known = images.iter().filter_map(|&image| Some((image, thumbnail(pictures, &bytes, image)?)));
        let shown: Vec<String> = known
            .take(FLIPPED)
            .map(|(image, picture)| {
                let class =
                    pictures.labels.get(image).and_then(|&label| data.plan.data.classes.get(usize::from(label)));
                let class = class.map_or(String::new(), |class| text(class));
                format!(
                    "<span class=\"thumb\" title=\"test image {image}\">{}<small>{class}</small></span>",
                    picture(&class)
                )
            })
            .collect();
        if shown.is_empty() {
            String::new()
        } else {
            format!("<p><small>{what}</small></p><div>{}</div>", shown.concat())
        }
    };
    let strips = strip("lost every time", &flips.images) + &strip("gained every time", &flips.gained_images);
    if strips.is_empty() {
        return String::new();
    }
    format!("<article class=\"flips\"><h4>{}</h4>{strips}</article>", text(&flips.block))
}

/// A test image as an `img`, given what it shows; `None` where the run does not hold it.
fn thumbnail(pictures: &SampleImages, bytes: &[u8], image: usize) -> Option<impl Fn(&str) -> String + use<>> {
    let [rows, columns, channels] = pictures.shape;
    let size = pictures.size();
    let own =
        bytes.get(image.checked_mul(size)?..image.checked_add(1)?.checked_mul(size)?).filter(|b| !b.is_empty())?;
    let thin = rows.max(columns).div_ceil(LARGEST).max(1);
    let (height, width) = (rows / thin, columns / thin);
    let place = |at: usize| (at / width * thin * columns + at % width * thin) * channels;
    let rgba: Vec<u8> = (0..width * height).flat_map(|at| pixel(&own[place(at)..place(at) + channels])).collect();
    let png = png(&rgba, width, height)?;
    let scale = (56 / width).max(1);
    let (width, height) = (scale * width, scale * height);
    Some(move |class: &str| {
        format!("<img src=\"data:image/png;base64,{png}\" width=\"{width}\" height=\"{height}\" alt=\"{class}\">")
    })
}

/// Grey or coloured, opaque.
fn pixel(channels: &[u8]) -> [u8; 4] {
    match *channels {
        [r, g, b, ..] => [r, g, b, 255],
        [grey, ..] => [grey, grey, grey, 255],
        [] => [0, 0, 0, 255],
    }
}

fn png(rgba: &[u8], width: usize, height: usize) -> Option<String> {
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, u32::try_from(width).ok()?, u32::try_from(height).ok()?);
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().ok()?;
    writer.write_image_data(rgba).ok()?;
    writer.finish().ok()?;
    Some(STANDARD.encode(out))
}
