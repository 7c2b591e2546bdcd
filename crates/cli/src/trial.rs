//! `trial`: single trials of a plan, by their places in it.

use std::path::Path;
use std::time::{Duration, Instant};

use nettriage_jobs::Ended;
use nettriage_records::Run;
use nettriage_study::{Resources, RuntimeOptions, StudyContext, Worker, check_engine, context_of};

use crate::args;
use crate::fail::Fail;
use crate::interrupt::Interrupt;
use crate::progress::title;
use crate::run::cores;

/// `nettriage trial --plan PLAN --index I`.
pub fn trial(args: &args::Trial) -> Result<(), Fail> {
    let named_plan = args.plan.file_name().is_some_and(|name| name == "plan.json");
    let folder = if named_plan { args.plan.parent().unwrap_or(Path::new("")) } else { &args.plan };
    let run = Run::open(folder)?;
    let indices = if args.index == "-" { None } else { Some(indices(&args.index, run.plan().trials.len())?) };
    let runtime = args.runtime.resolved()?;
    let stop = runtime.stop.clone();
    let context = context(&run, args.data_dir.as_deref(), runtime)?;
    let threads = args.runtime.threads.map_or_else(cores, usize::from);
    let deadline = args.until.map(|until| {
        let left = Duration::try_from_secs_f64((until - nettriage_records::unix_time()).max(0.0));
        Instant::now() + left.unwrap_or(Duration::ZERO)
    });
    let resources = Resources { workers: 1, threads, cache: args.cache << 20 };
    let mut worker = Worker::new(&run, &context, resources, deadline);
    // A cluster sends this shortly before a task's time limit. Without checkpoints nothing could be saved.
    if args.runtime.checkpoint.0.is_some() {
        Interrupt::stopping(stop)?;
    }
    let Some(indices) = indices else {
        let run = |index, note: &dyn Fn(&str)| {
            let record = worker.trial(index);
            worker.take_notes().iter().for_each(|text| note(text));
            Ok(if record?.is_some() { Ended::Done } else { Ended::Stopped })
        };
        return nettriage_jobs::serve(run).map_err(|error| Fail::Message(error.to_string()));
    };
    for index in indices {
        let spec = &run.plan().trials[index];
        // Read, not looked at: a torn record is redone.
        if args.missing && run.record(&spec.id)?.is_some() {
            continue;
        }
        if worker.is_over() {
            eprintln!("the time is over: the trials from {index} on are left for another time");
            return Ok(());
        }
        let record = worker.trial(index);
        worker.take_notes().iter().for_each(|text| eprintln!("note: {text}"));
        match record? {
            Some(record) => println!("{}: {}", record.spec.id, title(&record.spec)),
            None => eprintln!("trial {index} is stopped and saved: the same command continues it"),
        }
    }
    Ok(())
}

/// The study context that the plan was made from, if this program would plan the same.
fn context(run: &Run, data_dir: Option<&Path>, runtime: RuntimeOptions) -> Result<StudyContext, Fail> {
    let plan = run.plan();
    let file = run.folder().join("plan.json").display().to_string();
    let context = context_of(run, data_dir, runtime)?;
    check_engine(run, &context)?;
    if nettriage_study::plan(&context)? != *plan {
        return Err(Fail::Message(format!(
            "{file}: this version of the program, with this data set, makes another plan; run it with the version and data that made it",
        )));
    }
    Ok(context)
}

/// Places such as `3` or `3,7-9`, each below `trials`.
fn indices(text: &str, trials: usize) -> Result<Vec<usize>, Fail> {
    let wrong =
        || Fail::Message(format!("--index {text}: write places in the plan such as 3 or 3,7-9, counted from 0"));
    let mut places = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.trim().parse::<usize>(), last.trim().parse::<usize>()) else {
            return Err(wrong());
        };
        if first > last {
            return Err(wrong());
        }
        if last >= trials {
            return Err(Fail::Message(format!("--index {last}: the plan has {trials} trials, counted from 0")));
        }
        places.extend(first..=last);
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::indices;

    #[test]
    fn places_are_numbers_and_ranges() {
        assert_eq!(indices("3", 10).unwrap(), [3]);
        assert_eq!(indices("0,7-9", 10).unwrap(), [0, 7, 8, 9]);
        for wrong in ["", "a", "3-1", "-1", "1,,2", "10", "0-18446744073709551615", "5-"] {
            assert!(indices(wrong, 10).is_err(), "{wrong}");
        }
    }
}
