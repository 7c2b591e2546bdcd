//! Schemes: how a child is trained, as one or more stages, each a loss and a set of trainable layers.

use serde::{Deserialize, Serialize};

/// A named way of training a child.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scheme {
    /// Its name in plans, records and reports.
    pub name: String,
    /// Its stages, in order; none for no training.
    pub stages: Vec<Stage>,
}

/// One stage of a scheme.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// What the stage minimises.
    pub loss: Loss,
    /// Which layers it trains.
    pub train: Train,
    /// Share of the child's budget of images; the shares of a scheme sum to 1. Equal shares if left out.
    #[serde(default)]
    pub share: Option<f64>,
    /// Distillation temperature T.
    #[serde(default = "four")]
    pub temperature: f32,
    /// Weight of the soft targets in distillation, 0 to 1.
    #[serde(default = "nine_tenths")]
    pub alpha: f32,
    /// Weight of the ends of blocks beside the logits in distillation, 0 or more: the mean over the ends of the mean squared error
    /// of the child's tensor against the parent's, divided by the parent's variance.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub beta: f32,
}

fn is_zero(value: &f32) -> bool {
    *value == 0.0
}

/// The weight of the ends of blocks in `distill-blocks`.
const BETA: f32 = 1.0;

fn four() -> f32 {
    4.0
}

fn nine_tenths() -> f32 {
    0.9
}

/// What a stage minimises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// Cross-entropy against the labels.
    CrossEntropy,
    /// (1 - alpha) CE + alpha T^2 KL(parent's softened outputs || child's) (Hinton et al., arXiv:1503.02531).
    Distillation,
    /// Mean squared error of the block's output against the parent's (Romero et al., arXiv:1412.6550).
    /// Needs only the block, so it trains only the substitute.
    Hint,
}

/// Which layers a stage trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Train {
    /// The substitute alone; the rest is frozen, in evaluation mode.
    Substitute,
    /// Every layer.
    All,
}

impl Stage {
    fn new(loss: Loss, train: Train) -> Stage {
        Stage { loss, train, share: None, temperature: four(), alpha: nine_tenths(), beta: 0.0 }
    }
}

/// Names of the built-in schemes.
pub const PRESETS: [&str; 9] = [
    "none",
    "local",
    "global",
    "distill-local",
    "distill-global",
    "hint",
    "hint-then-distill",
    "hint-then-global",
    "distill-blocks",
];

/// Those that a study runs unless it names others: all but `distill-blocks`.
pub fn default_names() -> Vec<String> {
    PRESETS.into_iter().filter(|name| *name != "distill-blocks").map(str::to_owned).collect()
}

/// The built-in scheme of that name. `distill` alone means `distill-global`.
pub fn preset(name: &str) -> Option<Scheme> {
    use Loss::{CrossEntropy, Distillation, Hint};
    use Train::{All, Substitute};
    let stages: &[(Loss, Train)] = match name {
        "none" => &[],
        "local" => &[(CrossEntropy, Substitute)],
        "global" => &[(CrossEntropy, All)],
        "distill-local" => &[(Distillation, Substitute)],
        "distill-global" | "distill" | "distill-blocks" => &[(Distillation, All)],
        "hint" => &[(Hint, Substitute)],
        "hint-then-distill" => &[(Hint, Substitute), (Distillation, All)],
        "hint-then-global" => &[(Hint, Substitute), (CrossEntropy, All)],
        _ => return None,
    };
    let beta = if name == "distill-blocks" { BETA } else { 0.0 };
    let stages = stages.iter().map(|&(loss, train)| Stage { beta, ..Stage::new(loss, train) }).collect();
    Some(Scheme { name: name.to_owned(), stages })
}

impl Scheme {
    /// Why the scheme makes no sense, if it does not.
    pub fn problem(&self) -> Option<String> {
        let name = &self.name;
        for stage in &self.stages {
            if stage.loss == Loss::Hint && stage.train == Train::All {
                return Some(format!(
                    "scheme `{name}`: a hint reaches no layer outside the substitute; write train = \"substitute\""
                ));
            }
            if !(0.0..=1.0).contains(&stage.alpha) {
                return Some(format!("scheme `{name}`: alpha is {}; choose 0 to 1", stage.alpha));
            }
            if !(stage.beta >= 0.0 && stage.beta.is_finite()) {
                return Some(format!("scheme `{name}`: beta is {}; choose 0 or more", stage.beta));
            }
            if stage.beta != 0.0 && stage.loss != Loss::Distillation {
                return Some(format!(
                    "scheme `{name}`: beta weighs the ends of blocks in distillation; write loss = \"distillation\", or leave beta out"
                ));
            }
            if !(stage.temperature > 0.0 && stage.temperature.is_finite()) {
                return Some(format!("scheme `{name}`: temperature is {}; choose a positive one", stage.temperature));
            }
        }
        let stated: Vec<f64> = self.stages.iter().filter_map(|s| s.share).collect();
        let all_or_none = stated.is_empty() || stated.len() == self.stages.len();
        let sum: f64 = stated.iter().sum();
        if !all_or_none || !stated.iter().all(|s| *s > 0.0) || (!stated.is_empty() && (sum - 1.0).abs() > 1e-6) {
            return Some(format!("scheme `{name}`: give every stage a share above 0, in all 1, or none a share"));
        }
        None
    }

    /// Whether every layer trains in some stage.
    pub fn is_global(&self) -> bool {
        self.stages.iter().any(|s| s.train == Train::All)
    }

    /// Whether some stage has soft targets.
    pub fn distills(&self) -> bool {
        self.stages.iter().any(|s| s.loss == Loss::Distillation)
    }

    /// Whether some stage compares the ends of blocks.
    pub fn compares_blocks(&self) -> bool {
        self.stages.iter().any(|s| s.beta != 0.0)
    }

    /// The same stages with labels in place of soft targets: what distillation is compared with.
    pub fn undistilled(&self) -> Vec<Stage> {
        let plain = |s: &Stage| match s.loss {
            Loss::Distillation => Stage { share: s.share, ..Stage::new(Loss::CrossEntropy, s.train) },
            _ => s.clone(),
        };
        self.stages.iter().map(plain).collect()
    }

    /// How many images each stage sees, of a budget in all.
    pub fn images(&self, budget: usize) -> Vec<usize> {
        let equal = 1.0 / self.stages.len().max(1) as f64;
        let mut left = budget;
        let last = self.stages.len().saturating_sub(1);
        let mut images = Vec::new();
        for (i, stage) in self.stages.iter().enumerate() {
            let share = if i == last { left } else { (budget as f64 * stage.share.unwrap_or(equal)).round() as usize };
            images.push(share.min(left));
            left -= share.min(left);
        }
        images
    }

    /// The stages in words; with several budgets, their images as shares of one.
    pub fn describe(&self, budgets: &[usize]) -> Vec<String> {
        let words = |(stage, images): (&Stage, usize)| {
            let loss = match stage.loss {
                Loss::CrossEntropy => "cross-entropy".to_owned(),
                Loss::Distillation => {
                    let ends = match stage.beta {
                        0.0 => String::new(),
                        beta => format!(" and of the ends of blocks (beta = {beta})"),
                    };
                    format!("distillation (T = {}, alpha = {}){ends}", stage.temperature, stage.alpha)
                }
                Loss::Hint => "hint (mean squared error of the block's output)".to_owned(),
            };
            let train = match stage.train {
                Train::Substitute => "the substitute trains",
                Train::All => "every layer trains",
            };
            match budgets {
                [_] => format!("{loss}, {train}, {images} images"),
                _ => format!("{loss}, {train}, {}% of the budget", images as f64 / 10.0),
            }
        };
        let budget = if let [budget] = budgets { *budget } else { 1000 };
        self.stages.iter().zip(self.images(budget)).map(words).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_use_the_whole_budget() {
        for name in PRESETS {
            let scheme = preset(name).unwrap();
            assert_eq!(scheme.problem(), None);
            let spent: usize = scheme.images(1001).iter().sum();
            assert_eq!(spent, if name == "none" { 0 } else { 1001 }, "{name}");
        }
        assert!(preset("nonsense").is_none());
    }

    #[test]
    fn a_hint_for_every_layer_is_refused() {
        let scheme = Scheme { name: "x".into(), stages: vec![Stage::new(Loss::Hint, Train::All)] };
        assert!(scheme.problem().unwrap().contains("substitute"));
    }

    #[test]
    fn a_weight_of_the_ends_of_blocks_needs_distillation() {
        let with = |loss, beta| {
            let stage = Stage { beta, ..Stage::new(loss, Train::All) };
            Scheme { name: "x".into(), stages: vec![stage] }.problem()
        };
        assert_eq!(with(Loss::Distillation, 2.0), None);
        assert!(with(Loss::CrossEntropy, 2.0).unwrap().contains("loss = \"distillation\""));
        for beta in [-1.0, f32::NAN, f32::INFINITY] {
            assert!(with(Loss::Distillation, beta).unwrap().contains("choose 0 or more"));
        }
    }

    #[test]
    fn only_a_weight_of_the_ends_of_blocks_is_written() {
        let written = |name: &str| serde_json::to_string(&preset(name).unwrap()).unwrap();
        assert!(!written("distill-global").contains("beta"), "ids of studies without it stay as they are");
        assert!(written("distill-blocks").contains("\"beta\":1.0"));
        let ends = preset("distill-blocks").unwrap();
        assert!(ends.compares_blocks() && !preset("distill-global").unwrap().compares_blocks());
        assert_eq!(ends.undistilled(), preset("global").unwrap().stages);
        assert_eq!(
            ends.describe(&[10]),
            ["distillation (T = 4, alpha = 0.9) and of the ends of blocks (beta = 1), every layer trains, 10 images"]
        );
        assert!(!default_names().contains(&"distill-blocks".to_owned()));
    }

    #[test]
    fn the_undistilled_twin_of_distillation_is_cross_entropy() {
        assert_eq!(preset("distill-global").unwrap().undistilled(), preset("global").unwrap().stages);
        assert_eq!(preset("hint-then-distill").unwrap().undistilled(), preset("hint-then-global").unwrap().stages);
    }
}
