//! Errors of this crate.

use std::borrow::Cow;

/// Text of a message with control characters escaped: names come from files, and a terminal executes control sequences.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(escaped).collect())
}

/// Names joined by commas; the rest of a long list as a number.
pub fn shorten(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut text = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    text
}

/// An error of this crate. Every message is one line that names the place and, where there is one, the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A layer with impossible geometry, inputs or name.
    #[error("layer `{}`: {}", printable(.layer), printable(.problem))]
    Layer {
        /// The layer's name.
        layer: String,
        /// What is wrong.
        problem: String,
    },
    /// An inconsistent graph.
    #[error("network `{}`: {}", printable(.network), printable(.problem))]
    Graph {
        /// The network's name.
        network: String,
        /// What is wrong.
        problem: String,
    },
    /// Weights that do not fit their graph.
    #[error("the weights do not fit network `{}`: {}", printable(.network), printable(.problem))]
    Weights {
        /// The network's name.
        network: String,
        /// What is wrong: weights that are missing, unexpected, or of another shape.
        problem: String,
    },
    /// A block that cannot be separated, or a substitute that does not fit its shapes.
    #[error("block `{}`: {}", printable(.block), printable(.problem))]
    Block {
        /// The block's name.
        block: String,
        /// What is wrong.
        problem: String,
    },
    /// An architecture that cannot be built.
    #[error("architecture `{}`: {}", printable(.arch), printable(.problem))]
    Arch {
        /// The requested name.
        arch: String,
        /// What is wrong.
        problem: String,
    },
    /// An unknown name of a substitute, init or the like.
    #[error("{}", printable(.0))]
    Name(String),
    /// A file that cannot be read or written, or whose content is not what is expected.
    #[error("{}: {}", printable(.path), printable(.problem))]
    File {
        /// The file's path, or a word for data in memory.
        path: String,
        /// What is wrong.
        problem: String,
    },
}

impl Error {
    /// An error about a layer.
    pub fn layer(layer: &str, problem: impl Into<String>) -> Error {
        Error::Layer { layer: layer.to_string(), problem: problem.into() }
    }

    pub(crate) fn block(block: &str, problem: impl Into<String>) -> Error {
        Error::Block { block: block.to_string(), problem: problem.into() }
    }

    /// An error about a file.
    pub fn file(path: impl std::fmt::Display, problem: impl std::fmt::Display) -> Error {
        Error::File { path: path.to_string(), problem: problem.to_string() }
    }
}
