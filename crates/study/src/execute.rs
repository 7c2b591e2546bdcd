//! Running a plan: what is left of it goes to an executor.

use std::time::Instant;

use nettriage_formats::safetensors;
use nettriage_net::Network;
use nettriage_records::plan::{ParentSpec, TrialSpec};
use nettriage_records::record::CurvePoint;
use nettriage_records::{Halving, Run, content_id};

use crate::executor::{Executor, Job, Progress, Resources, parent_of};
use crate::feed::{Parent, Shared};
use crate::halving::{self, Ladder};
use crate::setting::Setting;
use crate::{Error, parent, pictures, trial};

/// The run's name: the study's and a hash of its plan.
pub fn folder_name(plan: &nettriage_records::Plan) -> String {
    format!("{}-{}", plan.name, &content_id(plan)[..8])
}

/// Bounds of one call; what is left over is for the next.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// No trial is begun after this.
    pub deadline: Option<Instant>,
    /// At most so many trials.
    pub trials: Option<usize>,
}

/// Runs everything of the plan that has no record yet, within the limits. True if nothing is left.
///
/// The caller holds the run's lock.
pub fn execute(
    run: &Run,
    setting: &Setting,
    executor: &dyn Executor,
    limits: Limits,
    progress: &dyn Progress,
) -> Result<bool, Error> {
    let mut allowed = limits.trials.unwrap_or(usize::MAX);
    loop {
        let Step { left, pending, of, halving } = next(run, setting)?;
        if halving.is_some() && halving != run.halving()? {
            halving.map_or(Ok(()), |halving| run.write_halving(&halving))?;
        }
        if pending.is_empty() {
            return Ok(left == 0);
        }
        let pending = &pending[..pending.len().min(allowed)];
        let over = limits.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if pending.is_empty() || over {
            return Ok(false);
        }
        allowed -= pending.len();
        let done = (of - left, of);
        executor.run(&Job { run, setting, pending, done, deadline: limits.deadline, progress })?;
        let none = pending.iter().all(|&place| !run.has(&run.plan().trials[place].id));
        if none {
            // Nothing moves: rather stop than turn in circles.
            return Ok(false);
        }
    }
}

/// Places of the trials that may run now, and of the parents that are not there yet.
pub fn outlook(run: &Run, setting: &Setting) -> Result<(Vec<usize>, usize), Error> {
    let pending = next(run, setting)?.pending;
    let specs = &run.plan().parents;
    Ok((pending, specs.iter().filter(|spec| !run.parent_weights_path(&spec.id).exists()).count()))
}

/// What may be run next.
struct Step {
    /// Trials that are to have a record and have none.
    left: usize,
    /// Places of those that may run now: all, or those of this rung of the ladder.
    pending: Vec<usize>,
    /// Trials that are to have a record.
    of: usize,
    /// What halving has left out by now, where the study asks for it.
    halving: Option<Halving>,
}

fn next(run: &Run, setting: &Setting) -> Result<Step, Error> {
    let pending = pending(run)?;
    let trials = &run.plan().trials;
    let Some(keep) = setting.study.halving.as_ref().map(|halving| halving.keep) else {
        return Ok(Step { left: pending.len(), pending, of: trials.len(), halving: None });
    };
    let Ladder { halving, seeds } = halving::climb(run, keep)?;
    let left: Vec<usize> = pending.into_iter().filter(|&i| !halving.skipped.contains(&trials[i].id)).collect();
    let now = left.iter().copied().filter(|&i| trials[i].seed < seeds).collect();
    let of = trials.len() - halving.skipped.len();
    Ok(Step { left: left.len(), pending: now, of, halving: Some(halving) })
}

/// Trains (or reads) the plan's parents, and no more.
///
/// The caller holds the run's lock.
pub fn train_parents(run: &Run, setting: &Setting, resources: Resources, progress: &dyn Progress) -> Result<(), Error> {
    parents(run, &Shared::new(setting, resources.cache), resources, progress).map(drop)
}

pub(crate) fn parents(
    run: &Run,
    shared: &Shared<'_>,
    resources: Resources,
    progress: &dyn Progress,
) -> Result<Vec<Parent>, Error> {
    let prepare = |spec: &ParentSpec| {
        let tell = |seen, of, point: &CurvePoint| progress.parent(spec, seen, of, point);
        parent::prepare(shared, run, spec, resources.workers, tell)
    };
    run.write_pictures(|| pictures::of(shared.setting))?;
    run.plan().parents.iter().map(prepare).collect()
}

/// Places of the trials without a whole record. A failed trial has one: `Run::reopen` takes it away.
fn pending(run: &Run) -> Result<Vec<usize>, Error> {
    let mut pending = Vec::new();
    for (index, spec) in run.plan().trials.iter().enumerate() {
        if run.record(&spec.id)?.is_none() {
            pending.push(index);
        }
    }
    Ok(pending)
}

/// The network of a trial: its kept weights, or the trial run again.
pub fn recompute(run: &Run, setting: &Setting, spec: &TrialSpec) -> Result<Network, Error> {
    let kept = run.child_weights_path(&spec.id);
    if kept.exists() {
        return Ok(safetensors::load(kept)?);
    }
    let shared = Shared::new(setting, 0);
    let parent = parent_of(run, spec)?;
    let parent = parent::prepare(&shared, run, parent, 1, |_, _, _| ())?;
    let finished = trial::run(&shared, &parent, spec, 1)?;
    finished.network.ok_or_else(|| Error::Plan(format!("trial {} diverged: it has no network to write", spec.id)))
}
