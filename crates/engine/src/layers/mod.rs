//! The layers: one file a family, each with its forward and backward pass on N x H x W x C slices.

pub(crate) mod activation;
pub(crate) mod channelwise;
pub(crate) mod columns;
pub(crate) mod combine;
pub(crate) mod conv;
pub(crate) mod copy;
pub(crate) mod dropout;
pub(crate) mod gather;
pub(crate) mod lrn;
pub(crate) mod norm;
pub(crate) mod pool;
pub(crate) mod resize;
pub(crate) mod softmax;
pub(crate) mod tiles;

/// Elements that one task of an elementwise operation works on.
pub(crate) const CHUNK: usize = 1 << 14;
