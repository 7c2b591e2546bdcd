//! Jobs as threads of this process: they share what is in memory.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::{Error, Executor, Jobs};

/// Whole jobs side by side, each on a thread that may start more.
#[derive(Clone, Copy, Debug)]
pub struct Threads {
    /// Jobs at a time.
    pub workers: usize,
}

impl<J: Jobs + ?Sized> Executor<J> for Threads {
    fn run(&self, jobs: &J) -> Result<(), Error> {
        jobs.prepare(self.workers)?;
        run_side_by_side(jobs, self.workers, |_| (), |(), job| Ok(jobs.run(job)?), |()| ())
    }

    fn shares_memory(&self) -> bool {
        true
    }
}

/// Hands the pending jobs out to `workers` threads, each with a state of its own, until all are done, time is over, or one
/// fails: records so far are safe then, and no further job starts.
pub(crate) fn run_side_by_side<J: Jobs + ?Sized, S>(
    jobs: &J,
    workers: usize,
    start: impl Fn(usize) -> S + Sync,
    run: impl Fn(&mut S, usize) -> Result<(), Error> + Sync,
    end: impl Fn(S) + Sync,
) -> Result<(), Error> {
    let pending = jobs.pending();
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let failure = Mutex::new(None);
    let work = |number: usize| {
        let mut state = start(number);
        while !stop.load(Ordering::Relaxed) && !jobs.is_over() {
            let Some(&job) = pending.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            if let Err(error) = run(&mut state, job) {
                stop.store(true, Ordering::Relaxed);
                *failure.lock().expect("no holder of this lock panics") = Some(error);
            }
        }
        end(state);
    };
    std::thread::scope(|scope| {
        let work = &work;
        for number in 0..workers.clamp(1, pending.len().max(1)) {
            scope.spawn(move || work(number));
        }
    });
    failure.into_inner().expect("no holder of this lock panics").map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BoxError;

    struct Failing(Mutex<Vec<usize>>);

    impl Jobs for Failing {
        fn pending(&self) -> &[usize] {
            &[5, 6, 7, 8]
        }
        fn prepare(&self, _threads: usize) -> Result<(), BoxError> {
            Ok(())
        }
        fn run(&self, job: usize) -> Result<(), BoxError> {
            self.0.lock().unwrap().push(job);
            if job == 6 { Err("disk full".into()) } else { Ok(()) }
        }
    }

    #[test]
    fn an_error_ends_the_run_and_no_further_job_starts() {
        let jobs = Failing(Mutex::default());
        let error = Threads { workers: 1 }.run(&jobs).unwrap_err();
        assert_eq!(error.to_string(), "disk full");
        assert_eq!(jobs.0.into_inner().unwrap(), [5, 6]);
    }
}
