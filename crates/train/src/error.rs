//! Errors of training, each one line with its remedy.

/// Why a network could not be trained or evaluated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was requested does not fit the network or the data set.
    #[error("{0}")]
    Mismatch(String),
    /// From the network.
    #[error(transparent)]
    Net(#[from] nettriage_net::Error),
    /// From the engine.
    #[error(transparent)]
    Engine(#[from] nettriage_engine::Error),
    /// From the data set.
    #[error(transparent)]
    Data(#[from] nettriage_data::Error),
}
