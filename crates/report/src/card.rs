//! The model card of an exported network.

use nettriage_records::plan::{Cost, TrialSpec};
use nettriage_records::record::Evaluation;
use nettriage_records::{Error, Run};

/// The model card of a trial's network as Markdown: parent, replacement, accuracy with interval, cost and command.
///
/// # Errors
/// Those of [`Run::record`] and [`Run::parent`].
pub fn card(run: &Run, spec: &TrialSpec) -> Result<String, Error> {
    let plan = run.plan();
    let (record, parent) = (run.record(&spec.id)?, run.parent(&spec.parent)?);
    let readings = record.as_ref().and_then(|r| r.readings.as_ref());
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
    let mut lines = vec![
        format!("# {}, trial {}", plan.name, spec.id),
        String::new(),
        format!(
            "- **Parent**: seed {}, trained on {} images of {}",
            parent_seed(run, spec),
            plan.data.train,
            plan.data.name
        ),
        format!(
            "- **Replaced**: {} by {}, init {}, scheme {}, {} training images (seed {})",
            text(&spec.block),
            text(&spec.substitute),
            text(&spec.init),
            spec.scheme,
            plan.data.budget,
            spec.seed
        ),
    ];
    if let Some(readings) = readings {
        lines.push(format!("- **Accuracy**: {} on the test set", accuracy(&readings.test)));
    }
    if let Some(parent) = &parent {
        lines.push(format!("- **Parent's accuracy**: {} on the whole test set", accuracy(&parent.test)));
    }
    if let (Some(readings), Some(parent)) = (readings, &parent) {
        lines.push(format!("- **Cost**: {}", cost(parent.cost, readings.cost)));
    }
    if let Some(time) = record.as_ref().and_then(|r| r.clock.inference.as_ref()) {
        lines.push(format!(
            "- **Inference**: {:.4} ms per image, parent {:.4} ms (medians of {}, batch {}, one thread, on the study's machine)",
            1e3 * time.network[0],
            1e3 * time.parent[0],
            time.repetitions,
            time.batch
        ));
    }
    lines.push(format!(
        "- **Input**: {:?} (C, H, W), mean {:?}, std {:?}",
        plan.data.shape, plan.data.mean, plan.data.std
    ));
    lines.push(format!("- **Classes**: {}", plan.data.classes.join(", ")));
    lines.push(format!("- **Command**: `nettriage export RUN --trial {}`, of the study below", spec.id));
    lines.extend([
        String::new(),
        "```toml".into(),
        plan.study.trim_end().replace("```", "'''"),
        "```".into(),
        String::new(),
    ]);
    Ok(lines.join("\n"))
}

fn parent_seed(run: &Run, spec: &TrialSpec) -> u64 {
    run.plan().parents.iter().find(|p| p.id == spec.parent).map_or(0, |p| p.seed)
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
