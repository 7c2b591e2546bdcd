//! The images that a scan looks at, and a network's inner tensors on them.

use std::ops::Range;

use nettriage_engine::{Model, Options};
use nettriage_net::{INPUT, Network, slice};

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
    /// Hands over the images of `range`, of so many elements each, in batches of at most `batch`, each with the number
    /// of its first.
    pub(super) fn each(&self, range: Range<usize>, elements: usize, batch: usize, mut see: impl FnMut(usize, &[f32])) {
        let mut images = Vec::new();
        for start in range.clone().step_by(batch) {
            let part = start..range.end.min(start + batch);
            images.resize(part.len() * elements, 0.0);
            (self.fill)(part, &mut images);
            see(start, &images);
        }
    }
}

/// Some inner tensors of a network, computed batch by batch.
pub struct Tensors {
    /// None where only the images themselves are wanted.
    model: Option<Model>,
    images: Vec<f32>,
    elements: usize,
}

impl Tensors {
    /// For the tensors named, with batches of at most `batch` images.
    pub fn new(network: &Network, names: &[&str], batch: usize, threads: usize, exact: bool) -> Result<Tensors, Error> {
        let graph = &network.graph;
        let mut wanted: Vec<&str> = names.iter().copied().filter(|name| *name != INPUT).collect();
        wanted.sort_by_key(|name| graph.position(name));
        wanted.dedup();
        let model = match wanted.last() {
            None => None,
            Some(last) => {
                let keep = wanted.iter().map(|name| (*name).to_owned()).collect();
                let options = Options { threads, keep, exact, ..Options::inference(batch) };
                Some(Model::new(&slice::between(network, INPUT, last)?, &options)?)
            }
        };
        Ok(Tensors { model, images: Vec::new(), elements: graph.input.elements() })
    }

    /// Computes the tensors for the images of `range`.
    pub fn run(&mut self, images: &Images<'_>, range: Range<usize>) {
        self.images.resize(range.len() * self.elements, 0.0);
        (images.fill)(range, &mut self.images);
        if let Some(model) = &mut self.model {
            model.forward(&self.images);
        }
    }

    /// A tensor's values for the last images: n x H x W x C.
    ///
    /// # Panics
    /// If it was not named to [`Tensors::new`].
    pub fn get(&self, name: &str) -> &[f32] {
        if name == INPUT {
            return &self.images;
        }
        let value = self.model.as_ref().and_then(|model| model.value(name));
        value.expect("every tensor that is read was named")
    }
}
