//! `scan`: which ranges of layers could be one layer, without training.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use nettriage_compress::scan::{self, Options, Phase, Progress, Scope};
use nettriage_records::Run;
use nettriage_records::scan::{Scan, Trust};
use nettriage_report::scan::Rankings;

use crate::args::{self, Ranges};
use crate::fail::Fail;
use crate::run::cores;
use crate::{report, subject};

/// `nettriage scan MODEL`.
pub fn scan(args: &args::Scan) -> Result<(), Fail> {
    let subject = subject::read(&args.subject)?;
    let scope = match args.ranges {
        Ranges::Blocks => Scope::Blocks,
        Ranges::Stages => Scope::Stages,
        Ranges::All => Scope::All,
    };
    let options = Options { scope, methods: args.methods.clone(), ..options(&args.subject) };
    let fitted = subject.fitted(args.subject.images);
    let judged = if args.on_test { subject.test(0..args.subject.judged) } else { subject.judged() };
    let judged_from = match args.on_test {
        true => format!("the first {} test images", judged.count),
        false => subject.judged_from.clone(),
    };
    let mut found = run(&scan::Subject { network: &subject.network, fitted: &fitted, judged: &judged }, &options)?;
    found.source = subject.source.clone();
    found.images.data = subject.data.name.clone();
    found.images.judged_from = judged_from;
    found.trust = trust(args)?;

    print!("{}", nettriage_report::scan::terminal(&found));
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&found).map_err(|e| Fail::Message(e.to_string()))?;
        report::write(path, &(text + "\n"))?;
    }
    let page = args.output.clone().unwrap_or_else(|| PathBuf::from("scan.html"));
    report::write(&page, &nettriage_report::scan::html(&found))?;
    println!("page: {}", page.display());
    Ok(())
}

/// The options that `scan` and `prescribe` share.
pub fn options(args: &args::Subject) -> Options {
    Options {
        choices: args.substitutes.clone(),
        unknowns: args.unknowns,
        rows: args.rows,
        memory: args.memory << 20,
        batch: args.batch,
        threads: args.threads.unwrap_or_else(cores),
        ..Options::default()
    }
}

/// Scans, with a bar where there is a terminal.
pub fn run(subject: &scan::Subject<'_>, options: &Options) -> Result<Scan, Fail> {
    let teller = Teller::new();
    let found = scan::scan(subject, options, &teller);
    teller.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0.finish_and_clear();
    Ok(found?)
}

/// The scheme whose criticality a scan is held against, and what its children start from.
const TRAINED: (&str, [&str; 2]) = ("global", ["random", "least-squares"]);

/// How the scan's ranking of blocks agrees with training's, over the parents of the studies given: one answer an init.
fn trust(args: &args::Scan) -> Result<Vec<Trust>, Fail> {
    let mut pairs = [Vec::new(), Vec::new()];
    for folder in &args.study {
        for parent in rankings(folder, args)? {
            pairs.iter_mut().zip(parent).for_each(|(all, one)| all.push(one));
        }
    }
    let (scheme, inits) = TRAINED;
    let trust: Vec<Trust> = pairs
        .iter()
        .zip(inits)
        .filter_map(|(pairs, init)| nettriage_report::scan::trust(pairs, scheme, init))
        .collect();
    if trust.is_empty() && !args.study.is_empty() {
        eprintln!("note: no study given has children trained by `global` on two blocks or more: no rank correlation");
    }
    Ok(trust)
}

/// Of every parent of a run, for each init: the scan's drop and the trained criticality of each block.
fn rankings(folder: &Path, args: &args::Scan) -> Result<Vec<[Rankings; 2]>, Fail> {
    let run_folder = Run::open(folder)?;
    let mut pairs = Vec::new();
    for parent in &run_folder.plan().parents {
        let subject_args = args::Subject {
            model: args::Model {
                model: folder.display().to_string(),
                arch: None,
                width: 1.0,
                input: None,
                classes: None,
            },
            data: None,
            data_dir: args.subject.data_dir.clone().filter(|_| args.study.len() == 1),
            mean: None,
            std: None,
            parent: Some(parent.seed),
            unlabelled: false,
            substitutes: vec!["conv3x3".parse()?],
            ..args.subject
        };
        let subject = subject::read(&subject_args)?;
        let (fitted, judged) = (subject.fitted(args.subject.images), subject.judged());
        let options = Options { scope: Scope::Blocks, ..options(&subject_args) };
        let found = run(&scan::Subject { network: &subject.network, fitted: &fitted, judged: &judged }, &options)?;
        let (scheme, inits) = TRAINED;
        let [random, solved] = inits.map(|init| {
            let trained = nettriage_report::scan::trained_criticality(&run_folder, &parent.id, scheme, init)?;
            let both = found.ranges.iter().filter_map(|range| {
                let block = range.block.as_ref()?;
                let drop = range.candidates.first()?.drop?[0];
                Some((drop, *trained.get(block)?))
            });
            let (scanned, trained) = both.unzip();
            Ok::<_, Fail>(Rankings { scanned, trained })
        });
        pairs.push([random?, solved?]);
    }
    Ok(pairs)
}

/// A bar, or plain lines where there is no terminal.
struct Teller(Mutex<(ProgressBar, Option<Phase>, Instant)>, bool);

impl Teller {
    fn new() -> Teller {
        Teller(Mutex::new((ProgressBar::hidden(), None, Instant::now())), std::io::stderr().is_terminal())
    }
}

impl Progress for Teller {
    fn phase(&self, phase: Phase, done: usize, of: usize) {
        let mut state = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let name = match phase {
            Phase::Fitting => "closed forms",
            Phase::Judging => "running with substitutes",
            Phase::Timing => "timing",
        };
        if state.1 != Some(phase) {
            state.0.finish_and_clear();
            if self.1 {
                let template = "{prefix:.bold} {wide_bar:.cyan/blue} {pos}/{len}  {elapsed} gone, {eta} left";
                let style = ProgressStyle::with_template(template).expect("the template is well-formed");
                state.0 = ProgressBar::new(of as u64).with_style(style).with_prefix(name);
            }
            state.1 = Some(phase);
        }
        state.0.set_length(of as u64);
        state.0.set_position(done as u64);
        if !self.1 && (done == of || state.2.elapsed().as_secs() >= 10) {
            eprintln!("{name}: {done} of {of}");
            state.2 = Instant::now();
        }
    }
}
