//! One trial: a pure function of the plan and its index, except for timings.

use std::time::Instant;

use nettriage_compress::Latencies;
use nettriage_engine::{Options, Trainable};
use nettriage_net::ends::{self, End};
use nettriage_net::receptive_field::receptive_field;
use nettriage_net::{INPUT, Network, Weights, cost, slice};
use nettriage_records::checkpoint::{Checkpoint, Tensors, TrainingState};
use nettriage_records::plan::{Cost, Role, TrialSpec, VERSION};
use nettriage_records::record::{Best, Clock, CurvePoint, Filters, InferenceTime, Outcome, Patch, Readings, Record};
use nettriage_train::scheme::{Loss, Scheme, Stage, Train};
use nettriage_train::{
    AVERAGE, ActivationSource, Checkpoints, CurveRecorder, HyperParameters, Model, NETWORK, Objective, Precision,
    StageInput, StageOutcome, StageStep, Teacher, Trained, Writer, add_optimizer, add_tensors, evaluate,
    restore_optimizer, run_stage, seed, tensors_of,
};

use crate::child::{Child, build_child};
use crate::patches::{LargestActivations, cuts_at_zero};
use crate::shared::{ImageSet, Parent, SharedWork};
use crate::study::Reading;
use crate::{Error, filters, machine, sample_images, similarity};

/// The part of a checkpoint's tensors that holds the weights at the best point of the curve.
const BEST: &str = "best";

/// The results of a trial.
pub struct Finished {
    /// Its record.
    pub record: Record,
    /// The network after the last step; none if the training diverged.
    pub network: Option<Network>,
    /// The substitute alone, from the block's input to its output; none if the training diverged.
    pub substitute: Option<Network>,
}

/// Runs one trial with `threads` threads. With `checkpoints` it continues from its last one, if there is one.
pub fn run(
    shared: &SharedWork<'_>,
    parent: &Parent,
    spec: &TrialSpec,
    threads: usize,
    checkpoints: Option<&Checkpoints>,
) -> Result<Finished, Error> {
    let begin = Instant::now();
    let threads = shared.context.runtime.threads.unwrap_or(threads);
    let scheme = shared.context.study.scheme(&spec.scheme).ok_or_else(|| {
        Error::Request(format!("the plan names scheme `{}`, which its study does not define", spec.scheme))
    })?;
    let child = build_child(shared, parent, spec, threads)?;
    let untrained = child.network.clone();
    let mut session = Session::new(shared, parent, spec, threads, &scheme, child)?;
    let mut outcome = Outcome::Done;
    let images = scheme.images(spec.budget.unwrap_or(0));
    let found = match checkpoints {
        Some(checkpoints) => checkpoints.find(&spec.id, &session.child.network.weights)?,
        None => None,
    };
    let earlier = found.as_ref().map_or(0.0, |found| found.state.seconds.1);
    if let Some(found) = &found {
        session.restore(found);
    }
    session.clock = Clocks { begin, earlier };
    let mut writer = checkpoints.map(|checkpoints| checkpoints.of(&spec.id));
    let mut first = 0;
    for (index, (stage, images)) in scheme.stages.iter().zip(images).enumerate() {
        let resumed = found.as_ref().filter(|found| found.state.stage >= index);
        if resumed.is_some_and(|found| found.state.stage > index) {
            session.enter(stage)?;
        } else if session.stage(index, stage, first..first + images, resumed.map(|r| &**r), &mut writer)?
            == StageOutcome::Diverged
        {
            outcome = Outcome::Diverged { examples: session.seen as u64, reason: session.first_non_finite()? };
            break;
        }
        first += images;
    }
    if outcome == Outcome::Done && !session.is_finite() {
        let images = shared.sequence(ImageSet::Validation);
        let reason = nettriage_train::first_non_finite(&session.child.network, &images, 0..images.len())?;
        outcome = Outcome::Diverged { examples: session.seen as u64, reason };
    }
    let train_seconds = session.train_seconds;
    let (mut readings, mut inference, mut network, mut substitute) = (None, None, None, None);
    if outcome == Outcome::Done {
        let examples = session.seen as u64;
        let (found, child) = session.finish(&untrained)?;
        if found.test.loss.is_finite() && found.best.test.loss.is_finite() {
            if shared.context.study.children.reads(Reading::Latency) {
                inference = Some(latency(shared, parent, spec, &child.network)?);
            }
            substitute = child.substitute().filter(|_| spec.substitute.is_some()).transpose()?;
            readings = Some(found);
            network = Some(child.network);
        } else {
            let images = shared.sequence(ImageSet::Test);
            let reason = nettriage_train::first_non_finite(&child.network, &images, 0..images.len())?;
            outcome = Outcome::Diverged { examples, reason };
        }
    }
    let clock = Clock {
        train_seconds,
        seconds: earlier + begin.elapsed().as_secs_f64(),
        inference,
        finished: nettriage_records::unix_time(),
        machine: Some(machine(shared.context.device())),
    };
    let record = Record { version: VERSION, spec: spec.clone(), outcome, readings, measured: None, clock };
    Ok(Finished { record, network, substitute })
}

fn latency(
    shared: &SharedWork<'_>,
    parent: &Parent,
    spec: &TrialSpec,
    network: &Network,
) -> Result<InferenceTime, Error> {
    let context = shared.context;
    let architecture = format!("{:?}", (spec.role, &spec.block, &spec.substitute));
    let alone = Latencies::default();
    let latencies = if context.runtime.reuse.activations { &shared.latencies } else { &alone };
    Ok(latencies.of(context.device(), &architecture, network, &parent.network, context.study.children.exact)?)
}

/// A trial in progress.
struct Session<'a> {
    shared: &'a SharedWork<'a>,
    parent: &'a Parent,
    spec: &'a TrialSpec,
    threads: usize,
    child: Child,
    /// Identifies the weights that it starts from.
    start: String,
    evaluator: Evaluator<'a>,
    /// Whether all layers before the block are unchanged from the parent.
    prefix_frozen: bool,
    /// The evaluation of the current weights, if there is one.
    last: Option<nettriage_train::Outcome>,
    before: nettriage_train::Outcome,
    curve: Vec<CurvePoint>,
    best: (CurvePoint, Weights),
    recorder: CurveRecorder,
    seen: usize,
    train_seconds: f64,
    clock: Clocks,
}

/// When a trial began in this process, and its seconds in earlier ones.
struct Clocks {
    begin: Instant,
    earlier: f64,
}

impl<'a> Session<'a> {
    fn new(
        shared: &'a SharedWork<'a>,
        parent: &'a Parent,
        spec: &'a TrialSpec,
        threads: usize,
        scheme: &Scheme,
        child: Child,
    ) -> Result<Session<'a>, Error> {
        let children = &shared.context.study.children;
        // If no layer below the block trains in the first stage, the parent's activations there can be used.
        let prefix_frozen = scheme.stages.first().is_none_or(|s| s.train == Train::Substitute);
        let mut evaluator = Evaluator::new(shared, parent, &child, prefix_frozen, threads)?;
        // All schemes of a seed start from the same weights; with rounded activations, from one of two inputs.
        let rounded = prefix_frozen && !children.activations.is_full();
        let start = (&spec.parent, spec.role, &spec.block, &spec.substitute, &spec.init, spec.seed, rounded);
        let start = format!("{start:?}");
        let before = shared.untrained(&start, || evaluator.validate())?;
        let point = CurvePoint {
            examples: 0,
            stage: 0,
            train_loss: None,
            validation_top1: before.evaluation.top1,
            validation_loss: before.evaluation.loss,
        };
        Ok(Session {
            shared,
            parent,
            spec,
            threads,
            last: Some(before.clone()).filter(|_| shared.context.runtime.reuse.activations),
            before,
            curve: vec![point.clone()],
            best: (point, child.network.weights.clone()),
            recorder: CurveRecorder::new(spec.budget.unwrap_or(0), children.curve),
            seen: 0,
            train_seconds: 0.0,
            clock: Clocks { begin: Instant::now(), earlier: 0.0 },
            child,
            start,
            evaluator,
            prefix_frozen,
        })
    }

    /// Takes over what an interrupted process has left.
    fn restore(&mut self, found: &Checkpoint) {
        self.child.network.weights = tensors_of(&found.tensors, NETWORK);
        self.curve.clone_from(&found.state.curve);
        if let Some(best) = &found.state.best {
            self.best = (best.clone(), tensors_of(&found.tensors, BEST));
        }
        self.train_seconds = found.state.seconds.0;
    }

    /// The training so far, after `taken` steps of the stage that trains the model.
    fn checkpoint(&self, trained: Trained<'_>, stage: usize, taken: usize) -> Result<Checkpoint, Error> {
        let mut network = self.child.network.weights.clone();
        network.extend(trained.model.weights()?);
        let mut tensors = Tensors::new();
        add_tensors(&mut tensors, NETWORK, &network);
        add_tensors(&mut tensors, BEST, &self.best.1);
        add_tensors(&mut tensors, AVERAGE, &trained.averaged());
        let optimizer_steps = add_optimizer(&mut tensors, trained.model)?;
        let state = TrainingState {
            stage,
            step: taken,
            optimizer_steps,
            curve: self.curve.clone(),
            best: Some(self.best.0.clone()),
            loss: self.recorder.loss(),
            seconds: (self.train_seconds, self.clock.earlier + self.clock.begin.elapsed().as_secs_f64()),
        };
        Ok(Checkpoint { instructions: self.shared.context.device().arithmetic(), state, tensors })
    }

    /// Whether the stage trains the substitute alone. From the first stage on that does not, the prefix is not the parent's.
    fn enter(&mut self, stage: &Stage) -> Result<bool, Error> {
        let local = stage.train == Train::Substitute && self.child.block.is_some();
        if !local && self.prefix_frozen {
            self.prefix_frozen = false;
            self.evaluator = Evaluator::new(self.shared, self.parent, &self.child, false, self.threads)?;
        }
        Ok(local)
    }

    /// Trains a stage on its `images`, from its first step or from where `resumed` is.
    fn stage(
        &mut self,
        index: usize,
        stage: &Stage,
        images: std::ops::Range<usize>,
        resumed: Option<&Checkpoint>,
        writer: &mut Option<Writer<'_>>,
    ) -> Result<StageOutcome, Error> {
        let Session { shared, parent, spec, threads, .. } = *self;
        let (children, reuse) = (&shared.context.study.children, shared.context.runtime.reuse);
        let local = self.enter(stage)?;
        let graph = &parent.network.graph;
        let (set, batch) = (ImageSet::Stream(spec.seed, spec.budget.unwrap_or(0)), children.batch);
        let activations = |tensor: &str| shared.activations(&parent.request(tensor, set, batch, threads));
        let from = match &self.child.block {
            Some(block) if self.prefix_frozen && reuse.prefix => block.input.clone(),
            _ => INPUT.to_owned(),
        };
        let to = match stage.loss {
            Loss::Hint => self.child.block_output.clone(),
            Loss::CrossEntropy | Loss::Distillation => self.child.network.graph.output.clone(),
        };
        let ends = self.ends(stage, local)?;
        let compared = ends.iter().map(|end| end.child.clone()).collect();
        let mut objective = match (stage.loss, &self.child.block) {
            (Loss::CrossEntropy, _) => Objective::CrossEntropy,
            (Loss::Distillation, _) => {
                let with_source = |end: End| -> Result<_, Error> {
                    let source = activations(&end.parent)?;
                    Ok((end, source))
                };
                let sources = ends.into_iter().map(with_source).collect::<Result<_, _>>()?;
                let teacher = Teacher::with_ends(activations(&graph.output)?, sources, stage.beta);
                Objective::Distillation { teacher, temperature: stage.temperature, alpha: stage.alpha }
            }
            (Loss::Hint, Some(block)) => {
                let target = match shared.context.study.repeats_hints() {
                    true => activations(&block.output)?,
                    false => shared.streaming(&parent.request(&block.output, set, batch, threads))?.over(&images),
                };
                Objective::Hint { target: target.into(), rest: self.rest(&to)? }
            }
            (Loss::Hint, None) => Objective::Hint { target: activations(&graph.output)?.into(), rest: None },
        };
        let trainable = if local { Trainable::Layers(self.child.substitute_layers.clone()) } else { Trainable::All };
        // A batch beyond the stage's images would take memory for none of them.
        let training = Options::training(children.batch.min(images.len()).max(1), children.optimizer);
        let decay_all = children.recipe.decay_all;
        let options = Options {
            threads,
            trainable,
            exact: children.exact,
            full_backward: !reuse.backward,
            decay_all,
            compared,
            ..training
        };
        let mut model = shared.context.device().model(&slice::between(&self.child.network, &from, &to)?, &options)?;
        self.last = None;
        let mut inputs = activations(&from)?;
        let labels = inputs.labels();
        let hyper = HyperParameters {
            batch: children.batch,
            rate: shared.rate()?,
            schedule: children.schedule,
            recipe: children.recipe,
            clip: children.clip,
            // Of the seed alone: trials pair by it, and a placebo must see what its control sees.
            dropout_seed: seed::seed("dropout", &[&spec.parent, &spec.seed.to_string(), &index.to_string()]),
        };
        let before = images.start;
        let taken = resumed.map_or(0, |found| found.state.step);
        let average = resumed.map(|found| tensors_of(&found.tensors, AVERAGE));
        match resumed {
            Some(found) => {
                restore_optimizer(&mut model, &found.tensors, found.state.optimizer_steps)?;
                self.seen = before + images.len().min(taken * children.batch);
                self.recorder.resume(self.seen, found.state.loss);
            }
            None => self.recorder.restart(),
        }
        let mut clock = Instant::now();
        let after = |trained: Trained<'_>, step: StageStep| -> Result<(), Error> {
            self.seen = before + step.seen;
            if let Some(train_loss) = self.recorder.step(&step, self.seen) {
                self.train_seconds += clock.elapsed().as_secs_f64();
                self.record_point(trained, index, train_loss)?;
                clock = Instant::now();
            }
            if let Some(writer) = writer.as_mut().filter(|writer| writer.is_due()) {
                self.train_seconds += clock.elapsed().as_secs_f64();
                writer.write(&self.checkpoint(trained, index, step.taken)?)?;
                clock = Instant::now();
            }
            Ok(())
        };
        let input = StageInput { source: &mut inputs, labels: &labels, images, taken, average };
        let (outcome, weights) = run_stage(&mut model, input, &mut objective, &hyper, after)?;
        self.train_seconds += clock.elapsed().as_secs_f64();
        self.child.network.weights.extend(weights);
        Ok(outcome)
    }

    /// The ends of blocks that a stage compares with the parent's: of all blocks, or, where the substitute alone trains, of those
    /// from the block on, since those before it are the parent's.
    fn ends(&self, stage: &Stage, local: bool) -> Result<Vec<End>, Error> {
        if stage.beta == 0.0 {
            return Ok(Vec::new());
        }
        let Child { network, block, block_output, substitute_layers } = &self.child;
        let replaced = block.iter().map(|block| End { child: block_output.clone(), parent: block.output.clone() });
        let replaced: Vec<End> = replaced.collect();
        let blocks = &self.shared.context.blocks;
        let mut ends = ends::ends(&self.parent.network.graph, &network.graph, blocks, &replaced, substitute_layers)?;
        if let (Some(block), true) = (block, local) {
            let behind = slice::between(network, &block.input, &network.graph.output)?;
            ends.retain(|end| behind.graph.layer(&end.child).is_some());
        }
        Ok(ends)
    }

    /// Whether all losses of the learning curve are finite; a record cannot hold others.
    fn is_finite(&self) -> bool {
        let finite =
            |point: &CurvePoint| point.validation_loss.is_finite() && point.train_loss.is_none_or(f64::is_finite);
        self.curve.iter().all(finite)
    }

    /// The first layer whose output is not finite for the images of the next step, which diverged.
    fn first_non_finite(&self) -> Result<Option<String>, Error> {
        let images = self.shared.sequence(ImageSet::Stream(self.spec.seed, self.spec.budget.unwrap_or(0)));
        let last = (self.seen + self.shared.context.study.children.batch).min(images.len());
        Ok(nettriage_train::first_non_finite(&self.child.network, &images, self.seen.min(last)..last)?)
    }

    /// The layers behind tensor `from`, if they run although their output is unused.
    fn rest(&self, from: &str) -> Result<Option<Box<Model>>, Error> {
        let (context, graph) = (self.shared.context, &self.child.network.graph);
        if context.runtime.reuse.hint || from == graph.output {
            return Ok(None);
        }
        let children = &context.study.children;
        let options = Options { threads: self.threads, exact: children.exact, ..Options::inference(children.batch) };
        let rest = slice::between(&self.child.network, from, &graph.output)?;
        Ok(Some(Box::new(context.device().model(&rest, &options)?)))
    }

    /// Adds a point to the learning curve.
    fn record_point(&mut self, trained: Trained<'_>, stage: usize, train_loss: f64) -> Result<(), Error> {
        self.child.network.weights.extend(trained.weights()?);
        self.evaluator.update(&self.child.network)?;
        let outcome = self.evaluator.validate()?;
        let evaluation = outcome.evaluation.clone();
        // After the last step of the budget the weights do not change any more.
        self.last =
            Some(outcome).filter(|_| self.recorder.is_complete() && self.shared.context.runtime.reuse.activations);
        let point = CurvePoint {
            examples: self.seen as u64,
            stage,
            train_loss: Some(train_loss),
            validation_top1: evaluation.top1,
            validation_loss: evaluation.loss,
        };
        if point.validation_top1 > self.best.0.validation_top1 {
            self.best = (point.clone(), self.child.network.weights.clone());
        }
        self.curve.push(point);
        Ok(())
    }

    /// The readings at the end: the only use of the test set.
    fn finish(mut self, untrained: &Network) -> Result<(Readings, Child), Error> {
        self.evaluator.update(&self.child.network)?;
        let validation = match self.last.take() {
            Some(outcome) => outcome,
            None => self.evaluator.validate()?,
        };
        let test = self.evaluator.test()?;
        let (best, weights) = std::mem::replace(&mut self.best, (self.curve[0].clone(), Weights::new()));
        let best_test = if best.examples == self.seen as u64 {
            test.evaluation.clone()
        } else {
            let network = Network { graph: self.child.network.graph.clone(), weights };
            self.evaluator.update(&network)?;
            self.evaluator.test()?.evaluation
        };
        let goal = self.parent.validation_top1 - self.shared.context.study.children.recovery_margin();
        let total = cost::total(&self.child.network.graph)?;
        let readings = Readings {
            before: self.before.evaluation.clone(),
            validation: validation.evaluation,
            test: test.evaluation,
            best: Best { examples: best.examples, validation_top1: best.validation_top1, test: best_test },
            // A tolerance far below one image, so that a share is not missed by its rounding.
            recovered_at: self.curve.iter().find(|p| p.validation_top1 >= goal - 1e-9).map(|p| p.examples),
            curve: std::mem::take(&mut self.curve),
            cost: Cost { parameters: total.parameters, macs: total.macs },
            filters: self.filters(untrained)?,
            test_correct: test.correct,
            similarity: match self.spec.role {
                Role::Parent => None,
                _ if !self.shared.context.study.children.reads(Reading::Similarity) => None,
                _ => {
                    let (child, start, from) = (&self.child, &self.start, self.from());
                    let subject = similarity::Subject { child, untrained, start, from };
                    similarity::compare(self.shared, self.parent, &subject, self.threads)?
                }
            },
            activations: match self.shared.context.study.children.activations {
                Precision::F32 => None,
                Precision::F16 => Some("f16".to_owned()),
            },
        };
        Ok((readings, self.child))
    }

    /// The tensor up to which the network is the parent's, so that its activations can be computed from there.
    fn from(&self) -> &str {
        // Rounded values would give other results than the images do.
        if self.shared.context.study.children.activations.is_full() { &self.evaluator.from } else { INPUT }
    }

    /// The substitute's filters; none if they are not read, or if it is no convolution.
    fn filters(&self, untrained: &Network) -> Result<Option<Filters>, Error> {
        let reads = self.shared.context.study.children.reads(Reading::Filters);
        let product = self.child.weighted_layer().filter(|_| reads);
        let Some(product) = product else { return Ok(None) };
        let key = format!("{product}.weight");
        let network = &self.child.network;
        let (before, after) = (&untrained.weights[&key], &network.weights[&key]);
        let substitute = self.spec.substitute.is_some();
        if !substitute || after.shape.len() != 4 {
            return Ok(None);
        }
        let (dead, patches) = self.activated()?;
        Ok(Some(filters::read(before, after, dead, patches)))
    }

    /// Filters whose output after the closing ReLU is zero on every validation image used, and the largest activations of the others.
    fn activated(&self) -> Result<(u64, Vec<Vec<Patch>>), Error> {
        let network = &self.child.network;
        let output = &self.child.block_output;
        let from = self.from();
        let head = slice::between(network, from, output)?;
        let shape = head.graph.output_shape()?;
        let exact = self.shared.context.study.children.exact;
        let batch = self.shared.context.device().evaluation_batch();
        let options = Options { threads: self.threads, exact, ..Options::inference(batch) };
        let mut model = self.shared.context.device().model(&head, &options)?;
        let mut inputs =
            self.shared.activations(&self.parent.request(from, ImageSet::Validation, batch, self.threads))?;
        let mut largest = LargestActivations::new(shape.channels, shape.width, filters::SHOWN.0);
        let count = inputs.len().min(sample_images::VALIDATION);
        for start in (0..count).step_by(batch) {
            let values = model.forward(inputs.batch(start..count.min(start + batch))?)?;
            values.chunks_exact(shape.elements()).enumerate().for_each(|(i, image)| largest.add(start + i, image));
        }
        let dead = if network.graph.layer(output).is_some_and(|l| cuts_at_zero(&l.kind)) { largest.dead() } else { 0 };
        let input = network.graph.input;
        Ok((dead, largest.patches(receptive_field(&network.graph, output, INPUT), [input.height, input.width])))
    }
}

/// Evaluates a network on the validation and test images: from the block on, if the layers before it are the parent's.
struct Evaluator<'a> {
    shared: &'a SharedWork<'a>,
    parent: &'a Parent,
    from: String,
    threads: usize,
    model: Model,
    validation: ActivationSource<'a>,
}

impl<'a> Evaluator<'a> {
    fn new(
        shared: &'a SharedWork<'a>,
        parent: &'a Parent,
        child: &Child,
        prefix_frozen: bool,
        threads: usize,
    ) -> Result<Evaluator<'a>, Error> {
        // Without a block the whole network is the parent's, its last block too; but rounded values are for children only.
        let last = shared.context.blocks.last().filter(|_| shared.context.study.children.activations.is_full());
        let from = match child.block.as_ref().or(last) {
            Some(block) if prefix_frozen && shared.context.runtime.reuse.evaluation => block.input.clone(),
            _ => INPUT.to_owned(),
        };
        let exact = shared.context.study.children.exact;
        let batch = shared.context.device().evaluation_batch();
        let options = Options { threads, exact, ..Options::inference(batch) };
        let tail = slice::between(&child.network, &from, &child.network.graph.output)?;
        let model = shared.context.device().model(&tail, &options)?;
        let validation = shared.activations(&parent.request(&from, ImageSet::Validation, batch, threads))?;
        Ok(Evaluator { shared, parent, from, threads, model, validation })
    }

    fn update(&mut self, network: &Network) -> Result<(), Error> {
        let tail = slice::between(network, &self.from, &network.graph.output)?;
        Ok(self.model.set_weights(&tail.weights)?)
    }

    fn validate(&mut self) -> Result<nettriage_train::Outcome, Error> {
        let labels = self.shared.labels(ImageSet::Validation);
        let classes = self.shared.context.classes();
        let choices = &self.parent.validation_choices;
        Ok(evaluate(&mut self.model, &mut self.validation, &labels, classes, Some(choices))?)
    }

    fn test(&mut self) -> Result<nettriage_train::Outcome, Error> {
        let Evaluator { shared, parent, .. } = *self;
        let batch = shared.context.device().evaluation_batch();
        let mut images = shared.activations(&parent.request(&self.from, ImageSet::Test, batch, self.threads))?;
        let labels = images.labels();
        let choices = &parent.test_choices[..labels.len()];
        Ok(evaluate(&mut self.model, &mut images, &labels, shared.context.classes(), Some(choices))?)
    }
}
