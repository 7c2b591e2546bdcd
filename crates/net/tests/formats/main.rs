//! Tests of the file formats, on the networks in `../shared/networks` where they are there.

mod shared;
mod structure;
