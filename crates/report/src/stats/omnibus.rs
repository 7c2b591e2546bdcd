//! Tests for differences between several treatments (blocks) measured on the same units (seeds, or parents).

use super::distributions::chi2_tail;
use super::random::SplitMix;

/// Draws of the permutation test; the smallest p value is 1 / (`PERMUTATIONS` + 1).
pub const PERMUTATIONS: usize = 9_999;
/// Seed of the generator.
pub const SEED: u64 = 180_104_651;

/// Friedman's test: chi-squared with ties corrected, its p value, and Kendall's W.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Friedman {
    /// Chi-squared with (treatments - 1) degrees of freedom.
    pub chi2: f64,
    /// P value by the chi-squared approximation.
    pub p: f64,
    /// Kendall's coefficient of concordance, 0 to 1: the effect size.
    pub w: f64,
}

/// Friedman's test; rows are units, columns treatments. `None` for fewer than 2 units or 3 treatments, or all tied.
pub fn friedman(rows: &[Vec<f64>]) -> Option<Friedman> {
    let n = rows.len() as f64;
    let k = rows.first()?.len();
    if rows.len() < 2 || k < 3 {
        return None;
    }
    let mut sums = vec![0.0; k];
    let mut ties = 0.0;
    for row in rows {
        let ranks = ranks(row);
        sums.iter_mut().zip(&ranks).for_each(|(sum, rank)| *sum += rank);
        ties += tie_term(row);
    }
    let k = k as f64;
    let correction = 1.0 - ties / (n * (k.powi(3) - k));
    if correction <= 0.0 {
        return None;
    }
    let squares: f64 = sums.iter().map(|sum| sum * sum).sum();
    let chi2 = (12.0 / (n * k * (k + 1.0)) * squares - 3.0 * n * (k + 1.0)) / correction;
    Some(Friedman { chi2, p: chi2_tail(chi2, k - 1.0), w: chi2 / (n * (k - 1.0)) })
}

/// Ranks from 1; ties get their mean rank.
pub fn ranks(values: &[f64]) -> Vec<f64> {
    let below = |x: f64| values.iter().filter(|&&y| y < x).count() as f64;
    let same = |x: f64| values.iter().filter(|&&y| y == x).count() as f64;
    values.iter().map(|&x| below(x) + (same(x) + 1.0) / 2.0).collect()
}

/// Sum of t^3 - t over groups of t ties.
fn tie_term(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.chunk_by(|a, b| a == b).map(|group| (group.len() as f64).powi(3) - group.len() as f64).sum()
}

/// Permutation test of no difference between treatments. It shuffles the treatments' values within every unit and compares
/// the spread of the treatments' means, the numerator of the repeated-measures F statistic.
///
/// The test is exact for any distribution if the values of a unit are exchangeable under the null hypothesis. `None` for
/// fewer than 2 units or treatments.
pub fn permutation(rows: &[Vec<f64>]) -> Option<f64> {
    let k = rows.first()?.len();
    if rows.len() < 2 || k < 2 {
        return None;
    }
    let spread = |rows: &[Vec<f64>]| -> f64 {
        let means: Vec<f64> = (0..k).map(|j| rows.iter().map(|row| row[j]).sum::<f64>()).collect();
        let grand = means.iter().sum::<f64>() / k as f64;
        means.iter().map(|mean| (mean - grand).powi(2)).sum()
    };
    let observed = spread(rows);
    let mut random = SplitMix::new(SEED);
    let mut shuffled = rows.to_vec();
    let mut as_large = 0;
    for _ in 0..PERMUTATIONS {
        shuffled.iter_mut().for_each(|row| random.shuffle(row));
        // A tolerance, since sums in another order differ in their last bits.
        if spread(&shuffled) >= observed * (1.0 - 1e-9) {
            as_large += 1;
        }
    }
    Some(f64::from(as_large + 1) / (PERMUTATIONS + 1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn friedman_agrees_with_scipy() {
        // scipy.stats.friedmanchisquare of the columns
        let rows = [vec![1.0, 2.0, 4.0, 3.0], vec![1.5, 1.5, 5.0, 2.0], vec![0.3, 0.9, 0.8, 0.7]];
        let result = friedman(&rows).unwrap();
        assert!((result.chi2 - 5.896551724137934).abs() < 1e-9, "{result:?}");
        assert!((result.p - 0.11675312352287351).abs() < 1e-9, "{result:?}");
        assert!(friedman(&[vec![1.0, 1.0, 1.0], vec![2.0, 2.0, 2.0]]).is_none());
    }

    #[test]
    fn permutation_agrees_with_counting_all() {
        // Two units of three treatments in the same order: of the 36 pairs of orders, the spread is as large only
        // when both units agree, 6 of 36.
        let p = permutation(&[vec![0.0, 1.0, 3.0], vec![0.0, 1.0, 3.0]]).unwrap();
        let expected = 6.0 / 36.0;
        let sigma = (expected * (1.0_f64 - expected) / PERMUTATIONS as f64).sqrt();
        assert!((p - expected).abs() < 4.0 * sigma, "{p}");
    }
}
