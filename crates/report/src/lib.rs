//! nettriage-report
