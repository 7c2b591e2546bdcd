//! One substitute, fitted in a network that has other substitutes already.

use std::sync::Arc;

use nettriage_engine::Options as Run;
use nettriage_net::block::Block;
use nettriage_net::surgery::{self, Substitute};
use nettriage_net::{INPUT, Network, init, slice};
use nettriage_records::scan::{Fidelity, Measure};

use super::fit::{Sources, fit};
use super::images::Images;
use super::judge::{BATCH, Reference, Verdict};
use super::measure::check_finite;
use super::options::{Method, Options};
use super::regression::{FitRequest, group};
use super::substitute::fill;
use crate::Error;
use crate::moments::Moments;

/// Images from which the running statistics of a substitute's norm are computed.
const CALIBRATION: usize = 1000;

/// `network` with `now` replaced, the substitute's weights solved from what `network` puts into it to what `parent` puts
/// out of `before`, which are the same layers.
#[expect(clippy::too_many_arguments, reason = "two networks, the same range in both, and how")]
pub fn refit(
    parent: &Network,
    before: &Block,
    network: &Network,
    now: &Block,
    substitute: Substitute,
    method: Method,
    images: &Images<'_>,
    options: &Options,
) -> Result<Network, Error> {
    let mut child = surgery::compress(network, &[(now.clone(), substitute)])?;
    let Some(map) = surgery::affine_map(now, &child) else { return Ok(child) };
    let target = init::target_tensor(&parent.graph, before);
    let wanted = [FitRequest {
        input: now.input.clone(),
        from: network.graph.shape_of(&now.input)?,
        to: parent.graph.shape_of(&target)?,
        map,
        closing: init::closing(&parent.graph, before),
        closed: target == before.output,
        target,
    }];
    let sources = Sources { inputs: network, targets: Some(parent), images };
    let mut fitted = fit(&sources, &wanted, &group(&wanted, method.gradients), &[method], options, &|_, _| ())?;
    let fitted = fitted.swap_remove(0).remove(&0);
    let fitted =
        fitted.ok_or_else(|| Error::Request(format!("{}: no weights were found for its substitute", now.name)))?;
    fill(&mut child, now, &fitted)?;
    if let Some(product) = surgery::last_product(now, &child.graph) {
        calibrate(&mut child, now, &product, images, options)?;
    }
    Ok(child)
}

/// Gives the substitute's norm the running statistics of its convolution's output, its function unchanged.
fn calibrate(
    child: &mut Network,
    block: &Block,
    product: &str,
    images: &Images<'_>,
    options: &Options,
) -> Result<(), Error> {
    let head = slice::between(child, INPUT, product)?;
    let channels = head.graph.output_shape()?.channels;
    let run = Run { threads: options.threads, exact: options.exact, ..Run::inference(BATCH) };
    let mut model = options.device.model(&head, &run)?;
    let mut moments = Moments::new(channels);
    let count = images.count.min(CALIBRATION);
    images.each(0..count, head.graph.input.elements(), BATCH, |_, input| {
        moments.add(model.forward(input)?);
        Ok::<(), Error>(())
    })?;
    let [mean, variance] = moments.finish();
    Ok(init::calibrate(child, block, &mean, &variance)?)
}

/// Judges whole networks against one reference.
pub struct Judge<'a> {
    images: &'a Images<'a>,
    reference: Arc<Reference>,
    options: Options,
}

/// Results on the judged images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judgement {
    /// Share of right predictions, if there are labels.
    pub accuracy: Option<f64>,
    /// Percentage points that the accuracy falls by, with its 95% interval.
    pub drop: Option<[f64; 3]>,
    /// How closely the outputs follow those of the reference.
    pub fidelity: Fidelity,
}

impl<'a> Judge<'a> {
    /// Against `network`.
    pub fn new(network: &Network, images: &'a Images<'a>, options: &Options) -> Result<Judge<'a>, Error> {
        let reference = Arc::new(Reference::new(network, images, options)?);
        Ok(Judge { images, reference, options: options.clone() })
    }

    /// The same judge, on this number of threads; its figures are the same.
    pub fn with_threads(&self, threads: usize) -> Judge<'a> {
        let options = Options { threads, ..self.options.clone() };
        Judge { images: self.images, reference: self.reference.clone(), options }
    }

    /// How outputs are compared.
    pub fn measure(&self) -> Measure {
        self.reference.measure
    }

    /// The fidelity of the reference to itself.
    pub fn itself(&self) -> Fidelity {
        match self.measure() {
            Measure::Values => Fidelity::Values { r2: 1.0, worst: 0, mean_r2: 1.0, relative_error: 0.0 },
            Measure::Accuracy | Measure::Classes | Measure::DenseClasses => {
                Fidelity::Classes { agreement: 1.0, divergence: 0.0, softened: Some(0.0) }
            }
        }
    }

    /// Share of the images that the reference gets right.
    pub fn accuracy(&self) -> Option<f64> {
        self.reference.accuracy()
    }

    /// Runs a network on the images.
    pub fn verdict(&self, network: &Network) -> Result<Judgement, Error> {
        let run = Run { threads: self.options.threads, exact: self.options.exact, ..Run::inference(BATCH) };
        let mut model = self.options.device.model(network, &run)?;
        let mut verdict = Verdict::default();
        self.images.each(0..self.images.count, network.graph.input.elements(), BATCH, |start, input| {
            let outputs = model.forward(input)?;
            check_finite(network, start, input, outputs)?;
            self.reference.add(&mut verdict, self.images.labels.as_deref(), start, outputs);
            Ok::<(), Error>(())
        })?;
        let share = |count: usize| count as f64 / verdict.images.max(1) as f64;
        let fidelity = self.reference.fidelity(&verdict);
        Ok(Judgement { accuracy: verdict.right.map(share), drop: verdict.drop(), fidelity })
    }
}
