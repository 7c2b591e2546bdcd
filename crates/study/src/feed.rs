//! Where a network's inputs come from: the images themselves, or an inner tensor of the parent.
//!
//! Trials share nearly everything: a frozen prefix gives the same activations for every trial that stands on
//! it, and the parent's outputs are wanted by all. They are computed once and kept within a budget of memory.

use std::hash::Hash;
use std::ops::Range;

use nettriage_data::{Example, fill, prefetch};
use nettriage_engine::{Model, Options};
use nettriage_net::{INPUT, Network, slice};

use crate::Error;
use crate::cache::{Cache, Cached, Place};
use crate::evaluate;
use crate::setting::Setting;
use crate::timing::Latencies;
use crate::values::{Precision, Values};

/// Untrained networks whose readings are kept: trials that share one follow each other.
const UNTRAINED: usize = 64;

/// Bytes kept of what [`Shared::closed_form`] is asked for.
const CLOSED_FORMS: usize = 512 << 20;

/// A fixed sequence of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Set {
    /// What children and controls of a seed train on, augmented.
    Stream(u64),
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
}

/// A trained parent.
pub struct Parent {
    /// Its id.
    pub id: String,
    /// The network.
    pub network: Network,
    /// Its first choice for every validation image.
    pub validation_choices: Vec<u16>,
    /// Its first choice for every test image.
    pub test_choices: Vec<u16>,
    /// Its validation accuracy, 0 to 1.
    pub validation_top1: f64,
}

/// What the trials of a study share.
pub struct Shared<'a> {
    /// The study's setting.
    pub setting: &'a Setting,
    /// `None` where the values could not be computed: whoever comes next tries again, to fail with the same words.
    cache: Cache<(String, String, Set), Option<Values>>,
    closed_forms: Cache<(String, String, String), Option<Vec<f32>>>,
    /// Readings of untrained networks, which all schemes start from: a few hundred numbers each, counted by networks.
    untrained: Cache<String, Option<evaluate::Outcome>>,
    untrained_similarity: Cache<String, Option<Vec<Option<f64>>>>,
    /// Inference times.
    pub(crate) latencies: Latencies,
}

impl<'a> Shared<'a> {
    /// Shared activations within `budget` bytes; 0 computes everything anew wherever it is needed.
    pub fn new(setting: &'a Setting, budget: usize) -> Shared<'a> {
        let (savings, disk) = (setting.means.savings, setting.means.disk);
        let cache = if savings.kept { Cache::new(budget, disk) } else { Cache::new(0, 0) };
        let untrained = if savings.kept { UNTRAINED } else { 0 };
        // Solutions are small (a layer's weights) and dear, so they have a budget of their own.
        Shared {
            setting,
            cache,
            closed_forms: Cache::new(if savings.solved { CLOSED_FORMS } else { 0 }, 0),
            untrained: Cache::new(untrained, 0),
            untrained_similarity: Cache::new(untrained, 0),
            latencies: Latencies::default(),
        }
    }

    /// The evaluation of the network called `start` before any training.
    pub fn untrained(
        &self,
        start: &str,
        evaluate: impl FnMut() -> Result<evaluate::Outcome, Error>,
    ) -> Result<evaluate::Outcome, Error> {
        once(&self.untrained, start.to_owned(), 1, evaluate)
    }

    /// How alike its parent the network called `start` is before any training, tensor by tensor.
    pub fn untrained_similarity(
        &self,
        start: &str,
        measure: impl FnMut() -> Result<Vec<Option<f64>>, Error>,
    ) -> Result<Vec<Option<f64>>, Error> {
        once(&self.untrained_similarity, start.to_owned(), 1, measure)
    }

    /// What is small, dear and the same for all trials of a parent, made once and kept: the least-squares solution of a
    /// substitute, the parent's Gram matrices.
    pub fn closed_form(
        &self,
        parent: &str,
        block: &str,
        substitute: &str,
        length: usize,
        solve: impl FnMut() -> Result<Vec<f32>, Error>,
    ) -> Result<Vec<f32>, Error> {
        let key = [parent, block, substitute].map(str::to_owned).into();
        once(&self.closed_forms, key, length * size_of::<f32>(), solve)
    }

    /// The images of a set, in order.
    pub fn examples(&self, set: Set) -> Vec<Example> {
        let setting = self.setting;
        let plain = |indices: &[u32]| -> Vec<Example> { indices.iter().copied().map(Example::plain).collect() };
        match set {
            Set::Stream(seed) => setting.stream(seed).examples,
            Set::ParentStream(seed) => setting.parent_stream(seed).examples,
            Set::Validation => plain(&setting.validation),
            Set::Test => plain(&setting.test),
            Set::WholeTest => plain(&setting.whole_test),
            Set::Calibration => {
                let count = setting.study.children.calibration;
                plain(&nettriage_data::first(&setting.data.train, &setting.train, count))
            }
        }
    }

    /// The labels of a set, in order.
    pub fn labels(&self, set: Set) -> Vec<u16> {
        let images = self.images(set);
        self.examples(set).iter().map(|e| images.labels[e.image as usize]).collect()
    }

    fn images(&self, set: Set) -> &nettriage_data::Images {
        match set {
            Set::Test | Set::WholeTest => &self.setting.data.test,
            _ => &self.setting.data.train,
        }
    }

    /// The part of `network` between `tensor` and the nearest end of a block below it whose values are kept, with those.
    fn nearest(&self, id: &str, network: &Network, tensor: &str, set: Set) -> Option<(Network, Base)> {
        // Rounded values would give others than the images do.
        if !self.setting.study.children.activations.is_full() {
            return None;
        }
        let ends = self.setting.blocks.iter().rev().flat_map(|block| [&block.output, &block.input]);
        ends.filter(|end| *end != tensor && *end != INPUT).find_map(|end| {
            let kept = self.cache.there(&(id.to_owned(), end.clone(), set))?;
            // An end that is not below, or not all that is, is no place to start from.
            let between = slice::between(network, end, tensor).ok()?;
            let elements = network.graph.shape_of(end).ok()?.elements();
            Some((between, Base { kept, elements }))
        })
    }

    /// The values of tensor `tensor` of `network` (the parent called `id`) over `set`, in batches of at most `batch`.
    pub fn feed(
        &self,
        id: &str,
        network: &Network,
        tensor: &str,
        set: Set,
        batch: usize,
        threads: usize,
    ) -> Result<Feed<'_>, Error> {
        let mut feed = self.unkept(id, network, tensor, set, batch, threads)?;
        let Some(prefix) = &feed.source.prefix else { return Ok(feed) };
        let length = feed.source.elements * feed.source.examples.len();
        let key = (id.to_owned(), tensor.to_owned(), set);
        let (mut failed, bytes) = (None, length * prefix.precision.bytes());
        feed.kept = self.cache.get(key, bytes, |place| {
            feed.source.compute_all(place).unwrap_or_else(|error| {
                failed = Some(error);
                None
            })
        });
        if let Some(error) = failed {
            return Err(error);
        }
        // What the values were made from is not held on to once they are there.
        if let (Some(prefix), true) = (&mut feed.source.prefix, feed.kept.as_ref().is_some_and(|k| k.get().is_some())) {
            (prefix.base, prefix.model) = (None, None);
        }
        Ok(feed)
    }

    /// The same values, computed batch by batch as they are asked for: of what nobody else will ask for, to keep it would
    /// take more than it gives. The input of the next block, which the trials there ask for, is kept on the way.
    pub fn passing(
        &self,
        id: &str,
        network: &Network,
        tensor: &str,
        set: Set,
        batch: usize,
        threads: usize,
    ) -> Result<Feed<'_>, Error> {
        let mut feed = self.unkept(id, network, tensor, set, batch, threads)?;
        feed.onward = self.onward(id, network, tensor, set, &feed.source);
        Ok(feed)
    }

    /// What makes the next block's input of `tensor`: where no weight stands between, its values are not there yet, and
    /// there is room.
    fn onward(&self, id: &str, network: &Network, tensor: &str, set: Set, source: &Source<'_>) -> Option<Onward> {
        let prefix = source.prefix.as_ref().filter(|prefix| prefix.precision.is_full())?;
        let (next, between) = self.setting.blocks.iter().find_map(|block| {
            let between = slice::between(network, tensor, &block.input).ok()?;
            between.weights.is_empty().then_some((&block.input, between))
        })?;
        let elements = network.graph.shape_of(next).ok()?.elements();
        let length = elements * source.examples.len();
        let key = (id.to_owned(), next.clone(), set);
        if self.cache.there(&key).is_some() {
            return None;
        }
        let options = Options { threads: prefix.threads, exact: prefix.exact, ..Options::inference(source.batch) };
        let model = Model::new(&between, &options).ok()?;
        let (kept, place) = self.cache.reserve(key, length * prefix.precision.bytes())?;
        let values = Values::new(length, prefix.precision, place, &self.setting.means.room.folder)?;
        Some(Onward { model, elements, values, done: 0, kept })
    }

    /// A feed that keeps nothing.
    fn unkept(
        &self,
        id: &str,
        network: &Network,
        tensor: &str,
        set: Set,
        batch: usize,
        threads: usize,
    ) -> Result<Feed<'_>, Error> {
        let examples = self.examples(set);
        let elements = network.graph.shape_of(tensor)?.elements();
        let mut source = Source { shared: self, set, examples, elements, batch, prefix: None };
        if tensor != INPUT {
            let children = &self.setting.study.children;
            let (network, base) = match self.nearest(id, network, tensor, set) {
                Some((network, base)) => (network, Some(base)),
                None => (slice::between(network, INPUT, tensor)?, None),
            };
            let (exact, precision) = (children.exact, children.activations);
            source.prefix = Some(Prefix { network, base, exact, precision, threads, model: None });
        }
        Ok(Feed { source, kept: None, onward: None, buffer: Vec::new(), images: Vec::new() })
    }
}

/// The value of `key`, made by the first who asks while others wait.
fn once<K: Eq + Hash + Clone, V: Clone>(
    cache: &Cache<K, Option<V>>,
    key: K,
    bytes: usize,
    mut make: impl FnMut() -> Result<V, Error>,
) -> Result<V, Error> {
    let mut failed = None;
    let kept = cache.get(key, bytes, |_| make().map_err(|error| failed = Some(error)).ok());
    match (failed, kept.as_ref().and_then(|kept| kept.get())) {
        (Some(error), _) => Err(error),
        (None, Some(Some(value))) => Ok(value.clone()),
        // No room, or another worker's attempt failed: try again, to fail with the same words.
        (None, _) => make(),
    }
}

/// Batches of one tensor over one set of images.
pub struct Feed<'a> {
    source: Source<'a>,
    kept: Option<Cached<Option<Values>>>,
    onward: Option<Onward>,
    buffer: Vec<f32>,
    /// What a batch is computed from.
    images: Vec<f32>,
}

struct Source<'a> {
    shared: &'a Shared<'a>,
    set: Set,
    examples: Vec<Example>,
    elements: usize,
    batch: usize,
    prefix: Option<Prefix>,
}

struct Prefix {
    network: Network,
    /// What it starts from; the images if left out.
    base: Option<Base>,
    exact: bool,
    precision: Precision,
    threads: usize,
    /// Made when first needed: most feeds find their values kept.
    model: Option<Model>,
}

/// Kept values of a tensor, so many an image.
struct Base {
    kept: Cached<Option<Values>>,
    elements: usize,
}

/// Values of a later tensor, made of those that pass and kept once all have.
struct Onward {
    model: Model,
    /// Of an image's values.
    elements: usize,
    values: Values,
    /// Images so far.
    done: usize,
    kept: Cached<Option<Values>>,
}

impl Onward {
    /// Takes in the images of `range` from their `values`, of `all` images; `None` at the end, and where they do not follow
    /// each other.
    fn take(mut self, range: Range<usize>, values: &[f32], all: usize) -> Option<Onward> {
        if range.start != self.done {
            return None;
        }
        self.values.write(range.start * self.elements, self.model.forward(values));
        self.done = range.end;
        if self.done < all {
            return Some(self);
        }
        // Whoever could not wait has computed the same.
        let _ = self.kept.set(Some(self.values));
        None
    }
}

impl Feed<'_> {
    /// The same where only `images` will be asked for: a part of them leaves nothing behind.
    pub fn over(mut self, images: &Range<usize>) -> Self {
        if *images != (0..self.len()) {
            self.onward = None;
        }
        self
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.source.examples.len()
    }

    /// The values of the images in `range`: n x H x W x C.
    pub fn batch(&mut self, range: Range<usize>) -> Result<&[f32], Error> {
        let Feed { source, kept, onward, buffer, images } = self;
        let elements = source.elements;
        if let Some(Some(values)) = kept.as_ref().and_then(|k| k.get()) {
            return Ok(values.read(range.start * elements..range.end * elements, buffer));
        }
        if source.prefix.is_some() {
            let all = source.examples.len();
            let values = source.compute(range.clone(), images, buffer)?;
            *onward = onward.take().and_then(|onward| onward.take(range, values, all));
            return Ok(values);
        }
        buffer.resize(range.len() * elements, 0.0);
        source.fill(range, buffer);
        Ok(buffer)
    }
}

impl Source<'_> {
    fn fill(&self, range: Range<usize>, out: &mut [f32]) {
        let setting = self.shared.setting;
        let images = self.shared.images(self.set);
        // The next batch, if it is as large: it may come in from the disk while this one is worked on.
        let next = range.end..(range.end + range.len()).min(self.examples.len());
        prefetch(images, &self.examples[next]);
        fill(images, setting.data.shape(), &self.examples[range], &setting.normalization, out);
    }

    /// Runs the prefix on all images; `None` where there is no room.
    fn compute_all(&mut self, place: Place) -> Result<Option<Values>, Error> {
        let precision = self.prefix.as_ref().map_or(Precision::F32, |prefix| prefix.precision);
        let folder = &self.shared.setting.means.room.folder;
        let length = self.elements * self.examples.len();
        // Without room they are computed whenever they are wanted.
        let Some(mut values) = Values::new(length, precision, place, folder) else { return Ok(None) };
        let (mut images, mut rounded) = (Vec::new(), Vec::new());
        for start in (0..self.examples.len()).step_by(self.batch) {
            let range = start..self.examples.len().min(start + self.batch);
            values.write(start * self.elements, self.compute(range, &mut images, &mut rounded)?);
        }
        Ok(Some(values))
    }

    /// What the prefix makes of the images of `range`, at most `batch` of them; through `rounded` where values are rounded.
    fn compute<'v>(
        &'v mut self,
        range: Range<usize>,
        images: &mut Vec<f32>,
        rounded: &'v mut Vec<f32>,
    ) -> Result<&'v [f32], Error> {
        let base = self.prefix.as_ref().and_then(|prefix| prefix.base.as_ref());
        let base = base.map(|base| (base.kept.clone(), base.elements));
        let kept = base.as_ref().and_then(|(kept, elements)| Some((kept.get()?.as_ref()?, elements)));
        let inputs = match kept {
            Some((values, elements)) => values.read(range.start * elements..range.end * elements, images),
            None => {
                images.resize(range.len() * self.shared.setting.data.shape().elements(), 0.0);
                self.fill(range, images);
                images
            }
        };
        let Some(prefix) = &mut self.prefix else { return Ok(&[]) };
        let model = match &mut prefix.model {
            Some(model) => model,
            none => none.insert(Model::new(
                &prefix.network,
                &Options { threads: prefix.threads, exact: prefix.exact, ..Options::inference(self.batch) },
            )?),
        };
        let values = model.forward(inputs);
        if prefix.precision.is_full() {
            return Ok(values);
        }
        rounded.clear();
        rounded.extend_from_slice(values);
        prefix.precision.round(rounded);
        Ok(rounded)
    }
}
