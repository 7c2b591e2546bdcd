//! Studies of deep net triage: study file, plan, trials, readings.
//!
//! A [`Study`] file names network, data and what to try; a [`StudyContext`] has them in memory; [`plan`] lists every
//! trial; [`execute`] runs them, each a pure function of the plan and its index, and writes one record per trial.

mod budget;
mod child;
mod context;
mod error;
mod estimate;
mod execute;
mod filters;
mod halving;
mod jobs;
mod limits;
mod machine;
mod metric;
mod options;
mod panics;
mod parent;
mod patches;
mod plan;
mod rate;
mod sample_images;
mod shared;
mod similarity;
mod study;
mod template;
mod trial;

pub use budget::{Budget, ChildBudget};
pub use context::{StudyContext, context_of, store_study_folder};
pub use error::Error;
pub use estimate::{Estimate, estimate};
pub use execute::{Limits, check_engine, execute, folder_name, pending_work, recompute, train_parents};
pub use jobs::{Progress, Resources, TrialJobs, Worker};
pub use limits::Limit;
pub use machine::machine;
pub use metric::{MetricStudy, record_failure, record_values};
pub use options::{Reuse, RuntimeOptions};
pub use plan::{notes, plan};
pub use rate::Rate;
pub use study::{BlockRange, Children, Data, Halving, Keep, Parent, Reading, Study, Training, Triage, ValidationFrom};
pub use template::template;
