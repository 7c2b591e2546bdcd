//! Trials as threads of this process: they share activations in memory.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::{Executor, Job, Resources, one};
use crate::Error;
use crate::execute::parents;
use crate::feed::Shared;
use crate::scheme::{Loss, Train};

/// `--on local`: whole trials side by side, one thread each.
pub struct Threads(pub Resources);

impl Executor for Threads {
    fn run(&self, job: &Job<'_>) -> Result<(), Error> {
        let shared = Shared::new(job.setting, self.0.cache);
        let parents = parents(job.run, &shared, self.0, job.progress)?;
        job.begin();
        let order = order(job);
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let failure = Mutex::new(None);
        let work = || {
            while !stop.load(Ordering::Relaxed) && !job.is_over() {
                let Some(&index) = order.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
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

/// The pending trials, those that imitate the parent's logits last: by then most of the way to these is kept, for the trials of
/// the last block at least. Among them those that train every layer are first, as a long trial at the very end would
/// leave the other workers without work.
fn order(job: &Job<'_>) -> Vec<usize> {
    let rank = |index: &usize| {
        let scheme = job.setting.study.scheme(&job.spec(*index).scheme);
        let stages = scheme.as_ref().map_or(&[][..], |scheme| &scheme.stages);
        match stages.iter().any(|stage| stage.loss == Loss::Distillation) {
            false => 0,
            true if stages.iter().any(|stage| stage.train == Train::All) => 1,
            true => 2,
        }
    };
    let mut order = job.pending.to_vec();
    order.sort_by_key(rank);
    order
}
