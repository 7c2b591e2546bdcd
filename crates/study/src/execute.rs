//! Running a plan: the trials without a record go to an executor.

use std::time::Instant;

use nettriage_formats::safetensors;
use nettriage_jobs::Executor;
use nettriage_net::Network;
use nettriage_records::plan::TrialSpec;
use nettriage_records::{Halving, Run, content_id};

use crate::context::StudyContext;
use crate::halving::{self, HalvingState};
use crate::jobs::{Progress, Resources, TrialJobs, cache_order, parent_of, train_all};
use crate::rate::Rate;
use crate::shared::SharedWork;
use crate::{Error, parent, rate, trial};

/// The run's name: the study's and a hash of its plan.
pub fn folder_name(plan: &nettriage_records::Plan) -> String {
    format!("{}-{}", plan.name, &content_id(plan)[..8])
}

/// Bounds of one call; a later call continues.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// No trial starts after this, and trainings stop there, if they write checkpoints.
    pub deadline: Option<Instant>,
    /// Most trials to run.
    pub trials: Option<usize>,
}

/// Runs the trials of the plan that have no record yet, within the limits. True if none is left.
///
/// The caller holds the run's lock.
pub fn execute(
    run: &Run,
    context: &StudyContext,
    executor: &dyn for<'a> Executor<TrialJobs<'a>>,
    resources: Resources,
    limits: Limits,
    progress: &dyn Progress,
) -> Result<bool, Error> {
    let mut allowed = limits.trials.unwrap_or(usize::MAX);
    loop {
        let Remaining { left, pending, of, halving } = remaining(run, context)?;
        if halving.is_some() && halving != run.halving()? {
            halving.map_or(Ok(()), |halving| run.write_halving(&halving))?;
        }
        if pending.is_empty() {
            return Ok(left == 0);
        }
        let mut pending = pending;
        pending.truncate(allowed);
        let over = limits.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if pending.is_empty() || over {
            return Ok(false);
        }
        allowed -= pending.len();
        let done = (of - left, of);
        if executor.shares_memory() {
            cache_order(run, context, &mut pending);
        }
        let jobs = TrialJobs::new(run, context, &pending, done, limits.deadline, resources, progress);
        match executor.run(&jobs) {
            // A parent's training has stopped at the limit, and is saved.
            Err(_) if jobs.has_stopped() => return Ok(false),
            result => result?,
        }
        let none = pending.iter().all(|&place| !run.has(&run.plan().trials[place].id));
        if none {
            // No trial could be run: stop rather than try for ever.
            return Ok(false);
        }
    }
}

/// Indices of the trials that may run now, and the number of parents that are not trained yet.
pub fn pending_work(run: &Run, context: &StudyContext) -> Result<(Vec<usize>, usize), Error> {
    let pending = remaining(run, context)?.pending;
    let specs = &run.plan().parents;
    Ok((pending, specs.iter().filter(|spec| !run.parent_weights_path(&spec.id).exists()).count()))
}

/// The trials that remain.
struct Remaining {
    /// Trials that still need a record.
    left: usize,
    /// Indices of the trials that may run now: all, or those of this rung of successive halving.
    pending: Vec<usize>,
    /// Trials that need a record.
    of: usize,
    /// What successive halving has skipped so far, if the study uses it.
    halving: Option<Halving>,
}

fn remaining(run: &Run, context: &StudyContext) -> Result<Remaining, Error> {
    let pending = pending(run)?;
    let trials = &run.plan().trials;
    let Some(keep) = context.study.halving.as_ref().map(|halving| halving.keep) else {
        return Ok(Remaining { left: pending.len(), pending, of: trials.len(), halving: None });
    };
    let HalvingState { halving, seeds } = halving::state_of(run, keep)?;
    let left: Vec<usize> = pending.into_iter().filter(|&i| !halving.skipped.contains(&trials[i].id)).collect();
    let now = left.iter().copied().filter(|&i| trials[i].seed < seeds).collect();
    let of = trials.len() - halving.skipped.len();
    Ok(Remaining { left: left.len(), pending: now, of, halving: Some(halving) })
}

/// Refuses a device whose engine or precision is not the run's.
///
/// # Errors
/// Both, with the flags that choose them.
pub fn check_engine(run: &Run, context: &StudyContext) -> Result<(), Error> {
    let (there, here) = (&run.plan().engine, context.device().engine());
    if *there == here {
        return Ok(());
    }
    let name = |engine: &Option<String>| engine.clone().unwrap_or_else(|| "nettriage's own engine".to_owned());
    Err(Error::Request(format!(
        "{}: the run was computed by {}, not by {}: choose --device and --precision as there",
        run.folder().display(),
        name(there),
        name(&here)
    )))
}

/// Trains (or reads) the plan's parents only.
///
/// The caller holds the run's lock.
pub fn train_parents(
    run: &Run,
    context: &StudyContext,
    resources: Resources,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let checkpoints = context.runtime.checkpoints(run, None);
    let shared = SharedWork::new(context, resources.cache);
    let parents = train_all(run, &shared, resources.workers * resources.threads, &checkpoints, progress);
    checkpoints.take_notes().iter().for_each(|note| progress.note(note));
    parents.map(drop)
}

/// Indices of the trials without a complete record. A failed trial has one; `Run::reopen` removes it.
fn pending(run: &Run) -> Result<Vec<usize>, Error> {
    let mut pending = Vec::new();
    for (index, spec) in run.plan().trials.iter().enumerate() {
        if run.record(&spec.id)?.is_none() {
            pending.push(index);
        }
    }
    Ok(pending)
}

/// The network of a trial: from its stored weights, or by running the trial again.
pub fn recompute(run: &Run, context: &StudyContext, spec: &TrialSpec) -> Result<Network, Error> {
    if let Some(bytes) = run.child_weights(&spec.id)? {
        return Ok(safetensors::from_bytes(&bytes)?);
    }
    check_engine(run, context)?;
    let shared = SharedWork::new(context, 0);
    let parent = parent_of(run, spec)?;
    let checkpoints = context.runtime.checkpoints(run, None);
    let parent = parent::prepare(&shared, run, parent, 1, &checkpoints, |_, _, _| ())?;
    if context.study.children.rate == Rate::Auto {
        let first = match run.plan().parents.first().filter(|first| first.id != parent.id) {
            Some(first) => &parent::prepare(&shared, run, first, 1, &checkpoints, |_, _, _| ())?,
            None => &parent,
        };
        rate::of_children(&shared, run, first, 1, &checkpoints)?;
    }
    let finished = trial::run(&shared, &parent, spec, 1, None)?;
    finished.network.ok_or_else(|| Error::Request(format!("trial {} diverged: it has no network to write", spec.id)))
}
