//! Trials as threads of this process: they share activations in memory.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::{Executor, Job, Resources, one};
use crate::Error;
use crate::execute::parents;
use crate::feed::Shared;

/// `--on local`: whole trials side by side, one thread each.
pub struct Threads(pub Resources);

impl Executor for Threads {
    fn run(&self, job: &Job<'_>) -> Result<(), Error> {
        let shared = Shared::new(job.setting, self.0.cache);
        let parents = parents(job.run, &shared, self.0, job.progress)?;
        job.begin();
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let failure = Mutex::new(None);
        let work = || {
            while !stop.load(Ordering::Relaxed) && !job.is_over() {
                let Some(&index) = job.pending.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                let spec = job.spec(index);
                job.progress.started(spec);
                match one(job.run, &shared, &parents, spec, 1) {
                    Ok(record) => job.progress.ended(&record),
                    Err(error) => {
                        // What cannot be written down ends the run: the disk may be full. Records so far are safe.
                        stop.store(true, Ordering::Relaxed);
                        *failure.lock().expect("no holder of this lock panics") = Some(error);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.0.workers.max(1) {
                scope.spawn(work);
            }
        });
        failure.into_inner().expect("no holder of this lock panics").map_or(Ok(()), Err)
    }
}
