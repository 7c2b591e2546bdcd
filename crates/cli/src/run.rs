//! `run` and `train`: from a study file to records and a report.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{BinaryBytes, HumanDuration};
use nettriage_jobs::{Executor, Processes, Slurm, Threads, slurm};
use nettriage_records::record::Outcome;
use nettriage_records::{Plan, Run};
use nettriage_study::{
    Estimate, Limits, Progress, Resources, Study, StudyContext, TrialJobs, estimate, execute, folder_name, notes,
    pending_work, plan, store_study_folder, train_parents,
};

use crate::args::{self, LogFormat, On};
use crate::fail::Fail;
use crate::init;
use crate::interrupt::{First, Interrupt};
use crate::memory;
use crate::progress::{ProgressReporter, title};
use crate::{output, report};

/// `nettriage run STUDY`.
pub fn run(args: &args::Run) -> Result<(), Fail> {
    let begin = Instant::now();
    if args.on != On::Processes {
        args.train.runtime.compute.check_one()?;
    }
    let (context, plan) = prepare(&args.train)?;
    if args.dry_run {
        return dry_run(args, &context, &plan);
    }
    let folder = folder(&args.train, &plan);
    let run = Run::create(&folder, &plan)?;
    let _lock = run.lock()?;
    if let Some(study) = &args.train.study {
        store_study_folder(&run, study)?;
    }
    let reporter = Arc::new(ProgressReporter::new(args.train.log_format));
    context.notes.iter().for_each(|note| reporter.note(&format!("note: {note}")));
    let resume = resume_command(&args.train, &folder);
    let stop = &context.runtime.stop;
    // Workers in processes of their own save their trainings themselves.
    let saves = args.on == On::Local && context.runtime.checkpoint.is_some();
    let first = if saves { First::Saves(stop.clone()) } else { First::Ends };
    let interrupt = shutdown_message(args, &reporter, &folder, &resume, first)?;
    reporter.note(&format!(
        "{}: {} trials and controls, records in {}",
        plan.name,
        plan.trials.len(),
        folder.display()
    ));
    let expected = expectation(args, &run, &context)?;
    if let Some(expected) = &expected {
        reporter.note(&format!("estimate, from a short measurement: {}", in_words(expected)));
    }
    let limits = Limits {
        deadline: args.max_time.and_then(|time| begin.checked_add(time)),
        trials: args.max_trials.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
    };
    let page = folder.join("report.html");
    output::check(&[&page], &[])?;
    let executing = Instant::now();
    let executor = executor(args, &folder)?;
    let result = execute(&run, &context, executor.as_ref(), resources(&args.train), limits, reporter.as_ref());
    reporter.finish();
    let complete = result?;
    if stop.is_set()
        && !complete
        && let Some(message) = interrupt.message()
    {
        return Err(Fail::Stopped(message));
    }
    interrupt.over();
    if let Some(expected) = &expected {
        reporter.note(&estimate_against_actual(expected, executing.elapsed(), complete));
    }
    report::conclude(&folder, &page)?;
    let status = run.status()?;
    if complete {
        reporter.note(&format!("done in {:#}", HumanDuration(begin.elapsed())));
    } else {
        reporter.note(&format!(
            "stopped at its limit: {} trials are left{}; {resume}",
            status.left,
            saved(status.checkpoints)
        ));
    }
    println!("report: {}", page.display());
    if status.failed > 0 {
        return Err(Fail::FailedTrials(failures(&run, status.failed)?));
    }
    Ok(())
}

/// How many trainings continue where they were stopped.
fn saved(checkpoints: usize) -> String {
    match checkpoints {
        0 => String::new(),
        1 => ", and 1 training continues where it was".to_owned(),
        n => format!(", and {n} trainings continue where they were"),
    }
}

/// How many trials failed, why the first did, and what to do.
fn failures(run: &Run, failed: usize) -> Result<String, Fail> {
    let reason = run.records()?.into_iter().find_map(|record| match record.outcome {
        Outcome::Failed { reason } => reason.lines().next().map(str::to_owned),
        _ => None,
    });
    let folder = run.folder().display();
    let reason = reason.unwrap_or_default();
    Ok(format!(
        "{failed} trials failed, the first by this: {reason}; `nettriage retry {folder}` opens them for the next `run`"
    ))
}

/// `nettriage train STUDY`.
pub fn train(args: &args::Train) -> Result<(), Fail> {
    args.runtime.compute.check_one()?;
    let (context, plan) = prepare(args)?;
    let run = Run::create(&folder(args, &plan), &plan)?;
    let _lock = run.lock()?;
    if let Some(study) = &args.study {
        store_study_folder(&run, study)?;
    }
    let reporter = ProgressReporter::new(args.log_format);
    context.notes.iter().for_each(|note| reporter.note(&format!("note: {note}")));
    let result = train_parents(&run, &context, resources(args), &reporter);
    reporter.finish();
    result?;
    for parent in run.parents()? {
        println!(
            "parent, seed {}: validation {:.2}%, test {:.2}% of {} images, weights in {}",
            parent.seed,
            100.0 * parent.validation.top1,
            100.0 * parent.test.top1,
            parent.test.images,
            run.parent_weights_path(&parent.id).display()
        );
    }
    Ok(())
}

fn prepare(args: &args::Train) -> Result<(StudyContext, Plan), Fail> {
    let (study, text) = match (&args.study, &args.model, &args.data) {
        (Some(study), ..) => Study::read(study)?,
        (None, Some(model), Some(data)) => {
            let text = init::study(model, data, args.data_dir.as_deref(), init::absolute)?;
            (Study::parse(&text, "the study of --model and --data")?, text)
        }
        _ => return Err(Fail::Message("name a study file, or --model and --data".into())),
    };
    let mut context = StudyContext::with(study, text, args.data_dir.as_deref(), args.runtime.resolved()?)?;
    context.data.notes.iter().for_each(|note| eprintln!("note: {note}"));
    let plan = plan(&context)?;
    context.notes.extend(notes(&context, &plan)?);
    Ok((context, plan))
}

fn folder(args: &args::Train, plan: &Plan) -> PathBuf {
    args.out.clone().unwrap_or_else(|| Path::new("runs").join(folder_name(plan)))
}

fn resources(args: &args::Train) -> Resources {
    let workers = args.workers.map_or_else(cores, usize::from);
    let threads = args.runtime.threads.map_or(1, usize::from);
    Resources { workers, threads, cache: args.cache << 20 }
}

pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Most MiB of shared activations in a Slurm task: clusters count memory.
const TASK_CACHE: usize = 1024;

/// When the run is over, in seconds since 1970.
fn until(args: &args::Run) -> Option<f64> {
    args.max_time.map(|time| nettriage_records::unix_time() + time.as_secs_f64())
}

/// What runs the trials.
fn executor(args: &args::Run, folder: &Path) -> Result<Box<dyn for<'a> Executor<TrialJobs<'a>>>, Fail> {
    let resources = resources(&args.train);
    match args.on {
        On::Local => Ok(Box::new(Threads { workers: resources.workers })),
        On::Processes => {
            let args::Train { cache, runtime, .. } = &args.train;
            let mut command = trial_command(&args.train, folder, *cache, resources.workers)?;
            let threads = runtime.threads.unwrap_or(1).to_string();
            command.extend(["--threads", &threads, "--index", "-"].map(str::to_owned));
            command.extend(until(args).map(|until| format!("--until={until:.3}")));
            let devices = runtime.compute.device.clone();
            let command = Box::new(move |number: usize| {
                let mut worker = Command::new(&command[0]);
                worker.args(&command[1..]);
                worker.args(devices.get(number % devices.len().max(1)).map(|device| format!("--device={device}")));
                // A process that runs out of memory inside a backtrace deadlocks.
                worker.env("RUST_BACKTRACE", "0");
                worker
            });
            Ok(Box::new(Processes { workers: resources.workers, retries: args.retries, command }))
        }
        On::Slurm => {
            let args::Slurm { slurm_option, slurm_tasks, slurm_chunk, .. } = &args.slurm;
            let mut command = trial_command(&args.train, folder, args.train.cache.min(TASK_CACHE), 1)?;
            command.extend(args.train.runtime.compute.device.first().map(|device| format!("--device={device}")));
            Ok(Box::new(Slurm {
                command,
                options: slurm_option.clone(),
                at_once: *slurm_tasks,
                chunk: *slurm_chunk,
                retries: args.retries,
                until: until(args),
                saves: args.train.runtime.checkpoint.0.is_some(),
            }))
        }
    }
}

/// This program's command for trials of a plan, up to their indices; the budgets are divided among `sharers` processes.
fn trial_command(args: &args::Train, folder: &Path, cache: usize, sharers: usize) -> Result<Vec<String>, Fail> {
    let program = std::env::current_exe()?;
    let mut command = vec![absolute(&program)?, "trial".to_owned(), "--plan".to_owned(), absolute(folder)?];
    command.extend(budget_options(args, cache, sharers)?);
    Ok(command)
}

/// The options that say where data and PyTorch are, and how much memory and disk one of `sharers` processes may use; the device is
/// the caller's to add.
fn budget_options(args: &args::Train, cache: usize, sharers: usize) -> Result<Vec<String>, Fail> {
    let mut options = Vec::new();
    if let Some(data) = &args.data_dir {
        options.extend(["--data-dir".to_owned(), absolute(data)?]);
    }
    if let Some(scratch) = &args.runtime.scratch {
        options.extend(["--scratch".to_owned(), absolute(scratch)?]);
    }
    let args::Runtime { compute, device_memory, data_memory, disk_cache, no_reuse, checkpoint, .. } = &args.runtime;
    let sharers_of_device = sharers.div_ceil(compute.device.len().max(1));
    if let Some(torch) = &compute.torch {
        options.extend(["--torch".to_owned(), absolute(torch)?]);
    }
    for (name, value) in [
        ("--cache", (cache / sharers).to_string()),
        ("--disk-cache", (disk_cache / sharers).to_string()),
        ("--device-memory", (device_memory / sharers_of_device).to_string()),
        ("--data-memory", (data_memory / sharers as u64).to_string()),
        ("--no-reuse", no_reuse.to_string()),
        ("--checkpoint", checkpoint.to_string()),
        ("--precision", compute.precision.name().to_owned()),
    ] {
        options.extend([name.to_owned(), value]);
    }
    Ok(options)
}

/// An absolute path as text, for a worker's command line.
fn absolute(path: &Path) -> Result<String, Fail> {
    let path = std::path::absolute(path).map_err(|error| Fail::file(path, error))?;
    path.into_os_string()
        .into_string()
        .map_err(|path| Fail::Message(format!("{}: workers need a path of Unicode letters", path.display())))
}

fn resume_command(args: &args::Train, folder: &Path) -> String {
    format!("resume with: nettriage run {} --out {}", study_arguments(args).join(" "), folder.display())
}

/// The arguments that name the study.
fn study_arguments(args: &args::Train) -> Vec<String> {
    match (&args.study, &args.model, &args.data) {
        (Some(study), ..) => vec![study.display().to_string()],
        (None, Some(model), Some(data)) => ["--model", model, "--data", data].map(str::to_owned).to_vec(),
        _ => Vec::new(),
    }
}

/// Installs the message that a signal ends with.
fn shutdown_message(
    args: &args::Run,
    reporter: &Arc<ProgressReporter>,
    folder: &Path,
    resume: &str,
    first: First,
) -> Result<Interrupt, Fail> {
    let (on, cancel) = (args.on, args.slurm.slurm_cancel);
    let (reporter, folder, resume) = (reporter.clone(), folder.to_owned(), resume.to_owned());
    Interrupt::new(first, move || {
        let place = folder.display();
        let run = Run::open(&folder);
        // Counted on disk, because the progress report may lag behind.
        let done = run.as_ref().ok().and_then(|run| run.recorded().ok()).map_or(0, |recorded| recorded.len());
        let (_, of) = reporter.counts();
        let trials = if of == 0 { "the plan is saved".to_owned() } else { format!("{done} of {of} trials are saved") };
        let trainings = run.as_ref().ok().and_then(|run| run.status().ok());
        let trainings = trainings.map_or(String::new(), |status| saved(status.checkpoints));
        let jobs = match (on, cancel) {
            (On::Slurm, false) => format!("; the jobs continue, and `nettriage status {place}` follows them"),
            (On::Slurm, true) => match run.map_err(Fail::from).and_then(|run| Ok(slurm::cancel(run.folder())?)) {
                Ok(jobs) => format!("; jobs cancelled: {jobs}"),
                Err(error) => format!("; the jobs could not be cancelled ({error})"),
            },
            _ => String::new(),
        };
        format!("{trials} in {place}{trainings}{jobs}; {resume}")
    })
}

/// The estimate for the pending trials; none if none are pending, or if a cluster runs them.
fn expectation(args: &args::Run, run: &Run, context: &StudyContext) -> Result<Option<Estimate>, Fail> {
    let (mut pending, parents) = pending_work(run, context)?;
    pending.truncate(args.max_trials.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX));
    if pending.is_empty() || args.on == On::Slurm {
        return Ok(None);
    }
    if args.on == On::Processes {
        // In a separate process, because a measurement that runs out of memory must not end the run.
        return Ok(measured_in_a_process(args, run.folder()));
    }
    Ok(Some(estimate(context, run.plan(), &pending, parents, resources(&args.train), false)?))
}

/// The estimate that a dry run of this program makes in a separate process; none if it fails.
fn measured_in_a_process(args: &args::Run, folder: &Path) -> Option<Estimate> {
    let mut command = Command::new(std::env::current_exe().ok()?);
    command.args(["run", "--dry-run", "--on", "processes", "--log-format", "json"]);
    command.args(study_arguments(&args.train));
    command.arg("--out").arg(folder).args(["--workers", &resources(&args.train).workers.to_string()]);
    command.args(budget_options(&args.train, args.train.cache, 1).ok()?);
    command.args(args.train.runtime.compute.device.first().map(|device| format!("--device={device}")));
    let output = command.stderr(Stdio::null()).output().ok()?;
    let last = output.stdout.rsplit(|&byte| byte == b'\n').find(|line| !line.is_empty())?;
    serde_json::from_slice(last).ok()
}

fn in_words(estimate: &Estimate) -> String {
    format!(
        "{} and {} ({} for parents, {} a trial)",
        seconds(estimate.seconds()),
        BinaryBytes(estimate.bytes),
        seconds(estimate.parents),
        seconds(estimate.trial)
    )
}

fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.2} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s => format!("{:#}", HumanDuration(Duration::from_secs_f64(s))),
    }
}

/// The estimate beside the actual time and memory.
fn estimate_against_actual(expected: &Estimate, took: Duration, complete: bool) -> String {
    let part = if complete { "" } else { " (for all pending trials; only some were run)" };
    let peak = memory::peak().map_or(String::new(), |bytes| format!(" and {}", BinaryBytes(bytes)));
    format!(
        "estimated {} and {}{part}; it took {}{peak}",
        seconds(expected.seconds()),
        BinaryBytes(expected.bytes),
        seconds(took.as_secs_f64())
    )
}

/// Prints the plan and the estimate for its pending trials.
fn dry_run(args: &args::Run, context: &StudyContext, plan: &Plan) -> Result<(), Fail> {
    context.notes.iter().for_each(|note| eprintln!("note: {note}"));
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let json = args.train.log_format == LogFormat::Json;
    for (index, spec) in plan.trials.iter().enumerate() {
        if json {
            writeln!(out, "{}", serde_json::json!({ "index": index, "id": spec.id, "trial": title(spec) }))?;
        } else {
            writeln!(out, "{index}\t{}\t{}", spec.id, title(spec))?;
        }
    }
    let begun = Run::open(&folder(&args.train, plan)).ok().filter(|run| run.plan() == plan);
    let (pending, parents) = match &begun {
        Some(run) => pending_work(run, context)?,
        None => ((0..plan.trials.len()).collect(), plan.parents.len()),
    };
    let resources = resources(&args.train);
    let expected = estimate(context, plan, &pending, parents, resources, args.on == On::Processes)?;
    if json {
        writeln!(out, "{}", serde_json::to_string(&expected).map_err(|e| Fail::Message(e.to_string()))?)?;
    } else {
        let halving = if context.study.halving.is_some() { "; halving will skip some" } else { "" };
        writeln!(
            out,
            "{} trials and controls, {} parents; {} left",
            plan.trials.len(),
            plan.parents.len(),
            pending.len()
        )?;
        writeln!(out, "estimate, from a short measurement: {}{halving}", in_words(&expected))?;
        for test in &plan.range_tests {
            let found = begun.as_ref().map(|run| run.range_test(&test.id)).transpose()?.flatten();
            let rate = found.map_or("found by a range test before they train".to_owned(), |test| {
                format!("{}, by the run's range test", test.rate)
            });
            writeln!(out, "rate = \"auto\" for {}: {rate}", test.of)?;
        }
    }
    out.flush()?;
    Ok(())
}
