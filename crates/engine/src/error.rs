//! Errors of building a model and of loading weights into it.

/// Why a model cannot be built, or refuses the weights that it is given.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The network itself is invalid.
    #[error(transparent)]
    Network(#[from] nettriage_net::Error),
    /// An option names a layer that the network does not have.
    #[error("no layer {name:?} in network {network:?}: name one of its layers for {purpose}")]
    Layer {
        /// The name as given.
        name: String,
        /// The network's name.
        network: String,
        /// The option's purpose.
        purpose: &'static str,
    },
    /// A weight that the network does not have, or whose shape differs.
    #[error("weight {name:?} {problem}: the weights must belong to this network")]
    Weight {
        /// `<layer>.<parameter>`.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An option outside its range.
    #[error("option {option} is {value}: it must be {allowed}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// The value as given.
        value: String,
        /// The values that are allowed.
        allowed: &'static str,
    },
    /// The model does not fit into memory.
    #[error(
        "network {network:?} with batches of {batch} images needs {bytes} bytes of memory, more than this machine provides: \
         use a smaller batch"
    )]
    Memory {
        /// The network's name.
        network: String,
        /// The batch size, in images.
        batch: usize,
        /// Bytes needed (at most `u64::MAX`).
        bytes: u64,
    },
}
