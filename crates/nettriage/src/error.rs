//! The library's error: one line, with the remedy.

/// Why a scan, a study or a prescription could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was requested cannot be done.
    #[error("{0}")]
    Request(String),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// From the network.
    #[error(transparent)]
    Net(#[from] nettriage_net::Error),
    /// From the engine.
    #[error(transparent)]
    Engine(#[from] nettriage_engine::Error),
    /// From the data set.
    #[error(transparent)]
    Data(#[from] nettriage_data::Error),
    /// From a run's folder.
    #[error(transparent)]
    Records(#[from] nettriage_records::Error),
    /// From training.
    #[error(transparent)]
    Train(#[from] nettriage_train::Error),
    /// From compression.
    #[error(transparent)]
    Compress(#[from] nettriage_compress::Error),
    /// From a study.
    #[error(transparent)]
    Study(#[from] nettriage_study::Error),
}
