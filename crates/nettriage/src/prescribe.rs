//! The prescription: a smaller network within bounds, chosen, built, fine-tuned and measured.

use nettriage_compress::prescribe::{
    self, Attempt, Bounds, FineTuning, Limit, Progress, Search, SearchProblem, TrainingSet,
};
use nettriage_compress::scan::{Images, Judge, Options};
use nettriage_data::{Augmentation, Dataset, Normalization};
use nettriage_engine::{Optimizer, Schedule};
use nettriage_net::Network;
use nettriage_records::prescription::{Figures, Prescription};
use nettriage_records::scan::Scan;
use nettriage_train::scheme::{Scheme, preset};

use crate::scan::{Settings, Source};
use crate::{Error, Subject};

/// Prescribes a smaller network for one in memory: see [`PrescribeBuilder`].
pub fn prescribe<'a>(network: &'a Network, data: &'a Dataset) -> PrescribeBuilder<'a> {
    PrescribeBuilder::new(Source::Parts { network, data, normalization: None })
}

/// Which images judge the networks that are built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JudgedOn {
    /// Training images that nothing was fitted to.
    #[default]
    Training,
    /// The first test images, this many; the promise is then tested on the others.
    Test(usize),
}

/// How a network is fine-tuned, before the data set is known.
#[derive(Clone, Debug)]
pub struct Training {
    /// Scheme with one stage: `global`, `local`, `distill-global` or `distill-local`.
    pub scheme: String,
    /// Images seen in all; twice the training set, at most 40,000, if none.
    pub images: Option<usize>,
    /// Largest learning rate.
    pub rate: f32,
    /// Augmentation; that of the subject if none.
    pub augment: Option<Augmentation>,
    /// Seed of the order of images.
    pub seed: u64,
}

impl Default for Training {
    fn default() -> Training {
        Training { scheme: "distill-global".to_owned(), images: None, rate: 0.01, augment: None, seed: 0 }
    }
}

impl Training {
    /// The fine-tuning of a subject.
    ///
    /// # Errors
    /// A scheme that is unknown or has several stages; a rate that is not positive; augmentation beyond the image.
    pub fn of(&self, subject: &Subject) -> Result<FineTuning, Error> {
        const SCHEMES: [&str; 4] = ["global", "local", "distill-global", "distill-local"];
        let single = |scheme: Scheme| scheme.stages.into_iter().next();
        let known = SCHEMES.contains(&self.scheme.as_str());
        let stage = preset(&self.scheme).filter(|_| known).and_then(single).ok_or_else(|| {
            Error::Request(format!("scheme {}: use global, local, distill-global or distill-local", self.scheme))
        })?;
        if !(self.rate > 0.0 && self.rate.is_finite()) {
            return Err(Error::Request(format!("rate {}: give a number above 0, such as 0.01", self.rate)));
        }
        let augment = self.augment.unwrap_or(subject.augment);
        augment.check(subject.data.shape())?;
        Ok(FineTuning {
            stage,
            images: self.images.unwrap_or_else(|| (2 * subject.train.len()).min(40_000)),
            batch: 128,
            rate: self.rate,
            optimizer: Optimizer::Sgd { momentum: 0.9, nesterov: true, weight_decay: 5e-4 },
            schedule: Schedule::OneCycle,
            clip: Some(5.0),
            augment,
            labelled: subject.labelled,
            seed: self.seed,
        })
    }
}

/// A prescription that is being set up; [`PrescribeBuilder::run`] makes it.
pub struct PrescribeBuilder<'a> {
    source: Source<'a>,
    settings: Settings<'a>,
    bounds: Bounds,
    training: Option<Training>,
    judged_on: JudgedOn,
    attempts: usize,
    scan: Option<&'a Scan>,
    progress: Option<&'a dyn Progress>,
}

/// A smaller network, and how it was chosen and measured.
pub struct Prescribed {
    /// The network.
    pub network: Network,
    /// Predicted beside actual figures.
    pub prescription: Prescription,
}

struct Silent;

impl Progress for Silent {
    fn attempt(&self, _number: usize, _of: usize, _replaced: usize) {}
    fn training(&self, _done: usize, _of: usize) {}
    fn judged(&self, _figures: &Figures) {}
}

impl<'a> PrescribeBuilder<'a> {
    fn new(source: Source<'a>) -> PrescribeBuilder<'a> {
        PrescribeBuilder {
            source,
            settings: Settings::default(),
            bounds: Bounds::default(),
            training: Some(Training::default()),
            judged_on: JudgedOn::Training,
            attempts: 5,
            scan: None,
            progress: None,
        }
    }

    /// For a network with images chosen already.
    pub fn of(subject: &'a Subject) -> PrescribeBuilder<'a> {
        PrescribeBuilder::new(Source::Subject(subject))
    }

    /// Normalisation of pixels that the network was trained with; the training set's own statistics if not given.
    pub fn normalization(mut self, normalization: Normalization) -> Self {
        if let Source::Parts { normalization: slot, .. } = &mut self.source {
            *slot = Some(normalization);
        }
        self
    }

    /// Most percentage points of accuracy to lose.
    pub fn max_drop_pp(mut self, points: f64) -> Self {
        self.bounds.drop = Some(points);
        self
    }

    /// Most time for a forward pass: milliseconds, or a share of the original's time.
    pub fn max_latency(mut self, limit: Limit) -> Self {
        self.bounds.milliseconds = Some(limit);
        self
    }

    /// Most multiply-accumulates, or a share of the original's.
    pub fn max_macs(mut self, limit: Limit) -> Self {
        self.bounds.macs = Some(limit);
        self
    }

    /// Most parameters, or a share of the original's.
    pub fn max_parameters(mut self, limit: Limit) -> Self {
        self.bounds.parameters = Some(limit);
        self
    }

    /// All bounds at once.
    pub fn bounds(mut self, bounds: Bounds) -> Self {
        self.bounds = bounds;
        self
    }

    /// How the smaller network is fine-tuned; `None` for closed-form weights alone.
    pub fn training(mut self, training: Option<Training>) -> Self {
        self.training = training;
        self
    }

    /// Which images judge the networks that are built.
    pub fn judged_on(mut self, judged_on: JudgedOn) -> Self {
        self.judged_on = judged_on;
        self
    }

    /// Most networks that are built while searching; 5 if not given.
    pub fn attempts(mut self, attempts: usize) -> Self {
        self.attempts = attempts;
        self
    }

    /// A scan of this network, instead of making one.
    pub fn scan(mut self, scan: &'a Scan) -> Self {
        self.scan = Some(scan);
        self
    }

    /// Training images that substitutes are fitted to; 2,000 if not given.
    pub fn images(mut self, count: usize) -> Self {
        self.settings.fitted = count;
        self
    }

    /// Training images to judge by.
    pub fn judged(mut self, count: usize) -> Self {
        self.settings.judged = Some(count);
        self
    }

    /// Uses no label: agreement with the network stands in for accuracy.
    pub fn unlabelled(mut self) -> Self {
        self.settings.labelled = false;
        self
    }

    /// The options of the scan and of fitting.
    pub fn options(mut self, change: impl FnOnce(&mut Options)) -> Self {
        change(&mut self.settings.options);
        self
    }

    /// Receives the progress of the scan.
    pub fn scan_progress(mut self, progress: &'a dyn nettriage_compress::scan::Progress) -> Self {
        self.settings.progress = Some(progress);
        self
    }

    /// Receives the progress of the search.
    pub fn progress(mut self, progress: &'a dyn Progress) -> Self {
        self.progress = Some(progress);
        self
    }

    /// Makes the prescription.
    ///
    /// # Errors
    /// No bound; a scan of another network; bounds that no network satisfies; those of fitting and training.
    pub fn run(self) -> Result<Prescribed, Error> {
        let (judged, labelled) = (self.settings.judged, self.settings.labelled);
        self.source.with(judged, labelled, |subject| self.run_on(subject))
    }

    fn run_on(&self, subject: &Subject) -> Result<Prescribed, Error> {
        let bounds = described(&self.bounds);
        if bounds.is_empty() {
            return Err(Error::Request("a prescription needs a bound, such as a largest drop of accuracy".into()));
        }
        let tuning = self.training.as_ref().map(|training| training.of(subject)).transpose()?;
        let fitted = subject.fitted(self.settings.fitted);
        let (judged, judged_from, tested) = match self.judged_on {
            JudgedOn::Training => (subject.judged(), subject.judged_from.clone(), 0..usize::MAX),
            JudgedOn::Test(wanted) => {
                let (judged, count) = (subject.test(0..wanted), subject.data.test.len());
                if judged.count == count {
                    return Err(Error::Request(format!(
                        "judging by {} test images leaves none of the {count} to test on; judge by fewer",
                        judged.count
                    )));
                }
                let from = format!("the first {} test images; the test set is the others", judged.count);
                (judged, from, wanted..usize::MAX)
            }
        };
        let made;
        let scan = match self.scan {
            Some(scan) => {
                check_scan(scan, &subject.network)?;
                scan
            }
            None => {
                let settings = Settings {
                    options: self.settings.options.clone(),
                    on_test: match self.judged_on {
                        JudgedOn::Test(count) => Some(count),
                        JudgedOn::Training => None,
                    },
                    ..self.settings
                };
                made = settings.scan(subject)?;
                &made
            }
        };
        let set = TrainingSet { data: &subject.data, normalization: &subject.normalization, train: &subject.train };
        let problem = SearchProblem {
            parent: &subject.network,
            scan,
            fitted: &fitted,
            judged: &judged,
            training: tuning.clone().map(|tuning| (set, tuning)),
            attempts: self.attempts,
        };
        let options = &self.settings.options;
        let found = prescribe::search(&problem, &self.bounds, options, self.progress.unwrap_or(&Silent))?;
        let Search { best, nearest, front, plans } = found;
        let Some(attempt) = best else { return Err(refusal(&bounds, scan, nearest)) };
        let plan = &plans[attempt.index];
        let milliseconds = attempt.milliseconds;

        let before = unchanged(&Judge::new(&subject.network, &judged, options)?, scan, milliseconds[0]);
        let predicted = Figures {
            accuracy: scan.parent.accuracy.map(|a| a - plan.drop / 100.0),
            drop: scan.images.labelled.then_some([plan.drop; 3]),
            agreement: None,
            cost: plan.cost,
            milliseconds: plan.milliseconds,
        };
        let test = on_test(&subject.test(tested), &subject.network, scan, &attempt.network, options, milliseconds)?;
        let kept = match (self.bounds.drop, &test) {
            (Some(most), Some([_, after])) => after.drop.is_some_and(|drop| drop[0] <= most),
            _ => true,
        };
        let timed = |figures: Figures, milliseconds: f64| Figures { milliseconds, ..figures };
        let prescription = Prescription {
            network: scan.network.clone(),
            source: subject.source.clone(),
            data: subject.data.name.clone(),
            budget: bounds,
            replaced: prescribe::replaced(scan, plan),
            training: match (&self.training, &tuning) {
                (Some(training), Some(tuning)) => {
                    format!("{}, {} images, rate {}", training.scheme, tuning.images, tuning.rate)
                }
                _ => "none".to_owned(),
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
        Ok(Prescribed { network: attempt.network, prescription })
    }
}

/// Refuses a scan of another network.
///
/// # Errors
/// What does not fit.
pub fn check_scan(scan: &Scan, network: &Network) -> Result<(), Error> {
    let graph = &network.graph;
    let known = |name: &String| graph.position(name).is_some();
    let fits = scan.ranges.iter().flat_map(|r| &r.layers).all(known) && scan.network == graph.name;
    let sound = scan.ranges.iter().all(|r| r.units[0] <= r.units[1] && r.units[1] < scan.units.len());
    if fits && sound {
        return Ok(());
    }
    Err(Error::Request(format!("a scan of {}, not of {}; scan the network again", scan.network, graph.name)))
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
) -> Result<Option<[Figures; 2]>, Error> {
    if images.labels.is_none() || images.count == 0 {
        return Ok(None);
    }
    let judge = Judge::new(original, images, options)?;
    let before = unchanged(&judge, scan, milliseconds[0]);
    let after = Figures { milliseconds: milliseconds[1], ..prescribe::figures(network, &judge)? };
    Ok(Some([before, after]))
}

/// The bounds as the command line's flags.
fn described(bounds: &Bounds) -> String {
    let limit = |flag: &str, limit: Option<Limit>, unit: &str| {
        limit.map(|limit| match limit {
            Limit::Absolute(most) => format!("{flag} {most}{unit}"),
            Limit::Share(share) => format!("{flag} {}%", (1e6 * share).round() / 1e4),
        })
    };
    let all = [
        bounds.drop.map(|points| format!("--max-drop {points}pp")),
        limit("--max-latency", bounds.milliseconds, "ms"),
        limit("--max-macs", bounds.macs, ""),
        limit("--max-parameters", bounds.parameters, ""),
    ];
    all.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn refusal(bounds: &str, scan: &Scan, nearest: Option<Attempt>) -> Error {
    let nearest = match nearest {
        None => "no range of its layers can be one layer and save anything".to_owned(),
        Some(attempt) => {
            let figures = attempt.judged;
            let drop = figures.drop.map_or(String::new(), |[drop, low, high]| {
                format!("loses {drop:.2} pp ({low:.2} to {high:.2}) on the judged images, ")
            });
            let share = |part: f64, of: f64| 100.0 * part / of.max(1e-9);
            let [original, smaller] = attempt.milliseconds;
            format!(
                "the nearest network that was found {drop}has {:.0}% of the multiply-accumulates, {:.0}% of the parameters and \
                 {:.0}% of the measured time",
                share(figures.cost.macs as f64, scan.parent.cost.macs as f64),
                share(figures.cost.parameters as f64, scan.parent.cost.parameters as f64),
                share(smaller, original)
            )
        }
    };
    Error::Request(format!(
        "{bounds}: cannot be met: {nearest}; nothing was written; relax a bound or allow more --attempts"
    ))
}
