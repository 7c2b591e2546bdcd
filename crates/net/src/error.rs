//! What can go wrong, said so that a person can act on it.

use std::borrow::Cow;

/// Text of a message without what a terminal would obey: names come from files, and a file may hold anything.
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
    /// A layer that cannot be: its geometry, its inputs or its name.
    #[error("layer `{}`: {}", printable(.layer), printable(.problem))]
    Layer {
        /// The layer's name.
        layer: String,
        /// What is wrong.
        problem: String,
    },
    /// A graph that does not hang together.
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
        /// What is wrong: the missing, the unexpected, the ones of another shape.
        problem: String,
    },
    /// A block that cannot be cut, or a substitute that cannot take its place.
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
        /// The name asked for.
        arch: String,
        /// What is wrong.
        problem: String,
    },
    /// A word that names no substitute, init or the like.
    #[error("{}", printable(.0))]
    Name(String),
    /// A file that cannot be read or written, or does not hold what it should.
    #[error("{}: {}", printable(.path), printable(.problem))]
    File {
        /// The file's path, or what stands for it.
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
