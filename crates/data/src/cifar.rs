//! The binary batches of CIFAR-10 and CIFAR-100 (A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009).
//!
//! A file is a sequence of records: the label (CIFAR-100: the coarse label, one of 20, then the fine label, one of 100), then
//! 3 x 32 x 32 bytes, planar: all red, then all green, then all blue values.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::{Error, Images, Shape};

/// The shape of every image.
pub(crate) const SHAPE: Shape = Shape { channels: 3, height: 32, width: 32 };

const PLANE: usize = 32 * 32;
const REMEDY: &str = "the file is damaged or is not a CIFAR batch: delete it and fetch the set again";

/// How a set is divided into files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Files of training images.
    pub train: &'static [&'static str],
    /// The file of test images.
    pub test: &'static str,
    /// Records per training file.
    pub train_records: usize,
    /// Records in the test file.
    pub test_records: usize,
    /// Label bytes before the pixels; the last one is used.
    pub label_bytes: usize,
    /// The file of class names, one per line.
    pub names: &'static str,
    /// Number of classes.
    pub classes: usize,
}

pub(crate) const CIFAR10: Layout = Layout {
    train: &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"],
    test: "test_batch.bin",
    train_records: 10_000,
    test_records: 10_000,
    label_bytes: 1,
    names: "batches.meta.txt",
    classes: 10,
};

pub(crate) const CIFAR100: Layout = Layout {
    train: &["train.bin"],
    test: "test.bin",
    train_records: 50_000,
    test_records: 10_000,
    label_bytes: 2,
    names: "fine_label_names.txt",
    classes: 100,
};

impl Layout {
    /// All required files with their lengths in bytes.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let record = self.label_bytes + SHAPE.elements();
        let train = self.train.iter().map(move |&file| (file, (self.train_records * record) as u64));
        train.chain([(self.test, (self.test_records * record) as u64)])
    }
}

/// Reads training and test images from `folder`.
pub(crate) fn read(folder: &Path, layout: &Layout) -> Result<(Images, Images), Error> {
    let mut train = Records::default();
    for name in layout.train {
        read_file(&folder.join(name), layout, layout.train_records, &mut train)?;
    }
    let mut test = Records::default();
    read_file(&folder.join(layout.test), layout, layout.test_records, &mut test)?;
    Ok((train.into(), test.into()))
}

/// Images read so far.
#[derive(Default)]
pub(crate) struct Records {
    pixels: Vec<u8>,
    labels: Vec<u16>,
}

impl From<Records> for Images {
    fn from(records: Records) -> Images {
        Images { pixels: records.pixels.into(), labels: records.labels }
    }
}

fn read_file(path: &Path, layout: &Layout, records: usize, images: &mut Records) -> Result<(), Error> {
    let mut file = File::open(path).map_err(|cause| match cause.kind() {
        std::io::ErrorKind::NotFound => Error::Missing {
            what: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            places: path.parent().unwrap_or(Path::new(".")).display().to_string(),
            remedy: "add the missing file, or fetch the set again".into(),
        },
        _ => Error::Io { action: "open", path: path.to_path_buf(), cause },
    })?;
    let expected = records * (layout.label_bytes + SHAPE.elements());
    let length = file.metadata().map_err(Error::io("read", path))?.len();
    check_length(path, expected, length)?;
    let mut bytes = Vec::with_capacity(expected);
    file.by_ref().take(expected as u64).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    decode(path, &bytes, layout, records, images)
}

fn check_length(path: &Path, expected: usize, found: u64) -> Result<(), Error> {
    if found == expected as u64 {
        return Ok(());
    }
    let (file, found) = (path.to_path_buf(), found.to_string());
    Err(Error::Length { file, expected: expected as u64, found, remedy: REMEDY })
}

/// Appends the `records` records in `bytes` to `images`, converting planar pixels to H x W x C.
pub(crate) fn decode(
    path: &Path,
    bytes: &[u8],
    layout: &Layout,
    records: usize,
    images: &mut Records,
) -> Result<(), Error> {
    let record = layout.label_bytes + SHAPE.elements();
    check_length(path, records * record, bytes.len() as u64)?;
    images.labels.reserve(records);
    images.pixels.reserve(records * SHAPE.elements());
    for (index, record) in bytes.chunks_exact(record).enumerate() {
        let (labels, planes) = record.split_at(layout.label_bytes);
        let label = u16::from(labels[layout.label_bytes - 1]);
        if usize::from(label) >= layout.classes {
            let problem = format!("record {index} has label {label}, but the set has {} classes", layout.classes);
            return Err(Error::content(path, problem, REMEDY));
        }
        images.labels.push(label);
        let (red, rest) = planes.split_at(PLANE);
        let (green, blue) = rest.split_at(PLANE);
        let pixels = red.iter().zip(green).zip(blue);
        images.pixels.extend(pixels.flat_map(|((&red, &green), &blue)| [red, green, blue]));
    }
    Ok(())
}

/// The class names from their file; `None` if there is no such file.
pub(crate) fn names(folder: &Path, layout: &Layout) -> Result<Option<Vec<String>>, Error> {
    let path = folder.join(layout.names);
    let mut text = String::new();
    match File::open(&path) {
        Ok(file) => {
            // A hundred names take about 900 bytes; a much longer file is not a list of class names.
            if let Err(cause) = file.take(1 << 16).read_to_string(&mut text) {
                return match cause.kind() {
                    std::io::ErrorKind::InvalidData => {
                        Err(Error::content(&path, "is not text", "delete it or fetch it again"))
                    }
                    _ => Err(Error::Io { action: "read", path, cause }),
                };
            }
        }
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => {
            return Err(Error::Io { action: "open", path, cause });
        }
    }
    let names: Vec<String> = text.lines().map(str::trim).filter(|name| !name.is_empty()).map(str::to_string).collect();
    if names.len() != layout.classes {
        let problem = format!("names {} classes, expected {}", names.len(), layout.classes);
        return Err(Error::content(&path, problem, "delete it or fetch it again"));
    }
    Ok(Some(names))
}
