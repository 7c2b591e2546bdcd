//! Errors of training, each one line with its remedy.

/// Why a network could not be trained or evaluated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was requested does not fit the network or the data set.
    #[error("{0}")]
    Mismatch(String),
    /// A training stopped early, and is saved.
    #[error("the training of {id} stopped at step {step}, from which the same command continues it")]
    Stopped {
        /// The training.
        id: String,
        /// Steps of its stage that have been taken.
        step: usize,
    },
    /// From the folder of checkpoints.
    #[error(transparent)]
    Records(#[from] nettriage_records::Error),
    /// From the network.
    #[error(transparent)]
    Net(#[from] nettriage_net::Error),
    /// From the engine.
    #[error(transparent)]
    Engine(#[from] nettriage_engine::Error),
    /// From the engine of PyTorch's devices.
    #[error(transparent)]
    Torch(#[from] nettriage_torch::Error),
    /// A name that is no device.
    #[error("unknown device {name:?}: use cpu, torch:cpu, torch:cuda, torch:cuda:N or torch:mps")]
    UnknownDevice {
        /// The name as given.
        name: String,
    },
    /// A precision that the processor's own kernels do not have.
    #[error(
        "--precision {precision} needs a device of PyTorch, such as --device torch:cuda; --device cpu computes in f32"
    )]
    Arithmetic {
        /// Its name.
        precision: &'static str,
    },
    /// From the data set.
    #[error(transparent)]
    Data(#[from] nettriage_data::Error),
}
