//! A counter-based random generator: a number depends on its key and index alone, not on the order of the calls.
//!
//! Dropout uses it, in every engine, so that the same elements are dropped on every device.

/// Added to the state for each index.
pub const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// The shifts of the finaliser.
pub const SHIFTS: [u32; 3] = [30, 27, 31];

/// The factors of the finaliser, after its first and second shift.
pub const FACTORS: [u64; 2] = [0xBF58_476D_1CE4_E5B9, 0x94D0_49BB_1331_11EB];

/// The key of `layer` under `seed`.
pub fn key(seed: u64, layer: &str) -> u64 {
    // FNV-1a over the name, so that a layer drops the same elements wherever it is in a graph.
    let name = layer
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    mix(seed.wrapping_mul(STEP) ^ name)
}

/// A uniform number in [0, 1) with 24 random bits, for the element `index` under `key`.
pub fn uniform(key: u64, index: u64) -> f32 {
    (mix(key.wrapping_add(index.wrapping_mul(STEP))) >> 40) as f32 / (1 << 24) as f32
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> SHIFTS[0])).wrapping_mul(FACTORS[0]);
    z = (z ^ (z >> SHIFTS[1])).wrapping_mul(FACTORS[1]);
    z ^ (z >> SHIFTS[2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_uniform_and_independent_across_keys() {
        let (a, b) = (key(1, "drop1"), key(1, "drop2"));
        assert_ne!(a, b);
        assert_ne!(a, key(2, "drop1"));
        let n = 100_000;
        let (mut mean, mut square, mut covariance) = (0.0, 0.0, 0.0);
        for i in 0..n {
            let (u, v) = (f64::from(uniform(a, i)), f64::from(uniform(b, i)));
            assert!((0.0..1.0).contains(&u));
            mean += u / n as f64;
            square += u * u / n as f64;
            covariance += (u - 0.5) * (v - 0.5) / n as f64;
        }
        // Five standard errors each: 1/sqrt(12 n), sqrt(4/45 / n), 1/(12 sqrt(n)).
        assert!((mean - 0.5).abs() < 5.0 * 0.2887 / 316.2, "{mean}");
        assert!((square - 1.0 / 3.0).abs() < 5.0 * 0.2981 / 316.2, "{square}");
        assert!(covariance.abs() < 5.0 * 0.0833 / 316.2, "{covariance}");
    }
}
