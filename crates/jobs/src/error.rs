//! Errors of executors, each one line with its remedy.

use std::path::Path;

use crate::BoxError;

/// Why jobs could not be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written, or a program could not be started.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// From Slurm's commands.
    #[error("{0}")]
    Slurm(String),
    /// From a worker process.
    #[error("{0}")]
    Worker(String),
    /// From the jobs themselves.
    #[error(transparent)]
    Jobs(#[from] BoxError),
}

impl Error {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Error {
        Error::Io { path: path.display().to_string(), source }
    }
}
