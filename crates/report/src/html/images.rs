//! Images of the data set in the page: patches that activate filters, and test images whose prediction changes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{Markup, html};
use nettriage_records::SampleImages;
use nettriage_records::record::Patch;

use crate::analysis::Flips;
use crate::data::RunData;

/// Filters whose patches are shown.
const FILTERS: usize = 8;
/// Rows or columns of an image in the page at most; larger images are subsampled.
const LARGEST: usize = 64;
/// Images shown of those lost, and of those gained.
const FLIPPED: usize = 12;

/// The patches that activate the first filters most, a row per filter, as one image. `None` if the record's numbers are
/// inconsistent.
pub(super) fn patches(samples: &SampleImages, patches: &[Vec<Patch>], block: &str) -> Option<Markup> {
    let [rows, columns, channels] = samples.shape;
    let (images, size) = (samples.validation(), samples.size());
    let shown: Vec<&Vec<Patch>> = patches.iter().filter(|list| !list.is_empty()).take(FILTERS).collect();
    let per_row = shown.iter().map(|list| list.len()).max().unwrap_or(0);
    let fits = |patch: &Patch| {
        let ends = (patch.top.checked_add(patch.height), patch.left.checked_add(patch.width));
        matches!(ends, (Some(bottom), Some(right)) if bottom <= rows && right <= columns)
            && patch.image.checked_add(1).and_then(|end| end.checked_mul(size)).is_some_and(|end| end <= images.len())
    };
    if per_row == 0 || size == 0 || !shown.iter().all(|list| list.iter().all(fits)) {
        return None;
    }
    let largest = |read: fn(&Patch) -> usize| shown.iter().flat_map(|list| list.iter()).map(read).max().unwrap_or(1);
    let tile = largest(|patch| patch.height).max(largest(|patch| patch.width)).clamp(1, LARGEST);
    let (width, height) = (per_row * (tile + 1) - 1, shown.len() * (tile + 1) - 1);
    let mut rgba = vec![0; width * height * 4];
    for (row, list) in shown.iter().enumerate() {
        for (column, patch) in list.iter().enumerate() {
            // A patch at the image's border is smaller and keeps its scale. A large one is subsampled.
            let stride = patch.height.max(patch.width).div_ceil(tile).max(1);
            for y in 0..patch.height / stride {
                for x in 0..patch.width / stride {
                    let from = &images[patch.image * size..];
                    let at = ((patch.top + y * stride) * columns + patch.left + x * stride) * channels;
                    let to = ((row * (tile + 1) + y) * width + column * (tile + 1) + x) * 4;
                    rgba[to..to + 4].copy_from_slice(&pixel(&from[at..at + channels]));
                }
            }
        }
    }
    let png = png(&rgba, width, height)?;
    let scale = (300 / width).clamp(1, 10);
    Some(html! {
        div.patches {
            small { "validation patches that activate its first " (shown.len()) " live filters most, a row per filter" }
            img src={ "data:image/png;base64," (png) } width=(scale * width) height=(scale * height)
                alt={ "Patches that activate the filters of " (block) " most" };
        }
    })
}

/// The images whose prediction a block's replacement changes in every trial.
pub(super) fn flipped(data: &RunData, flips: &Flips) -> Option<Markup> {
    let samples = data.sample_images.as_ref()?;
    let bytes = samples.test();
    let strip = |images: &[usize]| -> Vec<Markup> {
        let known = images.iter().filter_map(|&image| {
            let class = samples.labels.get(image).and_then(|&label| data.plan.data.classes.get(usize::from(label)));
            thumbnail(samples, &bytes, image, class.map_or("", String::as_str))
        });
        known.take(FLIPPED).collect()
    };
    let strips = [("lost in every trial", &flips.lost_images), ("gained in every trial", &flips.gained_images)];
    let strips: Vec<_> = strips.map(|(what, images)| (what, strip(images))).into();
    if strips.iter().all(|(_, shown)| shown.is_empty()) {
        return None;
    }
    Some(html! {
        article.flips {
            h4 { (flips.block) }
            @for (what, shown) in strips {
                @if !shown.is_empty() { p { small { (what) } } div { @for thumbnail in shown { (thumbnail) } } }
            }
        }
    })
}

/// A test image with its class; `None` where the run's folder does not hold it.
fn thumbnail(samples: &SampleImages, bytes: &[u8], image: usize, class: &str) -> Option<Markup> {
    let [rows, columns, channels] = samples.shape;
    let size = samples.size();
    let own =
        bytes.get(image.checked_mul(size)?..image.checked_add(1)?.checked_mul(size)?).filter(|b| !b.is_empty())?;
    let stride = rows.max(columns).div_ceil(LARGEST).max(1);
    let (height, width) = (rows / stride, columns / stride);
    let offset = |at: usize| (at / width * stride * columns + at % width * stride) * channels;
    let rgba: Vec<u8> = (0..width * height).flat_map(|at| pixel(&own[offset(at)..offset(at) + channels])).collect();
    let png = png(&rgba, width, height)?;
    let scale = (56 / width).max(1);
    Some(html! {
        span.thumb title={ "test image " (image) } {
            img src={ "data:image/png;base64," (png) } width=(scale * width) height=(scale * height) alt=(class);
            small { (class) }
        }
    })
}

/// RGBA of a grey or coloured pixel.
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
