//! A study of a network in memory.

use std::path::{Path, PathBuf};

use nettriage_data::{Augmentation, Dataset, Interpolation, Normalization};
use nettriage_engine::{Optimizer, Schedule};
use nettriage_jobs::{Executor, Threads};
use nettriage_net::Network;
use nettriage_net::init::Init;
use nettriage_net::surgery::Substitute;
use nettriage_records::plan::{ParentSpec, TrialSpec};
use nettriage_records::record::{CurvePoint, Record};
use nettriage_records::{Plan, Run};
use nettriage_study::{
    BlockRange, Children, Data, Limits, Parent, Progress, Rate, Resources, RuntimeOptions, Study, StudyContext,
    TrialJobs, execute, plan,
};

use crate::{Error, Report};

/// A study that is being set up; [`Triage::run`] makes it.
///
/// The defaults are those of a study file; [`Triage::configure`] reaches every key that it has.
pub struct Triage<'a> {
    network: Network,
    data: Dataset,
    study: Study,
    resources: Resources,
    runtime: RuntimeOptions,
    limits: Limits,
    progress: Option<&'a dyn Progress>,
}

struct Silent;

impl Progress for Silent {
    fn parent(&self, _spec: &ParentSpec, _seen: usize, _of: usize, _point: &CurvePoint) {}
    fn trials(&self, _done: usize, _of: usize) {}
    fn started(&self, _spec: &TrialSpec) {}
    fn ended(&self, _record: &Record) {}
    fn note(&self, _text: &str) {}
}

impl<'a> Triage<'a> {
    /// Of a trained network and the data set that it was trained for.
    ///
    /// Without other settings each child sees the training set once, a tenth of it is set apart for validation, and there
    /// are three seeds.
    pub fn new(network: Network, data: Dataset) -> Triage<'a> {
        let validation = (data.train.len() / 10).max(1);
        let study = Study {
            name: "study".to_owned(),
            data: Data {
                name: data.name.clone(),
                dir: None,
                size: None,
                resize: None,
                interpolation: Interpolation::default(),
                skip_bad: false,
                validation,
                validation_from: Default::default(),
                seen: None,
                train: None,
                test: None,
                augment: Augmentation::default(),
            },
            parent: Parent {
                arch: None,
                plan: None,
                batch_norm: None,
                width: 1.0,
                file: None,
                mean: None,
                std: None,
                seeds: 1,
                training: None,
            },
            children: Children::new(3, data.train.len() - validation.min(data.train.len()), 0.02),
            triage: Default::default(),
            halving: None,
            schemes: Vec::new(),
        };
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        Triage {
            network,
            data,
            study,
            resources: Resources { workers, threads: 1, cache: 4096 << 20 },
            runtime: RuntimeOptions::default(),
            limits: Limits::default(),
            progress: None,
        }
    }

    /// A name for the study: letters, digits, `-` and `_`.
    pub fn name(mut self, name: &str) -> Self {
        self.study.name = name.to_owned();
        self
    }

    /// Blocks by name, first and last layer; the default blocks if not given.
    pub fn blocks<'b>(mut self, blocks: impl IntoIterator<Item = (&'b str, &'b str, &'b str)>) -> Self {
        let block = |(name, first, last): (&str, &str, &str)| BlockRange {
            name: name.to_owned(),
            first: first.to_owned(),
            last: last.to_owned(),
        };
        self.study.triage.blocks = blocks.into_iter().map(block).collect();
        self
    }

    /// What takes a block's place; the usual substitute of the network if not given.
    pub fn substitutes(mut self, substitutes: impl IntoIterator<Item = Substitute>) -> Self {
        self.study.triage.substitutes = Some(substitutes.into_iter().collect());
        self
    }

    /// How substitutes get their first weights.
    pub fn inits(mut self, inits: impl IntoIterator<Item = Init>) -> Self {
        self.study.triage.inits = inits.into_iter().collect();
        self
    }

    /// How children are trained, by the names of schemes.
    pub fn schemes<'b>(mut self, schemes: impl IntoIterator<Item = &'b str>) -> Self {
        self.study.triage.schemes = schemes.into_iter().map(str::to_owned).collect();
        self
    }

    /// Number of seeds.
    pub fn seeds(mut self, seeds: u64) -> Self {
        self.study.children.seeds = seeds;
        self
    }

    /// Images that a child sees in training.
    pub fn images(mut self, images: usize) -> Self {
        self.study.children = self.study.children.with_budget(images);
        self
    }

    /// Images in a training step.
    pub fn batch(mut self, batch: usize) -> Self {
        self.study.children.batch = batch;
        self
    }

    /// Largest learning rate: a number, or [`Rate::Auto`] for one that a range test finds, once for all trainings.
    pub fn rate(mut self, rate: impl Into<Rate>) -> Self {
        self.study.children.rate = rate.into();
        self
    }

    /// Optimiser.
    pub fn optimizer(mut self, optimizer: Optimizer) -> Self {
        self.study.children.optimizer = optimizer;
        self
    }

    /// Learning-rate schedule.
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.study.children.schedule = schedule;
        self
    }

    /// Training images set apart for validation.
    pub fn validation(mut self, images: usize) -> Self {
        self.study.data.validation = images;
        self
    }

    /// Augmentation of training images.
    pub fn augment(mut self, augment: Augmentation) -> Self {
        self.study.data.augment = augment;
        self
    }

    /// Normalisation of pixels that the network was trained with; the training set's own statistics if not given.
    pub fn normalization(mut self, normalization: Normalization) -> Self {
        (self.study.parent.mean, self.study.parent.std) = (Some(normalization.mean), Some(normalization.std));
        self
    }

    /// Every other key of a study file.
    pub fn configure(mut self, change: impl FnOnce(&mut Study)) -> Self {
        change(&mut self.study);
        self
    }

    /// Trials at a time; one per core if not given.
    pub fn workers(mut self, workers: usize) -> Self {
        self.resources.workers = workers;
        self
    }

    /// Bytes of memory for activations that trials share; 4 GiB if not given.
    pub fn cache(mut self, bytes: usize) -> Self {
        self.resources.cache = bytes;
        self
    }

    /// What networks run on; the processor if not given. Call it after [`Triage::runtime`], which sets it too.
    pub fn device(mut self, device: &nettriage_train::Device) -> Self {
        self.runtime.device = device.clone();
        self
    }

    /// How the machine is used.
    pub fn runtime(mut self, runtime: RuntimeOptions) -> Self {
        self.runtime = runtime;
        self
    }

    /// Bounds of this call; the same study run again in the same folder continues.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Receives the progress of the study.
    pub fn progress(mut self, progress: &'a dyn Progress) -> Self {
        self.progress = Some(progress);
        self
    }

    /// Runs the study, or what is left of it, with its records in `folder`.
    ///
    /// # Errors
    /// Settings that contradict each other; a network that does not fit the data set; a folder that holds another study.
    pub fn run(self, folder: impl AsRef<Path>) -> Result<Report, Error> {
        let executor = Threads { workers: self.resources.workers };
        self.run_by(folder, &executor)
    }

    /// As [`Triage::run`], with trials run by another executor than the threads of this process.
    ///
    /// # Errors
    /// As [`Triage::run`], and those of the executor.
    pub fn run_by(
        self,
        folder: impl AsRef<Path>,
        executor: &dyn for<'j> Executor<TrialJobs<'j>>,
    ) -> Result<Report, Error> {
        self.run_where(|_| folder.as_ref().to_owned(), executor)
    }

    /// As [`Triage::run_by`], in a folder that depends on the plan.
    ///
    /// # Errors
    /// As [`Triage::run_by`].
    pub fn run_where(
        self,
        folder: impl FnOnce(&Plan) -> PathBuf,
        executor: &dyn for<'j> Executor<TrialJobs<'j>>,
    ) -> Result<Report, Error> {
        let (resources, limits, progress) = (self.resources, self.limits, self.progress.unwrap_or(&Silent));
        let context = self.context()?;
        let plan = plan(&context)?;
        let run = Run::create(&folder(&plan), &plan)?;
        let _lock = run.lock()?;
        execute(&run, &context, executor, resources, limits, progress)?;
        Report::of(run)
    }

    /// The study with its network and data set, for programs that run single trials of it.
    ///
    /// # Errors
    /// Settings that contradict each other; a network that does not fit the data set.
    pub fn context(self) -> Result<StudyContext, Error> {
        self.study.check()?;
        StudyContext::in_memory(self.study, self.data, self.network, self.runtime)
    }
}
