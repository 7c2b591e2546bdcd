//! From a scan to a smaller network: plans are chosen (`choose`), built (`build`), fine-tuned (`fine_tune`) and judged.

mod build;
mod choose;
mod fine_tune;
mod learn;
mod make;
mod propose;
mod store;
mod wishes;

use std::collections::HashMap;

use nettriage_net::{Network, cost};
use nettriage_records::AttemptRecord;
use nettriage_records::plan::Cost;
use nettriage_records::prescription::{Figures, FrontPoint, Replaced};
use nettriage_records::scan::Scan;

pub use build::{Built, build};
pub use choose::{CostMetric, Fixed, Plan, front};
pub use fine_tune::{FineTuning, TrainingSet, fine_tune};
pub use store::Store;
pub use wishes::Wishes;

use crate::Error;
use crate::latency::Timing;
use crate::scan::{Images, Judge, Options};
use build::shape_of;
use choose::{Losses, cost_of, scanned};
use learn::Observation;
use make::{Finished, Maker};
use propose::{Goal, Proposals};
use store::Moment;

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
    /// Most percentage points of accuracy lost; without labels, most percent by the scan's measure.
    pub drop: Option<f64>,
    /// Most milliseconds of a forward pass, measured in pairs with the original network.
    pub milliseconds: Option<Limit>,
    /// Most multiply-accumulates.
    pub macs: Option<Limit>,
    /// Most parameters.
    pub parameters: Option<Limit>,
    /// Least factor by which [`Bounds::cost_metric`] becomes smaller, such as 1.2.
    pub gain: Option<f64>,
}

impl Bounds {
    /// The cost that plans save, in exchange for the drop: the one that is limited, time before others.
    pub fn cost_metric(&self) -> CostMetric {
        match self {
            Bounds { milliseconds: Some(_), .. } => CostMetric::Milliseconds,
            Bounds { macs: Some(_), .. } => CostMetric::Macs,
            Bounds { parameters: Some(_), .. } => CostMetric::Parameters,
            _ => CostMetric::Milliseconds,
        }
    }

    /// The limits of a cost.
    fn limits(&self, metric: CostMetric) -> impl Iterator<Item = Limit> {
        let stated = match metric {
            CostMetric::Milliseconds => self.milliseconds,
            CostMetric::Macs => self.macs,
            CostMetric::Parameters => self.parameters,
        };
        let gain = self.gain.filter(|_| self.cost_metric() == metric).map(|gain| Limit::Share(1.0 / gain));
        stated.into_iter().chain(gain)
    }

    /// Whether a plan's multiply-accumulates and parameters satisfy the bounds; these are exact.
    fn small_enough(&self, plan: &Plan, scan: &Scan) -> bool {
        let within = |metric: CostMetric, cost: u64, original: u64| {
            self.limits(metric).all(|limit| cost as f64 <= limit.of(original as f64))
        };
        within(CostMetric::Macs, plan.cost.macs, scan.parent.cost.macs)
            && within(CostMetric::Parameters, plan.cost.parameters, scan.parent.cost.parameters)
    }

    /// By how much a measured time exceeds the bounds on it: at most 1 if it satisfies them; 0 if there are none.
    fn time_excess(&self, timing: &Timing) -> f64 {
        let excess = |limit: Limit| match limit {
            Limit::Absolute(most) => timing.milliseconds[1] / most,
            Limit::Share(share) => timing.ratio[0] / share,
        };
        self.limits(CostMetric::Milliseconds).map(excess).fold(0.0, f64::max)
    }
}

/// Measures the times of two networks in pairs. A search without one adds up the milliseconds of the scan.
pub type Timer<'a> = dyn Fn([&Network; 2]) -> Result<Timing, Error> + 'a;

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
    /// Most plans that are built (and trained) in search of the best. If none: under a bound on the drop [`ATTEMPTS`], and
    /// [`MOST_ATTEMPTS`] while none keeps it; under bounds on cost alone the first that is fast enough.
    pub attempts: Option<usize>,
    /// Ranges that are kept or replaced.
    pub fixed: Fixed,
    /// Measures times; none to add up the milliseconds of the scan.
    pub timer: Option<&'a Timer<'a>>,
    /// Where measurements are stored; none to store nothing.
    pub store: Option<Store<'a>>,
    /// Networks that are built and trained at a time; they share the threads. Those of a front do not depend on it. A search chooses as
    /// many before any of them is known, so with another number it may build others.
    pub workers: usize,
}

/// Plans that are built in search of the best, unless the user says otherwise.
pub const ATTEMPTS: usize = 5;

/// Plans that are built while none keeps the bound on the drop, unless the user says otherwise.
pub const MOST_ATTEMPTS: usize = 2 * ATTEMPTS;

/// A network that was built and judged.
pub struct Attempt {
    /// Its plan's index in the front.
    pub index: usize,
    /// Its loss as predicted from the scan and the attempts before it; none of the first.
    pub corrected: Option<f64>,
    /// The network.
    pub network: Network,
    /// Before training.
    pub built: Figures,
    /// At the end.
    pub judged: Figures,
    /// Times of the original network and of this one.
    pub timing: Timing,
}

/// What comes nearest to the bounds, if nothing satisfies them.
pub struct Nearest {
    /// Its cost.
    pub cost: Cost,
    /// Its figures, if it was built.
    pub judged: Option<Figures>,
    /// Times of the original network and of this one, if they were measured.
    pub timing: Option<Timing>,
}

impl From<Attempt> for Nearest {
    fn from(attempt: Attempt) -> Nearest {
        Nearest { cost: attempt.judged.cost, judged: Some(attempt.judged), timing: Some(attempt.timing) }
    }
}

/// The result of a search.
pub struct Search {
    /// The best that satisfies the bounds on the judged images, if one does; else the nearest, if there is any.
    pub best: Result<Attempt, Option<Nearest>>,
    /// The front, with what was tried.
    pub front: Vec<FrontPoint>,
    /// The plans of the front and those that were tried, by the indices of attempts.
    pub plans: Vec<Plan>,
}

/// Networks of several sizes: the result of [`search_front`].
pub struct FrontSearch {
    /// The networks, from the largest to the smallest by predicted cost.
    pub attempts: Vec<Attempt>,
    /// The front, with what was tried.
    pub front: Vec<FrontPoint>,
    /// The plans of the front and those that were tried, by the indices of attempts.
    pub plans: Vec<Plan>,
}

/// Plans with a larger predicted loss, in the unit of the measure, are not built for a front, where enough others exist.
pub const LARGEST_LOSS: f64 = 30.0;

/// Reports while a prescription is made.
pub trait Progress {
    /// The time of a plan is measured before it is built; `ratio` is its share of the original's.
    fn timed(&self, replaced: usize, ratio: f64);
    /// A plan is built: attempt `number` of at most `of` (more if none satisfies the bounds), with `replaced` ranges replaced.
    fn attempt(&self, number: usize, of: usize, replaced: usize);
    /// Training has taken `done` of `of` steps: of all networks that are trained at a time.
    fn training(&self, done: usize, of: usize);
    /// The training of attempt `number` diverged, for this reason; the network from before it is judged.
    fn diverged(&self, number: usize, reason: &str);
    /// Attempt `number` was judged.
    fn judged(&self, number: usize, figures: &Figures);
}

/// Pairs by which latencies are compared, of two passes each.
pub const REPETITIONS: usize = 51;

/// Searches for the plan that saves most within a drop, or loses least within a cost.
///
/// # Errors
/// Those of fitting, of the timer and of the engine.
pub fn search(
    problem: &SearchProblem<'_>,
    bounds: &Bounds,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Search, Error> {
    let mut run = Searching::new(problem, bounds, options, progress)?;
    let best = run.best()?;
    let (front, plans) = run.front();
    Ok(Search { best, front, plans })
}

/// Builds `count` networks along the front: plans that satisfy the bounds on cost and lose at most [`LARGEST_LOSS`] by prediction,
/// evenly spaced by predicted cost; all of them, if there are fewer. If no plan satisfies the bounds, what comes nearest.
///
/// # Errors
/// Those of fitting, of the timer and of the engine.
pub fn search_front(
    problem: &SearchProblem<'_>,
    bounds: &Bounds,
    count: usize,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Result<FrontSearch, Option<Nearest>>, Error> {
    let mut run = Searching::new(problem, bounds, options, progress)?;
    let eligible = match run.eligible()? {
        Ok(eligible) => eligible,
        Err(nearest) => return Ok(Err(nearest)),
    };
    let small = eligible.iter().filter(|&&index| run.plans[index].drop <= LARGEST_LOSS).count();
    // By ascending predicted loss.
    let eligible = &eligible[..small.max(count).min(eligible.len())];
    let costs: Vec<f64> = eligible.iter().map(|&index| cost_of(&run.plans[index], bounds.cost_metric())).collect();
    let chosen: Vec<usize> = spread(&costs, count).into_iter().map(|place| eligible[place]).collect();
    let plans: Vec<&Plan> = chosen.iter().map(|&index| &run.plans[index]).collect();
    let made = run.maker.all(&plans, problem.workers, [1, plans.len()], progress)?;
    // Times are measured when nothing else runs.
    let attempts = chosen.into_iter().zip(made).map(|made| run.timed(made));
    let attempts = attempts.collect::<Result<Vec<Attempt>, Error>>()?;
    let (front, plans) = run.front();
    Ok(Ok(FrontSearch { attempts, front, plans }))
}

/// At most `count` places of descending `costs` whose values are evenly spaced, the first and the last among them.
fn spread(costs: &[f64], count: usize) -> Vec<usize> {
    let (Some(first), Some(last)) = (costs.first(), costs.last()) else { return Vec::new() };
    if costs.len() <= count {
        return (0..costs.len()).collect();
    }
    let mut places = Vec::new();
    for number in 0..count {
        let wanted = first + (last - first) * number as f64 / (count - 1).max(1) as f64;
        let from = places.last().map_or(0, |place| place + 1);
        // As many as are still to be chosen remain.
        let to = costs.len() - (count - 1 - number);
        let distance = |place: &usize| (costs[*place] - wanted).abs();
        places.extend((from..to).min_by(|a, b| distance(a).total_cmp(&distance(b))));
    }
    places
}

/// The fronts of these `losses` and of every cost that is limited, by ascending drop.
fn plans(scan: &Scan, losses: &Losses, bounds: &Bounds, fixed: &Fixed) -> Vec<Plan> {
    let all = [CostMetric::Milliseconds, CostMetric::Macs, CostMetric::Parameters];
    let limited = all.into_iter().filter(|metric| bounds.limits(*metric).next().is_some());
    let mut metrics: Vec<CostMetric> = limited.collect();
    if metrics.is_empty() {
        metrics.push(bounds.cost_metric());
    }
    let mut plans: Vec<Plan> = metrics.into_iter().flat_map(|metric| front(scan, losses, metric, fixed)).collect();
    let cost = |plan: &Plan| cost_of(plan, bounds.cost_metric());
    plans.sort_by(|a, b| a.drop.total_cmp(&b.drop).then(cost(b).total_cmp(&cost(a))));
    plans.dedup();
    plans
}

/// A search and what it has found so far.
struct Searching<'a> {
    problem: &'a SearchProblem<'a>,
    bounds: &'a Bounds,
    progress: &'a dyn Progress,
    maker: Maker<'a>,
    proposals: Proposals<'a>,
    /// The front of the scan's losses, by ascending drop, then plans of corrected losses that were built.
    plans: Vec<Plan>,
    /// How many are on the front.
    on_front: usize,
    /// The measured and the corrected predicted loss of plans that were built, by their index.
    tried: HashMap<usize, (f64, Option<f64>)>,
}

impl<'a> Searching<'a> {
    fn new(
        problem: &'a SearchProblem<'a>,
        bounds: &'a Bounds,
        options: &'a Options,
        progress: &'a dyn Progress,
    ) -> Result<Searching<'a>, Error> {
        let maker = Maker::new(problem, options)?;
        let plans = plans(problem.scan, &scanned(problem.scan), bounds, &problem.fixed);
        let proposals = Proposals::new(problem.scan, bounds, &problem.fixed, problem.training.is_some());
        let (on_front, tried) = (plans.len(), HashMap::new());
        Ok(Searching { problem, bounds, progress, maker, proposals, plans, on_front, tried })
    }

    /// The front with what was tried, and its plans.
    fn front(self) -> (Vec<FrontPoint>, Vec<Plan>) {
        let forecast = self.proposals.corrected();
        let points = self.plans.iter().enumerate().map(|(index, plan)| {
            let tried = self.tried.get(&index);
            let corrected = || forecast.as_ref().map(|forecast| forecast.loss(&plan.chosen));
            FrontPoint {
                drop: plan.drop,
                corrected: tried.map_or_else(corrected, |(_, corrected)| *corrected),
                cost: plan.cost,
                milliseconds: plan.milliseconds,
                replaced: replaced(self.problem.scan, plan),
                tried: tried.map(|(loss, _)| *loss),
            }
        });
        let mut points: Vec<FrontPoint> = points.collect();
        points.sort_by(|a, b| a.drop.total_cmp(&b.drop).then(b.milliseconds.total_cmp(&a.milliseconds)));
        (points, self.plans)
    }

    /// The index of a plan, which is kept.
    fn index_of(&mut self, plan: Plan) -> usize {
        self.plans.iter().position(|known| known.chosen == plan.chosen).unwrap_or_else(|| {
            self.plans.push(plan);
            self.plans.len() - 1
        })
    }

    fn best(&mut self) -> Result<Result<Attempt, Option<Nearest>>, Error> {
        let eligible = match self.eligible()? {
            Ok(eligible) => eligible,
            Err(nearest) => return Ok(Err(nearest)),
        };
        match self.bounds.drop {
            Some(most) => self.within_drop(&eligible, most),
            None => self.least_loss(eligible[0]),
        }
    }

    /// Indices of the plans that satisfy the bounds on cost, each cheaper and with a larger predicted drop than the one before; else
    /// what comes nearest.
    fn eligible(&mut self) -> Result<Result<Vec<usize>, Option<Nearest>>, Error> {
        let metric = self.bounds.cost_metric();
        let mut least = f64::INFINITY;
        let eligible = self.plans.iter().enumerate().filter(|(_, plan)| {
            let fits = !plan.chosen.is_empty() && self.bounds.small_enough(plan, self.problem.scan);
            let cheaper = fits && cost_of(plan, metric) < least;
            if cheaper {
                least = cost_of(plan, metric);
            }
            cheaper
        });
        let eligible: Vec<usize> = eligible.map(|(index, _)| index).collect();
        if eligible.is_empty() {
            let smallest = self.plans.iter().rev().find(|plan| !plan.chosen.is_empty());
            return Ok(Err(smallest.map(|plan| Nearest { cost: plan.cost, judged: None, timing: None })));
        }
        let fast = self.fast_enough(eligible)?.map_err(Some);
        if let Ok(fast) = &fast
            && self.bounds.limits(CostMetric::Milliseconds).next().is_some()
        {
            self.proposals.at_most(self.plans[fast[0]].milliseconds);
        }
        Ok(fast)
    }

    /// The plans from the first on that is measured to be fast enough. Times do not depend on weights, so nothing is fitted or
    /// trained for this.
    fn fast_enough(&self, mut eligible: Vec<usize>) -> Result<Result<Vec<usize>, Nearest>, Error> {
        if self.bounds.limits(CostMetric::Milliseconds).next().is_none() {
            return Ok(Ok(eligible));
        }
        let count = eligible.len();
        let predicted = |place: usize| self.plans[eligible[place]].milliseconds;
        // Between the last that is known to be too slow and the first that is known to be fast enough.
        let (mut slow, mut fast): (Option<usize>, Option<usize>) = (None, None);
        let mut slowest_excess: Option<(f64, Nearest)> = None;
        let parent = self.problem.scan.parent.milliseconds;
        let by_prediction = |share: f64| (0..count).find(|&place| predicted(place) <= share * parent);
        let shares = self.bounds.limits(CostMetric::Milliseconds).map(|limit| limit.of(parent) / parent);
        let mut next = by_prediction(shares.fold(1.0, f64::min)).unwrap_or(count - 1);
        loop {
            let plan = &self.plans[eligible[next]];
            let timing = self.time(plan, &shape_of(self.problem.parent, self.problem.scan, plan)?, Moment::Planned)?;
            if self.problem.timer.is_some() {
                self.progress.timed(plan.chosen.len(), timing.ratio[0]);
            }
            let excess = self.bounds.time_excess(&timing);
            if excess <= 1.0 {
                fast = Some(next);
            } else {
                slow = Some(next);
                if slowest_excess.as_ref().is_none_or(|(least, _)| excess < *least) {
                    slowest_excess = Some((excess, Nearest { cost: plan.cost, judged: None, timing: Some(timing) }));
                }
            }
            let wanted = predicted(next) / excess.max(1e-9);
            next = match (slow, fast) {
                (None, Some(fast)) if fast > 0 => fast / 2,
                (Some(slow), Some(fast)) if fast > slow + 1 => (slow + fast) / 2,
                (_, Some(first)) => break Ok(Ok(eligible.split_off(first))),
                (Some(slow), None) if slow + 1 < count => {
                    (slow + 1..count).find(|&place| predicted(place) <= wanted).unwrap_or(count - 1)
                }
                (_, None) => {
                    let (_, nearest) = slowest_excess.expect("a plan was timed and was too slow");
                    break Ok(Err(nearest));
                }
            };
        }
    }

    /// The plan that saves most and keeps the drop. Each plan that is built corrects the predictions of the others.
    fn within_drop(&mut self, eligible: &[usize], most: f64) -> Result<Result<Attempt, Option<Nearest>>, Error> {
        let (mut best, mut nearest): (Option<Attempt>, Option<Attempt>) = (None, None);
        let trained = self.problem.training.is_some();
        let promise = [most, errors_of_promise(self.problem.attempts)];
        let mut next = self.plans[first_guess(&self.plans, eligible, most, trained)].clone();
        let (mut ceiling, mut built) = (None, 0);
        loop {
            let allowed = self.problem.attempts.unwrap_or(if best.is_some() { ATTEMPTS } else { MOST_ATTEMPTS });
            if built >= allowed {
                break;
            }
            for made in self.attempts(next, built, allowed - built, Goal::Within(promise), ceiling)? {
                built += 1;
                let made = self.timed(made)?;
                let cost = cost_of(&self.plans[made.index], self.bounds.cost_metric());
                if !keeps(&made.judged, promise) {
                    if nearest.as_ref().is_none_or(|n| points(&made.judged) < points(&n.judged)) {
                        nearest = Some(made);
                    }
                } else if ceiling.is_none_or(|ceiling| cost < ceiling) {
                    ceiling = Some(cost);
                    if self.bounds.time_excess(&made.timing) <= 1.0 {
                        best = Some(made);
                    } else if best.is_none() {
                        nearest = Some(made);
                    }
                }
            }
            match self.proposals.next(Goal::Within(promise), &self.plans[..self.on_front], ceiling) {
                Some(plan) => next = plan,
                None => break,
            }
        }
        Ok(best.ok_or(nearest.map(Nearest::from)))
    }

    /// The plan that loses least among those within the bounds on cost: the `first` by prediction; the next one where its time, measured
    /// again, is too long; and the best of as many as the user states.
    fn least_loss(&mut self, first: usize) -> Result<Result<Attempt, Option<Nearest>>, Error> {
        let (mut best, mut nearest): (Option<Attempt>, Option<Attempt>) = (None, None);
        let mut next = self.plans[first].clone();
        let mut built = 0;
        loop {
            let least = best.as_ref().map(|best| points(&best.judged));
            let allowed = self.problem.attempts.unwrap_or(if best.is_some() { built } else { built + 1 });
            if built >= allowed {
                break;
            }
            for made in self.attempts(next, built, allowed - built, Goal::LeastLoss, least)? {
                built += 1;
                let made = self.timed(made)?;
                if self.bounds.time_excess(&made.timing) > 1.0 {
                    self.proposals.at_most(self.plans[made.index].milliseconds.next_down());
                    nearest = Some(made);
                } else if best.as_ref().is_none_or(|best| points(&made.judged) < points(&best.judged)) {
                    best = Some(made);
                }
            }
            let least = best.as_ref().map(|best| points(&best.judged));
            match self.proposals.next(Goal::LeastLoss, &self.plans[..self.on_front], least) {
                Some(plan) => next = plan,
                None => break,
            }
        }
        Ok(best.ok_or(nearest.map(Nearest::from)))
    }

    /// Builds, trains and judges `first`, and beside it as many others as there are workers, at most `most` in all; `built` were built
    /// before.
    fn attempts(
        &mut self,
        first: Plan,
        built: usize,
        most: usize,
        goal: Goal,
        best: Option<f64>,
    ) -> Result<Vec<(usize, Finished)>, Error> {
        let count = self.problem.workers.min(most);
        let batch = self.proposals.batch(first, count, goal, &self.plans[..self.on_front], best);
        let of = self.problem.attempts.unwrap_or(match goal {
            Goal::Within(_) => ATTEMPTS.max(built + batch.len()),
            Goal::LeastLoss => built + batch.len(),
        });
        let made = self.maker.all(&batch.iter().collect::<Vec<_>>(), batch.len(), [built + 1, of], self.progress)?;
        Ok(batch.into_iter().zip(made).map(|(plan, made)| (self.index_of(plan), made)).collect())
    }

    /// Times a network that was judged, and corrects the predictions of the plans that were not built.
    fn timed(&mut self, (index, (record, network)): (usize, Finished)) -> Result<Attempt, Error> {
        let plan = &self.plans[index];
        let timing = self.time(plan, &network, Moment::Judged)?;
        let corrected = self.proposals.corrected().map(|forecast| forecast.loss(&plan.chosen));
        let AttemptRecord { built, judged, diverged, .. } = record;
        let trained = self.problem.training.is_some() && diverged.is_none();
        self.proposals.learn(Observation::of(&plan.chosen, &built, trained.then_some(&judged)));
        self.tried.insert(index, (points(&judged), corrected));
        Ok(Attempt { index, corrected, network, built, judged, timing })
    }

    /// Times of the original network and of a plan's.
    fn time(&self, plan: &Plan, network: &Network, moment: Moment) -> Result<Timing, Error> {
        let networks = [self.problem.parent, network];
        match (self.problem.timer, &self.problem.store) {
            (Some(timer), Some(store)) => store.time(networks, moment, timer),
            (Some(timer), None) => timer(networks),
            (None, _) => {
                let milliseconds = [self.problem.scan.parent.milliseconds, plan.milliseconds];
                Ok(Timing { milliseconds, ratio: [milliseconds[1] / milliseconds[0]; 3] })
            }
        }
    }
}

/// The first plan to try, one of `eligible`: the last whose predicted drop is within the bound, or within several times the bound if
/// training follows.
fn first_guess(plans: &[Plan], eligible: &[usize], most: f64, trained: bool) -> usize {
    // Training recovers most of the drop that surgery causes; the search corrects the guess.
    let allowed = if trained { 6.0 * most + 2.0 } else { most };
    eligible.iter().copied().rfind(|&index| plans[index].drop <= allowed).unwrap_or(eligible[0])
}

/// The loss of a network that was judged.
fn points(figures: &Figures) -> f64 {
    figures.loss().unwrap_or(f64::INFINITY)
}

/// Whether the loss with some standard errors added, `errors`, is at most `most`.
fn keeps(figures: &Figures, [most, errors]: [f64; 2]) -> bool {
    points(figures) + errors * figures.standard_error() <= most
}

/// A drop is within its bound if it is so with this many standard errors over the images added, in a search that may judge `attempts`
/// networks ([`MOST_ATTEMPTS`] if none). It is 1 for one network. The cheapest of several that seem to keep the bound is more often one
/// that was judged too well, so each of n networks may seem to keep it by luck with a chance that is n times smaller (Bonferroni).
pub fn errors_of_promise(attempts: Option<usize>) -> f64 {
    let chance = propose::normal(-1.0) / attempts.unwrap_or(MOST_ATTEMPTS).max(1) as f64;
    // Bisection: the chance falls with the number of errors. That of 38 is the smallest above 0.
    let (mut low, mut high) = (1.0, 38.0);
    for _ in 0..50 {
        let middle = (low + high) / 2.0;
        match propose::normal(-middle) > chance {
            true => low = middle,
            false => high = middle,
        }
    }
    low
}

/// A network's figures on the judged images; its milliseconds are measured elsewhere.
pub fn figures(network: &Network, judge: &Judge<'_>) -> Result<Figures, Error> {
    let verdict = judge.verdict(network)?;
    let total = cost::total(&network.graph)?;
    Ok(Figures {
        accuracy: verdict.accuracy,
        drop: verdict.drop,
        fidelity: Some(verdict.fidelity),
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

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn places_are_evenly_spaced_by_cost() {
        let costs = [10.0, 9.9, 9.8, 9.0, 6.1, 5.9, 4.0, 2.2, 2.0, 1.9];
        assert_eq!(spread(&costs, 3), [0, 5, 9]);
        assert_eq!(spread(&costs, 4), [0, 4, 6, 9]);
        // No place twice, and none left over, where costs crowd together.
        assert_eq!(spread(&[10.0, 1.2, 1.1, 1.0], 3), [0, 1, 3]);
        assert_eq!(spread(&[10.0, 9.9, 9.8, 1.0], 3), [0, 2, 3]);
        assert_eq!(spread(&costs, 20).len(), costs.len());
        assert_eq!(spread(&[], 3), [0; 0]);
    }
}
