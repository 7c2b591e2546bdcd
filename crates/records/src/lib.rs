//! A run on disk as plain data: the plan, trial ids, records, status.

pub mod plan;
pub mod record;
