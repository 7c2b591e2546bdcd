//! Learning-rate schedules.

use serde::{Deserialize, Serialize};

/// How the learning rate changes over the steps of a training run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// The base rate at every step.
    Constant,
    /// base / 2 (1 + cos(pi step / total)): Loshchilov and Hutter, SGDR, arXiv:1608.03983, equation 5, without restarts.
    Cosine,
    /// PyTorch's `OneCycleLR` with its defaults (Smith and Topin, arXiv:1708.07120): from base / 25 up to base over the first
    /// 30% of the steps, then down to base / 250,000 at the last step, each along half a cosine.
    OneCycle,
    /// The base rate times `factor` for each completed period.
    Step {
        /// Length of a period, as a fraction of all steps.
        every: f64,
        /// Factor applied to the rate at the end of each period.
        factor: f32,
    },
}

impl Schedule {
    /// The learning rate of step `step` (counted from 0) of `total` steps. `base` is the base rate (one-cycle: the largest rate).
    pub fn rate(&self, base: f32, step: usize, total: usize) -> f32 {
        let (peak, step, total) = (f64::from(base), step as f64, total.max(1) as f64);
        let cosine = |from: f64, to: f64, fraction: f64| {
            to + (from - to) / 2.0 * (1.0 + (std::f64::consts::PI * fraction).cos())
        };
        let rate = match *self {
            Schedule::Constant => peak,
            Schedule::Cosine => cosine(peak, 0.0, (step / total).min(1.0)),
            Schedule::OneCycle => {
                let (first, last) = (peak / 25.0, peak / 25.0 / 1e4);
                let (top, end) = (0.3 * total - 1.0, total - 1.0);
                let step = step.min(end);
                if step <= top {
                    cosine(first, peak, if top > 0.0 { step / top } else { 1.0 })
                } else {
                    cosine(peak, last, (step - top) / (end - top))
                }
            }
            Schedule::Step { every, factor } => {
                let periods = if every > 0.0 { (step / (every * total)).floor() } else { 0.0 };
                peak * f64::from(factor).powf(periods)
            }
        };
        rate as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cycle_matches_pytorch() {
        // torch.optim.lr_scheduler.OneCycleLR(SGD(lr=..), max_lr=0.1, total_steps=10), PyTorch 2.x: get_last_lr() before each step.
        let expected = [
            0.004,
            0.052000000000000005,
            0.1,
            0.09504846320134737,
            0.0811745653949763,
            0.06112620219362892,
            0.03887419780637108,
            0.018825834605023682,
            0.004951936798652629,
            4e-07,
        ];
        for (step, want) in expected.into_iter().enumerate() {
            let got = f64::from(Schedule::OneCycle.rate(0.1, step, 10));
            assert!((got - want).abs() < 1e-8, "step {step}: {got}, not {want}");
        }
    }

    #[test]
    fn constant_cosine_and_step_match_hand_computed_rates() {
        assert_eq!(Schedule::Constant.rate(0.3, 7, 9), 0.3);
        assert_eq!(Schedule::Cosine.rate(1.0, 0, 8), 1.0);
        assert!((Schedule::Cosine.rate(1.0, 4, 8) - 0.5).abs() < 1e-7);
        assert!(Schedule::Cosine.rate(1.0, 8, 8).abs() < 1e-7);
        let step = Schedule::Step { every: 0.25, factor: 0.1 };
        assert_eq!(step.rate(1.0, 24, 100), 1.0);
        assert!((step.rate(1.0, 25, 100) - 0.1).abs() < 1e-7);
        assert!((step.rate(1.0, 99, 100) - 1e-3).abs() < 1e-9);
    }

    #[test]
    fn rates_are_finite_for_every_number_of_steps() {
        for total in 0..12 {
            for step in 0..=total + 1 {
                for schedule in [Schedule::Cosine, Schedule::OneCycle, Schedule::Step { every: 0.0, factor: 0.5 }] {
                    let rate = schedule.rate(0.1, step, total);
                    assert!((0.0..=0.100001).contains(&rate), "{schedule:?} {step} of {total}: {rate}");
                }
            }
        }
    }
}
