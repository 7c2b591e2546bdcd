//! Vectors of f32 and the kernels on them.
