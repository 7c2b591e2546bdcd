//! The statistics, on plain numbers. Nothing here knows what a block or a trial is.

pub mod bootstrap;
pub mod distributions;
pub mod kendall;
pub mod omnibus;
pub mod paired;
pub mod random;
pub mod survival;
