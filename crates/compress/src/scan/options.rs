//! Options of a scan: which ranges, which single layers, how their weights are solved.

use std::fmt;
use std::str::FromStr;

use nettriage_net::narrow::Narrow;
use nettriage_net::surgery::{Branch, Substitute};
use nettriage_net::{Graph, Kind};
use nettriage_train::Device;

use super::measure::Outputs;
use crate::Error;

/// Which ranges are scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The default blocks.
    Blocks,
    /// Every range within which the feature map keeps its size.
    Stages,
    /// Every range, across down-samplings too.
    All,
}

/// A kind of single layer to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This one.
    One(Substitute),
    /// A dense convolution as large as the range's receptive field.
    Field,
    /// A convolution of that kernel with as many groups as divide both numbers of channels.
    Depthwise(usize),
    /// The unit itself, with fewer channels between its convolutions.
    Narrow(Narrow),
}

impl FromStr for Choice {
    type Err = nettriage_net::Error;

    fn from_str(text: &str) -> Result<Choice, Self::Err> {
        match text {
            "field" => Ok(Choice::Field),
            "depthwise3x3" => Ok(Choice::Depthwise(3)),
            "depthwise5x5" => Ok(Choice::Depthwise(5)),
            _ if text.starts_with("narrow") => text.parse().map(Choice::Narrow),
            _ => match text.parse()? {
                Substitute::Sublayer(kind) => Err(nettriage_net::Error::Name(format!(
                    "{kind} has no weights in closed form, so it is tried by training: name it in a study"
                ))),
                substitute => Ok(Choice::One(substitute)),
            },
        }
    }
}

/// How closed-form weights are found. In text: `plain`, `relu` (one refit iteration), `relu3` (three), each with `+moments`,
/// `+gradients` or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// Solves in all. The first is plain ridge regression; each further one is a refit iteration: outputs that the closing ReLU
    /// sets to zero in both fit and target do not count.
    pub solves: usize,
    /// Whether mean and variance of each output are made those of the target at the end.
    pub moments: bool,
    /// Whether an output position counts by the squared length of the gradient there of the network's answer: an error where
    /// it does not matter costs nothing.
    pub gradients: bool,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.solves {
            1 => write!(f, "plain")?,
            2 => write!(f, "relu")?,
            n => write!(f, "relu{}", n - 1)?,
        }
        f.write_str(if self.moments { "+moments" } else { "" })?;
        f.write_str(if self.gradients { "+gradients" } else { "" })
    }
}

impl FromStr for Method {
    type Err = Error;

    fn from_str(text: &str) -> Result<Method, Error> {
        let mut parts = text.split('+');
        let name = parts.next().unwrap_or_default();
        let extras: Vec<&str> = parts.collect();
        let has = |extra: &str| extras.contains(&extra);
        let solves = match name {
            "plain" => Some(1),
            "relu" => Some(2),
            _ => name
                .strip_prefix("relu")
                .and_then(|n| n.parse().ok())
                .filter(|n| (1..=20).contains(n))
                .map(|n: usize| n + 1),
        };
        let unknown = || {
            Error::Request(format!(
                "no method `{text}`; use plain, relu or relu3, alone or with +moments, +gradients or both"
            ))
        };
        if extras.iter().any(|extra| !["moments", "gradients"].contains(extra)) {
            return Err(unknown());
        }
        Ok(Method { solves: solves.ok_or_else(unknown)?, moments: has("moments"), gradients: has("gradients") })
    }
}

/// How a scan is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// What networks run on.
    pub device: Device,
    /// Which ranges.
    pub scope: Scope,
    /// Which substitutes; if empty, the [usual ones](Options::choices_for) of the network.
    pub choices: Vec<Choice>,
    /// How their weights are found; each is judged.
    pub methods: Vec<Method>,
    /// Largest number of unknowns of a filter where a kernel is larger than 3x3 (channels times taps).
    pub unknowns: usize,
    /// Output positions per unknown, at most as many as there are.
    pub rows: usize,
    /// Least output positions.
    pub least_rows: usize,
    /// Threads.
    pub threads: usize,
    /// Whether convolutions run without the less accurate algorithms.
    pub exact: bool,
    /// Bytes for sums, tensors and solutions; more passes over the images where they do not fit.
    pub memory: usize,
    /// Images in a pass whose milliseconds are measured.
    pub batch: usize,
    /// What the outputs are; none to see by the network, see [`measure`](super::measure).
    pub outputs: Option<Outputs>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            device: Device::Cpu,
            scope: Scope::All,
            choices: Vec::new(),
            methods: vec![Method { solves: 2, moments: true, gradients: false }],
            unknowns: 2400,
            rows: 24,
            least_rows: 20_000,
            threads: 1,
            exact: false,
            memory: 2 << 30,
            batch: 1,
            outputs: None,
        }
    }
}

impl Options {
    /// The substitutes that a scan of this network tries: those of the options, or the usual ones. These are convolutions, the
    /// linear layer and the drop, with separable convolutions in a network of depthwise ones, and with 1x1 convolutions on the
    /// residual branch in one with attention.
    pub fn choices_for(&self, graph: &Graph) -> Vec<Choice> {
        if !self.choices.is_empty() {
            return self.choices.clone();
        }
        let conv = |kernel| Choice::One(Substitute::Conv { kernel, groups: 1 });
        let mut choices = vec![conv(1), conv(3), conv(5), Choice::Field, Choice::One(Substitute::Linear)];
        choices.push(Choice::One(Substitute::Drop));
        let holds = |wanted: fn(&Kind) -> bool| graph.layers.iter().any(|layer| wanted(&layer.kind));
        if holds(|kind| matches!(kind, Kind::Conv(conv) if conv.is_depthwise())) {
            choices.extend([3, 5].map(|kernel| Choice::One(Substitute::Separable { kernel })));
        }
        if holds(|kind| matches!(kind, Kind::MatMul(_))) {
            choices.push(Choice::One(Substitute::Skip(Branch::Conv { kernel: 1, groups: 1 })));
        }
        choices
    }
}

/// Reports while a scan runs.
pub trait Progress {
    /// `done` of `of` steps of a phase are done.
    fn phase(&self, phase: Phase, done: usize, of: usize);
}

/// The phase of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Gathering sums and solving; steps are images.
    Fitting,
    /// Running the network with substitutes; steps are candidates.
    Judging,
    /// Measuring milliseconds; steps are ranges.
    Timing,
}
