//! Random numbers for weights.

use rand::{Rng, RngExt};

/// Fan-in of a weight: the product of all axes but the first, at least 1.
pub(crate) fn fan_in(shape: &[usize]) -> f64 {
    shape.iter().skip(1).map(|&extent| extent as f64).product::<f64>().max(1.0)
}

/// `count` numbers from a normal distribution of mean 0 and the given standard deviation (Box and Muller, 1958).
pub(crate) fn normal(count: usize, deviation: f64, rng: &mut (impl Rng + ?Sized)) -> Vec<f32> {
    let mut numbers = Vec::with_capacity(count + 1);
    while numbers.len() < count {
        // 1 - u lies in (0, 1], where the logarithm is finite.
        let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt() * deviation;
        let (sine, cosine) = (std::f64::consts::TAU * rng.random::<f64>()).sin_cos();
        numbers.push((radius * cosine) as f32);
        numbers.push((radius * sine) as f32);
    }
    numbers.truncate(count);
    numbers
}

/// `count` numbers uniform in [-`bound`, `bound`).
pub(crate) fn uniform(count: usize, bound: f64, rng: &mut (impl Rng + ?Sized)) -> Vec<f32> {
    (0..count).map(|_| ((2.0 * rng.random::<f64>() - 1.0) * bound) as f32).collect()
}
