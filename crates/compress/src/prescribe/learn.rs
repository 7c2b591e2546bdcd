//! What networks that were built teach of those that were not: predicted losses, corrected by ridge regression.
//!
//! The scan's losses of single ranges are added up for a plan. Ranges interact, and training recovers a part of the loss, so the
//! sum is wrong in two ways: by a factor that all plans share, and by what each range adds to it. Both are estimated from few
//! networks, so with strong priors: with no network the estimate is the scan's, and a range that no network tells of keeps its own
//! loss times the factor.
//!
//! For the losses y of plans x, with the table's sums p = Σ s, the model is y = k p + Σ r + e. The factor k, the residuals r of the
//! chosen candidates and the errors e are normal, with the standard deviations of [`Prior`]. Residuals of two candidates whose ranges
//! share units are correlated, by half of the share of common units (the Jaccard index, whose matrix is positive semidefinite).
//! The posterior mean is that of a Gaussian process (Rasmussen and Williams, 2006, equation 2.25). It is linear in the chosen
//! candidates, so a corrected loss of each candidate exists, and the plans can be enumerated again from these. The common scale of all
//! deviations is learned as well, by an inverse gamma distribution that weighs as much as [`PRIOR_WEIGHT`] networks (Murphy, Machine
//! Learning, 2012, section 7.6.3): plans are predicted with confidence where the networks that were built came out as expected.

use faer::linalg::solvers::{Llt, Solve};
use faer::{Mat, Side};
use nettriage_records::prescription::Figures;
use nettriage_records::scan::Scan;

use super::choose::{Chosen, Losses, MOST_LOSS, scanned};

/// A measured loss and its standard error over the images.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    pub loss: f64,
    pub error: f64,
}

impl Measured {
    /// Of a network's figures; none if its loss is no number.
    pub fn of(figures: &Figures) -> Option<Measured> {
        let loss = figures.loss().filter(|loss| loss.is_finite())?;
        let error = figures.standard_error();
        Some(Measured { loss: loss.clamp(-MOST_LOSS, MOST_LOSS), error: if error.is_finite() { error } else { 0.0 } })
    }
}

/// A network that was built: what it replaces, and its loss before and after training.
#[derive(Clone, Debug)]
pub struct Observation {
    pub chosen: Vec<Chosen>,
    pub built: Option<Measured>,
    /// None without training, or if it diverged.
    pub trained: Option<Measured>,
}

impl Observation {
    /// Of a network's figures before and after training; `trained` is none without training, or if it diverged.
    pub fn of(chosen: &[Chosen], built: &Figures, trained: Option<&Figures>) -> Observation {
        Observation { chosen: chosen.to_vec(), built: Measured::of(built), trained: trained.and_then(Measured::of) }
    }

    /// What was measured at the end.
    pub fn last(&self) -> Option<Measured> {
        self.trained.or(self.built)
    }
}

/// What is believed before a network is built. Standard deviations are in the unit of the losses.
#[derive(Clone, Copy)]
struct Prior {
    /// Mean and standard deviation of the factor k.
    factor: [f64; 2],
    /// Standard deviation of a candidate's residual: this share of its loss, and this much.
    residual: [f64; 2],
    /// That of what a plan loses beyond the sum over its ranges: this share of the sum, and this much.
    error: [f64; 2],
}

/// Losses before training, from the scan's.
const BUILT: Prior = Prior { factor: [1.0, 0.3], residual: [0.3, 0.2], error: [0.2, 0.2] };

/// Losses after training, from those before.
const TRAINED: Prior = Prior { factor: [0.25, 0.25], residual: [0.1, 0.1], error: [0.05, 0.3] };

/// The networks that the priors weigh as much as, in the spread of losses around what is expected.
const PRIOR_WEIGHT: f64 = 4.0;

/// Predicted losses at the end of an attempt, corrected by the observations.
pub struct Forecast<'a> {
    fit: Fit<'a>,
}

impl<'a> Forecast<'a> {
    /// From a scan and networks that were built; `trained` tells whether training follows.
    pub fn of(scan: &'a Scan, observations: &[Observation], trained: bool) -> Forecast<'a> {
        let seen = |measured: fn(&Observation) -> Option<Measured>| -> Vec<(&[Chosen], Measured)> {
            observations
                .iter()
                .filter_map(|observation| Some((&observation.chosen[..], measured(observation)?)))
                .collect()
        };
        let built = Fit::new(scan, scanned(scan), BUILT, &seen(|observation| observation.built));
        let fit = match trained {
            false => built,
            true => Fit::new(scan, built.corrected, TRAINED, &seen(|observation| observation.trained)),
        };
        Forecast { fit }
    }

    /// The corrected loss of every candidate.
    pub fn losses(&self) -> &Losses {
        &self.fit.corrected
    }

    /// The expected loss of a plan: the sum over its ranges.
    pub fn loss(&self, plan: &[Chosen]) -> f64 {
        sum(&self.fit.corrected, plan)
    }

    /// The standard deviation of a plan's loss around what is expected, without the chance of the images.
    pub fn deviation(&self, plan: &[Chosen]) -> f64 {
        self.fit.variance(plan).max(0.0).sqrt()
    }
}

fn sum(losses: &Losses, plan: &[Chosen]) -> f64 {
    plan.iter().map(|&(range, number)| losses[range][number]).sum()
}

/// A corrected table.
struct Fit<'a> {
    scan: &'a Scan,
    /// The losses that are corrected.
    table: Losses,
    corrected: Losses,
    prior: Prior,
    seen: Vec<Vec<Chosen>>,
    /// The Cholesky factor of the covariance of the measured losses; none if nothing was measured.
    factor: Option<Llt<f64>>,
    /// What the variances are multiplied by.
    spread: f64,
}

impl<'a> Fit<'a> {
    fn new(scan: &'a Scan, table: Losses, prior: Prior, measured: &[(&[Chosen], Measured)]) -> Fit<'a> {
        let scaled = |losses: &Losses| -> Losses {
            losses.iter().map(|range| range.iter().map(|loss| prior.factor[0] * loss).collect()).collect()
        };
        let corrected = scaled(&table);
        let seen = measured.iter().map(|(plan, _)| plan.to_vec()).collect();
        let mut fit = Fit { scan, table, corrected, prior, seen, factor: None, spread: 1.0 };
        if measured.is_empty() {
            return fit;
        }
        let covariance = Mat::from_fn(measured.len(), measured.len(), |i, j| {
            let (plan, Measured { error, .. }) = measured[i];
            let own = if i == j { error.powi(2) + fit.own_variance(plan) } else { 0.0 };
            fit.covariance(plan, measured[j].0) + own
        });
        // The errors keep it positive definite.
        let Ok(factor) = covariance.llt(Side::Lower) else { return fit };
        let surprise = Mat::from_fn(measured.len(), 1, |i, _| {
            let (plan, Measured { loss, .. }) = measured[i];
            loss - prior.factor[0] * sum(&fit.table, plan)
        });
        let weights = factor.solve(&surprise);
        let squares: f64 = (0..measured.len()).map(|i| weights[(i, 0)] * surprise[(i, 0)]).sum();
        fit.spread = (PRIOR_WEIGHT + squares) / (PRIOR_WEIGHT + measured.len() as f64);
        let corrected = |range: usize, number: usize| {
            let change = measured
                .iter()
                .enumerate()
                .map(|(i, (plan, _))| weights[(i, 0)] * fit.covariance(&[(range, number)], plan));
            let loss = prior.factor[0] * fit.table[range][number] + change.sum::<f64>();
            // A loss below 0 is a rise, as in the scan.
            if loss.is_finite() { loss.clamp(0.0, MOST_LOSS) } else { fit.corrected[range][number] }
        };
        fit.corrected = (0..fit.table.len())
            .map(|range| (0..fit.table[range].len()).map(|number| corrected(range, number)).collect())
            .collect();
        fit.factor = Some(factor);
        fit
    }

    /// The covariance of two plans' losses, without their own errors.
    fn covariance(&self, one: &[Chosen], other: &[Chosen]) -> f64 {
        let shared = self.prior.factor[1].powi(2) * sum(&self.table, one) * sum(&self.table, other);
        let residuals = one.iter().flat_map(|a| other.iter().map(|b| self.residuals(*a, *b)));
        shared + residuals.sum::<f64>()
    }

    /// The covariance of two candidates' residuals.
    fn residuals(&self, one: Chosen, other: Chosen) -> f64 {
        let [first, second] = [one, other].map(|(range, _)| self.scan.ranges[range].units);
        let common = (first[1].min(second[1]) + 1).saturating_sub(first[0].max(second[0]));
        if common == 0 {
            return 0.0;
        }
        let all = first[1].max(second[1]) + 1 - first[0].min(second[0]);
        let alike = if one == other { 1.0 } else { 0.5 * common as f64 / all as f64 };
        let deviation = |(range, number): Chosen| of_both(self.prior.residual, self.table[range][number]);
        alike * deviation(one) * deviation(other)
    }

    /// The variance of what a plan loses beyond the sum over its ranges.
    fn own_variance(&self, plan: &[Chosen]) -> f64 {
        of_both(self.prior.error, sum(&self.table, plan)).powi(2)
    }

    /// The variance of a plan's loss.
    fn variance(&self, plan: &[Chosen]) -> f64 {
        let before = self.covariance(plan, plan) + self.own_variance(plan);
        let Some(factor) = &self.factor else { return before };
        let with = Mat::from_fn(self.seen.len(), 1, |i, _| self.covariance(plan, &self.seen[i]));
        let solved = factor.solve(&with);
        let explained: f64 = (0..self.seen.len()).map(|i| with[(i, 0)] * solved[(i, 0)]).sum();
        self.spread * (before - explained)
    }
}

/// A share of a loss, and an amount.
fn of_both([share, amount]: [f64; 2], loss: f64) -> f64 {
    share * loss + amount
}

#[cfg(test)]
mod tests {
    use nettriage_records::scan::Fidelity;

    use super::super::choose::tests::scan_of;
    use super::*;

    const RANGES: [(usize, usize, f64, f64); 5] =
        [(0, 0, 1.0, 0.5), (1, 1, 2.0, 0.5), (2, 3, 4.0, 0.5), (2, 2, 0.5, 0.5), (3, 3, 70.0, 0.5)];

    fn observation(ranges: &[usize], built: f64, trained: Option<f64>) -> Observation {
        let measured = |loss: f64| Measured { loss, error: 0.1 };
        let chosen = ranges.iter().map(|&range| (range, 0)).collect();
        Observation { chosen, built: Some(measured(built)), trained: trained.map(measured) }
    }

    #[test]
    fn without_observations_the_scan_is_believed() {
        let scan = scan_of(4, &RANGES);
        assert_eq!(*Forecast::of(&scan, &[], false).losses(), scanned(&scan));
        let trained = Forecast::of(&scan, &[], true);
        assert!((trained.loss(&[(0, 0), (2, 0)]) - 0.25 * 5.0).abs() < 1e-12, "a share is left after training");
    }

    #[test]
    fn the_posterior_is_that_of_the_closed_form_for_one_network() {
        // One network of the first range, whose loss is 1 as scanned and was measured as 2, with a standard error of 0.1:
        // variance of the prediction 0.3² 1² + (0.3 + 0.2)², of the measurement also 0.1² + (0.2 + 0.2)².
        let scan = scan_of(4, &RANGES);
        let forecast = Forecast::of(&scan, &[observation(&[0], 2.0, None)], false);
        let (own, noise) = (0.09 + 0.25, 0.01 + 0.16);
        assert!((forecast.losses()[0][0] - (1.0 + own / (own + noise))).abs() < 1e-12);
        // The second range shares the factor alone.
        assert!((forecast.losses()[1][0] - (2.0 + 0.09 * 2.0 / (own + noise))).abs() < 1e-12);
        // The surprise of 1 exceeds its prior deviation of 0.71, so the variances grow; the prior weighs as much as four networks.
        let spread = (4.0 + 1.0 / (own + noise)) / 5.0;
        let variance = spread * (own - own * own / (own + noise) + 0.16);
        assert!((forecast.deviation(&[(0, 0)]) - variance.sqrt()).abs() < 1e-12);
        assert!(forecast.deviation(&[(1, 0)]) > forecast.deviation(&[(0, 0)]));
    }

    #[test]
    fn ranges_that_share_units_learn_from_each_other_and_the_sum_is_the_plans() {
        let scan = scan_of(4, &RANGES);
        let forecast = Forecast::of(&scan, &[observation(&[2], 8.0, None), observation(&[0], 1.0, None)], false);
        let grown = |range: usize| forecast.losses()[range][0] / scanned(&scan)[range][0];
        assert!(grown(2) > 1.5 && grown(3) > grown(1), "{:?}", forecast.losses());
        let plan = [(0, 0), (2, 0)];
        assert!((forecast.loss(&plan) - forecast.losses()[0][0] - forecast.losses()[2][0]).abs() < 1e-12);
        // The order in which networks were built is of no consequence.
        let other = Forecast::of(&scan, &[observation(&[0], 1.0, None), observation(&[2], 8.0, None)], false);
        for (one, other) in forecast.losses().iter().flatten().zip(other.losses().iter().flatten()) {
            assert!((one - other).abs() < 1e-9);
        }
    }

    #[test]
    fn training_is_learnt_as_a_factor() {
        let scan = scan_of(4, &RANGES);
        // Training leaves a tenth.
        let observations = [
            observation(&[2], 4.0, Some(0.4)),
            observation(&[0, 1], 3.0, Some(0.3)),
            observation(&[0, 2], 5.0, Some(0.5)),
        ];
        let forecast = Forecast::of(&scan, &observations, true);
        let loss = forecast.loss(&[(1, 0), (2, 0)]);
        assert!((0.4..0.8).contains(&loss), "{loss}");
        // One that diverged tells of the loss before training only.
        let diverged = Forecast::of(&scan, &[observation(&[2], 8.0, None)], true);
        assert!(diverged.losses()[2][0] > 0.25 * 4.0 && diverged.losses()[2][0] < 0.25 * 8.0);
    }

    #[test]
    fn losses_that_are_no_numbers_or_huge_change_no_prediction_to_one() {
        let mut scan = scan_of(4, &RANGES);
        let huge = &mut scan.ranges[4].candidates[0];
        huge.drop = Some([1e300; 3]);
        huge.fidelity = Fidelity::Classes { agreement: 0.0, divergence: 1e300, softened: None };
        let mut observations = vec![observation(&[4, 0], 1e300, None), observation(&[1], 2.0, None)];
        observations[0].built = Measured::of(&Figures { drop: Some([1e300; 3]), ..Figures::default() });
        assert!(Measured::of(&Figures { drop: Some([f64::NAN; 3]), ..Figures::default() }).is_none());
        let forecast = Forecast::of(&scan, &observations, false);
        assert!(forecast.losses().iter().flatten().all(|loss| loss.is_finite()));
        assert!((forecast.losses()[1][0] - 2.0).abs() < 0.5, "{:?}", forecast.losses());
        assert!(forecast.deviation(&[(4, 0)]).is_finite());
    }
}
