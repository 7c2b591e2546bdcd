//! The statistical tests and intervals, on plain numbers. They know nothing of blocks or trials.

pub mod bootstrap;
pub mod distributions;
pub mod kendall;
pub mod omnibus;
pub mod paired;
pub mod random;
pub mod survival;
