//! The prescription: a smaller network within bounds, chosen, built, fine-tuned and measured.

use std::path::PathBuf;
use std::time::Duration;

use nettriage_compress::prescribe::{
    self, Attempt, Bounds, FineTuning, Fixed, FrontSearch, Limit, Nearest, Plan, Progress, Search, SearchProblem,
    Store, Timer, TrainingSet, Wishes, errors_of_promise,
};
use nettriage_compress::scan::{self, Images, Judge, Options, Outputs};
use nettriage_data::{Augmentation, Dataset};
use nettriage_engine::{Optimizer, Schedule};
use nettriage_net::Network;
use nettriage_records::prescription::{Figures, FrontPoint, Prescription};
use nettriage_records::scan::{Measure, Scan};
use nettriage_records::{WorkFolder, content_id};
use nettriage_train::scheme::{Scheme, preset};
use nettriage_train::{Checkpoints, Device, Recipe, StopSignal};

use crate::settings::{Settings, Source, shared_setters};
use crate::{Error, LatencyTable, OnnxRuntime, Subject};

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

impl JudgedOn {
    /// The training images that networks are trained on: if test images judge, also those that were set apart to judge by.
    pub fn training_images(self, subject: &Subject) -> Vec<u32> {
        let mut images = subject.train.clone();
        if let JudgedOn::Test(_) = self {
            images.extend(&subject.judged);
            images.sort_unstable();
        }
        images
    }
}

/// What measures the times that limits on latency are compared with.
#[derive(Clone, Debug, Default)]
pub enum LatencyIn {
    /// The device that networks run on.
    #[default]
    Nettriage,
    /// onnxruntime, where many networks are deployed.
    OnnxRuntime(OnnxRuntime),
    /// Nothing: the times of a network's parts, which the user measured elsewhere, are added up.
    Table(LatencyTable),
}

impl LatencyIn {
    fn describe(&self, device: &Device) -> String {
        match self {
            LatencyIn::Nettriage => device.describe().unwrap_or_else(|| "nettriage".to_owned()),
            LatencyIn::OnnxRuntime(runtime) => format!("onnxruntime {}", runtime.version()),
            LatencyIn::Table(table) => format!("the table {}", table.name()),
        }
    }

    /// Measures the times of two networks; none if times are added up.
    fn timer<'t>(&'t self, options: &'t Options) -> Option<Box<Timer<'t>>> {
        let repetitions = prescribe::REPETITIONS;
        match self {
            LatencyIn::Nettriage => Some(Box::new(move |networks| {
                nettriage_compress::paired(&options.device, networks, options.batch, repetitions, options.exact)
            })),
            LatencyIn::OnnxRuntime(runtime) => Some(Box::new(move |networks| {
                let timing = runtime.time(networks, options.batch, repetitions);
                timing.map_err(|error| nettriage_compress::Error::Request(error.to_string()))
            })),
            LatencyIn::Table(_) => None,
        }
    }

    /// The table, if there is one.
    fn table(&self) -> Option<&LatencyTable> {
        match self {
            LatencyIn::Nettriage | LatencyIn::OnnxRuntime(_) => None,
            LatencyIn::Table(table) => Some(table),
        }
    }
}

/// How a network is fine-tuned, before the data set is known.
#[derive(Clone, Debug)]
pub struct Training {
    /// Scheme with one stage: `global`, `local`, `distill-global`, `distill-local` or `distill-blocks`.
    pub scheme: String,
    /// Images seen in all; twice the training set, at most 40,000, if none.
    pub images: Option<usize>,
    /// Largest learning rate; 0.01 if none, with AdamW 0.0005.
    pub rate: Option<f32>,
    /// Optimiser.
    pub optimizer: Optimizer,
    /// Learning-rate schedule, run once through.
    pub schedule: Schedule,
    /// What else decides how it trains.
    pub recipe: Recipe,
    /// Augmentation; that of the subject if none.
    pub augment: Option<Augmentation>,
    /// Seed of the order of images.
    pub seed: u64,
}

impl Default for Training {
    fn default() -> Training {
        Training {
            scheme: "distill-global".to_owned(),
            images: None,
            rate: None,
            optimizer: Optimizer::Sgd { momentum: 0.9, nesterov: true, weight_decay: 5e-4 },
            schedule: Schedule::OneCycle,
            recipe: Recipe::default(),
            augment: None,
            seed: 0,
        }
    }
}

impl Training {
    /// With an optimiser, a schedule and a recipe by name: `one-cycle`, the default, or `cosine`, for trainings of many epochs: a warm-up
    /// over 5% of the steps, then half a cosine; no weight decay of biases and norms; labels smoothed by 0.1 where nothing is
    /// distilled; the exponential moving average of the weights, with a decay of 0.99 a step. `adam-w` is `cosine` with AdamW and a
    /// weight decay of 0.05 in place of SGD, for networks that are trained so: transformers and ConvNeXts.
    ///
    /// # Errors
    /// Another name.
    pub fn with_recipe(self, name: &str) -> Result<Training, Error> {
        let long = Recipe { warmup: 0.05, label_smoothing: 0.1, decay_all: false, average: Some(0.99) };
        let adam_w = Optimizer::AdamW { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.05 };
        let (optimizer, schedule, recipe) = match name {
            "one-cycle" => (self.optimizer, Schedule::OneCycle, Recipe::default()),
            "cosine" => (self.optimizer, Schedule::Cosine, long),
            "adam-w" => (adam_w, Schedule::Cosine, long),
            _ => return Err(Error::Request(format!("no recipe `{name}`; use one-cycle, cosine or adam-w"))),
        };
        Ok(Training { optimizer, schedule, recipe, ..self })
    }

    /// The fine-tuning of a subject.
    ///
    /// # Errors
    /// A scheme that is unknown or has several stages; a rate that is not positive; augmentation beyond the image.
    pub fn of(&self, subject: &Subject, outputs: Option<Outputs>) -> Result<FineTuning, Error> {
        const SCHEMES: [&str; 5] = ["global", "local", "distill-global", "distill-local", "distill-blocks"];
        let single = |scheme: Scheme| scheme.stages.into_iter().next();
        let known = SCHEMES.contains(&self.scheme.as_str());
        let stage = preset(&self.scheme).filter(|_| known).and_then(single).ok_or_else(|| {
            Error::Request(format!("scheme {}: use {} or {}", self.scheme, SCHEMES[..4].join(", "), SCHEMES[4]))
        })?;
        let adaptive = !matches!(self.optimizer, Optimizer::Sgd { .. });
        let rate = self.rate.unwrap_or(if adaptive { 5e-4 } else { 0.01 });
        if !(rate > 0.0 && rate.is_finite()) {
            return Err(Error::Request(format!("rate {rate}: give a number above 0, such as 0.01")));
        }
        let augment = self.augment.unwrap_or(subject.augment);
        augment.check(subject.data.shape())?;
        Ok(FineTuning {
            stage,
            images: self.images.unwrap_or_else(|| (2 * subject.train.len()).min(40_000)),
            batch: 128,
            rate,
            optimizer: self.optimizer,
            schedule: self.schedule,
            recipe: self.recipe,
            clip: Some(5.0),
            augment,
            measure: scan::measure(&subject.network.graph, subject.labelled, outputs)?,
            seed: self.seed,
        })
    }
}

/// The folder in which a prescription stores its scan, measured times, networks and checkpoints, so that one that was
/// interrupted continues there.
#[derive(Clone, Debug)]
pub struct Work {
    /// The folder; created if it does not exist. It belongs to one network, data set and way of scanning.
    pub folder: PathBuf,
    /// Time between two checkpoints of a training; none are written if none.
    pub checkpoint: Option<Duration>,
    /// Stops a training early, after a checkpoint of it.
    pub stop: StopSignal,
}

impl Work {
    /// In `folder`, with a checkpoint every five minutes.
    pub fn inside(folder: impl Into<PathBuf>) -> Work {
        Work { folder: folder.into(), checkpoint: Some(Duration::from_secs(300)), stop: StopSignal::default() }
    }
}

/// A prescription that is being set up; [`PrescribeBuilder::run`] makes it.
pub struct PrescribeBuilder<'a> {
    settings: Settings<'a>,
    bounds: Bounds,
    wishes: Wishes,
    latency_in: LatencyIn,
    training: Option<Training>,
    judged_on: JudgedOn,
    attempts: Option<usize>,
    front: Option<usize>,
    workers: usize,
    scan: Option<&'a Scan>,
    work: Option<Work>,
    progress: Option<&'a dyn Progress>,
}

/// A smaller network, and how it was chosen and measured.
pub struct Prescribed {
    /// The network.
    pub network: Network,
    /// Predicted beside actual figures.
    pub prescription: Prescription,
}

/// Networks of several sizes, from the largest to the smallest.
pub struct PrescribedFront {
    /// The networks.
    pub networks: Vec<Prescribed>,
    /// The Pareto front of drop and cost, from the scan's figures.
    pub plans: Vec<FrontPoint>,
}

/// What a search needs, before its problem is stated.
struct Ready<'s> {
    /// What it must satisfy, as the command line's flags.
    bounds: String,
    tuning: Option<FineTuning>,
    scan: &'s Scan,
    judged: &'s Images<'s>,
    judged_from: String,
    tested: std::ops::Range<usize>,
}

/// What is known of a prescription before anything is computed.
struct Prepared<'a> {
    tuning: Option<FineTuning>,
    fixed: Fixed,
    judged: Images<'a>,
    judged_from: String,
    /// Test images that the promise is tested on.
    tested: std::ops::Range<usize>,
}

struct Silent;

impl Progress for Silent {
    fn timed(&self, _replaced: usize, _ratio: f64) {}
    fn attempt(&self, _number: usize, _of: usize, _replaced: usize) {}
    fn training(&self, _done: usize, _of: usize) {}
    fn diverged(&self, _number: usize, _reason: &str) {}
    fn judged(&self, _number: usize, _figures: &Figures) {}
}

impl<'a> PrescribeBuilder<'a> {
    fn new(source: Source<'a>) -> PrescribeBuilder<'a> {
        PrescribeBuilder {
            settings: Settings::new(source),
            bounds: Bounds::default(),
            wishes: Wishes::default(),
            latency_in: LatencyIn::default(),
            training: Some(Training::default()),
            judged_on: JudgedOn::Training,
            attempts: None,
            front: None,
            workers: 1,
            scan: None,
            work: None,
            progress: None,
        }
    }

    /// For a network with images chosen already.
    pub fn of(subject: &'a Subject) -> PrescribeBuilder<'a> {
        PrescribeBuilder::new(Source::Subject(subject))
    }

    shared_setters!();

    /// Most percentage points of accuracy to lose; without labels, most percent by the scan's measure.
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

    /// Least factor by which the limited cost (measured time, if none is limited) becomes smaller, such as 1.2.
    pub fn min_gain(mut self, factor: f64) -> Self {
        self.bounds.gain = Some(factor);
        self
    }

    /// Ranges that stay as they are, or that one layer each replaces, by the names that a scan gives them.
    pub fn wishes(mut self, wishes: Wishes) -> Self {
        self.wishes = wishes;
        self
    }

    /// What measures times; nettriage itself if not given.
    pub fn latency_in(mut self, latency_in: LatencyIn) -> Self {
        self.latency_in = latency_in;
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

    /// Most networks that are built while searching. If not given: under a largest drop 5, and up to 10 while none keeps it; under bounds on
    /// cost alone the first that keeps them.
    pub fn attempts(mut self, attempts: usize) -> Self {
        self.attempts = Some(attempts);
        self
    }

    /// Networks of [`PrescribeBuilder::run_front`].
    pub fn front(mut self, networks: usize) -> Self {
        self.front = Some(networks);
        self
    }

    /// How many networks are built and trained at a time, 1 if not given; they share the threads. Those of a front are the same to the bit
    /// with any number. A search for one network chooses as many before any of them is known, so with another number it may build
    /// others. Times are measured afterwards, one at a time.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// A scan of this network, instead of making one.
    pub fn scan(mut self, scan: &'a Scan) -> Self {
        self.scan = Some(scan);
        self
    }

    /// Stores what is measured, and continues from what is stored.
    pub fn work(mut self, work: Work) -> Self {
        self.work = Some(work);
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
        self.settings.with(|subject| {
            self.search(subject, |ready, problem, progress| {
                let options = &self.settings.options;
                let Search { best, front, plans } = prescribe::search(problem, &self.bounds, options, progress)?;
                let attempt = best.map_err(|nearest| {
                    let errors = errors_of_promise(self.attempts);
                    refusal(&ready.bounds, self.bounds.drop.map(|most| [most, errors]), ready.scan, nearest)
                })?;
                let plan = &plans[attempt.index];
                self.measured(subject, ready, attempt, plan, None, front)
            })
        })
    }

    /// Makes as many networks of different sizes as [`PrescribeBuilder::front`] says, evenly spaced by predicted cost (that which is
    /// limited, or time): fewer, if fewer plans satisfy the bounds.
    ///
    /// # Errors
    /// As [`PrescribeBuilder::run`]; a largest drop, as the drops are what a front shows.
    pub fn run_front(self) -> Result<PrescribedFront, Error> {
        let count = self.front.unwrap_or(prescribe::ATTEMPTS);
        self.settings.with(|subject| {
            self.search(subject, |ready, problem, progress| {
                let options = &self.settings.options;
                let found = prescribe::search_front(problem, &self.bounds, count, options, progress)?;
                let FrontSearch { attempts, front, plans } =
                    found.map_err(|nearest| refusal(&ready.bounds, None, ready.scan, nearest))?;
                let of = attempts.len();
                let networks = (1..).zip(attempts).map(|(number, attempt)| {
                    let plan = &plans[attempt.index];
                    self.measured(subject, ready, attempt, plan, Some([number, of]), Vec::new())
                });
                Ok(PrescribedFront { networks: networks.collect::<Result<_, Error>>()?, plans: front })
            })
        })
    }

    /// Checks everything that can be checked before anything is computed.
    ///
    /// # Errors
    /// As [`PrescribeBuilder::run`].
    pub fn check(&self) -> Result<(), Error> {
        self.settings.with(|subject| self.prepare(subject).map(|_| ()))
    }

    /// The scan that [`PrescribeBuilder::run`] would make, or that its folder holds: to store it, and to pass it to
    /// [`PrescribeBuilder::scan`].
    ///
    /// # Errors
    /// As [`PrescribeBuilder::run`].
    pub fn make_scan(&self) -> Result<Scan, Error> {
        self.settings.with(|subject| self.scan_of(subject, self.work_folder(subject)?.as_ref()))
    }

    /// Its folder, locked.
    fn work_folder(&self, subject: &Subject) -> Result<Option<WorkFolder>, Error> {
        let open = |work: &Work| WorkFolder::open(&work.folder, &self.setup(subject));
        Ok(self.work.as_ref().map(open).transpose()?)
    }

    /// What everything in its folder depends on.
    fn setup(&self, subject: &Subject) -> serde_json::Value {
        let options = &self.settings.options;
        let judged = match self.judged_on {
            JudgedOn::Training => content_id(&subject.judged),
            JudgedOn::Test(count) => format!("the first {count} test images"),
        };
        let methods: Vec<String> = options.methods.iter().map(ToString::to_string).collect();
        serde_json::json!({
            "program": env!("CARGO_PKG_VERSION"),
            "network": scan::digest(&subject.network),
            "data": subject.data.checksum,
            "normalization": subject.normalization,
            "training images": content_id(&self.judged_on.training_images(subject)),
            "images to fit to": self.settings.fitted,
            "images to judge by": judged,
            "labels": subject.labelled,
            "outputs": options.outputs.map(|outputs| format!("{outputs:?}")),
            "ranges": format!("{:?}", options.scope),
            "substitutes": format!("{:?}", options.choices_for(&subject.network.graph)),
            "methods": methods,
            "unknowns": options.unknowns,
            "rows": [options.rows, options.least_rows],
            "batch": options.batch,
            "exact": options.exact,
            "device": options.device.arithmetic(),
        })
    }

    fn scan_of(&self, subject: &Subject, work: Option<&WorkFolder>) -> Result<Scan, Error> {
        if let Some(work) = work {
            if let Some(scan) = work.scan()? {
                return Ok(scan);
            }
            let scan = self.scan_of(subject, None)?;
            work.write_scan(&scan)?;
            return Ok(scan);
        }
        let on_test = match self.judged_on {
            JudgedOn::Test(count) => Some(count),
            JudgedOn::Training => None,
        };
        self.settings.scan_on(subject, on_test)
    }

    fn prepare<'s>(&self, subject: &'s Subject) -> Result<Prepared<'s>, Error> {
        let options = &self.settings.options;
        if self.front.is_some() && self.bounds.drop.is_some() {
            return Err(Error::Request("a front shows what each network loses: leave out the largest drop".into()));
        }
        if self.front.is_none() && self.bounds == Bounds::default() && self.wishes.replace.is_empty() {
            return Err(Error::Request("a prescription needs a bound, such as a largest drop of accuracy".into()));
        }
        if let Some(gain) = self.bounds.gain.filter(|gain| !(*gain > 1.0 && gain.is_finite())) {
            return Err(Error::Request(format!("a gain of {gain}: give a factor above 1, such as 1.2")));
        }
        let tuning = self.training.as_ref().map(|training| training.of(subject, options.outputs)).transpose()?;
        let fixed = self.wishes.resolve(&subject.network.graph, options)?;
        if let Some(scan) = self.scan {
            check_scan(scan, subject, options)?;
            self.wishes.check(&fixed, scan)?;
            if let Some(table) = self.latency_in.table() {
                table.applied(&subject.network, scan)?;
            }
        }
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
        Ok(Prepared { tuning, fixed, judged, judged_from, tested })
    }

    /// Prepares a search, and calls `found` with its problem.
    fn search<T>(
        &self,
        subject: &Subject,
        found: impl FnOnce(&Ready<'_>, &SearchProblem<'_>, &dyn Progress) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let options = &self.settings.options;
        let Prepared { tuning, fixed, judged, judged_from, tested } = self.prepare(subject)?;
        let work_folder = self.work_folder(subject)?;
        let fitted = subject.fitted(self.settings.fitted);
        let made;
        let scan = match self.scan {
            Some(scan) => scan,
            None => {
                made = self.scan_of(subject, work_folder.as_ref())?;
                &made
            }
        };
        let with_times = self.latency_in.table().map(|table| table.applied(&subject.network, scan)).transpose()?;
        let scan = with_times.as_ref().unwrap_or(scan);
        let checkpoints = self.work.as_ref().zip(work_folder.as_ref()).map(|(work, folder)| {
            Checkpoints::new(
                folder.checkpoints(),
                options.device.arithmetic(),
                work.checkpoint,
                work.stop.clone(),
                None,
            )
        });
        let store = work_folder.as_ref().zip(checkpoints.as_ref()).map(|(work, checkpoints)| Store {
            work,
            checkpoints,
            timed_by: self.latency_in.describe(&options.device),
        });
        self.wishes.check(&fixed, scan)?;
        let timer = self.latency_in.timer(options);
        let train = &self.judged_on.training_images(subject);
        let set = TrainingSet { data: &subject.data, normalization: &subject.normalization, train };
        let problem = SearchProblem {
            parent: &subject.network,
            scan,
            fitted: &fitted,
            judged: &judged,
            training: tuning.clone().map(|tuning| (set, tuning)),
            attempts: self.attempts,
            fixed,
            timer: timer.as_deref(),
            store,
            workers: self.workers,
        };
        let bounds = described(&self.bounds, &self.wishes, self.front);
        let ready = Ready { bounds, tuning, scan, judged: &judged, judged_from, tested };
        found(&ready, &problem, self.progress.unwrap_or(&Silent))
    }

    /// A network that was built, with its figures: it is tested here. `place` is its number among those of a front.
    fn measured(
        &self,
        subject: &Subject,
        ready: &Ready<'_>,
        attempt: Attempt,
        plan: &Plan,
        place: Option<[usize; 2]>,
        front: Vec<FrontPoint>,
    ) -> Result<Prescribed, Error> {
        let options = &self.settings.options;
        let Ready { bounds, tuning, scan, judged, judged_from, tested } = ready;
        let milliseconds = attempt.timing.milliseconds;
        let before = unchanged(&Judge::new(&subject.network, judged, options)?, scan, milliseconds[0]);
        let predicted = Figures {
            accuracy: scan.parent.accuracy.map(|a| a - plan.drop / 100.0),
            drop: (scan.measure == Measure::Accuracy).then_some([plan.drop; 3]),
            fidelity: None,
            cost: plan.cost,
            // The scan's parts were timed by nettriage; of another runtime's time the plan has the same share.
            milliseconds: plan.milliseconds
                * match self.latency_in {
                    LatencyIn::Nettriage | LatencyIn::Table(_) => 1.0,
                    LatencyIn::OnnxRuntime(_) => milliseconds[0] / scan.parent.milliseconds.max(1e-9),
                },
        };
        let corrected = attempt.corrected.map(|loss| Figures {
            accuracy: scan.parent.accuracy.map(|a| a - loss / 100.0),
            drop: (scan.measure == Measure::Accuracy).then_some([loss; 3]),
            ..predicted
        });
        let images = subject.test(tested.clone());
        let test = on_test(&images, &subject.network, scan, &attempt.network, options, milliseconds)?;
        let kept = match (self.bounds.drop, &test) {
            (Some(most), Some([_, after])) => after.drop.is_some_and(|drop| drop[0] <= most),
            _ => true,
        };
        let timed = |figures: Figures, milliseconds: f64| Figures { milliseconds, ..figures };
        let prescription = Prescription {
            network: scan.network.clone(),
            source: subject.source.clone(),
            data: subject.data.name.clone(),
            budget: bounds.clone(),
            place,
            measure: scan.measure,
            replaced: prescribe::replaced(scan, plan),
            training: match (&self.training, tuning) {
                (Some(training), Some(tuning)) => {
                    let how = match (tuning.optimizer, tuning.schedule) {
                        (Optimizer::AdamW { .. }, _) => ", AdamW, cosine",
                        (_, Schedule::Cosine) => ", cosine",
                        _ => "",
                    };
                    format!("{}, {} images, rate {}{how}", training.scheme, tuning.images, tuning.rate)
                }
                _ => "none".to_owned(),
            },
            judged_from: judged_from.clone(),
            before,
            predicted,
            corrected,
            built: timed(attempt.built, milliseconds[1]),
            judged: timed(attempt.judged, milliseconds[1]),
            test,
            kept,
            front,
            batch: options.batch,
            timed_by: self.latency_in.describe(&options.device),
            latency_table: self.latency_in.table().map(|table| table.name().to_owned()),
            device: options.device.describe(),
            time_ratio: attempt.timing.ratio,
        };
        Ok(Prescribed { network: attempt.network, prescription })
    }
}

/// Refuses a scan of another network, with other outputs, or on another device.
///
/// # Errors
/// What does not fit.
pub fn check_scan(scan: &Scan, subject: &Subject, options: &Options) -> Result<(), Error> {
    let graph = &subject.network.graph;
    let sound = scan.ranges.iter().all(|r| r.units[0] <= r.units[1] && r.units[1] < scan.units.len());
    if scan.digest != scan::digest(&subject.network) || !sound {
        let same = if scan.network == graph.name { ", with other weights or layers" } else { "" };
        return Err(Error::Request(format!(
            "a scan of another network ({}{same}), not of this one ({}); scan it again",
            scan.network, graph.name
        )));
    }
    let measure = scan::measure(graph, subject.labelled, options.outputs)?;
    if scan.measure != measure {
        return Err(Error::Request(format!(
            "a scan that was judged by {}, not by {}; scan again, or state the same --outputs and --unlabelled",
            scan.measure.loss(),
            measure.loss()
        )));
    }
    let (there, here) = (&scan.took.device, options.device.describe());
    if *there != here {
        let name = |device: &Option<String>| device.clone().unwrap_or_else(|| "--device cpu".to_owned());
        return Err(Error::Request(format!(
            "a scan whose times were measured on another device ({} there, {} here); scan again, or state the same --device",
            name(there),
            name(&here)
        )));
    }
    Ok(())
}

/// The network as it is, on the images of `judge`.
fn unchanged(judge: &Judge<'_>, scan: &Scan, milliseconds: f64) -> Figures {
    Figures {
        accuracy: judge.accuracy(),
        drop: None,
        fidelity: Some(judge.itself()),
        cost: scan.parent.cost,
        milliseconds,
    }
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
fn described(bounds: &Bounds, wishes: &Wishes, front: Option<usize>) -> String {
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
        bounds.gain.map(|gain| format!("--min-gain {gain}x")),
    ];
    let keep = wishes.keep.iter().map(|range| format!("--keep {range}"));
    let replace = wishes.replace.iter().map(|range| format!("--replace {range}"));
    let front = front.map(|networks| format!("--front {networks}"));
    front.into_iter().chain(all.into_iter().flatten()).chain(keep).chain(replace).collect::<Vec<_>>().join(" ")
}

fn refusal(bounds: &str, promise: Option<[f64; 2]>, scan: &Scan, nearest: Option<Nearest>) -> Error {
    let mut remedy = "relax a bound or allow more --attempts".to_owned();
    let nearest = match nearest {
        None => "no range of its layers can be one layer and save anything".to_owned(),
        Some(Nearest { cost, judged, timing }) => {
            let lost = judged.map_or(String::new(), |figures| match figures.drop {
                Some([drop, low, high]) => {
                    if let Some([most, errors]) = promise
                        && drop <= most
                    {
                        let margin = errors * figures.standard_error();
                        // With one attempt the margin is 1 standard error, the least.
                        let fewer = if errors > 1.0 { " or allow fewer --attempts" } else { "" };
                        remedy = format!(
                            "a drop is within its limit if it is with {errors:.2} standard errors, here {margin:.2} pp: judge by more images (--judged){fewer}"
                        );
                    }
                    format!("loses {drop:.2} pp ({low:.2} to {high:.2}) on the judged images, ")
                }
                None => format!("has {:.2}% {}, ", figures.loss().unwrap_or(f64::NAN), scan.measure.loss()),
            });
            let share = |part: u64, of: u64| 100.0 * part as f64 / (of as f64).max(1.0);
            let time = timing
                .map_or(String::new(), |timing| format!(" and {:.0}% of the measured time", 100.0 * timing.ratio[0]));
            format!(
                "the nearest network that was found {lost}has {:.0}% of the multiply-accumulates, {:.0}% of the parameters{time}",
                share(cost.macs, scan.parent.cost.macs),
                share(cost.parameters, scan.parent.cost.parameters),
            )
        }
    };
    Error::Request(format!("{bounds}: cannot be met: {nearest}; nothing was written; {remedy}"))
}
