//! Survival analysis of the time until recovery, in training images; trials that never recover are censored.

use serde::{Deserialize, Serialize};

use super::distributions::chi2_tail;

/// One observation: the time of the event, or the time until which it was observed without one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Time {
    /// Training images.
    pub at: f64,
    /// Whether the event occurred; otherwise the observation is censored.
    pub event: bool,
}

/// A step of a survival curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Step {
    /// Training images.
    pub at: f64,
    /// Share without the event by then (Kaplan and Meier, 1958).
    pub surviving: f64,
    /// Observations at risk just before.
    pub at_risk: usize,
}

/// The Kaplan-Meier curve from (0, 1), with a step at every event time.
pub fn kaplan_meier(times: &[Time]) -> Vec<Step> {
    let mut steps = vec![Step { at: 0.0, surviving: 1.0, at_risk: times.len() }];
    let mut surviving = 1.0;
    for at in event_times(times.iter()) {
        let at_risk = times.iter().filter(|time| time.at >= at).count();
        let events = times.iter().filter(|time| time.event && time.at == at).count();
        surviving *= 1.0 - events as f64 / at_risk as f64;
        steps.push(Step { at, surviving, at_risk });
    }
    steps
}

/// The median time, if half of the observations have the event.
pub fn median(steps: &[Step]) -> Option<f64> {
    steps.iter().find(|step| step.surviving <= 0.5 + 1e-12).map(|step| step.at)
}

fn event_times<'a>(times: impl Iterator<Item = &'a Time>) -> Vec<f64> {
    let mut at: Vec<f64> = times.filter(|time| time.event).map(|time| time.at).collect();
    at.sort_by(f64::total_cmp);
    at.dedup();
    at
}

/// The stratified log-rank test of two groups (Mantel, 1966).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LogRank {
    /// Events in the first group.
    pub observed: f64,
    /// Expected events in the first group under the null hypothesis.
    pub expected: f64,
    /// Variance of their difference.
    pub variance: f64,
    /// Chi-squared with one degree of freedom.
    pub chi2: f64,
    /// P value of the two-sided test.
    pub p: f64,
}

/// The log-rank test over strata, each a pair of groups. `None` if no stratum has anything to compare.
pub fn log_rank(strata: &[(Vec<Time>, Vec<Time>)]) -> Option<LogRank> {
    let (mut observed, mut expected, mut variance) = (0.0, 0.0, 0.0);
    for (first, second) in strata {
        for at in event_times(first.iter().chain(second)) {
            let risk = |group: &[Time]| group.iter().filter(|time| time.at >= at).count() as f64;
            let events = |group: &[Time]| group.iter().filter(|time| time.event && time.at == at).count() as f64;
            let (n1, n2) = (risk(first), risk(second));
            let (n, d) = (n1 + n2, events(first) + events(second));
            observed += events(first);
            expected += d * n1 / n;
            if n > 1.0 {
                variance += d * (n1 / n) * (n2 / n) * (n - d) / (n - 1.0);
            }
        }
    }
    if variance <= 0.0 {
        return None;
    }
    let chi2 = (observed - expected).powi(2) / variance;
    Some(LogRank { observed, expected, variance, chi2, p: chi2_tail(chi2, 1.0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(list: &[(f64, bool)]) -> Vec<Time> {
        list.iter().map(|&(at, event)| Time { at, event }).collect()
    }

    #[test]
    fn kaplan_meier_agrees_with_a_worked_example() {
        // 5 trials: events at 1 and 3, 3; censored at 2 and 5.
        let steps = kaplan_meier(&times(&[(1.0, true), (2.0, false), (3.0, true), (3.0, true), (5.0, false)]));
        let expected = [(0.0, 1.0, 5), (1.0, 0.8, 5), (3.0, 0.8 / 3.0, 3)];
        for (step, (at, surviving, at_risk)) in steps.iter().zip(expected) {
            assert_eq!((step.at, step.at_risk), (at, at_risk));
            assert!((step.surviving - surviving).abs() < 1e-12);
        }
        assert_eq!(median(&steps), Some(3.0));
        assert_eq!(median(&kaplan_meier(&times(&[(1.0, false), (2.0, false)]))), None);
    }

    #[test]
    fn log_rank_agrees_with_scipy() {
        // scipy.stats.logrank(CensoredData(…), CensoredData(…)).statistic ** 2 and .pvalue
        let first = times(&[(5.0, true), (8.0, true), (12.0, false), (12.0, true)]);
        let second = times(&[(8.0, true), (14.0, true), (20.0, false), (20.0, false), (11.0, true)]);
        let result = log_rank(&[(first.clone(), second.clone())]).unwrap();
        assert!((result.chi2 - 1.0348710295804449).abs() < 1e-9, "{result:?}");
        assert!((result.p - 0.3090173423324891).abs() < 1e-9, "{result:?}");
        // Twice the same stratum: twice the chi-squared.
        let twice = log_rank(&[(first.clone(), second.clone()), (first, second)]).unwrap();
        assert!((twice.chi2 - 2.0 * result.chi2).abs() < 1e-9);
        assert!(log_rank(&[(times(&[(1.0, false)]), times(&[(1.0, false)]))]).is_none());
    }
}
