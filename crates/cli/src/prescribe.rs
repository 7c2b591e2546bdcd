//! `prescribe`: a smaller network within bounds.

use std::cell::Cell;
use std::io::{IsTerminal, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use nettriage::{
    Bounds, JudgedOn, LatencyIn, OnnxRuntime, PrescribeBuilder, Prescribed, StopSignal, Subject, Training, Wishes,
    Work, check_scan,
};
use nettriage_compress::prescribe::Progress;
use nettriage_compress::scan::Options;
use nettriage_data::Augmentation;
use nettriage_records::prescription::Figures;
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
    let mut outputs = output::with_sidecar(&args.output).to_vec();
    outputs.extend(["md", "json", "html"].map(beside));
    let kept = args.scan.is_none() && args.work.is_none();
    let scan_file = kept.then(|| args.save_scan.clone().unwrap_or_else(|| beside("scan.json")));
    outputs.extend(scan_file.clone());
    let mut inputs = output::of_model(&args.subject.model);
    inputs.extend(args.scan.iter().chain(&args.subject.data_dir).cloned());
    output::check(&output::as_paths(&outputs), &output::as_paths(&inputs))?;
    let latency_in = match args.latency_in {
        args::LatencyIn::Nettriage => LatencyIn::Nettriage,
        args::LatencyIn::Onnxruntime => LatencyIn::OnnxRuntime(OnnxRuntime::find()?),
    };
    let subject = subject::read(&args.subject)?;
    let training = (!args.no_training).then(|| training(args, &subject)).transpose()?;
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
            .scan_progress(&scan_reporter)
            .progress(&reporter);
        if let Some(attempts) = args.attempts {
            builder = builder.attempts(attempts);
        }
        if let Some(work) = &work {
            builder = builder.work(work.clone());
        }
        if args.judge_on_test {
            builder = builder.judged_on(JudgedOn::Test(args.subject.judged.unwrap_or(ON_TEST)));
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
    let made = match &found {
        Some(scan) => builder().scan(scan).run(),
        None => builder().run(),
    };
    reporter.finish();
    let Prescribed { network, prescription } = match made {
        Err(error) if stop.is_set() => return Err(Fail::Stopped(error.to_string())),
        made => made?,
    };
    if let Some(accuracy) = prescription.before.accuracy.filter(|a| *a >= MEMORISED && !args.judge_on_test) {
        eprintln!(
            "note: the network gets {:.2}% of {} right. If it was trained on them, a drop measured on them is too small: \
             judge by test images that are then not tested on (--judge-on-test)",
            100.0 * accuracy,
            prescription.judged_from
        );
    }
    export::write(&network, &args.output, &mut messages)?;
    export::write_info(&subject.info(), &args.output)?;
    output::write(&beside("md"), &nettriage_report::prescription::markdown(&prescription, &command()))?;
    let text = serde_json::to_string_pretty(&prescription).map_err(|e| Fail::Message(e.to_string()))?;
    output::write(&beside("json"), &(text + "\n"))?;
    output::write(&beside("html"), &nettriage_report::prescription::html(&prescription))?;
    writeln!(messages, "model card: {}\npage: {}\n", beside("md").display(), beside("html").display())?;
    write!(messages, "{}", nettriage_report::prescription::terminal(&prescription))?;
    Ok(())
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

fn training(args: &args::Prescribe, subject: &Subject) -> Result<Training, Fail> {
    let own = subject.augment;
    let training = Training {
        scheme: args.scheme.clone(),
        images: args.train_images.or(args.epochs.map(|epochs| (epochs * subject.train.len() as f64).ceil() as usize)),
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
        self.bar.set_length(of as u64);
        self.bar.set_position(done as u64);
        if !self.terminal && (done == of || self.last.get().elapsed() >= BETWEEN_LINES) {
            eprintln!("training: step {done} of {of}");
            self.last.set(Instant::now());
        }
    }

    fn diverged(&self, reason: &str) {
        eprintln!("note: training diverged ({reason}); the network is judged as it was before; try a smaller --rate");
    }

    fn judged(&self, figures: &Figures) {
        self.bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
        let drop = figures
            .drop
            .map_or(String::new(), |[drop, low, high]| format!("drop {drop:.2} points ({low:.2} to {high:.2}), "));
        let kept = figures.fidelity.map_or(String::new(), |fidelity| fidelity.describe() + ", ");
        eprintln!("  {drop}{kept}{} multiply-accumulates", figures.cost.macs);
    }
}
