//! The model card of an exported network.

use nettriage_records::plan::{Cost, Plan, TrialSpec};
use nettriage_records::record::{Evaluation, ParentRecord, Record};
use nettriage_records::{Error, Run};

use crate::markdown::{code, code_block, escape};

/// The model card of a trial's network as Markdown: parent, replacement, accuracy with interval, cost and command.
///
/// # Errors
/// Those of [`Run::record`] and [`Run::parent`].
pub fn card(run: &Run, spec: &TrialSpec) -> Result<String, Error> {
    Ok(markdown(run.plan(), spec, run.record(&spec.id)?.as_ref(), run.parent(&spec.parent)?.as_ref()))
}

fn markdown(plan: &Plan, spec: &TrialSpec, record: Option<&Record>, parent: Option<&ParentRecord>) -> String {
    let readings = record.and_then(|record| record.readings.as_ref());
    let name = |text: &Option<String>| escape(text.as_deref().unwrap_or("none"));
    let data = escape(&plan.data.name);
    let mut facts = vec![
        (
            "Parent",
            match parent {
                Some(parent) if parent.from_file() && !parent.may_have_seen_validation() => {
                    "read from a file, not trained by nettriage; not trained on the validation images, as the study says"
                        .to_owned()
                }
                Some(parent) if parent.from_file() => format!(
                    "read from a file, not trained by nettriage; the {} validation images are carved from the training set of \
                 {data}, so the parent may have been trained on them",
                    plan.data.validation
                ),
                _ => format!("seed {}, trained on {} images of {data}", parent_seed(plan, spec), plan.data.train),
            },
        ),
        (
            "Replaced",
            format!(
                "{} by {}, init {}, scheme {}, {} training images (seed {})",
                name(&spec.block),
                name(&spec.substitute),
                name(&spec.init),
                escape(&spec.scheme),
                spec.budget.unwrap_or(0),
                spec.seed
            ),
        ),
    ];
    if let Some(readings) = readings {
        facts.push(("Accuracy", format!("{} on the test set", accuracy(&readings.test))));
    }
    if let Some(parent) = parent {
        facts.push(("Parent's accuracy", format!("{} on the whole test set", accuracy(&parent.test))));
    }
    if let (Some(readings), Some(parent)) = (readings, parent) {
        facts.push(("Cost", cost(parent.cost, readings.cost)));
    }
    if let Some(time) = record.and_then(|record| record.clock.inference.as_ref()) {
        facts.push((
            "Inference",
            format!(
                "{:.4} ms per image, parent {:.4} ms (medians of {}, batch {}, one thread, on the study's machine)",
                1e3 * time.network[0],
                1e3 * time.parent[0],
                time.repetitions,
                time.batch
            ),
        ));
    }
    facts.extend([
        ("Input", format!("{:?} (C, H, W), mean {:?}, std {:?}", plan.data.shape, plan.data.mean, plan.data.std)),
        ("Classes", escape(&plan.data.classes.join(", "))),
        (
            "Command",
            format!("{}, of the study below", code(&format!("nettriage export RUN --trial {} -o FILE.onnx", spec.id))),
        ),
    ]);
    let facts: Vec<String> = facts.iter().map(|(name, value)| format!("- **{name}**: {value}\n")).collect();
    format!(
        "# {}, trial {}\n\n{}\n{}",
        escape(&plan.name),
        escape(&spec.id),
        facts.concat(),
        code_block("toml", &plan.study)
    )
}

fn parent_seed(plan: &Plan, spec: &TrialSpec) -> u64 {
    plan.parents.iter().find(|p| p.id == spec.parent).map_or(0, |p| p.seed)
}

/// Accuracy with Wilson's 95% score interval over images (Wilson, 1927).
fn accuracy(found: &Evaluation) -> String {
    let (low, high) = wilson(found.correct as f64, found.images as f64);
    format!(
        "{:.2}% ({} of {}; 95% interval {:.2} to {:.2})",
        100.0 * found.top1,
        found.correct,
        found.images,
        100.0 * low,
        100.0 * high
    )
}

fn wilson(correct: f64, images: f64) -> (f64, f64) {
    if images == 0.0 {
        return (0.0, 1.0);
    }
    // The 97.5% quantile of the standard normal distribution.
    let z = 1.959_963_984_540_054_f64;
    let share = correct / images;
    let centre = share + z * z / (2.0 * images);
    let half = z * (share * (1.0 - share) / images + z * z / (4.0 * images * images)).sqrt();
    let scale = 1.0 + z * z / images;
    ((centre - half) / scale, (centre + half) / scale)
}

fn cost(before: Cost, after: Cost) -> String {
    let part = |before: u64, after: u64| 100.0 * (after as f64 / before.max(1) as f64 - 1.0);
    format!(
        "{} parameters (parent {}, {:+.1}%), {} multiply-accumulates per image (parent {}, {:+.1}%)",
        after.parameters,
        before.parameters,
        part(before.parameters, after.parameters),
        after.macs,
        before.macs,
        part(before.macs, after.macs)
    )
}

#[cfg(test)]
mod tests {
    use super::wilson;

    #[test]
    fn wilson_agrees_with_published_intervals() {
        // Newcombe (1998), table I: 81 of 263 gives 0.2553 to 0.3662; 15 of 148 gives 0.0624 to 0.1605.
        let near = |a: (f64, f64), b: (f64, f64)| (a.0 - b.0).abs() < 5e-5 && (a.1 - b.1).abs() < 5e-5;
        assert!(near(wilson(81.0, 263.0), (0.2553, 0.3662)));
        assert!(near(wilson(15.0, 148.0), (0.0624, 0.1605)));
        assert_eq!(wilson(0.0, 0.0), (0.0, 1.0));
    }
}
