//! Errors of compression, each one line with its remedy.

/// Why a network could not be scanned or compressed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was requested cannot be done with this network or these images.
    #[error("{0}")]
    Request(String),
    /// From training.
    #[error(transparent)]
    Train(#[from] nettriage_train::Error),
    /// From the folder of a prescription.
    #[error(transparent)]
    Records(#[from] nettriage_records::Error),
    /// From the network.
    #[error(transparent)]
    Net(#[from] nettriage_net::Error),
    /// From the engine.
    #[error(transparent)]
    Engine(#[from] nettriage_engine::Error),
}
