//! The learning-rate range test: a short training whose rate grows from step to step, and the largest rate that it recommends.
//!
//! L. N. Smith, Cyclical learning rates for training neural networks, arXiv:1506.01186, section 3.3, here with exponential growth. The
//! rule is at [`choose`].

use nettriage_engine::Optimizer;

use crate::Error;
use crate::model::{Model, Target};
use crate::source::ActivationSource;
use crate::training::Mixture;

/// Steps of a range test.
pub const STEPS: usize = 200;

/// The factor from the first rate to the last.
const GROWTH: f64 = 1e6;

/// Steps whose losses are averaged: this many before and after each.
const SMOOTHED: usize = 4;

/// The share of the chance loss by which a loss above the smallest has risen.
const RISE: f64 = 0.1;

/// The share of the chance loss by which the smallest loss has to be below it.
const LEARNED: f64 = 0.05;

/// The chosen rate's share of the rate at which the loss rises.
const SAFETY: f64 = 1.0 / 3.0;

/// The rule of [`choose`] in a few words.
pub const RULE: &str = "a third of the largest rate at which the smoothed loss has not risen";

/// The learning rate of a step, counted from 0. AdamW's steps have about the length of the rate, those of SGD with a momentum of 0.9
/// are about ten times the gradient's, so its rates are smaller.
pub fn rate(optimizer: &Optimizer, step: usize) -> f64 {
    let first = match optimizer {
        Optimizer::Sgd { .. } => 1e-5,
        Optimizer::AdamW { .. } => 1e-6,
    };
    first * GROWTH.powf(step as f64 / (STEPS - 1) as f64)
}

/// Settings of a range test; those that it has in common with the training that it is for are the same there.
#[derive(Clone, Copy, Debug)]
pub struct RangeSettings {
    /// Images in a step.
    pub batch: usize,
    /// The model's optimiser.
    pub optimizer: Optimizer,
    /// Share of the labels' weight that is spread over all classes.
    pub label_smoothing: f32,
    /// Largest norm of the gradient.
    pub clip: Option<f32>,
    /// Seed of the dropout masks; step k uses this plus k.
    pub dropout_seed: u64,
}

/// Trains `model` for [`STEPS`] steps, as far as the source has images, by cross-entropy. Returns the loss before every step, up to
/// the first that is not finite. `before` is called before every step.
///
/// # Errors
/// Those of the source, of the model and of `before`.
pub fn range_test<E: From<Error>>(
    model: &mut Model,
    source: &mut ActivationSource<'_>,
    settings: &RangeSettings,
    mut before: impl FnMut(usize) -> Result<(), E>,
) -> Result<Vec<f64>, E> {
    let labels = source.labels();
    let steps = STEPS.min(labels.len() / settings.batch);
    let mut losses = Vec::with_capacity(steps);
    for step in 0..steps {
        before(step)?;
        let range = step * settings.batch..(step + 1) * settings.batch;
        let mixture = Mixture::of(source, &labels, range.clone());
        let mixed = mixture.as_ref().map(Mixture::labels);
        let (classes, smoothing) = (&labels[range.clone()], settings.label_smoothing);
        let target = Target::Labels { labels: classes, smoothing, mixed };
        let seed = settings.dropout_seed.wrapping_add(step as u64);
        let loss = model.differentiate(source.batch(range)?, seed, target, &[], None)?;
        if !loss.is_finite() {
            break;
        }
        losses.push(loss);
        model.step(rate(&settings.optimizer, step) as f32, settings.clip)?;
    }
    Ok(losses)
}

/// The loss of the best constant prediction for these labels, softened by label smoothing: the entropy of their distribution, in nats.
pub fn chance_loss(labels: &[u16], classes: usize, smoothing: f32) -> f64 {
    let mut counts = vec![0u32; classes];
    labels.iter().for_each(|&label| counts[usize::from(label)] += 1);
    let smoothing = f64::from(smoothing);
    let share =
        |count: u32| (1.0 - smoothing) * f64::from(count) / labels.len().max(1) as f64 + smoothing / classes as f64;
    counts.into_iter().map(share).filter(|share| *share > 0.0).map(|share| -share * share.ln()).sum()
}

/// What a range test recommends.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The smoothed losses.
    pub smoothed: Vec<f64>,
    /// The step with the largest rate at which the smoothed loss has not risen.
    pub edge: usize,
    /// The recommended largest rate, rounded to two digits.
    pub rate: f64,
}

/// The largest rate for a training, from the `losses` before the steps of a range test; `chance` is the [`chance_loss`].
///
/// Losses are smoothed by their mean over nine steps, each cut off at twice the chance loss, so that one step that diverges does
/// not raise those before it. A smoothed loss has risen if it exceeds the smallest one by more than a tenth of the chance loss, or by
/// half of what the smallest one is below the chance loss, if that is less. The choice is a third of the largest rate at which it
/// has not risen: the loss answers to a rate only some steps later, and a training stays at its largest rate for longer than a test. The
/// rate at the smallest loss, from which others start (a tenth of it in the fastai library), lies anywhere for a network that is
/// trained already, whose curve is flat.
///
/// # Errors
/// If no loss is below the chance loss by a twentieth of it: then the test says nothing about a rate.
pub fn choose(losses: &[f64], chance: f64, optimizer: &Optimizer) -> Result<Choice, String> {
    let cut: Vec<f64> = losses.iter().map(|loss| loss.min(2.0 * chance)).collect();
    let around = |step: usize| &cut[step.saturating_sub(SMOOTHED)..cut.len().min(step + SMOOTHED + 1)];
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let smoothed: Vec<f64> = (0..cut.len()).map(|step| mean(around(step))).collect();
    let smallest = smoothed.iter().copied().fold(f64::INFINITY, f64::min);
    let gained = chance - smallest;
    if smoothed.is_empty() || gained < LEARNED * chance {
        return Err(format!(
            "its smallest loss is {smallest:.3}, not clearly below the {chance:.3} of a guess, so nothing was learned at any rate"
        ));
    }
    let most = smallest + (RISE * chance).min(0.5 * gained);
    let edge = smoothed.iter().rposition(|loss| *loss <= most).unwrap_or(0);
    let two_digits = format!("{:.1e}", SAFETY * rate(optimizer, edge));
    let rate = two_digits.parse().expect("a number in scientific notation");
    Ok(Choice { smoothed, edge, rate })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SGD: Optimizer = Optimizer::Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.0 };
    const CHANCE: f64 = std::f64::consts::LN_10;

    /// Losses that are `level` up to the step whose rate is `edge`, and grow from there, with noise between -`noise` and `noise`.
    fn curve(level: impl Fn(f64) -> f64, edge: f64, noise: f64) -> Vec<f64> {
        let loss = |step: usize| {
            let rate = rate(&SGD, step);
            let rise = (rate / edge).ln().max(0.0) * 3.0;
            // A fixed sequence without a trend.
            level(rate) + rise + noise * ((step * 7919 % 101) as f64 / 50.0 - 1.0)
        };
        (0..STEPS).map(loss).collect()
    }

    fn chosen(losses: &[f64]) -> f64 {
        choose(losses, CHANCE, &SGD).unwrap().rate
    }

    #[test]
    fn rates_grow_by_equal_factors() {
        assert!((rate(&SGD, 0) - 1e-5).abs() < 1e-12 && (rate(&SGD, STEPS - 1) - 10.0).abs() < 1e-9);
        let factors: Vec<f64> = (1..STEPS).map(|step| rate(&SGD, step) / rate(&SGD, step - 1)).collect();
        assert!(factors.iter().all(|factor| (factor - factors[0]).abs() < 1e-9));
    }

    #[test]
    fn the_rate_is_a_third_of_where_the_loss_rises() {
        // A network from random weights, which learns before it diverges, and a trained one, whose loss is flat.
        let untrained = |rate: f64| CHANCE - 1.8 * (1.0 - (-rate / 0.02).exp());
        for edge in [0.03, 0.3, 3.0] {
            for noise in [0.0, 0.3] {
                for (name, losses) in
                    [("flat", curve(|_| 0.05f64.max(noise), edge, noise)), ("untrained", curve(untrained, edge, noise))]
                {
                    let ratio = chosen(&losses) / (SAFETY * edge);
                    assert!((0.7..1.5).contains(&ratio), "{name}, {edge}, {noise}: {ratio}");
                }
            }
        }
    }

    #[test]
    fn a_loss_that_becomes_infinite_ends_the_curve() {
        let mut losses = curve(|_| 0.4, 100.0, 0.0);
        losses.truncate(150);
        let end = rate(&SGD, 149);
        assert!((chosen(&losses) / (SAFETY * end) - 1.0).abs() < 0.05);
        // One enormous loss before it does not reach back further than the mean does.
        *losses.last_mut().unwrap() = 1e30;
        let ratio = chosen(&losses) / (SAFETY * end);
        assert!((0.6..1.0).contains(&ratio), "{ratio}");
    }

    #[test]
    fn a_network_that_falls_back_to_guessing_has_not_recovered() {
        // It learns little, diverges, and then predicts the same for every image.
        let mut losses = curve(|_| CHANCE - 0.2, 0.1, 0.0);
        losses[180..].fill(CHANCE);
        let ratio = chosen(&losses) / (SAFETY * 0.1);
        assert!((0.7..1.5).contains(&ratio), "{ratio}");
    }

    #[test]
    fn a_curve_without_learning_is_refused() {
        let message = choose(&vec![CHANCE - 0.05; STEPS], CHANCE, &SGD).unwrap_err();
        assert!(message.contains("2.253") && message.contains("2.303"), "{message}");
        assert!(choose(&[], CHANCE, &SGD).is_err());
    }

    #[test]
    fn chance_is_the_entropy_of_the_labels() {
        assert!((chance_loss(&[0, 1, 2, 3], 4, 0.0) - 4f64.ln()).abs() < 1e-12);
        assert!((chance_loss(&[0, 0, 0, 1], 4, 0.0) - 0.5623351446).abs() < 1e-9);
        assert!(chance_loss(&[2, 2], 4, 0.0).abs() < 1e-12);
        assert!((chance_loss(&[0, 0, 0, 1], 4, 1.0) - 4f64.ln()).abs() < 1e-12);
    }
}
