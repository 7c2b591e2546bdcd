//! Batches of one tensor over a fixed sequence of images: the images themselves, or activations inside a network.

use std::hash::Hash;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use nettriage_data::{Augmentation, Example, Images, Normalization, Shape, fill, prefetch};
use nettriage_engine::Options;
use nettriage_net::Network;
use nettriage_net::Shape as TensorShape;

use crate::cache::{Cache, Reserved, Tier};
use crate::model::{Batch, Model, extents};
use crate::values::{Precision, Values};
use crate::{Device, Error};

/// A fixed sequence of images of one data set, as a network takes them.
#[derive(Clone)]
pub struct ImageSequence<'a> {
    /// The images that `examples` refers to.
    pub images: &'a Images,
    /// The shape of an image.
    pub shape: Shape,
    /// Normalisation of pixels.
    pub normalization: &'a Normalization,
    /// The settings of the examples' augmentation.
    pub augmentation: Augmentation,
    /// Which images, each with its augmentation.
    pub examples: Vec<Example>,
}

impl<'a> ImageSequence<'a> {
    /// The images `indices` without augmentation.
    pub fn plain(
        images: &'a Images,
        shape: Shape,
        normalization: &'a Normalization,
        indices: &[u32],
    ) -> ImageSequence<'a> {
        let examples = indices.iter().copied().map(Example::plain).collect();
        ImageSequence { images, shape, normalization, augmentation: Augmentation::default(), examples }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.examples.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }

    /// Their labels, in order.
    pub fn labels(&self) -> Vec<u16> {
        self.examples.iter().map(|example| self.images.labels[example.image as usize]).collect()
    }

    /// The shares of the images of `range` in their examples, where each is mixed with the one before it; none without mixup. The
    /// mixture is a property of the example's place, so it is the same for every tensor and every network that reads it.
    pub fn own_shares(&self, range: Range<usize>) -> Option<Vec<f32>> {
        self.examples[range].iter().map(|example| self.augmentation.own_share(example)).collect()
    }

    /// Writes the images of `range`, normalised and mixed: n x H x W x C.
    ///
    /// # Panics
    /// If `out` has another length.
    pub fn fill(&self, range: Range<usize>, out: &mut [f32]) {
        // The next batch, if it is as large: it may be read from the disk while this one is computed on.
        let next = range.end..(range.end + range.len()).min(self.len());
        prefetch(self.images, &self.examples[next]);
        let one = |range: Range<usize>, out: &mut [f32]| {
            fill(self.images, self.shape, &self.examples[range], &self.augmentation, self.normalization, out);
        };
        one(range.clone(), out);
        let Some(shares) = self.own_shares(range.clone()) else { return };
        let elements = self.shape.elements();
        let mut others = vec![0.0; out.len()];
        let (first, rest) = others.split_at_mut(elements.min(out.len()));
        one(before(range.start)..before(range.start) + first.len() / elements.max(1), first);
        one(range.start..range.start + rest.len() / elements.max(1), rest);
        let images = out.chunks_exact_mut(elements.max(1)).zip(others.chunks_exact(elements.max(1)));
        for ((image, other), own) in images.zip(shares) {
            image.iter_mut().zip(other).for_each(|(value, other)| *value = own * *value + (1.0 - own) * other);
        }
    }
}

/// The place of the image that is mixed into the example at a place; the first stays as it is.
pub(crate) fn before(place: usize) -> usize {
    place.saturating_sub(1)
}

/// How the network below a tensor is run.
#[derive(Clone, Debug)]
pub struct PrefixOptions {
    /// What it runs on.
    pub device: Device,
    /// Threads of a forward pass.
    pub threads: usize,
    /// Whether convolutions use exact algorithms only.
    pub exact: bool,
    /// Precision of the values.
    pub precision: Precision,
}

/// Batches of one tensor over an image sequence.
pub struct ActivationSource<'a> {
    sequence: ImageSequence<'a>,
    /// What reads the batches.
    device: Device,
    /// The tensor's shape.
    shape: TensorShape,
    /// Largest number of images in a batch.
    batch: usize,
    /// The network that computes the tensor; none where it is the images.
    prefix: Option<Prefix>,
    stored: Option<Arc<Values>>,
    look_ahead: Option<LookAhead>,
    buffers: Buffers,
    /// Values of a device, for a caller that reads them in the host's memory.
    host: Vec<f32>,
}

#[derive(Default)]
struct Buffers {
    input: Vec<f32>,
    output: Vec<f32>,
}

/// The part of a network that computes a tensor.
struct Prefix {
    network: Network,
    /// Stored values that it starts from; the images if none.
    start: Option<Arc<Values>>,
    options: PrefixOptions,
    /// Built when first needed: most sources find their values stored.
    model: Option<Model>,
}

impl<'a> ActivationSource<'a> {
    /// The images themselves, for models on `device`.
    pub fn images(device: &Device, sequence: ImageSequence<'a>, batch: usize) -> ActivationSource<'a> {
        let shape = TensorShape::new(sequence.shape.channels, sequence.shape.height, sequence.shape.width);
        ActivationSource {
            sequence,
            device: device.clone(),
            shape,
            batch,
            prefix: None,
            stored: None,
            look_ahead: None,
            buffers: Buffers::default(),
            host: Vec::new(),
        }
    }

    /// The output of `network`, computed from the images, or from `start`: stored values of its input tensor.
    ///
    /// # Errors
    /// A network whose shapes do not fit.
    pub fn computed(
        sequence: ImageSequence<'a>,
        network: Network,
        start: Option<Arc<Values>>,
        batch: usize,
        options: PrefixOptions,
    ) -> Result<ActivationSource<'a>, Error> {
        let shape = network.graph.output_shape()?;
        let images = ActivationSource::images(&options.device, sequence, batch);
        let prefix = Some(Prefix { network, start, options, model: None });
        Ok(ActivationSource { shape, prefix, ..images })
    }

    /// The same, its values stored in a cache: computed now, unless they are stored already.
    ///
    /// Where the cache has no space for them, or they cannot be stored (`warn` receives the reason), they are computed batch by
    /// batch whenever they are read. The images themselves are stored on a device other than the processor, and nowhere else.
    ///
    /// # Errors
    /// Those of the network that computes them.
    pub fn stored_in<K: Eq + Hash + Clone>(
        mut self,
        cache: &Cache<K, Values>,
        key: K,
        folder: &Path,
        warn: &dyn Fn(String),
    ) -> Result<ActivationSource<'a>, Error> {
        let precision = self.precision();
        let tiers: &[Tier] = match (&self.prefix, precision) {
            (None, _) => &[Tier::Device],
            (Some(_), Precision::F32) => &[Tier::Device, Tier::Memory, Tier::Disk],
            (Some(_), Precision::F16) => &[Tier::Memory, Tier::Disk],
        };
        let bytes = self.shape.elements() * self.sequence.len() * precision.bytes();
        let mut failure = None;
        let stored = cache.get_from(tiers, key, bytes, |tier| match self.compute_all(tier, folder, warn) {
            Ok(values) => values,
            Err(error) => {
                failure = Some(error);
                None
            }
        });
        if let Some(error) = failure {
            return Err(error);
        }
        // The memory of what computes the values is free once they are stored.
        if let (Some(prefix), true) = (&mut self.prefix, stored.is_some()) {
            (prefix.start, prefix.model) = (None, None);
        }
        self.stored = stored;
        Ok(self)
    }

    /// The same, computing and storing a later tensor from the values as they are read.
    pub fn with_look_ahead(mut self, look_ahead: Option<LookAhead>) -> ActivationSource<'a> {
        self.look_ahead = look_ahead;
        self
    }

    /// The same where only the images of `range` will be read: a part of them stores nothing for later.
    pub fn over(mut self, range: &Range<usize>) -> ActivationSource<'a> {
        if *range != (0..self.len()) {
            self.look_ahead = None;
        }
        self
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.sequence.len()
    }

    /// The shape of the tensor.
    pub fn shape(&self) -> TensorShape {
        self.shape
    }

    /// The largest number of images in a batch.
    pub fn largest_batch(&self) -> usize {
        self.batch
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.sequence.is_empty()
    }

    /// The labels of the images, in order.
    pub fn labels(&self) -> Vec<u16> {
        self.sequence.labels()
    }

    /// As [`ImageSequence::own_shares`].
    pub fn own_shares(&self, range: Range<usize>) -> Option<Vec<f32>> {
        self.sequence.own_shares(range)
    }

    /// The values of the images in `range`, at most as many as a batch holds: n x H x W x C.
    ///
    /// # Errors
    /// Those of the network that computes them.
    pub fn batch(&mut self, range: Range<usize>) -> Result<Batch<'_>, Error> {
        let ActivationSource { sequence, shape, batch, prefix, stored, look_ahead, buffers, .. } = self;
        read(sequence, *shape, *batch, prefix, stored, look_ahead, buffers, range)
    }

    /// The same, in the host's memory.
    ///
    /// # Errors
    /// As [`ActivationSource::batch`].
    pub fn values(&mut self, range: Range<usize>) -> Result<&[f32], Error> {
        let ActivationSource { sequence, shape, batch, prefix, stored, look_ahead, buffers, host, .. } = self;
        match read(sequence, *shape, *batch, prefix, stored, look_ahead, buffers, range)? {
            Batch::Host(values) => Ok(values),
            Batch::Torch(tensor) => {
                nettriage_torch::Torch::download_images(&tensor, extents(*shape), host)?;
                Ok(host)
            }
        }
    }

    fn precision(&self) -> Precision {
        self.prefix.as_ref().map_or(Precision::F32, |prefix| prefix.options.precision)
    }

    /// Reads or computes the values of all images; `None` where they cannot be stored.
    fn compute_all(&mut self, tier: Tier, folder: &Path, warn: &dyn Fn(String)) -> Result<Option<Values>, Error> {
        let (count, shape, elements) = (self.sequence.len(), self.shape, self.shape.elements());
        let mut values = match Values::new(elements * count, self.precision(), tier, folder, &self.device) {
            Ok(values) => values,
            Err(problem) => {
                warn(problem);
                return Ok(None);
            }
        };
        for start in (0..count).step_by(self.batch) {
            let range = start..count.min(start + self.batch);
            values.write_batch(start * elements, &self.batch(range)?, shape)?;
        }
        Ok(Some(values))
    }
}

/// The values of the images in `range`: stored, the images themselves, or computed.
#[expect(clippy::too_many_arguments, reason = "the parts of a source: the values borrow some")]
fn read<'v>(
    sequence: &ImageSequence<'_>,
    shape: TensorShape,
    batch: usize,
    prefix: &'v mut Option<Prefix>,
    stored: &'v Option<Arc<Values>>,
    look_ahead: &mut Option<LookAhead>,
    buffers: &'v mut Buffers,
    range: Range<usize>,
) -> Result<Batch<'v>, Error> {
    if let Some(values) = stored {
        return values.batch(range, shape, &mut buffers.output);
    }
    let Some(prefix) = prefix else {
        buffers.input.resize(range.len() * shape.elements(), 0.0);
        sequence.fill(range, &mut buffers.input);
        return Ok(Batch::Host(&buffers.input));
    };
    let values = prefix.compute(sequence, range.clone(), batch, buffers)?;
    *look_ahead = match look_ahead.take() {
        Some(look_ahead) => look_ahead.read(range, &values, sequence.len())?,
        None => None,
    };
    Ok(values)
}

impl Prefix {
    /// Its output for the images of `range`, at most `batch` of them.
    fn compute<'v>(
        &'v mut self,
        sequence: &ImageSequence<'_>,
        range: Range<usize>,
        batch: usize,
        buffers: &'v mut Buffers,
    ) -> Result<Batch<'v>, Error> {
        let Buffers { input, output } = buffers;
        let Prefix { network, start, options, model } = self;
        let inputs = match start {
            Some(values) => values.batch(range, network.graph.input, input)?,
            None => {
                input.resize(range.len() * sequence.shape.elements(), 0.0);
                sequence.fill(range, input);
                Batch::Host(input)
            }
        };
        let model = match model {
            Some(model) => model,
            none => {
                let inference = Options::inference(batch);
                let PrefixOptions { device, threads, exact, .. } = &*options;
                let options = Options { threads: *threads, exact: *exact, ..inference };
                none.insert(device.model(network, &options)?)
            }
        };
        if options.precision.is_full() {
            return model.run(inputs);
        }
        output.clear();
        output.extend_from_slice(model.forward(inputs)?);
        options.precision.round(output);
        Ok(Batch::Host(output))
    }
}

/// A later tensor, computed from the values of a source as these are read, and stored once all have been.
pub struct LookAhead {
    model: Model,
    /// The later tensor's shape.
    shape: TensorShape,
    values: Values,
    /// Images so far.
    done: usize,
    reserved: Reserved<Values>,
}

impl LookAhead {
    /// `model`, on `device`, computes the later tensor of that shape for each of `images` images; `None` if the values cannot be
    /// stored.
    pub fn new(
        device: &Device,
        model: Model,
        shape: TensorShape,
        images: usize,
        precision: Precision,
        reserved: Reserved<Values>,
        folder: &Path,
    ) -> Option<LookAhead> {
        let values = Values::new(shape.elements() * images, precision, reserved.tier, folder, device).ok()?;
        Some(LookAhead { model, shape, values, done: 0, reserved })
    }

    /// Takes the `values` of the images of `range`, of `all` images; `None` at the end, and where ranges do not follow
    /// each other.
    fn read(mut self, range: Range<usize>, values: &Batch<'_>, all: usize) -> Result<Option<LookAhead>, Error> {
        if range.start != self.done {
            return Ok(None);
        }
        let later = self.model.run(values.clone())?;
        self.values.write_batch(range.start * self.shape.elements(), &later, self.shape)?;
        self.done = range.end;
        if self.done < all {
            return Ok(Some(self));
        }
        self.reserved.store(self.values);
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nettriage_net::arch::{self, ArchSpec};
    use nettriage_net::{INPUT, slice};

    #[test]
    fn values_that_cannot_be_stored_are_computed_and_are_the_same() {
        let data = nettriage_data::open("digits", None).unwrap();
        let all: Vec<u32> = (0..50).collect();
        let normalization = Normalization::of(&data.train, data.shape(), &all);
        let spec = ArchSpec { plan: Some(vec![vec![4], vec![4]]), ..ArchSpec::named("vgg") };
        let input = nettriage_net::Shape::new(data.channels, data.height, data.width);
        let graph = arch::build(&spec, input, 10).unwrap();
        let network = Network::initialised(graph, &mut crate::seed::rng("test", &[])).unwrap();
        let inner = network.graph.layers[3].name.clone();
        let prefix = slice::between(&network, INPUT, &inner).unwrap();
        let options = PrefixOptions { device: Device::Cpu, threads: 1, exact: false, precision: Precision::F32 };
        let read = |cache: &Cache<&'static str, Values>, folder: &Path| {
            let sequence = ImageSequence::plain(&data.train, data.shape(), &normalization, &all);
            let source = ActivationSource::computed(sequence, prefix.clone(), None, 16, options.clone()).unwrap();
            let warned = std::cell::RefCell::new(Vec::new());
            let mut source = source.stored_in(cache, "inner", folder, &|text| warned.borrow_mut().push(text)).unwrap();
            let mut values = Vec::new();
            for start in (0..50).step_by(16) {
                values.extend_from_slice(source.values(start..50.min(start + 16)).unwrap());
            }
            (values, cache.stored(&"inner").is_some(), warned.into_inner())
        };
        let folder = tempfile::tempdir().unwrap();
        let (plain, stored, warned) = read(&Cache::new(0, 0), folder.path());
        assert!(!stored && warned.is_empty());
        for (cache, folder, stores) in [
            (Cache::new(100 << 20, 0), folder.path(), true),
            (Cache::new(0, 100 << 20), folder.path(), true),
            (Cache::new(0, 100 << 20), Path::new("/nonexistent"), false),
        ] {
            let (values, stored, warned) = read(&cache, folder);
            assert_eq!(values, plain);
            assert_eq!((stored, warned.len()), (stores, usize::from(!stores)), "{warned:?}");
        }
    }

    #[test]
    fn mixed_examples_are_shares_of_two_images_in_any_batch() {
        let data = nettriage_data::open("digits", None).unwrap();
        let train: Vec<u32> = (0..30).collect();
        let normalization = Normalization::of(&data.train, data.shape(), &train);
        let sequence = |mixup: f32| {
            let augmentation = Augmentation { pad: 1, mixup, ..Augmentation::default() };
            let examples = nettriage_data::Stream::new(&train, 50, &augmentation, 3).examples;
            let (images, shape) = (&data.train, data.shape());
            ImageSequence { images, shape, normalization: &normalization, augmentation, examples }
        };
        let elements = data.shape().elements();
        let read = |sequence: &ImageSequence<'_>, step: usize| {
            let mut values = vec![f32::NAN; 50 * elements];
            for start in (0..50).step_by(step) {
                let end = 50.min(start + step);
                sequence.fill(start..end, &mut values[start * elements..end * elements]);
            }
            values
        };
        let (plain, mixed) = (sequence(0.0), sequence(0.4));
        assert_eq!(plain.own_shares(0..50), None);
        let shares = mixed.own_shares(0..50).unwrap();
        assert!(shares.iter().all(|share| (0.0..=1.0).contains(share)));
        assert!(shares.iter().any(|share| (0.2..0.8).contains(share)));
        let (own, found) = (read(&plain, 50), read(&mixed, 16));
        for (place, share) in shares.iter().enumerate() {
            let other = place.saturating_sub(1);
            for element in 0..elements {
                let expected =
                    share * own[place * elements + element] + (1.0 - share) * own[other * elements + element];
                let found = found[place * elements + element];
                assert!((found - expected).abs() < 1e-5, "example {place}: {found}, not {expected}");
            }
        }
        assert_eq!(read(&mixed, 7), found);
        // What a step is trained on: the labels of the same two images.
        let labels = mixed.labels();
        let source = ActivationSource::images(&Device::Cpu, mixed, 16);
        let mixture = crate::training::Mixture::of(&source, &labels, 16..32).unwrap();
        assert_eq!((mixture.labels().others, mixture.labels().own), (&labels[15..31], &shares[16..32]));
    }
}
