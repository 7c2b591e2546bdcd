//! Which plan is built next: the one of the largest expected gain, by what the networks that were built tell of the others.
//!
//! Under a bound on the loss this is the saving times the chance that the bound is kept: the expected improvement under a constraint
//! (Gelbart, Snoek and Adams, UAI 2014, arXiv:1403.5607, section 3.1). Under bounds on cost alone it is the expected improvement of the loss (Jones,
//! Schonlau and Welch, 1998).

use std::collections::HashSet;

use nettriage_records::scan::Scan;

use super::choose::{Chosen, Fixed, Plan, cost_of};
use super::learn::{Forecast, Measured, Observation};
use super::{Bounds, plans};

/// Once a network keeps the bounds, plans that keep them with a smaller chance are not built.
const LEAST_CHANCE: f64 = 0.02;

/// What a search looks for.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// The smallest cost, with a loss that is at most this many points, some standard errors added: `[points, errors]`.
    Within([f64; 2]),
    /// The smallest loss.
    LeastLoss,
}

/// The plans that satisfy the bounds on cost, and the networks that were built.
#[derive(Clone)]
pub struct Proposals<'a> {
    scan: &'a Scan,
    bounds: &'a Bounds,
    fixed: &'a Fixed,
    trained: bool,
    /// Plans that are predicted to take more milliseconds are too slow, as was measured.
    slowest: f64,
    observations: Vec<Observation>,
    tried: HashSet<Vec<Chosen>>,
}

impl<'a> Proposals<'a> {
    /// Before a network was built; `trained` tells whether training follows.
    pub fn new(scan: &'a Scan, bounds: &'a Bounds, fixed: &'a Fixed, trained: bool) -> Proposals<'a> {
        let (observations, tried) = (Vec::new(), HashSet::new());
        Proposals { scan, bounds, fixed, trained, slowest: f64::INFINITY, observations, tried }
    }

    /// Leaves out plans that are predicted to take longer.
    pub fn at_most(&mut self, milliseconds: f64) {
        self.slowest = milliseconds;
    }

    fn forecast(&self) -> Forecast<'a> {
        Forecast::of(self.scan, &self.observations, self.trained)
    }

    /// The corrected predictions; none before a network was built.
    pub fn corrected(&self) -> Option<Forecast<'a>> {
        (!self.observations.is_empty()).then(|| self.forecast())
    }

    /// Corrects the predictions by a network that was built.
    pub fn learn(&mut self, observation: Observation) {
        self.tried.insert(observation.chosen.clone());
        self.observations.push(observation);
    }

    /// The plans on the front of the scan's losses and on that of the corrected ones that satisfy the bounds on cost and were not built.
    fn open(&self, forecast: &Forecast<'_>, scanned: &[Plan]) -> Vec<Plan> {
        let mut found: Vec<Plan> = scanned.to_vec();
        found.extend(plans(self.scan, forecast.losses(), self.bounds, self.fixed));
        let mut seen = self.tried.clone();
        found.retain(|plan| self.fits(plan) && seen.insert(plan.chosen.clone()));
        found
    }

    /// Whether a plan changes anything and satisfies the bounds on cost, by prediction.
    fn fits(&self, plan: &Plan) -> bool {
        !plan.chosen.is_empty() && self.bounds.small_enough(plan, self.scan) && plan.milliseconds <= self.slowest
    }

    /// The standard error that a loss will have: the mean of those that were measured.
    fn error(&self) -> f64 {
        let errors =
            self.observations.iter().filter_map(|observation| observation.last()).map(|measured| measured.error);
        errors.sum::<f64>() / (self.observations.len() as f64).max(1.0)
    }

    /// The plan to build next; `best` is the best so far: its cost, or its loss if that is the goal. `scanned` are the plans on the scan's
    /// front.
    pub fn next(&self, goal: Goal, scanned: &[Plan], best: Option<f64>) -> Option<Plan> {
        match goal {
            Goal::Within(promise) => self.within(scanned, promise, best),
            Goal::LeastLoss => self.below(scanned, best),
        }
    }

    /// At most `count` plans that are built at a time: `first`, and those that would follow if every network came out as expected (the
    /// "kriging believer" of Ginsbourger, Le Riche and Carraro, 2010, section 4.2).
    pub fn batch(&self, first: Plan, count: usize, goal: Goal, scanned: &[Plan], mut best: Option<f64>) -> Vec<Plan> {
        let mut believed = self.clone();
        let mut batch = vec![first];
        while batch.len() < count {
            let last = &batch[batch.len() - 1];
            let expected = believed.expected(last);
            let loss = expected.last().map_or(f64::INFINITY, |measured| measured.loss);
            let value = match goal {
                Goal::Within([most, errors]) => {
                    (loss + errors * self.error() <= most).then(|| cost_of(last, self.bounds.cost_metric()))
                }
                Goal::LeastLoss => Some(loss),
            };
            best = best.into_iter().chain(value).reduce(f64::min);
            believed.learn(expected);
            match believed.next(goal, scanned, best) {
                Some(plan) => batch.push(plan),
                None => break,
            }
        }
        batch
    }

    /// What is expected to be measured of a plan.
    fn expected(&self, plan: &Plan) -> Observation {
        let measured = |trained: bool| Measured {
            loss: Forecast::of(self.scan, &self.observations, trained).loss(&plan.chosen),
            error: self.error(),
        };
        let trained = self.trained.then(|| measured(true));
        Observation { chosen: plan.chosen.clone(), built: Some(measured(false)), trained }
    }

    /// The plan to build next under a bound on the loss plus some standard errors (`most` and `errors`): that of the largest expected saving
    /// below the cost `ceiling`, which is that of the best so far; the original's if none keeps the bound. `scanned` are the plans on
    /// the scan's front.
    fn within(&self, scanned: &[Plan], [most, errors]: [f64; 2], ceiling: Option<f64>) -> Option<Plan> {
        let forecast = self.forecast();
        let metric = self.bounds.cost_metric();
        let error = self.error();
        let original = cost_of(&Plan::unchanged(self.scan), metric);
        let worth = |plan: &Plan| {
            let saved = ceiling.unwrap_or(original) - cost_of(plan, metric);
            let deviation = forecast.deviation(&plan.chosen).hypot(error).max(1e-9);
            let chance = normal((most - errors * error - forecast.loss(&plan.chosen)) / deviation);
            match ceiling {
                // Wanted replacements may cost more than what they replace.
                None if saved <= 0.0 => chance * 1e-9,
                None => saved * chance,
                Some(_) if chance < LEAST_CHANCE => 0.0,
                Some(_) => saved * chance,
            }
        };
        best(self.open(&forecast, scanned), worth)
    }

    /// The plan to build next under bounds on cost alone: that of the largest expected improvement of the loss below `least`, or that of the
    /// smallest expected loss if no network was fast enough.
    fn below(&self, scanned: &[Plan], least: Option<f64>) -> Option<Plan> {
        let forecast = self.forecast();
        let worth = |plan: &Plan| {
            let loss = forecast.loss(&plan.chosen);
            let Some(least) = least else { return 1.0 / (1.0 + loss) };
            let deviation = forecast.deviation(&plan.chosen).max(1e-9);
            let z = (least - loss) / deviation;
            let density = (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt();
            ((least - loss) * normal(z) + deviation * density).max(0.0)
        };
        best(self.open(&forecast, scanned), worth)
    }
}

/// The plan of the largest worth above 0; of equal ones the first.
fn best(plans: Vec<Plan>, worth: impl Fn(&Plan) -> f64) -> Option<Plan> {
    let mut found: Option<(f64, Plan)> = None;
    for plan in plans {
        let worth = worth(&plan);
        if worth > found.as_ref().map_or(0.0, |(most, _)| *most) {
            found = Some((worth, plan));
        }
    }
    found.map(|(_, plan)| plan)
}

/// The standard normal distribution function.
pub fn normal(x: f64) -> f64 {
    0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
}

#[cfg(test)]
mod tests {
    use nettriage_records::prescription::Figures;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::super::choose::{scanned, tests::scan_of};
    use super::super::{MOST_ATTEMPTS, errors_of_promise, first_guess, keeps};
    use super::*;

    /// A network that exists only as a table of losses: a single range's as scanned, and what pairs of ranges lose in addition.
    struct Simulated {
        scan: Scan,
        pairs: Vec<(usize, usize, f64)>,
        /// The share of the loss that training leaves; none without training.
        left: Option<f64>,
    }

    impl Simulated {
        /// The loss before training, and at the end.
        fn losses(&self, plan: &Plan) -> [f64; 2] {
            let has = |range: usize| plan.chosen.iter().any(|chosen| chosen.0 == range);
            let pairs = self.pairs.iter().filter(|(a, b, _)| has(*a) && has(*b)).map(|(.., more)| more);
            let built = (plan.drop + pairs.sum::<f64>()).max(0.0);
            [built, self.left.unwrap_or(1.0) * built]
        }

        fn keeps(&self, plan: &Plan, most: f64) -> bool {
            self.losses(plan)[1] <= most
        }

        fn observation(&self, plan: &Plan) -> Observation {
            let [built, last] = self.losses(plan).map(|loss| Measured { loss, error: 0.0 });
            Observation { chosen: plan.chosen.clone(), built: Some(built), trained: self.left.map(|_| last) }
        }

        /// Milliseconds of the best of `attempts` networks, as a search finds them.
        fn corrected(&self, most: f64, attempts: usize) -> f64 {
            let (bounds, fixed) = (Bounds { drop: Some(most), ..Bounds::default() }, Fixed::default());
            let front = plans(&self.scan, &scanned(&self.scan), &bounds, &fixed);
            let eligible: Vec<usize> = (1..front.len()).collect();
            if eligible.is_empty() {
                return self.scan.parent.milliseconds;
            }
            let mut next = front[first_guess(&front, &eligible, most, self.left.is_some())].clone();
            let mut proposals = Proposals::new(&self.scan, &bounds, &fixed, self.left.is_some());
            let mut best: Option<f64> = None;
            for _ in 0..attempts {
                if self.keeps(&next, most) {
                    assert!(best.is_none_or(|best| next.milliseconds < best), "only cheaper plans are built");
                    best = Some(next.milliseconds);
                }
                proposals.learn(self.observation(&next));
                match proposals.next(Goal::Within([most, 1.0]), &front, best) {
                    Some(plan) => next = plan,
                    None => break,
                }
            }
            best.unwrap_or(self.scan.parent.milliseconds)
        }

        /// The same by bisection of the scan's front, which corrects nothing.
        fn additive(&self, most: f64, attempts: usize) -> f64 {
            let bounds = Bounds { drop: Some(most), ..Bounds::default() };
            let front = plans(&self.scan, &scanned(&self.scan), &bounds, &Fixed::default());
            let eligible: Vec<usize> = (1..front.len()).collect();
            if eligible.is_empty() {
                return self.scan.parent.milliseconds;
            }
            let first = first_guess(&front, &eligible, most, self.left.is_some());
            let mut next = eligible.iter().position(|&index| index == first);
            let (mut kept, mut high) = (0, eligible.len());
            let mut best = self.scan.parent.milliseconds;
            for _ in 0..attempts {
                let place = next.unwrap_or(0);
                let plan = &front[eligible[place]];
                match self.keeps(plan, most) {
                    true => (kept, best) = (place + 1, plan.milliseconds),
                    false => high = place,
                }
                if kept >= high {
                    break;
                }
                let milliseconds = |place: usize| front[eligible[place]].milliseconds;
                let half = (milliseconds(kept) + milliseconds(high - 1)) / 2.0;
                next = (kept..high)
                    .min_by(|a, b| (milliseconds(*a) - half).abs().total_cmp(&(milliseconds(*b) - half).abs()));
            }
            best
        }
    }

    /// Ranges at random, whose losses grow with what they save; pairs interact with this probability.
    fn random(rng: &mut ChaCha8Rng, interacting: f64, left: Option<f64>) -> Simulated {
        let units = 16;
        let ranges: Vec<(usize, usize, f64, f64)> = (0..48)
            .map(|_| {
                let first = rng.random_range(0..units);
                let last = (first + rng.random_range(0..4)).min(units - 1);
                let length = (last - first + 1) as f64;
                let loss = length * rng.random_range(0.0..2.0f64).powi(2);
                // A plan's loss is a sum of rounded losses.
                (first, last, (100.0 * loss).round() / 100.0, length * rng.random_range(0.1..0.6))
            })
            .collect();
        let apart = |a: usize, b: usize| ranges[a].1 < ranges[b].0 || ranges[b].1 < ranges[a].0;
        let all = (0..ranges.len()).flat_map(|a| (0..a).map(move |b| (a, b))).filter(|(a, b)| apart(*a, *b));
        let mut pairs = Vec::new();
        for (a, b) in all {
            if rng.random_bool(interacting) {
                pairs.push((a, b, rng.random_range(0.0..3.0)));
            }
        }
        Simulated { scan: scan_of(units, &ranges), pairs, left }
    }

    #[test]
    fn what_interacts_is_avoided_by_plans_that_the_scan_never_proposes() {
        // The first two ranges lose little each and 4 points more together, so that every cheap plan of the scan's front fails.
        let single = |unit: usize, loss: f64, milliseconds: f64| (unit, unit, loss, milliseconds);
        let ranges =
            [single(0, 0.2, 0.1), single(1, 0.2, 0.1), single(2, 0.5, 0.2), single(3, 0.5, 0.2), single(4, 3.0, 0.1)];
        let simulated = Simulated { scan: scan_of(8, &ranges), pairs: vec![(0, 1, 4.0)], left: None };
        assert!((simulated.additive(1.5, 5) - 7.1).abs() < 1e-9, "the first range alone");
        let found = simulated.corrected(1.5, 5);
        // One of the two with the third and the fourth: 0.9 + 0.8 + 0.8 ms saved. No plan within the bound saves more.
        assert!((found - 5.5).abs() < 1e-9, "{found}");
        // Resumed or repeated, it is the same.
        assert_eq!(found, simulated.corrected(1.5, 5));
    }

    #[test]
    fn a_batch_is_what_follows_if_everything_comes_out_as_expected() {
        for seed in 0..20 {
            let simulated = random(&mut ChaCha8Rng::seed_from_u64(seed), 0.0, None);
            let (bounds, fixed) = (Bounds { drop: Some(2.0), ..Bounds::default() }, Fixed::default());
            let front = plans(&simulated.scan, &scanned(&simulated.scan), &bounds, &fixed);
            let eligible: Vec<usize> = (1..front.len()).collect();
            let first = front[first_guess(&front, &eligible, 2.0, false)].clone();
            for goal in [Goal::Within([2.0, 1.0]), Goal::LeastLoss] {
                let mut proposals = Proposals::new(&simulated.scan, &bounds, &fixed, false);
                let batch = proposals.batch(first.clone(), 4, goal, &front, None);
                assert_eq!(batch, proposals.batch(first.clone(), 4, goal, &front, None), "seed {seed}");
                assert_eq!(proposals.batch(first.clone(), 1, goal, &front, None), std::slice::from_ref(&first));
                // Without interactions every loss is as expected, so one at a time the same plans are built.
                let (mut alone, mut best) = (vec![first.clone()], None);
                while alone.len() < 4 {
                    let last = &alone[alone.len() - 1];
                    let loss = simulated.losses(last)[1];
                    let value = match goal {
                        Goal::Within([most, _]) => (loss <= most).then_some(last.milliseconds),
                        Goal::LeastLoss => Some(loss),
                    };
                    best = best.into_iter().chain(value).reduce(f64::min);
                    proposals.learn(simulated.observation(last));
                    match proposals.next(goal, &front, best) {
                        Some(plan) => alone.push(plan),
                        None => break,
                    }
                }
                assert_eq!(batch, alone, "seed {seed}, {goal:?}");
            }
        }
    }

    #[test]
    fn corrected_searches_save_more_where_ranges_interact_and_no_less_where_they_do_not() {
        let saved = |interacting: f64, left: Option<f64>| -> [f64; 2] {
            let mut sums = [0.0; 2];
            for seed in 0..60 {
                let simulated = random(&mut ChaCha8Rng::seed_from_u64(seed), interacting, left);
                let original = simulated.scan.parent.milliseconds;
                sums[0] += (original - simulated.additive(2.0, 5)) / 60.0;
                sums[1] += (original - simulated.corrected(2.0, 5)) / 60.0;
                if interacting == 0.0 && left.is_none() {
                    assert!(simulated.corrected(2.0, 5) <= simulated.additive(2.0, 5) + 1e-9, "seed {seed}");
                }
            }
            sums
        };
        let mut gain = 0.0;
        for (interacting, left) in
            [(0.0, None), (0.0, Some(0.15)), (0.1, None), (0.1, Some(0.15)), (0.1, Some(0.5)), (0.3, Some(0.3))]
        {
            let [additive, corrected] = saved(interacting, left);
            println!(
                "interacting {interacting}, left {left:?}: {additive:.3} ms saved by the scan alone, {corrected:.3} corrected"
            );
            assert!(corrected >= additive - 1e-9, "interacting {interacting}, left {left:?}: {additive} {corrected}");
            gain += if interacting > 0.0 { corrected / additive - 1.0 } else { 0.0 };
        }
        assert!(gain / 4.0 > 0.03, "{gain}");
    }

    #[test]
    fn the_loss_below_a_cost_falls_with_every_network_that_is_built() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let (mut first, mut best) = (0.0, 0.0);
        for _ in 0..30 {
            let simulated = random(&mut rng, 0.3, None);
            let bounds = Bounds { milliseconds: Some(super::super::Limit::Share(0.6)), ..Bounds::default() };
            let fixed = Fixed::default();
            let front = plans(&simulated.scan, &scanned(&simulated.scan), &bounds, &fixed);
            let mut proposals = Proposals::new(&simulated.scan, &bounds, &fixed, false);
            proposals.at_most(0.6 * simulated.scan.parent.milliseconds);
            let mut losses: Vec<f64> = Vec::new();
            for _ in 0..5 {
                let least = losses.iter().copied().reduce(f64::min);
                let Some(plan) = proposals.next(Goal::LeastLoss, &front, least) else { break };
                assert!(plan.milliseconds <= 0.6 * simulated.scan.parent.milliseconds);
                losses.push(simulated.losses(&plan)[1]);
                proposals.learn(simulated.observation(&plan));
            }
            first += losses[0];
            best += losses.iter().copied().fold(f64::INFINITY, f64::min);
        }
        assert!(best < 0.8 * first, "{best} {first}");
    }

    #[test]
    fn the_normal_distribution_is_scipys() {
        // scipy.stats.norm.cdf
        for (x, expected) in [(-2.0, 0.02275), (-1.0, 0.15866), (0.0, 0.5), (0.5, 0.69146), (1.5, 0.93319)] {
            assert!((normal(x) - expected).abs() < 1e-5, "{x}");
        }
    }

    #[test]
    fn the_margin_grows_with_the_networks_that_are_judged() {
        // scipy.stats.norm.isf(scipy.stats.norm.sf(1) / n)
        for (networks, expected) in [(1, 1.0), (2, 1.40961), (5, 1.85594), (10, 2.14778), (1000, 3.60074)] {
            let errors = errors_of_promise(Some(networks));
            assert!((errors - expected).abs() < 1e-5, "{networks}: {errors}");
        }
        assert_eq!(errors_of_promise(None), errors_of_promise(Some(MOST_ATTEMPTS)));
        // A drop of one point with a standard error of half a point.
        let figures = Figures { drop: Some([1.0, 1.0 - 0.98, 1.0 + 0.98]), ..Figures::default() };
        let keeps = |most: f64, networks: usize| keeps(&figures, [most, errors_of_promise(Some(networks))]);
        assert!(keeps(1.51, 1) && !keeps(1.49, 1) && !keeps(1.51, 2));
        assert!(keeps(1.94, 5) && !keeps(1.92, 5) && !keeps(1.94, 10));
    }
}
