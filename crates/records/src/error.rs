//! What can go wrong with a run's folder.

use std::io;
use std::path::{Path, PathBuf};

/// What can go wrong with a run's folder; each message names the file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// No space is left.
    #[error("no space left for {}: free some and run the same command again; what is recorded so far is kept", path.display())]
    Full {
        /// The file that could not be written.
        path: PathBuf,
    },
    /// A file of another version of this program.
    #[error("{}: made by another version (file version {found}, this program reads {supported}): use the program that made it, or start a new folder", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The version that this program reads.
        supported: u32,
    },
    /// The folder holds no plan.
    #[error("{}: no run here (plan.json is absent): give the folder of a run, or start one with `nettriage run`", path.display())]
    NoRun {
        /// The folder.
        path: PathBuf,
    },
    /// The plan is damaged.
    #[error("{}: damaged ({reason}): remove it and run the study again with the same --out; the records are kept", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The folder belongs to another plan.
    #[error("{}: holds the run of another plan, which differs in {difference}: choose another --out, or remove that folder", path.display())]
    OtherPlan {
        /// The folder.
        path: PathBuf,
        /// The first part that differs.
        difference: String,
    },
    /// Two runs that do not belong together.
    #[error("{} and {} do not belong together: {file} differs in {key}: merge runs of one plan whose parent was trained once, on machines with the same vector instructions", one.display(), other.display())]
    Apart {
        /// One run's folder.
        one: PathBuf,
        /// The other's.
        other: PathBuf,
        /// The file in both.
        file: String,
        /// The first key that differs, with both values.
        key: String,
    },
    /// A record that is torn or altered.
    #[error("{}: torn or altered: run that run again (it sets the file aside and redoes the trial), then merge", path.display())]
    Torn {
        /// The file.
        path: PathBuf,
    },
    /// Another process runs it.
    #[error("{}: already being run{}: wait for it, or choose another --out", path.display(), holder(*pid))]
    Locked {
        /// The folder.
        path: PathBuf,
        /// The process, where it is known.
        pid: Option<u32>,
    },
    /// An id that cannot be a file's name, or one that the plan has twice.
    #[error("the plan's id `{id}` {problem}: ids are unique, of 1 to 64 letters, digits, `-` or `_`")]
    Id {
        /// The id.
        id: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A record that does not belong to the plan.
    #[error("the record of `{id}` {problem}")]
    Foreign {
        /// Its id.
        id: String,
        /// What is wrong with it.
        problem: String,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" by process {pid}")).unwrap_or_default()
}

impl Error {
    pub(crate) fn io(path: &Path, source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full { path: path.into() },
            _ => Error::Io { path: path.into(), source },
        }
    }
}
