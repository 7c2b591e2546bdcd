//! Data sets that are folders, or archives, of images in class folders.

mod archive;
mod decode;
mod layout;
mod resample;

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::error::one_line;
use crate::{Dataset, Error, Images, MemoryBudget, Pixels, Shape};
use layout::Item;

pub(crate) use archive::Archive;
pub(crate) use decode::{Decoded, MAX_DECODED_BYTES, decode as decode_image};
pub(crate) use layout::Layout;
pub use resample::Interpolation;

/// The largest image file that is read, in bytes.
const LARGEST_FILE: u64 = 64 << 20;
/// The most bytes that the decoded images of a set may take, in memory or on the disk.
const LARGEST_SET: u64 = 4 << 40;
/// The largest size of decoded images.
const LARGEST_SIZE: usize = 1024;
/// Encoded bytes, and images, that are read before they are decoded in parallel.
const BATCH: (usize, usize) = (32 << 20, 1024);
/// The largest shorter side before a crop.
const LARGEST_RESIZE: usize = 4096;
/// The deepest nesting of folders.
const DEPTH: usize = 8;

/// Rows and columns of the images that a network takes.
///
/// As text it is `HxW`, such as `224x192`, or one number for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ImageSize {
    /// Rows, H.
    pub height: usize,
    /// Columns, W.
    pub width: usize,
}

impl ImageSize {
    /// `side` rows and columns.
    pub fn square(side: usize) -> ImageSize {
        ImageSize { height: side, width: side }
    }
}

impl std::str::FromStr for ImageSize {
    type Err = String;

    fn from_str(text: &str) -> Result<ImageSize, String> {
        let (height, width) = text.split_once('x').unwrap_or((text, text));
        let side = |text: &str| text.parse().ok().filter(|side| (1..=LARGEST_SIZE).contains(side));
        match (side(height), side(width)) {
            (Some(height), Some(width)) => Ok(ImageSize { height, width }),
            _ => {
                Err(format!("{text}: give rows and columns, such as 224x192, or one number; 1 to {LARGEST_SIZE} each"))
            }
        }
    }
}

impl std::fmt::Display for ImageSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.height, self.width)
    }
}

impl serde::Serialize for ImageSize {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for ImageSize {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<ImageSize, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Text {
            Side(u64),
            Pair(String),
        }
        let text = match Text::deserialize(deserializer)? {
            Text::Side(side) => side.to_string(),
            Text::Pair(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// How a folder of images is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderOptions {
    /// The size of the images after resizing and cropping.
    pub size: ImageSize,
    /// Length of the shorter side before the centre of `size` is cropped, such as 256 for 224; without it, the smallest that
    /// covers `size`.
    pub resize: Option<usize>,
    /// The filter of the resize.
    pub interpolation: Interpolation,
    /// Whether images that cannot be decoded are skipped and counted in [`Dataset::notes`]; otherwise they are an error.
    pub skip_bad: bool,
    /// Memory for the decoded images.
    pub budget: MemoryBudget,
}

impl FolderOptions {
    /// Images of `size`: the shorter side is resized to it, and the centre cropped.
    pub fn new(size: ImageSize) -> FolderOptions {
        FolderOptions {
            size,
            resize: None,
            interpolation: Interpolation::default(),
            skip_bad: false,
            budget: MemoryBudget::default(),
        }
    }

    fn check(&self) -> Result<(), Error> {
        let ImageSize { height, width } = self.size;
        if ![height, width].iter().all(|side| (1..=LARGEST_SIZE).contains(side)) {
            return Err(Error::Setting(format!("image size {}: choose 1 to {LARGEST_SIZE}", self.size)));
        }
        let least = height.max(width);
        if let Some(side) = self.resize
            && !(least..=LARGEST_RESIZE).contains(&side)
        {
            return Err(Error::Setting(format!(
                "resize {side}: choose {least} (the size {}) to {LARGEST_RESIZE}",
                self.size
            )));
        }
        Ok(())
    }

    /// Bytes of a decoded image, H x W x 3.
    fn bytes(&self) -> usize {
        self.size.height * self.size.width * 3
    }
}

/// Opens a folder, or a `.tar` or `.tar.gz` archive, of images (JPEG, PNG, BMP, WebP, PNM) in class folders.
///
/// The layout is `train/<class>/…` with `test/<class>/…` or `val/<class>/…` (also `valid`, `validation`). If both exist, `test`
/// is the test set and `val` is added to the training images, from which [`crate::split()`] takes validation images. Without
/// `train`, every folder is a class. Without test images, one image in five becomes a test image: those for which the first
/// eight bytes of the SHA-256 of `<class>/<file>`, as a big-endian number, are a multiple of five, so that adding images never
/// moves an existing one. An outer folder that contains everything is skipped, hidden files and other files are ignored, and
/// images may be in sub-folders of their class.
///
/// The shorter side of each image is resized to `size`, and the centre square is cropped: as torchvision's
/// `Resize(size)`, which is bilinear with antialiasing, and `CenterCrop(size)`. Equal to the bit, except for some images more than
/// twice as high as wide, for which Pillow 13 resamples columns first. [`open_folder_with`] has more choices. As in
/// torchvision's `ImageFolder`, an EXIF orientation is not applied, and transparency is dropped. Images are RGB, or grey if all
/// of them are. Classes are in alphabetical order, or in numeric order if all their names are integers.
/// [`Dataset::notes`] tells of numeric order, of classes without test images, of folders without images and of orientations.
///
/// An archive is read twice, entry by entry, and is not unpacked to the disk. Memory holds the decoded set (up to 8 GiB; a
/// larger one goes to a file in the folder for temporary files), up to 1,024 encoded images, and one decoded image (at most
/// 256 MiB) per thread.
///
/// # Errors
/// [`Error::Setting`] for a `size` of 0 or above 1024; [`Error::Content`] for another layout
/// or a damaged archive; [`Error::Undecodable`] naming the images that cannot be decoded.
pub fn open_folder(path: &Path, size: usize) -> Result<Dataset, Error> {
    open_folder_with(path, &FolderOptions::new(ImageSize::square(size)))
}

/// As [`open_folder`], with options.
///
/// # Errors
/// As [`open_folder`]; and [`Error::Spill`].
pub fn open_folder_with(path: &Path, options: &FolderOptions) -> Result<Dataset, Error> {
    open_with_layout(path, options, Layout::of)
}

/// Opens a folder or an archive of unlabelled images: all are training images, in order of their names, and there are no
/// classes. Otherwise as [`open_folder_with`].
///
/// # Errors
/// As [`open_folder`].
pub fn open_unlabelled(path: &Path, options: &FolderOptions) -> Result<Dataset, Error> {
    open_with_layout(path, options, layout::unlabelled)
}

/// Decodes the images that `arrange` assigns to the training and test set.
fn open_with_layout(
    path: &Path,
    options: &FolderOptions,
    arrange: fn(&Path, &[String]) -> Result<Layout, Error>,
) -> Result<Dataset, Error> {
    options.check()?;
    if path.as_os_str().is_empty() {
        return Err(Error::Setting("the folder's name is empty: name a folder or a tar of images".into()));
    }
    let source = Source::list(path)?;
    let mut layout = arrange(path, &source.names)?;
    let mut notes = std::mem::take(&mut layout.notes);
    if !source.others.is_empty() {
        let (count, names) = (source.others.len(), layout::some(&source.others));
        if !options.skip_bad {
            let problem = format!("{count} images are in a format that is not read: {names}");
            return Err(Error::content(path, problem, "convert them to PNG, or skip them (skip_bad, --skip-bad)"));
        }
        notes.push(format!("{count} images in a format that is not read are skipped: {names}"));
    }
    if !source.empty.is_empty() {
        notes.push(format!("folders without images are ignored: {}", layout::some(&source.empty)));
    }
    let total = layout.train.len() + layout.test.len();
    let size = options.bytes();
    let bytes = (total as u64).saturating_mul(size as u64);
    if bytes > LARGEST_SET {
        let gib = bytes >> 30;
        let problem = format!("{total} images of {} take {gib} GiB, more than 4096", options.size);
        return Err(Error::content(path, problem, "choose a smaller size or fewer images"));
    }

    // Training and test images are both in memory or both on the disk.
    let memory = if bytes > options.budget.memory { 0 } else { bytes };
    let budget = MemoryBudget { memory, folder: options.budget.folder.clone() };
    let mut train = Pixels::zeros(layout.train.len() * size, &budget)?;
    let mut test = Pixels::zeros(layout.test.len() * size, &budget)?;
    let report = source.decode(path, &layout, options, &mut train, &mut test)?;
    let count = report.bad.len();
    if count > 0 {
        let first = report.first.join("; ");
        if !options.skip_bad {
            return Err(Error::Undecodable { folder: path.into(), bad: count, total, first });
        }
        let trained = layout.train.len();
        let (from_test, from_train): (Vec<usize>, Vec<usize>) = report.bad.iter().partition(|&&place| place >= trained);
        let from_test: Vec<usize> = from_test.iter().map(|place| place - trained).collect();
        remove(&mut layout.train, &mut train, size, &from_train);
        remove(&mut layout.test, &mut test, size, &from_test);
        if layout.train.is_empty() || (layout.test.is_empty() && !layout.classes.is_empty()) {
            let problem =
                format!("without the {count} images that cannot be decoded no training or no test images are left");
            return Err(Error::content(path, problem, format!("replace them: {first}")));
        }
        notes.push(format!("{count} of {total} images cannot be decoded and are skipped: {first}"));
    }
    if report.oriented > 0 {
        notes.push(format!(
            "{} of {total} images have an EXIF orientation, which is not applied (as in torchvision's ImageFolder)",
            report.oriented
        ));
    }
    let channels = if report.coloured { 3 } else { 1 };
    let images = |mut pixels: Pixels, items: &[Item]| {
        if channels == 1 {
            pixels.keep_every(3);
        }
        Images { pixels, labels: items.iter().map(|item| item.label).collect() }
    };
    let (train, test) = (images(train, &layout.train), images(test, &layout.test));
    let shape = Shape { channels, height: options.size.height, width: options.size.width };
    Ok(Dataset { notes, ..Dataset::new(&name(path), shape, layout.classes, train, test) })
}

/// Removes the items at `bad`, ascending indices, and their `size` bytes of pixels.
fn remove(items: &mut Vec<Item>, pixels: &mut Pixels, size: usize, bad: &[usize]) {
    let good: Vec<usize> = (0..items.len()).filter(|place| bad.binary_search(place).is_err()).collect();
    for (to, &from) in good.iter().enumerate() {
        items[to] = items[from];
        if to != from {
            let image = pixels[from * size..][..size].to_vec();
            pixels.write(to * size, &image);
        }
    }
    items.truncate(good.len());
    pixels.truncate(good.len() * size);
}

/// The name of the folder, or of the archive without its extension.
fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let ends = [".tar.gz", ".tgz", ".tar"];
    let stem = ends.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
    stem.to_string()
}

/// The source of the images.
struct Source {
    /// Names of the images.
    names: Vec<String>,
    /// Their files, if the source is a folder; `None` for an archive.
    files: Option<Vec<PathBuf>>,
    /// Names of images in a format that is not read.
    others: Vec<String>,
    /// Names of folders without images.
    empty: Vec<String>,
}

impl Source {
    fn list(path: &Path) -> Result<Source, Error> {
        let kind = std::fs::metadata(path).map_err(Error::io("open", path))?;
        if kind.is_dir() {
            let mut found = Listing::default();
            walk(path, "", 0, &mut found)?;
            let (names, files) = found.images.into_iter().unzip();
            return Ok(Source { names, files: Some(files), others: found.others, empty: found.empty });
        }
        let (mut names, mut others) = (Vec::new(), Vec::new());
        Archive::open(path)?.for_each(|entry| {
            if layout::is_image(entry.name) {
                names.push(entry.name.to_string());
            } else if layout::is_other_image(entry.name) {
                others.push(entry.name.to_string());
            }
            Ok(())
        })?;
        Ok(Source { names, files: None, others, empty: Vec::new() })
    }

    /// Decodes every image of the layout to its position, a batch at a time.
    fn decode(
        &self,
        path: &Path,
        layout: &Layout,
        options: &FolderOptions,
        train: &mut Pixels,
        test: &mut Pixels,
    ) -> Result<Report, Error> {
        let trained = layout.train.len();
        let items = layout.train.iter().chain(&layout.test);
        let mut report = Report::default();
        let mut pending: Vec<EncodedImage> = Vec::new();
        let mut put = |pending: &mut Vec<EncodedImage>| {
            let (found, decoded) = decode_batch(pending, options);
            report.add(found);
            for (place, bytes) in decoded {
                match place.checked_sub(trained) {
                    None => train.write(place * bytes.len(), &bytes),
                    Some(place) => test.write(place * bytes.len(), &bytes),
                }
            }
        };
        let names = &self.names;
        match &self.files {
            Some(files) => {
                for (place, item) in items.enumerate() {
                    let encoded = Encoded::File(&files[item.source]);
                    pending.push(EncodedImage { name: names[item.source].clone(), encoded, place });
                    if pending.len() >= BATCH.1 {
                        put(&mut pending);
                    }
                }
                put(&mut pending);
            }
            None => {
                let mut places: HashMap<&str, usize> =
                    items.enumerate().map(|(place, item)| (names[item.source].as_str(), place)).collect();
                let mut held = 0;
                Archive::open(path)?.for_each(|mut entry| {
                    let Some(place) = places.remove(entry.name) else {
                        return Ok(());
                    };
                    let encoded =
                        if entry.size > LARGEST_FILE { Err(too_large(entry.size)) } else { Ok(entry.bytes()?) };
                    held += encoded.as_ref().map_or(0, Vec::len);
                    pending.push(EncodedImage {
                        name: entry.name.to_string(),
                        encoded: Encoded::Bytes(encoded),
                        place,
                    });
                    if held >= BATCH.0 || pending.len() >= BATCH.1 {
                        put(&mut pending);
                        held = 0;
                    }
                    Ok(())
                })?;
                put(&mut pending);
                if let Some(name) = places.keys().next() {
                    let problem = format!("{name} is gone since the archive was listed");
                    return Err(Error::content(path, problem, "leave the file alone and try again"));
                }
            }
        }
        Ok(report)
    }
}

/// An image that is not decoded yet, with its index in the training images followed by the test images.
struct EncodedImage<'a> {
    name: String,
    encoded: Encoded<'a>,
    place: usize,
}

/// The encoded bytes of an image, or their file.
enum Encoded<'a> {
    /// In a file.
    File(&'a Path),
    /// Read from an archive; an error if it is too large.
    Bytes(Result<Vec<u8>, String>),
}

/// Decodes images in parallel.
fn decode_batch(pending: &mut Vec<EncodedImage>, options: &FolderOptions) -> (Report, Vec<(usize, Vec<u8>)>) {
    let decode = |EncodedImage { name, encoded, place }: EncodedImage| {
        let encoded = match encoded {
            Encoded::File(path) => read_small(path),
            Encoded::Bytes(bytes) => bytes,
        };
        let mut out = vec![0; options.bytes()];
        let outcome = encoded.and_then(|encoded| decode::decode(&encoded, options, &mut out));
        ((name, place, outcome), (place, out))
    };
    let (outcomes, decoded): (Vec<_>, Vec<_>) = std::mem::take(pending).into_par_iter().map(decode).unzip();
    (Report::of(outcomes), decoded)
}

/// What is in a folder and those below it, with names relative to it.
#[derive(Default)]
struct Listing {
    images: Vec<(String, PathBuf)>,
    others: Vec<String>,
    empty: Vec<String>,
}

/// Lists the image files below a folder in order of their names.
fn walk(folder: &Path, prefix: &str, depth: usize, found: &mut Listing) -> Result<(), Error> {
    if depth == DEPTH {
        let remedy = "arrange it as train/<class>/<image>, test/<class>/<image>";
        return Err(Error::content(folder, format!("is more than {DEPTH} folders deep"), remedy));
    }
    let mut entries: Vec<_> =
        std::fs::read_dir(folder).and_then(Iterator::collect).map_err(Error::io("list", folder))?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let own = entry.file_name().to_string_lossy().into_owned();
        if own.starts_with('.') || own == "__MACOSX" {
            continue;
        }
        let path = entry.path();
        let name = if prefix.is_empty() { own } else { format!("{prefix}/{own}") };
        // Symbolic links are followed. A dangling one is an error only if its name is that of an image.
        let kind = match std::fs::metadata(&path) {
            Ok(kind) => kind,
            Err(_) if !layout::is_image(&name) => continue,
            Err(cause) => {
                return Err(Error::Io { action: "read", path, cause });
            }
        };
        if kind.is_dir() {
            let before = (found.images.len() + found.others.len(), found.empty.len());
            walk(&path, &name, depth + 1, found)?;
            if found.images.len() + found.others.len() == before.0 {
                // The outermost folder without images stands for those in it.
                found.empty.truncate(before.1);
                found.empty.push(name);
            }
        } else if kind.is_file() && layout::is_image(&name) {
            found.images.push((name, path));
        } else if kind.is_file() && layout::is_other_image(&name) {
            found.others.push(name);
        }
    }
    Ok(())
}

/// Reads a whole file of at most 64 MiB.
fn read_small(path: &Path) -> Result<Vec<u8>, String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) if bytes.len() as u64 > LARGEST_FILE => Err(too_large(bytes.len() as u64)),
        Ok(bytes) => Ok(bytes),
        Err(cause) => Err(cause.to_string()),
    }
}

fn too_large(bytes: u64) -> String {
    format!("{} MiB is more than the 64 MiB that an image file may have", bytes >> 20)
}

/// The outcome of decoding.
#[derive(Default)]
struct Report {
    /// Places of the images that cannot be decoded, in ascending order.
    bad: Vec<usize>,
    /// Names of the first of them, with the reason.
    first: Vec<String>,
    /// Whether any image is in colour.
    coloured: bool,
    /// Number of images with an EXIF orientation.
    oriented: usize,
}

impl Report {
    /// The number of bad images that are named.
    const NAMED: usize = 5;

    fn of<N: std::fmt::Display>(results: Vec<(N, usize, Result<Decoded, String>)>) -> Report {
        let mut report = Report::default();
        for (name, place, outcome) in results {
            match outcome {
                Ok(decoded) => {
                    report.coloured |= !decoded.grey;
                    report.oriented += usize::from(decoded.oriented);
                }
                Err(reason) => {
                    report.bad.push(place);
                    if report.first.len() < Report::NAMED {
                        report.first.push(one_line(&format!("{name} ({reason})")));
                    }
                }
            }
        }
        report
    }

    fn add(&mut self, other: Report) {
        self.bad.extend(other.bad);
        self.bad.sort_unstable();
        self.coloured |= other.coloured;
        self.oriented += other.oriented;
        let free = Report::NAMED - self.first.len();
        self.first.extend(other.first.into_iter().take(free));
    }
}
