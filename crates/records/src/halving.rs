//! The decisions of successive halving.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{Error, Run, files};

const FILE: &str = "halving.json";

/// The decisions of successive halving so far: a pure function of the plan and its records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Halving {
    /// Fraction of the candidates that is kept after each rung.
    pub keep: f64,
    /// The completed rungs.
    pub rungs: Vec<Rung>,
    /// Ids of the trials that are not run.
    pub skipped: BTreeSet<String>,
}

/// One rung of successive halving.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rung {
    /// Number of seeds of every remaining candidate.
    pub seeds: u64,
    /// Number of pairs of init and scheme that were compared, for each substitute.
    pub candidates: usize,
    /// Number of those that were kept.
    pub kept: usize,
}

impl Run {
    /// The decisions so far; `None` if there are none, or if the file is damaged (it is then computed again).
    pub fn halving(&self) -> Result<Option<Halving>, Error> {
        let bytes = files::read(&self.folder().join(FILE))?.unwrap_or_default();
        Ok(serde_json::from_slice(&bytes).ok())
    }

    /// Writes the decisions.
    pub fn write_halving(&self, halving: &Halving) -> Result<(), Error> {
        files::write_atomic(&self.folder().join(FILE), &serde_json::to_vec(halving).expect("plain data"))
    }
}
