//! Which trials successive halving leaves out, and why.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{Error, Run, files};

const FILE: &str = "halving.json";

/// What successive halving has decided so far: a pure function of the plan and its records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Halving {
    /// Share of the candidates that goes on after each rung.
    pub keep: f64,
    /// The rungs that are over.
    pub rungs: Vec<Rung>,
    /// Trials that are not run.
    pub skipped: BTreeSet<String>,
}

/// One rung of successive halving.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rung {
    /// Seeds behind every candidate that was left.
    pub seeds: u64,
    /// Pairs of init and scheme that were compared, for each substitute.
    pub candidates: usize,
    /// Those that went on.
    pub kept: usize,
}

impl Run {
    /// What halving has decided; `None` where it has not, or where the file is damaged and will be made anew.
    pub fn halving(&self) -> Result<Option<Halving>, Error> {
        let bytes = files::read(&self.folder().join(FILE))?.unwrap_or_default();
        Ok(serde_json::from_slice(&bytes).ok())
    }

    /// Writes down what halving has decided.
    pub fn write_halving(&self, halving: &Halving) -> Result<(), Error> {
        files::write_atomic(&self.folder().join(FILE), &serde_json::to_vec(halving).expect("plain data"))
    }
}
