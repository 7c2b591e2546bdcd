//! Trials as array jobs of a Slurm cluster.
//!
//! Every task is `nettriage trial --plan RUN --index I --missing`, so that a task that is requeued, submitted twice or
//! cancelled does no harm. What was submitted stands in the run's folder; the records say what is done. So the jobs go
//! on without the process that submitted them, and the next one takes them over.

mod chunks;
mod queue;
mod submission;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use nettriage_records::Run;
use nettriage_records::plan::Role;

use self::queue::Task;
use self::submission::Submission;
use super::{Executor, Job, Resources, failed, tail};
use crate::Error;

/// `--on slurm`: array jobs through `sbatch`.
pub struct Slurm {
    /// This program's command for trials of the plan, up to their places.
    pub command: Vec<String>,
    /// Options for `sbatch`.
    pub options: Vec<String>,
    /// Tasks at once at the most.
    pub at_once: Option<u32>,
    /// How long a task should take.
    pub chunk: Duration,
    /// How often a trial whose task died of it is tried again before it is recorded as failed.
    pub retries: u32,
    /// Seconds since 1970 after which no trial begins.
    pub until: Option<f64>,
    /// What a task has on its machine.
    pub resources: Resources,
}

/// How far a run's jobs are in the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueState {
    /// Tasks that run.
    pub running: usize,
    /// Tasks that wait.
    pub waiting: usize,
}

/// The state of the run's jobs; `None` where it has none, or where the queue does not answer.
pub fn queue_state(run: &Run) -> Option<QueueState> {
    let submissions = Submission::all(run).ok()?;
    if submissions.is_empty() {
        return None;
    }
    let tasks = queue::live(&jobs(&submissions)).ok()?;
    let running = tasks.values().filter(|state| *state != "PENDING").count();
    Some(QueueState { running, waiting: tasks.len() - running })
}

/// Cancels the run's jobs; how many had tasks in the queue.
pub fn cancel(run: &Run) -> Result<usize, Error> {
    let submissions = Submission::all(run)?;
    let tasks = queue::live(&jobs(&submissions))?;
    let live: HashSet<u64> = tasks.keys().map(|task| task.job).collect();
    queue::cancel(&live)?;
    Ok(live.len())
}

fn jobs(submissions: &[Submission]) -> HashSet<u64> {
    submissions.iter().map(|submission| submission.job).collect()
}

/// How long the queue is left alone between two looks, at first and at the most.
const LOOKS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(15)];

impl Executor for Slurm {
    fn run(&self, job: &Job<'_>) -> Result<(), Error> {
        let mut watch =
            Watch { slurm: self, job, open: job.pending.to_vec(), expected: BTreeMap::new(), gone: HashSet::new() };
        let waiting = watch.adopt()?;
        job.begin();
        watch.submit(waiting)?;
        let mut pause = LOOKS[0];
        while !watch.open.is_empty() {
            std::thread::sleep(pause);
            let before = watch.open.len();
            let lost = watch.look()?;
            if watch.expected.is_empty() && job.is_over() {
                break;
            }
            watch.submit(lost)?;
            pause = if watch.open.len() < before { LOOKS[0] } else { (pause * 3 / 2).min(LOOKS[1]) };
        }
        Ok(())
    }
}

/// What is watched while jobs run.
struct Watch<'a> {
    slurm: &'a Slurm,
    job: &'a Job<'a>,
    /// Places of the trials without a record.
    open: Vec<usize>,
    /// Tasks that should be in the queue, with their trials.
    expected: BTreeMap<Task, Vec<usize>>,
    /// Tasks that were not in the queue at the last look: gone if they are not at the next one either, since records
    /// may take a moment to show on a shared file system.
    gone: HashSet<Task>,
}

impl Watch<'_> {
    /// Takes over what an earlier process submitted; the places that no task in the queue has.
    fn adopt(&mut self) -> Result<Vec<Vec<usize>>, Error> {
        let submissions = Submission::all(self.job.run)?;
        let live = queue::live(&jobs(&submissions))?;
        for submission in &submissions {
            let tasks = submission.tasks.iter().enumerate();
            let tasks = tasks.map(|(number, trials)| (Task { job: submission.job, number }, trials.clone()));
            self.expected.extend(tasks.filter(|(task, _)| live.contains_key(task)));
        }
        if !self.expected.is_empty() {
            self.job.progress.note(&format!("{} tasks of an earlier call are in the queue still", self.expected.len()));
        }
        let covered: HashSet<usize> = self.expected.values().flatten().copied().collect();
        let open: Vec<usize> = self.open.iter().copied().filter(|place| !covered.contains(place)).collect();
        // Who died with an earlier call is tried alone.
        let (alone, together): (Vec<usize>, Vec<usize>) =
            open.into_iter().partition(|&place| self.job.run.was_left(&self.job.spec(place).id));
        for &place in &alone {
            self.job.run.clear_mark(&self.job.spec(place).id);
        }
        Ok(alone.into_iter().map(|place| vec![place]).chain(Some(together).filter(|t| !t.is_empty())).collect())
    }

    /// Looks at records and queue; the trials whose tasks are gone, those alone that a task died of.
    fn look(&mut self) -> Result<Vec<Vec<usize>>, Error> {
        let Watch { job, .. } = *self;
        let there = job.run.recorded()?;
        let (ended, open): (Vec<usize>, Vec<usize>) =
            self.open.iter().partition(|&&place| there.contains(&job.spec(place).id));
        self.open = open;
        for place in ended {
            match job.run.record(&job.spec(place).id)? {
                Some(record) => job.progress.ended(&record),
                // Torn, and set aside by now.
                None => self.open.push(place),
            }
        }
        let live = match queue::live(&self.expected.keys().map(|task| task.job).collect()) {
            Ok(live) => live,
            Err(error) => {
                // The controller may be restarting; the jobs go on.
                job.progress.note(&format!("the queue does not answer ({error}); looking again"));
                return Ok(Vec::new());
            }
        };
        let missing: HashSet<Task> = self.expected.keys().filter(|task| !live.contains_key(task)).copied().collect();
        let over: Vec<Task> = missing.intersection(&self.gone).copied().collect();
        self.gone = missing;
        let mut lost = Vec::new();
        for task in over {
            let trials = self.expected.remove(&task).unwrap_or_default();
            let open: Vec<usize> = trials.into_iter().filter(|place| self.open.contains(place)).collect();
            if !open.is_empty() && !job.is_over() {
                self.collect(task, open, &mut lost)?;
            }
        }
        Ok(lost)
    }

    /// A task has ended and left trials without records: which of them it died of, and what is tried again.
    fn collect(&mut self, task: Task, open: Vec<usize>, lost: &mut Vec<Vec<usize>>) -> Result<(), Error> {
        let Watch { slurm, job, .. } = *self;
        let why = queue::why(task);
        let log = submission::log(job.run, task)?;
        let (mut begun, mut rest): (Vec<usize>, Vec<usize>) =
            open.iter().partition(|&&place| job.run.was_left(&job.spec(place).id));
        if begun.is_empty() {
            // It ended before any trial did, or between two: the next one to run is the one to blame.
            begun = vec![rest.remove(0)];
        }
        job.progress.note(&format!(
            "task {task} ended ({why}) with {} trials open: submitted again{}",
            open.len(),
            if begun.len() == 1 { format!(", trial {} alone", begun[0]) } else { String::new() }
        ));
        for place in begun {
            let spec = job.spec(place);
            job.run.clear_mark(&spec.id);
            let attempts = job.run.note_attempt(&spec.id)?;
            if attempts > slurm.retries {
                let text = tail(&log);
                let end = if text.is_empty() { String::new() } else { format!("; its log ends:\n{text}") };
                let reason = format!("its task died {attempts} times; the last time task {task}: {why}{end}");
                let record = failed(spec, reason);
                job.run.write(&record)?;
                self.open.retain(|&open| open != place);
                job.progress.ended(&record);
            } else {
                lost.push(vec![place]);
            }
        }
        if !rest.is_empty() {
            lost.push(rest);
        }
        Ok(())
    }

    /// Submits trials: each group in tasks of its own, of as many as the chunk's time holds.
    fn submit(&mut self, groups: Vec<Vec<usize>>) -> Result<(), Error> {
        if groups.is_empty() {
            return Ok(());
        }
        let Watch { slurm, job, .. } = *self;
        let seconds = chunks::trial_seconds(job, slurm.resources)?;
        let size = chunks::size(slurm.chunk.as_secs_f64(), seconds, groups.iter().map(Vec::len).sum(), slurm.at_once);
        let tasks: Vec<Vec<usize>> =
            groups.iter().flat_map(|group| group.chunks(size)).map(<[usize]>::to_vec).collect();
        // Parents first, each in a task: the others would all train it.
        let parents: Vec<&str> = job
            .run
            .plan()
            .parents
            .iter()
            .map(|p| p.id.as_str())
            .filter(|id| !job.run.parent_weights_path(id).exists())
            .collect();
        let firsts: Vec<Vec<usize>> = self
            .open
            .iter()
            .filter(|&&place| {
                job.spec(place).role == Role::Parent && parents.contains(&job.spec(place).parent.as_str())
            })
            .map(|&place| vec![place])
            .collect();
        let mut after = None;
        if self.expected.is_empty() && !firsts.is_empty() {
            after = Some(self.array(firsts.clone(), None, seconds)?);
        }
        let rest: Vec<Vec<usize>> = tasks
            .into_iter()
            .map(|task| {
                if after.is_some() { task.into_iter().filter(|p| !firsts.contains(&vec![*p])).collect() } else { task }
            })
            .filter(|task: &Vec<usize>| !task.is_empty())
            .collect();
        let limit = queue::largest_array();
        for part in rest.chunks(limit) {
            self.array(part.to_vec(), after, seconds)?;
        }
        Ok(())
    }

    /// Submits one array job; its number.
    fn array(&mut self, tasks: Vec<Vec<usize>>, after: Option<u64>, seconds: f64) -> Result<u64, Error> {
        let trials: usize = tasks.iter().map(Vec::len).sum();
        let submission = submission::submit(self.slurm, self.job, tasks, after)?;
        self.job.progress.note(&format!(
            "job {}: {trials} trials in {} tasks, at {seconds:.2} s a trial",
            submission.job,
            submission.tasks.len()
        ));
        for (number, trials) in submission.tasks.into_iter().enumerate() {
            self.expected.insert(Task { job: submission.job, number }, trials);
        }
        Ok(submission.job)
    }
}
