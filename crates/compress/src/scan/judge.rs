//! Judging: the whole network's predictions with a substitute in a range's place.

use std::sync::Mutex;

use nettriage_engine::{Model, Options as Run};
use nettriage_net::{INPUT, Network, slice};

use super::images::Images;
use super::options::Options;
use super::parallel::in_parallel;
use crate::Error;

/// Images in a forward pass.
pub const BATCH: usize = 50;

/// The network as it is, on the judged images.
pub struct Reference {
    /// Predicted classes.
    pub predictions: Vec<u16>,
    /// Logarithms of the class probabilities, classes after one another.
    pub log_probabilities: Vec<f32>,
    /// Whether each is right, if there are labels.
    pub right: Option<Vec<bool>>,
    classes: usize,
}

/// Results on the judged images.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Images judged.
    pub images: usize,
    /// Right predictions, if there are labels.
    pub right: Option<usize>,
    /// Right before and wrong now; wrong before and right now.
    pub changed: [usize; 2],
    /// Predictions that are unchanged.
    pub agreed: usize,
    /// Sum of the Kullback-Leibler divergences from the parent.
    pub divergence: f64,
}

impl Reference {
    /// Runs the network on the judged images.
    pub fn new(network: &Network, images: &Images<'_>, options: &Options) -> Result<Reference, Error> {
        let classes = network.graph.output_shape()?.elements();
        let run = Run { threads: options.threads, exact: options.exact, ..Run::inference(BATCH) };
        let mut model = Model::new(network, &run)?;
        let mut reference = Reference { predictions: Vec::new(), log_probabilities: Vec::new(), right: None, classes };
        images.each(0..images.count, network.graph.input.elements(), BATCH, |_, input| {
            for logits in model.forward(input).chunks_exact(classes) {
                reference.predictions.push(prediction(logits));
                reference.log_probabilities.extend(log_softmax(logits));
            }
        });
        if let Some(labels) = &images.labels {
            reference.right =
                Some(labels.iter().zip(&reference.predictions).map(|(label, choice)| label == choice).collect());
        }
        Ok(reference)
    }

    /// Share of right predictions, if there are labels.
    pub fn accuracy(&self) -> Option<f64> {
        let right = self.right.as_ref()?;
        Some(right.iter().filter(|right| **right).count() as f64 / right.len().max(1) as f64)
    }

    /// Adds the images from `first` on, by their logits, to a verdict.
    pub fn add(&self, verdict: &mut Verdict, labels: Option<&[u16]>, first: usize, logits: &[f32]) {
        for (n, logits) in logits.chunks_exact(self.classes).enumerate() {
            let image = first + n;
            let predicted = prediction(logits);
            verdict.images += 1;
            verdict.agreed += usize::from(predicted == self.predictions[image]);
            if let (Some(labels), Some(right)) = (labels, &self.right) {
                let now = labels[image] == predicted;
                *verdict.right.get_or_insert(0) += usize::from(now);
                verdict.changed[0] += usize::from(right[image] && !now);
                verdict.changed[1] += usize::from(!right[image] && now);
            }
            let parent = &self.log_probabilities[image * self.classes..(image + 1) * self.classes];
            let divergence = |(p, q): (&f32, f32)| f64::from(*p).exp() * (f64::from(*p) - f64::from(q));
            verdict.divergence += parent.iter().zip(log_softmax(logits)).map(divergence).sum::<f64>().max(0.0);
        }
    }
}

impl Verdict {
    /// Percentage points that the accuracy falls by, with the 95% interval for paired shares of Agresti and Min
    /// (Statistics in Medicine 24, 2005): Wald's, half an image added to each of the four counts.
    pub fn drop(&self) -> Option<[f64; 3]> {
        self.right?;
        let n = self.images as f64;
        let [lost, won] = self.changed.map(|count| count as f64);
        let [b, c] = [lost + 0.5, won + 0.5];
        let centre = (b - c) / (n + 2.0);
        let error = ((b + c) / (n + 2.0) - centre * centre).max(0.0).sqrt() / (n + 2.0).sqrt();
        Some([100.0 * (lost - won) / n, 100.0 * (centre - 1.96 * error), 100.0 * (centre + 1.96 * error)])
    }
}

/// The index of the largest logit, the first of equals.
fn prediction(logits: &[f32]) -> u16 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|&x| x == largest).unwrap_or(0) as u16
}

fn log_softmax(logits: &[f32]) -> impl Iterator<Item = f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - largest).exp()).sum();
    let shift = largest + sum.ln() as f32;
    logits.iter().map(move |x| x - shift)
}

/// Substitutes with their weights, judged in the place of one range.
pub struct Task {
    /// The range's output tensor.
    pub output: String,
    /// From the range's input to its output, each a network of its own.
    pub substitutes: Vec<Network>,
}

/// One verdict for every substitute of every task; all ranges begin at `input`.
pub fn judge(
    network: &Network,
    input: &str,
    tasks: &[Task],
    images: &Images<'_>,
    reference: &Reference,
    options: &Options,
) -> Result<Vec<Vec<Verdict>>, Error> {
    let elements = network.graph.shape_of(input)?.elements();
    // As many images at a time as fit half the memory; the rest is for the models.
    let slab = (options.memory / 2 / (4 * elements).max(1) / BATCH * BATCH).clamp(BATCH, images.count.max(BATCH));
    let verdicts: Vec<Mutex<Vec<Verdict>>> =
        tasks.iter().map(|t| Mutex::new(vec![Verdict::default(); t.substitutes.len()])).collect();
    let failure = Mutex::new(None);
    for first in (0..images.count).step_by(slab) {
        let count = slab.min(images.count - first);
        let tensor = inner(network, input, images, first, count, options)?;
        in_parallel(tasks.len(), options.threads, &|index| {
            let mut verdicts = verdicts[index].lock().expect("no holder of this lock panics");
            let result =
                one(network, &tasks[index], &tensor, elements, first, images, reference, options, &mut verdicts);
            if let Err(error) = result {
                *failure.lock().expect("no holder of this lock panics") = Some(error);
            }
        });
    }
    if let Some(error) = failure.into_inner().expect("no holder of this lock panics") {
        return Err(error);
    }
    Ok(verdicts.into_iter().map(|v| v.into_inner().expect("no holder of this lock panics")).collect())
}

/// A tensor's values on some images.
fn inner(
    network: &Network,
    tensor: &str,
    images: &Images<'_>,
    first: usize,
    count: usize,
    options: &Options,
) -> Result<Vec<f32>, Error> {
    let head = slice::between(network, INPUT, tensor)?;
    let run = Run { threads: options.threads, exact: options.exact, ..Run::inference(BATCH) };
    let mut model = Model::new(&head, &run)?;
    let mut values = Vec::with_capacity(count * head.graph.output_shape()?.elements());
    images.each(first..first + count, network.graph.input.elements(), BATCH, |_, input| {
        values.extend_from_slice(model.forward(input));
    });
    Ok(values)
}

#[expect(clippy::too_many_arguments, reason = "one task's whole surroundings, in one place")]
fn one(
    network: &Network,
    task: &Task,
    tensor: &[f32],
    elements: usize,
    first: usize,
    images: &Images<'_>,
    reference: &Reference,
    options: &Options,
    verdicts: &mut [Verdict],
) -> Result<(), Error> {
    let run = Run { exact: options.exact, ..Run::inference(BATCH) };
    let mut tail = Model::new(&slice::between(network, &task.output, &network.graph.output)?, &run)?;
    for (substitute, verdict) in task.substitutes.iter().zip(verdicts) {
        let mut model = Model::new(substitute, &run)?;
        for (n, batch) in tensor.chunks(BATCH * elements).enumerate() {
            let logits = tail.forward(model.forward(batch));
            reference.add(verdict, images.labels.as_deref(), first + n * BATCH, logits);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_a_drop_matches_the_formula_of_agresti_and_min() {
        // Agresti and Min's formula by hand, for 40 lost and 15 won of 1,000.
        let verdict = Verdict { images: 1000, right: Some(700), changed: [40, 15], agreed: 900, divergence: 0.0 };
        let [drop, low, high] = verdict.drop().unwrap();
        assert_eq!(drop, 2.5);
        let (centre, spread) = (25.0 / 1002.0, (56.0 / 1002.0 - (25.0f64 / 1002.0).powi(2)).sqrt() / 1002.0f64.sqrt());
        assert!((low - 100.0 * (centre - 1.96 * spread)).abs() < 1e-9);
        assert!((high - 100.0 * (centre + 1.96 * spread)).abs() < 1e-9);
        assert_eq!(Verdict::default().drop(), None);
    }
}
