//! Loss functions. Each returns the loss, averaged over the batch, and writes its gradient.

use nettriage_kernels::simd::vectorised;

/// The softmax of `logits / temperature`, as (m, Z): m is the largest scaled logit, Z the sum of exp(logit / temperature - m).
/// NaN among the logits makes both NaN.
fn partition(logits: &[f32], temperature: f64) -> (f64, f64) {
    let largest = logits.iter().fold(f32::NEG_INFINITY, |m, &v| if v > m || v.is_nan() { v } else { m });
    let largest = f64::from(largest) / temperature;
    (largest, logits.iter().map(|&v| (f64::from(v) / temperature - largest).exp()).sum())
}

/// Cross entropy of the softmax, averaged over the batch, as `torch.nn.functional.cross_entropy`:
/// -1/N sum over n of `log softmax(logits[n])[labels[n]]`, in nats.
///
/// `logits` are (N, C) with C = `classes`, `labels` (N). Writes dLoss/dLogits, (N, C), to `grad`.
///
/// # Panics
/// If the lengths do not match or a label is not less than `classes`.
pub fn cross_entropy(logits: &[f32], labels: &[u16], classes: usize, grad: &mut [f32]) -> f64 {
    assert_eq!(logits.len(), labels.len() * classes, "logits of {} images with {classes} classes", labels.len());
    assert_eq!(grad.len(), logits.len(), "gradient and logits");
    let scale = 1.0 / labels.len().max(1) as f64;
    let mut loss = 0.0;
    for ((row, grad), &label) in logits.chunks_exact(classes).zip(grad.chunks_exact_mut(classes)).zip(labels) {
        let (largest, sum) = partition(row, 1.0);
        for (grad, &logit) in grad.iter_mut().zip(row) {
            *grad = ((f64::from(logit) - largest).exp() / sum * scale) as f32;
        }
        let label = usize::from(label);
        grad[label] = (((f64::from(row[label]) - largest).exp() / sum - 1.0) * scale) as f32;
        loss += sum.ln() + largest - f64::from(row[label]);
    }
    loss * scale
}

/// Cross entropy against softened labels, as `torch.nn.functional.cross_entropy` with `label_smoothing` (Szegedy et al.,
/// arXiv:1512.00567, section 7): the target is 1 - `smoothing` for the label and `smoothing` / C for every class.
///
/// The arguments are those of [`cross_entropy`], which this is without smoothing.
///
/// # Panics
/// As [`cross_entropy`].
pub fn smoothed_cross_entropy(logits: &[f32], labels: &[u16], classes: usize, smoothing: f32, grad: &mut [f32]) -> f64 {
    let plain = cross_entropy(logits, labels, classes, grad);
    if smoothing == 0.0 {
        return plain;
    }
    let smoothing = f64::from(smoothing);
    let scale = 1.0 / labels.len().max(1) as f64;
    let mut uniform = 0.0;
    for ((row, grad), &label) in logits.chunks_exact(classes).zip(grad.chunks_exact_mut(classes)).zip(labels) {
        let (largest, sum) = partition(row, 1.0);
        let mean = row.iter().map(|&logit| f64::from(logit)).sum::<f64>() / classes as f64;
        uniform += sum.ln() + largest - mean;
        for (class, (grad, &logit)) in grad.iter_mut().zip(row).enumerate() {
            let own = if class == usize::from(label) { 1.0 - smoothing } else { 0.0 };
            let probability = (f64::from(logit) - largest).exp() / sum;
            *grad = ((probability - own - smoothing / classes as f64) * scale) as f32;
        }
    }
    (1.0 - smoothing) * plain + smoothing * uniform * scale
}

/// Turns a loss of labels into that of mixed labels, w times the first and 1 - w times another (mixup; Zhang et al., arXiv:1710.09412):
/// returns what is added to the loss, and adds its gradient to `grad`.
///
/// Cross-entropy is linear in the label's distribution, so w CE(logits, label) + (1 - w) CE(logits, other) is CE(logits, label) +
/// `(1 - w) (logits[label] - logits[other])`. `part` is the factor of the labels' cross-entropy in the loss. `logits` and `grad` are
/// (N, C) with C = `classes`; `labels`, `others` and the shares `own` = w of the first labels are (N).
///
/// # Panics
/// If the lengths do not match or a label is not less than `classes`.
pub fn mix_labels(
    logits: &[f32],
    labels: &[u16],
    others: &[u16],
    own: &[f32],
    classes: usize,
    part: f64,
    grad: &mut [f32],
) -> f64 {
    assert_eq!(logits.len(), labels.len() * classes, "logits of {} images with {classes} classes", labels.len());
    assert!(others.len() == labels.len() && own.len() == labels.len(), "labels, others and shares");
    assert_eq!(grad.len(), logits.len(), "gradient and logits");
    let scale = part / labels.len().max(1) as f64;
    let mut added = 0.0;
    let pairs = labels.iter().zip(others).zip(own);
    for ((row, grad), ((&label, &other), &own)) in
        logits.chunks_exact(classes).zip(grad.chunks_exact_mut(classes)).zip(pairs)
    {
        let moved = scale * (1.0 - f64::from(own));
        let (label, other) = (usize::from(label), usize::from(other));
        added += moved * (f64::from(row[label]) - f64::from(row[other]));
        grad[label] += moved as f32;
        grad[other] -= moved as f32;
    }
    added
}

/// Knowledge distillation (Hinton, Vinyals and Dean, arXiv:1503.02531, section 2), averaged over the batch:
/// (1 - `alpha`) CE(logits, labels) + `alpha` T^2 KL(softmax(teacher / T) || softmax(logits / T)), T = `temperature`.
/// The gradient of the second term with respect to a logit is `alpha` T (q - p), their equation 2 times T^2.
/// Usual values are `alpha` = 0.9 and T = 4.
///
/// `logits` and `teacher_logits` are (N, C) with C = `classes`, `labels` (N). Writes dLoss/dLogits, (N, C), to `grad`.
///
/// # Panics
/// If the lengths do not match or a label is not less than `classes`.
pub fn distillation(
    logits: &[f32],
    teacher_logits: &[f32],
    labels: &[u16],
    classes: usize,
    temperature: f32,
    alpha: f32,
    grad: &mut [f32],
) -> f64 {
    assert_eq!(teacher_logits.len(), logits.len(), "the teacher's logits and the student's");
    let cross_entropy = cross_entropy(logits, labels, classes, grad);
    let (t, alpha) = (f64::from(temperature), f64::from(alpha));
    let scale = 1.0 / labels.len().max(1) as f64;
    let mut divergence = 0.0;
    let rows = logits.chunks_exact(classes).zip(teacher_logits.chunks_exact(classes));
    for ((row, teacher), grad) in rows.zip(grad.chunks_exact_mut(classes)) {
        let ((largest, sum), (teacher_largest, teacher_sum)) = (partition(row, t), partition(teacher, t));
        for ((grad, &logit), &target) in grad.iter_mut().zip(row).zip(teacher) {
            let (logit, target) = (f64::from(logit) / t - largest, f64::from(target) / t - teacher_largest);
            let (q, p) = (logit.exp() / sum, target.exp() / teacher_sum);
            if p > 0.0 {
                divergence += p * ((target - teacher_sum.ln()) - (logit - sum.ln()));
            }
            *grad = ((1.0 - alpha) * f64::from(*grad) + alpha * t * (q - p) * scale) as f32;
        }
    }
    (1.0 - alpha) * cross_entropy + alpha * t * t * divergence * scale
}

/// Mean squared error over all M elements, as `torch.nn.functional.mse_loss`: 1/M sum of (output - target)^2.
///
/// `output` and `target` have any one shape, usually (N, H, W, C). Writes 2 (output - target) / M to `grad`, in that shape.
///
/// # Panics
/// If the lengths do not match.
pub fn mean_squared(output: &[f32], target: &[f32], grad: &mut [f32]) -> f64 {
    weighted_mean_squared(output, target, 1.0, grad)
}

/// `weight` times [`mean_squared`], and its gradient.
///
/// # Panics
/// If the lengths do not match.
pub fn weighted_mean_squared(output: &[f32], target: &[f32], weight: f32, grad: &mut [f32]) -> f64 {
    assert!(output.len() == target.len() && grad.len() == output.len(), "output, target and gradient");
    let scale = weight * (2.0 / output.len().max(1) as f32);
    let runs = output.chunks(RUN).zip(target.chunks(RUN)).zip(grad.chunks_mut(RUN));
    let total: f64 = vectorised(
        #[inline(always)]
        || {
            // A loop: closures passed to iterator adaptors are not always compiled for the chosen instruction set.
            let mut total = 0.0;
            for ((output, target), grad) in runs {
                total += squared_error(output, target, scale, grad);
            }
            total
        },
    );
    f64::from(weight) * (total / output.len().max(1) as f64)
}

/// Elements per partial sum.
const RUN: usize = 4096;

/// The sum of squared differences in eight f64 lanes, in a fixed order.
#[inline(always)]
fn squared_error(output: &[f32], target: &[f32], scale: f32, grad: &mut [f32]) -> f64 {
    let mut lanes = [0f64; 8];
    let ((outputs, output), (targets, target)) = (output.as_chunks::<8>(), target.as_chunks::<8>());
    let (grads, grad) = grad.as_chunks_mut::<8>();
    for ((output, target), grad) in outputs.iter().zip(targets).zip(grads) {
        for i in 0..8 {
            let difference = output[i] - target[i];
            grad[i] = difference * scale;
            lanes[i] += f64::from(difference) * f64::from(difference);
        }
    }
    for (((lane, &o), &t), g) in lanes.iter_mut().zip(output).zip(target).zip(grad) {
        let difference = o - t;
        *g = difference * scale;
        *lane += f64::from(difference) * f64::from(difference);
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 8] = [0.5, -1.0, 2.0, 0.1, 3.0, 1.0, -2.0, 0.0];
    const TEACHER: [f32; 8] = [1.0, 0.0, 1.5, -0.5, 0.3, 2.0, -1.0, 0.7];
    const LABELS: [u16; 2] = [2, 1];

    fn check_gradient(loss: impl Fn(&[f32], &mut [f32]) -> f64, x: &[f32]) {
        let mut grad = vec![0.0; x.len()];
        loss(x, &mut grad);
        for i in 0..x.len() {
            let mut moved = x.to_vec();
            let mut unused = grad.clone();
            moved[i] = x[i] + 1e-2;
            let (above, high) = (loss(&moved, &mut unused), moved[i]);
            moved[i] = x[i] - 1e-2;
            let numeric = (above - loss(&moved, &mut unused)) / f64::from(high - moved[i]);
            assert!((numeric - f64::from(grad[i])).abs() < 2e-5, "element {i}: {numeric} and {}", grad[i]);
        }
    }

    #[test]
    fn gradients_match_central_differences() {
        check_gradient(|x, g| cross_entropy(x, &LABELS, 4, g), &LOGITS);
        check_gradient(|x, g| smoothed_cross_entropy(x, &LABELS, 4, 0.1, g), &LOGITS);
        check_gradient(|x, g| smoothed_cross_entropy(x, &LABELS, 4, 1.0, g), &LOGITS);
        check_gradient(|x, g| distillation(x, &TEACHER, &LABELS, 4, 4.0, 0.9, g), &LOGITS);
        check_gradient(|x, g| distillation(x, &TEACHER, &LABELS, 4, 2.5, 0.3, g), &LOGITS);
        check_gradient(|x, g| mean_squared(x, &TEACHER, g), &LOGITS);
        check_gradient(|x, g| weighted_mean_squared(x, &TEACHER, 0.3, g), &LOGITS);
    }

    // PyTorch 2.x in f32: F.cross_entropy; 0.1 * CE + 0.9 * 16 * F.kl_div(log_softmax(x/4), softmax(t/4), reduction="batchmean");
    // F.mse_loss.
    const TORCH: [f64; 3] = [1.2639607191085815, 0.8168579936027527, 1.4550000429153442];

    #[test]
    fn values_match_pytorch() {
        let mut grad = [0.0; 8];
        assert!((cross_entropy(&LOGITS, &LABELS, 4, &mut grad) - TORCH[0]).abs() < 1e-6);
        // F.cross_entropy(…, label_smoothing=…) in f64.
        for (smoothing, value) in [(0.0, TORCH[0]), (0.1, 1.3689606503600724), (0.3, 1.5789606503600724)] {
            assert!((smoothed_cross_entropy(&LOGITS, &LABELS, 4, smoothing, &mut grad) - value).abs() < 1e-6);
        }
        assert!((distillation(&LOGITS, &TEACHER, &LABELS, 4, 4.0, 0.9, &mut grad) - TORCH[1]).abs() < 1e-6);
        assert!((mean_squared(&LOGITS, &TEACHER, &mut grad) - TORCH[2]).abs() < 1e-6);
    }

    #[test]
    fn mean_squared_error_of_every_length() {
        for length in [1, 7, 8, 9, 4096, 4099, 10_001] {
            let output: Vec<f32> = (0..length).map(|i| (i * 7919 % 101) as f32 / 50.0 - 1.0).collect();
            let target: Vec<f32> = (0..length).map(|i| (i * 6007 % 97) as f32 / 48.0 - 1.0).collect();
            let mut grad = vec![f32::NAN; length];
            let found = mean_squared(&output, &target, &mut grad);
            let differences: Vec<f64> =
                output.iter().zip(&target).map(|(o, t)| f64::from(*o) - f64::from(*t)).collect();
            let mean = differences.iter().map(|d| d * d).sum::<f64>() / length as f64;
            assert!((found - mean).abs() < 1e-6 * mean.max(1.0), "{length}: {found} and {mean}");
            for (g, d) in grad.iter().zip(&differences) {
                assert!((f64::from(*g) - 2.0 * d / length as f64).abs() < 1e-6 / length as f64, "{length}");
            }
        }
    }

    #[test]
    fn mixed_labels_have_the_loss_of_both() {
        let (classes, images) = (4, 5);
        let logits: Vec<f32> = (0..20).map(|i| ((i * 37 % 23) as f32 - 11.0) / 5.0).collect();
        let teacher: Vec<f32> = (0..20).map(|i| ((i * 17 % 19) as f32 - 9.0) / 4.0).collect();
        let (labels, others) = ([0u16, 3, 1, 2, 2], [1u16, 3, 0, 0, 3]);
        let own = [1.0f32, 0.3, 0.5, 0.0, 0.9];
        type Loss<'a> = &'a dyn Fn(&[f32], &[f32], &[u16], &mut [f32]) -> f64;
        let smoothed: Loss<'_> = &|x, _, y, grad| smoothed_cross_entropy(x, y, 4, 0.1, grad);
        let distilled: Loss<'_> = &|x, t, y, grad| distillation(x, t, y, 4, 3.0, 0.6, grad);
        for (loss, part) in [(smoothed, 0.9), (distilled, 0.4)] {
            let mut grad = vec![0.0; 20];
            let found = loss(&logits, &teacher, &labels, &mut grad)
                + mix_labels(&logits, &labels, &others, &own, classes, part, &mut grad);
            // Image by image, the two losses and gradients by their shares.
            let mut expected = 0.0;
            for image in 0..images {
                let rows = image * classes..(image + 1) * classes;
                let mut sum = vec![0.0; classes];
                for (label, share) in [(labels[image], own[image]), (others[image], 1.0 - own[image])] {
                    let mut one = vec![0.0; classes];
                    let value = loss(&logits[rows.clone()], &teacher[rows.clone()], &[label], &mut one);
                    expected += f64::from(share) * value / images as f64;
                    sum.iter_mut().zip(&one).for_each(|(sum, one)| *sum += share * one / images as f32);
                }
                for (found, expected) in grad[rows].iter().zip(&sum) {
                    assert!((found - expected).abs() < 1e-6, "image {image}: {found}, not {expected}");
                }
            }
            assert!((found - expected).abs() < 1e-6, "{found}, not {expected}");
        }
    }

    #[test]
    fn extreme_logits_give_a_finite_loss_and_nan_propagates() {
        let mut grad = [0.0; 2];
        assert!((cross_entropy(&[1e30, -1e30], &[0], 2, &mut grad)).abs() < 1e-12);
        assert!(distillation(&[0.0, 0.0], &[1e30, -1e30], &[0], 2, 4.0, 0.9, &mut grad).is_finite());
        assert!(cross_entropy(&[f32::NAN, 0.0], &[1], 2, &mut grad).is_nan());
    }
}
