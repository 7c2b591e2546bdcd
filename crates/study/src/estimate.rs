//! Estimates the time and memory of a study from a measurement of a few steps.
//!
//! Measured: a training step and a forward pass of the parent's architecture, on as many threads at once as there will be
//! workers. From there on multiply-accumulates are counted: a part of the network takes its share of the whole one's
//! time, and a backward pass is half gradients of activations, half gradients of weights.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use nettriage_engine::Options;
use nettriage_net::Network;
use nettriage_net::surgery::Substitute;
use nettriage_records::Plan;
use nettriage_records::plan::{BlockSummary, Role, TrialSpec};
use nettriage_train::scheme::{Loss, Scheme, Train};
use nettriage_train::{range_test, seed};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::context::StudyContext;
use crate::jobs::Resources;
use crate::rate::Rate;
use crate::study::Reading;

/// Estimated time and memory of a study.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Wall seconds for training the parents that are not trained yet.
    pub parents: f64,
    /// Wall seconds for the trials, by all workers together.
    pub trials: f64,
    /// Seconds of one trial, the mean.
    pub trial: f64,
    /// Peak memory in bytes, of all workers together.
    pub bytes: u64,
}

impl Estimate {
    /// Wall seconds of everything.
    pub fn seconds(&self) -> f64 {
        self.parents + self.trials
    }
}

/// How long a measurement lasts after its first step, which is not counted.
const DURATION: Duration = Duration::from_millis(60);

/// Measures a few steps and estimates the trials at the indices `pending` and `parents` parents.
///
/// With `separate` every worker is a process with its own data set and cache.
pub fn estimate(
    context: &StudyContext,
    plan: &Plan,
    pending: &[usize],
    parents: usize,
    resources: Resources,
    separate: bool,
) -> Result<Estimate, Error> {
    let workers = resources.workers.clamp(1, pending.len().max(1));
    // Threads inside a training gain about what whole trials side by side do.
    let threads = workers * resources.threads;
    let step = measure(context, threads)?;
    let costs = Costs { context, plan, step, cached: resources.cache > 0 };
    let single: f64 = pending.iter().map(|&place| costs.trial(&plan.trials[place])).sum();
    let (shared, shared_bytes) = costs.shared(pending);
    let training = context.study.parent.training.as_ref().filter(|_| context.given.is_none());
    let images = training.map_or(0.0, |training| training.total(context.train.len()) as f64);
    // Range tests are run with the parents.
    let children = &context.study.children;
    let of_parents = training.filter(|training| training.rate == Rate::Auto).map(|training| training.batch);
    let of_children = (children.rate == Rate::Auto).then_some(children.batch);
    let batches = of_parents.into_iter().chain(of_children).filter(|_| parents > 0);
    let tests = batches.map(|batch| (batch * range_test::STEPS) as f64 * step.train).sum::<f64>();
    // Parents are trained one after another.
    let parent = images * step.train + (21 * context.validation.len() + context.data.test.len()) as f64 * step.forward;
    let data = context.data.train.pixels.len() + context.data.test.pixels.len();
    let cache = shared_bytes.min(resources.cache as f64);
    let copies = if separate { workers as u64 + 1 } else { 1 };
    // Parents are trained before the trials, one after another.
    let parents_bytes = if parents == 0 { 0 } else { parent_bytes(context)? };
    // In one process all share one cache; apart, each works through its share of the trials.
    let trials_bytes = workers as u64 * step.bytes + cache as u64 + costs.least_squares_bytes(pending, workers);
    Ok(Estimate {
        parents: (parents as f64 * parent + tests) / threads as f64,
        trials: (single + shared) / threads as f64,
        trial: if pending.is_empty() { 0.0 } else { (single + shared) / (pending.len() * resources.threads) as f64 },
        bytes: PROGRAM + copies * data as u64 + trials_bytes.max(parents_bytes),
    })
}

/// Bytes that training a parent takes.
fn parent_bytes(context: &StudyContext) -> Result<u64, Error> {
    let Some(training) = context.study.parent.training.as_ref().filter(|_| context.given.is_none()) else {
        return Ok(0);
    };
    let network = Network::initialised(context.graph.clone(), &mut seed::rng("measurement", &[]))?;
    let images = training.total(context.train.len());
    let options = Options::training(training.batch.min(images).max(1), training.optimizer);
    let device = context.device();
    let evaluator = device.memory_needed(&network, &Options::inference(device.evaluation_batch()))?;
    Ok(device.memory_needed(&network, &options)? + evaluator + weight_bytes(&network))
}

fn weight_bytes(network: &Network) -> u64 {
    network.weights.values().map(|tensor| 4 * tensor.data.len() as u64).sum()
}

/// Bytes per element of a Gram matrix while it is solved: sums in f64 and f32, the centred system, its copy with the ridge, the factor.
const EQUATION_BYTES: u64 = 36;

/// The program itself, before it loads anything.
const PROGRAM: u64 = 16 << 20;

/// Measured cost per worker, while all workers run.
#[derive(Clone, Copy)]
struct StepCost {
    /// Seconds per image and training step.
    train: f64,
    /// Seconds per image and forward pass.
    forward: f64,
    /// Bytes of a worker.
    bytes: u64,
}

fn measure(context: &StudyContext, workers: usize) -> Result<StepCost, Error> {
    let children = &context.study.children;
    // As training does.
    let most = context.budgets()?.last().map_or(1, |(_, images)| *images);
    let size = children.batch.min(most).max(1);
    let mut rng = seed::rng("measurement", &[]);
    let network = Network::initialised(context.graph.clone(), &mut rng)?;
    let together = Barrier::new(workers);
    let one = || -> Result<StepCost, Error> {
        let training = Options::training(size, children.optimizer);
        let model = context.device().model(&network, &Options { exact: children.exact, ..training });
        let evaluated = context.device().evaluation_batch();
        let inference = Options { exact: children.exact, ..Options::inference(evaluated) };
        let evaluator = context.device().model(&network, &inference);
        // Every thread waits here, also if its model could not be made; otherwise the others would deadlock.
        together.wait();
        let (mut model, mut evaluator) = (model?, evaluator?);
        let elements = context.graph.input.elements();
        let image = |n: usize| (0..n * elements).map(|i| (i % 17) as f32 / 17.0 - 0.5).collect::<Vec<f32>>();
        let (batch, plain) = (image(size), image(evaluated));
        let grad = vec![1e-6; size * context.classes()];
        let train = repeat(|| {
            model.forward_train(&batch, 1)?;
            model.backward(&batch, &grad)?;
            Ok(model.step(1e-6, None)?)
        })?;
        let forward = repeat(|| {
            std::hint::black_box(evaluator.forward(&plain)?);
            Ok(())
        })?;
        Ok(StepCost {
            train: train / size as f64,
            forward: forward / evaluated as f64,
            // Beside the models: the network, its best state, and what it began as.
            bytes: model.memory_bytes() + 2 * evaluator.memory_bytes() + 4 * weight_bytes(&network),
        })
    };
    let steps: Vec<StepCost> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(one)).collect();
        let ends = threads.into_iter().map(|thread| thread.join().expect("a measurement does not panic"));
        ends.collect::<Result<_, Error>>()
    })?;
    let mean = |of: fn(&StepCost) -> f64| steps.iter().map(of).sum::<f64>() / steps.len() as f64;
    Ok(StepCost { train: mean(|p| p.train), forward: mean(|p| p.forward), bytes: steps[0].bytes })
}

/// Mean seconds of a call, the first not counted.
fn repeat(mut call: impl FnMut() -> Result<(), Error>) -> Result<f64, Error> {
    call()?;
    let (begin, mut calls) = (Instant::now(), 0);
    while calls == 0 || begin.elapsed() < DURATION {
        call()?;
        calls += 1;
    }
    Ok(begin.elapsed().as_secs_f64() / f64::from(calls))
}

struct Costs<'a> {
    context: &'a StudyContext,
    plan: &'a Plan,
    step: StepCost,
    cached: bool,
}

impl Costs<'_> {
    fn macs(&self) -> f64 {
        self.plan.layers.iter().map(|layer| layer.macs as f64).sum::<f64>().max(1.0)
    }

    /// Multiply-accumulates before and after a block, as shares of the whole network's.
    fn around(&self, block: &BlockSummary) -> (f64, f64) {
        let inside = |name: &String| block.layers.contains(name);
        let first = self.plan.layers.iter().position(|layer| inside(&layer.name)).unwrap_or(0);
        let last = self.plan.layers.iter().rposition(|layer| inside(&layer.name)).unwrap_or(0);
        let sum = |layers: &[nettriage_records::plan::LayerSummary]| {
            layers.iter().map(|layer| layer.macs as f64).sum::<f64>() / self.macs()
        };
        (sum(&self.plan.layers[..first]), sum(&self.plan.layers[last + 1..]))
    }

    fn block(&self, spec: &TrialSpec) -> Option<&BlockSummary> {
        self.plan.blocks.iter().find(|block| Some(&block.name) == spec.block.as_ref())
    }

    fn scheme(&self, spec: &TrialSpec) -> Scheme {
        let none = || Scheme { name: spec.scheme.clone(), stages: Vec::new() };
        self.context.study.scheme(&spec.scheme).unwrap_or_else(none)
    }

    /// Seconds of one trial, without the work that trials share.
    fn trial(&self, spec: &TrialSpec) -> f64 {
        let StepCost { train, forward, .. } = self.step;
        let backward = (train - forward).max(0.0);
        let children = &self.context.study.children;
        let block = self.block(spec);
        let (head, tail) = block.map_or((1.0, 0.0), |block| self.around(block));
        let own = match (block, &spec.substitute, spec.role) {
            (_, _, Role::Drop) => 0.0,
            (Some(block), Some(name), _) => {
                block.substitutes.get(name).map_or(0.0, |cost| cost.macs as f64 / self.macs())
            }
            (Some(block), None, _) => block.macs as f64 / self.macs(),
            (None, ..) => 0.0,
        };
        let scheme = self.scheme(spec);
        let mut seconds = 0.0;
        let mut local = block.is_some();
        for (stage, images) in scheme.stages.iter().zip(scheme.images(spec.budget.unwrap_or(0))) {
            local &= stage.train == Train::Substitute;
            let tail = if stage.loss == Loss::Hint { 0.0 } else { tail };
            let image = if local {
                let fed = if self.cached { 0.0 } else { head };
                forward * (fed + own + tail) + backward * 0.5 * (own + tail)
            } else {
                train * (head + own + tail)
            };
            seconds += images as f64 * image;
        }
        let seen = if local { own + tail } else { head + own + tail };
        // Before, at every point of the curve and at the end; the test set at the end and, as often as not, at the best point.
        let evaluations = (children.curve + 2) * self.context.validation.len() * usize::from(!scheme.stages.is_empty())
            + 2 * self.context.validation.len() * usize::from(scheme.stages.is_empty());
        let tests = 1.5 * self.context.test.len() as f64;
        // Filters are watched on 200 images, and the trial's and the parent's inference are timed on 12
        // batches of 32, unless an architecture has enough passes already.
        let read = |reading, images: f64| if children.reads(reading) { images } else { 0.0 };
        let filters = read(Reading::Filters, 200.0) * (head + own);
        let latency = read(Reading::Latency, 384.0) * (1.0 + head + own + tail);
        seconds + forward * ((evaluations as f64 + tests) * seen + filters + latency)
    }

    /// Bytes of the normal equations that `workers` may solve at a time: those of the largest substitutes.
    fn least_squares_bytes(&self, pending: &[usize], workers: usize) -> u64 {
        let mut unknowns = std::collections::BTreeMap::new();
        for spec in pending.iter().map(|&place| &self.plan.trials[place]) {
            let solved = spec.init.as_deref() == Some("least-squares");
            if let (true, Some(block), Some(name)) = (solved, self.block(spec), spec.substitute.as_deref()) {
                let substitute: Option<Substitute> = name.parse().ok();
                let area = substitute.and_then(Substitute::kernel).map_or(1, |kernel| kernel * kernel);
                let linear = substitute.is_some_and(Substitute::is_linear);
                let channels = if linear { block.input.iter().product() } else { block.input[0] };
                unknowns.insert((&spec.parent, &block.name, name), (area * channels + 1) as u64);
            }
        }
        let mut bytes: Vec<u64> = unknowns.into_values().map(|n| EQUATION_BYTES * n * n).collect();
        bytes.sort_unstable();
        bytes.iter().rev().take(workers).sum()
    }

    /// Seconds and bytes of the parent's activations that trials share: each is computed once.
    fn shared(&self, pending: &[usize]) -> (f64, f64) {
        if !self.cached {
            return (0.0, 0.0);
        }
        let children = &self.context.study.children;
        let (mut seconds, mut bytes) = (0.0, 0.0);
        let mut known = std::collections::BTreeSet::new();
        for spec in pending.iter().map(|&place| &self.plan.trials[place]) {
            let scheme = self.scheme(spec);
            let Some(block) = self.block(spec) else { continue };
            let (head, _) = self.around(block);
            let elements = |shape: [usize; 3]| shape.iter().product::<usize>() as f64 * 4.0;
            let logits = 4.0 * self.context.classes() as f64;
            let local = scheme.stages.iter().any(|stage| stage.train == Train::Substitute);
            let hint = scheme.stages.iter().any(|stage| stage.loss == Loss::Hint);
            // A tensor that one trial alone reads is not stored.
            let kept = if self.context.study.repeats_hints() { 1.0 } else { 0.0 };
            let wanted = [
                (local, "input", head, elements(block.input)),
                (hint, "output", head + block.macs as f64 / self.macs(), kept * elements(block.output)),
                (scheme.distills(), "logits", 1.0, logits),
            ];
            for (_, what, share, size) in wanted.into_iter().filter(|(wanted, ..)| *wanted) {
                let name = if what == "logits" { "" } else { block.name.as_str() };
                let images = spec.budget.unwrap_or(0);
                if known.insert((&spec.parent, spec.seed, images, name, what)) {
                    seconds += self.step.forward * share * images as f64;
                    bytes += size * images as f64;
                }
            }
            if scheme.compares_blocks() {
                let images = spec.budget.unwrap_or(0) as f64;
                for block in &self.plan.blocks {
                    if known.insert((&spec.parent, spec.seed, images as usize, block.name.as_str(), "output")) {
                        // From the end of the block before it, which is stored.
                        seconds += self.step.forward * block.macs as f64 / self.macs() * images;
                        bytes += elements(block.output) * images;
                    }
                }
            }
            let evaluated = (self.context.validation.len() + self.context.test.len()) as f64;
            if local && known.insert((&spec.parent, u64::MAX, 0, block.name.as_str(), "evaluation")) {
                seconds += self.step.forward * head * evaluated;
                bytes += elements(block.input) * evaluated;
            }
            if spec.init.as_deref() == Some("least-squares")
                && known.insert((&spec.parent, u64::MAX, 0, block.name.as_str(), "least squares"))
            {
                // Normal equations of (kernel area x channels) unknowns cost some tens of the substitute's own passes.
                let images = children.calibration.min(self.context.train.len()) as f64;
                seconds += self.step.forward * images * (head + block.macs as f64 / self.macs());
            }
        }
        (seconds, bytes)
    }
}
