//! nettriage-study
