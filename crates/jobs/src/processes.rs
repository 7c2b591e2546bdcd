//! Jobs in worker processes of this machine: a worker that dies takes only its job with it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, mpsc};

use super::threads::run_side_by_side;
use crate::log::tail;
use crate::{BoxError, Error, Executor, RemoteJobs};

/// Worker processes, one job at a time each.
///
/// A worker reads job numbers from its standard input, one per line, and answers each with a line: `done` and the number,
/// `stopped` and the number if another call continues the job, or `error` and a message that ends the whole run (see
/// [`serve`]). Before its answer it may write lines of `note` and a text. It exits when its input ends, so none outlives this
/// process.
pub struct Processes {
    /// Workers at a time; [`super::Jobs::prepare`] runs in this process with as many threads.
    pub workers: usize,
    /// How often a job whose worker died is run again before it fails.
    pub retries: u32,
    /// The command of the worker in the place of that number, counted from 0.
    pub command: Box<dyn Fn(usize) -> Command + Sync>,
}

impl<J: RemoteJobs + ?Sized> Executor<J> for Processes {
    fn run(&self, jobs: &J) -> Result<(), Error> {
        jobs.prepare(self.workers)?;
        let (counting, notes) = (Mutex::new(()), Mutex::new(BTreeSet::new()));
        let start = |number| Slot { executor: self, jobs, counting: &counting, notes: &notes, number, worker: None };
        run_side_by_side(jobs, self.workers, start, |slot, job| slot.run(job), Slot::dismiss)
    }
}

/// One worker's place: when a worker dies, another takes it.
struct Slot<'a, J: ?Sized> {
    executor: &'a Processes,
    jobs: &'a J,
    /// Held while attempts are counted, since all slots share one file.
    counting: &'a Mutex<()>,
    /// Notes of workers that were passed on; each is passed on once, also if several workers send it.
    notes: &'a Mutex<BTreeSet<String>>,
    number: usize,
    worker: Option<Worker>,
}

/// A worker process.
struct Worker {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    log: PathBuf,
}

/// A worker's answer to a job.
enum Answer {
    Done,
    /// The job stopped early; another call continues it.
    Stopped,
    /// An error that ends the run.
    Fatal(String),
    /// The worker died; how, with the end of its log.
    Died(String),
}

impl<J: RemoteJobs + ?Sized> Slot<'_, J> {
    fn run(&mut self, job: usize) -> Result<(), Error> {
        let jobs = self.jobs;
        jobs.started(job);
        loop {
            let how = match self.ask(job)? {
                Answer::Fatal(problem) => return Err(Error::Worker(problem)),
                // Read from disk, so that the progress shows what is stored.
                Answer::Done if jobs.finished(job)? => return Ok(()),
                Answer::Stopped => return Ok(()),
                Answer::Done => "it reported the end of the job and left no complete result".to_owned(),
                Answer::Died(how) => how,
            };
            let attempts = {
                let _alone = self.counting.lock().expect("no holder of this lock panics");
                jobs.count_attempt(job)?
            };
            if attempts > self.executor.retries {
                jobs.fail(job, format!("its worker died {attempts} times; the last time {how}"))?;
                return Ok(());
            }
            let first = how.lines().next().unwrap_or_default();
            let left = self.executor.retries + 1 - attempts;
            jobs.note(&format!("trial {job}: a worker died ({first}); running it again, at most {left} more times"));
        }
    }

    /// Sends the job to this slot's worker, starting one if there is none.
    fn ask(&mut self, job: usize) -> Result<Answer, Error> {
        let mut worker = match self.worker.take() {
            Some(worker) => worker,
            None => self.start_worker()?,
        };
        let mut line = String::new();
        let mut received = writeln!(worker.input, "{job}").and_then(|()| worker.input.flush());
        loop {
            line.clear();
            received = received.and_then(|()| worker.output.read_line(&mut line).map(drop));
            match line.trim_end().split_once(' ') {
                Some(("note", text)) if received.is_ok() => {
                    if self.notes.lock().expect("no holder of this lock panics").insert(text.to_owned()) {
                        self.jobs.note(text);
                    }
                }
                _ => break,
            }
        }
        match (received, line.trim_end().split_once(' ')) {
            (Ok(_), Some((answer @ ("done" | "stopped"), number))) if number == job.to_string() => {
                self.worker = Some(worker);
                Ok(if answer == "done" { Answer::Done } else { Answer::Stopped })
            }
            (Ok(_), Some(("error", problem))) => {
                worker.wait();
                Ok(Answer::Fatal(problem.to_owned()))
            }
            _ => Ok(Answer::Died(worker.wait())),
        }
    }

    fn start_worker(&self) -> Result<Worker, Error> {
        let log = self.jobs.logs()?.join(format!("worker-{}-{}.log", std::process::id(), self.number));
        let file = File::create(&log).map_err(|error| Error::io(&log, error))?;
        let mut command = (self.executor.command)(self.number);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file);
        // A process group of its own: Ctrl-C at the terminal reaches this process, which then closes the workers' inputs.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let program = Path::new(command.get_program()).to_owned();
        let mut process = command.spawn().map_err(|error| Error::io(&program, error))?;
        match (process.stdin.take(), process.stdout.take()) {
            (Some(input), Some(output)) => Ok(Worker { process, input, output: BufReader::new(output), log }),
            _ => unreachable!("both are piped"),
        }
    }

    fn dismiss(self) {
        if let Some(worker) = self.worker {
            worker.wait();
        }
    }
}

impl Worker {
    /// Closes the worker's input and waits for its end; how it ended, with the end of its log.
    fn wait(self) -> String {
        let Worker { mut process, input, output, log } = self;
        drop((input, output));
        let how = match process.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let text = tail(&String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()));
        // If this fails, a log stays behind; its end is in the answer.
        let _ = std::fs::remove_file(&log);
        if text.is_empty() { how } else { format!("{how}; its log ends:\n{text}") }
    }
}

/// How a worker's job ended, without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its result is stored.
    Done,
    /// It stopped early, and another call continues it.
    Stopped,
}

/// A worker's side: runs the jobs whose numbers arrive on standard input, and answers each. What `run` passes to its second
/// argument is reported in one line.
///
/// The process exits when its input ends, even during a job: the process that started it is gone.
///
/// # Errors
/// A line that is no number; standard output that is closed.
pub fn serve(mut run: impl FnMut(usize, &dyn Fn(&str)) -> Result<Ended, BoxError>) -> Result<(), BoxError> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if !line.is_ok_and(|line| send.send(line).is_ok()) {
                break;
            }
        }
        std::process::exit(0);
    });
    for line in receive {
        let line = line.trim();
        let job = line.parse().map_err(|_| format!("`{line}` on standard input is no job's number"))?;
        let note = |text: &str| {
            // If this fails, so does the answer.
            let _ = say(&format!("note {text}"));
        };
        match run(job, &note) {
            Ok(Ended::Done) => say(&format!("done {job}"))?,
            Ok(Ended::Stopped) => say(&format!("stopped {job}"))?,
            Err(error) => say(&format!("error {error}"))?,
        }
    }
    Ok(())
}

/// Writes a line of an answer.
fn say(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", text.replace('\n', " "))?;
    out.flush()
}
