//! The trials of a plan as jobs, for executors that do not depend on trials.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use nettriage_formats::safetensors;
use nettriage_jobs::{BoxError, Jobs, RemoteJobs};
use nettriage_records::checkpoint::TrainingState;
use nettriage_records::plan::{ParentSpec, Role, TrialSpec, VERSION};
use nettriage_records::record::{Clock, CurvePoint, Outcome, Record};
use nettriage_records::{Run, Running};
use nettriage_train::Checkpoints;
use nettriage_train::scheme::{Loss, Scheme, Train};

use crate::context::StudyContext;
use crate::estimate::estimate;
use crate::panics::contained;
use crate::rate::Rate;
use crate::shared::{Parent, SharedWork};
use crate::study::Keep;
use crate::{Error, parent, rate, sample_images, trial};

/// How a study is run on this machine; nothing here changes a record.
#[derive(Clone, Copy, Debug)]
pub struct Resources {
    /// Trials at a time.
    pub workers: usize,
    /// Threads inside each trial. Parents, which train one after another, have those of all workers.
    pub threads: usize,
    /// Bytes for activations that trials share; with 0 they are computed wherever they are needed.
    pub cache: usize,
}

/// Reports while a study runs.
pub trait Progress: Sync {
    /// A parent has seen `seen` of its `of` images.
    fn parent(&self, spec: &ParentSpec, seen: usize, of: usize, point: &CurvePoint);
    /// All parents are trained; `done` of `of` trials have records already.
    fn trials(&self, done: usize, of: usize);
    /// A trial has started.
    fn started(&self, spec: &TrialSpec);
    /// A trial has ended and its record is written.
    fn ended(&self, record: &Record);
    /// Something worth a line: a worker that died, an array job that was submitted.
    fn note(&self, text: &str);
    /// Whether no further trial may start, because the user has interrupted the study.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Trials of a plan to run, by their indices.
pub struct TrialJobs<'a> {
    run: &'a Run,
    shared: SharedWork<'a>,
    pending: &'a [usize],
    /// Trials that have records already, of all that are to have one.
    done: (usize, usize),
    checkpoints: Checkpoints,
    /// How far the training of a job, and that of its parent, were when a worker last ended during it.
    reached: Mutex<HashMap<(usize, String), TrainingState>>,
    resources: Resources,
    progress: &'a dyn Progress,
    parents: OnceLock<Vec<Parent>>,
    stopped: AtomicBool,
}

impl<'a> TrialJobs<'a> {
    /// Those at the indices `pending`; the caller holds the run's lock.
    pub fn new(
        run: &'a Run,
        context: &'a StudyContext,
        pending: &'a [usize],
        done: (usize, usize),
        deadline: Option<Instant>,
        resources: Resources,
        progress: &'a dyn Progress,
    ) -> TrialJobs<'a> {
        let shared = SharedWork::new(context, resources.cache);
        let checkpoints = context.runtime.checkpoints(run, deadline);
        let (reached, parents, stopped) = (Mutex::default(), OnceLock::new(), AtomicBool::new(false));
        TrialJobs { run, shared, pending, done, checkpoints, reached, resources, progress, parents, stopped }
    }

    /// Whether the training of a parent has stopped early.
    pub(crate) fn has_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Reports what has happened to checkpoints and stored activations.
    fn report_notes(&self) {
        let notes = self.shared.take_warning().into_iter().chain(self.checkpoints.take_notes());
        notes.for_each(|note| self.progress.note(&note));
    }

    /// Whether the training of a job, or of its parent, is further than when a worker last ended during it.
    fn has_progressed(&self, job: usize) -> bool {
        let spec = self.spec(job);
        let mut reached = self.reached.lock().expect("no holder of this lock panics");
        let mut further = false;
        for id in [&spec.id, &spec.parent] {
            // A parent that is trained is beyond every checkpoint of its training.
            let trained = *id == spec.parent && self.run.parent_weights_path(id).exists();
            let end = || TrainingState { stage: usize::MAX, ..TrainingState::default() };
            let Some(state) = trained.then(end).or_else(|| self.run.checkpoints().state(id)) else { continue };
            let key = (job, id.clone());
            if reached.get(&key).is_none_or(|before| state.is_beyond(before)) {
                reached.insert(key, state);
                further = true;
            }
        }
        further
    }

    fn spec(&self, index: usize) -> &TrialSpec {
        &self.run.plan().trials[index]
    }
}

impl Jobs for TrialJobs<'_> {
    fn pending(&self) -> &[usize] {
        self.pending
    }

    fn prepare(&self, threads: usize) -> Result<(), BoxError> {
        let parents =
            train_all(self.run, &self.shared, threads * self.resources.threads, &self.checkpoints, self.progress);
        self.report_notes();
        if parents.as_ref().is_err_and(Error::is_stop) {
            self.stopped.store(true, Ordering::Relaxed);
        }
        let parents = parents?;
        let _ = self.parents.set(parents);
        self.progress.trials(self.done.0, self.done.1);
        Ok(())
    }

    fn run(&self, job: usize) -> Result<(), BoxError> {
        let spec = self.spec(job);
        self.progress.started(spec);
        let parents = self.parents.get().map_or(&[][..], Vec::as_slice);
        let record = run_trial(self.run, &self.shared, parents, spec, self.resources.threads, &self.checkpoints);
        self.report_notes();
        match record {
            Ok(record) => self.progress.ended(&record),
            // It has no record, and a later call continues it.
            Err(error) if error.is_stop() => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.progress.is_cancelled() || self.checkpoints.is_over()
    }

    fn note(&self, text: &str) {
        self.progress.note(text);
    }
}

/// Records that are read for a mean of their seconds: enough, and quick on a slow file system.
const SAMPLE: usize = 200;

impl RemoteJobs for TrialJobs<'_> {
    fn name(&self) -> &str {
        &self.run.plan().name
    }

    fn folder(&self) -> &Path {
        self.run.folder()
    }

    fn logs(&self) -> Result<PathBuf, BoxError> {
        Ok(self.run.logs()?)
    }

    fn stored(&self) -> Result<HashSet<usize>, BoxError> {
        let recorded = self.run.recorded()?;
        Ok(self.pending.iter().copied().filter(|&job| recorded.contains(&self.spec(job).id)).collect())
    }

    fn begin(&self) {
        self.progress.trials(self.done.0, self.done.1);
    }

    fn started(&self, job: usize) {
        self.progress.started(self.spec(job));
    }

    fn finished(&self, job: usize) -> Result<bool, BoxError> {
        let record = self.run.record(&self.spec(job).id)?;
        record.iter().for_each(|record| self.progress.ended(record));
        Ok(record.is_some())
    }

    fn fail(&self, job: usize, reason: String) -> Result<(), BoxError> {
        let record = failed(self.shared.context, self.spec(job), reason);
        self.run.write(&record)?;
        self.progress.ended(&record);
        Ok(())
    }

    fn count_attempt(&self, job: usize) -> Result<u32, BoxError> {
        // A training that gets on from task to task or from worker to worker will end.
        if self.has_progressed(job) {
            return Ok(0);
        }
        Ok(self.run.note_attempt(&self.spec(job).id)?)
    }

    fn was_interrupted(&self, job: usize) -> bool {
        self.run.was_abandoned(&self.spec(job).id)
    }

    fn clear_interruption(&self, job: usize) {
        self.run.clear_marker(&self.spec(job).id);
    }

    fn prerequisites(&self) -> Vec<usize> {
        let plan = self.run.plan();
        let missing = |id: &str| !self.run.parent_weights_path(id).exists();
        let missing: HashSet<&str> = plan.parents.iter().map(|p| p.id.as_str()).filter(|id| missing(id)).collect();
        let trains = |spec: &TrialSpec| spec.role == Role::Parent && missing.contains(spec.parent.as_str());
        self.pending.iter().copied().filter(|&job| trains(self.spec(job))).collect()
    }

    fn seconds_per_job(&self) -> Result<f64, BoxError> {
        let recorded = self.run.recorded()?;
        let mut seconds = Vec::new();
        for spec in self.run.plan().trials.iter().filter(|spec| recorded.contains(&spec.id)).take(SAMPLE) {
            let record = self.run.record(&spec.id)?.filter(|record| record.readings.is_some());
            seconds.extend(record.map(|record| record.clock.seconds));
        }
        if seconds.len() >= 5 {
            return Ok(seconds.iter().sum::<f64>() / seconds.len() as f64);
        }
        let alone = Resources { workers: 1, ..self.resources };
        Ok(estimate(self.shared.context, self.run.plan(), self.pending, 0, alone, true)?.trial)
    }
}

/// Runs single trials of a plan, for worker processes. Parents and shared activations stay in memory between them.
pub struct Worker<'a> {
    run: &'a Run,
    shared: SharedWork<'a>,
    checkpoints: Checkpoints,
    parents: Vec<Parent>,
    threads: usize,
    notes: Vec<String>,
}

/// Time between two looks at what another process computes: a parent, or a range test.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(500);

impl<'a> Worker<'a> {
    /// A worker with `resources.threads` threads inside each trial; a training stops at `deadline`.
    pub fn new(run: &'a Run, context: &'a StudyContext, resources: Resources, deadline: Option<Instant>) -> Worker<'a> {
        let shared = SharedWork::new(context, resources.cache);
        let checkpoints = context.runtime.checkpoints(run, deadline);
        Worker { run, shared, checkpoints, parents: Vec::new(), threads: resources.threads, notes: Vec::new() }
    }

    /// Runs the trial at `index`, whether or not it has a record, and writes its record; none if the training stopped early
    /// and is saved.
    ///
    /// # Errors
    /// An index beyond the plan; a record that cannot be written. A problem of the trial itself is in its record.
    pub fn trial(&mut self, index: usize) -> Result<Option<Record>, Error> {
        match self.attempt(index) {
            Ok(record) => Ok(Some(record)),
            Err(error) if error.is_stop() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn attempt(&mut self, index: usize) -> Result<Record, Error> {
        let trials = &self.run.plan().trials;
        let spec = trials.get(index).ok_or_else(|| {
            Error::Request(format!("--index {index}: the plan has {} trials, counted from 0", trials.len()))
        })?;
        let parent = parent_of(self.run, spec)?;
        self.prepare(parent)?;
        // The task that trains the first parent also finds the rate, before others wait for it.
        if let Some(first) = self.run.plan().parents.first()
            && self.shared.context.study.children.rate == Rate::Auto
            && (spec.budget.is_some() || spec.parent == first.id)
        {
            self.prepare(first)?;
            let Worker { run, shared, checkpoints, threads, parents, .. } = self;
            let first = parents.iter().find(|parent| parent.id == first.id);
            first.map_or(Ok(()), |first| rate::of_children(shared, run, first, *threads, checkpoints))?;
        }
        run_trial(self.run, &self.shared, &self.parents, spec, self.threads, &self.checkpoints)
    }

    /// Has the parent in memory, trained by this process or by another.
    fn prepare(&mut self, parent: &ParentSpec) -> Result<(), Error> {
        if self.parents.iter().any(|known| known.id == parent.id) {
            return Ok(());
        }
        let _mark = self.wait_for(parent)?;
        let Worker { run, shared, checkpoints, threads, .. } = self;
        let parent = parent::prepare(shared, run, parent, *threads, checkpoints, |_, _, _| ())?;
        self.parents.push(parent);
        Ok(())
    }

    /// Waits while another process trains the parent. The mark of this process, if it is to train it or to continue from a
    /// checkpoint; none if the parent is trained.
    fn wait_for(&mut self, parent: &ParentSpec) -> Result<Option<Running>, Error> {
        let mut waits = false;
        loop {
            if self.run.parent(&parent.id)?.is_some() {
                return Ok(None);
            }
            if let Some(mark) = self.run.try_begin(&parent.id)? {
                return Ok(Some(mark));
            }
            if self.checkpoints.is_over() {
                return Err(nettriage_train::Error::Stopped { id: parent.id.clone(), step: 0 }.into());
            }
            if !waits {
                self.notes.push(format!("parent {} is trained by another process: waited for it", parent.id));
                waits = true;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Whether the time is over, or a signal has said so.
    pub fn is_over(&self) -> bool {
        self.checkpoints.is_over()
    }

    /// What has happened to checkpoints and stored activations since the last call, line by line.
    pub fn take_notes(&mut self) -> Vec<String> {
        let mut notes = std::mem::take(&mut self.notes);
        notes.extend(self.shared.take_warning().into_iter().chain(self.checkpoints.take_notes()));
        notes
    }
}

/// The parent of a trial in the plan.
pub(crate) fn parent_of<'a>(run: &'a Run, spec: &TrialSpec) -> Result<&'a ParentSpec, Error> {
    let parent = run.plan().parents.iter().find(|p| p.id == spec.parent);
    parent.ok_or_else(|| Error::Request(format!("trial {}: its parent is not in the plan", spec.id)))
}

/// The plan's parents, trained or read where they are not stored yet.
pub(crate) fn train_all(
    run: &Run,
    shared: &SharedWork<'_>,
    threads: usize,
    checkpoints: &Checkpoints,
    progress: &dyn Progress,
) -> Result<Vec<Parent>, Error> {
    let prepare = |spec: &ParentSpec| {
        let report = |seen, of, point: &CurvePoint| progress.parent(spec, seen, of, point);
        parent::prepare(shared, run, spec, threads, checkpoints, report)
    };
    run.write_sample_images(|| sample_images::of(shared.context))?;
    let parents: Vec<Parent> = run.plan().parents.iter().map(prepare).collect::<Result<_, Error>>()?;
    if let Some(first) = parents.first() {
        rate::of_children(shared, run, first, threads, checkpoints)?;
    }
    for test in run.range_tests()? {
        progress.note(&format!("rate = \"auto\": {} for {}, {}", test.rate, test.of, test.rule));
    }
    Ok(parents)
}

/// Runs a trial and writes its record; a trial that fails or panics gets a record that says so.
fn run_trial(
    run: &Run,
    shared: &SharedWork<'_>,
    parents: &[Parent],
    spec: &TrialSpec,
    threads: usize,
    checkpoints: &Checkpoints,
) -> Result<Record, Error> {
    let _mark = run.begin(&spec.id)?;
    let parent = parents.iter().find(|p| p.id == spec.parent);
    let parent = parent.ok_or_else(|| Error::Request(format!("trial {}: its parent is not in the plan", spec.id)))?;
    let record = match contained(|| trial::run(shared, parent, spec, threads, Some(checkpoints))) {
        Ok(Ok(finished)) => {
            if let Some(network) = finished.network.filter(|_| shared.keeps_network(run.plan(), &spec.id)) {
                safetensors::save(&network, run.child_weights_path(&spec.id))?;
            }
            if let (Keep::Substitute, Some(own)) = (shared.context.study.children.keep, &finished.substitute) {
                safetensors::save(own, run.substitute_weights_path(&spec.id))?;
            }
            finished.record
        }
        // The run's folder is at fault, not the trial.
        Ok(Err(error)) if error.is_stop() || error.is_of_folder() => return Err(error),
        Ok(Err(error)) => failed(shared.context, spec, error.to_string()),
        Err(panic) => failed(shared.context, spec, panic),
    };
    run.write(&record)?;
    checkpoints.remove(&spec.id);
    Ok(record)
}

/// The record of a trial that could not be run.
fn failed(context: &StudyContext, spec: &TrialSpec, reason: String) -> Record {
    Record {
        version: VERSION,
        spec: spec.clone(),
        outcome: Outcome::Failed { reason },
        readings: None,
        measured: None,
        clock: Clock {
            finished: nettriage_records::unix_time(),
            machine: Some(crate::machine(context.device())),
            ..Clock::default()
        },
    }
}

/// The order in which trials that share one cache run: budget by budget, by plan, but those that read the parent's logits later.
///
/// Trials that distill come late, because most of the way to the parent's logits is cached by then, at least for the
/// trials of the last block. Among them those that train every layer come first: a long trial at the very end would
/// leave the other workers idle. The parent's own trial trains nothing, and the input of its last block is cached at the
/// end.
pub(crate) fn cache_order(run: &Run, context: &StudyContext, pending: &mut [usize]) {
    const PARENT: u8 = 3;
    pending.sort_by_key(|&index| {
        let spec = &run.plan().trials[index];
        match spec.role {
            Role::Parent => (usize::MAX, PARENT),
            _ => (spec.budget.unwrap_or(0), context.study.scheme(&spec.scheme).as_ref().map_or(0, scheme_order)),
        }
    });
}

fn scheme_order(scheme: &Scheme) -> u8 {
    match scheme.stages.iter().any(|stage| stage.loss == Loss::Distillation) {
        false => 0,
        true if scheme.stages.iter().any(|stage| stage.train == Train::All) => 1,
        true => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nettriage_train::scheme::{PRESETS, preset};

    #[test]
    fn distillation_runs_last_and_its_long_trials_first() {
        let mut names = PRESETS;
        names.sort_by_key(|name| scheme_order(&preset(name).unwrap()));
        let [rest @ .., long, longer, ends, short] = names;
        assert_eq!(
            [long, longer, ends, short],
            ["distill-global", "hint-then-distill", "distill-blocks", "distill-local"]
        );
        assert_eq!(rest, ["none", "local", "global", "hint", "hint-then-global"]);
    }
}
