//! Trials in worker processes of this machine: a worker that dies takes only its trial.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::{Executor, Job, Resources, failed, tail};
use crate::Error;
use crate::execute::train_parents;

/// `--on processes`: one worker process per trial at a time.
///
/// A worker reads places in the plan from its standard input, one a line, and answers each with a line: `done`, or
/// `error` and what ends the whole run. It ends when its input does, so none outlives this process.
pub struct Processes {
    /// Workers at a time; parents train in this process with as many threads.
    pub resources: Resources,
    /// How often a trial whose worker died is tried again before it is recorded as failed.
    pub retries: u32,
    /// The worker's command, such as `nettriage trial --plan RUN --index -`.
    pub command: Box<dyn Fn() -> Command + Sync>,
}

impl Executor for Processes {
    fn run(&self, job: &Job<'_>) -> Result<(), Error> {
        train_parents(job.run, job.setting, self.resources, job.progress)?;
        job.begin();
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let failure = Mutex::new(None);
        let books = Mutex::new(());
        let slot = |number: usize| {
            let mut slot = Slot { executor: self, job, books: &books, number, worker: None };
            while !stop.load(Ordering::Relaxed) && !job.is_over() {
                let Some(&index) = job.pending.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                if let Err(error) = slot.trial(index) {
                    stop.store(true, Ordering::Relaxed);
                    *failure.lock().expect("no holder of this lock panics") = Some(error);
                }
            }
            slot.dismiss();
        };
        std::thread::scope(|scope| {
            for number in 0..self.resources.workers.clamp(1, job.pending.len().max(1)) {
                scope.spawn(move || slot(number));
            }
        });
        failure.into_inner().expect("no holder of this lock panics").map_or(Ok(()), Err)
    }
}

/// One worker's place: when a worker dies, another takes it.
struct Slot<'a> {
    executor: &'a Processes,
    job: &'a Job<'a>,
    /// Held while attempts are noted, since all slots share one file.
    books: &'a Mutex<()>,
    number: usize,
    worker: Option<Live>,
}

/// A worker process.
struct Live {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    log: PathBuf,
}

/// What a worker said of a trial.
enum Answer {
    Done,
    /// What ends the run.
    Fatal(String),
    /// It is dead; how, with the end of its log.
    Died(String),
}

impl Slot<'_> {
    fn trial(&mut self, index: usize) -> Result<(), Error> {
        let Slot { job, .. } = *self;
        let spec = job.spec(index);
        job.progress.started(spec);
        loop {
            let how = match self.ask(index)? {
                Answer::Fatal(problem) => return Err(Error::Plan(problem)),
                // Read again, so that what is told is what is on disk.
                Answer::Done => match job.run.record(&spec.id)? {
                    Some(record) => {
                        job.progress.ended(&record);
                        return Ok(());
                    }
                    None => "it said that the trial was done and left no whole record".to_owned(),
                },
                Answer::Died(how) => how,
            };
            let attempts = {
                let _alone = self.books.lock().expect("no holder of this lock panics");
                job.run.note_attempt(&spec.id)?
            };
            if attempts > self.executor.retries {
                let record = failed(spec, format!("its worker died {attempts} times; the last time {how}"));
                job.run.write(&record)?;
                job.progress.ended(&record);
                return Ok(());
            }
            let first = how.lines().next().unwrap_or_default();
            let left = self.executor.retries + 1 - attempts;
            job.progress
                .note(&format!("trial {index}: a worker died ({first}); tried again, {left} more times at most"));
        }
    }

    /// Has a worker run a trial.
    fn ask(&mut self, index: usize) -> Result<Answer, Error> {
        let mut live = match self.worker.take() {
            Some(live) => live,
            None => self.hire()?,
        };
        let mut line = String::new();
        let heard = writeln!(live.input, "{index}")
            .and_then(|()| live.input.flush())
            .and_then(|()| live.output.read_line(&mut line));
        match (heard, line.trim_end().split_once(' ')) {
            (Ok(_), Some(("done", of))) if of == index.to_string() => {
                self.worker = Some(live);
                Ok(Answer::Done)
            }
            (Ok(_), Some(("error", problem))) => {
                live.bury();
                Ok(Answer::Fatal(problem.to_owned()))
            }
            _ => Ok(Answer::Died(live.bury())),
        }
    }

    fn hire(&self) -> Result<Live, Error> {
        let log = self.job.run.worker_log_path(std::process::id(), self.number)?;
        let io = |path: &std::path::Path, source| Error::Io { path: path.display().to_string(), source };
        let file = File::create(&log).map_err(|error| io(&log, error))?;
        let mut command = (self.executor.command)();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file);
        // A group of its own: Ctrl-C at the terminal is for this process, which then closes the workers' inputs.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let program = std::path::Path::new(command.get_program()).to_owned();
        let mut process = command.spawn().map_err(|error| io(&program, error))?;
        match (process.stdin.take(), process.stdout.take()) {
            (Some(input), Some(output)) => Ok(Live { process, input, output: BufReader::new(output), log }),
            _ => unreachable!("both were asked for"),
        }
    }

    fn dismiss(self) {
        if let Some(live) = self.worker {
            live.bury();
        }
    }
}

impl Live {
    /// Waits for the end of the process; how it ended, and the end of its log.
    fn bury(self) -> String {
        let Live { mut process, input, output, log } = self;
        drop((input, output));
        let how = match process.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let text = tail(&String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()));
        // Best effort: what it held is in the answer.
        let _ = std::fs::remove_file(&log);
        if text.is_empty() { how } else { format!("{how}; its log ends:\n{text}") }
    }
}
