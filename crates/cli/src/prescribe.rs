//! `prescribe`: a smaller network within bounds.

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use nettriage::{
    Bounds, JudgedOn, LatencyIn, LatencyTable, OnnxRuntime, PrescribeBuilder, Prescribed, PrescribedFront, StopSignal,
    Subject, Training, Wishes, Work, check_scan,
};
use nettriage_compress::prescribe::Progress;
use nettriage_compress::scan::Options;
use nettriage_data::Augmentation;
use nettriage_net::Network;
use nettriage_records::prescription::{Figures, Front, FrontNetwork, Prescription};
use nettriage_records::scan::Scan;

use crate::fail::Fail;
use crate::interrupt::Interrupt;
use crate::{args, export, output, scan, subject};

/// Share of right predictions from which on the network has probably memorised the judged images.
const MEMORISED: f64 = 0.99;
/// Test images that `--judge-on-test` judges by, unless --judged says otherwise.
const ON_TEST: usize = 1000;
/// Time between plain lines of progress.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// `nettriage prescribe MODEL`.
pub fn prescribe(args: &args::Prescribe) -> Result<(), Fail> {
    // Everything that can be refused is checked before anything is computed.
    check_output(&args.output)?;
    let beside = |extension: &str| args.output.with_extension(extension);
    let networks = networks(args);
    let mut outputs: Vec<PathBuf> = networks.iter().flat_map(|file| output::with_sidecar(file)).collect();
    outputs.extend(networks.iter().map(|file| file.with_extension("md")));
    outputs.extend(["json", "html"].map(beside));
    let kept = args.scan.is_none() && args.work.is_none();
    let scan_file = kept.then(|| args.save_scan.clone().unwrap_or_else(|| beside("scan.json")));
    outputs.extend(scan_file.clone());
    let mut inputs = output::of_model(&args.subject.model);
    inputs.extend(args.scan.iter().chain(&args.subject.data_dir).chain(&args.latency_table).cloned());
    output::check(&output::as_paths(&outputs), &output::as_paths(&inputs))?;
    let latency_in = match (&args.latency_table, args.latency_in) {
        (Some(table), _) => LatencyIn::Table(LatencyTable::read(table)?),
        (None, args::LatencyIn::Nettriage) => LatencyIn::Nettriage,
        (None, args::LatencyIn::Onnxruntime) => LatencyIn::OnnxRuntime(OnnxRuntime::find()?),
    };
    let subject = subject::read(&args.subject)?;
    let judged_on = match args.judge_on_test {
        true => JudgedOn::Test(args.subject.judged.unwrap_or(ON_TEST)),
        false => JudgedOn::Training,
    };
    let training = (!args.no_training).then(|| training(args, &subject, judged_on)).transpose()?;
    let options = scan::options(&args.subject)?;
    let scan_reporter = scan::ProgressReporter::new();
    let reporter = ProgressReporter::new();
    let mut found = args.scan.as_ref().map(|path| read_scan(path, &subject, &options)).transpose()?;
    let stop = StopSignal::default();
    let work = args.work.clone().map(|folder| Work { folder, checkpoint: args.checkpoint.0, stop: stop.clone() });
    let builder = || {
        let mut builder = PrescribeBuilder::of(&subject)
            .bounds(bounds(args))
            .wishes(Wishes { keep: args.keep.clone(), replace: args.replace.clone() })
            .latency_in(latency_in.clone())
            .training(training.clone())
            .images(args.subject.images)
            .options(|own| *own = options.clone())
            .workers(usize::from(args.workers))
            .judged_on(judged_on)
            .scan_progress(&scan_reporter)
            .progress(&reporter);
        if let Some(attempts) = args.attempts {
            builder = builder.attempts(attempts);
        }
        if let Some(work) = &work {
            builder = builder.work(work.clone());
        }
        if let Some(count) = args.front {
            builder = builder.front(count);
        }
        builder
    };
    let mut messages = output::messages(&output::as_paths(&outputs));
    builder().check()?;
    if found.is_none() {
        let made = builder().make_scan();
        scan_reporter.finish();
        let made = made?;
        if let Some(path) = &scan_file {
            scan::save(&made, path)?;
            writeln!(messages, "scan: {}", path.display())?;
        }
        found = Some(made);
    }
    if let Some(scan) = &found {
        scan::warn_of_chance(scan, &subject);
    }
    // From here on a signal ends a training with a checkpoint; before, there is nothing to save.
    if args.work.is_some() && args.checkpoint.0.is_some() && !args.no_training {
        Interrupt::stopping(stop.clone())?;
    }
    let builder = match &found {
        Some(scan) => builder().scan(scan),
        None => builder(),
    };
    let stopped = |error: nettriage::Error| match stop.is_set() {
        true => Fail::Stopped(error.to_string()),
        false => error.into(),
    };
    if args.front.is_some() {
        let made = builder.run_front();
        reporter.finish();
        return write_front(made.map_err(stopped)?, &networks, args, &subject, &mut messages);
    }
    let made = builder.run();
    reporter.finish();
    let Prescribed { network, prescription } = made.map_err(stopped)?;
    warn_of_memorised(&prescription, args);
    write_network(&network, &prescription, &args.output, &subject, &mut messages)?;
    write_json(serde_json::to_string_pretty(&prescription), &beside("json"))?;
    output::write(&beside("html"), &nettriage_report::prescription::html(&prescription))?;
    writeln!(messages, "model card: {}\npage: {}\n", beside("md").display(), beside("html").display())?;
    write!(messages, "{}", nettriage_report::prescription::terminal(&prescription))?;
    Ok(())
}

/// The files of the networks: that of `--output`, or with `--front` as many, numbered.
fn networks(args: &args::Prescribe) -> Vec<PathBuf> {
    let Some(count) = args.front else { return vec![args.output.clone()] };
    let part = |name: Option<&std::ffi::OsStr>| name.unwrap_or_default().to_string_lossy().into_owned();
    let (stem, extension) = (part(args.output.file_stem()), part(args.output.extension()));
    (1..=count).map(|number| args.output.with_file_name(format!("{stem}-{number}.{extension}"))).collect()
}

/// Writes the networks of a front, their cards, and a table and a figure of them.
fn write_front(
    made: PrescribedFront,
    files: &[PathBuf],
    args: &args::Prescribe,
    subject: &Subject,
    messages: &mut dyn Write,
) -> Result<(), Fail> {
    let mut front = Front { networks: Vec::new(), plans: made.plans };
    for (Prescribed { network, prescription }, file) in made.networks.into_iter().zip(files) {
        if front.networks.is_empty() {
            warn_of_memorised(&prescription, args);
        }
        write_network(&network, &prescription, file, subject, messages)?;
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned());
        front.networks.push(FrontNetwork { file: name, prescription });
    }
    let (json, html) = (args.output.with_extension("json"), args.output.with_extension("html"));
    write_json(serde_json::to_string_pretty(&front), &json)?;
    output::write(&html, &nettriage_report::prescription::front_html(&front))?;
    writeln!(messages, "page: {}\n", html.display())?;
    write!(messages, "{}", nettriage_report::prescription::front_terminal(&front))?;
    if front.networks.len() < files.len() {
        let count = front.networks.len();
        eprintln!("note: the scan has {count} plans that satisfy the bounds, so there are {count} networks");
    }
    Ok(())
}

/// Writes a network, its description and its card.
fn write_network(
    network: &Network,
    prescription: &Prescription,
    file: &Path,
    subject: &Subject,
    messages: &mut dyn Write,
) -> Result<(), Fail> {
    export::write(network, file, messages)?;
    export::write_info(&subject.info(), file)?;
    output::write(&file.with_extension("md"), &nettriage_report::prescription::markdown(prescription, &command()))
}

/// Writes figures that were serialised.
fn write_json(text: serde_json::Result<String>, file: &Path) -> Result<(), Fail> {
    output::write(file, &(text.map_err(|e| Fail::Message(e.to_string()))? + "\n"))
}

fn warn_of_memorised(prescription: &Prescription, args: &args::Prescribe) {
    if let Some(accuracy) = prescription.before.accuracy.filter(|a| *a >= MEMORISED && !args.judge_on_test) {
        eprintln!(
            "note: the network gets {:.2}% of {} right. If it was trained on them, a drop measured on them is too small: \
             judge by test images that are then not tested on (--judge-on-test)",
            100.0 * accuracy,
            prescription.judged_from
        );
    }
}

fn check_output(path: &Path) -> Result<(), Fail> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("onnx" | "safetensors") => Ok(()),
        _ => Err(export::misnamed(path)),
    }
}

fn read_scan(path: &Path, subject: &Subject, options: &Options) -> Result<Scan, Fail> {
    let text = std::fs::read_to_string(path).map_err(|e| Fail::file(path, e))?;
    let scan: Scan = serde_json::from_str(&text).map_err(|e| {
        Fail::Message(format!("{}: no scan of this version (`nettriage scan --json`): {e}", path.display()))
    })?;
    check_scan(&scan, subject, options).map_err(|e| Fail::Message(format!("{}: {e}", path.display())))?;
    Ok(scan)
}

fn bounds(args: &args::Prescribe) -> Bounds {
    Bounds {
        drop: args.max_drop,
        milliseconds: args.max_latency,
        macs: args.max_macs,
        parameters: args.max_parameters,
        gain: args.min_gain,
    }
}

fn training(args: &args::Prescribe, subject: &Subject, judged_on: JudgedOn) -> Result<Training, Fail> {
    let own = subject.augment;
    let passes = |epochs: f64| (epochs * judged_on.training_images(subject).len() as f64).ceil() as usize;
    let training = Training {
        scheme: args.scheme.clone(),
        images: args.train_images.or(args.epochs.map(passes)),
        rate: args.rate,
        augment: Some(Augmentation { pad: args.pad.unwrap_or(own.pad), flip: args.flip || own.flip, ..own }),
        seed: args.seed,
        ..Training::default()
    };
    Ok(training.with_recipe(args.recipe.name())?)
}

fn command() -> String {
    let words: Vec<String> = std::env::args().skip(1).collect();
    format!("nettriage {}", words.join(" "))
}

/// A progress bar for training (plain lines without a terminal), and a line for each network that is timed or built.
struct ProgressReporter {
    bar: ProgressBar,
    terminal: bool,
    /// When a plain line was printed.
    last: Cell<Instant>,
}

impl ProgressReporter {
    fn new() -> ProgressReporter {
        let last = Cell::new(Instant::now());
        ProgressReporter { bar: ProgressBar::hidden(), terminal: std::io::stderr().is_terminal(), last }
    }

    /// Removes the bar.
    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// A number of ranges in words.
fn ranges(count: usize) -> String {
    format!("{count} range{}", if count == 1 { "" } else { "s" })
}

impl Progress for ProgressReporter {
    fn timed(&self, replaced: usize, ratio: f64) {
        eprintln!("timed with {} replaced: {:.1}% of the original's time", ranges(replaced), 100.0 * ratio);
    }

    fn attempt(&self, number: usize, of: usize, replaced: usize) {
        eprintln!("network {number} of at most {of}: {} replaced", ranges(replaced));
        if self.terminal {
            let template = "training {wide_bar:.cyan/blue} {pos}/{len}  {elapsed} gone, {eta} left";
            self.bar.set_style(ProgressStyle::with_template(template).expect("the template is well-formed"));
            self.bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
            self.bar.reset();
        }
        self.last.set(Instant::now());
    }

    fn training(&self, done: usize, of: usize) {
        // Another network that is trained at the same time may have been judged.
        if self.terminal && self.bar.is_hidden() {
            self.bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
        }
        self.bar.set_length(of as u64);
        self.bar.set_position(done as u64);
        if !self.terminal && (done == of || self.last.get().elapsed() >= BETWEEN_LINES) {
            eprintln!("training: step {done} of {of}");
            self.last.set(Instant::now());
        }
    }

    fn diverged(&self, number: usize, reason: &str) {
        eprintln!(
            "note: the training of network {number} diverged ({reason}); the network is judged as it was before; try a smaller --rate"
        );
    }

    fn judged(&self, number: usize, figures: &Figures) {
        self.bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
        let drop = figures
            .drop
            .map_or(String::new(), |[drop, low, high]| format!("drop {drop:.2} points ({low:.2} to {high:.2}), "));
        let kept = figures.fidelity.map_or(String::new(), |fidelity| fidelity.describe() + ", ");
        eprintln!("network {number}: {drop}{kept}{} multiply-accumulates", figures.cost.macs);
    }
}
