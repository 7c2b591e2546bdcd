//! Runs independent jobs: by threads of this process, by worker processes, or by array jobs of a Slurm cluster.
//!
//! A job is a number. What a job computes, and where its result is stored, is for an implementation of [`Jobs`] to know.
//! Every executor ends in the same computation, so the results are the same whoever ran the jobs, in which order, and
//! however often one was interrupted and run again.
//!
//! ```
//! use std::sync::Mutex;
//! use nettriage_jobs::{BoxError, Executor, Jobs, Threads};
//!
//! struct Squares(Mutex<Vec<(usize, usize)>>);
//!
//! impl Jobs for Squares {
//!     fn pending(&self) -> &[usize] { &[1, 2, 3] }
//!     fn prepare(&self, _threads: usize) -> Result<(), BoxError> { Ok(()) }
//!     fn run(&self, job: usize) -> Result<(), BoxError> {
//!         self.0.lock().unwrap().push((job, job * job));
//!         Ok(())
//!     }
//! }
//!
//! let squares = Squares(Mutex::default());
//! Threads { workers: 2 }.run(&squares)?;
//! let mut results = squares.0.into_inner().unwrap();
//! results.sort();
//! assert_eq!(results, [(1, 1), (2, 4), (3, 9)]);
//! # Ok::<(), nettriage_jobs::Error>(())
//! ```

mod error;
mod interface;
mod log;
mod processes;
pub mod slurm;
mod threads;

pub use error::Error;
pub use interface::{BoxError, Executor, Jobs, RemoteJobs};
pub use processes::{Ended, Processes, serve};
pub use slurm::Slurm;
pub use threads::Threads;
