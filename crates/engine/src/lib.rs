//! Runs and trains a network: forward, backward, optimiser step, frozen parts, taps on inner tensors.

mod conv;
mod pool;
mod simd;
