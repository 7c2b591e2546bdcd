//! What can go wrong between a file and a data set.

use std::path::{Path, PathBuf};

/// An error that names the file, the place in it and the remedy, in one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file or folder.
    #[error("cannot {action} {}: {cause}", path.display())]
    Io {
        /// What was tried, such as "read".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        cause: std::io::Error,
    },
    /// A file is shorter or longer than its format says.
    #[error("{}: expected {expected} bytes, found {found}; {remedy}", file.display())]
    Length {
        /// The file.
        file: PathBuf,
        /// Bytes that the format or the file's own header ask for.
        expected: u64,
        /// Bytes that are there (after decompression), in words where they were not counted to the end.
        found: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A file's content is not what its format asks for.
    #[error("{}: {problem}; {remedy}", file.display())]
    Content {
        /// The file, with the entry's name for an archive.
        file: PathBuf,
        /// What is wrong, and where.
        problem: String,
        /// What to do about it.
        remedy: String,
    },
    /// A data set, or a part of it, is not where it was looked for.
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
    #[error("there is no data set '{name}'{}; known are {known}", nearest.as_ref().map(|n| format!(" (did you mean '{n}'?)")).unwrap_or_default())]
    UnknownSet {
        /// The name that was asked for.
        name: String,
        /// The nearest known name, if one is near.
        nearest: Option<String>,
        /// All known names.
        known: String,
    },
    /// Some images of a folder or archive cannot be decoded.
    #[error("{}: {bad} of {total} images cannot be decoded: {first}; replace or remove them", folder.display())]
    Pictures {
        /// The folder or archive.
        folder: PathBuf,
        /// How many are bad.
        bad: usize,
        /// How many there are.
        total: usize,
        /// The first of them, each with its reason.
        first: String,
    },
    /// There is no room on the disk for what exceeds memory.
    #[error("{}: no room for {bytes} bytes that exceed memory: {cause}; free some, name another folder, or allow more memory", folder.display())]
    Spill {
        /// The folder.
        folder: PathBuf,
        /// Bytes wanted.
        bytes: u64,
        /// The system's answer.
        cause: std::io::Error,
    },
    /// A download did not succeed.
    #[error("{address}: {problem}; {remedy}")]
    Download {
        /// The file's address.
        address: String,
        /// What happened.
        problem: String,
        /// What to do about it.
        remedy: String,
    },
    /// A setting is outside its range.
    #[error("{0}")]
    Setting(String),
}

impl Error {
    /// An [`Error::Io`] in the form that `map_err` wants.
    pub(crate) fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> Error + 'a {
        move |cause| Error::Io { action, path: path.to_path_buf(), cause }
    }

    /// An [`Error::Content`].
    pub(crate) fn content(file: &Path, problem: impl Into<String>, remedy: impl Into<String>) -> Error {
        Error::Content { file: file.into(), problem: one_line(&problem.into()), remedy: remedy.into() }
    }
}

/// Text from a file or a library, fit for one line of a message: trimmed, control characters escaped, the middle of
/// anything very long left out.
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
