//! A run on disk as plain data: the plan, the records of its trials, locks and progress.
//!
//! ```no_run
//! use nettriage_records::Run;
//!
//! let run = Run::open("runs/digits-1f2e".as_ref())?.read_only();
//! for record in run.records()? {
//!     let accuracy = record.readings.map(|readings| readings.test.top1);
//!     println!("{:?} {:?} {:?}", record.spec.block, record.spec.init, accuracy);
//! }
//! # Ok::<(), nettriage_records::Error>(())
//! ```
//!
//! A run is a folder (that of a prescription is described at [`WorkFolder`]):
//!
//! ```text
//! plan.json               the plan, written once
//! trials/<id>.json        one record per trial
//! parents/<id>.json       one record per parent
//! rates/<id>.json         one record per learning-rate range test
//! weights/{parent,child,substitute}-<id>.safetensors
//! checkpoints/<id>.bin    the state of an interrupted training
//! running/<id>            markers of running trials, locked by their processes
//! pictures.json           sample images for reports: the first validation and test images
//! attempts.json           the number of worker processes that died during each trial
//! halving.json            the decisions of successive halving
//! logs/                   the output of workers
//! slurm/                  submissions to a cluster
//! sessions.jsonl          one line per process that has run the study
//! run.lock                locked by the process that is running the study
//! ```
//!
//! Plans, records and sample images are written atomically and carry a checksum, so a reader never sees a part of a file.

mod attempts;
pub mod checkpoint;
mod envelope;
mod error;
mod files;
mod gc;
mod halving;
mod id;
mod lock;
mod merge;
pub mod metric;
pub mod plan;
pub mod prescription;
pub mod record;
mod run;
mod sample_images;
pub mod scan;
mod status;
mod work;

pub use checkpoint::Checkpoint;
pub use envelope::{digest, parent_digest};
pub use error::Error;
pub use gc::Garbage;
pub use halving::{Halving, Rung};
pub use id::{Canonical, content_id};
pub use lock::{Lock, Running};
pub use merge::{Merged, merge};
pub use plan::Plan;
pub use record::{ParentRecord, Record, unix_time};
pub use run::{Run, is_file_of};
pub use sample_images::SampleImages;
pub use status::Status;
pub use work::{AttemptRecord, TimesRecord, WorkFolder};
