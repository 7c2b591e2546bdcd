//! Choosing ranges: the Pareto front of plans, by predicted drop and predicted cost.
//!
//! A plan replaces ranges that do not overlap; its drop is the sum of theirs, its saving likewise. Over the units in
//! order this is a shortest path with two lengths: dynamic programming keeps, for every unit, the plans up to there that
//! no other dominates, with drops counted in hundredths of a point (the interactions between ranges are far larger).

use nettriage_records::plan::Cost;
use nettriage_records::scan::{Candidate, Fidelity, Scan};

use super::build::narrowing;

/// Resolution of drops: steps per percentage point.
const STEPS_PER_POINT: f64 = 100.0;

/// Plans with a larger predicted drop are not considered.
const MAX_DROP: usize = 60 * STEPS_PER_POINT as usize;

/// Larger losses count as this one.
pub const MOST_LOSS: f64 = 1e6;

/// The cost that a plan saves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CostMetric {
    /// Measured milliseconds.
    Milliseconds,
    /// Multiply-accumulates.
    Macs,
    /// Parameters.
    Parameters,
}

/// A range and one of its candidates, by their indices in the scan.
pub type Chosen = (usize, usize);

/// A set of ranges, each with one of its candidates.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What is replaced, in the network's order.
    pub chosen: Vec<Chosen>,
    /// Predicted drop in percentage points, from the scan.
    pub drop: f64,
    /// Predicted cost of the whole network.
    pub cost: Cost,
    /// Predicted milliseconds of the whole network.
    pub milliseconds: f64,
}

impl Plan {
    /// The plan that replaces nothing.
    pub fn unchanged(scan: &Scan) -> Plan {
        Plan { chosen: Vec::new(), drop: 0.0, cost: scan.parent.cost, milliseconds: scan.parent.milliseconds }
    }
}

/// A plan up to a unit: its drop in steps, its saving, and its predecessor.
#[derive(Clone, Copy)]
struct Label {
    drop: usize,
    saved: f64,
    /// Unit and place of the label before, and what was chosen on the way.
    before: Option<(usize, usize)>,
    chosen: Option<(usize, usize)>,
}

/// Ranges of units, by first and last, that a user wants to keep or to replace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fixed {
    /// Ranges that stay as they are.
    pub keep: Vec<[usize; 2]>,
    /// Ranges that one layer each replaces.
    pub replace: Vec<[usize; 2]>,
}

impl Fixed {
    /// Whether a plan may replace the range.
    fn allows(&self, range: [usize; 2]) -> bool {
        let apart = |other: &[usize; 2]| range[1] < other[0] || other[1] < range[0];
        self.keep.iter().all(apart) && self.replace.iter().all(|wanted| *wanted == range || apart(wanted))
    }

    fn wants(&self, range: [usize; 2]) -> bool {
        self.replace.contains(&range)
    }

    fn must_replace(&self, unit: usize) -> bool {
        self.replace.iter().any(|[first, last]| (*first..=*last).contains(&unit))
    }
}

/// A loss of every candidate of every range, in the unit of the scan's measure.
pub type Losses = Vec<Vec<f64>>;

/// Up to this many points the divergence predicts a loss; a larger one is measured well enough.
const LARGE_LOSS: f64 = 20.0;

/// What a divergence of one nat is worth at least, in points: it orders candidates that lose nothing on the judged images.
const LEAST_WORTH: f64 = 1.0;

/// The losses that the scan predicts: the divergences of the outputs, in points.
///
/// A drop of accuracy counts few images, those whose class changes, so it is known to tenths of a point only, and it is 0 for small errors
/// where the network gets all images right. The Kullback-Leibler divergence of softened probabilities uses all images. To second order
/// in the errors it is a quadratic form, so it adds up over ranges whose errors are uncorrelated. The factor from nats to points is that
/// of the scan's sums. Outputs that are numbers have no divergence: their losses are the measured ones.
pub fn scanned(scan: &Scan) -> Losses {
    let candidates = || scan.ranges.iter().flat_map(|range| &range.candidates);
    let small = || candidates().filter(|candidate| candidate.loss() <= LARGE_LOSS);
    let nats: f64 = small().filter_map(divergence).sum();
    let worth = (small().map(Candidate::loss).sum::<f64>() / nats.max(f64::MIN_POSITIVE)).clamp(LEAST_WORTH, MOST_LOSS);
    let loss = |candidate: &Candidate| {
        let measured = candidate.loss();
        let predicted = divergence(candidate).filter(|_| measured <= LARGE_LOSS);
        // An R² far below 0 is more than any plan may lose, however far below.
        predicted.map_or(measured, |nats| (worth * nats).min(LARGE_LOSS)).clamp(0.0, MOST_LOSS)
    };
    scan.ranges.iter().map(|range| range.candidates.iter().map(loss).collect()).collect()
}

/// The divergence of a candidate's outputs, softened if the scan has it; none of outputs that are numbers.
fn divergence(candidate: &Candidate) -> Option<f64> {
    match candidate.fidelity {
        Fidelity::Classes { divergence, softened, .. } => Some(softened.unwrap_or(divergence).max(0.0)),
        Fidelity::Values { .. } => None,
    }
}

/// The front by these `losses`, from the plan that changes least to the one that saves most.
pub fn front(scan: &Scan, losses: &Losses, metric: CostMetric, fixed: &Fixed) -> Vec<Plan> {
    let steps = |range: usize, number: usize| steps(losses[range][number]);
    let units = scan.units.len();
    // What the wanted replacements cost at least is accepted.
    let wanted = scan.ranges.iter().enumerate().filter(|(_, range)| fixed.wants(range.units));
    let least = wanted.map(|(index, range)| (0..range.candidates.len()).map(|n| steps(index, n)).min().unwrap_or(0));
    let most = MAX_DROP + least.sum::<usize>();
    let mut labels: Vec<Vec<Label>> = vec![Vec::new(); units + 1];
    labels[0].push(Label { drop: 0, saved: 0.0, before: None, chosen: None });
    for unit in 0..units {
        let kept = undominated(std::mem::take(&mut labels[unit]));
        let mut reach = |to: usize, drop: usize, saved: f64, chosen: Option<(usize, usize)>| {
            for (place, label) in kept.iter().enumerate().filter(|(_, l)| l.drop + drop <= most) {
                let before = Some((unit, place));
                labels[to].push(Label { drop: label.drop + drop, saved: label.saved + saved, before, chosen });
            }
        };
        if !fixed.must_replace(unit) {
            reach(unit + 1, 0, 0.0, None);
        }
        let from_here = scan.ranges.iter().enumerate().filter(|(_, r)| r.units[0] == unit && fixed.allows(r.units));
        for (index, range) in from_here {
            for number in 0..range.candidates.len() {
                let saved = cost_saved(scan, index, number, metric);
                let wanted = fixed.wants(range.units);
                // A wanted range becomes one layer.
                if wanted && narrowing(&range.candidates[number].substitute).is_some() {
                    continue;
                }
                if saved > 0.0 || wanted {
                    reach(range.units[1] + 1, steps(index, number), saved, Some((index, number)));
                }
            }
        }
        labels[unit] = kept;
    }
    let last = undominated(std::mem::take(&mut labels[units]));
    let predicted = scanned(scan);
    last.into_iter().map(|label| plan(scan, &predicted, &labels, label)).collect()
}

/// A loss in steps. One step per layer breaks ties.
fn steps(loss: f64) -> usize {
    1 + (loss.clamp(0.0, MOST_LOSS) * STEPS_PER_POINT).round() as usize
}

/// What a plan's cost is, by the metric.
pub fn cost_of(plan: &Plan, metric: CostMetric) -> f64 {
    match metric {
        CostMetric::Milliseconds => plan.milliseconds,
        CostMetric::Macs => plan.cost.macs as f64,
        CostMetric::Parameters => plan.cost.parameters as f64,
    }
}

fn cost_saved(scan: &Scan, range: usize, number: usize, metric: CostMetric) -> f64 {
    let range = &scan.ranges[range];
    let candidate = &range.candidates[number];
    match metric {
        CostMetric::Milliseconds => range.milliseconds - candidate.milliseconds,
        CostMetric::Macs => range.cost.macs as f64 - candidate.cost.macs as f64,
        CostMetric::Parameters => range.cost.parameters as f64 - candidate.cost.parameters as f64,
    }
}

/// The labels that no other dominates, in ascending order of drop.
fn undominated(mut labels: Vec<Label>) -> Vec<Label> {
    labels.sort_by(|a, b| a.drop.cmp(&b.drop).then(b.saved.total_cmp(&a.saved)));
    let mut most = f64::NEG_INFINITY;
    labels.retain(|label| {
        let better = label.saved > most;
        most = most.max(label.saved);
        better
    });
    labels
}

fn plan(scan: &Scan, predicted: &Losses, labels: &[Vec<Label>], last: Label) -> Plan {
    let mut chosen = Vec::new();
    let mut at = last;
    loop {
        chosen.extend(at.chosen);
        let Some((unit, place)) = at.before else { break };
        at = labels[unit][place];
    }
    chosen.reverse();
    let mut plan = Plan { chosen, ..Plan::unchanged(scan) };
    for &(range, number) in &plan.chosen {
        let candidate = &scan.ranges[range].candidates[number];
        plan.drop += (steps(predicted[range][number]) - 1) as f64 / STEPS_PER_POINT;
        plan.cost.macs = plan.cost.macs + candidate.cost.macs - scan.ranges[range].cost.macs;
        plan.cost.parameters = plan.cost.parameters + candidate.cost.parameters - scan.ranges[range].cost.parameters;
        plan.milliseconds -= cost_saved(scan, range, number, CostMetric::Milliseconds);
    }
    plan
}

#[cfg(test)]
pub(super) mod tests {
    use nettriage_records::scan::{Images, Measure, Parent, Range, Took, Unit};

    use super::*;

    /// Four units of 1 ms; ranges as (first, last, drop, milliseconds of the substitute).
    fn scan(ranges: &[(usize, usize, f64, f64)]) -> Scan {
        scan_of(4, ranges)
    }

    /// Units of 1 ms; ranges as (first, last, drop, milliseconds of the substitute).
    pub fn scan_of(units: usize, ranges: &[(usize, usize, f64, f64)]) -> Scan {
        let cost = |macs: u64| Cost { parameters: macs, macs };
        let unit = |i: usize| Unit {
            name: format!("u{i}"),
            layers: [format!("u{i}"), format!("u{i}")],
            output: [1, 1, 1],
            products: 1,
            cost: cost(100),
            milliseconds: 1.0,
        };
        let range = |&(first, last, drop, milliseconds): &(usize, usize, f64, f64)| Range {
            name: format!("r{first}{last}"),
            units: [first, last],
            layers: [format!("u{first}"), format!("u{last}")],
            block: None,
            cost: cost(100 * (last - first + 1) as u64),
            milliseconds: (last - first + 1) as f64,
            candidates: vec![Candidate {
                substitute: "conv3x3".into(),
                method: "plain".into(),
                ridge: 0.0,
                error: 0.0,
                accuracy: Some(0.5),
                drop: Some([drop, drop, drop]),
                // Eight points a nat, a factor that rounds nothing.
                fidelity: Fidelity::Classes { agreement: 1.0, divergence: drop / 8.0, softened: None },
                cost: cost((100.0 * milliseconds) as u64),
                milliseconds,
            }],
        };
        Scan {
            network: "n".into(),
            digest: String::new(),
            measure: Measure::Accuracy,
            source: String::new(),
            images: Images { data: "d".into(), fitted: 1, judged: 1, judged_from: "x".into() },
            parent: Parent { accuracy: Some(0.5), cost: cost(100 * units as u64), milliseconds: units as f64 },
            units: (0..units).map(unit).collect(),
            ranges: ranges.iter().map(range).collect(),
            left_out: 0,
            took: Took::default(),
            trust: Vec::new(),
        }
    }

    #[test]
    fn the_front_is_that_of_trying_every_set_of_ranges() {
        let ranges = [
            (0, 1, 1.0, 0.5),
            (1, 2, 0.4, 0.75),
            (2, 3, 2.0, 0.25),
            (0, 2, 1.5, 0.5),
            (3, 3, 0.3, 0.5),
            (1, 3, 5.0, 0.1),
        ];
        let scan = scan(&ranges);
        // Every subset without overlap, by its drop and milliseconds.
        let mut all: Vec<(f64, f64)> = Vec::new();
        for set in 0..1u32 << ranges.len() {
            let members: Vec<_> =
                ranges.iter().enumerate().filter(|(i, _)| set >> i & 1 == 1).map(|(_, r)| r).collect();
            let apart = members.iter().enumerate().all(|(i, a)| members[..i].iter().all(|b| a.1 < b.0 || b.1 < a.0));
            if apart {
                let saved: f64 = members.iter().map(|r| (r.1 - r.0 + 1) as f64 - r.3).sum();
                all.push((members.iter().map(|r| r.2).sum(), 4.0 - saved));
            }
        }
        let dominated = |p: &(f64, f64)| {
            all.iter().any(|q| q.0 <= p.0 + 1e-9 && q.1 <= p.1 + 1e-9 && (q.0 < p.0 - 1e-9 || q.1 < p.1 - 1e-9))
        };
        let mut expected: Vec<(f64, f64)> = all.iter().copied().filter(|p| !dominated(p)).collect();
        expected.sort_by(|a, b| a.0.total_cmp(&b.0));
        let found: Vec<(f64, f64)> = front(&scan, &scanned(&scan), CostMetric::Milliseconds, &Fixed::default())
            .iter()
            .map(|p| (p.drop, p.milliseconds))
            .collect();
        assert_eq!(found.len(), expected.len(), "{found:?} {expected:?}");
        for (f, e) in found.iter().zip(&expected) {
            assert!((f.0 - e.0).abs() < 1e-6 && (f.1 - e.1).abs() < 1e-6, "{f:?} {e:?}");
        }
    }

    #[test]
    fn losses_are_divergences_in_points() {
        let mut scan = scan(&[(0, 0, 0.5, 0.5), (1, 1, 0.0, 0.5), (2, 2, 2.5, 0.5), (3, 3, 40.0, 0.5)]);
        let set = |scan: &mut Scan, range: usize, nats: f64| {
            scan.ranges[range].candidates[0].fidelity =
                Fidelity::Classes { agreement: 1.0, divergence: 9.0, softened: Some(nats) };
        };
        for (range, nats) in [0.1, 0.05, 0.15, 9.0].into_iter().enumerate() {
            set(&mut scan, range, nats);
        }
        let losses = |scan: &Scan| scanned(scan).concat();
        // Three points for 0.3 nats; the fourth candidate loses too much to count, and keeps its own loss.
        let expected = [1.0, 0.5, 1.5, 40.0];
        assert!(losses(&scan).iter().zip(expected).all(|(loss, expected)| (loss - expected).abs() < 1e-9));
        let saves_all = front(&scan, &scanned(&scan), CostMetric::Milliseconds, &Fixed::default()).pop().unwrap();
        assert!((saves_all.drop - 43.0).abs() < 1e-9, "{}", saves_all.drop);
        // Where nothing is lost, the order is still that of the divergences.
        for range in &mut scan.ranges {
            range.candidates[0].drop = Some([0.0; 3]);
        }
        assert_eq!(losses(&scan)[..3], [0.1, 0.05, 0.15]);
        scan.ranges[0].candidates[0].fidelity =
            Fidelity::Values { r2: 0.5, worst: 0, mean_r2: 0.5, relative_error: 0.7 };
        scan.ranges[0].candidates[0].drop = None;
        assert_eq!(losses(&scan)[0], 50.0, "numbers have no divergence");
    }

    #[test]
    fn ranges_are_kept_and_replaced_as_wished() {
        let ranges = [(0, 1, 1.0, 0.5), (1, 2, 0.4, 0.75), (2, 3, 2.0, 0.25), (3, 3, 70.0, 2.0)];
        let scan = scan(&ranges);
        let chosen = |fixed: Fixed| -> Vec<Vec<usize>> {
            let plans = front(&scan, &scanned(&scan), CostMetric::Milliseconds, &fixed);
            plans.iter().map(|plan| plan.chosen.iter().map(|(range, _)| *range).collect()).collect()
        };
        let kept = chosen(Fixed { keep: vec![[2, 2]], replace: vec![] });
        assert_eq!(kept, [vec![], vec![0]], "every range that holds unit 2 is left out");
        let replaced = chosen(Fixed { keep: vec![], replace: vec![[2, 3]] });
        assert_eq!(replaced, [vec![2], vec![0, 2]]);
        // A wanted replacement may save nothing and lose more than a plan of free choice may.
        let costly = chosen(Fixed { keep: vec![[0, 1]], replace: vec![[3, 3]] });
        assert_eq!(costly, [vec![3]]);
        assert!(chosen(Fixed { keep: vec![[2, 2]], replace: vec![[2, 3]] }).is_empty());
    }

    #[test]
    fn nothing_to_save_leaves_the_network_as_it_is() {
        let scan = scan(&[(0, 1, 1.0, 3.0)]);
        let plans = front(&scan, &scanned(&scan), CostMetric::Milliseconds, &Fixed::default());
        assert_eq!(plans.len(), 1);
        assert!(plans[0].chosen.is_empty());
    }
}
