//! Training: schemes, losses, the training loop, activation sources and evaluation.
//!
//! A [`Device`] is the choice of what computes: the processor, by this workspace's engine, or a device of an installed PyTorch. It
//! builds every [`Model`], and nothing above knows which one runs.
//!
//! Parents, the children of a study and prescribed networks are trained by one loop, [`run_stage`]. It reads its batches
//! from an [`ActivationSource`]: the images of an [`ImageSequence`], or an inner tensor of a network on these images,
//! computed batch by batch or stored in a [`Cache`]. [`evaluate`] measures accuracy and loss over such a source.

mod cache;
mod check;
mod checkpoints;
mod curve;
mod device;
mod error;
mod evaluate;
mod model;
pub mod range_test;
pub mod scheme;
pub mod seed;
mod source;
mod teacher;
mod tensors;
mod training;
mod values;

pub use cache::{Cache, Reserved, Tier};
pub use check::{check_images, fit_classes, without_softmax};
pub use checkpoints::{AVERAGE, Checkpoints, NETWORK, StopSignal, Writer};
pub use curve::CurveRecorder;
pub use device::{Arithmetic, Device, DeviceName};
pub use error::Error;
pub use evaluate::{Outcome, Tally, evaluate};
pub use model::{Batch, InnerTarget, MixedLabels, Model, Target};
pub use source::{ActivationSource, ImageSequence, LookAhead, PrefixOptions};
pub use teacher::Teacher;
pub use tensors::{add_optimizer, add_tensors, restore_optimizer, tensors_of};
pub use training::{
    HyperParameters, Objective, Recipe, StageInput, StageOutcome, StageStep, Trained, first_non_finite, run_stage,
};
pub use values::{Precision, Values};
