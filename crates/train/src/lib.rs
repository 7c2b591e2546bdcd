//! Training: schemes, losses, the training loop, activation sources and evaluation.
//!
//! Parents, the children of a study and prescribed networks are trained by one loop, [`run_stage`]. It reads its batches
//! from an [`ActivationSource`]: the images of an [`ImageSequence`], or an inner tensor of a network on these images,
//! computed batch by batch or stored in a [`Cache`]. [`evaluate`] measures accuracy and loss over such a source.

mod cache;
mod check;
pub mod checkpoint;
mod curve;
mod error;
mod evaluate;
pub mod scheme;
pub mod seed;
mod source;
mod training;
mod values;

pub use cache::{Cache, Reserved, Tier};
pub use check::{check_images, fit_classes, without_softmax};
pub use curve::CurveRecorder;
pub use error::Error;
pub use evaluate::{EVALUATION_BATCH, Outcome, Tally, evaluate};
pub use source::{ActivationSource, ImageSequence, LookAhead, PrefixOptions};
pub use training::{
    HyperParameters, Objective, Recipe, StageInput, StageOutcome, StageStep, Trained, first_non_finite, run_stage,
};
pub use values::{Precision, Values};
