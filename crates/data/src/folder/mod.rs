//! Data sets that are folders, or archives, of images in class folders.

mod archive;
mod decode;
mod layout;

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::error::one_line;
use crate::{Dataset, Error, Images, MemoryBudget, Pixels, Shape};
use layout::Item;

pub(crate) use archive::Archive;
pub(crate) use decode::{MAX_DECODED_BYTES, decode as decode_image};
pub(crate) use layout::Layout;

/// The largest image file that is read, in bytes.
const LARGEST_FILE: u64 = 64 << 20;
/// The most bytes that the decoded images of a set may take, in memory or on the disk.
const LARGEST_SET: u64 = 4 << 40;
/// The largest size of decoded images.
const LARGEST_SIZE: usize = 1024;
/// Encoded bytes, and images, that are read before they are decoded in parallel.
const BATCH: (usize, usize) = (32 << 20, 1024);
/// The deepest nesting of folders.
const DEPTH: usize = 8;

/// Opens a folder, or a `.tar` or `.tar.gz` archive, of images (JPEG, PNG, BMP, WebP) in class folders.
///
/// The layout is `train/<class>/…` with `test/<class>/…` or `val/<class>/…` (also `valid`, `validation`). If both exist, `test`
/// is the test set and `val` is added to the training images, from which [`crate::split()`] takes validation images. Without
/// `train`, every folder is a class. Without test images, one image in five becomes a test image: those for which the first
/// eight bytes of the SHA-256 of `<class>/<file>`, as a big-endian number, are a multiple of five, so that adding images never
/// moves an existing one. An outer folder that contains everything is skipped, hidden files and other files are ignored, and
/// images may be in sub-folders of their class.
///
/// The centre square of each image is resized to `size` x `size` by a triangle filter (bilinear with antialiasing, the default
/// of torchvision). EXIF orientation is ignored, and transparency is dropped. Images are RGB, or grey if all of them are.
/// Classes are in alphabetical order.
///
/// An archive is read twice, entry by entry, and is not unpacked to the disk. Memory holds the decoded set (up to 8 GiB; a
/// larger one goes to a file in the folder for temporary files), up to 1,024 encoded images, and one decoded image (at most
/// 256 MiB) per thread.
///
/// # Errors
/// [`Error::Setting`] for a `size` of 0 or above 1024; [`Error::Content`] for another layout
/// or a damaged archive; [`Error::Undecodable`] naming the images that cannot be decoded.
pub fn open_folder(path: &Path, size: usize) -> Result<Dataset, Error> {
    open_folder_within(path, size, &MemoryBudget::default())
}

/// As [`open_folder`], with a memory budget for the decoded images.
///
/// # Errors
/// As [`open_folder`]; and [`Error::Spill`].
pub fn open_folder_within(path: &Path, size: usize, budget: &MemoryBudget) -> Result<Dataset, Error> {
    open_with_layout(path, size, budget, Layout::of)
}

/// Opens a folder or an archive of unlabelled images: all are training images, in order of their names, and there are no
/// classes. Otherwise as [`open_folder`].
///
/// # Errors
/// As [`open_folder`].
pub fn open_unlabelled(path: &Path, size: usize) -> Result<Dataset, Error> {
    open_with_layout(path, size, &MemoryBudget::default(), layout::unlabelled)
}

/// Decodes the images that `arrange` assigns to the training and test set.
fn open_with_layout(
    path: &Path,
    size: usize,
    budget: &MemoryBudget,
    arrange: fn(&Path, &[String]) -> Result<Layout, Error>,
) -> Result<Dataset, Error> {
    if !(1..=LARGEST_SIZE).contains(&size) {
        return Err(Error::Setting(format!("image size {size}: choose 1 to {LARGEST_SIZE}")));
    }
    let source = Source::list(path)?;
    let layout = arrange(path, source.names())?;
    let total = layout.train.len() + layout.test.len();
    let bytes = (total as u64).saturating_mul((size * size * 3) as u64);
    if bytes > LARGEST_SET {
        let gib = bytes >> 30;
        let problem = format!("{total} images of {size}x{size} take {gib} GiB, more than 4096");
        return Err(Error::content(path, problem, "choose a smaller size or fewer images"));
    }

    // Training and test images are both in memory or both on the disk.
    let memory = if bytes > budget.memory { 0 } else { bytes };
    let budget = MemoryBudget { memory, folder: budget.folder.clone() };
    let mut train = Pixels::zeros(layout.train.len() * size * size * 3, &budget)?;
    let mut test = Pixels::zeros(layout.test.len() * size * size * 3, &budget)?;
    let report = source.decode(path, &layout, size, &mut train, &mut test)?;
    if report.bad > 0 {
        let first = report.first.join("; ");
        return Err(Error::Undecodable { folder: path.into(), bad: report.bad, total, first });
    }
    let channels = if report.coloured { 3 } else { 1 };
    let images = |mut pixels: Pixels, items: &[Item]| {
        if channels == 1 {
            pixels.keep_every(3);
        }
        Images { pixels, labels: items.iter().map(|item| item.label).collect() }
    };
    let (train, test) = (images(train, &layout.train), images(test, &layout.test));
    let shape = Shape { channels, height: size, width: size };
    Ok(Dataset::new(&name(path), shape, layout.classes, train, test))
}

/// The name of the folder, or of the archive without its extension.
fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let ends = [".tar.gz", ".tgz", ".tar"];
    let stem = ends.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
    stem.to_string()
}

/// The source of the images: their names, and their files if it is a folder.
enum Source {
    Folder { names: Vec<String>, files: Vec<PathBuf> },
    Archive { names: Vec<String> },
}

impl Source {
    fn list(path: &Path) -> Result<Source, Error> {
        let kind = std::fs::metadata(path).map_err(Error::io("open", path))?;
        if kind.is_dir() {
            let mut found = Vec::new();
            walk(path, "", 0, &mut found)?;
            let (names, files) = found.into_iter().unzip();
            return Ok(Source::Folder { names, files });
        }
        let mut names = Vec::new();
        Archive::open(path)?.for_each(|entry| {
            if layout::is_image(entry.name) {
                names.push(entry.name.to_string());
            }
            Ok(())
        })?;
        Ok(Source::Archive { names })
    }

    fn names(&self) -> &[String] {
        match self {
            Source::Folder { names, .. } | Source::Archive { names } => names,
        }
    }

    /// Decodes every image of the layout to its position, a batch at a time.
    fn decode(
        &self,
        path: &Path,
        layout: &Layout,
        size: usize,
        train: &mut Pixels,
        test: &mut Pixels,
    ) -> Result<Report, Error> {
        let trained = layout.train.len();
        let items = layout.train.iter().chain(&layout.test);
        let mut report = Report::default();
        let mut pending: Vec<EncodedImage> = Vec::new();
        let mut put = |pending: &mut Vec<EncodedImage>| {
            let (found, decoded) = decode_batch(pending, size);
            report.add(found);
            for (place, bytes) in decoded {
                match place.checked_sub(trained) {
                    None => train.write(place * bytes.len(), &bytes),
                    Some(place) => test.write(place * bytes.len(), &bytes),
                }
            }
        };
        match self {
            Source::Folder { names, files } => {
                for (place, item) in items.enumerate() {
                    let encoded = Encoded::File(&files[item.source]);
                    pending.push(EncodedImage { name: names[item.source].clone(), encoded, place });
                    if pending.len() >= BATCH.1 {
                        put(&mut pending);
                    }
                }
                put(&mut pending);
            }
            Source::Archive { names } => {
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
fn decode_batch(pending: &mut Vec<EncodedImage>, size: usize) -> (Report, Vec<(usize, Vec<u8>)>) {
    let decode = |EncodedImage { name, encoded, place }: EncodedImage| {
        let encoded = match encoded {
            Encoded::File(path) => read_small(path),
            Encoded::Bytes(bytes) => bytes,
        };
        let mut out = vec![0; size * size * 3];
        let outcome = encoded.and_then(|encoded| decode::decode(&encoded, size, &mut out));
        ((name, outcome), (place, out))
    };
    let (outcomes, decoded): (Vec<_>, Vec<_>) = std::mem::take(pending).into_par_iter().map(decode).unzip();
    (Report::of(outcomes), decoded)
}

/// The image files below a folder, with names relative to it, in order of the names.
fn walk(folder: &Path, prefix: &str, depth: usize, found: &mut Vec<(String, PathBuf)>) -> Result<(), Error> {
    if depth == DEPTH {
        let remedy = "arrange it as train/<class>/<image>, test/<class>/<image>";
        return Err(Error::content(folder, format!("is more than {DEPTH} folders deep"), remedy));
    }
    let mut entries: Vec<_> =
        std::fs::read_dir(folder).and_then(Iterator::collect).map_err(Error::io("list", folder))?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let own = entry.file_name().to_string_lossy().into_owned();
        if own.starts_with('.') {
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
            walk(&path, &name, depth + 1, found)?;
        } else if kind.is_file() && layout::is_image(&name) {
            found.push((name, path));
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
    bad: usize,
    first: Vec<String>,
    coloured: bool,
}

impl Report {
    /// The number of bad images that are named.
    const NAMED: usize = 5;

    fn of<N: std::fmt::Display>(results: Vec<(N, Result<bool, String>)>) -> Report {
        let mut report = Report::default();
        for (name, outcome) in results {
            match outcome {
                Ok(grey) => report.coloured |= !grey,
                Err(reason) => {
                    report.bad += 1;
                    if report.first.len() < Report::NAMED {
                        report.first.push(one_line(&format!("{name} ({reason})")));
                    }
                }
            }
        }
        report
    }

    fn add(&mut self, other: Report) {
        self.bad += other.bad;
        self.coloured |= other.coloured;
        let free = Report::NAMED - self.first.len();
        self.first.extend(other.first.into_iter().take(free));
    }
}
