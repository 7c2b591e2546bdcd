//! Agreement of two rankings.

use super::bootstrap::quantile;
use super::random::SplitMix;

/// Values of one side closer than this share of its largest are tied: equal means of the same counts differ by rounding.
const TIED: f64 = 1e-9;

/// Kendall's tau-b (ties corrected, as `scipy.stats.kendalltau`). `None` if one side is all tied or there are fewer
/// than two pairs.
pub fn tau(a: &[f64], b: &[f64]) -> Option<f64> {
    let [a_tied, b_tied] = [a, b].map(|side| TIED * side.iter().fold(0.0, |most: f64, value| most.max(value.abs())));
    let (mut concordance, mut a_pairs, mut b_pairs) = (0.0, 0.0, 0.0);
    for i in 0..a.len().min(b.len()) {
        for j in 0..i {
            let (da, db) = (sign(a[i] - a[j], a_tied), sign(b[i] - b[j], b_tied));
            concordance += da * db;
            a_pairs += da.abs();
            b_pairs += db.abs();
        }
    }
    (a_pairs > 0.0 && b_pairs > 0.0).then(|| concordance / f64::sqrt(a_pairs * b_pairs))
}

fn sign(difference: f64, tied: f64) -> f64 {
    if difference.abs() <= tied { 0.0 } else { difference.signum() }
}

/// The 95% percentile bootstrap interval of the mean of several taus: all resamples of at most six, else 2,000. `None` for fewer than two.
pub fn mean_interval(taus: &[f64]) -> Option<[f64; 2]> {
    let n = taus.len();
    if n < 2 {
        return None;
    }
    let mean = |drawn: &mut dyn Iterator<Item = usize>| drawn.map(|i| taus[i]).sum::<f64>() / n as f64;
    let mut all: Vec<f64> = if n <= 6 {
        (0..n.pow(n as u32)).map(|way| mean(&mut (0..n).map(|i| way / n.pow(i as u32) % n))).collect()
    } else {
        let mut random = SplitMix::new(1938);
        (0..2000).map(|_| mean(&mut (0..n).map(|_| random.below(n)))).collect()
    };
    all.sort_by(f64::total_cmp);
    Some([quantile(&all, 0.025), quantile(&all, 0.975)])
}

/// The 95% percentile bootstrap interval of tau. Rows are units, columns are the ranked items; units are resampled jointly in
/// both tables: all 3,125 resamples of at most five units, else 2,000.
pub fn tau_interval(a: &[Vec<f64>], b: &[Vec<f64>]) -> Option<[f64; 2]> {
    let n = a.len();
    if n < 2 || b.len() != n {
        return None;
    }
    let taus = |drawn: &[usize]| {
        let mean = |rows: &[Vec<f64>]| -> Vec<f64> {
            (0..rows[0].len()).map(|j| drawn.iter().map(|&u| rows[u][j]).sum::<f64>() / n as f64).collect()
        };
        tau(&mean(a), &mean(b))
    };
    let mut all: Vec<f64> = if n <= 5 {
        let ways = n.pow(n as u32);
        (0..ways).filter_map(|way| taus(&(0..n).map(|i| way / n.pow(i as u32) % n).collect::<Vec<_>>())).collect()
    } else {
        let mut random = SplitMix::new(1938);
        (0..2000).filter_map(|_| taus(&(0..n).map(|_| random.below(n)).collect::<Vec<_>>())).collect()
    };
    if all.is_empty() {
        return None;
    }
    all.sort_by(f64::total_cmp);
    Some([quantile(&all, 0.025), quantile(&all, 0.975)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tau_agrees_with_scipy() {
        // scipy.stats.kendalltau([1, 2, 3, 4, 4], [2, 1, 3, 3, 5]).statistic
        let tau_b = tau(&[1.0, 2.0, 3.0, 4.0, 4.0], &[2.0, 1.0, 3.0, 3.0, 5.0]).unwrap();
        assert!((tau_b - 0.6666666666666666).abs() < 1e-12, "{tau_b}");
        assert_eq!(tau(&[1.0, 1.0], &[1.0, 2.0]), None);
        // 0.1 + 0.2 is not 0.3: scipy.stats.kendalltau([0.3, 0.3, -1], [1, 2, 0]).statistic
        let tied = tau(&[0.1 + 0.2, 0.3, -1.0], &[1.0, 2.0, 0.0]).unwrap();
        assert!((tied - 0.816496580927726).abs() < 1e-12, "{tied}");
    }

    #[test]
    fn interval_of_unwavering_units_is_a_point() {
        let rows = vec![vec![1.0, 2.0, 3.0]; 3];
        assert_eq!(tau_interval(&rows, &rows), Some([1.0, 1.0]));
    }
}
