//! The output and gradients of every layer, compared with an f64 reference and its central differences.

mod common;

common::suite::engine_tests!(Some(&common::suite::Own));
