//! One substitute, fitted in a network that other surgery has changed.

use nettriage_engine::{Model, Options as Run};
use nettriage_net::block::Block;
use nettriage_net::surgery::{self, Substitute};
use nettriage_net::{Conv, INPUT, Kind, Network, init, slice};

use super::fit::{self, Sources, Wanted};
use super::images::Images;
use super::judge::{BATCH, Reference, Verdict};
use super::{Method, Options, fill};
use crate::Error;

/// Images that tell the running statistics of a substitute's norm.
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
    let layers = surgery::substitute_layers(now, &child);
    let product = layers.first().and_then(|name| child.graph.layer(name));
    let conv = match product.map(|layer| &layer.kind) {
        Some(Kind::Conv(conv)) => *conv,
        Some(Kind::Linear { features, .. }) => Conv::same(*features, 1),
        _ => return Ok(child),
    };
    let product = layers[0].clone();
    let target = init::target_tensor(&parent.graph, before);
    let wanted = [Wanted {
        input: now.input.clone(),
        from: network.graph.shape_of(&now.input)?,
        to: parent.graph.shape_of(&target)?,
        conv,
        closing: init::closing(&parent.graph, before),
        closed: target == before.output,
        target,
    }];
    let sources = Sources { inputs: network, targets: Some(parent), images };
    let mut fitted = fit::fit(&sources, &wanted, &fit::sites(&wanted), &[method], options, &|_, _| ())?;
    let fitted = fitted.swap_remove(0).remove(&0);
    let fitted =
        fitted.ok_or_else(|| Error::Plan(format!("{}: no weights were found for its substitute", now.name)))?;
    fill(&mut child, now, &fitted)?;
    calibrate(&mut child, now, &product, images, options)?;
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
    let mut model = Model::new(&head, &run)?;
    let (mut sums, mut squares, mut count) = (vec![0.0f64; channels], vec![0.0f64; channels], 0.0);
    let mut input = Vec::new();
    let last = images.count.min(CALIBRATION);
    for start in (0..last).step_by(BATCH) {
        let range = start..last.min(start + BATCH);
        input.resize(range.len() * head.graph.input.elements(), 0.0);
        (images.fill)(range, &mut input);
        for row in model.forward(&input).chunks_exact(channels) {
            for (c, &value) in row.iter().enumerate() {
                sums[c] += f64::from(value);
                squares[c] += f64::from(value).powi(2);
            }
            count += 1.0;
        }
    }
    let mean: Vec<f32> = sums.iter().map(|s| (s / count) as f32).collect();
    let variance = |(s, q): (&f64, &f64)| (q / count - (s / count).powi(2)).max(0.0) as f32;
    let variance: Vec<f32> = sums.iter().zip(&squares).map(variance).collect();
    Ok(init::calibrate(child, block, &mean, &variance)?)
}

/// Judges whole networks against one reference.
pub struct Judge<'a> {
    images: &'a Images<'a>,
    reference: Reference,
    options: Options,
}

/// What became of the judged images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judgement {
    /// Share of right ones, where there are labels.
    pub accuracy: Option<f64>,
    /// Percentage points that the accuracy falls by, with its 95% interval.
    pub drop: Option<[f64; 3]>,
    /// Share of first choices that stay.
    pub agreement: f64,
}

impl<'a> Judge<'a> {
    /// Against `network`.
    pub fn new(network: &Network, images: &'a Images<'a>, options: &Options) -> Result<Judge<'a>, Error> {
        Ok(Judge { images, reference: Reference::new(network, images, options)?, options: options.clone() })
    }

    /// Share of the images that the reference gets right.
    pub fn accuracy(&self) -> Option<f64> {
        self.reference.accuracy()
    }

    /// Runs a network on the images.
    pub fn verdict(&self, network: &Network) -> Result<Judgement, Error> {
        let run = Run { threads: self.options.threads, exact: self.options.exact, ..Run::inference(BATCH) };
        let mut model = Model::new(network, &run)?;
        let mut verdict = Verdict::default();
        let mut input = Vec::new();
        for start in (0..self.images.count).step_by(BATCH) {
            let range = start..self.images.count.min(start + BATCH);
            input.resize(range.len() * network.graph.input.elements(), 0.0);
            (self.images.fill)(range, &mut input);
            self.reference.add(&mut verdict, self.images.labels.as_deref(), start, model.forward(&input));
        }
        let share = |count: usize| count as f64 / verdict.images.max(1) as f64;
        Ok(Judgement { accuracy: verdict.right.map(share), drop: verdict.drop(), agreement: share(verdict.agreed) })
    }
}
