//! The statistical tests and intervals, on plain numbers, independent of blocks and trials.

pub mod bootstrap;
pub mod distributions;
pub mod kendall;
pub mod omnibus;
pub mod paired;
pub mod random;
pub mod survival;
