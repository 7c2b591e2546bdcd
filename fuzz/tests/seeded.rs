//! Every target on its seeds, cut and damaged, and on noise: what `cargo fuzz` does, without coverage, on stable Rust.

use nettriage_fuzz::TARGETS;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

const ROUNDS: usize = 5000;

#[test]
fn every_target_holds_on_damaged_seeds_and_on_noise() {
    let mut draws = ChaCha8Rng::from_seed([7; 32]);
    let mut below = |n: usize| (draws.next_u64() % n.max(1) as u64) as usize;
    for (name, target, seeds) in TARGETS {
        println!("{name}");
        target(&[]);
        for seed in seeds() {
            target(&seed);
            for length in 0..seed.len().min(4096) {
                target(&seed[..length]);
            }
            for _ in 0..ROUNDS {
                let mut bytes = seed.clone();
                for _ in 0..=below(6) {
                    let at = below(bytes.len());
                    bytes[at] = if below(2) == 0 { bytes[at] ^ 1 << below(8) } else { below(256) as u8 };
                }
                target(&bytes);
            }
        }
        for _ in 0..ROUNDS {
            let noise: Vec<u8> = (0..below(300)).map(|_| below(256) as u8).collect();
            target(&noise);
        }
    }
}

#[test]
fn seeds_are_valid() {
    use nettriage_data::fuzzing;
    for seed in nettriage_fuzz::seeds::archive() {
        fuzzing::archive(&seed).unwrap();
    }
    for seed in nettriage_fuzz::seeds::picture() {
        fuzzing::picture(&seed).unwrap();
    }
    let seed = &nettriage_fuzz::seeds::idx()[0];
    let cut = usize::from(u16::from_le_bytes([seed[0], seed[1]]));
    fuzzing::idx(&seed[2..][..cut], &seed[2 + cut..]).unwrap();
}

#[test]
fn every_target_has_its_entry_point() {
    let manifest = include_str!("../Cargo.toml");
    for (name, _, _) in TARGETS {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
    }
}
