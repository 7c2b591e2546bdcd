//! Judging: the whole network's predictions with a substitute in a range's place.

use nettriage_engine::Options as Run;
use nettriage_net::{INPUT, Network, slice};
use nettriage_records::scan::{Fidelity, Measure};

use super::images::Images;
use super::measure::{check_finite, measure};
use super::options::Options;
use crate::Error;
use crate::parallel::in_parallel;

/// Images in a forward pass.
pub const BATCH: usize = 50;

/// Temperature of the softened divergence. A confident network's probabilities hardly move until a class changes; softened ones do.
const TEMPERATURE: f64 = 4.0;

/// Bytes that the outputs of the judged images may always take.
const LEAST_MEMORY: usize = 1 << 30;

/// The network as it is, on the judged images.
pub struct Reference {
    /// How outputs are compared.
    pub measure: Measure,
    /// Predicted classes, of every row.
    predictions: Vec<u16>,
    /// Logarithms of the class probabilities, or the outputs if they are numbers: rows after one another.
    outputs: Vec<f32>,
    /// Whether each image is right, if there are labels.
    right: Option<Vec<bool>>,
    /// Of every output that is a number, the sum of squared deviations from its mean.
    deviations: Vec<f64>,
    /// Sum of all squared outputs that are numbers.
    squares: f64,
    /// Rows of an image: its positions.
    rows: usize,
    /// Values in a row: the channels.
    width: usize,
}

/// Sums over the judged images.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Images judged.
    pub images: usize,
    /// Right predictions, if there are labels.
    pub right: Option<usize>,
    /// Right before and wrong now; wrong before and right now.
    pub changed: [usize; 2],
    /// Rows whose predictions are unchanged.
    pub agreed: usize,
    /// Sum of the Kullback-Leibler divergences from the parent, over rows.
    pub divergence: f64,
    /// Sum of the same at [`TEMPERATURE`], times its square.
    pub softened: f64,
    /// Of every output that is a number, the sum of squared differences from the parent's.
    pub residuals: Vec<f64>,
}

impl Reference {
    /// Runs the network on the judged images.
    ///
    /// # Errors
    /// Outputs that cannot be judged: not finite, constant, or too large to hold.
    pub fn new(network: &Network, images: &Images<'_>, options: &Options) -> Result<Reference, Error> {
        let measure = measure(&network.graph, images.labels.is_some(), options.outputs)?;
        let shape = network.graph.output_shape()?;
        let (rows, width) = (shape.height * shape.width, shape.channels);
        let bytes = images.count.saturating_mul(size_of::<f32>() * shape.elements());
        if bytes > options.memory.max(LEAST_MEMORY) {
            return Err(Error::Request(format!(
                "{}: its outputs for {} images take {} MiB, more than --memory; judge by fewer (--judged)",
                network.graph.name,
                images.count,
                bytes >> 20
            )));
        }
        let mut reference = Reference {
            measure,
            predictions: Vec::new(),
            outputs: Vec::new(),
            right: None,
            deviations: Vec::new(),
            squares: 0.0,
            rows,
            width,
        };
        let run = Run { threads: options.threads, exact: options.exact, ..Run::inference(BATCH) };
        let mut model = options.device.model(network, &run)?;
        images.each(0..images.count, network.graph.input.elements(), BATCH, |first, input| {
            let outputs = model.forward(input)?;
            check_finite(network, first, input, outputs)?;
            match measure {
                Measure::Values => reference.outputs.extend_from_slice(outputs),
                Measure::Accuracy | Measure::Classes | Measure::DenseClasses => {
                    for logits in outputs.chunks_exact(width) {
                        reference.predictions.push(prediction(logits));
                        reference.outputs.extend(log_softmax(logits, 1.0).map(|x| x.max(f64::from(f32::MIN)) as f32));
                    }
                }
            }
            Ok::<(), Error>(())
        })?;
        if let Some(labels) = &images.labels {
            reference.right =
                Some(labels.iter().zip(&reference.predictions).map(|(label, choice)| label == choice).collect());
        }
        if measure == Measure::Values {
            reference.spread(&network.graph.name)?;
        }
        Ok(reference)
    }

    /// The spread of every output, which R² relates differences to.
    fn spread(&mut self, name: &str) -> Result<(), Error> {
        let count = (self.outputs.len() / self.width).max(1) as f64;
        let mut means = vec![0.0; self.width];
        for row in self.outputs.chunks_exact(self.width) {
            means.iter_mut().zip(row).for_each(|(mean, &y)| *mean += f64::from(y) / count);
        }
        self.deviations = vec![0.0; self.width];
        for row in self.outputs.chunks_exact(self.width) {
            for ((sum, mean), &y) in self.deviations.iter_mut().zip(&means).zip(row) {
                *sum += (f64::from(y) - mean).powi(2);
                self.squares += f64::from(y).powi(2);
            }
        }
        // Rounding leaves a constant output with about the square of its last digit.
        for (sum, mean) in self.deviations.iter_mut().zip(&means) {
            if *sum <= count * (mean * f64::from(f32::EPSILON)).powi(2) {
                *sum = 0.0;
            }
        }
        if self.deviations.iter().all(|&sum| sum == 0.0) {
            let problem = "its outputs are the same for all judged images, so no loss can be measured; judge by others";
            return Err(Error::Request(format!("{name}: {problem}")));
        }
        Ok(())
    }

    /// Share of right predictions, if there are labels.
    pub fn accuracy(&self) -> Option<f64> {
        let right = self.right.as_ref()?;
        Some(right.iter().filter(|right| **right).count() as f64 / right.len().max(1) as f64)
    }

    /// Adds the images from `first` on, by their outputs, to a verdict.
    pub fn add(&self, verdict: &mut Verdict, labels: Option<&[u16]>, first: usize, outputs: &[f32]) {
        verdict.images += outputs.len() / (self.rows * self.width);
        let start = first * self.rows;
        let own = self.outputs[start * self.width..].chunks_exact(self.width);
        if self.measure == Measure::Values {
            verdict.residuals.resize(self.width, 0.0);
            for (before, after) in own.zip(outputs.chunks_exact(self.width)) {
                for ((sum, &y), &x) in verdict.residuals.iter_mut().zip(before).zip(after) {
                    *sum += (f64::from(y) - f64::from(x)).powi(2);
                }
            }
            return;
        }
        for (n, (parent, logits)) in own.zip(outputs.chunks_exact(self.width)).enumerate() {
            let row = start + n;
            let predicted = prediction(logits);
            verdict.agreed += usize::from(predicted == self.predictions[row]);
            // With labels an image has one row.
            if let (Some(labels), Some(right)) = (labels, &self.right) {
                let now = labels[row] == predicted;
                *verdict.right.get_or_insert(0) += usize::from(now);
                verdict.changed[0] += usize::from(right[row] && !now);
                verdict.changed[1] += usize::from(!right[row] && now);
            }
            verdict.divergence += divergence(log_softmax(parent, 1.0), log_softmax(logits, 1.0));
            let softened = divergence(log_softmax(parent, TEMPERATURE), log_softmax(logits, TEMPERATURE));
            verdict.softened += TEMPERATURE.powi(2) * softened;
        }
    }

    /// How closely a network follows this one, by the sums over its images.
    pub fn fidelity(&self, verdict: &Verdict) -> Fidelity {
        if self.measure != Measure::Values {
            let rows = (verdict.images * self.rows).max(1) as f64;
            return Fidelity::Classes {
                agreement: verdict.agreed as f64 / rows,
                divergence: verdict.divergence / rows,
                softened: Some(verdict.softened / rows),
            };
        }
        // An output that is the same for all images has no R².
        let spread = verdict.residuals.iter().zip(&self.deviations).enumerate().filter(|(_, (_, sum))| **sum > 0.0);
        let scores: Vec<(usize, f64)> =
            spread.map(|(output, (residual, sum))| (output, 1.0 - residual / sum)).collect();
        let (worst, r2) =
            scores.iter().copied().reduce(|a, b| if b.1 < a.1 { b } else { a }).unwrap_or((0, f64::NEG_INFINITY));
        let mean_r2 = scores.iter().map(|(_, score)| score).sum::<f64>() / scores.len().max(1) as f64;
        let residual: f64 = verdict.residuals.iter().sum();
        let relative_error = (residual / self.squares.max(f64::MIN_POSITIVE)).sqrt();
        Fidelity::Values { r2, worst, mean_r2, relative_error }
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

/// The logarithms of the class probabilities at a temperature.
fn log_softmax(logits: &[f32], temperature: f64) -> impl Iterator<Item = f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let scaled = move |x: &f32| (f64::from(*x) - f64::from(largest)) / temperature;
    let sum: f64 = logits.iter().map(|x| scaled(x).exp()).sum();
    let shift = sum.ln();
    logits.iter().map(move |x| scaled(x) - shift)
}

/// The Kullback-Leibler divergence of `other` from `own`, logarithms of probabilities; rounding does not take it below 0.
fn divergence(own: impl Iterator<Item = f64>, other: impl Iterator<Item = f64>) -> f64 {
    own.zip(other).map(|(p, q)| p.exp() * (p - q)).sum::<f64>().max(0.0)
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
    let mut verdicts: Vec<Vec<Verdict>> =
        tasks.iter().map(|task| vec![Verdict::default(); task.substitutes.len()]).collect();
    for first in (0..images.count).step_by(slab) {
        let count = slab.min(images.count - first);
        let tensor = inner(network, input, images, first, count, options)?;
        let done = in_parallel(tasks.iter().zip(&mut verdicts), options.threads, &|(task, verdicts)| {
            one(network, task, &tensor, elements, first, images, reference, options, verdicts)
        });
        done.into_iter().collect::<Result<(), Error>>()?;
    }
    Ok(verdicts)
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
    let mut model = options.device.model(&head, &run)?;
    let mut values = Vec::with_capacity(count * head.graph.output_shape()?.elements());
    images.each(first..first + count, network.graph.input.elements(), BATCH, |_, input| {
        values.extend_from_slice(model.forward(input)?);
        Ok::<(), Error>(())
    })?;
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
    let mut tail = options.device.model(&slice::between(network, &task.output, &network.graph.output)?, &run)?;
    for (substitute, verdict) in task.substitutes.iter().zip(verdicts) {
        let mut model = options.device.model(substitute, &run)?;
        for (n, batch) in tensor.chunks(BATCH * elements).enumerate() {
            let outputs = tail.forward(model.forward(batch)?)?;
            if !outputs.iter().all(|value| value.is_finite()) {
                let layers = substitute.graph.layers.first().map_or(task.output.as_str(), |layer| &layer.name);
                return Err(Error::Request(format!(
                    "{}: with the substitute {layers} its outputs are not finite; leave that range out or choose other --substitutes",
                    network.graph.name
                )));
            }
            reference.add(verdict, images.labels.as_deref(), first + n * BATCH, outputs);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_divergence_at_a_high_temperature_is_the_logits_squared_difference() {
        let (own, other) = ([3.0, 1.0, -2.0, 0.5], [2.0, 1.5, -2.5, 0.5]);
        let at = |temperature: f64| divergence(log_softmax(&own, temperature), log_softmax(&other, temperature));
        // By hand: Σ p ln(p / q).
        let probabilities = |logits: [f64; 4]| logits.map(|x| x.exp() / logits.map(f64::exp).iter().sum::<f64>());
        let (p, q) = (probabilities([3.0, 1.0, -2.0, 0.5]), probabilities([2.0, 1.5, -2.5, 0.5]));
        let expected: f64 = p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum();
        assert!((at(1.0) - expected).abs() < 1e-12, "{} {expected}", at(1.0));
        // Hinton et al., arXiv:1503.02531, section 2.1: half the mean squared difference of the centred logits, over T².
        let differences = [1.0, -0.5, 0.5, 0.0f64];
        let mean = differences.iter().sum::<f64>() / 4.0;
        let squares = differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / 4.0;
        assert!((at(1e4) * 1e8 / (0.5 * squares) - 1.0).abs() < 1e-3, "{}", at(1e4) * 1e8);
        // Logits whose difference overflows f32.
        let far = divergence(log_softmax(&[f32::MAX, 0.0], 1.0), log_softmax(&[-f32::MAX, f32::MAX], 1.0));
        assert!((far / f64::from(f32::MAX) - 2.0).abs() < 1e-6, "{far}");
        assert_eq!(divergence(log_softmax(&[f32::MAX, -f32::MAX], 1.0), log_softmax(&[9.0, -f32::MAX], 1.0)), 0.0);
    }

    #[test]
    fn the_interval_of_a_drop_matches_the_formula_of_agresti_and_min() {
        // Agresti and Min's formula by hand, for 40 lost and 15 won of 1,000.
        let verdict = Verdict { images: 1000, right: Some(700), changed: [40, 15], agreed: 900, ..Verdict::default() };
        let [drop, low, high] = verdict.drop().unwrap();
        assert_eq!(drop, 2.5);
        let (centre, spread) = (25.0 / 1002.0, (56.0 / 1002.0 - (25.0f64 / 1002.0).powi(2)).sqrt() / 1002.0f64.sqrt());
        assert!((low - 100.0 * (centre - 1.96 * spread)).abs() < 1e-9);
        assert!((high - 100.0 * (centre + 1.96 * spread)).abs() < 1e-9);
        assert_eq!(Verdict::default().drop(), None);
    }
}
