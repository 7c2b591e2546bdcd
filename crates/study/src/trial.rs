//! One trial: a pure function of the plan and its index, but for clock readings.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nettriage_engine::{Model, Options, Trainable};
use nettriage_net::{INPUT, Network, Weights, cost, slice};
use nettriage_records::plan::{Cost, Role, TrialSpec, VERSION};
use nettriage_records::record::{Best, Clock, CurvePoint, Filters, InferenceTime, Outcome, Patch, Readings, Record};

use crate::evaluate::{self, BATCH, evaluate};
use crate::feed::{Feed, Parent, Set, Shared};
use crate::patches::{self, Watch, can_die};
use crate::scheme::{Loss, Scheme, Stage, Train};
use crate::study::Reading;
use crate::surgery::{Patient, operate};
use crate::timing::Latencies;
use crate::train::{self, Flow, Objective, Pace, Step};
use crate::values::Precision;
use crate::{Error, filters, machine, pictures, seed, similarity};

/// What a trial leaves.
pub struct Finished {
    /// Its record.
    pub record: Record,
    /// The network after the last step, where it was not lost to divergence.
    pub network: Option<Network>,
    /// The substitute alone, likewise, from the block's input to its output.
    pub substitute: Option<Network>,
}

/// Runs one trial with so many threads.
pub fn run(shared: &Shared<'_>, parent: &Parent, spec: &TrialSpec, threads: usize) -> Result<Finished, Error> {
    let begin = Instant::now();
    let threads = shared.setting.means.threads.unwrap_or(threads);
    let scheme = shared.setting.study.scheme(&spec.scheme).ok_or_else(|| {
        Error::Plan(format!("the plan names scheme `{}`, which its study does not define", spec.scheme))
    })?;
    let patient = operate(shared, parent, spec, threads)?;
    let untrained = patient.network.clone();
    let mut session = Session::new(shared, parent, spec, threads, &scheme, patient)?;
    let mut outcome = Outcome::Done;
    let images = scheme.images(shared.setting.study.children.images);
    let mut first = 0;
    for (index, (stage, images)) in scheme.stages.iter().zip(images).enumerate() {
        if session.stage(index, stage, first..first + images)? == Flow::Diverged {
            outcome = Outcome::Diverged { examples: session.seen as u64 };
            break;
        }
        first += images;
    }
    let train_seconds = session.train_seconds;
    let (mut readings, mut inference, mut network, mut substitute) = (None, None, None, None);
    if outcome == Outcome::Done {
        let (found, patient) = session.finish(&untrained)?;
        if shared.setting.study.children.reads(Reading::Latency) {
            inference = Some(latency(shared, parent, spec, &patient.network)?);
        }
        substitute = patient.substitute().filter(|_| spec.substitute.is_some()).transpose()?;
        readings = Some(found);
        network = Some(patient.network);
    }
    let clock = Clock {
        train_seconds,
        seconds: begin.elapsed().as_secs_f64(),
        inference,
        finished: now(),
        machine: Some(machine()),
    };
    let record = Record { version: VERSION, spec: spec.clone(), outcome, readings, clock };
    Ok(Finished { record, network, substitute })
}

fn latency(shared: &Shared<'_>, parent: &Parent, spec: &TrialSpec, network: &Network) -> Result<InferenceTime, Error> {
    let setting = shared.setting;
    let architecture = format!("{:?}", (spec.role, &spec.block, &spec.substitute));
    let alone = Latencies::default();
    let latencies = if setting.means.savings.kept { &shared.latencies } else { &alone };
    latencies.of(&architecture, network, &parent.network, setting.study.children.exact)
}

/// Seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// A trial under way.
struct Session<'a> {
    shared: &'a Shared<'a>,
    parent: &'a Parent,
    spec: &'a TrialSpec,
    threads: usize,
    patient: Patient,
    /// Names the weights that it starts from.
    start: String,
    examiner: Examiner<'a>,
    /// Whether everything before the block is the parent's still.
    untouched: bool,
    /// The evaluation of the weights as they are now, if there is one.
    last: Option<evaluate::Outcome>,
    before: evaluate::Outcome,
    curve: Vec<CurvePoint>,
    best: (CurvePoint, Weights),
    /// Images after which the curve has a point, last first.
    points: Vec<usize>,
    seen: usize,
    train_seconds: f64,
}

impl<'a> Session<'a> {
    fn new(
        shared: &'a Shared<'a>,
        parent: &'a Parent,
        spec: &'a TrialSpec,
        threads: usize,
        scheme: &Scheme,
        patient: Patient,
    ) -> Result<Session<'a>, Error> {
        let children = &shared.setting.study.children;
        // Where nothing below the block trains first, the parent's activations there serve.
        let untouched = scheme.stages.first().is_none_or(|s| s.train == Train::Substitute);
        let mut examiner = Examiner::new(shared, parent, &patient, untouched, threads)?;
        // All schemes of a seed start from the same weights, and where values are rounded from one of two inputs.
        let rounded = untouched && !children.activations.is_full();
        let start = (&spec.parent, spec.role, &spec.block, &spec.substitute, &spec.init, spec.seed, rounded);
        let start = format!("{start:?}");
        let before = shared.untrained(&start, || examiner.validate())?;
        let point = CurvePoint {
            examples: 0,
            stage: 0,
            train_loss: None,
            validation_top1: before.evaluation.top1,
            validation_loss: before.evaluation.loss,
        };
        let points = (1..=children.curve).rev().map(|k| (children.images * k).div_ceil(children.curve)).collect();
        Ok(Session {
            shared,
            parent,
            spec,
            threads,
            last: Some(before.clone()).filter(|_| shared.setting.means.savings.kept),
            before,
            curve: vec![point.clone()],
            best: (point, patient.network.weights.clone()),
            points,
            seen: 0,
            train_seconds: 0.0,
            patient,
            start,
            examiner,
            untouched,
        })
    }

    fn stage(&mut self, index: usize, stage: &Stage, images: std::ops::Range<usize>) -> Result<Flow, Error> {
        let Session { shared, parent, spec, threads, .. } = *self;
        let (children, savings) = (&shared.setting.study.children, shared.setting.means.savings);
        let local = stage.train == Train::Substitute && self.patient.block.is_some();
        if !local && self.untouched {
            self.untouched = false;
            self.examiner = Examiner::new(shared, parent, &self.patient, false, threads)?;
        }
        let graph = &parent.network.graph;
        let set = Set::Stream(spec.seed);
        let feed = |tensor: &str| shared.feed(&parent.id, &parent.network, tensor, set, children.batch, threads);
        let from = match &self.patient.block {
            Some(block) if self.untouched && savings.prefix => block.input.clone(),
            _ => INPUT.to_owned(),
        };
        let to = match stage.loss {
            Loss::Hint => self.patient.block_output.clone(),
            _ => self.patient.network.graph.output.clone(),
        };
        let mut objective = match (stage.loss, &self.patient.block) {
            (Loss::CrossEntropy, _) => Objective::CrossEntropy,
            (Loss::Distillation, _) => Objective::Distillation {
                teacher: feed(&graph.output)?,
                temperature: stage.temperature,
                alpha: stage.alpha,
            },
            (Loss::Hint, Some(block)) => {
                let target = match shared.setting.study.repeats_hints() {
                    true => feed(&block.output)?,
                    false => {
                        let output = &block.output;
                        let target =
                            shared.passing(&parent.id, &parent.network, output, set, children.batch, threads)?;
                        target.over(&images)
                    }
                };
                Objective::Hint { target, rest: self.rest(&to)? }
            }
            (Loss::Hint, None) => Objective::Hint { target: feed(&graph.output)?, rest: None },
        };
        let trainable = if local { Trainable::Layers(self.patient.operated.clone()) } else { Trainable::All };
        let training = Options::training(children.batch, children.optimizer);
        let options = Options { threads, trainable, exact: children.exact, whole_sweep: !savings.sweep, ..training };
        let mut model = Model::new(&slice::between(&self.patient.network, &from, &to)?, &options)?;
        self.last = None;
        let mut inputs = feed(&from)?;
        let labels = shared.labels(set);
        let pace = Pace {
            batch: children.batch,
            rate: children.rate,
            schedule: children.schedule,
            clip: children.clip,
            // Of the seed alone: trials pair by it, and a placebo must see what its control sees.
            noise: seed::seed("dropout", &[&spec.parent, &spec.seed.to_string(), &index.to_string()]),
        };
        let (mut clock, mut loss_sum, mut loss_images) = (Instant::now(), 0.0, 0);
        let before = self.seen;
        let after = |model: &Model, step: Step| {
            loss_sum += step.loss * step.images as f64;
            loss_images += step.images;
            self.seen = before + step.seen;
            if self.points.last().is_none_or(|p| self.seen < *p) {
                return Ok(());
            }
            self.points.retain(|p| *p > self.seen);
            self.train_seconds += clock.elapsed().as_secs_f64();
            self.look(model, index, loss_sum / loss_images as f64)?;
            (clock, loss_sum, loss_images) = (Instant::now(), 0.0, 0);
            Ok(())
        };
        let flow = train::stage(&mut model, &mut inputs, &labels, images, &mut objective, &pace, after)?;
        self.train_seconds += clock.elapsed().as_secs_f64();
        self.patient.network.weights.extend(model.weights());
        Ok(flow)
    }

    /// The layers behind tensor `from`, where they are to run although nobody needs them.
    fn rest(&self, from: &str) -> Result<Option<Box<Model>>, Error> {
        let (setting, graph) = (self.shared.setting, &self.patient.network.graph);
        if setting.means.savings.hint || from == graph.output {
            return Ok(None);
        }
        let children = &setting.study.children;
        let options = Options { threads: self.threads, exact: children.exact, ..Options::inference(children.batch) };
        let rest = slice::between(&self.patient.network, from, &graph.output)?;
        Ok(Some(Box::new(Model::new(&rest, &options)?)))
    }

    /// Adds a point to the learning curve.
    fn look(&mut self, model: &Model, stage: usize, train_loss: f64) -> Result<(), Error> {
        self.patient.network.weights.extend(model.weights());
        self.examiner.update(&self.patient.network)?;
        let outcome = self.examiner.validate()?;
        let evaluation = outcome.evaluation.clone();
        // The last step of a stage: nothing changes any more until the next stage begins.
        self.last = Some(outcome).filter(|_| self.points.is_empty() && self.shared.setting.means.savings.kept);
        let point = CurvePoint {
            examples: self.seen as u64,
            stage,
            train_loss: Some(train_loss),
            validation_top1: evaluation.top1,
            validation_loss: evaluation.loss,
        };
        if point.validation_top1 > self.best.0.validation_top1 {
            self.best = (point.clone(), self.patient.network.weights.clone());
        }
        self.curve.push(point);
        Ok(())
    }

    /// The readings at the end: the only time that the test set is read.
    fn finish(mut self, untrained: &Network) -> Result<(Readings, Patient), Error> {
        self.examiner.update(&self.patient.network)?;
        let validation = match self.last.take() {
            Some(outcome) => outcome,
            None => self.examiner.validate()?,
        };
        let test = self.examiner.test()?;
        let (best, weights) = std::mem::replace(&mut self.best, (self.curve[0].clone(), Weights::new()));
        let best_test = if best.examples == self.seen as u64 {
            test.evaluation.clone()
        } else {
            let network = Network { graph: self.patient.network.graph.clone(), weights };
            self.examiner.update(&network)?;
            self.examiner.test()?.evaluation
        };
        let margin = self.shared.setting.study.children.margin / 100.0;
        let goal = self.parent.validation_top1 - margin;
        let total = cost::total(&self.patient.network.graph)?;
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
                _ if !self.shared.setting.study.children.reads(Reading::Similarity) => None,
                _ => {
                    let (patient, start, from) = (&self.patient, &self.start, self.from());
                    let subject = similarity::Subject { patient, untrained, start, from };
                    similarity::compare(self.shared, self.parent, &subject, self.threads)?
                }
            },
            activations: match self.shared.setting.study.children.activations {
                Precision::F32 => None,
                Precision::F16 => Some("f16".to_owned()),
            },
        };
        Ok((readings, self.patient))
    }

    /// The tensor up to which the network is the parent still, so that its inner values may be read from there on.
    fn from(&self) -> &str {
        // Rounded values would give others than the images do.
        if self.shared.setting.study.children.activations.is_full() { &self.examiner.from } else { INPUT }
    }

    /// The substitute's filters; none where they are not read, and where it is no convolution.
    fn filters(&self, untrained: &Network) -> Result<Option<Filters>, Error> {
        let reads = self.shared.setting.study.children.reads(Reading::Filters);
        let product = self.patient.operated_product().filter(|_| reads);
        let Some(product) = product else { return Ok(None) };
        let key = format!("{product}.weight");
        let network = &self.patient.network;
        let (before, after) = (&untrained.weights[&key], &network.weights[&key]);
        let substitute = self.spec.substitute.is_some();
        if !substitute || after.shape.len() != 4 {
            return Ok(None);
        }
        let (dead, patches) = self.watched()?;
        Ok(Some(filters::read(before, after, dead, patches)))
    }

    /// Filters whose output after the closing ReLU is zero on every validation image looked at, and what excites the others.
    fn watched(&self) -> Result<(u64, Vec<Vec<Patch>>), Error> {
        let network = &self.patient.network;
        let output = &self.patient.block_output;
        let from = self.from();
        let head = slice::between(network, from, output)?;
        let shape = head.graph.output_shape()?;
        let exact = self.shared.setting.study.children.exact;
        let options = Options { threads: self.threads, exact, ..Options::inference(BATCH) };
        let mut model = Model::new(&head, &options)?;
        let mut feed =
            self.shared.feed(&self.parent.id, &self.parent.network, from, Set::Validation, BATCH, self.threads)?;
        let mut watch = Watch::new(shape.channels, shape.width, filters::SHOWN.0);
        let watched = feed.len().min(pictures::VALIDATION);
        for start in (0..watched).step_by(BATCH) {
            let values = model.forward(feed.batch(start..watched.min(start + BATCH))?);
            values.chunks_exact(shape.elements()).enumerate().for_each(|(i, image)| watch.add(start + i, image));
        }
        let dead = if network.graph.layer(output).is_some_and(|l| can_die(&l.kind)) { watch.dead() } else { 0 };
        let input = network.graph.input;
        Ok((dead, watch.patches(patches::field(&network.graph, output), [input.height, input.width])))
    }
}

/// Evaluates a network on the validation and test images, from the block on where the rest is the parent's.
struct Examiner<'a> {
    shared: &'a Shared<'a>,
    parent: &'a Parent,
    from: String,
    threads: usize,
    model: Model,
    validation: Feed<'a>,
}

impl<'a> Examiner<'a> {
    fn new(
        shared: &'a Shared<'a>,
        parent: &'a Parent,
        patient: &Patient,
        untouched: bool,
        threads: usize,
    ) -> Result<Examiner<'a>, Error> {
        // Where there is no block all is the parent's, the last block too; but rounded values are for children alone.
        let last = shared.setting.blocks.last().filter(|_| shared.setting.study.children.activations.is_full());
        let from = match patient.block.as_ref().or(last) {
            Some(block) if untouched && shared.setting.means.savings.evaluation => block.input.clone(),
            _ => INPUT.to_owned(),
        };
        let exact = shared.setting.study.children.exact;
        let options = Options { threads, exact, ..Options::inference(BATCH) };
        let tail = slice::between(&patient.network, &from, &patient.network.graph.output)?;
        let model = Model::new(&tail, &options)?;
        let validation = shared.feed(&parent.id, &parent.network, &from, Set::Validation, BATCH, threads)?;
        Ok(Examiner { shared, parent, from, threads, model, validation })
    }

    fn update(&mut self, network: &Network) -> Result<(), Error> {
        let tail = slice::between(network, &self.from, &network.graph.output)?;
        Ok(self.model.set_weights(&tail.weights)?)
    }

    fn validate(&mut self) -> Result<evaluate::Outcome, Error> {
        let labels = self.shared.labels(Set::Validation);
        let classes = self.shared.setting.classes();
        let choices = &self.parent.validation_choices;
        evaluate(&mut self.model, &mut self.validation, &labels, classes, Some(choices))
    }

    fn test(&mut self) -> Result<evaluate::Outcome, Error> {
        let Examiner { shared, parent, .. } = *self;
        let labels = shared.labels(Set::Test);
        let mut feed = shared.feed(&parent.id, &parent.network, &self.from, Set::Test, BATCH, self.threads)?;
        let choices = &parent.test_choices[..labels.len()];
        evaluate(&mut self.model, &mut feed, &labels, shared.setting.classes(), Some(choices))
    }
}
