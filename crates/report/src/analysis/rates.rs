//! The learning rates that range tests have found, with their curves.

use nettriage_records::record::RangeTest;
use serde::{Deserialize, Serialize};

use crate::data::RunData;

/// A learning-rate range test: a short training whose rate grows, and the rate that was chosen by it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TestedRate {
    /// The trainings that it is for: `parents`, or `children`, which includes controls.
    pub of: String,
    /// Their largest learning rate.
    pub rate: f64,
    /// How it follows from the curve, in words.
    pub rule: String,
    /// The largest rate at which the smoothed loss had not risen.
    pub edge: f64,
    /// The loss of the best constant prediction, in nats.
    pub chance: f64,
    /// The learning rate of every step.
    pub rates: Vec<f64>,
    /// The loss before every step.
    pub losses: Vec<f64>,
    /// The smoothed losses.
    pub smoothed: Vec<f64>,
}

/// The range tests of a run, in the plan's order.
pub(super) fn rates(data: &RunData) -> Vec<TestedRate> {
    let rate = |test: &RangeTest| TestedRate {
        of: test.of.to_string(),
        rate: test.rate,
        rule: test.rule.clone(),
        edge: test.rates.get(test.edge).copied().unwrap_or_default(),
        chance: test.chance,
        rates: test.rates.clone(),
        losses: test.losses.clone(),
        smoothed: test.smoothed.clone(),
    };
    data.range_tests.iter().map(rate).collect()
}
