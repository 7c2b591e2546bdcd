//! Errors of studies, scans and prescriptions, each one line with its remedy.

/// Why a study could not be read, planned or run, or a scan or a prescription could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The study file is not what it should be.
    #[error("{file}: {problem}")]
    Study {
        /// The file.
        file: String,
        /// Place, problem and remedy.
        problem: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// What was requested cannot be done with this network or this data set.
    #[error("{0}")]
    Request(String),
    /// From training.
    #[error(transparent)]
    Train(#[from] nettriage_train::Error),
    /// From compression.
    #[error(transparent)]
    Compress(#[from] nettriage_compress::Error),
    /// From the executor.
    #[error(transparent)]
    Jobs(#[from] nettriage_jobs::Error),
    /// From the network.
    #[error(transparent)]
    Net(#[from] nettriage_net::Error),
    /// From the engine.
    #[error(transparent)]
    Engine(#[from] nettriage_engine::Error),
    /// From the data set.
    #[error(transparent)]
    Data(#[from] nettriage_data::Error),
    /// From the run's folder.
    #[error(transparent)]
    Records(#[from] nettriage_records::Error),
}

impl Error {
    /// Whether a training stopped early, and is saved.
    pub(crate) fn is_stop(&self) -> bool {
        matches!(self, Error::Train(nettriage_train::Error::Stopped { .. }))
    }

    /// Whether the run's folder is at fault, and no trial.
    pub(crate) fn is_of_folder(&self) -> bool {
        matches!(self, Error::Records(_) | Error::Train(nettriage_train::Error::Records(_)))
    }
}
