//! BCa bootstrap over units and images.
//!
//! Units and images are resampled with replacement, independently of each other (the pigeonhole bootstrap: Owen,
//! Annals of Applied Statistics 1, 2007). Bias correction and acceleration follow Efron and Tibshirani, *An
//! Introduction to the Bootstrap* (1993), ch. 14; for the two factors the acceleration pools the jackknife influences
//! of both, as for a statistic of several samples (DiCiccio and Efron, Statistical Science 11, 1996).
//!
//! Studies usually have three to five units. Resampling so few underestimates their variance by a factor of (n - 1) / n and
//! takes few values, so reports show the crossed interval first.

use super::distributions::{normal_cdf, normal_quantile};
use super::random::SplitMix;

/// Resamples per interval.
pub const RESAMPLES: usize = 2000;
/// Seed of the generator.
pub const SEED: u64 = 20_180_104;

/// Resampled images, shared by all intervals of a report: how often each image is drawn in each resample.
#[derive(Debug)]
pub struct Draws {
    images: usize,
    /// `RESAMPLES` rows of `images` counts.
    counts: Vec<u8>,
}

impl Draws {
    /// Draws `images` of `images` with replacement, [`RESAMPLES`] times. `None` for none or more than 100,000 images.
    pub fn new(images: usize) -> Option<Draws> {
        if images == 0 || images > 100_000 {
            return None;
        }
        let mut random = SplitMix::new(SEED);
        let mut counts = vec![0_u8; RESAMPLES * images];
        for row in counts.chunks_exact_mut(images) {
            for _ in 0..images {
                let count = &mut row[random.below(images)];
                *count = count.saturating_add(1);
            }
        }
        Some(Draws { images, counts })
    }

    /// The 95% interval of the grand mean; rows are units. `None` for fewer than two units, or without spread.
    pub fn interval(&self, rows: &[Vec<f64>]) -> Option<[f64; 2]> {
        let units = rows.len();
        if units < 2 || rows.iter().any(|row| row.len() != self.images) {
            return None;
        }
        // Most images have equal results under both networks, so only the others are visited.
        let sparse: Vec<Vec<(u32, f64)>> = rows
            .iter()
            .map(|row| row.iter().enumerate().filter(|(_, d)| **d != 0.0).map(|(i, &d)| (i as u32, d)).collect())
            .collect();
        let mut random = SplitMix::new(SEED ^ 0x5EED);
        let mut means: Vec<f64> = self
            .counts
            .chunks_exact(self.images)
            .map(|counts| {
                let mut times = vec![0_u32; units];
                (0..units).for_each(|_| times[random.below(units)] += 1);
                let of_unit =
                    |unit: usize| -> f64 { sparse[unit].iter().map(|&(i, d)| f64::from(counts[i as usize]) * d).sum() };
                let sum: f64 =
                    (0..units).filter(|&unit| times[unit] > 0).map(|unit| f64::from(times[unit]) * of_unit(unit)).sum();
                sum / (units * self.images) as f64
            })
            .collect();
        means.sort_by(f64::total_cmp);
        let (grand, acceleration) = self.acceleration(rows);
        // Half of the ties count: the statistic is discrete.
        let below = means.iter().filter(|&&mean| mean < grand - 1e-12).count() as f64;
        let tied = means.iter().filter(|&&mean| (mean - grand).abs() <= 1e-12).count() as f64;
        let share = (below + tied / 2.0) / RESAMPLES as f64;
        if means[0] == means[RESAMPLES - 1] || share <= 0.0 || share >= 1.0 {
            return None;
        }
        let bias = normal_quantile(share);
        let at = |p: f64| {
            let z = bias + normal_quantile(p);
            let p = normal_cdf(bias + z / (1.0 - acceleration * z));
            quantile(&means, p)
        };
        Some([at(0.025), at(0.975)])
    }

    /// The grand mean and the acceleration.
    fn acceleration(&self, rows: &[Vec<f64>]) -> (f64, f64) {
        let (n, m) = (rows.len() as f64, self.images as f64);
        let unit_means: Vec<f64> = rows.iter().map(|row| row.iter().sum::<f64>() / m).collect();
        let grand = unit_means.iter().sum::<f64>() / n;
        // Leaving one of k out of a mean moves it by (grand - mean of that one) / (k - 1); the empirical influence is
        // (mean of that one - grand) / k in each factor.
        let (mut cubes, mut squares) = (0.0, 0.0);
        let mut add = |influence: f64| {
            cubes += influence.powi(3);
            squares += influence.powi(2);
        };
        unit_means.iter().for_each(|unit| add((unit - grand) / n));
        for i in 0..self.images {
            add((rows.iter().map(|row| row[i]).sum::<f64>() / n - grand) / m);
        }
        let acceleration = if squares > 0.0 { cubes / (6.0 * squares.powf(1.5)) } else { 0.0 };
        (grand, acceleration)
    }
}

/// A quantile of sorted values by linear interpolation (R's type 7, the default of `numpy.quantile`).
pub fn quantile(sorted: &[f64], p: f64) -> f64 {
    let at = p.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let low = at.floor() as usize;
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] + (at - low as f64) * (sorted[high] - sorted[low])
}
