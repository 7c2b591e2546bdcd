//! `prescribe`: a smaller network within a budget.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use nettriage_compress::alternating;
use nettriage_compress::prescribe::{self, Attempt, Budget, FineTuning, Progress, Search, SearchProblem, TrainingSet};
use nettriage_compress::scan::{Images, Judge, Options, Subject as Scanned};
use nettriage_data::Augmentation;
use nettriage_engine::{Optimizer, Schedule};
use nettriage_net::Network;
use nettriage_records::prescription::{Figures, Prescription};
use nettriage_records::scan::Scan;
use nettriage_train::scheme;

use crate::fail::Fail;
use crate::subject::{self, Subject};
use crate::{args, export, report, scan};

/// Passes by which latencies are compared at the end.
const REPETITIONS: usize = 101;
/// Share of right answers from which on judged images may be ones that the network learned by heart.
const BY_HEART: f64 = 0.99;

/// `nettriage prescribe MODEL`.
pub fn prescribe(args: &args::Prescribe) -> Result<(), Fail> {
    check_output(&args.output)?;
    let subject = subject::read(&args.subject)?;
    let options = scan::options(&args.subject);
    let fitted = subject.fitted(args.subject.images);
    let (judged, judged_from, tested) = if args.judge_on_test {
        let (judged, count) = (subject.test(0..args.subject.judged), subject.data.test.len());
        if judged.count == count {
            let problem = format!("--judge-on-test: --judged {} leaves none of the {count} test images", judged.count);
            return Err(Fail::Message(problem + " to test on; judge by fewer"));
        }
        let from = format!("the first {} test images; the test set is the others", judged.count);
        (judged, from, args.subject.judged..usize::MAX)
    } else {
        (subject.judged(), subject.judged_from.clone(), 0..usize::MAX)
    };
    let scan = match &args.scan {
        Some(path) => read_scan(path, &subject)?,
        None => scan::run(&Scanned { network: &subject.network, fitted: &fitted, judged: &judged }, &options)?,
    };
    let budget = budget(args, &scan)?;
    let tuning = tuning(args, &subject)?;
    let training = tuning.clone().map(|tuning| {
        let set = TrainingSet { data: &subject.data, normalization: &subject.normalization, train: &subject.train };
        (set, tuning)
    });
    let problem = SearchProblem {
        parent: &subject.network,
        scan: &scan,
        fitted: &fitted,
        judged: &judged,
        training,
        attempts: args.attempts,
    };
    let teller = Teller(ProgressBar::hidden());
    let Search { best, nearest, front, plans } = prescribe::search(&problem, budget, &options, &teller)?;
    let Some(attempt) = best else { return Err(refusal(args, &scan, nearest)) };
    let plan = &plans[attempt.place];

    let milliseconds = alternating([&subject.network, &attempt.network], options.batch, REPETITIONS, options.exact)?;
    if let Budget::Milliseconds(most) = budget
        && milliseconds[1] > most
    {
        return Err(Fail::Message(format!(
            "--max-latency: the network chosen was to take {:.3} ms and takes {:.3} ms, measured beside the original's {:.3} ms; ask for less",
            plan.milliseconds, milliseconds[1], milliseconds[0]
        )));
    }
    let before = unchanged(&Judge::new(&subject.network, &judged, &options)?, &scan, milliseconds[0]);
    if let Some(accuracy) = before.accuracy.filter(|a| *a >= BY_HEART && !args.judge_on_test) {
        eprintln!(
            "note: the network gets {:.2}% of {judged_from} right. Where it was trained on them a drop on them is too small: \
             judge by test images that are then not tested on (--judge-on-test)",
            100.0 * accuracy
        );
    }
    let predicted = Figures {
        accuracy: scan.parent.accuracy.map(|a| a - plan.drop / 100.0),
        drop: scan.images.labelled.then_some([plan.drop; 3]),
        agreement: None,
        cost: plan.cost,
        milliseconds: plan.milliseconds,
    };
    let test = on_test(&subject.test(tested), &subject.network, &scan, &attempt.network, &options, milliseconds)?;
    let kept = match (budget, &test) {
        (Budget::Drop(most), Some([_, after])) => after.drop.is_some_and(|drop| drop[0] <= most),
        _ => true,
    };
    let timed = |figures: Figures, milliseconds: f64| Figures { milliseconds, ..figures };
    let prescription = Prescription {
        network: scan.network.clone(),
        source: subject.source.clone(),
        data: subject.data.name.clone(),
        budget: in_words(args),
        replaced: prescribe::replaced(&scan, plan),
        training: match &tuning {
            Some(tuning) => format!("{}, {} images, rate {}", args.scheme, tuning.images, tuning.rate),
            None => "none".to_owned(),
        },
        judged_from,
        before,
        predicted,
        built: timed(attempt.built, milliseconds[1]),
        judged: timed(attempt.judged, milliseconds[1]),
        test,
        kept,
        front,
        batch: options.batch,
    };
    export::write(&attempt.network, &args.output)?;
    export::write_info(&subject.info, &args.output)?;
    let beside = |extension: &str| args.output.with_extension(extension);
    report::write(&beside("md"), &nettriage_report::prescription::markdown(&prescription, &command()))?;
    let text = serde_json::to_string_pretty(&prescription).map_err(|e| Fail::Message(e.to_string()))?;
    report::write(&beside("json"), &(text + "\n"))?;
    report::write(&beside("html"), &nettriage_report::prescription::html(&prescription))?;
    println!("model card: {}\npage: {}\n", beside("md").display(), beside("html").display());
    print!("{}", nettriage_report::prescription::terminal(&prescription));
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
    let graph = &subject.network.graph;
    let known = |name: &String| graph.position(name).is_some();
    let fits = scan.ranges.iter().flat_map(|r| &r.layers).all(known) && scan.network == graph.name;
    let sound = scan.ranges.iter().all(|r| r.units[0] <= r.units[1] && r.units[1] < scan.units.len());
    if !fits || !sound {
        let problem = format!("a scan of {}, not of this network; scan it again", scan.network);
        return Err(Fail::Message(format!("{}: {problem}", path.display())));
    }
    Ok(scan)
}

fn budget(args: &args::Prescribe, scan: &Scan) -> Result<Budget, Fail> {
    let parent = &scan.parent;
    if let Some(text) = &args.max_drop {
        let points = text.strip_suffix("pp").unwrap_or(text).trim().parse::<f64>().ok();
        let points = points.filter(|p| *p >= 0.0 && *p <= 100.0);
        return points.map(Budget::Drop).ok_or_else(|| {
            Fail::Message(format!("--max-drop {text}: give percentage points from 0 to 100, such as 0.5pp"))
        });
    }
    if let Some(text) = &args.max_latency {
        return share(text, "ms", parent.milliseconds, "--max-latency", "2ms").map(Budget::Milliseconds);
    }
    if let Some(text) = &args.max_macs {
        return share(text, "", parent.cost.macs as f64, "--max-macs", "12000000").map(Budget::Macs);
    }
    let text = args.max_parameters.as_deref().unwrap_or_default();
    share(text, "", parent.cost.parameters as f64, "--max-parameters", "300000").map(Budget::Parameters)
}

/// A share of the network's own, or a figure with a unit.
fn share(text: &str, unit: &str, of: f64, flag: &str, example: &str) -> Result<f64, Fail> {
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|n| *n > 0.0 && n.is_finite());
    let found = match text.strip_suffix('%') {
        Some(share) => number(share).map(|share| share / 100.0 * of),
        None => number(text.strip_suffix(unit).unwrap_or(text)),
    };
    found.ok_or_else(|| {
        Fail::Message(format!("{flag} {text}: give a number above 0, such as {example}, or a share such as 40%"))
    })
}

fn tuning(args: &args::Prescribe, subject: &Subject) -> Result<Option<FineTuning>, Fail> {
    if args.no_training {
        return Ok(None);
    }
    let single = |scheme: scheme::Scheme| scheme.stages.into_iter().next();
    let known = ["global", "local", "distill-global", "distill-local"].contains(&args.scheme.as_str());
    let stage = scheme::preset(&args.scheme).filter(|_| known).and_then(single).ok_or_else(|| {
        Fail::Message(format!("--scheme {}: use global, local, distill-global or distill-local", args.scheme))
    })?;
    if !(args.rate > 0.0 && args.rate.is_finite()) {
        return Err(Fail::Message(format!("--rate {}: give a number above 0, such as 0.01", args.rate)));
    }
    let augment =
        Augmentation { pad: args.pad.unwrap_or(subject.augment.pad), flip: args.flip || subject.augment.flip };
    augment.check(subject.data.shape())?;
    Ok(Some(FineTuning {
        stage,
        images: args.train_images.unwrap_or_else(|| (2 * subject.train.len()).min(40_000)),
        batch: 128,
        rate: args.rate,
        optimizer: Optimizer::Sgd { momentum: 0.9, nesterov: true, weight_decay: 5e-4 },
        schedule: Schedule::OneCycle,
        clip: Some(5.0),
        augment,
        labelled: !args.subject.unlabelled,
        seed: args.seed,
    }))
}

/// The network as it is, on the images of `judge`.
fn unchanged(judge: &Judge<'_>, scan: &Scan, milliseconds: f64) -> Figures {
    Figures { accuracy: judge.accuracy(), drop: None, agreement: Some(1.0), cost: scan.parent.cost, milliseconds }
}

/// Accuracy of the network before and after on the test images, if they have labels.
fn on_test(
    images: &Images<'_>,
    original: &Network,
    scan: &Scan,
    network: &Network,
    options: &Options,
    milliseconds: [f64; 2],
) -> Result<Option<[Figures; 2]>, Fail> {
    if images.labels.is_none() || images.count == 0 {
        return Ok(None);
    }
    let judge = Judge::new(original, images, options)?;
    let before = unchanged(&judge, scan, milliseconds[0]);
    let after = Figures { milliseconds: milliseconds[1], ..prescribe::figures(network, &judge)? };
    Ok(Some([before, after]))
}

fn in_words(args: &args::Prescribe) -> String {
    let said = [
        ("--max-drop", &args.max_drop),
        ("--max-latency", &args.max_latency),
        ("--max-macs", &args.max_macs),
        ("--max-parameters", &args.max_parameters),
    ];
    said.iter().filter_map(|(flag, text)| Some(format!("{flag} {}", text.as_ref()?))).collect::<Vec<_>>().join(" ")
}

fn command() -> String {
    let words: Vec<String> = std::env::args().skip(1).collect();
    format!("nettriage {}", words.join(" "))
}

fn refusal(args: &args::Prescribe, scan: &Scan, nearest: Option<Attempt>) -> Fail {
    let nearest = match nearest {
        None => "no range of its layers can be one layer and save anything".to_owned(),
        Some(attempt) => {
            let figures = attempt.judged;
            let drop = figures.drop.map_or(String::new(), |[drop, low, high]| {
                format!("loses {drop:.2} points ({low:.2} to {high:.2}) on the judged images, ")
            });
            let share = |part: u64, of: u64| 100.0 * part as f64 / of.max(1) as f64;
            format!(
                "the best that was found {drop}has {:.0}% of the multiply-accumulates and {:.0}% of the parameters",
                share(figures.cost.macs, scan.parent.cost.macs),
                share(figures.cost.parameters, scan.parent.cost.parameters)
            )
        }
    };
    Fail::Message(format!("{}: cannot be met: {nearest}; nothing was written", in_words(args)))
}

/// A bar for training, and a line for each network tried.
struct Teller(ProgressBar);

impl Progress for Teller {
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
            "  {drop}{:.1}% of first choices stay, {} multiply-accumulates",
            100.0 * figures.agreement.unwrap_or(0.0),
            figures.cost.macs
        );
    }
}
