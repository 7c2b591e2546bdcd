//! A counter-based random generator: a number depends on its key and index alone, not on the order of the calls.

/// The key of `layer` under `seed`.
pub(crate) fn key(seed: u64, layer: &str) -> u64 {
    // FNV-1a over the name, so that a layer drops the same elements wherever it is in a graph.
    let name = layer
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    mix(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ name)
}

/// A uniform number in [0, 1) with 24 random bits, for the element `index` under `key`.
pub(crate) fn uniform(key: u64, index: u64) -> f32 {
    (mix(key.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15))) >> 40) as f32 / (1 << 24) as f32
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
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
