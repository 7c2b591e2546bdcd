//! What a scan found, as plain data.

use serde::{Deserialize, Serialize};

use crate::plan::Cost;

/// A scan of one network: every range of layers that could be one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scan {
    /// The network's name.
    pub network: String,
    /// Its file, or the run that it is the parent of.
    pub source: String,
    /// The images.
    pub images: Images,
    /// The network as it is.
    pub parent: Parent,
    /// Its units, in order.
    pub units: Vec<Unit>,
    /// The ranges that could be one layer.
    pub ranges: Vec<Range>,
    /// Candidates that were left out for their size: unknowns above the limit.
    pub left_out: usize,
    /// What it took.
    pub took: Took,
    /// How well such scans have ranked blocks as training does, where studies were given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trust: Vec<Trust>,
}

/// Which images a scan looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Images {
    /// The data set's name.
    pub data: String,
    /// Images that the substitutes were fitted to; their labels are not used.
    pub fitted: usize,
    /// Images that they were judged by.
    pub judged: usize,
    /// Where those come from, such as `the last 2000 training images`.
    pub judged_from: String,
    /// Whether they have labels.
    pub labelled: bool,
}

/// The network as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parent {
    /// Share of the judged images that it gets right.
    pub accuracy: Option<f64>,
    /// Its cost.
    pub cost: Cost,
    /// Milliseconds of a forward pass, summed over the units.
    pub milliseconds: f64,
}

/// A unit: what ranges begin and end with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unit {
    /// Name, after its layers.
    pub name: String,
    /// First and last layer.
    pub layers: [String; 2],
    /// Shape of what it puts out, (C, H, W).
    pub output: [usize; 3],
    /// Convolutions and linear layers in it.
    pub products: usize,
    /// Its cost.
    pub cost: Cost,
    /// Milliseconds of a forward pass.
    pub milliseconds: f64,
}

/// A contiguous run of units that could be one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Range {
    /// Its name.
    pub name: String,
    /// Indices of its first and last unit.
    pub units: [usize; 2],
    /// First and last layer.
    pub layers: [String; 2],
    /// Name of the default block that it is, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<String>,
    /// What it costs as it is.
    pub cost: Cost,
    /// Milliseconds of a forward pass, summed over its units.
    pub milliseconds: f64,
    /// What could take its place, one entry for every substitute and method.
    pub candidates: Vec<Candidate>,
}

/// A single layer in a range's place, and what it does to the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The substitute, such as `conv3x3`.
    pub substitute: String,
    /// How its weights were found, such as `relu`.
    pub method: String,
    /// The ridge, as a share of the mean diagonal element of the patches' second moments.
    pub ridge: f64,
    /// Squared error of the affine map on held-out images over its target's variance; of the plain solution.
    pub error: f64,
    /// Share of the judged images that the network still gets right.
    pub accuracy: Option<f64>,
    /// Percentage points that the accuracy falls by, with its 95% interval over images; negative where it rises.
    pub drop: Option<[f64; 3]>,
    /// Share of the judged images on which the first choice stays.
    pub agreement: f64,
    /// Mean Kullback-Leibler divergence of the class probabilities from the parent's, in nats.
    pub divergence: f64,
    /// Cost of the substitute.
    pub cost: Cost,
    /// Milliseconds of a forward pass of the substitute.
    pub milliseconds: f64,
}

/// What a scan took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Took {
    /// Seconds in all.
    pub seconds: f64,
    /// Of these, for the closed-form weights.
    pub fitting: f64,
    /// Of these, for running the networks.
    pub judging: f64,
    /// Of these, for measuring milliseconds.
    pub timing: f64,
    /// Largest number of bytes held for sums, tensors and models, as planned.
    pub bytes: usize,
    /// Threads.
    pub threads: usize,
    /// Images in a pass whose milliseconds were measured, on one thread.
    pub batch: usize,
}

/// Agreement of scans with training, over studies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trust {
    /// Mean of Kendall's tau-b between the scan's drop and the trained criticality, over parents.
    pub tau: f64,
    /// Its 95% interval, by resampling parents; none with a single parent.
    pub interval: Option<[f64; 2]>,
    /// Parents compared.
    pub parents: usize,
    /// Blocks in all.
    pub blocks: usize,
    /// The trained scheme.
    pub scheme: String,
    /// What the children started from.
    pub init: String,
    /// Of each parent, tau.
    pub each: Vec<f64>,
}

impl Range {
    /// The candidate that keeps most: by accuracy where there are labels, else by agreement; the cheaper of equals.
    pub fn best(&self) -> Option<&Candidate> {
        let merit = |c: &Candidate| c.accuracy.unwrap_or(c.agreement);
        self.candidates.iter().reduce(|a, b| {
            let better = merit(b) > merit(a) || merit(b) == merit(a) && b.cost.macs < a.cost.macs;
            if better { b } else { a }
        })
    }
}
