//! Deep net triage: schemes, the training loop, trials and studies.
//!
//! The way of the data: a [`Study`] file names network, data and what to try; a [`Setting`] has them in memory;
//! [`plan`] lists every trial; [`execute`] runs them, each a pure function of the plan and its index,
//! and writes one record a trial.

mod cache;
mod error;
pub mod evaluate;
mod execute;
mod feed;
mod filters;
mod least_squares;
mod parent;
mod plan;
pub mod prescribe;
mod savings;
pub mod scan;
pub mod scheme;
mod seed;
mod setting;
mod study;
mod surgery;
mod timing;
mod train;
mod trial;
mod values;

pub use error::Error;
pub use execute::{Progress, Resources, execute, execute_one, folder_name, recompute, train_parents};
pub use plan::plan;
pub use savings::{Means, Savings};
pub use setting::{Setting, without_softmax};
pub use study::{BlockRange, Children, Data, Keep, Study, Training, Triage};
pub use values::Precision;
