//! `scan`: which ranges of layers could be one layer, without training.

use std::io::{IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use nettriage::{ScanBuilder, Subject};
use nettriage_compress::scan::{Options, Phase, Progress, Scope};
use nettriage_records::scan::{Scan, Trust};

use crate::args::{self, Ranges};
use crate::fail::Fail;
use crate::run::cores;
use crate::{output, subject};

/// The list in the folder of `--parts`.
const PARTS: &str = "parts.csv";
/// Test images that `--on-test` judges by, unless --judged says otherwise.
const ON_TEST: usize = 1000;

/// `nettriage scan MODEL`.
pub fn scan(args: &args::Scan) -> Result<(), Fail> {
    let page = args.output.clone().unwrap_or_else(|| PathBuf::from("scan.html"));
    let outputs: Vec<PathBuf> = args.json.iter().chain([&page]).cloned().collect();
    let mut inputs = output::of_model(&args.subject.model);
    inputs.extend(args.study.iter().chain(&args.subject.data_dir).cloned());
    output::check(&output::as_paths(&outputs), &output::as_paths(&inputs))?;
    let list = args.parts.as_ref().map(|folder| folder.join(PARTS));
    if let (Some(folder), Some(list)) = (&args.parts, &list) {
        output::check_folder(folder, &output::as_paths(&inputs))?;
        if list.exists() {
            let problem = "it exists, and times that were filled in would be lost; name another folder, or remove it";
            return Err(Fail::Message(format!("{}: {problem}", list.display())));
        }
    }
    let mut messages = output::messages(&output::as_paths(&outputs));
    let subject = subject::read(&args.subject)?;
    let scope = match args.ranges {
        Ranges::Blocks => Scope::Blocks,
        Ranges::Stages => Scope::Stages,
        Ranges::All => Scope::All,
    };
    let options = Options { scope, methods: args.methods.clone(), ..options(&args.subject)? };
    nettriage::check_runs(&args.study, &subject.network)?;
    // What may fail for want of a run's data set comes before the scan.
    let trust = trust(args, &options)?;
    let reporter = ProgressReporter::new();
    let mut builder =
        ScanBuilder::of(&subject).images(args.subject.images).options(|own| *own = options.clone()).progress(&reporter);
    if args.on_test {
        builder = builder.on_test(args.subject.judged.unwrap_or(ON_TEST));
    }
    let found = builder.run();
    reporter.finish();
    let mut found = found?;
    found.trust = trust;
    warn_of_chance(&found, &subject);

    write!(messages, "{}", nettriage_report::scan::terminal(&found))?;
    if let Some(path) = &args.json {
        save(&found, path)?;
    }
    output::write(&page, &nettriage_report::scan::html(&found))?;
    writeln!(messages, "page: {}", page.display())?;
    if let (Some(folder), Some(list)) = (&args.parts, &list) {
        let count = write_parts(&found, &subject, folder, list)?;
        writeln!(messages, "parts: {count} to be timed, in {}", list.display())?;
    }
    Ok(())
}

/// Writes the parts whose times are added up: an ONNX model of each, then the list. Their number.
fn write_parts(scan: &Scan, subject: &Subject, folder: &Path, list: &Path) -> Result<usize, Fail> {
    std::fs::create_dir_all(folder).map_err(|error| Fail::file(folder, error))?;
    let parts = nettriage_compress::scan::parts(&subject.network, scan)?;
    for part in &parts {
        nettriage_formats::onnx::write(&part.network()?, folder.join(nettriage::part_model(part)))?;
    }
    output::write(list, &nettriage_report::csv_table(&nettriage::PART_COLUMNS, nettriage::part_rows(&parts)))?;
    Ok(parts.len())
}

/// Says if the scanned network is not shown to be better than chance.
pub fn warn_of_chance(scan: &Scan, subject: &Subject) {
    if let Some(accuracy) = scan.parent.accuracy {
        let images = scan.images.judged as u64;
        subject::warn_of_chance((accuracy * images as f64).round() as u64, images, subject.data.classes.len());
    }
}

/// Writes a scan as JSON.
pub fn save(scan: &Scan, path: &Path) -> Result<(), Fail> {
    let text = serde_json::to_string_pretty(scan).map_err(|e| Fail::Message(e.to_string()))?;
    output::write(path, &(text + "\n"))
}

/// How well the scan ranks blocks as training does, by the runs of --study.
fn trust(args: &args::Scan, options: &Options) -> Result<Vec<Trust>, Fail> {
    if args.study.is_empty() {
        return Ok(Vec::new());
    }
    let data_dir = args.subject.data_dir.as_deref().filter(|_| args.study.len() == 1);
    let reporter = ProgressReporter::new();
    let (images, judged) = (args.subject.images, args.subject.judged);
    let options = Options { methods: Options::default().methods, outputs: None, ..options.clone() };
    let trust = nettriage::trust(&args.study, data_dir, images, judged, &options, &reporter);
    reporter.finish();
    let trust = trust?;
    if trust.is_empty() {
        eprintln!("note: no study given has children trained by `global` on two blocks or more: no rank correlation");
    }
    Ok(trust)
}

/// The options that `scan` and `prescribe` share.
pub fn options(args: &args::Subject) -> Result<Options, Fail> {
    Ok(Options {
        device: args.compute.open_one()?,
        choices: args.substitutes.clone(),
        unknowns: args.unknowns,
        rows: args.rows,
        memory: args.memory << 20,
        batch: args.batch,
        threads: args.threads.unwrap_or_else(cores),
        outputs: args.outputs,
        ..Options::default()
    })
}

/// A progress bar, or plain lines without a terminal.
pub struct ProgressReporter(Mutex<(ProgressBar, Option<Phase>, Instant)>, bool);

impl ProgressReporter {
    /// Nothing reported yet.
    pub fn new() -> ProgressReporter {
        ProgressReporter(Mutex::new((ProgressBar::hidden(), None, Instant::now())), std::io::stderr().is_terminal())
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0.finish_and_clear();
    }
}

impl Progress for ProgressReporter {
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
        }
        state.0.set_length(of as u64);
        state.0.set_position(done as u64);
        let begins = state.1.replace(phase) != Some(phase);
        if !self.1 && (begins || done == of || state.2.elapsed().as_secs() >= 10) {
            eprintln!("{name}: {done} of {of}");
            state.2 = Instant::now();
        }
    }
}
