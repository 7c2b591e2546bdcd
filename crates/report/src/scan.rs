//! The report of a scan as plain text and as a page, and how well its ranking agrees with training.

use std::collections::HashMap;

use nettriage_records::plan::Role;
use nettriage_records::scan::{Candidate, Fidelity, Measure, Range, Scan, Trust};
use nettriage_records::{Error, Run};

use crate::format::{interval, number, printable, short, signed_percent};
use crate::stats::kendall;
use crate::terminal::aligned;

pub use crate::html::scan as html;

/// Candidates of the Pareto front shown at most.
const SHOWN: usize = 14;

/// The Pareto front of accuracy and time, and the default blocks, as plain text.
pub fn terminal(scan: &Scan) -> String {
    let mut out = format!("{}: ", scan.network);
    if let Some(accuracy) = scan.parent.accuracy {
        out += &format!("{}% of {} ({}), ", number(100.0 * accuracy, 2), scan.images.judged, scan.images.judged_from);
    }
    out += &format!(
        "{} parameters, {} MACs, {:.3} ms a pass of {}\n",
        short(scan.parent.cost.parameters as f64),
        short(scan.parent.cost.macs as f64),
        scan.parent.milliseconds,
        scan.took.batch
    );
    let candidates: usize = scan.ranges.iter().map(|r| r.candidates.len()).sum();
    out += &format!(
        "{} ranges of layers fit one layer; {candidates} candidates fitted to {} images without training in {:.1} s ({} threads, {} MiB)\n",
        scan.ranges.len(),
        scan.images.fitted,
        scan.took.seconds,
        scan.took.threads,
        scan.took.bytes >> 20,
    );
    out += &format!("Judged by {}.\n\n", scan.measure.describe());
    let mut rows: Vec<Vec<String>> = vec![header(scan.measure).map(str::to_owned).to_vec()];
    rows.extend(
        shortlist(scan).into_iter().map(|(range, candidate)| columns(scan, range, candidate).map(|c| c.text).into()),
    );
    out += &aligned(&rows, |_| true).concat();
    if scan.left_out > 0 {
        out +=
            &format!("\n{} larger kernels left out: more unknowns than --unknowns or --memory allows\n", scan.left_out);
    }
    out += "\n";
    out += &ranking_note(scan);
    printable(&out)
}

/// How well the scan's ranking agrees with training: a line per scheme and init.
pub(crate) fn ranking_note(scan: &Scan) -> String {
    if scan.trust.is_empty() {
        return "How well this ranking agrees with training is unknown. Give finished runs with --study to find out.\n"
            .into();
    }
    scan.trust.iter().map(trust_sentence).collect()
}

fn trust_sentence(trust: &Trust) -> String {
    let spread = match trust.interval {
        Some(ends) => format!("95% interval {}", interval(ends)),
        None => "no interval from a single parent".to_owned(),
    };
    let warning = match trust.interval {
        Some([low, _]) if low > 0.0 => "",
        _ => " This does not show that the scan ranks blocks as training does; confirm with `nettriage run`.",
    };
    format!(
        "Rank correlation with the criticality after training ({} from {}): Kendall's tau {} ({spread}; {} parents, {} blocks).{warning}\n",
        trust.scheme,
        trust.init,
        number(trust.tau, 2),
        trust.parents,
        trust.blocks
    )
}

/// The Pareto front of accuracy and time, and the best candidate of every default block.
pub(crate) fn shortlist(scan: &Scan) -> Vec<(&Range, &Candidate)> {
    let saved = |r: &Range, c: &Candidate| r.milliseconds - c.milliseconds;
    let mut all: Vec<(&Range, &Candidate)> =
        scan.ranges.iter().flat_map(|r| r.candidates.iter().map(move |c| (r, c))).collect();
    all.sort_by(|a, b| b.1.kept().total_cmp(&a.1.kept()).then(saved(b.0, b.1).total_cmp(&saved(a.0, a.1))));
    let mut most = 0.0;
    let mut front: Vec<(&Range, &Candidate)> = Vec::new();
    for (range, candidate) in all {
        if saved(range, candidate) > most {
            most = saved(range, candidate);
            front.push((range, candidate));
        }
    }
    // The front is sorted by accuracy, so a long one loses its least accurate candidates.
    front.truncate(SHOWN);
    let blocks = scan.ranges.iter().filter(|r| r.block.is_some()).filter_map(|r| Some((r, r.best()?)));
    for (range, best) in blocks {
        if !front.iter().any(|(r, c)| r.name == range.name && c == &best) {
            front.push((range, best));
        }
    }
    front
}

/// What is kept and what is lost, as headers of columns.
pub(crate) fn kept_and_lost(measure: Measure) -> [&'static str; 2] {
    match measure {
        Measure::Accuracy => ["accuracy", "drop, pp"],
        Measure::Classes | Measure::DenseClasses => ["unchanged", "changed, %"],
        Measure::Values => ["lowest R²", "unexplained, %"],
    }
}

/// Names of [`columns`].
pub(crate) fn header(measure: Measure) -> [&'static str; 9] {
    let [kept, lost] = kept_and_lost(measure);
    ["range", "block", "one layer", kept, lost, "95% interval", "parameters", "MACs", "time"]
}

/// What is kept: accuracy or a share of predictions as a percentage, an R² as a number.
pub(crate) fn kept(accuracy: Option<f64>, fidelity: &Fidelity) -> String {
    match (accuracy, fidelity) {
        (None, Fidelity::Values { r2, .. }) => number(*r2, 4),
        (accuracy, fidelity) => format!("{}%", number(100.0 * accuracy.unwrap_or(fidelity.kept()), 2)),
    }
}

/// A value in a candidate's row, and the number that it sorts by.
pub(crate) struct Column {
    pub text: String,
    pub value: Option<f64>,
}

/// A candidate's row. Parameters, MACs and time are changes relative to the whole network.
pub(crate) fn columns(scan: &Scan, range: &Range, candidate: &Candidate) -> [Column; 9] {
    let text = |text: String| Column { text, value: None };
    let number_or_dash = |value: Option<f64>, shown: Option<String>| match shown {
        Some(text) => Column { text, value },
        None => Column { text: "-".to_owned(), value: None },
    };
    let change = |share: f64| Column { text: signed_percent(share), value: Some(share) };
    let share = |before: u64, after: u64, whole: u64| change((after as f64 - before as f64) / (whole as f64).max(1.0));
    let parent = &scan.parent;
    let drop = candidate.drop;
    [
        text(range.name.clone()),
        text(range.block.clone().unwrap_or_else(|| "-".to_owned())),
        text(candidate.substitute.clone()),
        Column { text: kept(candidate.accuracy, &candidate.fidelity), value: Some(candidate.kept()) },
        Column { text: number(candidate.loss(), 2), value: Some(candidate.loss()) },
        number_or_dash(drop.map(|d| d[1]), drop.map(|[_, low, high]| interval([low, high]))),
        share(range.cost.parameters, candidate.cost.parameters, parent.cost.parameters),
        share(range.cost.macs, candidate.cost.macs, parent.cost.macs),
        change((candidate.milliseconds - range.milliseconds) / parent.milliseconds.max(1e-9)),
    ]
}

/// The criticality of each block of a parent under `scheme` and `init`: mean test accuracy of the fine-tuned parent − mean
/// test accuracy of the block's children, over seeds, in percentage points.
///
/// # Errors
/// Those of reading the records.
pub fn trained_criticality(run: &Run, parent: &str, scheme: &str, init: &str) -> Result<HashMap<String, f64>, Error> {
    let (mut control, mut children) = (Vec::new(), HashMap::<String, Vec<f64>>::new());
    for record in run.records()? {
        let Some(readings) = &record.readings else { continue };
        let spec = &record.spec;
        if spec.parent != parent || spec.scheme != scheme {
            continue;
        }
        match (&spec.role, &spec.block) {
            (Role::ParentContinued, _) => control.push(readings.test.top1),
            (Role::Child, Some(block)) if spec.init.as_deref() == Some(init) => {
                children.entry(block.clone()).or_default().push(readings.test.top1);
            }
            _ => {}
        }
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let base = mean(&control);
    Ok(children.into_iter().map(|(block, values)| (block, 100.0 * (base - mean(&values)))).collect())
}

/// Two scores for the blocks of one parent.
#[derive(Clone, Debug, Default)]
pub struct Rankings {
    /// The accuracy drop of each block in the scan.
    pub scanned: Vec<f64>,
    /// The criticality of each block after training.
    pub trained: Vec<f64>,
}

/// Kendall's tau-b of each pair of rankings, and the mean over parents with its percentile bootstrap interval, resampling
/// parents: all resamples for at most six parents, else 2,000. `None` where no parent has two blocks that differ.
pub fn trust(parents: &[Rankings], scheme: &str, init: &str) -> Option<Trust> {
    let taus: Vec<f64> = parents.iter().filter_map(|p| kendall::tau(&p.scanned, &p.trained)).collect();
    if taus.is_empty() {
        return None;
    }
    Some(Trust {
        tau: taus.iter().sum::<f64>() / taus.len() as f64,
        interval: kendall::mean_interval(&taus),
        parents: taus.len(),
        blocks: parents.iter().map(|p| p.scanned.len()).sum(),
        scheme: scheme.to_owned(),
        init: init.to_owned(),
        each: taus,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_is_the_mean_tau_over_parents() {
        let rankings = |trained: [f64; 3]| Rankings { scanned: vec![1.0, 2.0, 3.0], trained: trained.to_vec() };
        let same = rankings([4.0, 5.0, 6.0]);
        // One of three pairs is discordant: tau 1/3.
        let other = rankings([4.0, 6.0, 5.0]);
        let found = trust(&[same, other.clone()], "global", "random").unwrap();
        assert!((found.tau - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!((found.parents, found.blocks), (2, 6));
        // Four ways of drawing two: means 1/3, 2/3, 2/3, 1; their quantiles are interpolated, as NumPy's are.
        let [low, high] = found.interval.unwrap();
        assert!((low - (1.0 + 0.075) / 3.0).abs() < 1e-12 && (high - (3.0 - 0.075) / 3.0).abs() < 1e-12);
        assert_eq!(trust(&[other], "global", "random").unwrap().interval, None);
        assert!(trust(&[Rankings { scanned: vec![1.0], trained: vec![2.0] }], "global", "random").is_none());
    }
}
