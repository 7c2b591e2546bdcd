//! `run`, `train` and `trial`: from a study file to records and a report.

use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::HumanDuration;
use nettriage_records::{Plan, Run};
use nettriage_study::{Resources, Setting, Study, execute, execute_one, folder_name, plan, train_parents};

use crate::args;
use crate::fail::Fail;
use crate::progress::{Teller, title};
use crate::report;

/// `nettriage run STUDY`.
pub fn run(args: &args::Run) -> Result<(), Fail> {
    let begin = Instant::now();
    let (setting, plan) = prepare(args)?;
    if args.dry_run {
        return dry_run(&plan);
    }
    let folder = folder(args, &plan);
    let run = Run::create(&folder, &plan)?;
    let _lock = run.lock()?;
    eprintln!("{}: {} trials and controls, records in {}", plan.name, plan.trials.len(), folder.display());
    let teller = Teller::new();
    let result = execute(&run, &setting, resources(args), &teller);
    teller.finish();
    result?;
    let page = folder.join("report.html");
    report::conclude(&run, &page)?;
    eprintln!("done in {:#}", HumanDuration(begin.elapsed()));
    println!("report: {}", page.display());
    Ok(())
}

/// `nettriage train STUDY`.
pub fn train(args: &args::Run) -> Result<(), Fail> {
    let (setting, plan) = prepare(args)?;
    let run = Run::create(&folder(args, &plan), &plan)?;
    let _lock = run.lock()?;
    let teller = Teller::new();
    let result = train_parents(&run, &setting, resources(args), &teller);
    teller.finish();
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

/// `nettriage trial --plan PLAN --index I`.
pub fn trial(args: &args::Trial) -> Result<(), Fail> {
    let named_plan = args.plan.file_name().is_some_and(|name| name == "plan.json");
    let folder = if named_plan { args.plan.parent().unwrap_or(Path::new("")) } else { &args.plan };
    let run = Run::open(folder)?;
    let plan = run.plan();
    let study = Study::parse(&plan.study, &folder.join("plan.json").display().to_string())?;
    let setting = Setting::new(study, plan.study.clone(), args.data_dir.as_deref())?;
    if nettriage_study::plan(&setting)? != *plan {
        return Err(Fail::Message(format!(
            "{}: this program, with the data at hand, would plan otherwise; run the plan with the version and data that made it",
            folder.join("plan.json").display()
        )));
    }
    let record = execute_one(&run, &setting, args.index, cores())?;
    println!("{}: {}", record.spec.id, title(&record.spec));
    Ok(())
}

fn prepare(args: &args::Run) -> Result<(Setting, Plan), Fail> {
    let (study, text) = Study::read(&args.study)?;
    let setting = Setting::with(study, text, args.data_dir.as_deref(), args.means.resolved())?;
    let plan = plan(&setting)?;
    Ok((setting, plan))
}

fn folder(args: &args::Run, plan: &Plan) -> PathBuf {
    args.out.clone().unwrap_or_else(|| Path::new("runs").join(folder_name(plan)))
}

fn resources(args: &args::Run) -> Resources {
    Resources { workers: args.workers.map_or_else(cores, usize::from), cache: args.cache << 20 }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn dry_run(plan: &Plan) -> Result<(), Fail> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    for (index, spec) in plan.trials.iter().enumerate() {
        writeln!(out, "{index}\t{}\t{}", spec.id, title(spec))?;
    }
    writeln!(out, "{} trials and controls, {} parents", plan.trials.len(), plan.parents.len())?;
    Ok(())
}
