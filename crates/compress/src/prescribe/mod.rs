//! From a scan to a smaller network: plans are chosen (`choose`), built (`build`), fine-tuned (`fine_tune`) and judged.

mod build;
mod choose;
mod fine_tune;

use std::collections::HashMap;

use nettriage_net::{Network, cost};
use nettriage_records::plan::Cost;
use nettriage_records::prescription::{Figures, FrontPoint, Replaced};
use nettriage_records::scan::Scan;

pub use build::{Built, build};
pub use choose::{CostMetric, Plan, front};
pub use fine_tune::{FineTuning, TrainingSet, fine_tune};

use crate::Error;
use crate::latency::alternating;
use crate::scan::{Images, Judge, Options};

/// A limit on a cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// This much.
    Absolute(f64),
    /// This share of the original network's.
    Share(f64),
}

impl Limit {
    /// The limit for a network whose original has the cost `original`.
    pub fn of(self, original: f64) -> f64 {
        match self {
            Limit::Absolute(most) => most,
            Limit::Share(share) => share * original,
        }
    }
}

/// What a smaller network must satisfy; any mixture of bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bounds {
    /// Most percentage points of accuracy lost (of predictions changed, without labels).
    pub drop: Option<f64>,
    /// Most milliseconds of a forward pass, measured alternately with the original network.
    pub milliseconds: Option<Limit>,
    /// Most multiply-accumulates.
    pub macs: Option<Limit>,
    /// Most parameters.
    pub parameters: Option<Limit>,
}

impl Bounds {
    /// The cost that plans save, in exchange for the drop.
    pub fn cost_metric(&self) -> CostMetric {
        match self {
            Bounds { milliseconds: Some(_), .. } => CostMetric::Milliseconds,
            Bounds { macs: Some(_), .. } => CostMetric::Macs,
            Bounds { parameters: Some(_), .. } => CostMetric::Parameters,
            _ => CostMetric::Milliseconds,
        }
    }

    /// Whether a plan's predicted cost satisfies the bounds; a drop is for judging.
    fn satisfies(&self, plan: &Plan, scan: &Scan) -> bool {
        let within = |limit: Option<Limit>, cost: f64, original: f64| limit.is_none_or(|l| cost <= l.of(original));
        let parent = &scan.parent;
        within(self.milliseconds, plan.milliseconds, parent.milliseconds)
            && within(self.macs, plan.cost.macs as f64, parent.cost.macs as f64)
            && within(self.parameters, plan.cost.parameters as f64, parent.cost.parameters as f64)
    }

    /// Whether measured milliseconds, `[original, smaller]`, satisfy the bounds.
    fn fast_enough(&self, [original, smaller]: [f64; 2]) -> bool {
        self.milliseconds.is_none_or(|limit| smaller <= limit.of(original))
    }
}

/// The inputs of a search.
pub struct SearchProblem<'a> {
    /// The network.
    pub parent: &'a Network,
    /// Its scan.
    pub scan: &'a Scan,
    /// Images to fit to.
    pub fitted: &'a Images<'a>,
    /// Images to judge by.
    pub judged: &'a Images<'a>,
    /// Training data and how to train; none for no training.
    pub training: Option<(TrainingSet<'a>, FineTuning)>,
    /// Most plans that are built (and trained) in search of the best.
    pub attempts: usize,
}

/// A network that was built and judged.
pub struct Attempt {
    /// Its plan's index in the front.
    pub index: usize,
    /// The network.
    pub network: Network,
    /// Before training.
    pub built: Figures,
    /// At the end.
    pub judged: Figures,
    /// Milliseconds of a forward pass of the original network and of this one, measured alternately.
    pub milliseconds: [f64; 2],
}

/// The result of a search.
pub struct Search {
    /// The best that satisfies the bounds on the judged images, if one does.
    pub best: Option<Attempt>,
    /// The nearest, if none satisfies them.
    pub nearest: Option<Attempt>,
    /// The front, with what was tried.
    pub front: Vec<FrontPoint>,
    /// The plans of the front.
    pub plans: Vec<Plan>,
}

/// Reports while a prescription is made.
pub trait Progress {
    /// A plan is built: attempt `number` of at most `of`, with `replaced` ranges replaced.
    fn attempt(&self, number: usize, of: usize, replaced: usize);
    /// Training has taken `done` of `of` steps.
    fn training(&self, done: usize, of: usize);
    /// A plan was judged.
    fn judged(&self, figures: &Figures);
}

/// Passes by which latencies are compared.
const REPETITIONS: usize = 101;

/// Searches for the plan that saves most within a drop, or loses least within a cost.
///
/// # Errors
/// Those of fitting and of the engine.
pub fn search(
    problem: &SearchProblem<'_>,
    bounds: &Bounds,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Search, Error> {
    let plans = front(problem.scan, bounds.cost_metric());
    let judge = Judge::new(problem.parent, problem.judged, options)?;
    let mut tried: HashMap<usize, f64> = HashMap::new();
    let mut attempts = 0;
    let mut attempt = |index: usize| -> Result<Attempt, Error> {
        attempts += 1;
        progress.attempt(attempts, problem.attempts, plans[index].chosen.len());
        let made = build_and_judge(problem, &plans[index], index, &judge, options, progress)?;
        tried.insert(index, points(&made.judged));
        progress.judged(&made.judged);
        Ok(made)
    };
    let (mut best, mut nearest): (Option<Attempt>, Option<Attempt>) = (None, None);
    // The front is sorted by ascending drop and descending cost, so the plans that satisfy the cost bounds come last.
    let first_satisfying = plans.iter().position(|plan| bounds.satisfies(plan, problem.scan));
    match (bounds.drop, first_satisfying) {
        (_, None) if plans.len() > 1 => nearest = Some(attempt(plans.len() - 1)?),
        (_, None) => {}
        (Some(most), Some(first)) => {
            // Between the cheapest plan that is known to keep the promise and the first that is known to break it.
            let mut low = first.saturating_sub(1);
            let mut high = plans.len();
            let mut next = first_guess(&plans, most, problem.training.is_some()).max(first);
            for _ in 0..problem.attempts {
                if high - low <= 1 || next == 0 {
                    break;
                }
                let made = attempt(next)?;
                if !within_bound(&made.judged, most) {
                    high = next;
                    if nearest.as_ref().is_none_or(|n| points(&made.judged) < points(&n.judged)) {
                        nearest = Some(made);
                    }
                } else {
                    low = next;
                    if bounds.fast_enough(made.milliseconds) {
                        best = Some(made);
                    } else if best.is_none() {
                        nearest = Some(made);
                    }
                }
                next = middle(&plans, low, high);
            }
        }
        (None, Some(first)) => {
            // The first plan that is cheap enough loses least. Where its measured time exceeds the prediction, the next
            // plans are tried, in steps that the excess suggests.
            let mut index = first;
            for _ in 0..problem.attempts {
                let made = attempt(index)?;
                if bounds.fast_enough(made.milliseconds) {
                    best = Some(made);
                    break;
                }
                let [original, smaller] = made.milliseconds;
                let excess = bounds.milliseconds.map_or(1.0, |limit| smaller / limit.of(original));
                let wanted = plans[index].milliseconds / excess;
                nearest = Some(made);
                let next = (index + 1..plans.len()).find(|&next| plans[next].milliseconds <= wanted);
                match next.or((index + 1 < plans.len()).then_some(plans.len() - 1)) {
                    Some(next) => index = next,
                    None => break,
                }
            }
        }
    }
    let points = plans.iter().enumerate().map(|(index, plan)| FrontPoint {
        drop: plan.drop,
        cost: plan.cost,
        milliseconds: plan.milliseconds,
        replaced: replaced(problem.scan, plan),
        tried: tried.get(&index).copied(),
    });
    Ok(Search { best, nearest, front: points.collect(), plans })
}

/// The first plan to try: the one whose predicted drop equals the bound, or several times the bound if training follows.
fn first_guess(plans: &[Plan], most: f64, trained: bool) -> usize {
    // Training recovers most of the drop that surgery causes; the search corrects the guess.
    let allowed = if trained { 6.0 * most + 2.0 } else { most };
    plans.iter().rposition(|plan| plan.drop <= allowed).unwrap_or(0).max(1).min(plans.len() - 1)
}

/// The plan halfway between two by predicted time.
fn middle(plans: &[Plan], low: usize, high: usize) -> usize {
    let end = plans[high.min(plans.len() - 1)].milliseconds;
    let half = (plans[low].milliseconds + end) / 2.0;
    let nearest =
        |a: &usize, b: &usize| (plans[*a].milliseconds - half).abs().total_cmp(&(plans[*b].milliseconds - half).abs());
    (low + 1..high.min(plans.len())).min_by(nearest).unwrap_or(low)
}

/// Percentage points lost: of accuracy, or of unchanged predictions if there are no labels.
fn points(figures: &Figures) -> f64 {
    figures.drop.map_or(100.0 * (1.0 - figures.agreement.unwrap_or(0.0)), |drop| drop[0])
}

/// Whether the drop, with one standard error for the chance of the images, is within the promise.
fn within_bound(figures: &Figures, most: f64) -> bool {
    let error = figures.drop.map_or(0.0, |[_, low, high]| (high - low) / (2.0 * 1.96));
    points(figures) + error <= most
}

fn build_and_judge(
    problem: &SearchProblem<'_>,
    plan: &Plan,
    index: usize,
    judge: &Judge<'_>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Attempt, Error> {
    let Built { mut network, substitute_layers } = build(problem.parent, problem.scan, plan, problem.fitted, options)?;
    let built = figures(&network, judge)?;
    let mut judged = built;
    if let Some((set, tuning)) = &problem.training {
        let report = |done, of| progress.training(done, of);
        // If the training diverges, the network from before it remains.
        if let Some(tuned) =
            fine_tune(&network, &substitute_layers, problem.parent, set, tuning, options.threads, &report)?
        {
            network = tuned;
            judged = figures(&network, judge)?;
        }
    }
    let milliseconds = alternating([problem.parent, &network], options.batch, REPETITIONS, options.exact)?;
    Ok(Attempt { index, network, built, judged, milliseconds })
}

/// A network's figures on the judged images; its milliseconds are measured elsewhere.
pub fn figures(network: &Network, judge: &Judge<'_>) -> Result<Figures, Error> {
    let verdict = judge.verdict(network)?;
    let total = cost::total(&network.graph)?;
    Ok(Figures {
        accuracy: verdict.accuracy,
        drop: verdict.drop,
        agreement: Some(verdict.agreement),
        cost: Cost { parameters: total.parameters, macs: total.macs },
        milliseconds: 0.0,
    })
}

/// What a plan replaces.
pub fn replaced(scan: &Scan, plan: &Plan) -> Vec<Replaced> {
    let one = |&(range, number): &(usize, usize)| {
        let range = &scan.ranges[range];
        Replaced {
            range: range.name.clone(),
            layers: range.layers.clone(),
            substitute: range.candidates[number].substitute.clone(),
        }
    };
    plan.chosen.iter().map(one).collect()
}
