//! The built-in architectures.
//!
//! | names | layers are named as in |
//! |---|---|
//! | `vgg11`, `vgg13`, `vgg16`, `vgg19`, each with `_bn`; `vgg` with a plan | torchvision |
//! | `resnet18`, `resnet34`, `resnet50` | torchvision; `cifar-resnet18` and so on have a 3x3 stem without pooling |
//! | `cifar-resnet20`, 32, 44, 56, 110 | Y. Idelbayev's CIFAR ResNets |

mod resnet;
mod vgg;

use serde::{Deserialize, Serialize};

use crate::{Error, Graph, INPUT, Kind, Layer, Shape, layer};

/// An architecture and its width.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchSpec {
    /// One of [`names`]: `vgg16_bn`, `cifar-resnet20`, `resnet18`, or `vgg` with a `plan`.
    pub arch: String,
    /// Factor for every number of channels; the products are rounded down and at least 1.
    #[serde(default = "full_width")]
    pub width: f64,
    /// For `vgg`: the filters of every convolution, stage by stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Vec<Vec<usize>>>,
    /// For `vgg`: whether every convolution is followed by a batch norm.
    #[serde(default)]
    pub batch_norm: bool,
}

fn full_width() -> f64 {
    1.0
}

impl ArchSpec {
    /// An architecture by its name, at full width.
    pub fn named(arch: &str) -> ArchSpec {
        ArchSpec { arch: arch.to_string(), width: 1.0, plan: None, batch_norm: false }
    }
}

/// The names that [`build`] knows.
pub fn names() -> Vec<&'static str> {
    let mut names = vec!["vgg"];
    names.extend(vgg::NAMES);
    names.extend(resnet::NAMES);
    names
}

/// The graph of an architecture for images of shape (C, H, W) and a number of classes.
///
/// # Errors
/// An unknown name, naming the known ones; a width or plan that gives no network; an input too small for it.
pub fn build(spec: &ArchSpec, input: Shape, classes: usize) -> Result<Graph, Error> {
    let fail = |problem: String| Error::Arch { arch: spec.arch.clone(), problem };
    if !(spec.width.is_finite() && spec.width > 0.0 && spec.width <= 64.0) {
        return Err(fail(format!("width {} is not a factor between 0 and 64", spec.width)));
    }
    if classes == 0 {
        return Err(fail("a classifier needs at least one class".into()));
    }
    if spec.arch != "vgg" && (spec.plan.is_some() || spec.batch_norm) {
        return Err(fail("`plan` and `batch_norm` belong to the architecture `vgg`".into()));
    }
    let mut builder = Builder::new(spec, input);
    match spec.arch.as_str() {
        "vgg" => {
            let plan =
                spec.plan.as_deref().ok_or_else(|| fail("it needs a `plan`, such as [[32, 32], [64]]".into()))?;
            vgg::check_plan(plan).map_err(fail)?;
            vgg::build(&mut builder, plan, spec.batch_norm, classes);
        }
        name if vgg::NAMES.contains(&name) => vgg::build_named(&mut builder, name, classes),
        name if resnet::NAMES.contains(&name) => resnet::build_named(&mut builder, name, classes),
        _ => return Err(fail(format!("no such architecture; there are {}", names().join(", ")))),
    }
    let graph = builder.finish();
    graph.check().map_err(|error| fail(format!("not for images of {input}: {error}")))?;
    Ok(graph)
}

/// Builds a graph layer by layer; a layer's input is the previous layer's output unless another is named.
struct Builder {
    name: String,
    input: Shape,
    width: f64,
    layers: Vec<Layer>,
}

impl Builder {
    fn new(spec: &ArchSpec, input: Shape) -> Builder {
        Builder { name: spec.arch.clone(), input, width: spec.width, layers: Vec::new() }
    }

    /// `channels` times the width, at least 1.
    fn scaled(&self, channels: usize) -> usize {
        ((channels as f64 * self.width) as usize).max(1)
    }

    fn last(&self) -> String {
        self.layers.last().map_or_else(|| INPUT.to_string(), |layer| layer.name.clone())
    }

    fn add(&mut self, name: impl Into<String>, kind: Kind) -> String {
        let last = self.last();
        self.add_to(name, &[&last], kind)
    }

    fn add_to(&mut self, name: impl Into<String>, inputs: &[&str], kind: Kind) -> String {
        let name = name.into();
        let inputs = inputs.iter().map(|input| input.to_string()).collect();
        self.layers.push(Layer { name: name.clone(), inputs, kind });
        name
    }

    fn finish(self) -> Graph {
        let output = self.last();
        Graph { name: self.name, input: self.input, layers: self.layers, output }
    }
}

/// Batch norm with PyTorch's defaults.
fn batch_norm() -> Kind {
    Kind::BatchNorm(layer::BatchNorm { eps: 1e-5, momentum: 0.1 })
}
