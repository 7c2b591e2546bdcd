//! Inits: how the weights of a substitute are initialised.
//!
//! The substitute is a convolution W of `o` filters over `i` channels with a `k` x `k` kernel (a linear layer is the
//! same with `k` = 1), a bias b or a batch norm after it, and the block's closing activation. Every init has one file
//! with its name, description and formula. Where the substitute is on a residual branch, the inits in closed form give the
//! map of the whole, from which the identity is subtracted; the others initialise the branch. A program adds its own by
//! [`register`]:
//!
//! ```
//! use nettriage_net::init::{self, Init, InitMethod, InitProblem, InitialValues};
//! use nettriage_net::Error;
//!
//! /// All weights 1 / fan-in: every filter is the mean of its inputs.
//! struct BoxFilter;
//!
//! impl InitMethod for BoxFilter {
//!     fn name(&self) -> &str {
//!         "box"
//!     }
//!     fn describe(&self) -> &str {
//!         "W = 1 / (i k²), b = 0"
//!     }
//!     fn is_random(&self) -> bool {
//!         false
//!     }
//!     fn is_calibrated(&self) -> bool {
//!         true
//!     }
//!     fn values(&self, problem: &InitProblem<'_>, _: &mut dyn rand::Rng) -> Result<InitialValues, Error> {
//!         let value = (1.0 / problem.layer.fan_in()) as f32;
//!         let weight = problem.layer.weight(|_filter, _channel, _row, _column| value);
//!         Ok(InitialValues::Affine { weight, bias: vec![0.0; problem.layer.filters] })
//!     }
//! }
//!
//! let init = init::register(BoxFilter)?;
//! assert_eq!("box".parse::<Init>()?, init);
//! # Ok::<(), Error>(())
//! ```

mod collapse;
mod filters;
mod he;
mod identity;
mod least_squares;
mod method;
mod registry;
mod separable;
mod sublayer;
mod target;
mod weights;
mod xavier;

use std::fmt;
use std::str::FromStr;

use rand::Rng;
use serde::{Deserialize, Serialize};

pub use method::{InitMethod, InitProblem, InitialValues, SeparablePart, SubstituteLayer};
pub use registry::Registered;
pub use separable::separated;
pub use target::{closing, target_tensor};
pub use weights::{calibrate, set_affine};

use crate::block::Block;
use crate::{Error, Network, Tensor, surgery};
use filters::Filters;

/// Declares the built-in inits: the enum, the list of all, and the method of each.
macro_rules! inits {
    ($($(#[doc = $doc:literal])+ $init:ident => $method:expr,)+) => {
        /// How the weights of a substitute are initialised. In text by name: `random` (or `he`), `xavier`, `first`,
        /// `last`, `mean`, `collapse`, `least-squares`, `identity`, or the name of a [registered](register) one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub enum Init {
            $($(#[doc = $doc])+ $init,)+
            /// A user-defined one: see [`register`].
            Custom(Registered),
        }

        const BUILT_IN: &[Init] = &[$(Init::$init),+];

        impl Init {
            /// What the init says and does.
            pub fn method(self) -> &'static dyn InitMethod {
                match self {
                    $(Init::$init => &$method,)+
                    Init::Custom(registered) => registered.method(),
                }
            }
        }
    };
}

inits! {
    /// W normal with mean 0 and variance 2 / (i k²), b = 0 (He et al., 2015, arXiv:1502.01852, eq. 10).
    He => he::He,
    /// W uniform in ±sqrt(6 / (i k² + o k²)), b = 0 (Glorot and Bengio, 2010, eq. 16).
    Xavier => xavier::Xavier,
    /// The block's first convolution F (or linear layer) with its batch norm, adapted: W[o, i, y, x] = sqrt(I / i')
    /// F[o mod O, i mod I, y', x'], where F has O filters over I channels, i' is the substitute's number of channels,
    /// and (y', x') is the same position counted from the kernels' centres, 0 outside F. The factor keeps the variance
    /// of the output where channels are repeated or left out; it is 1 where their numbers agree.
    First => Filters::First,
    /// As [`Init::First`], of the block's last convolution or linear layer.
    Last => Filters::Last,
    /// The mean over the block's convolutions and linear layers of the weights, biases and norms that [`Init::First`]
    /// would use if it were the first.
    Mean => Filters::Mean,
    /// The block as one linear map: its convolutions composed, W = … ∗ F₂ ∗ F₁, batch norms folded in with their
    /// running statistics, sums and concatenations followed, activations left out, and max-pooling replaced by average
    /// pooling; then cut to the taps of the substitute's kernel, aligned by the paddings. Biases are carried through
    /// the later kernels.
    ///
    /// Exact where the block is linear and the kernel contains all taps, except near the border: there the padding of
    /// an inner convolution sets to zero positions that the composed map still uses, and their share of the inner
    /// biases. So all outputs are exact where no inner layer pads, and otherwise those whose receptive field lies
    /// within the image. Taps further apart than the input's extent are left out. A block that multiplies tensors or
    /// resamples has no such map and is refused.
    Collapse => collapse::Collapse,
    /// Ridge regression from the block's input to its output before the closing activation (Hoerl and Kennard, 1970).
    /// It needs images: `nettriage-study` solves it and calls [`set_affine`].
    LeastSquares => least_squares::LeastSquares,
    /// W[o, i] = 1 at the kernel position that reads the output's own position if i = o mod i', else 0, and b = 0: the
    /// identity where there are as many filters as channels and the stride is 1. Within groups, channels are counted by
    /// group.
    Identity => identity::Identity,
}

impl Init {
    /// Whether its values depend on the random generator.
    pub fn is_random(self) -> bool {
        self.method().is_random()
    }

    /// Whether its values depend on images.
    pub fn needs_images(self) -> bool {
        self.method().needs_images()
    }

    /// Whether the substitute's norm must be [calibrated](calibrate) afterwards.
    pub fn is_calibrated(self) -> bool {
        self.method().is_calibrated()
    }

    /// Its formula in one line.
    pub fn describe(self) -> &'static str {
        self.method().describe()
    }
}

/// The names of all inits, built in and registered, aliases included.
pub fn names() -> Vec<&'static str> {
    let built_in = BUILT_IN.iter().flat_map(|init| {
        let method = init.method();
        std::iter::once(method.name()).chain(method.aliases().iter().copied())
    });
    built_in.chain(registry::names()).collect()
}

/// Registers a user-defined init under its name until this process ends: from then on studies may name
/// it. A worker process that runs trials of such a study must register it too.
///
/// # Errors
/// A name that is empty, has other characters than letters, digits, `-` and `_`, or is taken.
pub fn register(method: impl InitMethod + 'static) -> Result<Init, Error> {
    let name = method.name().to_string();
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || !name.chars().all(legal) {
        return Err(Error::Name(format!("an init's name has letters, digits, `-` and `_`, not `{name}`")));
    }
    let taken = || Error::Name(format!("there is an init `{name}` already"));
    if built_in(&name).is_some() {
        return Err(taken());
    }
    registry::add(Box::new(method)).map(Init::Custom).ok_or_else(taken)
}

fn built_in(name: &str) -> Option<Init> {
    BUILT_IN.iter().copied().find(|init| init.method().name() == name || init.method().aliases().contains(&name))
}

impl fmt::Display for Init {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.method().name())
    }
}

impl FromStr for Init {
    type Err = Error;

    fn from_str(text: &str) -> Result<Init, Error> {
        let known = built_in(text).or_else(|| registry::find(text).map(Init::Custom));
        known.ok_or_else(|| Error::Name(format!("no init `{text}`; use one of {}", names().join(", "))))
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

/// Initialises the substitute of `block` in `child`, which [`compress`](crate::surgery::compress) made of `parent`.
///
/// The slopes of a closing PReLU stay the parent's. Where the block was dropped there is nothing to initialise, and any
/// init leaves the child as it is.
///
/// # Errors
/// [`Init::LeastSquares`], which needs images; a block without convolution or linear layer for [`Init::First`],
/// [`Init::Last`] and [`Init::Mean`]; a block that [`Init::Collapse`] cannot compose to a linear map; an init in closed form for a
/// substitute that is no affine map.
pub fn apply(
    init: Init,
    child: &mut Network,
    parent: &Network,
    block: &Block,
    rng: &mut impl Rng,
) -> Result<(), Error> {
    let Some(layer) = SubstituteLayer::of(child, block)? else {
        return sublayer::apply(init, child, parent, block, rng);
    };
    let Some(map) = surgery::affine_map(block, child) else { return Ok(()) };
    let method = init.method();
    let in_parts = map.separable && !method.is_calibrated();
    let layer = if in_parts {
        let Some(depthwise) = SubstituteLayer::depthwise(child, block) else { return Ok(()) };
        let problem = InitProblem { parent, block, layer: depthwise };
        let weight = match method.values(&problem, rng)? {
            InitialValues::Affine { weight, .. }
            | InitialValues::FromScratch { weight }
            | InitialValues::WithNorm { weight, .. } => weight,
        };
        weights::set_weight(child, block, &problem.layer, weight)?;
        layer.pointwise()
    } else {
        layer
    };
    let problem = InitProblem { parent, block, layer };
    let values = method.values(&problem, rng)?;
    let layer = problem.layer;
    if map.separable && in_parts == matches!(values, InitialValues::Affine { .. }) {
        let problem = format!("init {init} has no weights for a depthwise convolution with one of 1x1 after it");
        return Err(Error::block(&block.name, problem));
    }
    match values {
        InitialValues::Affine { mut weight, bias } => {
            if map.skip {
                subtract_identity(&layer, &mut weight);
            }
            set_affine(child, block, weight, &bias)?;
        }
        InitialValues::FromScratch { weight } => {
            weights::set_product(child, block, &layer, weight, &vec![0.0; layer.filters])?;
            weights::reset_norm(child, block);
        }
        InitialValues::WithNorm { weight, bias, norm } => {
            weights::set_product(child, block, &layer, weight, &bias)?;
            if norm.iter().any(|part| part.len() != layer.filters) {
                let problem = format!("init {init} gives its norm another number of elements than {}", layer.filters);
                return Err(Error::block(&block.name, problem));
            }
            if weights::norm_eps(&child.graph, block).is_some() {
                weights::set_norm(child, block, norm);
            }
        }
    }
    Ok(())
}

/// W - 1 at the output's own position and channel, where the input is added to the map.
fn subtract_identity(layer: &SubstituteLayer, weight: &mut Tensor) {
    let centre = layer.centre();
    let own = |filter, channel, row, column| f32::from(filter == channel && [row, column] == centre);
    weight.data.iter_mut().zip(layer.weight(own).data).for_each(|(value, one)| *value -= one);
}
