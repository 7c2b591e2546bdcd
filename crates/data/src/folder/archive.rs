//! Tar archives, compressed or not, read entry by entry with a limit on every length.
//!
//! For long names the `tar` crate reads a whole extension header, which may be huge in a small compressed file. Here they are
//! read with a limit, so that a hostile file cannot exhaust memory.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;

use crate::Error;

/// The largest extension header (a long name), in bytes.
const MAX_EXTENSION: u64 = 64 << 10;
/// The most bytes that an archive may decompress to. This limits time; memory does not grow with it.
const MAX_LENGTH: u64 = 256 << 30;

const REMEDY: &str = "the archive is damaged: create or fetch it again";

/// A tar archive that can be read once, from beginning to end.
pub(crate) struct Archive<'a> {
    path: PathBuf,
    stream: Box<dyn Read + 'a>,
}

/// A file in an archive.
pub(crate) struct Entry<'a> {
    /// Its relative path, with `/` as separator and without `.` and `..`.
    pub name: &'a str,
    /// Its length in bytes.
    pub size: u64,
    path: &'a Path,
    data: &'a mut dyn Read,
}

impl Entry<'_> {
    /// The whole content. The caller checks `size` first.
    pub(crate) fn bytes(&mut self) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let read = self.data.take(self.size).read_to_end(&mut bytes);
        read.map_err(|cause| failed(self.path, &format!("in {}: ", self.name), cause))?;
        if (bytes.len() as u64) < self.size {
            let problem = format!("{} ends after {} of {} bytes", self.name, bytes.len(), self.size);
            return Err(Error::content(self.path, problem, REMEDY));
        }
        Ok(bytes)
    }
}

#[cfg(feature = "download")]
impl Entry<'_> {
    /// Writes the whole content to a file; `path` is for error messages.
    pub(crate) fn copy_to(&mut self, path: &Path, file: &mut File) -> Result<(), Error> {
        let mut buffer = vec![0; 1 << 16];
        let mut left = self.size;
        while left > 0 {
            let most = left.min(buffer.len() as u64) as usize;
            let got = self.data.read(&mut buffer[..most]);
            let got = got.map_err(|cause| failed(self.path, &format!("in {}: ", self.name), cause))?;
            if got == 0 {
                let problem = format!("{} ends {left} bytes too early", self.name);
                return Err(Error::content(self.path, problem, REMEDY));
            }
            std::io::Write::write_all(file, &buffer[..got]).map_err(Error::io("write", path))?;
            left -= got as u64;
        }
        Ok(())
    }
}

impl<'a> Archive<'a> {
    /// Opens a file.
    pub(crate) fn open(path: &Path) -> Result<Archive<'static>, Error> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        Archive::new(path, BufReader::with_capacity(1 << 16, file))
    }

    /// An archive in a stream; it is decompressed if it begins as gzip does. `path` is for error messages.
    pub(crate) fn new(path: &Path, mut stream: impl BufRead + 'a) -> Result<Archive<'a>, Error> {
        let compressed = stream.fill_buf().map_err(Error::io("read", path))?.starts_with(&[0x1f, 0x8b]);
        let stream: Box<dyn Read + 'a> =
            if compressed { Box::new(MultiGzDecoder::new(stream)) } else { Box::new(stream) };
        Ok(Archive { path: path.into(), stream })
    }

    /// Calls `visit` with every regular file, in archive order, and reads to the end, so that a truncated archive is always
    /// detected.
    pub(crate) fn for_each(self, mut visit: impl FnMut(Entry<'_>) -> Result<(), Error>) -> Result<(), Error> {
        let Archive { path, stream } = self;
        let ended = Rc::new(Cell::new(false));
        let stream = EndDetector { stream: stream.take(MAX_LENGTH), ended: Rc::clone(&ended) };
        let mut archive = tar::Archive::new(stream);
        let mut extended = Extended::default();
        let mut entries = 0u64;
        for entry in archive.entries().map_err(|cause| failed(&path, "", cause))?.raw(true) {
            entries += 1;
            let place = format!("at entry {entries}: ");
            let mut entry = entry.map_err(|cause| match entries {
                1 if cause.raw_os_error().is_none() => {
                    let problem = format!("is neither a folder nor a tar archive ({cause})");
                    Error::content(&path, problem, "unpack it, or make a .tar or .tar.gz of it")
                }
                _ => failed(&path, &place, cause),
            })?;
            let kind = entry.header().entry_type();
            let size = entry.size();
            if kind.is_gnu_longname() || kind.is_pax_local_extensions() {
                let extension = read_extension(&path, &mut entry, size)?;
                if kind.is_gnu_longname() {
                    let name = extension.strip_suffix(b"\0").unwrap_or(&extension);
                    extended.name = Some(utf8(&path, name.to_vec())?);
                } else {
                    extended.read(&path, &extension)?;
                }
                continue;
            }
            let Extended { name, size: stated } = std::mem::take(&mut extended);
            if stated.is_some_and(|stated| stated != size) {
                let problem = format!("{place}states two lengths of one file");
                return Err(Error::content(&path, problem, REMEDY));
            }
            let name = match name {
                Some(name) => name,
                None => utf8(&path, entry.path_bytes().into_owned())?,
            };
            let name = relative(&path, &name)?;
            let wanted = super::layout::is_image(&name);
            if wanted && !kind.is_file() && !kind.is_dir() {
                let problem = format!("{name} is a link or a special file");
                return Err(Error::content(&path, problem, "make the archive from plain files (tar -h)"));
            }
            if kind.is_file() {
                visit(Entry { name: &name, size, path: &path, data: &mut entry })?;
            }
        }
        if ended.get() {
            let problem = format!("ends after {entries} entries without an end mark");
            return Err(Error::content(&path, problem, REMEDY));
        }
        // Reading what follows the end mark makes the decoder verify gzip's checksum.
        let rest = std::io::copy(&mut archive.into_inner(), &mut std::io::sink());
        rest.map(drop).map_err(|cause| failed(&path, "after the last entry: ", cause))
    }
}

/// Records whether a stream has ended.
struct EndDetector<R> {
    stream: R,
    ended: Rc<Cell<bool>>,
}

impl<R: Read> Read for EndDetector<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let got = self.stream.read(buffer)?;
        if got == 0 && !buffer.is_empty() {
            self.ended.set(true);
        }
        Ok(got)
    }
}

fn read_extension(path: &Path, entry: &mut impl Read, size: u64) -> Result<Vec<u8>, Error> {
    if size > MAX_EXTENSION {
        return Err(Error::content(path, format!("holds a file name of {size} bytes"), REMEDY));
    }
    let mut bytes = Vec::new();
    entry.take(size).read_to_end(&mut bytes).map_err(|cause| failed(path, "", cause))?;
    if (bytes.len() as u64) < size {
        return Err(Error::content(path, "ends within a file's name", REMEDY));
    }
    Ok(bytes)
}

/// The content of extension headers; it applies to the entry that follows.
#[derive(Default)]
struct Extended {
    name: Option<String>,
    size: Option<u64>,
}

impl Extended {
    /// Reads the records `path` and `size` of a pax extended header.
    fn read(&mut self, path: &Path, header: &[u8]) -> Result<(), Error> {
        for record in tar::PaxExtensions::new(header) {
            let record = record.map_err(|cause| failed(path, "in an extended header: ", cause))?;
            match record.key_bytes() {
                b"path" => self.name = Some(utf8(path, record.value_bytes().to_vec())?),
                // Anything but a number differs from every length and so is an error.
                b"size" => {
                    let number = record.value().ok().and_then(|text| text.parse().ok());
                    self.size = Some(number.unwrap_or(u64::MAX));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn utf8(path: &Path, name: Vec<u8>) -> Result<String, Error> {
    String::from_utf8(name).map_err(|error| {
        let name = String::from_utf8_lossy(error.as_bytes()).into_owned();
        Error::content(path, format!("the name {name:?} is not UTF-8"), "rename the file")
    })
}

/// The name without `.` components. A name that leads out of the archive is refused. (Nothing is written under this name.)
fn relative(path: &Path, name: &str) -> Result<String, Error> {
    let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if name.starts_with('/') || parts.contains(&"..") {
        let problem = format!("the name {name:?} leads out of the archive");
        return Err(Error::content(path, problem, "make the archive again, from within its folder"));
    }
    Ok(parts.join("/"))
}

/// An error of the archive or its compression, or of the disk.
fn failed(path: &Path, place: &str, cause: std::io::Error) -> Error {
    if cause.raw_os_error().is_some() {
        return Error::Io { action: "read", path: path.into(), cause };
    }
    let problem = match cause.kind() {
        std::io::ErrorKind::UnexpectedEof => format!("{place}ends too early"),
        _ => format!("{place}{cause}"),
    };
    Error::content(path, problem, REMEDY)
}
