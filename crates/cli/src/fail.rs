//! What ends a command without success: one line for the user, and the exit code.

use std::fmt::{Display, Formatter, Result};
use std::io::{Error, ErrorKind};
use std::path::Path;

/// One line that names what failed and the remedy.
#[derive(Debug)]
pub enum Fail {
    /// Anything that the user should read.
    Message(String),
    /// The command came to its end, but trials failed: exit code 1.
    FailedTrials(String),
    /// A signal stopped the command, and what it had computed is saved.
    Stopped(String),
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

    /// 0 if it is no fault, 1 if trials failed, 2 if the command could not do what was requested, 130 if a signal stopped it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Fail::ClosedPipe => 0,
            Fail::FailedTrials(_) => 1,
            Fail::Message(_) => 2,
            // As shells say of a program that SIGINT ended.
            Fail::Stopped(_) => 130,
        }
    }
}

impl Display for Fail {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Fail::Message(message) | Fail::FailedTrials(message) | Fail::Stopped(message) => f.write_str(message),
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
    nettriage_study::Error
);
