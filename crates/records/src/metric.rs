//! What a user's own program measures, in a study whose trials it trains itself.

use serde::{Deserialize, Serialize};

use crate::plan::Cost;

/// A number per test example, by which networks are compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Its name, such as `IoU`.
    pub name: String,
    /// The unit of its values, such as `px`; empty if it has none.
    pub unit: String,
    /// Which values are better.
    pub better: Better,
    /// Losses below this are negligible, in the unit.
    pub margin: f64,
    /// Number of test examples; every trial has one value for each, in one order.
    pub examples: usize,
}

/// Which values of a metric are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// Such as accuracy.
    Higher,
    /// Such as an error.
    Lower,
}

impl Better {
    /// A value such that higher is better.
    pub fn oriented(self, value: f64) -> f64 {
        match self {
            Better::Higher => value,
            Better::Lower => -value,
        }
    }
}

/// The result of a trial that a user's own program trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The metric's value for every test example.
    pub values: Vec<f64>,
    /// Cost of the whole network.
    pub cost: Cost,
}

impl Metric {
    /// What is wrong with it, with the remedy, if anything is.
    pub fn problem(&self) -> Option<String> {
        let one_line = |text: &str| !text.chars().any(char::is_control);
        if self.name.trim().is_empty() || !one_line(&self.name) || !one_line(&self.unit) {
            return Some("the metric's name and unit are one line of text each, and the name is not empty".to_owned());
        }
        if !(self.margin.is_finite() && self.margin > 0.0) {
            return Some(format!(
                "the metric's margin is {}: give the largest loss of {} that does not matter, above zero",
                self.margin, self.name
            ));
        }
        (self.examples < 2)
            .then(|| format!("{} test examples: give at least 2, for pairs need a spread", self.examples))
    }

    /// Why `values` are not one value per test example, if they are not.
    pub fn problem_of(&self, values: &[f64]) -> Option<String> {
        if values.len() != self.examples {
            return Some(format!(
                "{} values of {}, but the study has {} test examples: give one value for each, in the same order for every trial",
                values.len(),
                self.name,
                self.examples
            ));
        }
        let place = values.iter().position(|value| !value.is_finite())?;
        Some(format!(
            "{} of test example {place} is {}: give a finite number for every example, or report the trial as failed",
            self.name, values[place]
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric() -> Metric {
        Metric { name: "IoU".to_owned(), unit: String::new(), better: Better::Higher, margin: 0.01, examples: 3 }
    }

    #[test]
    fn what_cannot_be_judged_is_refused() {
        assert_eq!(metric().problem(), None);
        for wrong in [
            Metric { name: " ".to_owned(), ..metric() },
            Metric { unit: "a\nb".to_owned(), ..metric() },
            Metric { margin: 0.0, ..metric() },
            Metric { margin: f64::NAN, ..metric() },
            Metric { examples: 1, ..metric() },
        ] {
            assert!(wrong.problem().is_some(), "{wrong:?}");
        }
        assert_eq!(metric().problem_of(&[0.0, 1.0, -2.0]), None);
        assert!(metric().problem_of(&[0.0, 1.0]).unwrap().starts_with("2 values of IoU"));
        assert!(metric().problem_of(&[0.0, f64::NAN, 1.0]).unwrap().contains("example 1 is NaN"));
        assert!(metric().problem_of(&[0.0, 1.0, f64::INFINITY]).unwrap().contains("example 2 is inf"));
    }

    #[test]
    fn lower_values_are_turned() {
        assert_eq!((Better::Higher.oriented(2.0), Better::Lower.oriented(2.0)), (2.0, -2.0));
    }
}
