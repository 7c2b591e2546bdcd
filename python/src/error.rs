//! Errors as one Python exception, with the words of the command line.

use pyo3::PyErr;
use pyo3::create_exception;
use pyo3::exceptions::PyException;

create_exception!(nettriage, NettriageError, PyException, "What nettriage could not do, in one line with the remedy.");

/// The exception for an error of nettriage.
pub fn raise(error: impl std::fmt::Display) -> PyErr {
    NettriageError::new_err(error.to_string())
}
