//! Seeded, named randomness: every purpose has its own stream, so that no use changes the numbers of another.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use sha2::{Digest, Sha256};

/// The random numbers of one purpose, such as `("substitute weights", [parent id, block, seed])`.
pub fn rng(purpose: &str, of: &[&str]) -> ChaCha8Rng {
    ChaCha8Rng::from_seed(digest(purpose, of))
}

/// A single seed of one purpose.
pub fn seed(purpose: &str, of: &[&str]) -> u64 {
    let bytes = digest(purpose, of);
    u64::from_le_bytes(bytes[..8].try_into().expect("a digest has 32 bytes"))
}

/// SHA-256 in hexadecimal.
pub fn digest_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digest(purpose: &str, of: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(purpose);
    for part in of {
        // A separator that no part holds keeps ("ab", "c") and ("a", "bc") apart.
        hash.update([0]);
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purposes_and_parts_have_separate_streams() {
        assert_eq!(seed("a", &["b"]), seed("a", &["b"]));
        assert_ne!(seed("a", &["b", "c"]), seed("a", &["bc"]));
        assert_ne!(seed("a", &["b"]), seed("b", &["a"]));
    }
}
