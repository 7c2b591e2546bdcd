//! Running a plan on this machine: parents first, then whole trials side by side.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nettriage_net::{Network, safetensors};
use nettriage_records::plan::{ParentSpec, TrialSpec, VERSION};
use nettriage_records::record::{Clock, CurvePoint, Outcome, Record};
use nettriage_records::{Run, content_id};

use crate::feed::{Parent, Shared};
use crate::setting::Setting;
use crate::study::Keep;
use crate::{Error, machine, parent, pictures, trial};

/// How a study is run; nothing here changes a record.
#[derive(Clone, Copy, Debug)]
pub struct Resources {
    /// Trials at a time, one thread each; parents train with as many threads.
    pub workers: usize,
    /// Bytes for activations that trials share; 0 computes everything anew.
    pub cache: usize,
}

/// What the user is told while a study runs.
pub trait Progress: Sync {
    /// A parent has so many of its images behind it.
    fn parent(&self, spec: &ParentSpec, seen: usize, of: usize, point: &CurvePoint);
    /// All parents are there; so many trials have records already, of so many.
    fn trials(&self, done: usize, of: usize);
    /// A trial has begun.
    fn started(&self, spec: &TrialSpec);
    /// A trial has ended and its record is written.
    fn ended(&self, record: &Record);
}

/// The run's name: the study's and a hash of its plan.
pub fn folder_name(plan: &nettriage_records::Plan) -> String {
    format!("{}-{}", plan.name, &content_id(plan)[..8])
}

/// Runs everything of the plan that has no record yet.
///
/// The caller holds the run's lock.
pub fn execute(run: &Run, setting: &Setting, resources: Resources, progress: &dyn Progress) -> Result<(), Error> {
    let shared = Shared::new(setting, resources.cache);
    let parents = parents(run, &shared, resources, progress)?;
    let pending = pending(run)?;
    let trials = run.plan().trials.len();
    progress.trials(trials - pending.len(), trials);

    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let failure = Mutex::new(None);
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let Some(spec) = pending.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            progress.started(spec);
            match one(run, &shared, &parents, spec, 1) {
                Ok(record) => progress.ended(&record),
                Err(error) => {
                    // What cannot be written down ends the run: the disk may be full. Records so far are safe.
                    stop.store(true, Ordering::Relaxed);
                    *failure.lock().expect("no holder of this lock panics") = Some(error);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..resources.workers.max(1) {
            scope.spawn(work);
        }
    });
    failure.into_inner().expect("no holder of this lock panics").map_or(Ok(()), Err)
}

/// Trains (or reads) the plan's parents, and no more.
///
/// The caller holds the run's lock.
pub fn train_parents(run: &Run, setting: &Setting, resources: Resources, progress: &dyn Progress) -> Result<(), Error> {
    parents(run, &Shared::new(setting, resources.cache), resources, progress).map(drop)
}

fn parents(
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

/// Trials without a record, and those that failed the last time.
fn pending(run: &Run) -> Result<Vec<TrialSpec>, Error> {
    let mut pending = Vec::new();
    for spec in &run.plan().trials {
        let record = run.record(&spec.id)?;
        if record.is_none_or(|r| matches!(r.outcome, Outcome::Failed { .. })) {
            pending.push(spec.clone());
        }
    }
    Ok(pending)
}

/// Runs one trial by its index in the plan, whatever its record; for executors.
pub fn execute_one(run: &Run, setting: &Setting, index: usize, threads: usize) -> Result<Record, Error> {
    let trials = &run.plan().trials;
    let spec = trials
        .get(index)
        .ok_or_else(|| Error::Plan(format!("--index {index}: the plan has {} trials, counted from 0", trials.len())))?;
    let shared = Shared::new(setting, 0);
    let parents = [parent::prepare(&shared, run, parent_of(run, spec)?, threads, |_, _, _| ())?];
    one(run, &shared, &parents, spec, threads)
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

fn parent_of<'a>(run: &'a Run, spec: &TrialSpec) -> Result<&'a ParentSpec, Error> {
    let parent = run.plan().parents.iter().find(|p| p.id == spec.parent);
    parent.ok_or_else(|| Error::Plan(format!("trial {}: its parent is not in the plan", spec.id)))
}

/// Runs a trial and writes its record; a trial that cannot be run gets a record that says so.
fn one(run: &Run, shared: &Shared<'_>, parents: &[Parent], spec: &TrialSpec, threads: usize) -> Result<Record, Error> {
    let _mark = run.begin(&spec.id)?;
    let parent = parents.iter().find(|p| p.id == spec.parent);
    let parent = parent.ok_or_else(|| Error::Plan(format!("trial {}: its parent is not in the plan", spec.id)))?;
    let result = catch_unwind(AssertUnwindSafe(|| trial::run(shared, parent, spec, threads)));
    let failed = |reason: String| Record {
        version: VERSION,
        spec: spec.clone(),
        outcome: Outcome::Failed { reason },
        readings: None,
        clock: Clock { finished: trial::now(), machine: Some(machine()), ..Clock::default() },
    };
    let record = match result {
        Ok(Ok(finished)) => {
            match (shared.setting.study.children.keep, &finished.network, &finished.substitute) {
                (Keep::Network, Some(network), _) => safetensors::save(network, run.child_weights_path(&spec.id))?,
                (Keep::Substitute, _, Some(own)) => safetensors::save(own, run.substitute_weights_path(&spec.id))?,
                _ => {}
            }
            finished.record
        }
        Ok(Err(error)) => failed(error.to_string()),
        Err(panic) => failed(format!("internal error: {}", message(panic.as_ref()))),
    };
    run.write(&record)?;
    Ok(record)
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}
