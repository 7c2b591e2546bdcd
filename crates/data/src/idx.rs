//! The IDX format of MNIST: a magic number, big-endian sizes of the axes, then bytes.
//! Described at the end of the web page of Y. LeCun, C. Cortes and C. Burges, "The MNIST database of handwritten digits".

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use crate::{Error, Images, Shape};

/// The most bytes that one file may decode to: a limit against files whose headers state a false size.
const LIMIT: u64 = 8 << 30;

const REMEDY: &str = "the file is damaged or is not an IDX file: delete it and fetch the set again";

/// An array of bytes with the sizes of its axes, outermost first.
#[derive(Debug)]
pub(crate) struct Array {
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// The path of an IDX file in `folder`, in either spelling (`train-images-idx3-ubyte`, `train-images.idx3-ubyte`),
/// compressed or not. `stem` is such as `train-images`.
pub(crate) fn find(folder: &Path, stem: &str, axes: usize) -> Option<PathBuf> {
    ["", ".gz"]
        .iter()
        .flat_map(|end| ["-", "."].map(|joint| format!("{stem}{joint}idx{axes}-ubyte{end}")))
        .map(|name| folder.join(name))
        .find(|path| path.is_file())
}

/// Reads the pair of files `<stem>-images` and `<stem>-labels`; `classes` is one more than the largest label allowed.
pub(crate) fn read_pair(folder: &Path, stem: &str, classes: usize) -> Result<(Shape, Images), Error> {
    let locate = |part: &str, axes: usize| {
        let stem = format!("{stem}-{part}");
        find(folder, &stem, axes).ok_or_else(|| Error::Missing {
            what: format!("{stem}-idx{axes}-ubyte (or .gz)"),
            places: folder.display().to_string(),
            remedy: "a set has four files; add the missing one or fetch the set again".into(),
        })
    };
    let (image_file, label_file) = (locate("images", 3)?, locate("labels", 1)?);
    let images = read_file(&image_file, 3)?;
    let labels = read_file(&label_file, 1)?;
    pair((&image_file, images), (&label_file, labels), classes)
}

/// Combines images and labels after checking that they belong together.
pub(crate) fn pair(
    (image_file, images): (&Path, Array),
    (label_file, labels): (&Path, Array),
    classes: usize,
) -> Result<(Shape, Images), Error> {
    let (count, height, width) = (images.shape[0], images.shape[1], images.shape[2]);
    if count != labels.shape[0] {
        let problem = format!("{} labels for the {count} images of {}", labels.shape[0], image_file.display());
        return Err(Error::content(label_file, problem, "take both files from the same set"));
    }
    if let Some(at) = labels.bytes.iter().position(|&label| usize::from(label) >= classes) {
        let label = labels.bytes[at];
        let problem = format!("label {at} is {label}, but the set has {classes} classes");
        return Err(Error::content(label_file, problem, REMEDY));
    }
    if images.bytes.is_empty() {
        return Err(Error::content(image_file, "holds no pixels", REMEDY));
    }
    let labels = labels.bytes.iter().map(|&label| u16::from(label)).collect();
    Ok((Shape { channels: 1, height, width }, Images { pixels: images.bytes.into(), labels }))
}

/// Reads one file, compressed or not, as its content (not its name) says.
fn read_file(path: &Path, axes: usize) -> Result<Array, Error> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let length = file.metadata().map_err(Error::io("read", path))?.len();
    read(path, BufReader::with_capacity(1 << 16, file), length, axes)
}

/// Reads an array with `axes` axes from a stream of `length` bytes, decompressing it if it begins as gzip does.
pub(crate) fn read(name: &Path, mut stream: impl BufRead, length: u64, axes: usize) -> Result<Array, Error> {
    let start = stream.fill_buf().map_err(|cause| failed(name, cause))?;
    if start.starts_with(&[0x1f, 0x8b]) {
        // Deflate expands at most 1032 times, so a header that states more is refused before anything is read.
        decode(name, MultiGzDecoder::new(stream), None, length.saturating_mul(1032), axes)
    } else {
        decode(name, stream, Some(length), length, axes)
    }
}

/// `length` is the length of the stream, if known; `most` is an upper bound on it.
fn decode(name: &Path, mut stream: impl Read, length: Option<u64>, most: u64, axes: usize) -> Result<Array, Error> {
    let wrong_length =
        |expected: u64, found: String| Error::Length { file: name.to_path_buf(), expected, found, remedy: REMEDY };

    let mut header = vec![0; 4 + 4 * axes];
    let got = fill(&mut stream, &mut header).map_err(|cause| failed(name, cause))?;
    if got >= 4 && header[..4] != [0, 0, 8, axes as u8] {
        let magic = crate::dataset::hex(&header[..4]);
        let problem = format!("begins with {magic}, where an IDX file of bytes with {axes} axes has 0000080{axes}");
        return Err(Error::content(name, problem, REMEDY));
    }
    if got < header.len() {
        return Err(wrong_length(header.len() as u64, got.to_string()));
    }

    let shape: Vec<u64> = header[4..]
        .chunks_exact(4)
        .map(|bytes| u64::from(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])))
        .collect();
    let size = shape.iter().try_fold(1u64, |product, &axis| product.checked_mul(axis));
    let Some(size) = size.filter(|&size| size <= LIMIT) else {
        let problem = format!("its header states {shape:?} bytes, more than 8 GiB");
        return Err(Error::content(name, problem, REMEDY));
    };
    let expected = header.len() as u64 + size;
    if let Some(length) = length.filter(|&length| length != expected) {
        return Err(wrong_length(expected, length.to_string()));
    }
    if expected > most {
        return Err(wrong_length(expected, format!("at most {most}")));
    }

    // One byte more than expected: reading to the end detects excess bytes and makes the decoder verify gzip's checksum.
    let mut bytes = Vec::new();
    let read = stream.take(size + 1).read_to_end(&mut bytes);
    match read {
        Err(cause) if cause.kind() == ErrorKind::UnexpectedEof && bytes.len() as u64 >= size => {
            let problem = "ends within gzip's checksum, after all its content";
            return Err(Error::content(name, problem, REMEDY));
        }
        Err(cause) if cause.kind() == ErrorKind::UnexpectedEof => {
            return Err(wrong_length(expected, (header.len() + bytes.len()).to_string()));
        }
        Err(cause) => return Err(failed(name, cause)),
        Ok(_) if (bytes.len() as u64) < size => {
            return Err(wrong_length(expected, (header.len() + bytes.len()).to_string()));
        }
        Ok(_) if bytes.len() as u64 > size => return Err(wrong_length(expected, "more".into())),
        Ok(_) => {}
    }
    Ok(Array { shape: shape.iter().map(|&size| size as usize).collect(), bytes })
}

/// Reads until `buffer` is full or the stream ends; the number of bytes read.
fn fill(stream: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match stream.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
            // A compressed stream that ends within the header is treated like an uncompressed one that is too short.
            Err(cause) if cause.kind() == ErrorKind::UnexpectedEof => break,
            Err(cause) => return Err(cause),
        }
    }
    Ok(got)
}

/// A reading error: of the compressed data, or of the disk.
fn failed(name: &Path, cause: std::io::Error) -> Error {
    match cause.kind() {
        ErrorKind::InvalidInput | ErrorKind::InvalidData | ErrorKind::UnexpectedEof => {
            Error::content(name, format!("damaged gzip data ({cause})"), REMEDY)
        }
        _ => Error::Io { action: "read", path: name.to_path_buf(), cause },
    }
}
