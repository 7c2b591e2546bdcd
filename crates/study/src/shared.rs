//! What the trials of a study share: the parent's activations, solutions and readings of untrained networks.
//!
//! Trials of one parent repeat much computation. Activations below a frozen prefix are the same for every trial that
//! trains above it, and the parent's outputs are targets of many. They are computed once and stored within a budget of
//! memory and disk. Records are the same with or without this.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Arc, Mutex, OnceLock};

use nettriage_compress::Latencies;
use nettriage_engine::Options;
use nettriage_net::{INPUT, Network, slice};
use nettriage_records::Plan;
use nettriage_train::{ActivationSource, Cache, Device, ImageSequence, LookAhead, Outcome, PrefixOptions, Values};

use crate::Error;
use crate::context::StudyContext;
use crate::plan::sample;
use crate::rate::Rate;
use crate::study::{Children, Keep};

/// Untrained networks whose readings are stored: trials that share one follow each other.
const UNTRAINED: usize = 64;

/// Bytes of the results of [`SharedWork::memoise`] that are stored.
const MEMOISED: usize = 512 << 20;

/// A fixed sequence of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImageSet {
    /// What children and controls of a seed train on, augmented: the seed and the number of images.
    Stream(u64, usize),
    /// What the parent of a seed trains on, augmented.
    ParentStream(u64),
    /// The validation images.
    Validation,
    /// The test images of trials.
    Test,
    /// All test images, which parents are tested on.
    WholeTest,
    /// The first training images, not augmented: for least squares.
    Calibration,
    /// What a learning-rate range test trains on, augmented: the images in a step.
    RangeTest(usize),
}

/// A trained parent.
pub struct Parent {
    /// Its id.
    pub id: String,
    /// The network.
    pub network: Network,
    /// Its prediction for every validation image.
    pub validation_choices: Vec<u16>,
    /// Its prediction for every test image.
    pub test_choices: Vec<u16>,
    /// Its validation accuracy, 0 to 1.
    pub validation_top1: f64,
}

impl Parent {
    /// A tensor of this parent over a set of images.
    pub fn request<'r>(&'r self, tensor: &'r str, set: ImageSet, batch: usize, threads: usize) -> Request<'r> {
        Request { id: &self.id, network: &self.network, tensor, set, batch, threads }
    }
}

/// Identifies the values of a tensor: parent, tensor, images.
type ActivationKey = (String, String, ImageSet);

/// What the trials of a study share.
pub struct SharedWork<'a> {
    /// The study's context.
    pub context: &'a StudyContext,
    activations: Cache<ActivationKey, Values>,
    memoised: Cache<(String, String, String), Vec<f32>>,
    /// Readings of untrained networks, which all schemes start from. They are small, so they count as one byte each.
    untrained: Cache<String, Outcome>,
    untrained_similarity: Cache<String, Vec<Option<f64>>>,
    /// The largest learning rate of children that a range test has found.
    tested_rate: OnceLock<f32>,
    /// The trials whose whole network is kept.
    sample: OnceLock<HashSet<String>>,
    /// Inference times.
    pub(crate) latencies: Latencies,
    /// The first reason why activations could not be stored, until it has been reported; then an empty text.
    warning: Mutex<Option<String>>,
}

/// One tensor of a parent over one image set, and how it is computed.
pub struct Request<'r> {
    /// The parent's id.
    pub id: &'r str,
    /// The parent's network.
    pub network: &'r Network,
    /// The tensor; [`INPUT`] for the images themselves.
    pub tensor: &'r str,
    /// The images.
    pub set: ImageSet,
    /// Largest number of images in a batch.
    pub batch: usize,
    /// Threads of a forward pass.
    pub threads: usize,
}

impl Request<'_> {
    fn key(&self, tensor: &str) -> ActivationKey {
        // The images are the same for all parents.
        let id = if tensor == INPUT { "" } else { self.id };
        (id.to_owned(), tensor.to_owned(), self.set)
    }
}

impl<'a> SharedWork<'a> {
    /// Stores activations of at most `budget` bytes in memory; with 0 everything is computed wherever it is needed.
    pub fn new(context: &'a StudyContext, budget: usize) -> SharedWork<'a> {
        let (reuse, disk) = (context.runtime.reuse, context.runtime.disk);
        let device = match context.device() {
            Device::Cpu => 0,
            Device::Torch(_) => context.runtime.device_memory,
        };
        let activations = if reuse.activations { Cache::with_device(device, budget, disk) } else { Cache::new(0, 0) };
        let untrained = if reuse.activations { UNTRAINED } else { 0 };
        SharedWork {
            context,
            activations,
            // Solutions are small (a layer's weights) and expensive, so they have a budget of their own.
            memoised: Cache::new(if reuse.solutions { MEMOISED } else { 0 }, 0),
            untrained: Cache::new(untrained, 0),
            untrained_similarity: Cache::new(untrained, 0),
            tested_rate: OnceLock::new(),
            sample: OnceLock::new(),
            latencies: Latencies::default(),
            warning: Mutex::new(None),
        }
    }

    /// Why activations could not be stored, once: a full disk or a folder that cannot be written. Results do not change.
    pub fn take_warning(&self) -> Option<String> {
        let mut warning = self.warning.lock().expect("no holder of this lock panics");
        warning.as_mut().map(std::mem::take).filter(|text| !text.is_empty())
    }

    fn warn(&self, problem: String) {
        let mut warning = self.warning.lock().expect("no holder of this lock panics");
        warning.get_or_insert_with(|| {
            format!(
                "activations cannot be stored and are computed again where needed: {problem}; choose another --scratch"
            )
        });
    }

    /// The largest learning rate of children and controls.
    ///
    /// # Errors
    /// The study leaves it to a range test that has not been run.
    pub fn rate(&self) -> Result<f32, Error> {
        match self.context.study.children.rate {
            Rate::Fixed(rate) => Ok(rate),
            Rate::Auto => self.tested_rate().ok_or_else(|| {
                Error::Request("[children] rate = \"auto\": its range test has not been run: run the study".to_owned())
            }),
        }
    }

    /// Whether the whole network of a trial of `plan` is kept.
    pub(crate) fn keeps_network(&self, plan: &Plan, id: &str) -> bool {
        let Children { keep, keep_sample, .. } = &self.context.study.children;
        let sample = || sample(plan, keep_sample.unwrap_or(0)).into_iter().map(str::to_owned).collect();
        *keep == Keep::Network || (keep_sample.is_some() && self.sample.get_or_init(sample).contains(id))
    }

    /// The rate that a range test has found for children.
    pub(crate) fn tested_rate(&self) -> Option<f32> {
        self.tested_rate.get().copied()
    }

    /// Stores the rate that a range test has found for children.
    pub(crate) fn set_tested_rate(&self, rate: f32) {
        // It is the same whoever finds it.
        let _ = self.tested_rate.set(rate);
    }

    /// The evaluation of the network called `start` before any training.
    pub fn untrained(&self, start: &str, evaluate: impl FnMut() -> Result<Outcome, Error>) -> Result<Outcome, Error> {
        once(&self.untrained, start.to_owned(), 1, evaluate)
    }

    /// The similarity of the network called `start` to its parent before any training, tensor by tensor.
    pub fn untrained_similarity(
        &self,
        start: &str,
        measure: impl FnMut() -> Result<Vec<Option<f64>>, Error>,
    ) -> Result<Vec<Option<f64>>, Error> {
        once(&self.untrained_similarity, start.to_owned(), 1, measure)
    }

    /// A result that is small, expensive and the same for all trials of a parent, computed once: the least-squares
    /// solution of a substitute, the parent's Gram matrices. It has `length` elements.
    pub fn memoise(
        &self,
        parent: &str,
        block: &str,
        what: &str,
        length: usize,
        compute: impl FnMut() -> Result<Vec<f32>, Error>,
    ) -> Result<Vec<f32>, Error> {
        let key = [parent, block, what].map(str::to_owned).into();
        once(&self.memoised, key, length * size_of::<f32>(), compute)
    }

    /// The images of a set, in order.
    pub fn sequence(&self, set: ImageSet) -> ImageSequence<'a> {
        let context = self.context;
        let data = &context.data;
        let train = |examples| ImageSequence {
            images: &data.train,
            shape: data.shape(),
            normalization: &context.normalization,
            augmentation: context.study.data.augment,
            examples,
        };
        let plain =
            |images, indices: &[u32]| ImageSequence::plain(images, data.shape(), &context.normalization, indices);
        match set {
            ImageSet::Stream(seed, images) => train(context.stream(seed, images).examples),
            ImageSet::ParentStream(seed) => train(context.parent_stream(seed).examples),
            ImageSet::RangeTest(batch) => train(context.range_test_stream(batch).examples),
            ImageSet::Validation => plain(context.validation_images(), &context.validation),
            ImageSet::Test => plain(&data.test, &context.test),
            ImageSet::WholeTest => plain(&data.test, &context.whole_test),
            ImageSet::Calibration => {
                let count = context.study.children.calibration;
                plain(&data.train, &nettriage_data::first(&data.train, &context.train, count))
            }
        }
    }

    /// The labels of a set, in order.
    pub fn labels(&self, set: ImageSet) -> Vec<u16> {
        self.sequence(set).labels()
    }

    /// The values of a tensor, stored if there is space.
    pub fn activations(&self, request: &Request<'_>) -> Result<ActivationSource<'a>, Error> {
        let source = self.uncached(request)?;
        if matches!((request.tensor, request.set), (INPUT, ImageSet::ParentStream(_))) {
            // One training reads them, once.
            return Ok(source);
        }
        let folder = &self.context.runtime.memory.folder;
        Ok(source.stored_in(&self.activations, request.key(request.tensor), folder, &|problem| self.warn(problem))?)
    }

    /// The same values, computed batch by batch and not stored: for a tensor that one trial alone reads, storing would cost
    /// more than it saves. The input of the next block, which other trials read, is computed from it and stored.
    pub fn streaming(&self, request: &Request<'_>) -> Result<ActivationSource<'a>, Error> {
        Ok(self.uncached(request)?.with_look_ahead(self.look_ahead(request)))
    }

    /// Computes the next block's input from the requested tensor: if no weights are in between, its values are not
    /// stored yet, and there is space.
    fn look_ahead(&self, request: &Request<'_>) -> Option<LookAhead> {
        let children = &self.context.study.children;
        if request.tensor == INPUT || !children.activations.is_full() {
            return None;
        }
        let (next, between) = self.context.blocks.iter().find_map(|block| {
            let between = slice::between(request.network, request.tensor, &block.input).ok()?;
            between.weights.is_empty().then_some((&block.input, between))
        })?;
        let shape = request.network.graph.shape_of(next).ok()?;
        let images = self.sequence(request.set).len();
        let key = request.key(next);
        if self.activations.stored(&key).is_some() {
            return None;
        }
        let inference = Options::inference(request.batch);
        let options = Options { threads: request.threads, exact: children.exact, ..inference };
        let model = self.context.device().model(&between, &options).ok()?;
        let bytes = shape.elements() * images * children.activations.bytes();
        let reserved = self.activations.reserve(key, bytes)?;
        let folder = &self.context.runtime.memory.folder;
        LookAhead::new(self.context.device(), model, shape, images, children.activations, reserved, folder)
    }

    /// A source that stores nothing.
    fn uncached(&self, request: &Request<'_>) -> Result<ActivationSource<'a>, Error> {
        let sequence = self.sequence(request.set);
        if request.tensor == INPUT {
            return Ok(ActivationSource::images(self.context.device(), sequence, request.batch));
        }
        let children = &self.context.study.children;
        let (network, start) = match self.nearest(request) {
            Some((network, start)) => (network, Some(start)),
            None => (slice::between(request.network, INPUT, request.tensor)?, None),
        };
        let options = PrefixOptions {
            device: self.context.device().clone(),
            threads: request.threads,
            exact: children.exact,
            precision: children.activations,
        };
        Ok(ActivationSource::computed(sequence, network, start, request.batch, options)?)
    }

    /// The part of the network between the requested tensor and the nearest block boundary below it whose values are
    /// stored, with these values.
    fn nearest(&self, request: &Request<'_>) -> Option<(Network, Arc<Values>)> {
        // Rounded values would give other results than the images do.
        if !self.context.study.children.activations.is_full() {
            return None;
        }
        let ends = self.context.blocks.iter().rev().flat_map(|block| [&block.output, &block.input]);
        ends.filter(|end| *end != request.tensor && *end != INPUT).find_map(|end| {
            let values = self.activations.stored(&request.key(end))?;
            // Not every boundary is below the tensor, or all that is below it.
            let between = slice::between(request.network, end, request.tensor).ok()?;
            Some((between, values))
        })
    }
}

/// The value of `key`, computed by the first caller while others wait.
fn once<K: Eq + Hash + Clone, V: Clone>(
    cache: &Cache<K, V>,
    key: K,
    bytes: usize,
    mut compute: impl FnMut() -> Result<V, Error>,
) -> Result<V, Error> {
    let mut failure = None;
    let stored = cache.get(key, bytes, |_| compute().map_err(|error| failure = Some(error)).ok());
    match (failure, stored) {
        (Some(error), _) => Err(error),
        (None, Some(value)) => Ok(V::clone(&value)),
        // There is no space, or another thread's attempt failed: this one fails with its own error.
        (None, None) => compute(),
    }
}
