//! The images of a scan, and a network's inner tensors on them.

use std::ops::Range;

use nettriage_engine::loss::cross_entropy;
use nettriage_engine::{Optimizer, Options, Trainable};
use nettriage_net::{INPUT, Network, slice};
use rand::RngExt;

use nettriage_train::{Device, Model, seed};

use crate::Error;

/// Writes the images of a range.
pub type Fill<'a> = Box<dyn Fn(Range<usize>, &mut [f32]) + Sync + 'a>;

/// A sequence of images as a network takes them, with labels or without.
pub struct Images<'a> {
    /// Their number.
    pub count: usize,
    /// Writes those of a range: n x H x W x C, normalised.
    pub fill: Fill<'a>,
    /// One class an image.
    pub labels: Option<Vec<u16>>,
}

impl Images<'_> {
    /// Calls `visit` with the images of `range`, of `elements` elements each, in batches of at most `batch`, and with the index
    /// of the first image of each batch, until it fails.
    pub(super) fn each<E>(
        &self,
        range: Range<usize>,
        elements: usize,
        batch: usize,
        mut visit: impl FnMut(usize, &[f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut images = Vec::new();
        for start in range.clone().step_by(batch) {
            let part = start..range.end.min(start + batch);
            images.resize(part.len() * elements, 0.0);
            (self.fill)(part, &mut images);
            visit(start, &images)?;
        }
        Ok(())
    }
}

/// The smallest part of a network, from its input on, that computes all tensors named, which are in its layers' order. It ends at
/// the last of them, or, if others are in parallel branches, where the branches are joined.
fn part_with(network: &Network, wanted: &[&str]) -> Result<Network, Error> {
    let graph = &network.graph;
    let last = wanted.last().and_then(|name| graph.position(name)).unwrap_or(0);
    for layer in &graph.layers[last..] {
        let part = slice::between(network, INPUT, &layer.name)?;
        if wanted.iter().all(|name| part.graph.layer(name).is_some()) {
            return Ok(part);
        }
    }
    Ok(network.clone())
}

/// Some inner tensors of a network, computed batch by batch.
pub struct Tensors {
    /// None if only the images themselves are needed.
    model: Option<Model>,
    images: Vec<f32>,
    elements: usize,
}

impl Tensors {
    /// For the tensors named, with batches of at most `batch` images.
    pub fn new(
        device: &Device,
        network: &Network,
        names: &[&str],
        batch: usize,
        threads: usize,
        exact: bool,
    ) -> Result<Tensors, Error> {
        let graph = &network.graph;
        let mut wanted: Vec<&str> = names.iter().copied().filter(|name| *name != INPUT).collect();
        wanted.sort_by_key(|name| graph.position(name));
        wanted.dedup();
        let model = match wanted.last() {
            None => None,
            Some(_) => {
                let keep = wanted.iter().map(|name| (*name).to_owned()).collect();
                let options = Options { threads, keep, exact, ..Options::inference(batch) };
                Some(device.model(&part_with(network, &wanted)?, &options)?)
            }
        };
        Ok(Tensors { model, images: Vec::new(), elements: graph.input.elements() })
    }

    /// Computes the tensors for the images of `range`.
    ///
    /// # Errors
    /// The device fails.
    pub fn run(&mut self, images: &Images<'_>, range: Range<usize>) -> Result<(), Error> {
        self.images.resize(range.len() * self.elements, 0.0);
        (images.fill)(range, &mut self.images);
        if let Some(model) = &mut self.model {
            model.forward(&self.images)?;
        }
        Ok(())
    }

    /// A tensor's values for the last images: n x H x W x C.
    ///
    /// # Panics
    /// If it was not named to [`Tensors::new`].
    pub fn get(&self, name: &str) -> &[f32] {
        if name == INPUT {
            return &self.images;
        }
        let value = self.model.as_ref().and_then(|model| model.activation(name));
        value.expect("every tensor that is read was named")
    }
}

/// How strongly inner tensors affect a network's output, image by image.
///
/// The gradient of -ln p(y) with respect to a tensor, where the answer y is drawn from the network's own distribution: the
/// expectation of its square is the diagonal of the Fisher information (Martens and Grosse, arXiv:1503.05671), by which an error
/// of the tensor counts to second order. It needs no labels.
pub struct Gradients {
    model: Model,
    images: Vec<f32>,
    gradient: Vec<f32>,
    elements: usize,
    classes: usize,
}

impl Gradients {
    /// As [`Tensors::new`]; the network must end in logits.
    pub fn new(
        device: &Device,
        network: &Network,
        names: &[&str],
        batch: usize,
        threads: usize,
        exact: bool,
    ) -> Result<Gradients, Error> {
        let gradients = names.iter().map(|name| (*name).to_owned()).collect();
        let frozen = Trainable::Layers(std::collections::BTreeSet::new());
        let training = Options::training(batch, Optimizer::sgd());
        let options = Options { threads, exact, keep_gradients: gradients, trainable: frozen, ..training };
        let model = device.model(network, &options)?;
        let (elements, classes) = (network.graph.input.elements(), network.graph.output_shape()?.elements());
        Ok(Gradients { model, images: Vec::new(), gradient: Vec::new(), elements, classes })
    }

    /// Computes the gradients for the images of `range`, each image separately.
    ///
    /// # Errors
    /// The device fails.
    pub fn run(&mut self, images: &Images<'_>, range: Range<usize>) -> Result<(), Error> {
        self.images.resize(range.len() * self.elements, 0.0);
        (images.fill)(range.clone(), &mut self.images);
        let logits = self.model.forward_train(&self.images, 0)?;
        self.gradient.resize(logits.len(), 0.0);
        for ((image, logits), gradient) in
            range.zip(logits.chunks_exact(self.classes)).zip(self.gradient.chunks_exact_mut(self.classes))
        {
            let answer = sample_class(logits, seed::rng("drawn answers", &[&image.to_string()]).random());
            cross_entropy(logits, &[answer], self.classes, gradient);
        }
        Ok(self.model.backward(&self.images, &self.gradient)?)
    }

    /// A tensor's gradient for the last images: n x H x W x C.
    ///
    /// # Panics
    /// If it was not named to [`Gradients::new`].
    pub fn get(&self, name: &str) -> &[f32] {
        self.model.output_gradient(name).expect("every tensor whose gradient is read was named")
    }
}

/// The class at which the distribution function of the softmax of `logits` passes `quantile`, 0 to 1.
fn sample_class(logits: &[f32], quantile: f64) -> u16 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let share = |logit: f32| f64::from(logit - largest).exp();
    let mut left = quantile * logits.iter().map(|&logit| share(logit)).sum::<f64>();
    let passed = logits.iter().position(|&logit| {
        left -= share(logit);
        left < 0.0
    });
    passed.unwrap_or(logits.len() - 1) as u16
}

/// `count` images of seeded noise between -1 and 1; an image does not depend on the requested range.
#[cfg(test)]
pub(super) fn noise(shape: nettriage_net::Shape, count: usize) -> Images<'static> {
    let fill = move |range: Range<usize>, out: &mut [f32]| {
        for (image, pixels) in range.zip(out.chunks_exact_mut(shape.elements())) {
            let mut state = image as u32 * 7919 + 1;
            for value in pixels {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *value = (state >> 8) as f32 / (1 << 23) as f32 - 1.0;
            }
        }
    };
    Images { count, fill: Box::new(fill), labels: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampled_classes_follow_the_softmax_distribution() {
        let logits = [0.0, (2.0_f32).ln(), (5.0_f32).ln()];
        let count = |class| (0..8000).filter(|i| sample_class(&logits, f64::from(*i) / 8000.0) == class).count();
        assert_eq!([count(0), count(1), count(2)].map(|n| (n + 5) / 10), [100, 200, 500]);
        assert_eq!(sample_class(&[0.0, f32::NAN], 0.5), 1);
    }
}
