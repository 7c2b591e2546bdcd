//! nettriage-data
