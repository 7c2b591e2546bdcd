//! Inits: how a substitute gets its first weights.
//!
//! The substitute is a convolution W of `o` filters over `i` channels with a `k` x `k` kernel (a linear layer is the
//! same with `k` = 1), a bias b or a batch norm after it, and the block's closing activation.

mod collapse;
mod filters;

use std::fmt;
use std::str::FromStr;

use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::block::Block;
use crate::surgery::closing_activation;
use crate::{Activation, Error, Graph, Kind, Network, Tensor, draw};

/// How a substitute gets its first weights. In text: `random` (which is `he`), `xavier`, `first`, `last`, `mean`,
/// `collapse`, `least-squares`, `identity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Init {
    /// W normal with mean 0 and variance 2 / (i k²), b = 0 (He et al., arXiv:1502.01852, eq. 10).
    He,
    /// W uniform in ±sqrt(6 / (i k² + o k²)), b = 0 (Glorot and Bengio, 2010, eq. 16).
    Xavier,
    /// The block's first convolution F (or linear layer) with its batch norm, adapted: W[o, i, y, x] = sqrt(I / i')
    /// F[o mod O, i mod I, y', x'], where F has O filters over I channels, i' is the substitute's number of channels,
    /// and (y', x') is the same place seen from the kernels' centres, 0 outside F. The factor keeps the variance of
    /// the output where channels are repeated or left out; it is 1 where their numbers agree.
    First,
    /// The same of the block's last convolution or linear layer.
    Last,
    /// The mean of what [`Init::First`] would take from each of the block's convolutions and linear layers; likewise
    /// of their biases and norms.
    Mean,
    /// The block as one linear map: its convolutions composed, W = … ∗ F₂ ∗ F₁, batch norms folded in with their
    /// running statistics, sums and joins followed, activations left out, max-pooling taken for average pooling; then
    /// cut to the taps that the substitute's kernel has, aligned by the paddings. Biases go through the later kernels.
    ///
    /// Exact where the block is linear and the kernel holds all taps, except that near the border an inner
    /// convolution's padding sets to zero what the composed map still sees, and drops shares of the inner biases: the
    /// outputs whose receptive field lies within the picture are exact, and all outputs where no inner layer pads.
    /// Taps that lie further apart than the picture's extent are left out. A block that multiplies tensors, or
    /// resamples, has no such map and is refused.
    Collapse,
    /// Ridge regression from the block's input to its output before the closing activation. Needs data: see
    /// `nettriage-study`, which hands its solution to [`set_affine`].
    LeastSquares,
    /// W[o, i] = 1 at the place that meets the output's own position if i = o mod i', else 0, and b = 0: with as many
    /// filters as channels and stride 1 the input unchanged. Within groups, channels are counted by group.
    Identity,
}

const NAMES: [(&str, Init); 9] = [
    ("random", Init::He),
    ("he", Init::He),
    ("xavier", Init::Xavier),
    ("first", Init::First),
    ("last", Init::Last),
    ("mean", Init::Mean),
    ("collapse", Init::Collapse),
    ("least-squares", Init::LeastSquares),
    ("identity", Init::Identity),
];

impl fmt::Display for Init {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(_, init)| init == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

impl FromStr for Init {
    type Err = Error;

    fn from_str(text: &str) -> Result<Init, Error> {
        let known = NAMES.iter().find(|(name, _)| *name == text);
        known.map(|(_, init)| *init).ok_or_else(|| {
            let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            Error::Name(format!("no init `{text}`; use one of {}", names.join(", ")))
        })
    }
}

impl TryFrom<String> for Init {
    type Error = Error;

    fn try_from(text: String) -> Result<Init, Error> {
        text.parse()
    }
}

impl From<Init> for String {
    fn from(init: Init) -> String {
        init.to_string()
    }
}

/// Fills the weights of `block`'s substitute in `child`, which [`compress`](crate::surgery::compress) made of `parent`.
///
/// The substitute's norm is set along: to 1, 0, 0, 1 where the init says nothing of it. Slopes of a closing PReLU stay
/// the parent's. Where the block was dropped there is nothing to fill, and any init leaves the child as it is.
///
/// # Errors
/// [`Init::LeastSquares`], which needs data; a block without convolution or linear layer for [`Init::First`] and its
/// like; a block that [`Init::Collapse`] cannot take for a linear map.
pub fn apply(
    init: Init,
    child: &mut Network,
    parent: &Network,
    block: &Block,
    rng: &mut impl Rng,
) -> Result<(), Error> {
    let Some(main) = Main::of(child, block)? else { return Ok(()) };
    let taps = (main.kernel[0] * main.kernel[1]) as f64;
    let [fan_in, fan_out] = [main.per_group(), main.filters].map(|channels| channels as f64 * taps);
    let mut filled = |data: Vec<f32>| {
        let zeros = vec![0.0; main.filters];
        set_affine(child, block, Tensor { shape: main.shape.clone(), data }, &zeros)
    };
    match init {
        // A fresh norm: weight 1 and variance 1, as training from scratch has it.
        Init::He => filled(draw::normal(main.len(), (2.0 / fan_in).sqrt(), rng)).map(|()| plain_norm(child, block)),
        Init::Xavier => {
            filled(draw::uniform(main.len(), (6.0 / (fan_in + fan_out)).sqrt(), rng)).map(|()| plain_norm(child, block))
        }
        Init::First | Init::Last | Init::Mean => filters::apply(init, child, parent, block, &main),
        Init::Collapse => {
            let (weight, bias) = collapse::affine(parent, block, &main)?;
            set_affine(child, block, weight, &bias)
        }
        Init::Identity => filled(identity(&main)),
        Init::LeastSquares => Err(Error::block(
            &block.name,
            "least-squares needs images; it is a matter for the study, not of the weights alone",
        )),
    }
}

/// Puts the affine map y = W * x + b before the closing activation into the substitute.
///
/// `weight` is `[o, i / groups, k, k]` (`[o, i]` for a linear substitute), `bias` has `o` elements. Where there is a
/// norm, it gets running mean 0, running variance 1, weight sqrt(1 + eps) and bias b: in evaluation mode the map is
/// exact (to a rounding).
///
/// # Errors
/// No substitute (the block was dropped, or this is another network); weights of another shape than its own.
pub fn set_affine(child: &mut Network, block: &Block, weight: Tensor, bias: &[f32]) -> Result<(), Error> {
    let main = Main::of(child, block)?
        .ok_or_else(|| Error::block(&block.name, "it has no substitute to fill: it was dropped"))?;
    if weight.shape != main.shape || weight.data.len() != main.len() || bias.len() != main.filters {
        let problem = format!(
            "its substitute takes a weight of {:?} and {} biases, not {:?} and {}",
            main.shape,
            main.filters,
            weight.shape,
            bias.len()
        );
        return Err(Error::block(&block.name, problem));
    }
    let filters = [main.filters];
    child.weights.insert(format!("{}.weight", main.layer), weight);
    if let Some(eps) = norm_eps(&child.graph, block) {
        let slope = (1.0 + f64::from(eps)).sqrt() as f32;
        set_norm(
            child,
            block,
            [vec![slope; main.filters], bias.to_vec(), vec![0.0; main.filters], vec![1.0; main.filters]],
        );
    } else {
        child.weights.insert(format!("{}.bias", main.layer), Tensor::new(&filters, bias.to_vec()));
    }
    Ok(())
}

/// Gives the substitute's norm the running statistics `mean` and `variance` and changes its weight and bias so that
/// the function in evaluation mode stays the same.
///
/// With the statistics that the substitute's convolution has on data, one element a filter, training mode starts from
/// that same function too, where it would otherwise normalise it away. With a = weight / sqrt(variance₀ + eps) for the
/// old variance₀ and mean₀: weight ← a sqrt(variance + eps), bias ← bias + a (mean − mean₀). Nothing happens where
/// there is no norm.
///
/// # Errors
/// Other numbers of elements than filters; a variance below 0 or anything not finite.
pub fn calibrate(child: &mut Network, block: &Block, mean: &[f32], variance: &[f32]) -> Result<(), Error> {
    let Some(eps) = norm_eps(&child.graph, block) else { return Ok(()) };
    let eps = f64::from(eps);
    let Some([weight, bias, old_mean, old_variance]) = norm(child, block) else {
        return Err(Error::block(&block.name, "the weights of its substitute's norm are missing"));
    };
    let sound = mean.iter().all(|m| m.is_finite()) && variance.iter().all(|v| v.is_finite() && *v >= 0.0);
    if mean.len() != weight.len() || variance.len() != weight.len() || !sound {
        let problem = format!("its substitute's norm takes {} finite means and variances", weight.len());
        return Err(Error::block(&block.name, problem));
    }
    let (mut new_weight, mut new_bias) = (Vec::new(), Vec::new());
    for filter in 0..weight.len() {
        let slope = f64::from(weight[filter]) / (f64::from(old_variance[filter]) + eps).sqrt();
        new_weight.push((slope * (f64::from(variance[filter]) + eps).sqrt()) as f32);
        let shift = f64::from(mean[filter]) - f64::from(old_mean[filter]);
        new_bias.push((f64::from(bias[filter]) + slope * shift) as f32);
    }
    set_norm(child, block, [new_weight, new_bias, mean.to_vec(), variance.to_vec()]);
    Ok(())
}

/// The parent's tensor before the block's closing activation: what the substitute's affine map stands for. The block's
/// output where none closes it, or where pooling follows the activation.
pub fn target_tensor(parent: &Graph, block: &Block) -> String {
    let pooled = block.layers.iter().rev().filter_map(|name| parent.layer(name));
    let pooled = pooled
        .take_while(|layer| !matches!(layer.kind, Kind::Activation(_)))
        .any(|layer| matches!(layer.kind, Kind::MaxPool(_)));
    match closing_activation(parent, block) {
        Some(layer) if !pooled => layer.inputs[0].clone(),
        _ => block.output.clone(),
    }
}

/// What closes the block, if an activation does: the substitute's own activation.
pub fn closing(parent: &Graph, block: &Block) -> Option<Activation> {
    match closing_activation(parent, block)?.kind {
        Kind::Activation(activation) => Some(activation),
        _ => None,
    }
}

/// The substitute's convolution or linear layer, in figures.
struct Main {
    layer: String,
    /// Of its weight: `[o, i / groups, k, k]` or `[o, i]`.
    shape: Vec<usize>,
    filters: usize,
    channels: usize,
    groups: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    /// Rows above and columns to the left.
    padding: [usize; 2],
}

impl Main {
    /// `None` where the block was dropped.
    fn of(child: &Network, block: &Block) -> Result<Option<Main>, Error> {
        let named = |part: &str| child.graph.layer(&format!("{}.{part}", block.name));
        let Some(layer) = named("conv").or_else(|| named("linear")) else { return Ok(None) };
        let channels = match layer.inputs.first() {
            Some(input) => child.graph.shape_of(input)?,
            None => return Err(Error::layer(&layer.name, "it has no input")),
        };
        let shape = layer.parameters(channels).swap_remove(0).1;
        let channels = channels.channels;
        let layer_name = layer.name.clone();
        Ok(Some(match &layer.kind {
            Kind::Conv(conv) => Main {
                layer: layer_name,
                shape,
                filters: conv.filters,
                channels,
                groups: conv.groups,
                kernel: conv.kernel,
                stride: conv.stride,
                padding: [conv.padding.top, conv.padding.left],
            },
            Kind::Linear { features, .. } => Main {
                layer: layer_name,
                shape,
                filters: *features,
                channels,
                groups: 1,
                kernel: [1; 2],
                stride: [1; 2],
                padding: [0; 2],
            },
            _ => return Err(Error::layer(&layer.name, "it is neither a convolution nor linear, as a substitute is")),
        }))
    }

    fn per_group(&self) -> usize {
        self.channels / self.groups
    }

    fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Builds a weight from its elements at (filter, channel of all, row, column).
    fn fill(&self, mut element: impl FnMut(usize, usize, usize, usize) -> f32) -> Vec<f32> {
        let mut data = Vec::with_capacity(self.len());
        let filters_per_group = self.filters / self.groups;
        for filter in 0..self.filters {
            let first = filter / filters_per_group * self.per_group();
            for channel in first..first + self.per_group() {
                for row in 0..self.kernel[0] {
                    for column in 0..self.kernel[1] {
                        data.push(element(filter, channel, row, column));
                    }
                }
            }
        }
        data
    }
}

fn identity(main: &Main) -> Vec<f32> {
    let filters_per_group = main.filters / main.groups;
    let place = [0, 1].map(|axis| main.padding[axis].min(main.kernel[axis] - 1));
    main.fill(|filter, channel, row, column| {
        let within = (filter % filters_per_group) % main.per_group();
        let own = filter / filters_per_group * main.per_group() + within;
        if channel == own && [row, column] == place { 1.0 } else { 0.0 }
    })
}

const NORM: [&str; 4] = ["weight", "bias", "running_mean", "running_var"];

fn norm_eps(graph: &Graph, block: &Block) -> Option<f32> {
    match graph.layer(&format!("{}.norm", block.name))?.kind {
        Kind::BatchNorm { eps, .. } => Some(eps),
        _ => None,
    }
}

fn norm(child: &Network, block: &Block) -> Option<[Vec<f32>; 4]> {
    let part = |name: &str| child.weights.get(&format!("{}.norm.{name}", block.name)).map(|tensor| tensor.data.clone());
    let [weight, bias, mean, variance] = NORM.map(part);
    let parts = [weight?, bias?, mean?, variance?];
    parts.iter().all(|part| part.len() == parts[0].len()).then_some(parts)
}

fn set_norm(child: &mut Network, block: &Block, values: [Vec<f32>; 4]) {
    for (name, data) in NORM.iter().zip(values) {
        child.weights.insert(format!("{}.norm.{name}", block.name), Tensor { shape: vec![data.len()], data });
    }
}

fn plain_norm(child: &mut Network, block: &Block) {
    if let Some([weight, ..]) = norm(child, block) {
        let count = weight.len();
        set_norm(child, block, [vec![1.0; count], vec![0.0; count], vec![0.0; count], vec![1.0; count]]);
    }
}
