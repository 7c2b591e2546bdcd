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
use crate::{Dataset, Error, Images, Pixels, Room, Shape};
use layout::Item;

pub(crate) use archive::Archive;
pub(crate) use layout::Layout;
pub(crate) use picture::{LARGEST as LARGEST_PICTURE, decode as decode_picture};

/// The largest image file that is read, in bytes.
const LARGEST_FILE: u64 = 64 << 20;
/// The most bytes that all decoded images of a set may take, in memory or on the disk.
const LARGEST_SET: u64 = 4 << 40;
/// The largest side to which images are brought.
const LARGEST_SIZE: usize = 1024;
/// Encoded bytes, and files, that are read before they are decoded side by side.
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
/// An archive is read twice, entry by entry, and nothing of it is written under a name. Memory holds the decoded set
/// (up to 8 GiB; beyond that it is streamed from a file in the folder for temporary files), a thousand images on
/// their way there, and one decoded image (256 MiB at most) a thread.
///
/// # Errors
/// [`Error::Setting`] for a `size` of 0 or above 1024; [`Error::Content`] for an arrangement that is none of the above,
/// or a damaged archive; [`Error::Pictures`] naming the images that cannot be decoded.
pub fn open_folder(path: &Path, size: usize) -> Result<Dataset, Error> {
    open_folder_within(path, size, &Room::default())
}

/// As [`open_folder`], with the room that decoded images have.
///
/// # Errors
/// As [`open_folder`]; and [`Error::Spill`].
pub fn open_folder_within(path: &Path, size: usize, room: &Room) -> Result<Dataset, Error> {
    open_arranged(path, size, room, Layout::of)
}

/// Opens a folder, or an archive, of images that no folder tells a class of: all are training images, in the order of their
/// names, and there are no classes. Otherwise as [`open_folder`].
///
/// # Errors
/// As [`open_folder`].
pub fn open_unlabelled(path: &Path, size: usize) -> Result<Dataset, Error> {
    open_arranged(path, size, &Room::default(), layout::unlabelled)
}

/// Decodes what `arrange` makes of the images' names.
fn open_arranged(
    path: &Path,
    size: usize,
    room: &Room,
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

    // Both parts go where the whole fits.
    let room = Room { memory: if bytes > room.memory { 0 } else { bytes }, folder: room.folder.clone() };
    let mut train = Pixels::zeros(layout.train.len() * size * size * 3, &room)?;
    let mut test = Pixels::zeros(layout.test.len() * size * size * 3, &room)?;
    let report = source.decode(path, &layout, size, &mut train, &mut test)?;
    if report.bad > 0 {
        let first = report.first.join("; ");
        return Err(Error::Pictures { folder: path.into(), bad: report.bad, total, first });
    }
    let channels = if report.coloured { 3 } else { 1 };
    let images = |mut pixels: Pixels, items: &[Item]| {
        if channels == 1 {
            pixels.thin(3);
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

    /// Decodes every image of the layout to its place, a batch at a time.
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
        let mut waiting: Vec<Waiting> = Vec::new();
        let mut put = |waiting: &mut Vec<Waiting>| {
            let (found, decoded) = decode_batch(waiting, size);
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
                    waiting.push(Waiting { name: names[item.source].clone(), encoded, place });
                    if waiting.len() >= BATCH.1 {
                        put(&mut waiting);
                    }
                }
                put(&mut waiting);
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
                    waiting.push(Waiting { name: entry.name.to_string(), encoded: Encoded::Bytes(encoded), place });
                    if held >= BATCH.0 || waiting.len() >= BATCH.1 {
                        put(&mut waiting);
                        held = 0;
                    }
                    Ok(())
                })?;
                put(&mut waiting);
                if let Some(name) = places.keys().next() {
                    let problem = format!("{name} is gone since the archive was listed");
                    return Err(Error::content(path, problem, "leave the file alone and try again"));
                }
            }
        }
        Ok(report)
    }
}

/// An image that is not decoded yet, and which place it has among training and then test images.
struct Waiting<'a> {
    name: String,
    encoded: Encoded<'a>,
    place: usize,
}

/// An image as it was found.
enum Encoded<'a> {
    /// In a file.
    File(&'a Path),
    /// Read from an archive, or too large to be.
    Bytes(Result<Vec<u8>, String>),
}

/// Decodes images side by side; those that are sound come back with their places.
fn decode_batch(waiting: &mut Vec<Waiting>, size: usize) -> (Report, Vec<(usize, Vec<u8>)>) {
    let decode = |Waiting { name, encoded, place }: Waiting| {
        let encoded = match encoded {
            Encoded::File(path) => read_small(path),
            Encoded::Bytes(bytes) => bytes,
        };
        let mut out = vec![0; size * size * 3];
        let outcome = encoded.and_then(|encoded| picture::decode(&encoded, size, &mut out));
        ((name, outcome), (place, out))
    };
    let (outcomes, decoded): (Vec<_>, Vec<_>) = std::mem::take(waiting).into_par_iter().map(decode).unzip();
    (Report::of(outcomes), decoded)
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
