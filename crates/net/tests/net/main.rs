//! Tests of the crate's public face.

mod arch;
mod blocks;
mod inits;
mod reference;
mod safetensors;
mod shapes;
mod surgery;
