//! What ends a command early: one line for the user, exit code 2.

use std::fmt::{Display, Formatter, Result};
use std::io::{Error, ErrorKind};
use std::path::Path;

/// One line that names what failed and the remedy.
#[derive(Debug)]
pub enum Fail {
    /// Anything that the user should read.
    Message(String),
    /// The reader of our output went away: no fault.
    ClosedPipe,
}

impl Fail {
    /// An error about a file.
    pub fn file(path: &Path, error: Error) -> Fail {
        let remedy = match error.kind() {
            ErrorKind::StorageFull => "; free some space and run the same command again",
            ErrorKind::PermissionDenied => "; choose a place where you may write",
            _ => "",
        };
        Fail::Message(format!("{}: {error}{remedy}", path.display()))
    }

    /// Whether the reader of our output went away.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Fail::ClosedPipe)
    }
}

impl Display for Fail {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Fail::Message(message) => f.write_str(message),
            Fail::ClosedPipe => f.write_str("the output was closed"),
        }
    }
}

impl From<Error> for Fail {
    fn from(error: Error) -> Fail {
        match error.kind() {
            ErrorKind::BrokenPipe => Fail::ClosedPipe,
            _ => Fail::Message(error.to_string()),
        }
    }
}

macro_rules! from {
    ($($error:ty),*) => {
        $(impl From<$error> for Fail {
            fn from(error: $error) -> Fail {
                Fail::Message(error.to_string())
            }
        })*
    };
}

from!(
    nettriage_net::Error,
    nettriage_engine::Error,
    nettriage_data::Error,
    nettriage_records::Error,
    nettriage_train::Error,
    nettriage_jobs::Error,
    nettriage_compress::Error,
    nettriage_study::Error,
    nettriage::Error
);
