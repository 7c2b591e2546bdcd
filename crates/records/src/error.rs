//! Errors of a run's folder.

use std::io;
use std::path::{Path, PathBuf};

/// An error of a run's folder; its message is one line that names the file and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system reported an error.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The disk is full.
    #[error("no space left for {}: free disk space and run the same command again; existing records are kept", path.display())]
    Full {
        /// The file that could not be written.
        path: PathBuf,
    },
    /// A file in another version of the format.
    #[error("{}: written by another version of nettriage (file version {found}, this program reads {supported}): use that version, or start a new run with another --out", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The version that this program supports.
        supported: u32,
    },
    /// The folder holds no plan.
    #[error("{}: not a run (plan.json is missing): give the folder of a run, or start one with `nettriage run`", path.display())]
    NoRun {
        /// The folder.
        path: PathBuf,
    },
    /// The plan is damaged.
    #[error("{}: damaged ({reason}): remove this file and run the study again with the same --out; existing records are kept", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The folder belongs to another plan.
    #[error("{}: holds a run of another plan, which differs in {difference}: choose another --out, or remove that folder", path.display())]
    OtherPlan {
        /// The folder.
        path: PathBuf,
        /// The first part that differs.
        difference: String,
    },
    /// The folder belongs to another prescription.
    #[error("{}: holds a prescription that differs in `{key}` (setup.json): choose another --work, or remove that folder", path.display())]
    OtherSetup {
        /// The folder.
        path: PathBuf,
        /// The first key of the setup that differs.
        key: String,
    },
    /// The folder holds something else.
    #[error("{}: not empty, and not the folder of a prescription (setup.json is missing): choose another --work", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// A file has the folder's name.
    #[error("{}: a file, not a folder: choose another --work", path.display())]
    NotAFolder {
        /// The file.
        path: PathBuf,
    },
    /// Runs that cannot be merged.
    #[error("{} and {} cannot be merged: {file} differs in {key}: merge runs of one plan whose parent was trained once, by one engine, on machines with the same vector instructions", one.display(), other.display())]
    CannotMerge {
        /// One run's folder.
        one: PathBuf,
        /// The other's.
        other: PathBuf,
        /// The file that differs.
        file: String,
        /// The first key that differs, with both values.
        key: String,
    },
    /// A record that is truncated or altered.
    #[error("{}: truncated or altered: run that study again with the same --out (the trial is repeated), then merge", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
    },
    /// Weights that do not have the checksum in their record.
    #[error("{}: its checksum is not the one in {}: the file was altered; remove both files and run the study again with the same --out (they are computed again)", path.display(), record.display())]
    Weights {
        /// The file of weights.
        path: PathBuf,
        /// The record.
        record: PathBuf,
    },
    /// A checkpoint of another version of the program.
    #[error("{}: a checkpoint of another version of nettriage ({found}): continue with that version, or remove the file to begin this training again", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What wrote it.
        found: String,
    },
    /// Another process uses the folder.
    #[error("{}: in use by {}: wait for it to end, or choose another folder", path.display(), holder(*pid))]
    Locked {
        /// The folder.
        path: PathBuf,
        /// The id of that process, if known.
        pid: Option<u32>,
    },
    /// An id that is not a valid file name, or that occurs twice in the plan.
    #[error("the plan's id `{id}` {problem}: ids are unique, of 1 to 64 letters, digits, `-` or `_`")]
    Id {
        /// The id.
        id: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// A record that does not belong to the plan.
    #[error("the record of `{id}` {problem}")]
    Foreign {
        /// Its id.
        id: String,
        /// What is wrong.
        problem: String,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl Error {
    pub(crate) fn io(path: &Path, source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full { path: path.into() },
            _ => Error::Io { path: path.into(), source },
        }
    }
}
