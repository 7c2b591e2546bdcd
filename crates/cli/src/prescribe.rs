//! `prescribe`: a smaller network within bounds.

use std::io::{IsTerminal, Write as _};
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use nettriage::{Bounds, JudgedOn, Limit, PrescribeBuilder, Prescribed, Subject, Training, check_scan};
use nettriage_compress::prescribe::Progress;
use nettriage_data::Augmentation;
use nettriage_records::prescription::Figures;
use nettriage_records::scan::Scan;

use crate::fail::Fail;
use crate::{args, export, output, scan, subject};

/// Share of right predictions from which on the network has probably memorised the judged images.
const MEMORISED: f64 = 0.99;
/// Test images that `--judge-on-test` judges by, unless --judged says otherwise.
const ON_TEST: usize = 1000;

/// `nettriage prescribe MODEL`.
pub fn prescribe(args: &args::Prescribe) -> Result<(), Fail> {
    // Everything that can be refused is checked before anything is computed.
    check_output(&args.output)?;
    let beside = |extension: &str| args.output.with_extension(extension);
    let mut outputs = output::with_sidecar(&args.output).to_vec();
    outputs.extend(["md", "json", "html"].map(beside));
    let mut inputs = output::with_sidecar(Path::new(&args.subject.model.model)).to_vec();
    inputs.extend(args.scan.iter().chain(&args.subject.data_dir).cloned());
    output::check(&output::as_paths(&outputs), &output::as_paths(&inputs))?;
    let bounds = bounds(args)?;
    let subject = subject::read(&args.subject)?;
    let training = (!args.no_training).then(|| training(args, &subject));
    if let Some(training) = &training {
        training.of(&subject).map_err(|error| Fail::Message(format!("--{error}")))?;
    }
    let options = scan::options(&args.subject);
    let scan_reporter = scan::ProgressReporter::new();
    let reporter = ProgressReporter(ProgressBar::hidden());
    let kept = args.scan.as_ref().map(|path| read_scan(path, &subject)).transpose()?;
    let mut builder = PrescribeBuilder::of(&subject)
        .bounds(bounds)
        .training(training)
        .attempts(args.attempts)
        .images(args.subject.images)
        .options(|own| *own = options.clone())
        .scan_progress(&scan_reporter)
        .progress(&reporter);
    if args.judge_on_test {
        builder = builder.judged_on(JudgedOn::Test(args.subject.judged.unwrap_or(ON_TEST)));
    }
    if let Some(scan) = &kept {
        builder = builder.scan(scan);
    }
    let made = builder.run();
    scan_reporter.finish();
    let Prescribed { network, prescription } = made?;
    if let Some(accuracy) = prescription.before.accuracy.filter(|a| *a >= MEMORISED && !args.judge_on_test) {
        eprintln!(
            "note: the network gets {:.2}% of {} right. If it was trained on them, a drop measured on them is too small: \
             judge by test images that are then not tested on (--judge-on-test)",
            100.0 * accuracy,
            prescription.judged_from
        );
    }
    let mut messages = output::messages(&output::as_paths(&outputs));
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

fn read_scan(path: &PathBuf, subject: &Subject) -> Result<Scan, Fail> {
    let text = std::fs::read_to_string(path).map_err(|e| Fail::file(path, e))?;
    let scan: Scan = serde_json::from_str(&text)
        .map_err(|e| Fail::Message(format!("{}: no scan (`nettriage scan --json`): {e}", path.display())))?;
    check_scan(&scan, &subject.network).map_err(|e| Fail::Message(format!("{}: {e}", path.display())))?;
    Ok(scan)
}

fn bounds(args: &args::Prescribe) -> Result<Bounds, Fail> {
    let drop = match &args.max_drop {
        None => None,
        Some(text) => {
            let points = text.strip_suffix("pp").unwrap_or(text).trim().parse::<f64>().ok();
            Some(points.filter(|p| *p >= 0.0 && *p <= 100.0).ok_or_else(|| {
                Fail::Message(format!("--max-drop {text}: give percentage points from 0 to 100, such as 0.5pp"))
            })?)
        }
    };
    let limit_of = |text: &Option<String>, unit: &str, flag: &str, example: &str| {
        text.as_deref().map(|text| limit(text, unit, flag, example)).transpose()
    };
    Ok(Bounds {
        drop,
        milliseconds: limit_of(&args.max_latency, "ms", "--max-latency", "2ms")?,
        macs: limit_of(&args.max_macs, "", "--max-macs", "12000000")?,
        parameters: limit_of(&args.max_parameters, "", "--max-parameters", "300000")?,
    })
}

/// A share of the network's own cost, or a figure with a unit.
fn limit(text: &str, unit: &str, flag: &str, example: &str) -> Result<Limit, Fail> {
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|n| *n > 0.0 && n.is_finite());
    let found = match text.strip_suffix('%') {
        Some(share) => number(share).map(|share| Limit::Share(share / 100.0)),
        None => number(text.strip_suffix(unit).unwrap_or(text)).map(Limit::Absolute),
    };
    found.ok_or_else(|| {
        Fail::Message(format!("{flag} {text}: give a number above 0, such as {example}, or a share such as 40%"))
    })
}

fn training(args: &args::Prescribe, subject: &Subject) -> Training {
    let own = subject.augment;
    Training {
        scheme: args.scheme.clone(),
        images: args.train_images,
        rate: args.rate,
        augment: Some(Augmentation { pad: args.pad.unwrap_or(own.pad), flip: args.flip || own.flip, ..own }),
        seed: args.seed,
    }
}

fn command() -> String {
    let words: Vec<String> = std::env::args().skip(1).collect();
    format!("nettriage {}", words.join(" "))
}

/// A progress bar for training, and a line for each network that is built.
struct ProgressReporter(ProgressBar);

impl Progress for ProgressReporter {
    fn attempt(&self, number: usize, of: usize, replaced: usize) {
        eprintln!("network {number} of at most {of}: {replaced} ranges replaced");
        if std::io::stderr().is_terminal() {
            let template = "training {wide_bar:.cyan/blue} {pos}/{len}  {elapsed} gone, {eta} left";
            self.0.set_style(ProgressStyle::with_template(template).expect("the template is well-formed"));
            self.0.set_draw_target(indicatif::ProgressDrawTarget::stderr());
            self.0.reset();
        }
    }

    fn training(&self, done: usize, of: usize) {
        self.0.set_length(of as u64);
        self.0.set_position(done as u64);
    }

    fn judged(&self, figures: &Figures) {
        self.0.set_draw_target(indicatif::ProgressDrawTarget::hidden());
        let drop = figures
            .drop
            .map_or(String::new(), |[drop, low, high]| format!("drop {drop:.2} points ({low:.2} to {high:.2}), "));
        eprintln!(
            "  {drop}{:.1}% of predictions unchanged, {} multiply-accumulates",
            100.0 * figures.agreement.unwrap_or(0.0),
            figures.cost.macs
        );
    }
}
