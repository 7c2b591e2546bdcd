//! The list of known data sets.

use std::path::{Path, PathBuf};

use crate::Dataset;
use crate::sets::{Format, KNOWN, Known, places};

/// A known data set and where it was found.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct KnownSet {
    /// Its name, as [`crate::open`] takes it.
    pub name: String,
    /// A description in a few words.
    pub about: String,
    /// Whether it is embedded in the program.
    pub embedded: bool,
    /// The folder in which some of its files were found. The set may still be incomplete.
    pub found: Option<PathBuf>,
    /// The folders that are searched, in order.
    pub looked_in: Vec<PathBuf>,
    /// Its official web address.
    pub address: Option<String>,
    /// Bytes to download.
    pub bytes: u64,
}

/// The known data sets; `dir` as in [`crate::open`].
pub fn list(dir: Option<&Path>) -> Vec<KnownSet> {
    let entry = |known: &Known| {
        let embedded = matches!(known.format, Format::Embedded);
        let looked_in = if embedded { Vec::new() } else { places(known, dir) };
        let origin = known.origin.as_ref();
        KnownSet {
            name: known.name.into(),
            about: known.about.into(),
            embedded,
            found: known.locate(&looked_in),
            looked_in,
            address: origin.map(|origin| origin.base.to_string()),
            bytes: origin.map_or(0, |origin| origin.files.iter().map(|file| file.bytes).sum()),
        }
    };
    KNOWN.iter().map(entry).collect()
}

/// Whether a data set that was opened under a known name has the original content, by [`Dataset::checksum`].
/// `None` if the name is not known, or the checksum of the original is not.
pub fn is_original(dataset: &Dataset) -> Option<bool> {
    let known = KNOWN.iter().find(|known| known.name == dataset.name)?;
    known.checksum.map(|checksum| checksum == dataset.checksum)
}
