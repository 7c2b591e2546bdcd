//! Trials as threads of this process: they share activations in memory.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nettriage_records::plan::Role;

use super::{Executor, Job, Resources, one};
use crate::Error;
use crate::execute::parents;
use crate::feed::Shared;
use crate::scheme::{Loss, Scheme, Train};

/// `--on local`: whole trials side by side, one thread each.
pub struct Threads(pub Resources);

impl Executor for Threads {
    fn run(&self, job: &Job<'_>) -> Result<(), Error> {
        let shared = Shared::new(job.setting, self.0.cache);
        let parents = parents(job.run, &shared, self.0, job.progress)?;
        job.begin();
        let mut order = job.pending.to_vec();
        order.sort_by_key(|&index| {
            let spec = job.spec(index);
            match spec.role {
                Role::Parent => LAST,
                _ => job.setting.study.scheme(&spec.scheme).as_ref().map_or(0, turn),
            }
        });
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

/// The parent's own trial trains nothing, and all but its last block is kept by then.
const LAST: u8 = 3;

/// When it is the turn of a scheme's trials, in plan order otherwise.
///
/// Those that imitate the parent's logits come last: by then most of the way to these is kept, for the trials of the last
/// block at least. Among them those that train every layer are first, as a long trial at the very end would leave the
/// other workers without work.
fn turn(scheme: &Scheme) -> u8 {
    match scheme.stages.iter().any(|stage| stage.loss == Loss::Distillation) {
        false => 0,
        true if scheme.stages.iter().any(|stage| stage.train == Train::All) => 1,
        true => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheme::{PRESETS, preset};

    #[test]
    fn distillation_comes_last_and_its_long_trials_first() {
        let mut names = PRESETS;
        names.sort_by_key(|name| turn(&preset(name).unwrap()));
        let [rest @ .., long, longer, short] = names;
        assert_eq!([long, longer, short], ["distill-global", "hint-then-distill", "distill-local"]);
        assert_eq!(rest, ["none", "local", "global", "hint", "hint-then-global"]);
    }
}
