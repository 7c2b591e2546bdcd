//! nettriage-engine
