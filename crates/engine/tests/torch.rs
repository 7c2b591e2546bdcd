//! Whole training runs, compared with losses that PyTorch computed (`torch_losses.py` beside this file).

mod common;

use common::hashed;
use common::peers::{hashed_images, images, labels, residual, vgg};
use nettriage_engine::{Model, Optimizer, Options, Schedule, WeightAverage, loss};
use nettriage_net::Shape;
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    name: String,
    network: Spec,
    batch: usize,
    optimizer: Optimizer,
    schedule: Schedule,
    rate: f32,
    clip: Option<f32>,
    #[serde(default)]
    label_smoothing: f32,
    #[serde(default = "yes")]
    decay_all: bool,
    /// Decay of the average of the weights, which the last loss is then of.
    #[serde(default)]
    average: Option<f32>,
    /// Distillation of the logits and of the ends of the units, in place of cross-entropy.
    #[serde(default)]
    distilled: Option<Distilled>,
    /// The losses of twelve training steps, and then one in evaluation mode; computed in f64.
    losses: Vec<f64>,
}

#[derive(Deserialize)]
struct Distilled {
    temperature: f32,
    alpha: f32,
    beta: f32,
}

/// The ends of the units of [`residual`].
const ENDS: [&str; 2] = ["ar2", "br2"];

impl Distilled {
    /// The loss of the last pass, whose gradients it writes: of the logits, and of the ends.
    fn loss(
        &self,
        model: &Model,
        shapes: &[Shape; 2],
        logits: &[f32],
        gradients: (&mut [f32], &mut Vec<Vec<f32>>),
    ) -> f64 {
        let (gradient, inner) = gradients;
        let labels = labels(logits.len() / 10);
        let teacher = hashed(logits.len(), 2000, 3.0);
        let mut sum = loss::distillation(logits, &teacher, &labels, 10, self.temperature, self.alpha, gradient);
        inner.clear();
        for (end, shape) in ENDS.into_iter().zip(shapes) {
            let stream = 2001 + inner.len() as u32;
            let target = hashed_images(labels.len(), *shape, stream, (stream - 2000) as f32);
            let count = target.len() as f64;
            let mean = target.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
            let variance = target.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / count;
            let weight = (f64::from(self.beta) / ENDS.len() as f64 / variance) as f32;
            let mut own = vec![0.0; target.len()];
            sum += loss::weighted_mean_squared(model.activation(end).unwrap(), &target, weight, &mut own);
            inner.push(own);
        }
        sum
    }
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Spec {
    Vgg { plan: Vec<usize>, channels: usize, size: usize, batch_norm: bool },
    Residual { residual: [usize; 2], channels: usize, size: usize },
}

#[test]
fn losses_match_pytorch() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("torch_losses.json")).expect("the stored cases");
    assert_eq!(cases.len(), 6);
    for case in &cases {
        for exact in [true, false] {
            let network = match &case.network {
                Spec::Vgg { plan, channels, size, batch_norm } => vgg(plan, *channels, *size, *batch_norm),
                Spec::Residual { residual: [narrow, wide], channels, size } => {
                    residual(*narrow, *wide, *channels, *size)
                }
            };
            let decay_all = case.decay_all;
            let compared = case.distilled.iter().flat_map(|_| ENDS.map(str::to_owned)).collect();
            let training = Options::training(case.batch, case.optimizer);
            let options = Options { threads: 2, exact, decay_all, compared, ..training };
            let mut inner = Vec::new();
            let mut model = Model::new(&network, &options).expect("a model");
            let (images, labels) = (images(case.batch, network.graph.input), labels(case.batch));
            let mut gradient = vec![0.0; case.batch * 10];
            let mut average = case.average.map(WeightAverage::new);
            let steps = case.losses.len() - 1;
            // PyTorch's one-cycle schedule counts one step after the last training step.
            let total = if case.schedule == Schedule::OneCycle { steps + 1 } else { steps };
            for (step, &want) in case.losses[..steps].iter().enumerate() {
                let logits = model.forward_train(&images, step as u64).to_vec();
                let got = match &case.distilled {
                    Some(distilled) => {
                        let shapes = ENDS.map(|end| network.graph.shape_of(end).unwrap());
                        distilled.loss(&model, &shapes, &logits, (&mut gradient, &mut inner))
                    }
                    None => loss::smoothed_cross_entropy(&logits, &labels, 10, case.label_smoothing, &mut gradient),
                };
                let error = (got - want).abs() / want;
                println!("{} (exact {exact}), step {step}: {got:.7}, {want:.7}: {error:.1e}", case.name);
                // Winograd F(4x4, 3x3) has ten times the rounding error of a direct sum, and training amplifies it.
                let tolerance = if exact || step < 6 { 1e-4 } else { 1e-3 };
                assert!(error < tolerance, "{} (exact {exact}), step {step}: {got}, not {want}", case.name);
                model.backward_with(&images, &gradient, &inner);
                model.step(case.schedule.rate(case.rate, step, total), case.clip);
                if let Some(average) = &mut average {
                    average.update(&model.weights(), |name| model.trains(name));
                }
            }
            average.iter().for_each(|average| model.set_weights(average.weights()).unwrap());
            let got = loss::cross_entropy(model.forward(&images), &labels, 10, &mut gradient);
            let want = case.losses[steps];
            assert!(
                (got - want).abs() / want < if exact { 2e-4 } else { 1e-3 },
                "{} (exact {exact}), evaluation: {got}, not {want}",
                case.name
            );
        }
    }
}
