//! The known sets and where they are.

use std::path::{Path, PathBuf};

use crate::Dataset;
use crate::sets::{Format, KNOWN, Known, places};

/// A known data set, and whether it is there.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Listed {
    /// Its name, as [`crate::open`] takes it.
    pub name: String,
    /// What it is.
    pub about: String,
    /// Whether it is part of the program.
    pub embedded: bool,
    /// The folder in which files of it were found. They may still turn out incomplete when opened.
    pub found: Option<PathBuf>,
    /// The folders in which it is looked for, in order.
    pub looked_in: Vec<PathBuf>,
    /// Its official address.
    pub address: Option<String>,
    /// Bytes to fetch.
    pub bytes: u64,
}

/// The known data sets; `dir` as in [`crate::open`].
pub fn list(dir: Option<&Path>) -> Vec<Listed> {
    let entry = |known: &Known| {
        let embedded = matches!(known.format, Format::Embedded);
        let looked_in = if embedded { Vec::new() } else { places(known, dir) };
        let origin = known.origin.as_ref();
        Listed {
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

/// Whether a data set opened under a known name has the original's content, by [`Dataset::checksum`];
/// nothing where the name is not known or the original's checksum is not.
pub fn is_original(dataset: &Dataset) -> Option<bool> {
    let known = KNOWN.iter().find(|known| known.name == dataset.name)?;
    known.checksum.map(|checksum| checksum == dataset.checksum)
}
