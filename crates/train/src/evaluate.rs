//! Accuracy, loss, calibration and agreement over a sequence of images.

use base64::Engine as _;
use nettriage_records::record::Evaluation;

use crate::source::ActivationSource;
use crate::{Error, Model};

/// Images in a forward pass on the processor: as fast as larger batches, with small buffers.
pub(crate) const EVALUATION_BATCH: usize = 32;

/// Bins of the expected calibration error.
const BINS: usize = 15;

/// An evaluation with its results image by image.
#[derive(Clone)]
pub struct Outcome {
    /// The means over all images.
    pub evaluation: Evaluation,
    /// Predicted class of every image.
    pub choices: Vec<u16>,
    /// Whether the prediction is right, one bit per image, most significant bit first, base64.
    pub correct: String,
}

/// Runs `model` over all images of `source`, in batches as large as those of the source.
///
/// `parent` holds the parent's predictions; with none, agreement is 1 (a parent agrees with itself).
///
/// # Errors
/// Those of the source and of the model.
pub fn evaluate(
    model: &mut Model,
    source: &mut ActivationSource<'_>,
    labels: &[u16],
    classes: usize,
    parent: Option<&[u16]>,
) -> Result<Outcome, Error> {
    let mut tally = Tally::new(labels, classes, parent);
    for start in (0..source.len()).step_by(source.largest_batch()) {
        let range = start..source.len().min(start + source.largest_batch());
        let logits = model.forward(source.batch(range)?)?;
        logits.chunks_exact(classes).for_each(|logits| tally.add(logits));
    }
    Ok(tally.finish())
}

/// Sums over images, added one after the other.
pub struct Tally<'a> {
    labels: &'a [u16],
    parent: Option<&'a [u16]>,
    choices: Vec<u16>,
    bits: Vec<u8>,
    correct: u64,
    among_five: u64,
    agreed: u64,
    loss: f64,
    /// Images, right predictions and summed confidence, per bin.
    bins: [(u64, u64, f64); BINS],
    /// Images and right predictions, per class.
    per_class: Vec<(u64, u64)>,
}

impl<'a> Tally<'a> {
    /// No image yet; `labels` and the parent's predictions are in the order in which images will be added.
    pub fn new(labels: &'a [u16], classes: usize, parent: Option<&'a [u16]>) -> Tally<'a> {
        Tally {
            labels,
            parent,
            choices: Vec::with_capacity(labels.len()),
            bits: vec![0; labels.len().div_ceil(8)],
            correct: 0,
            among_five: 0,
            agreed: 0,
            loss: 0.0,
            bins: [(0, 0, 0.0); BINS],
            per_class: vec![(0, 0); classes],
        }
    }

    /// Adds the next image by its logits, one per class.
    pub fn add(&mut self, logits: &[f32]) {
        let image = self.choices.len();
        let label = self.labels[image] as usize;
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        // The first of equals, as argmax in NumPy and PyTorch; a NaN is never the largest; class 0 if all are NaN.
        let choice = logits.iter().position(|&x| x == largest).unwrap_or(0);
        let sum: f64 = logits.iter().map(|&x| f64::from(x - largest).exp()).sum();
        let log_sum = sum.ln() + f64::from(largest);
        let right = choice == label;
        // Ties count against the label: it is in the top five only if fewer than five other logits are as large.
        let better = logits.iter().enumerate().filter(|&(c, &x)| c != label && x >= logits[label]).count();

        self.loss += log_sum - f64::from(logits[label]);
        self.correct += u64::from(right);
        self.among_five += u64::from(right || better < 5);
        self.agreed += u64::from(self.parent.is_none_or(|p| p[image] as usize == choice));
        let confidence = 1.0 / sum;
        let bin = &mut self.bins[((confidence * BINS as f64).ceil() as usize).clamp(1, BINS) - 1];
        *bin = (bin.0 + 1, bin.1 + u64::from(right), bin.2 + confidence);
        let class = &mut self.per_class[label];
        *class = (class.0 + 1, class.1 + u64::from(right));
        self.bits[image / 8] |= u8::from(right) << (7 - image % 8);
        self.choices.push(choice as u16);
    }

    /// The evaluation.
    pub fn finish(self) -> Outcome {
        let images = self.choices.len() as u64;
        let share = |count: u64, of: u64| if of == 0 { 0.0 } else { count as f64 / of as f64 };
        let gaps = self.bins.iter().map(|&(_, right, confidence)| (right as f64 - confidence).abs());
        let evaluation = Evaluation {
            images,
            correct: self.correct,
            top1: share(self.correct, images),
            top5: share(self.among_five, images),
            loss: self.loss / images.max(1) as f64,
            calibration_error: gaps.sum::<f64>() / images.max(1) as f64,
            agreement: share(self.agreed, images),
            per_class: self.per_class.iter().map(|&(all, right)| share(right, all)).collect(),
        };
        let correct = base64::engine::general_purpose::STANDARD.encode(&self.bits);
        Outcome { evaluation, choices: self.choices, correct }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_hand() {
        let labels = [0, 1, 6];
        let mut tally = Tally::new(&labels, 7, Some(&[0, 0, 0]));
        tally.add(&[2.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]); // right, agrees
        tally.add(&[2.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]); // wrong, among five, agrees
        tally.add(&[0.0, 9.0, 8.0, 7.0, 6.0, 5.0, -1.0]); // wrong, not among five
        let Outcome { evaluation, choices, correct } = tally.finish();
        assert_eq!((evaluation.images, evaluation.correct), (3, 1));
        assert_eq!(evaluation.top5, 2.0 / 3.0);
        assert_eq!(evaluation.agreement, 2.0 / 3.0);
        assert_eq!(choices, [0, 0, 1]);
        assert_eq!(correct, "gA=="); // 0b1000_0000
        assert_eq!(evaluation.per_class[..2], [1.0, 0.0]);
        // Cross-entropy by the definition, in plain arithmetic.
        let soft = |x: [f64; 7], label: usize| -(x[label].exp() / x.iter().map(|v| v.exp()).sum::<f64>()).ln();
        let first = [2.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        let by_hand = (soft(first, 0) + soft(first, 1) + soft([0.0, 9.0, 8.0, 7.0, 6.0, 5.0, -1.0], 6)) / 3.0;
        assert!((evaluation.loss - by_hand).abs() < 1e-9);
    }

    #[test]
    fn calibration_error_is_the_gap_between_confidence_and_accuracy() {
        let labels = [0, 1];
        let mut tally = Tally::new(&labels, 2, None);
        // Both with confidence 0.9, one right: |0.5 - 0.9|.
        let logits = [0.9f32.ln(), 0.1f32.ln()];
        tally.add(&logits);
        tally.add(&logits);
        assert!((tally.finish().evaluation.calibration_error - 0.4).abs() < 1e-6);
    }
}
