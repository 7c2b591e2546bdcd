//! From a scan to a smaller network: chosen (`choose`), built and refitted, trained (`fine_tune`), judged.

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
use crate::scan::{Images, Judge, Options};

/// What a smaller network must meet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// At most so many percentage points of accuracy lost (of first choices changed, without labels).
    Drop(f64),
    /// At most so many milliseconds a forward pass.
    Milliseconds(f64),
    /// At most so many multiply-accumulates.
    Macs(f64),
    /// At most so many parameters.
    Parameters(f64),
}

impl Budget {
    /// What is to be saved.
    pub fn cost_metric(&self) -> CostMetric {
        match self {
            Budget::Drop(_) | Budget::Milliseconds(_) => CostMetric::Milliseconds,
            Budget::Macs(_) => CostMetric::Macs,
            Budget::Parameters(_) => CostMetric::Parameters,
        }
    }

    /// Whether a plan's predicted cost meets it; a drop is for judging.
    fn satisfies(&self, plan: &Plan) -> bool {
        match *self {
            Budget::Drop(_) => true,
            Budget::Milliseconds(most) => plan.milliseconds <= most,
            Budget::Macs(most) => plan.cost.macs as f64 <= most,
            Budget::Parameters(most) => plan.cost.parameters as f64 <= most,
        }
    }
}

/// What a prescription is made from.
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
    /// Plans that are built (and trained) at most while looking for the best that keeps the promise.
    pub attempts: usize,
}

/// A network that was built and judged.
pub struct Attempt {
    /// Its plan's place in the front.
    pub place: usize,
    /// The network.
    pub network: Network,
    /// Before training.
    pub built: Figures,
    /// At the end.
    pub judged: Figures,
}

/// What came of the search.
pub struct Search {
    /// The best that meets the budget on the judged images, if one does.
    pub best: Option<Attempt>,
    /// The one that comes nearest, where none does.
    pub nearest: Option<Attempt>,
    /// The front, with what was tried.
    pub front: Vec<FrontPoint>,
    /// The plans of the front.
    pub plans: Vec<Plan>,
}

/// What is told while a prescription is made.
pub trait Progress {
    /// A plan is built: so many of so many attempts, with that many layers in the place of ranges.
    fn attempt(&self, number: usize, of: usize, replaced: usize);
    /// Training has so many steps behind it.
    fn training(&self, done: usize, of: usize);
    /// A plan was judged.
    fn judged(&self, figures: &Figures);
}

/// Looks for the plan that saves most within a drop, or loses least within a cost.
///
/// # Errors
/// Those of fitting and of the engine.
pub fn search(
    problem: &SearchProblem<'_>,
    budget: Budget,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Search, Error> {
    let plans = front(problem.scan, budget.cost_metric());
    let judge = Judge::new(problem.parent, problem.judged, options)?;
    let mut tried: HashMap<usize, f64> = HashMap::new();
    let mut attempts = 0;
    let mut attempt = |place: usize| -> Result<Attempt, Error> {
        attempts += 1;
        progress.attempt(attempts, problem.attempts, plans[place].chosen.len());
        let made = make(problem, &plans[place], place, &judge, options, progress)?;
        tried.insert(place, points(&made.judged));
        progress.judged(&made.judged);
        Ok(made)
    };
    let (mut best, mut nearest): (Option<Attempt>, Option<Attempt>) = (None, None);
    match budget {
        Budget::Drop(most) => {
            // Between the plan that changes nothing and the one that saves most: later ones lose more.
            let mut low = 0;
            let mut high = plans.len();
            let mut next = first_guess(&plans, most, problem.training.is_some());
            for _ in 0..problem.attempts {
                if high - low <= 1 || next == 0 {
                    break;
                }
                let made = attempt(next)?;
                if surely(&made.judged, most) {
                    low = next;
                    best = Some(made);
                } else {
                    high = next;
                    if nearest.as_ref().is_none_or(|n| points(&made.judged) < points(&n.judged)) {
                        nearest = Some(made);
                    }
                }
                next = middle(&plans, low, high);
            }
        }
        _ => {
            // The front goes by rising drop: the first that is cheap enough loses least.
            match plans.iter().position(|plan| budget.satisfies(plan)) {
                Some(place) => best = Some(attempt(place)?),
                None if plans.len() > 1 => nearest = Some(attempt(plans.len() - 1)?),
                None => {}
            }
        }
    }
    let points = plans.iter().enumerate().map(|(place, plan)| FrontPoint {
        drop: plan.drop,
        cost: plan.cost,
        milliseconds: plan.milliseconds,
        replaced: replaced(problem.scan, plan),
        tried: tried.get(&place).copied(),
    });
    Ok(Search { best, nearest, front: points.collect(), plans })
}

/// Where to begin: the plan whose predicted drop is the promise; with training to come, several times that.
fn first_guess(plans: &[Plan], most: f64, trained: bool) -> usize {
    // Training wins back most of what surgery costs; the search corrects the guess.
    let allowed = if trained { 6.0 * most + 2.0 } else { most };
    plans.iter().rposition(|plan| plan.drop <= allowed).unwrap_or(0).max(1).min(plans.len() - 1)
}

/// The plan half way between two, by what they save.
fn middle(plans: &[Plan], low: usize, high: usize) -> usize {
    let end = plans[high.min(plans.len() - 1)].milliseconds;
    let half = (plans[low].milliseconds + end) / 2.0;
    let nearest =
        |a: &usize, b: &usize| (plans[*a].milliseconds - half).abs().total_cmp(&(plans[*b].milliseconds - half).abs());
    (low + 1..high.min(plans.len())).min_by(nearest).unwrap_or(low)
}

/// Percentage points lost: of accuracy, or of first choices where there are no labels.
fn points(figures: &Figures) -> f64 {
    figures.drop.map_or(100.0 * (1.0 - figures.agreement.unwrap_or(0.0)), |drop| drop[0])
}

/// Whether the drop, with one standard error for the chance of the images, is within the promise.
fn surely(figures: &Figures, most: f64) -> bool {
    let error = figures.drop.map_or(0.0, |[_, low, high]| (high - low) / (2.0 * 1.96));
    points(figures) + error <= most
}

fn make(
    problem: &SearchProblem<'_>,
    plan: &Plan,
    place: usize,
    judge: &Judge<'_>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Attempt, Error> {
    let Built { network, substitute_layers } = build(problem.parent, problem.scan, plan, problem.fitted, options)?;
    let built = figures(&network, judge)?;
    let Some((set, tuning)) = &problem.training else {
        return Ok(Attempt { place, network, built, judged: built });
    };
    let tell = |done, of| progress.training(done, of);
    match fine_tune(&network, &substitute_layers, problem.parent, set, tuning, options.threads, &tell)? {
        Some(network) => {
            let judged = figures(&network, judge)?;
            Ok(Attempt { place, network, built, judged })
        }
        // A training that diverged is worth nothing; the network before it is.
        None => Ok(Attempt { place, network, built, judged: built }),
    }
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
