//! Intervals and tests for means of paired differences.
//!
//! There is a difference for every unit (a seed, or a parent) and every test image. Its mean varies with both: other units
//! give other networks, and other images give other results. A statement about new networks on new images must account for
//! both.
//!
//! **Crossed interval** (the one that reports show). The table of units by images is a two-way random-effects layout with
//! one value per cell. With mean squares MS_u (units), MS_i (images) and MS_e (residual), the
//! variance of the grand mean is estimated by (MS_u + MS_i - MS_e) / (units x images), and its degrees of freedom by
//! Satterthwaite's formula (Biometrics Bulletin 2, 1946). See Searle, Casella and McCulloch, *Variance Components*
//! (1992), ch. 4.
//!
//! **Student's t** over the units' means: exact for new units on these same test images, if the means are normal.

use serde::{Deserialize, Serialize};

use super::distributions::{t_cdf, t_quantile};

/// A mean with its standard error and degrees of freedom.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// Its standard error.
    pub se: f64,
    /// Degrees of freedom of the standard error.
    pub df: f64,
}

impl Mean {
    /// Two-sided interval at a level such as 0.95.
    pub fn interval(&self, level: f64) -> [f64; 2] {
        let half = if self.se > 0.0 { t_quantile(0.5 + level / 2.0, self.df) * self.se } else { 0.0 };
        [self.mean - half, self.mean + half]
    }

    /// P value of the two-sided test that the mean is zero.
    pub fn p_zero(&self) -> f64 {
        if self.se > 0.0 {
            2.0 * t_cdf(-(self.mean / self.se).abs(), self.df)
        } else if self.mean == 0.0 {
            1.0
        } else {
            0.0
        }
    }

    /// P value of the test of `mean <= bound` against `mean > bound`.
    pub fn p_above(&self, bound: f64) -> f64 {
        if self.se > 0.0 {
            t_cdf(-(self.mean - bound) / self.se, self.df)
        } else if self.mean > bound {
            0.0
        } else {
            1.0
        }
    }

    /// P value of the test of `mean >= bound` against `mean < bound`.
    pub fn p_below(&self, bound: f64) -> f64 {
        Mean { mean: -self.mean, ..*self }.p_above(-bound)
    }

    /// P value of equivalence within `margin`: the larger of two one-sided tests (Schuirmann, 1987).
    pub fn p_equivalent(&self, margin: f64) -> f64 {
        self.p_above(-margin).max(self.p_below(margin))
    }
}

/// Student's t over the units' values; `None` for fewer than two.
pub fn student(values: &[f64]) -> Option<Mean> {
    let n = values.len();
    if n < 2 {
        return None;
    }
    let mean = mean(values);
    let ss: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let df = n as f64 - 1.0;
    Some(Mean { mean, se: (ss / df / n as f64).sqrt(), df })
}

/// The plain mean.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The crossed standard error over units and images; rows are units. `None` if there is no image or no unit, if the
/// rows differ in length, or if there are fewer than two images.
///
/// With one unit the standard error covers the images alone.
pub fn crossed(rows: &[Vec<f64>]) -> Option<Mean> {
    let units = rows.len();
    let images = rows.first()?.len();
    if images < 2 || rows.iter().any(|row| row.len() != images) {
        return None;
    }
    let (n, m) = (units as f64, images as f64);
    let unit_means: Vec<f64> = rows.iter().map(|row| row.iter().sum::<f64>() / m).collect();
    let grand = mean(&unit_means);
    let (mut ss_images, mut ss_residual) = (0.0, 0.0);
    for i in 0..images {
        let of_image = rows.iter().map(|row| row[i]).sum::<f64>() / n;
        ss_images += (of_image - grand).powi(2);
        for (row, unit) in rows.iter().zip(&unit_means) {
            ss_residual += (row[i] - unit - of_image + grand).powi(2);
        }
    }
    let ms_images = n * ss_images / (m - 1.0);
    if units == 1 {
        return Some(Mean { mean: grand, se: (ms_images / m).sqrt(), df: m - 1.0 });
    }
    let ss_units: f64 = unit_means.iter().map(|unit| (unit - grand).powi(2)).sum();
    let ms_units = m * ss_units / (n - 1.0);
    let ms_residual = ss_residual / ((n - 1.0) * (m - 1.0));
    // Each mean square alone is a lower bound in expectation, so sampling error must not take the estimate below it.
    let total = (ms_units + ms_images - ms_residual).max(ms_units).max(ms_images);
    let spread =
        ms_units.powi(2) / (n - 1.0) + ms_images.powi(2) / (m - 1.0) + ms_residual.powi(2) / ((n - 1.0) * (m - 1.0));
    let df = if spread > 0.0 { total.powi(2) / spread } else { n - 1.0 };
    Some(Mean { mean: grand, se: (total / (n * m)).sqrt(), df })
}

/// Holm's step-down correction (Scandinavian Journal of Statistics 6, 1979), in the order given.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![0.0; p.len()];
    let mut least = 0.0_f64;
    for (rank, &i) in order.iter().enumerate() {
        least = least.max((p.len() - rank) as f64 * p[i]).min(1.0);
        adjusted[i] = least;
    }
    adjusted
}

/// Minimum detectable difference of a two-sided test at 5% with 80% power, given a standard error:
/// (t(0.975) + t(0.8)) se, the usual approximation to the noncentral t distribution.
pub fn detectable(se: f64, df: f64) -> f64 {
    (t_quantile(0.975, df) + t_quantile(0.8, df)) * se
}

/// Standardised mean of paired differences, d_z, with Hedges' correction 1 - 3/(4 df - 1). `None` without spread.
pub fn hedges(values: &[f64]) -> Option<f64> {
    let Mean { mean, se, df } = student(values)?;
    let sd = se * (values.len() as f64).sqrt();
    (sd > 0.0 && df > 1.0).then(|| mean / sd * (1.0 - 3.0 / (4.0 * df - 1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-9 * b.abs().max(1e-6), "{a} {b}");
    }

    #[test]
    fn student_agrees_with_scipy() {
        // scipy.stats.ttest_1samp([1.2, 0.4, 2.1, 0.9], 0): statistic, pvalue, confidence_interval()
        let mean = student(&[1.2, 0.4, 2.1, 0.9]).unwrap();
        close(mean.p_zero(), 0.048560420341676375);
        close(mean.interval(0.95)[0], 0.013639374156788842);
        close(mean.interval(0.95)[1], 2.286360625843211);
        // ttest_1samp(…, 2.5, alternative='less') and (…, -2.5, alternative='greater'), the larger
        close(mean.p_equivalent(2.5), 0.016213356716612837);
        assert!(student(&[1.0]).is_none());
    }

    #[test]
    fn crossed_agrees_with_a_worked_two_way_table() {
        // Mean squares by hand for 2 units by 3 images: rows (1,0,0), (1,1,-1); unit means 1/3, 1/3, image means
        // 1, 0.5, -0.5, grand 1/3. MS_u = 0; SS_i = 2 (4/9 + 1/36 + 25/36) = 7/3, MS_i = 7/6; residuals
        // (0,-.5,.5), (0,.5,-.5): SS_e = 1, MS_e = 1/2. total = max(0 + 7/6 - 1/2, 0, 7/6) = 7/6.
        let mean = crossed(&[vec![1.0, 0.0, 0.0], vec![1.0, 1.0, -1.0]]).unwrap();
        close(mean.mean, 1.0 / 3.0);
        close(mean.se, (7.0_f64 / 6.0 / 6.0).sqrt());
        close(mean.df, (7.0_f64 / 6.0).powi(2) / ((7.0_f64 / 6.0).powi(2) / 2.0 + 0.25 / 2.0));
        // One unit: the binomial-like spread over images alone.
        let one = crossed(&[vec![1.0, 0.0, 0.0, 0.0]]).unwrap();
        close(one.se, (0.1875_f64 * 4.0 / 3.0 / 4.0).sqrt());
        assert!(crossed(&[vec![1.0, 0.0], vec![1.0]]).is_none());
        // A placebo without any difference has no variance.
        let none = crossed(&[vec![0.0; 5], vec![0.0; 5]]).unwrap();
        assert_eq!((none.se, none.p_zero(), none.p_equivalent(0.1)), (0.0, 1.0, 0.0));
    }

    #[test]
    fn holm_agrees_with_statsmodels() {
        // statsmodels.stats.multitest.multipletests([.01, .04, .03, .005], method='holm')
        let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]);
        for (a, b) in adjusted.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            close(*a, b);
        }
    }
}
