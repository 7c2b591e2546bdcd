//! Comparison of two runs, for example of two data sets or two versions of a network.

use serde::{Deserialize, Serialize};

use crate::analysis::{Analysis, Estimate};
use crate::format::{interval, number, p_value, signed};
use crate::sentences;
use crate::stats::distributions::{t_cdf, t_quantile};
use crate::stats::kendall::tau;

/// Two runs compared per block, each under its own headline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The runs' names.
    pub names: [String; 2],
    /// Substitute, init, scheme and number of repetitions of each.
    pub conditions: [String; 2],
    /// Mean accuracy of each run's parents, percent.
    pub parents: [Option<f64>; 2],
    /// Blocks of the first run, then those that only the second has.
    pub blocks: Vec<BlockComparison>,
    /// Kendall's tau-b between the two rankings of the shared blocks.
    pub tau: Option<f64>,
    /// The verdicts on F1, F2 and F3 of each run.
    pub verdicts: [[String; 3]; 2],
}

/// One block in both runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockComparison {
    /// The block.
    pub block: String,
    /// Criticality in each run, percentage points.
    pub estimates: [Option<Estimate>; 2],
    /// Criticality in the second run − criticality in the first, percentage points.
    pub difference: Option<f64>,
    /// Its 95% interval by Welch's t test for independent runs.
    pub interval: Option<[f64; 2]>,
    /// P value of no difference.
    pub p: Option<f64>,
}

/// Compares two runs; blocks are matched by name.
pub fn compare(first: &Analysis, second: &Analysis) -> Comparison {
    let both = [first, second];
    let estimate = |analysis: &Analysis, block: &str| -> Option<Estimate> {
        let answer = analysis.blocks.iter().find(|own| own.block == block)?;
        analysis.cells[answer.cell?].criticality.clone()
    };
    let mut names: Vec<&str> = first.blocks.iter().map(|block| block.block.as_str()).collect();
    for block in &second.blocks {
        if !names.contains(&block.block.as_str()) {
            names.push(&block.block);
        }
    }
    let blocks: Vec<BlockComparison> = names
        .iter()
        .map(|block| {
            let estimates = both.map(|analysis| estimate(analysis, block));
            let welch = estimates[0].as_ref().zip(estimates[1].as_ref()).and_then(|(a, b)| welch(a, b));
            let difference = estimates[0].as_ref().zip(estimates[1].as_ref()).map(|(a, b)| b.mean - a.mean);
            BlockComparison {
                block: (*block).to_owned(),
                estimates,
                difference,
                interval: welch.map(|(interval, _)| interval),
                p: welch.map(|(_, p)| p),
            }
        })
        .collect();
    let shared: Vec<(f64, f64)> = blocks
        .iter()
        .filter_map(|block| Some((block.estimates[0].as_ref()?.mean, block.estimates[1].as_ref()?.mean)))
        .collect();
    let (a, b): (Vec<f64>, Vec<f64>) = shared.into_iter().unzip();
    Comparison {
        names: both.map(|analysis| analysis.name.clone()),
        conditions: both.map(|analysis| {
            analysis.headline.as_ref().map_or(String::new(), |headline| {
                let units = sentences::repetitions(analysis.unit, analysis.units);
                format!("{}, {}, {}, {units}", headline.substitute_text(), headline.init, headline.scheme)
            })
        }),
        parents: both.map(|analysis| analysis.parent.as_ref().map(|parent| parent.accuracy)),
        blocks,
        tau: tau(&a, &b),
        verdicts: both.map(|analysis| sentences::findings(analysis).map(|finding| finding.verdict)),
    }
}

/// Welch's interval and p value of `b - a`, with the degrees of freedom of Welch and Satterthwaite.
fn welch(a: &Estimate, b: &Estimate) -> Option<([f64; 2], f64)> {
    let (va, vb) = (a.se?.powi(2), b.se?.powi(2));
    let (difference, variance) = (b.mean - a.mean, va + vb);
    if variance <= 0.0 {
        return Some(([difference; 2], if difference == 0.0 { 1.0 } else { 0.0 }));
    }
    let df = variance.powi(2) / (va.powi(2) / a.df? + vb.powi(2) / b.df?);
    let se = variance.sqrt();
    let half = t_quantile(0.975, df) * se;
    Some(([difference - half, difference + half], 2.0 * t_cdf(-(difference / se).abs(), df)))
}

impl Comparison {
    /// The comparison as Markdown: a table of blocks, the agreement of the rankings, the verdicts.
    pub fn markdown(&self) -> String {
        use crate::markdown::escape;
        let [first, second] = self.names.each_ref().map(|name| escape(name));
        let mut out = format!("## {first} and {second}\n\n");
        for (name, (conditions, parent)) in [&first, &second].into_iter().zip(self.conditions.iter().zip(&self.parents))
        {
            let parent = parent.map(|accuracy| format!(", parent {}%", number(accuracy, 2))).unwrap_or_default();
            out += &format!("- {name}: {}{parent}\n", escape(conditions));
        }
        out += &format!(
            "\n| block | {first}, pp | {second}, pp | difference | 95% interval | |\n|:--|--:|--:|--:|:--:|--:|\n"
        );
        for block in &self.blocks {
            let cells = block.estimates.each_ref().map(|estimate| cell(estimate.as_ref()));
            out += &format!(
                "| {} | {} | {} | {} | {} | {} |\n",
                escape(&block.block),
                cells[0],
                cells[1],
                block.difference.map(|x| signed(x, 2)).unwrap_or_default(),
                block.interval.map(interval).unwrap_or_default(),
                block.p.map(p_value).unwrap_or_default()
            );
        }
        if let Some(tau) = self.tau {
            out += &format!("\nAgreement of the two rankings: Kendall's τ = {}.\n", number(tau, 2));
        }
        out += &format!("\n| finding | {first} | {second} |\n|:--|:--|:--|\n");
        for (i, finding) in ["F1", "F2", "F3"].iter().enumerate() {
            out += &format!("| {finding} | {} | {} |\n", escape(&self.verdicts[0][i]), escape(&self.verdicts[1][i]));
        }
        out
    }
}

fn cell(estimate: Option<&Estimate>) -> String {
    estimate.map_or(String::new(), |estimate| {
        let ends = estimate.interval.map(|ends| format!(" ({})", interval(ends))).unwrap_or_default();
        format!("{}{ends}", number(estimate.mean, 2))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn welch_agrees_with_scipy() {
        // scipy.stats.ttest_ind_from_stats(3.1, 1.2, 4, 1.0, 0.5, 7, equal_var=False), std errors 0.6 and 0.18898224
        let estimate = |mean, se, df| Estimate {
            mean,
            units: 2,
            pairs: 2,
            values: vec![],
            se: Some(se),
            df: Some(df),
            interval: None,
            basis: None,
            student: None,
            bootstrap: None,
        };
        let (ends, p) = welch(&estimate(1.0, 0.5 / 7.0_f64.sqrt(), 6.0), &estimate(3.1, 0.6, 3.0)).unwrap();
        assert!((p - 0.03376092931882848).abs() < 1e-9, "{p}");
        assert!((ends[0] - 0.2757873732047911).abs() < 1e-9 && (ends[1] - 3.9242126267952093).abs() < 1e-9, "{ends:?}");
    }
}
