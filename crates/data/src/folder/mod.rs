//! Data sets that are folders, or archives, of images in class folders.

mod archive;
mod layout;
mod picture;

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::error::one_line;
use crate::{Dataset, Error, Images, Shape};
use layout::Item;

pub(crate) use archive::Archive;
pub(crate) use layout::Layout;
pub(crate) use picture::{LARGEST as LARGEST_PICTURE, decode as decode_picture};

/// The largest image file that is read, in bytes.
const LARGEST_FILE: u64 = 64 << 20;
/// The most memory that all decoded images of a set may take, in bytes.
const LARGEST_SET: u64 = 8 << 30;
/// The largest side to which images are brought.
const LARGEST_SIZE: usize = 1024;
/// Encoded bytes, and files, that are read from an archive before they are decoded side by side.
const BATCH: (usize, usize) = (32 << 20, 1024);
/// Folders within folders, at most.
const DEPTH: usize = 8;

/// Opens a folder, or a `.tar` or `.tar.gz` archive, of images (JPEG, PNG, BMP, WebP) in class folders.
///
/// The arrangement is `train/<class>/…` with `test/<class>/…` or `val/<class>/…` (also `valid`, `validation`); where
/// both are there, `test` is the test set and `val` joins the training images, of which [`crate::split()`] carves its own
/// share. Without `train`, every folder is a class. Without test images, one in five is set aside: those for which
/// the first eight bytes of the SHA-256 of `<class>/<file>` are, as a big-endian number, a multiple of five, so that
/// more images never change the role of those that were there. One folder around everything is looked through,
/// hidden files and files of other kinds are passed over, and images may lie deeper within their class.
///
/// Of each image the centre square is brought to `size` x `size` by a triangle filter over the source's pixels
/// (bilinear with antialiasing, torchvision's default); orientation tags are not followed, transparency is dropped.
/// Images are red, green, blue, or grey where all of them are. Classes are in alphabetical order.
///
/// An archive is read twice, entry by entry, and nothing of it is written anywhere. Memory holds the decoded set
/// (8 GiB at most), a few encoded images, and one decoded image (256 MiB at most) a thread.
///
/// # Errors
/// [`Error::Setting`] for a `size` of 0 or above 1024; [`Error::Content`] for an arrangement that is none of the above,
/// or a damaged archive; [`Error::Pictures`] naming the images that cannot be decoded.
pub fn open_folder(path: &Path, size: usize) -> Result<Dataset, Error> {
    if !(1..=LARGEST_SIZE).contains(&size) {
        return Err(Error::Setting(format!("image size {size}: choose 1 to {LARGEST_SIZE}")));
    }
    let source = Source::list(path)?;
    let layout = Layout::of(path, source.names())?;
    let total = layout.train.len() + layout.test.len();
    let bytes = (total as u64).saturating_mul((size * size * 3) as u64);
    if bytes > LARGEST_SET {
        let gib = bytes >> 30;
        let problem = format!("{total} images of {size}x{size} take {gib} GiB, more than 8");
        return Err(Error::content(path, problem, "choose a smaller size or fewer images"));
    }

    let mut train = vec![0; layout.train.len() * size * size * 3];
    let mut test = vec![0; layout.test.len() * size * size * 3];
    let report = source.decode(path, &layout, size, &mut train, &mut test)?;
    if report.bad > 0 {
        let first = report.first.join("; ");
        return Err(Error::Pictures { folder: path.into(), bad: report.bad, total, first });
    }
    let channels = if report.coloured { 3 } else { 1 };
    let images = |mut pixels: Vec<u8>, items: &[Item]| {
        if channels == 1 {
            pixels = pixels.into_iter().step_by(3).collect();
        }
        Images { pixels, labels: items.iter().map(|item| item.label).collect() }
    };
    let (train, test) = (images(train, &layout.train), images(test, &layout.test));
    let shape = Shape { channels, height: size, width: size };
    Ok(Dataset::new(&name(path), shape, layout.classes, train, test))
}

/// The folder's or archive's own name, without endings.
fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let ends = [".tar.gz", ".tgz", ".tar"];
    let stem = ends.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
    stem.to_string()
}

/// Where the images come from: their names, with the files for a folder.
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

    /// Decodes every image of the layout to its place.
    fn decode(
        &self,
        path: &Path,
        layout: &Layout,
        size: usize,
        train: &mut [u8],
        test: &mut [u8],
    ) -> Result<Report, Error> {
        let bytes = size * size * 3;
        let items = layout.train.iter().chain(&layout.test);
        let slots = train.chunks_exact_mut(bytes).chain(test.chunks_exact_mut(bytes));
        match self {
            Source::Folder { names, files } => {
                let jobs: Vec<(&Item, &mut [u8])> = items.zip(slots).collect();
                let results: Vec<_> = jobs
                    .into_par_iter()
                    .map(|(item, slot)| {
                        let outcome =
                            read_small(&files[item.source]).and_then(|encoded| picture::decode(&encoded, size, slot));
                        (names[item.source].as_str(), outcome)
                    })
                    .collect();
                Ok(Report::of(results))
            }
            Source::Archive { names } => {
                let mut slots: HashMap<&str, &mut [u8]> =
                    items.map(|item| names[item.source].as_str()).zip(slots).collect();
                let mut report = Report::default();
                let mut waiting: Vec<Waiting> = Vec::new();
                let mut held = 0;
                Archive::open(path)?.for_each(|mut entry| {
                    let Some(slot) = slots.remove(entry.name) else {
                        return Ok(());
                    };
                    let encoded =
                        if entry.size > LARGEST_FILE { Err(too_large(entry.size)) } else { Ok(entry.bytes()?) };
                    held += encoded.as_ref().map_or(0, Vec::len);
                    waiting.push(Waiting { name: entry.name.to_string(), encoded, slot });
                    if held >= BATCH.0 || waiting.len() >= BATCH.1 {
                        report.add(decode_batch(&mut waiting, size));
                        held = 0;
                    }
                    Ok(())
                })?;
                report.add(decode_batch(&mut waiting, size));
                if let Some(name) = slots.keys().next() {
                    let problem = format!("{name} is gone since the archive was listed");
                    return Err(Error::content(path, problem, "leave the file alone and try again"));
                }
                Ok(report)
            }
        }
    }
}

/// An image of an archive, read but not decoded (or too large to be read), and where it goes.
struct Waiting<'a> {
    name: String,
    encoded: Result<Vec<u8>, String>,
    slot: &'a mut [u8],
}

fn decode_batch(waiting: &mut Vec<Waiting>, size: usize) -> Report {
    let decode = |Waiting { name, encoded, slot }: Waiting| {
        let outcome = encoded.and_then(|encoded| picture::decode(&encoded, size, slot));
        (name, outcome)
    };
    Report::of(std::mem::take(waiting).into_par_iter().map(decode).collect())
}

/// Image files below a folder, with their names relative to it, in the order of their names.
fn walk(folder: &Path, prefix: &str, depth: usize, found: &mut Vec<(String, PathBuf)>) -> Result<(), Error> {
    if depth == DEPTH {
        let remedy = "arrange it as train/<class>/<image>, test/<class>/<image>";
        return Err(Error::content(folder, format!("lies more than {DEPTH} folders deep"), remedy));
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
        // Links are followed; one that leads nowhere is an error where an image was to be.
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

/// A whole file, if it is not absurdly large.
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

/// What decoding found.
#[derive(Default)]
struct Report {
    bad: usize,
    first: Vec<String>,
    coloured: bool,
}

impl Report {
    /// How many bad images are named.
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
        let room = Report::NAMED - self.first.len();
        self.first.extend(other.first.into_iter().take(room));
    }
}
