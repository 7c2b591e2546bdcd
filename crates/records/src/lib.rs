//! A run on disk as plain data: the plan, trial ids, records, status.
//!
//! A run's folder holds
//!
//! ```text
//! plan.json               the plan, written once
//! trials/<id>.json        one record a trial
//! parents/<id>.json       one record a parent
//! weights/{parent,child,substitute}-<id>.safetensors
//! running/<id>            markers of trials under way
//! pictures.json           the first validation and test images, for reports
//! attempts.json           how many workers have died of each trial
//! halving.json            what successive halving has left out
//! logs/                   what workers say
//! slurm/                  what was submitted to a cluster
//! sessions.jsonl          one line for every process that took the run on
//! run.lock                held by the process that runs it
//! ```
//!
//! Every JSON file is written to a temporary file beside its place, synced and renamed, and carries a checksum:
//! a reader sees a whole file or none.

mod attempts;
mod envelope;
mod error;
mod files;
mod gc;
mod halving;
mod id;
mod lock;
mod merge;
mod pictures;
pub mod plan;
pub mod prescription;
pub mod record;
mod run;
pub mod scan;
mod status;

pub use envelope::{digest, parent_digest};
pub use error::Error;
pub use gc::Garbage;
pub use halving::{Halving, Rung};
pub use id::{Canonical, content_id};
pub use lock::{Lock, Running};
pub use merge::{Merged, merge};
pub use pictures::Pictures;
pub use plan::Plan;
pub use record::{ParentRecord, Record};
pub use run::Run;
pub use status::Status;
