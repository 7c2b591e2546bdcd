//! Errors of reading and fetching data sets.

use std::path::{Path, PathBuf};

/// An error; its message is one line that names the file, the place in it and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system reported an error on a file or folder.
    #[error("cannot {action} {}: {cause}", path.display())]
    Io {
        /// The operation, such as "read".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        cause: std::io::Error,
    },
    /// A file is shorter or longer than its format requires.
    #[error("{}: expected {expected} bytes, found {found}; {remedy}", file.display())]
    Length {
        /// The file.
        file: PathBuf,
        /// Length in bytes by the format or the file's own header.
        expected: u64,
        /// Length in bytes (after decompression) as text: a number, or a bound where reading stopped early.
        found: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A file's content violates its format.
    #[error("{}: {problem}; {remedy}", file.display())]
    Content {
        /// The file, with the entry's name for an archive.
        file: PathBuf,
        /// What is wrong, and where.
        problem: String,
        /// What to do about it.
        remedy: String,
    },
    /// A data set, or one of its files, was not found.
    #[error("no {what} found in {places}; {remedy}")]
    Missing {
        /// The data set or file.
        what: String,
        /// The folders that were searched.
        places: String,
        /// What to do about it.
        remedy: String,
    },
    /// No data set has this name.
    #[error("there is no data set '{name}'{}; known are {known}", hint(name, nearest.as_deref()))]
    UnknownSet {
        /// The requested name.
        name: String,
        /// The nearest known name, if one is near.
        nearest: Option<String>,
        /// All known names.
        known: String,
    },
    /// Images of a folder or archive that cannot be decoded.
    #[error("{}: {bad} of {total} images cannot be decoded: {first}; replace or remove them", folder.display())]
    Undecodable {
        /// The folder or archive.
        folder: PathBuf,
        /// Number of images that cannot be decoded.
        bad: usize,
        /// Number of images in all.
        total: usize,
        /// The first of them, each with its reason.
        first: String,
    },
    /// The disk has no space for what exceeds the memory budget.
    #[error("{}: no space for {bytes} bytes that exceed the memory budget: {cause}; free disk space, choose another folder, or allow more memory", folder.display())]
    Spill {
        /// The folder.
        folder: PathBuf,
        /// Bytes needed.
        bytes: u64,
        /// The system's error.
        cause: std::io::Error,
    },
    /// A download did not succeed.
    #[error("{address}: {problem}; {remedy}")]
    Download {
        /// The file's address.
        address: String,
        /// What is wrong.
        problem: String,
        /// What to do about it.
        remedy: String,
    },
    /// A setting is outside its range.
    #[error("{0}")]
    Setting(String),
}

impl Error {
    /// A function for `map_err` that makes an [`Error::Io`].
    pub(crate) fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> Error + 'a {
        move |cause| Error::Io { action, path: path.to_path_buf(), cause }
    }

    /// An [`Error::Content`].
    pub(crate) fn content(file: &Path, problem: impl Into<String>, remedy: impl Into<String>) -> Error {
        Error::Content { file: file.into(), problem: one_line(&problem.into()), remedy: remedy.into() }
    }
}

/// Text from a file or a library for use within a message of one line: trimmed, control characters escaped, the middle of
/// a very long text left out.
pub(crate) fn one_line(text: &str) -> String {
    const ENDS: usize = 150;
    let mut line = String::new();
    for letter in text.trim().chars() {
        if letter.is_control() {
            line.extend(letter.escape_default());
        } else {
            line.push(letter);
        }
    }
    let letters = line.chars().count();
    if letters > 2 * ENDS {
        let start: String = line.chars().take(ENDS).collect();
        let end: String = line.chars().skip(letters - ENDS).collect();
        line = format!("{start} … {end}");
    }
    line
}

/// What a name that no data set has may stand for: a known name that is near, or a folder of images.
fn hint(name: &str, nearest: Option<&str>) -> String {
    match nearest {
        _ if std::path::Path::new(name).is_dir() => {
            format!(" (for the images in that folder: folder, with --data-dir {name})")
        }
        Some(nearest) => format!(" (did you mean '{nearest}'?)"),
        None => String::new(),
    }
}
