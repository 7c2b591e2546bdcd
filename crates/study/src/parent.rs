//! The parent: trained or read from a file, then evaluated.

use std::time::Instant;

use nettriage_engine::Options;
use nettriage_formats::safetensors;
use nettriage_net::{INPUT, Network, cost};
use nettriage_records::Run;
use nettriage_records::checkpoint::{Checkpoint, Tensors, TrainingState};
use nettriage_records::plan::{Cost, ParentSpec, VERSION};
use nettriage_records::record::{Clock, CurvePoint, ParentRecord};

use nettriage_train::{
    AVERAGE, Checkpoints, CurveRecorder, HyperParameters, NETWORK, Objective, Outcome, StageInput, StageOutcome,
    StageStep, Trained, add_optimizer, add_tensors, evaluate, restore_optimizer, run_stage, seed, tensors_of,
};

use crate::shared::{ImageSet, Parent, Request, SharedWork};
use crate::{Error, machine, rate};

/// Points of a parent's learning curve.
const POINTS: usize = 20;

/// The parent of `spec`: from the run's folder if it is there, else trained (or read) and written there.
pub fn prepare(
    shared: &SharedWork<'_>,
    run: &Run,
    spec: &ParentSpec,
    threads: usize,
    checkpoints: &Checkpoints,
    mut progress: impl FnMut(usize, usize, &CurvePoint),
) -> Result<Parent, Error> {
    let path = run.parent_weights_path(&spec.id);
    if run.parent(&spec.id)?.is_some()
        && let Some(bytes) = run.parent_weights(&spec.id)?
    {
        let network = safetensors::from_bytes(&bytes)?;
        return Ok(measure(shared, spec, network, threads)?.parent);
    }
    let begin = Instant::now();
    let TrainedParent { network, curve, earlier } = match &shared.context.given {
        Some(network) => TrainedParent { network: network.clone(), curve: Vec::new(), earlier: 0.0 },
        None => {
            let rate = rate::of_parents(shared, run, threads, checkpoints)?;
            train(shared, spec, rate, threads, checkpoints, &mut progress)?
        }
    };
    let train_seconds = earlier + begin.elapsed().as_secs_f64();
    let Measured { parent, validation, test } = measure(shared, spec, network, threads)?;
    for (outcome, set, name) in
        [(&validation, ImageSet::Validation, "validation"), (&test, ImageSet::WholeTest, "test")]
    {
        if outcome.evaluation.loss.is_finite() {
            continue;
        }
        let images = shared.sequence(set);
        let reason = nettriage_train::first_non_finite(&parent.network, &images, 0..images.len())?;
        return Err(Error::Request(format!(
            "the parent's loss on the {name} images is infinite or NaN: {}; examine another network",
            reason.unwrap_or_else(|| "its outputs are too large".to_owned())
        )));
    }
    let total = cost::total(&parent.network.graph)?;
    // Weights first: a record means that the weights beside it are complete.
    safetensors::save(&parent.network, &path)?;
    run.write_parent(&ParentRecord {
        version: VERSION,
        id: spec.id.clone(),
        seed: spec.seed,
        validation: validation.evaluation,
        test: test.evaluation,
        test_correct: test.correct,
        curve,
        validation_seen: shared.context.given.is_some().then(|| shared.context.validation_may_be_seen()),
        cost: Cost { parameters: total.parameters, macs: total.macs },
        clock: Clock {
            train_seconds,
            seconds: earlier + begin.elapsed().as_secs_f64(),
            inference: None,
            finished: nettriage_records::unix_time(),
            machine: Some(machine(shared.context.device())),
        },
    })?;
    checkpoints.remove(&spec.id);
    Ok(parent)
}

/// A parent after its training.
struct TrainedParent {
    network: Network,
    curve: Vec<CurvePoint>,
    /// Seconds of its training in processes that were interrupted.
    earlier: f64,
}

struct Measured {
    parent: Parent,
    validation: Outcome,
    test: Outcome,
}

fn measure(shared: &SharedWork<'_>, spec: &ParentSpec, network: Network, threads: usize) -> Result<Measured, Error> {
    let exact = shared.context.study.children.exact;
    let batch = shared.context.device().evaluation_batch();
    let options = Options { threads, exact, ..Options::inference(batch) };
    let mut model = shared.context.device().model(&network, &options)?;
    let mut over = |set: ImageSet| -> Result<Outcome, Error> {
        let mut images = shared.activations(&images(spec, &network, set, batch, threads))?;
        let labels = images.labels();
        Ok(evaluate(&mut model, &mut images, &labels, shared.context.classes(), None)?)
    };
    let validation = over(ImageSet::Validation)?;
    let test = over(ImageSet::WholeTest)?;
    let parent = Parent {
        id: spec.id.clone(),
        network,
        validation_choices: validation.choices.clone(),
        test_choices: test.choices.clone(),
        validation_top1: validation.evaluation.top1,
    };
    Ok(Measured { parent, validation, test })
}

/// The images of a set, as the parent takes them.
fn images<'r>(spec: &'r ParentSpec, network: &'r Network, set: ImageSet, batch: usize, threads: usize) -> Request<'r> {
    Request { id: &spec.id, network, tensor: INPUT, set, batch, threads }
}

fn train(
    shared: &SharedWork<'_>,
    spec: &ParentSpec,
    rate: f32,
    threads: usize,
    checkpoints: &Checkpoints,
    progress: &mut impl FnMut(usize, usize, &CurvePoint),
) -> Result<TrainedParent, Error> {
    let begin = Instant::now();
    let context = shared.context;
    let training = context.study.parent.training.as_ref();
    let training = training.ok_or_else(|| Error::Request("[parent] with `arch` needs [parent.training]".into()))?;
    let exact = context.study.children.exact;
    let mut rng = seed::rng("parent's weights", &[&spec.seed.to_string()]);
    let mut network = Network::initialised(context.graph.clone(), &mut rng)?;
    network.weights.extend(context.constants.clone());
    let found = checkpoints.find(&spec.id, &network.weights)?;
    if let Some(found) = &found {
        network.weights = tensors_of(&found.tensors, NETWORK);
    }
    let evaluation_batch = context.device().evaluation_batch();
    let inference = Options { threads, exact, ..Options::inference(evaluation_batch) };
    let mut evaluator = context.device().model(&network, &inference)?;
    let source = |set, batch| shared.activations(&images(spec, &network, set, batch, threads));
    let mut stream = source(ImageSet::ParentStream(spec.seed), training.batch)?;
    let mut validation = source(ImageSet::Validation, evaluation_batch)?;
    let (labels, validation_labels) = (stream.labels(), validation.labels());
    let hyper = HyperParameters {
        batch: training.batch,
        rate,
        schedule: training.schedule,
        recipe: training.recipe,
        clip: training.clip,
        dropout_seed: seed::seed("parent's dropout", &[&spec.seed.to_string()]),
    };
    let total = stream.len();
    // A batch beyond the images would take memory for none of them.
    let batch = training.batch.min(total).max(1);
    let options = Options {
        threads,
        exact,
        decay_all: training.recipe.decay_all,
        ..Options::training(batch, training.optimizer)
    };
    let mut model = context.device().model(&network, &options)?;
    let mut recorder = CurveRecorder::new(total, POINTS);
    let mut curve: Vec<CurvePoint> = Vec::new();
    let (mut taken, mut earlier, mut average) = (0, 0.0, None);
    if let Some(found) = found {
        average = Some(tensors_of(&found.tensors, AVERAGE));
        (taken, earlier) = (found.state.step, found.state.seconds.1);
        restore_optimizer(&mut model, &found.tensors, found.state.optimizer_steps)?;
        recorder.resume(total.min(taken * training.batch), found.state.loss);
        curve = found.state.curve;
    }
    let mut writer = checkpoints.of(&spec.id);
    let after = |trained: Trained<'_>, step: StageStep| -> Result<(), Error> {
        if let Some(train_loss) = recorder.step(&step, step.seen) {
            evaluator.set_weights(&trained.weights()?)?;
            let found =
                evaluate(&mut evaluator, &mut validation, &validation_labels, context.classes(), None)?.evaluation;
            let point = CurvePoint {
                examples: step.seen as u64,
                stage: 0,
                train_loss: Some(train_loss),
                validation_top1: found.top1,
                validation_loss: found.loss,
            };
            progress(step.seen, total, &point);
            curve.push(point);
        }
        if !writer.is_due() {
            return Ok(());
        }
        let mut tensors = Tensors::new();
        add_tensors(&mut tensors, NETWORK, &trained.model.weights()?);
        add_tensors(&mut tensors, AVERAGE, &trained.averaged());
        let seconds = earlier + begin.elapsed().as_secs_f64();
        let state = TrainingState {
            stage: 0,
            step: step.taken,
            optimizer_steps: add_optimizer(&mut tensors, trained.model)?,
            curve: curve.clone(),
            best: None,
            loss: recorder.loss(),
            seconds: (seconds, seconds),
        };
        let instructions = context.device().arithmetic();
        Ok(writer.write(&Checkpoint { instructions, state, tensors })?)
    };
    let input = StageInput { source: &mut stream, labels: &labels, images: 0..total, taken, average };
    let (outcome, weights) = run_stage(&mut model, input, &mut Objective::CrossEntropy, &hyper, after)?;
    network.weights.extend(weights);
    if outcome == StageOutcome::Diverged {
        let images = shared.sequence(ImageSet::ParentStream(spec.seed));
        let reason = nettriage_train::first_non_finite(&network, &images, 0..batch)?;
        return Err(Error::Request(format!(
            "the parent of seed {} diverged: its loss is infinite or NaN{}; try a smaller [parent.training] rate, or clip",
            spec.seed,
            reason.map_or(String::new(), |reason| format!(" ({reason})"))
        )));
    }
    drop(stream);
    Ok(TrainedParent { network, curve, earlier })
}
