//! Deep net triage: schemes, the training loop, trials and studies.
//!
//! The way of the data: a [`Study`] file names network, data and what to try; a [`Setting`] has them in memory;
//! [`plan`] lists every trial; [`execute`] runs them, each a pure function of the plan and its index,
//! and writes one record a trial.

mod cache;
mod error;
mod estimate;
pub mod evaluate;
mod execute;
pub mod executor;
mod feed;
mod filters;
mod halving;
mod machine;
mod moments;
mod parent;
mod patches;
mod pictures;
mod plan;
pub mod prescribe;
mod savings;
pub mod scan;
pub mod scheme;
mod seed;
mod setting;
mod similarity;
mod study;
mod surgery;
mod timing;
mod train;
mod trial;
mod values;

pub use error::Error;
pub use estimate::{Estimate, estimate};
pub use execute::{Limits, execute, folder_name, outlook, recompute, train_parents};
pub use executor::{Executor, Progress, Resources, Worker};
pub use machine::machine;
pub use plan::plan;
pub use savings::{Means, Savings};
pub use setting::{Setting, without_softmax};
pub use study::{BlockRange, Children, Data, Halving, Keep, Study, Training, Triage};
pub use values::Precision;
