//! Tests of the file formats, on the networks in `../shared/networks` where they are there.

mod checkpoints;
mod hostile;
mod loading;
mod safetensors;
mod shared;
mod structure;
mod torch_file;
mod trust;
