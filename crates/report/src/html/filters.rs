//! The substitutes' filters as images.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{Markup, html};
use nettriage_records::plan::Role;
use nettriage_records::record::{FilterImages, Filters};

use super::images;
use crate::analysis::{Analysis, index::Kind};
use crate::data::RunData;
use crate::format::number;

pub(super) fn section(data: &RunData, analysis: &Analysis) -> Option<Markup> {
    let headline = analysis.headline.as_ref()?;
    let found = headline.substitutes.iter().filter_map(|(block, substitute)| {
        let kind = Kind {
            role: Role::Child,
            block: block.clone(),
            substitute: substitute.clone(),
            init: headline.init.clone(),
            scheme: headline.scheme.clone(),
        };
        let mut own = data.records.iter().filter(|record| Kind::of(&record.spec) == kind);
        own.find_map(|record| Some((block, record.spec.seed, record.readings.as_ref()?.filters.as_ref()?)))
    });
    let cards: Vec<Markup> = found.map(|(block, seed, filters)| card(data, block, seed, filters)).collect();
    (!cards.is_empty()).then(|| {
        html! {
            p {
                "The first filters of every substitute before and after training, from one trial each. Filters on the input image are \
                 shown in its colours. Deeper filters are shown by their strongest channels side by side: blue is negative, orange is \
                 positive."
            }
            div.filters { @for card in cards { (card) } }
        }
    })
}

fn card(data: &RunData, block: &str, seed: u64, filters: &Filters) -> Markup {
    let [n, c, h, w] = filters.shape;
    let coloured = data.plan.data.shape[0] == 3 && c == 3;
    let largest_rank = n.min(c.saturating_mul(h).saturating_mul(w));
    html! {
        article {
            h3 { (block) }
            p {
                small {
                    (n) " filters of " (c) "×" (h) "×" (w) ", seed " (seed) "; " (filters.dead) " dead; effective rank "
                    (number(filters.effective_rank, 1)) " of " (largest_rank)
                }
            }
            div.pair {
                @for (bytes, when) in [(&filters.images.before, "before"), (&filters.images.after, "after")] {
                    @if let Some((png, width, height)) = contact_sheet(&filters.images, bytes, coloured) {
                        // Whole screen pixels per weight, and about the same size for all blocks.
                        @let scale = (330 / width.max(1)).clamp(2, 12);
                        div {
                            small { (when) }
                            img src={ "data:image/png;base64," (STANDARD.encode(png)) } width=(scale * width) height=(scale * height)
                                alt={ "Filters of " (block) " " (when) " training" };
                        }
                    }
                }
            }
            @if let Some(norms) = norms(filters) { (norms) }
            @if let Some(patches) = data.sample_images.as_ref().and_then(|all| images::patches(all, &filters.patches, block)) {
                (patches)
            }
        }
    }
}

/// Filters side by side, channels of a filter next to each other, as a PNG file with its size in pixels. `None` if the
/// record's numbers are inconsistent.
pub(crate) fn contact_sheet(images: &FilterImages, bytes: &str, coloured: bool) -> Option<(Vec<u8>, usize, usize)> {
    let [rows, columns] = images.kernel;
    let bytes = STANDARD.decode(bytes).ok()?;
    let channels = images.channels;
    // Of a deep filter the four strongest channels, which come first; more would be too small to see.
    let planes = if coloured { 1 } else { channels.min(4) };
    let filters = images.filters.min(if planes == 1 { 18 } else { 12 });
    let expected = images.filters.checked_mul(channels)?.checked_mul(rows)?.checked_mul(columns)?;
    if filters == 0
        || channels == 0
        || bytes.len() != expected
        || (coloured && channels != 3)
        || rows.max(columns) > 64
        || channels > 1 << 16
    {
        return None;
    }
    let filters_per_row = if planes == 1 { 6 } else { 3 };
    // One empty pixel between planes, two between filters.
    let (tile_w, tile_h) = (planes * (columns + 1) + 1, rows + 2);
    let (width, height) = (filters_per_row.min(filters) * tile_w - 2, filters.div_ceil(filters_per_row) * tile_h - 2);
    let mut image = vec![0_u8; width * height * 4];
    let at = |f: usize, k: usize, y: usize, x: usize| bytes[((f * channels + k) * rows + y) * columns + x];
    for f in 0..filters {
        for plane in 0..planes {
            for y in 0..rows {
                for x in 0..columns {
                    let [r, g, b] =
                        if coloured { [0, 1, 2].map(|k| at(f, k, y, x)) } else { diverging(at(f, plane, y, x)) };
                    let (px, py) =
                        (f % filters_per_row * tile_w + plane * (columns + 1) + x, f / filters_per_row * tile_h + y);
                    image[(py * width + px) * 4..][..4].copy_from_slice(&[r, g, b, 255]);
                }
            }
        }
    }
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, u32::try_from(width).ok()?, u32::try_from(height).ok()?);
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().ok()?;
    writer.write_image_data(&image).ok()?;
    writer.finish().ok()?;
    Some((out, width, height))
}

/// 1 blue, 128 near white, 255 orange.
fn diverging(byte: u8) -> [u8; 3] {
    let x = (f32::from(byte) - 128.0) / 127.0;
    let (end, share) = if x < 0.0 { ([33.0, 90.0, 160.0], -x) } else { ([191.0, 92.0, 12.0], x) };
    end.map(|end: f32| (244.0 + (end - 244.0) * share.min(1.0)).round() as u8)
}

/// Sorted norms before and after training as two lines.
fn norms(filters: &Filters) -> Option<Markup> {
    let largest = filters.norms.iter().chain(&filters.norms_before).copied().fold(0.0_f32, f32::max);
    if !(largest > 0.0 && largest.is_finite()) || filters.norms.len() < 2 {
        return None;
    }
    let points = |norms: &[f32]| {
        let mut sorted = norms.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let last = (sorted.len() - 1).max(1) as f32;
        let points = sorted.iter().enumerate();
        let points =
            points.map(|(i, norm)| format!("{:.1},{:.1}", 200.0 * i as f32 / last, 38.0 - 36.0 * norm / largest));
        points.collect::<Vec<_>>().join(" ")
    };
    Some(html! {
        svg.norms viewBox="0 0 200 40" preserveAspectRatio="none" role="img" aria-label="Norms of the filters, sorted" {
            polyline.before points=(points(&filters.norms_before)) {}
            polyline.after points=(points(&filters.norms)) {}
        }
        small { "sorted norms: " span.key.before { "before" } " " span.key.after { "after" } }
    })
}
