//! The parent: trained, or read from a file, then measured.

use std::time::Instant;

use nettriage_engine::{Model, Options};
use nettriage_formats::safetensors;
use nettriage_net::{INPUT, Network, cost};
use nettriage_records::Run;
use nettriage_records::plan::{Cost, ParentSpec, VERSION};
use nettriage_records::record::{Clock, CurvePoint, ParentRecord};

use crate::evaluate::{BATCH, Outcome, evaluate};
use crate::feed::{Parent, Set, Shared};
use crate::train::{self, Flow, Objective, Pace, Step};
use crate::trial::now;
use crate::{Error, machine, seed};

/// Points of a parent's learning curve.
const POINTS: usize = 20;

/// The parent of `spec`: from the run's folder if it is there, else trained (or read) and written there.
pub fn prepare(
    shared: &Shared<'_>,
    run: &Run,
    spec: &ParentSpec,
    threads: usize,
    mut progress: impl FnMut(usize, usize, &CurvePoint),
) -> Result<Parent, Error> {
    let path = run.parent_weights_path(&spec.id);
    let known = run.parent(&spec.id)?.filter(|_| path.exists());
    if known.is_some() {
        let network = safetensors::load(&path)?;
        return Ok(measure(shared, spec, network, threads)?.parent);
    }
    let begin = Instant::now();
    let (network, curve) = match &shared.setting.given {
        Some(network) => (network.clone(), Vec::new()),
        None => train(shared, spec, threads, &mut progress)?,
    };
    let train_seconds = begin.elapsed().as_secs_f64();
    let Measured { parent, validation, test } = measure(shared, spec, network, threads)?;
    let total = cost::total(&parent.network.graph)?;
    // Weights first: a record vouches for the weights beside it.
    safetensors::save(&parent.network, &path)?;
    run.write_parent(&ParentRecord {
        version: VERSION,
        id: spec.id.clone(),
        seed: spec.seed,
        validation: validation.evaluation,
        test: test.evaluation,
        test_correct: test.correct,
        curve,
        cost: Cost { parameters: total.parameters, macs: total.macs },
        clock: Clock {
            train_seconds,
            seconds: begin.elapsed().as_secs_f64(),
            inference: None,
            finished: now(),
            machine: Some(machine()),
        },
    })?;
    Ok(parent)
}

struct Measured {
    parent: Parent,
    validation: Outcome,
    test: Outcome,
}

fn measure(shared: &Shared<'_>, spec: &ParentSpec, network: Network, threads: usize) -> Result<Measured, Error> {
    let exact = shared.setting.study.children.exact;
    let mut model = Model::new(&network, &Options { threads, exact, ..Options::inference(BATCH) })?;
    let mut over = |set: Set| {
        let mut feed = shared.feed(&spec.id, &network, INPUT, set, BATCH, threads)?;
        evaluate(&mut model, &mut feed, &shared.labels(set), shared.setting.classes(), None)
    };
    let validation = over(Set::Validation)?;
    let test = over(Set::WholeTest)?;
    let parent = Parent {
        id: spec.id.clone(),
        network,
        validation_choices: validation.choices.clone(),
        test_choices: test.choices.clone(),
        validation_top1: validation.evaluation.top1,
    };
    Ok(Measured { parent, validation, test })
}

fn train(
    shared: &Shared<'_>,
    spec: &ParentSpec,
    threads: usize,
    progress: &mut impl FnMut(usize, usize, &CurvePoint),
) -> Result<(Network, Vec<CurvePoint>), Error> {
    let setting = shared.setting;
    let training = setting.study.parent.training.as_ref();
    let training = training.ok_or_else(|| Error::Plan("[parent] with `arch` needs [parent.training]".into()))?;
    let exact = setting.study.children.exact;
    let mut rng = seed::rng("parent's weights", &[&spec.seed.to_string()]);
    let mut network = Network::initialised(setting.graph.clone(), &mut rng)?;
    let options = Options { threads, exact, ..Options::training(training.batch, training.optimizer) };
    let mut model = Model::new(&network, &options)?;
    let mut examiner = Model::new(&network, &Options { threads, exact, ..Options::inference(BATCH) })?;
    let set = Set::ParentStream(spec.seed);
    let feed = |set, batch| shared.feed(&spec.id, &network, INPUT, set, batch, threads);
    let mut images = feed(set, training.batch)?;
    let mut validation = feed(Set::Validation, BATCH)?;
    let (labels, validation_labels) = (shared.labels(set), shared.labels(Set::Validation));
    let pace = Pace {
        batch: training.batch,
        rate: training.rate,
        schedule: training.schedule,
        clip: training.clip,
        noise: seed::seed("parent's dropout", &[&spec.seed.to_string()]),
    };
    let total = images.len();
    let mut points: Vec<usize> = (1..=POINTS).rev().map(|k| (total * k).div_ceil(POINTS)).collect();
    let mut curve: Vec<CurvePoint> = Vec::new();
    let (mut loss_sum, mut loss_images) = (0.0, 0);
    let after = |model: &Model, step: Step| {
        loss_sum += step.loss * step.images as f64;
        loss_images += step.images;
        if points.last().is_none_or(|p| step.seen < *p) {
            return Ok(());
        }
        points.retain(|p| *p > step.seen);
        examiner.set_weights(&model.weights())?;
        let found = evaluate(&mut examiner, &mut validation, &validation_labels, setting.classes(), None)?.evaluation;
        let point = CurvePoint {
            examples: step.seen as u64,
            stage: 0,
            train_loss: Some(loss_sum / loss_images as f64),
            validation_top1: found.top1,
            validation_loss: found.loss,
        };
        progress(step.seen, total, &point);
        curve.push(point);
        (loss_sum, loss_images) = (0.0, 0);
        Ok(())
    };
    let flow = train::stage(&mut model, &mut images, &labels, 0..total, &mut Objective::CrossEntropy, &pace, after)?;
    if flow == Flow::Diverged {
        return Err(Error::Plan(format!(
            "the parent of seed {} diverged: its loss is no finite number; try a smaller [parent.training] rate, or clip",
            spec.seed
        )));
    }
    drop(images);
    network.weights.extend(model.weights());
    Ok((network, curve))
}
