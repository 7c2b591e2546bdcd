//! The substitutes' filters as pictures.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nettriage_records::record::{FilterImages, Filters};

use super::escape::text;
use super::pictures;
use crate::analysis::{Analysis, index::Kind};
use crate::data::RunData;
use crate::format::number;
use nettriage_records::plan::Role;

pub(crate) fn section(data: &RunData, analysis: &Analysis) -> String {
    let Some(headline) = &analysis.headline else { return String::new() };
    let mut cards = String::new();
    for (block, substitute) in &headline.substitutes {
        let kind = Kind {
            role: Role::Child,
            block: block.clone(),
            substitute: substitute.clone(),
            init: headline.init.clone(),
            scheme: headline.scheme.clone(),
        };
        let found = data
            .records
            .iter()
            .filter(|record| Kind::of(&record.spec) == kind)
            .find_map(|record| Some((record.spec.seed, record.readings.as_ref()?.filters.as_ref()?)));
        if let Some((seed, filters)) = found {
            cards += &card(data, block, seed, filters);
        }
    }
    if cards.is_empty() {
        return String::new();
    }
    format!(
        "<p>The first filters of every substitute before and after training, from one trial each. A filter on the picture itself is shown in its \
         colours; a deeper one by its strongest channels side by side, blue below zero, orange above.</p><div class=\"filters\">{cards}</div>"
    )
}

fn card(data: &RunData, block: &str, seed: u64, filters: &Filters) -> String {
    let [n, c, h, w] = filters.shape;
    let coloured = data.plan.data.shape[0] == 3 && c == 3;
    let picture = |bytes: &str, when: &str| {
        sheet(&filters.images, bytes, coloured).map_or(String::new(), |(png, width, height)| {
            let png = STANDARD.encode(png);
            // Whole screen pixels for each weight, and one size of sheet for all blocks.
            let scale = (330 / width.max(1)).clamp(2, 12);
            format!(
                "<div><small>{when}</small><img src=\"data:image/png;base64,{png}\" width=\"{}\" height=\"{}\" alt=\"Filters of {} {when} training\"></div>",
                scale * width,
                scale * height,
                text(block)
            )
        })
    };
    format!(
        "<article><h3>{}</h3><p><small>{n} filters of {c}×{h}×{w}, seed {seed}; {} dead; effective rank {} of {}</small></p>\
         <div class=\"pair\">{}{}</div>{}{}</article>",
        text(block),
        filters.dead,
        number(filters.effective_rank, 1),
        n.min(c.saturating_mul(h).saturating_mul(w)),
        picture(&filters.images.before, "before"),
        picture(&filters.images.after, "after"),
        norms(filters),
        data.pictures.as_ref().map_or(String::new(), |all| pictures::patches(all, &filters.patches, block)),
    )
}

/// Filters six abreast, channels of a filter side by side, as a PNG file with its size in pixels. `None` if the
/// record's numbers do not fit together.
pub(crate) fn sheet(pictures: &FilterImages, bytes: &str, coloured: bool) -> Option<(Vec<u8>, usize, usize)> {
    let [rows, columns] = pictures.kernel;
    let bytes = STANDARD.decode(bytes).ok()?;
    let channels = pictures.channels;
    // A deep filter by its four strongest channels, which come first: more would be too small to see.
    let planes = if coloured { 1 } else { channels.min(4) };
    let filters = pictures.filters.min(if planes == 1 { 18 } else { 12 });
    let expected = pictures.filters.checked_mul(channels)?.checked_mul(rows)?.checked_mul(columns)?;
    if filters == 0
        || channels == 0
        || bytes.len() != expected
        || (coloured && channels != 3)
        || rows.max(columns) > 64
        || channels > 1 << 16
    {
        return None;
    }
    let abreast = if planes == 1 { 6 } else { 3 };
    // One empty pixel between planes, two between filters.
    let (tile_w, tile_h) = (planes * (columns + 1) + 1, rows + 2);
    let (width, height) = (abreast.min(filters) * tile_w - 2, filters.div_ceil(abreast) * tile_h - 2);
    let mut image = vec![0_u8; width * height * 4];
    let at = |f: usize, k: usize, y: usize, x: usize| bytes[((f * channels + k) * rows + y) * columns + x];
    for f in 0..filters {
        for plane in 0..planes {
            for y in 0..rows {
                for x in 0..columns {
                    let [r, g, b] =
                        if coloured { [0, 1, 2].map(|k| at(f, k, y, x)) } else { diverging(at(f, plane, y, x)) };
                    let (px, py) = (f % abreast * tile_w + plane * (columns + 1) + x, f / abreast * tile_h + y);
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

/// Sorted norms before and after as two lines.
fn norms(filters: &Filters) -> String {
    let most = filters.norms.iter().chain(&filters.norms_before).copied().fold(0.0_f32, f32::max);
    if !(most > 0.0 && most.is_finite()) || filters.norms.len() < 2 {
        return String::new();
    }
    let line = |norms: &[f32], class: &str| {
        let mut sorted = norms.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let last = (sorted.len() - 1).max(1) as f32;
        let points: Vec<String> = sorted
            .iter()
            .enumerate()
            .map(|(i, norm)| format!("{:.1},{:.1}", 200.0 * i as f32 / last, 38.0 - 36.0 * norm / most))
            .collect();
        format!("<polyline class=\"{class}\" points=\"{}\"/>", points.join(" "))
    };
    format!(
        "<svg class=\"norms\" viewBox=\"0 0 200 40\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"Norms of the filters, sorted\">{}{}</svg>\
         <small>norms, sorted: <span class=\"key before\">before</span> <span class=\"key after\">after</span></small>",
        line(&filters.norms_before, "before"),
        line(&filters.norms, "after")
    )
}
