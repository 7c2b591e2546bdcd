//! What a parent's tensors are for a batch of images: its output, and the ends of its blocks with their weights in the loss.

use std::ops::Range;

use nettriage_engine::Options;
use nettriage_net::ends::End;
use nettriage_net::{Network, Shape};

use crate::Error;
use crate::model::{Batch, InnerTarget, Model};
use crate::source::{ActivationSource, PrefixOptions};

/// Images whose mean and variance normalise the ends of blocks: the first of a stage.
const NORMALISED_BY: usize = 256;

/// A tensor whose variance is below this share of its mean square is constant but for rounding.
const CONSTANT: f64 = 1e-10;

/// The parent's tensors that a training compares with.
pub struct Teacher<'a> {
    tensors: Tensors<'a>,
    ends: Vec<Compared>,
    /// Weight of all ends together.
    beta: f32,
}

/// An end of a block.
struct Compared {
    /// The layer of the child.
    layer: String,
    shape: Shape,
    /// Factor of its mean squared error in the loss.
    weight: f32,
}

/// How the values are had.
enum Tensors<'a> {
    /// Each from a source of its own: of the output, then of the ends.
    Sources(Vec<ActivationSource<'a>>),
    /// From one pass of the parent.
    Pass { images: Box<ActivationSource<'a>>, model: Model, layers: Vec<String> },
}

impl<'a> From<ActivationSource<'a>> for Teacher<'a> {
    /// The output alone.
    fn from(output: ActivationSource<'a>) -> Teacher<'a> {
        Teacher { tensors: Tensors::Sources(vec![output]), ends: Vec::new(), beta: 0.0 }
    }
}

impl<'a> Teacher<'a> {
    /// The output, and ends of blocks with the values of the parent's tensor. They add to the loss the mean over the ends of
    /// `beta` MSE(child, parent) / Var(parent), over all elements of the tensor.
    ///
    /// The variance is that of the first 256 images of the stage, so that the loss is the same function in every step. It makes
    /// `beta` a number without a unit: an end counts as much whatever the scale of its values is. An end that is constant in the
    /// parent does not count.
    pub fn with_ends(output: ActivationSource<'a>, ends: Vec<(End, ActivationSource<'a>)>, beta: f32) -> Teacher<'a> {
        let (mut sources, mut compared) = (vec![output], Vec::new());
        for (end, source) in ends {
            compared.push(Compared { layer: end.child, shape: source.shape(), weight: 0.0 });
            sources.push(source);
        }
        Teacher { tensors: Tensors::Sources(sources), ends: compared, beta }
    }

    /// The same, all from one pass of `parent` over each batch of `images`.
    ///
    /// # Errors
    /// A layer that the parent does not have; the model does not fit into memory.
    pub fn of_network(
        images: ActivationSource<'a>,
        parent: &Network,
        ends: &[End],
        beta: f32,
        options: &PrefixOptions,
    ) -> Result<Teacher<'a>, Error> {
        let output = [parent.graph.output.clone()];
        let layers: Vec<String> = output.into_iter().chain(ends.iter().map(|end| end.parent.clone())).collect();
        let PrefixOptions { device, threads, exact, .. } = options;
        let inference = Options::inference(images.largest_batch());
        let options = Options { threads: *threads, exact: *exact, keep: layers.clone(), ..inference };
        let model = device.model(parent, &options)?;
        let compared = ends.iter().map(|end| -> Result<Compared, Error> {
            Ok(Compared { layer: end.child.clone(), shape: parent.graph.shape_of(&end.parent)?, weight: 0.0 })
        });
        let ends = compared.collect::<Result<_, _>>()?;
        Ok(Teacher { tensors: Tensors::Pass { images: Box::new(images), model, layers }, ends, beta })
    }

    /// Sets the weights of the ends, for a stage on `images`. They do not depend on the steps that have been taken.
    pub(crate) fn weigh(&mut self, images: Range<usize>) -> Result<(), Error> {
        if self.ends.is_empty() {
            return Ok(());
        }
        let first = images.start..images.end.min(images.start + NORMALISED_BY);
        let mut sums = vec![[0f64; 3]; self.ends.len()];
        let mut buffer = Vec::new();
        for start in first.clone().step_by(self.tensors.largest_batch()) {
            let range = start..first.end.min(start + self.tensors.largest_batch());
            let values = self.tensors.batches(range)?;
            for ((values, end), sums) in values[1..].iter().zip(&self.ends).zip(&mut sums) {
                for &value in values.in_host(end.shape, &mut buffer)? {
                    let value = f64::from(value);
                    sums.iter_mut().zip([1.0, value, value * value]).for_each(|(sum, term)| *sum += term);
                }
            }
        }
        let share = f64::from(self.beta) / self.ends.len() as f64;
        for (end, [count, sum, squares]) in self.ends.iter_mut().zip(sums) {
            let (mean, mean_square) = (sum / count.max(1.0), squares / count.max(1.0));
            let variance = mean_square - mean * mean;
            end.weight = if variance > CONSTANT * mean_square { (share / variance) as f32 } else { 0.0 };
        }
        Ok(())
    }

    /// The values of the output for the images of `range`, and those of the ends.
    pub(crate) fn batch(&mut self, range: Range<usize>) -> Result<(Batch<'_>, Vec<InnerTarget<'_>>), Error> {
        let Teacher { tensors, ends, .. } = self;
        let mut values = tensors.batches(range)?.into_iter();
        let output = values.next().expect("there is always an output");
        let targets = ends.iter().zip(values);
        let inner = targets.map(|(end, values)| InnerTarget { layer: &end.layer, values, weight: end.weight });
        let inner = inner.collect();
        Ok((output, inner))
    }
}

impl Tensors<'_> {
    fn largest_batch(&self) -> usize {
        match self {
            Tensors::Sources(sources) => sources[0].largest_batch(),
            Tensors::Pass { images, .. } => images.largest_batch(),
        }
    }

    /// The values of all tensors for the images of `range`.
    fn batches(&mut self, range: Range<usize>) -> Result<Vec<Batch<'_>>, Error> {
        match self {
            Tensors::Sources(sources) => sources.iter_mut().map(|source| source.batch(range.clone())).collect(),
            Tensors::Pass { images, model, layers } => {
                model.run(images.batch(range)?)?;
                let kept = |layer: &String| Ok(model.kept(layer)?.expect("all of these layers are kept"));
                layers.iter().map(kept).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nettriage_data::Normalization;
    use nettriage_engine::{Optimizer, Schedule};
    use nettriage_net::arch::{self, ArchSpec};
    use nettriage_net::{INPUT, block, slice};

    use super::*;
    use crate::source::ImageSequence;
    use crate::{Device, HyperParameters, Objective, Precision, Recipe, StageInput, run_stage};

    const IMAGES: usize = 300;
    const BATCH: usize = 64;

    /// What the tests are about: a network with three blocks, the ends of two of them, and some digits.
    fn with_ends(test: impl Fn(&Network, &[End], ImageSequence<'_>, &PrefixOptions)) {
        let data = nettriage_data::open("digits", None).unwrap();
        let plan = Some(vec![vec![4, 4], vec![5, 5], vec![6, 6]]);
        let spec = ArchSpec { plan, batch_norm: true, ..ArchSpec::named("vgg") };
        let graph = arch::build(&spec, Shape::new(data.channels, data.height, data.width), 10).unwrap();
        let mut network = Network::initialised(graph, &mut crate::seed::rng("test", &[])).unwrap();
        // Ends of different scales.
        network.weights.get_mut("features.4.weight").unwrap().data.fill(20.0);
        let blocks = block::find(&network.graph);
        let ends: Vec<End> = (blocks[..2].iter())
            .map(|block| End { child: format!("own {}", block.output), parent: block.output.clone() })
            .collect();
        let all: Vec<u32> = (0..IMAGES as u32).collect();
        let normalization = Normalization::of(&data.train, data.shape(), &all);
        let sequence = ImageSequence::plain(&data.train, data.shape(), &normalization, &all);
        let options = PrefixOptions { device: Device::Cpu, threads: 1, exact: false, precision: Precision::F32 };
        test(&network, &ends, sequence, &options);
    }

    fn source_of<'a>(
        network: &Network,
        tensor: &str,
        sequence: &ImageSequence<'a>,
        options: &PrefixOptions,
    ) -> ActivationSource<'a> {
        let prefix = slice::between(network, INPUT, tensor).unwrap();
        ActivationSource::computed(sequence.clone(), prefix, None, BATCH, options.clone()).unwrap()
    }

    /// The layer, the values and the weight of an end.
    type EndValues = (String, Vec<f32>, f32);

    /// The values of the output and of the ends for a batch.
    fn read(teacher: &mut Teacher<'_>, range: Range<usize>) -> (Vec<f32>, Vec<EndValues>) {
        let values = |batch: &Batch<'_>| match batch {
            Batch::Host(values) => values.to_vec(),
            Batch::Torch(_) => unreachable!(),
        };
        let (output, inner) = teacher.batch(range).unwrap();
        let inner = inner.iter().map(|end| (end.layer.to_owned(), values(&end.values), end.weight));
        (values(&output), inner.collect())
    }

    #[test]
    fn one_pass_gives_what_sources_of_each_tensor_give() {
        with_ends(|network, ends, sequence, options| {
            let images = ActivationSource::images(&Device::Cpu, sequence.clone(), BATCH);
            let mut pass = Teacher::of_network(images, network, ends, 3.0, options).unwrap();
            let output = source_of(network, &network.graph.output, &sequence, options);
            let with_source = |end: &End| (end.clone(), source_of(network, &end.parent, &sequence, options));
            let mut sources = Teacher::with_ends(output, ends.iter().map(with_source).collect(), 3.0);
            for teacher in [&mut pass, &mut sources] {
                teacher.weigh(10..IMAGES).unwrap();
            }
            for range in [0..BATCH, BATCH..BATCH + 7] {
                let (found, expected) = (read(&mut pass, range.clone()), read(&mut sources, range));
                assert_eq!(found, expected);
                assert!(found.1.iter().zip(ends).all(|(found, end)| found.0 == end.child && found.2 > 0.0));
            }
        });
    }

    #[test]
    fn weights_are_the_share_of_beta_by_the_variance_of_the_first_images() {
        with_ends(|network, ends, sequence, options| {
            let images = ActivationSource::images(&Device::Cpu, sequence.clone(), BATCH);
            let mut teacher = Teacher::of_network(images, network, ends, 3.0, options).unwrap();
            for stage in [0..IMAGES, 5..40] {
                teacher.weigh(stage.clone()).unwrap();
                let found: Vec<f32> = read(&mut teacher, 0..1).1.iter().map(|end| end.2).collect();
                for (end, found) in ends.iter().zip(found) {
                    let mut all = source_of(network, &end.parent, &sequence, options);
                    let mut values = Vec::new();
                    for start in stage.clone().take(NORMALISED_BY).step_by(BATCH) {
                        let last = stage.end.min(stage.start + NORMALISED_BY);
                        values.extend_from_slice(all.values(start..last.min(start + BATCH)).unwrap());
                    }
                    let count = values.len() as f64;
                    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
                    let variance = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / count;
                    let expected = 1.5 / variance;
                    assert!((f64::from(found) / expected - 1.0).abs() < 1e-6, "{stage:?}: {found}, not {expected}");
                }
            }
        });
    }

    /// The share of the variance of the parent's tensors that the child's do not explain, after some steps with that beta.
    fn unexplained(
        beta: f32,
        parent: &Network,
        ends: &[End],
        sequence: &ImageSequence<'_>,
        options: &PrefixOptions,
    ) -> Vec<f64> {
        let mut child = Network::initialised(parent.graph.clone(), &mut crate::seed::rng("child", &[])).unwrap();
        let ends: Vec<End> = ends.iter().map(|end| End { child: end.parent.clone(), ..end.clone() }).collect();
        let compared = ends.iter().map(|end| end.child.clone()).collect();
        let training = Options { compared, ..Options::training(BATCH, Optimizer::sgd()) };
        let mut model = Device::Cpu.model(&child, &training).unwrap();
        let images = || ActivationSource::images(&Device::Cpu, sequence.clone(), BATCH);
        let teacher = Teacher::of_network(images(), parent, &ends, beta, options).unwrap();
        let mut objective = Objective::Distillation { teacher, temperature: 4.0, alpha: 0.9 };
        let hyper = HyperParameters {
            batch: BATCH,
            rate: 0.05,
            schedule: Schedule::Constant,
            recipe: Recipe::default(),
            clip: Some(5.0),
            dropout_seed: 0,
        };
        let (mut source, labels) = (images(), sequence.labels());
        for _ in 0..30 {
            let input = StageInput { source: &mut source, labels: &labels, images: 0..IMAGES, taken: 0, average: None };
            let after = |_: crate::Trained<'_>, _: crate::StageStep| Ok::<(), Error>(());
            child.weights.extend(run_stage(&mut model, input, &mut objective, &hyper, after).unwrap().1);
        }
        let mut shares = Vec::new();
        for end in &ends {
            let [mut own, mut other] =
                [&child, parent].map(|network| source_of(network, &end.parent, sequence, options));
            let (own, other) = (own.values(0..BATCH).unwrap(), other.values(0..BATCH).unwrap());
            let mean = other.iter().map(|&v| f64::from(v)).sum::<f64>() / other.len() as f64;
            let variance = other.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>();
            let squares = own.iter().zip(other).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>();
            shares.push(squares / variance);
        }
        shares
    }

    #[test]
    fn a_child_that_is_compared_follows_the_parents_tensors() {
        with_ends(|network, ends, sequence, options| {
            let [without, with] = [0.0, 5.0].map(|beta| unexplained(beta, network, ends, &sequence, options));
            for (with, without) in with.iter().zip(&without) {
                assert!(*with < 0.7 && *with < 0.7 * without, "{with} of the variance, {without} without");
            }
        });
    }

    #[test]
    fn an_end_that_is_constant_in_the_parent_does_not_count() {
        with_ends(|network, ends, sequence, options| {
            let mut network = network.clone();
            network.weights.get_mut("features.4.weight").unwrap().data.fill(0.0);
            network.weights.get_mut("features.4.bias").unwrap().data.fill(0.3);
            let images = ActivationSource::images(&Device::Cpu, sequence, BATCH);
            let mut teacher = Teacher::of_network(images, &network, ends, 1.0, options).unwrap();
            teacher.weigh(0..IMAGES).unwrap();
            let (_, inner) = read(&mut teacher, 0..2);
            assert!(inner[0].1.iter().all(|value| *value == inner[0].1[0]) && inner[0].1[0] > 0.0);
            assert_eq!(inner[0].2, 0.0);
        });
    }
}
