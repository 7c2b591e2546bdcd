//! Jobs as array jobs of a Slurm cluster.
//!
//! Every task leaves out jobs whose results are stored, so that a task that is requeued, submitted twice or cancelled does no
//! harm. What was submitted is stored in the run's folder, and the results say what is done. So tasks continue without the
//! process that submitted them, and the next process takes them over.

mod chunks;
mod queue;
mod submission;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::Duration;

use self::queue::Task;
use self::submission::Submission;
use crate::log::tail;
use crate::{Error, Executor, RemoteJobs};

/// Array jobs through `sbatch`.
pub struct Slurm {
    /// The worker's command, up to the job numbers.
    pub command: Vec<String>,
    /// Options for `sbatch`.
    pub options: Vec<String>,
    /// Most tasks at once.
    pub at_once: Option<u32>,
    /// How long a task should take.
    pub chunk: Duration,
    /// How often a job whose task died is run again before it fails.
    pub retries: u32,
    /// Seconds since 1970 after which no job starts.
    pub until: Option<f64>,
    /// Whether a worker that gets SIGTERM saves its job, so that another continues it. Then tasks get it before their time limit.
    pub saves: bool,
}

/// How many tasks of a run are in the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueState {
    /// Tasks that run.
    pub running: usize,
    /// Tasks that wait.
    pub waiting: usize,
}

/// The state of the array jobs submitted from a folder; `None` if there are none, or if the queue does not answer.
pub fn queue_state(folder: &Path) -> Option<QueueState> {
    let submissions = Submission::all(folder);
    if submissions.is_empty() {
        return None;
    }
    let tasks = queue::in_queue(&array_jobs(&submissions)).ok()?;
    let running = tasks.values().filter(|state| *state != "PENDING").count();
    Some(QueueState { running, waiting: tasks.len() - running })
}

/// Cancels the array jobs submitted from a folder; how many had tasks in the queue.
///
/// # Errors
/// Those of Slurm's commands.
pub fn cancel(folder: &Path) -> Result<usize, Error> {
    let submissions = Submission::all(folder);
    let tasks = queue::in_queue(&array_jobs(&submissions))?;
    let queued: HashSet<u64> = tasks.keys().map(|task| task.array).collect();
    queue::cancel(&queued)?;
    Ok(queued.len())
}

fn array_jobs(submissions: &[Submission]) -> HashSet<u64> {
    submissions.iter().map(|submission| submission.array).collect()
}

/// Pause between two queries of the queue, at first and at most.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(15)];

impl<J: RemoteJobs + ?Sized> Executor<J> for Slurm {
    fn run(&self, jobs: &J) -> Result<(), Error> {
        let mut watch =
            Watch { slurm: self, jobs, open: jobs.pending().to_vec(), expected: BTreeMap::new(), gone: HashSet::new() };
        let waiting = watch.adopt()?;
        jobs.begin();
        watch.submit(waiting)?;
        let mut pause = PAUSES[0];
        while !watch.open.is_empty() {
            std::thread::sleep(pause);
            let before = watch.open.len();
            let lost = watch.update()?;
            if watch.expected.is_empty() && jobs.is_over() {
                break;
            }
            watch.submit(lost)?;
            pause = if watch.open.len() < before { PAUSES[0] } else { (pause * 3 / 2).min(PAUSES[1]) };
        }
        Ok(())
    }
}

/// The state that is tracked while array jobs run.
struct Watch<'a, J: ?Sized> {
    slurm: &'a Slurm,
    jobs: &'a J,
    /// Jobs without a result.
    open: Vec<usize>,
    /// Tasks that should be in the queue, with their jobs.
    expected: BTreeMap<Task, Vec<usize>>,
    /// Tasks that were not in the queue at the last query. They are gone if they are missing at the next one too, since
    /// results may take a moment to appear on a shared file system.
    gone: HashSet<Task>,
}

impl<J: RemoteJobs + ?Sized> Watch<'_, J> {
    /// Takes over what an earlier process submitted; the jobs that no task in the queue has, in groups.
    fn adopt(&mut self) -> Result<Vec<Vec<usize>>, Error> {
        let submissions = Submission::all(self.jobs.folder());
        let queued = queue::in_queue(&array_jobs(&submissions))?;
        for submission in &submissions {
            let tasks = submission.tasks.iter().enumerate();
            let tasks = tasks.map(|(number, jobs)| (Task { array: submission.array, number }, jobs.clone()));
            self.expected.extend(tasks.filter(|(task, _)| queued.contains_key(task)));
        }
        if !self.expected.is_empty() {
            self.jobs.note(&format!("{} tasks of an earlier call are still in the queue", self.expected.len()));
        }
        let covered: HashSet<usize> = self.expected.values().flatten().copied().collect();
        let open: Vec<usize> = self.open.iter().copied().filter(|job| !covered.contains(job)).collect();
        // A job whose process died with an earlier call runs alone, so that it takes no other with it.
        let (alone, together): (Vec<usize>, Vec<usize>) =
            open.into_iter().partition(|&job| self.jobs.was_interrupted(job));
        for &job in &alone {
            self.jobs.clear_interruption(job);
        }
        Ok(alone.into_iter().map(|job| vec![job]).chain(Some(together).filter(|t| !t.is_empty())).collect())
    }

    /// Reads results and queue. Returns the jobs of tasks that are gone, in groups to be submitted again; a job that a
    /// task died during is a group of its own.
    fn update(&mut self) -> Result<Vec<Vec<usize>>, Error> {
        let jobs = self.jobs;
        let stored = jobs.stored()?;
        let (ended, open): (Vec<usize>, Vec<usize>) = self.open.iter().partition(|job| stored.contains(job));
        self.open = open;
        for job in ended {
            // An incomplete result is set aside, and the job is open again.
            if !jobs.finished(job)? {
                self.open.push(job);
            }
        }
        let queued = match queue::in_queue(&self.expected.keys().map(|task| task.array).collect()) {
            Ok(queued) => queued,
            Err(error) => {
                // The controller may be restarting; the tasks continue.
                jobs.note(&format!("the queue does not answer ({error}); trying again"));
                return Ok(Vec::new());
            }
        };
        let missing: HashSet<Task> = self.expected.keys().filter(|task| !queued.contains_key(task)).copied().collect();
        let over: Vec<Task> = missing.intersection(&self.gone).copied().collect();
        self.gone = missing;
        let mut lost = Vec::new();
        for task in over {
            let of_task = self.expected.remove(&task).unwrap_or_default();
            let open: Vec<usize> = of_task.into_iter().filter(|job| self.open.contains(job)).collect();
            if !open.is_empty() && !jobs.is_over() {
                self.collect(task, open, &mut lost)?;
            }
        }
        Ok(lost)
    }

    /// Handles a task that has ended and left jobs without results: which of them it died during, and which jobs
    /// are submitted again.
    fn collect(&mut self, task: Task, open: Vec<usize>, lost: &mut Vec<Vec<usize>>) -> Result<(), Error> {
        let Watch { slurm, jobs, .. } = *self;
        let why = queue::why(task);
        let log = submission::log(&jobs.logs()?, task);
        let (mut started, mut rest): (Vec<usize>, Vec<usize>) =
            open.iter().partition(|&&job| jobs.was_interrupted(job));
        if started.is_empty() {
            // It saved its job before its time limit, or ended before a job started or between two: the next one to run is
            // counted as the cause, unless that got further.
            started = vec![rest.remove(0)];
        }
        jobs.note(&format!(
            "task {task} ended ({why}) with {} trials open: submitted again{}",
            open.len(),
            if started.len() == 1 { format!(", trial {} alone", started[0]) } else { String::new() }
        ));
        for job in started {
            jobs.clear_interruption(job);
            let attempts = jobs.count_attempt(job)?;
            if attempts > slurm.retries {
                let text = tail(&log);
                let end = if text.is_empty() { String::new() } else { format!("; its log ends:\n{text}") };
                jobs.fail(job, format!("its task died {attempts} times; the last time task {task}: {why}{end}"))?;
                self.open.retain(|&open| open != job);
            } else {
                lost.push(vec![job]);
            }
        }
        if !rest.is_empty() {
            lost.push(rest);
        }
        Ok(())
    }

    /// Submits jobs: each group in tasks of its own, with as many jobs per task as fit its time.
    fn submit(&mut self, groups: Vec<Vec<usize>>) -> Result<(), Error> {
        if groups.is_empty() {
            return Ok(());
        }
        let Watch { slurm, jobs, .. } = *self;
        let seconds = jobs.seconds_per_job()?;
        let size = chunks::size(slurm.chunk.as_secs_f64(), seconds, groups.iter().map(Vec::len).sum(), slurm.at_once);
        let tasks = groups.iter().flat_map(|group| group.chunks(size));
        // The prerequisites run first, each in a task of its own: otherwise every task would compute them.
        let first = if self.expected.is_empty() { jobs.prerequisites() } else { Vec::new() };
        let first: Vec<usize> = first.into_iter().filter(|job| self.open.contains(job)).collect();
        let rest: Vec<Vec<usize>> = tasks
            .map(|task| task.iter().copied().filter(|job| !first.contains(job)).collect())
            .filter(|task: &Vec<usize>| !task.is_empty())
            .collect();
        let mut after = None;
        if !first.is_empty() {
            after = Some(self.submit_array(first.into_iter().map(|job| vec![job]).collect(), None, seconds)?);
        }
        let limit = queue::largest_array();
        for part in rest.chunks(limit) {
            self.submit_array(part.to_vec(), after, seconds)?;
        }
        Ok(())
    }

    /// Submits one array job; its number.
    fn submit_array(&mut self, tasks: Vec<Vec<usize>>, after: Option<u64>, seconds: f64) -> Result<u64, Error> {
        let count: usize = tasks.iter().map(Vec::len).sum();
        let submission = submission::submit(self.slurm, self.jobs, tasks, after)?;
        self.jobs.note(&format!(
            "job {}: {count} trials in {} tasks, at {seconds:.2} s a trial",
            submission.array,
            submission.tasks.len()
        ));
        for (number, jobs) in submission.tasks.into_iter().enumerate() {
            self.expected.insert(Task { array: submission.array, number }, jobs);
        }
        Ok(submission.array)
    }
}
