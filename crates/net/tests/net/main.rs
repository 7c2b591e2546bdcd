//! Tests of the crate's public face.

mod arch;
mod blocks;
mod inits;
mod layers;
mod narrow;
mod reference;
mod shapes;
mod sublayers;
mod surgery;
