//! What can go wrong before any arithmetic starts.

/// Why a model cannot be made, or will not take the weights it is given.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The network itself is not sound.
    #[error(transparent)]
    Network(#[from] nettriage_net::Error),
    /// A layer was named that the network does not have, or that is not computed.
    #[error("no layer {name:?} in network {network:?}: name one of its layers for {purpose}")]
    Layer {
        /// The name as given.
        name: String,
        /// The network's name.
        network: String,
        /// What it was named for.
        purpose: &'static str,
    },
    /// A weight has no place in the network, or another shape.
    #[error("weight {name:?} {problem}: give the weights of this very network")]
    Weight {
        /// `<layer>.<parameter>`.
        name: String,
        /// What is the matter with it.
        problem: String,
    },
    /// An option out of its range.
    #[error("option {option} is {value}: it must be {allowed}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// The value as given.
        value: String,
        /// What would be allowed.
        allowed: &'static str,
    },
    /// The buffers do not fit into memory.
    #[error(
        "network {network:?} at batch {batch} needs {bytes} bytes of buffers, which this machine does not give: take a smaller batch"
    )]
    Memory {
        /// The network's name.
        network: String,
        /// The batch asked for.
        batch: usize,
        /// Bytes of buffers (at most `u64::MAX`).
        bytes: u64,
    },
}
