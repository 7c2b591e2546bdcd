//! Summaries of a data set: image counts by class, and a contact sheet.

use std::path::Path;

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};

use crate::{Dataset, Error};

/// The number of images of a class.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ClassCount {
    /// Name of the class.
    pub name: String,
    /// Training images.
    pub train: usize,
    /// Test images.
    pub test: usize,
}

/// The number of images of every class, in order of the labels.
pub fn class_counts(dataset: &Dataset) -> Vec<ClassCount> {
    let classes = dataset.classes.len();
    let counts = dataset.train.counts(classes).into_iter().zip(dataset.test.counts(classes));
    let named = dataset.classes.iter().zip(counts);
    named.map(|(name, (train, test))| ClassCount { name: name.clone(), train, test }).collect()
}

/// Images per row.
const COLUMNS: usize = 16;
/// Pixels between images.
const SPACING: usize = 2;
/// Small images are enlarged by an integer factor to at least this size in pixels; images above four times this size are
/// shrunk to that.
const CELL: usize = 32;
/// The most rows; with more classes only the first are shown.
const ROWS: usize = 200;

/// Writes a contact sheet as PNG: a row for each class, in order of the labels, with its first 16 training images.
///
/// # Errors
/// If the file cannot be written.
pub fn contact_sheet(dataset: &Dataset, path: &Path) -> Result<(), Error> {
    let shape = dataset.shape();
    let longest = shape.height.max(shape.width);
    let (mut height, mut width) = (shape.height, shape.width);
    if longest < CELL {
        let factor = CELL.div_ceil(longest);
        (height, width) = (height * factor, width * factor);
    } else if longest > 4 * CELL {
        let scaled = |side: usize| (side * 4 * CELL).div_ceil(longest);
        (height, width) = (scaled(height), scaled(width));
    }

    let mut rows: Vec<Vec<usize>> = vec![Vec::new(); dataset.classes.len().min(ROWS)];
    for (index, &label) in dataset.train.labels.iter().enumerate() {
        if let Some(row) = rows.get_mut(usize::from(label)).filter(|row| row.len() < COLUMNS) {
            row.push(index);
        }
    }

    let extent = |cells: usize, side: usize| (SPACING + cells * (side + SPACING)) as u32;
    let background = Rgb([255, 255, 255]);
    let mut sheet = RgbImage::from_pixel(extent(COLUMNS, width), extent(rows.len(), height), background);
    for (y, row) in rows.iter().enumerate() {
        for (x, &index) in row.iter().enumerate() {
            let image = rgb(dataset, index);
            let filter = if longest < CELL { FilterType::Nearest } else { FilterType::Triangle };
            let image = imageops::resize(&image, width as u32, height as u32, filter);
            let (left, top) = (extent(x, width), extent(y, height));
            imageops::replace(&mut sheet, &image, i64::from(left), i64::from(top));
        }
    }
    let mut png = std::io::Cursor::new(Vec::new());
    let encoded = sheet.write_to(&mut png, image::ImageFormat::Png);
    encoded
        .map_err(|error| Error::content(path, error.to_string(), "choose a data set with fewer or smaller images"))?;
    nettriage_files::write_output(path, png.get_ref()).map_err(Error::io("write", path))
}

/// A training image as RGB; unless there are three channels, the first is shown as grey.
fn rgb(dataset: &Dataset, index: usize) -> RgbImage {
    let channels = dataset.channels;
    let pixels = dataset.train.image(index);
    RgbImage::from_fn(dataset.width as u32, dataset.height as u32, |x, y| {
        let pixel = &pixels[(y as usize * dataset.width + x as usize) * channels..][..channels];
        if channels == 3 { Rgb([pixel[0], pixel[1], pixel[2]]) } else { Rgb([pixel[0]; 3]) }
    })
}
