//! Runs every target on its seeds, on truncated and corrupted seeds, and on noise: `cargo fuzz` without coverage, on stable Rust.
//!
//! `NETTRIAGE_FUZZ_INPUTS` sets the inputs per target (2,000 by default).

use nettriage_fuzz::measure::{self, Taken};
use nettriage_fuzz::{TARGETS, Target};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

fn inputs() -> usize {
    let set = std::env::var("NETTRIAGE_FUZZ_INPUTS").ok();
    set.map_or(2000, |text| text.parse().expect("NETTRIAGE_FUZZ_INPUTS is a number"))
}

struct Draws(ChaCha8Rng);

impl Draws {
    fn below(&mut self, n: usize) -> usize {
        (self.0.next_u64() % n.max(1) as u64) as usize
    }

    /// A range of at most `longest` bytes within `length`.
    fn range(&mut self, length: usize, longest: usize) -> std::ops::Range<usize> {
        let at = self.below(length);
        at..(at + 1 + self.below(longest)).min(length)
    }

    /// A seed with bytes changed, removed, repeated or taken from another seed, and numbers replaced by extreme ones.
    fn corrupted(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let which = self.below(seeds.len());
        let mut bytes = seeds[which].clone();
        for _ in 0..=self.below(6) {
            if bytes.is_empty() {
                break;
            }
            let at = self.below(bytes.len());
            match self.below(10) {
                0..4 => bytes[at] ^= 1 << self.below(8),
                4 => bytes[at] = self.below(256) as u8,
                5 => drop(bytes.drain(self.range(bytes.len(), 32))),
                6 => {
                    let other = &seeds[self.below(seeds.len())];
                    let part = other[self.range(other.len(), 64)].to_vec();
                    bytes.splice(at..at, part);
                }
                7 => {
                    let width = 1 << self.below(4);
                    const EXTREME: [u64; 9] =
                        [0, 1, 0x7f, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX];
                    let number = EXTREME[self.below(EXTREME.len())];
                    let number =
                        if self.below(2) == 0 { number.to_le_bytes() } else { number.rotate_left(8).to_be_bytes() };
                    let end = (at + width).min(bytes.len());
                    bytes[at..end].copy_from_slice(&number[..end - at]);
                }
                8 => {
                    let part = bytes[self.range(bytes.len(), 16)].to_vec();
                    let times = 1 + self.below(40);
                    bytes.splice(at..at, part.repeat(times));
                }
                _ => bytes.truncate(at),
            }
        }
        bytes
    }
}

/// Runs the target; on a failure keeps the input and prints where.
fn run_target(name: &str, target: Target, input: &[u8], round: usize) -> Taken {
    std::panic::catch_unwind(|| measure::run(target, input)).unwrap_or_else(|panic| {
        let path = std::env::temp_dir().join(format!("nettriage-fuzz-{name}"));
        std::fs::write(&path, input).unwrap();
        eprintln!("{name}, input {round}: kept as {}", path.display());
        std::panic::resume_unwind(panic)
    })
}

#[test]
fn every_target_accepts_or_refuses_corrupted_seeds_and_noise() {
    let only = std::env::var("NETTRIAGE_FUZZ_TARGET").ok();
    for (name, target, seeds) in TARGETS {
        if only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        let mut draws = Draws(ChaCha8Rng::from_seed([7; 32]));
        let seeds = seeds();
        let (mut count, mut most) = (0, Taken { bytes: 0, time: std::time::Duration::ZERO });
        let mut next = |input: &[u8]| {
            let taken = run_target(name, target, input, count);
            count += 1;
            most = Taken { bytes: most.bytes.max(taken.bytes), time: most.time.max(taken.time) };
        };
        next(&[]);
        for seed in &seeds {
            next(seed);
            for length in 0..seed.len().min(4096) {
                next(&seed[..length]);
            }
        }
        for round in 0..inputs() {
            if round % 8 == 0 {
                let noise: Vec<u8> = (0..draws.below(300)).map(|_| draws.below(256) as u8).collect();
                next(&noise);
            } else {
                next(&draws.corrupted(&seeds));
            }
        }
        println!("{name}: {count} inputs, at most {} bytes held and {:?}", most.bytes, most.time);
    }
}

#[test]
fn seeds_are_valid() {
    use nettriage_data::fuzzing;
    use nettriage_formats::{load, onnx, pytorch::Checkpoint};
    use nettriage_fuzz::seeds;
    for seed in seeds::archive() {
        fuzzing::archive(&seed).unwrap();
    }
    for seed in seeds::image() {
        fuzzing::image(&seed).unwrap();
    }
    let seed = &seeds::idx()[0];
    let cut = usize::from(u16::from_le_bytes([seed[0], seed[1]]));
    fuzzing::idx(&seed[2..][..cut], &seed[2 + cut..]).unwrap();
    for seed in seeds::onnx() {
        onnx::from_bytes(&seed, &Default::default()).unwrap().into_network().unwrap();
    }
    for seed in seeds::zip().into_iter().chain(seeds::legacy()) {
        assert!(!Checkpoint::parse(&seed).unwrap().tensors().unwrap().is_empty());
    }
    for seed in seeds::pickle() {
        let archive = seeds::stored(&[("a/data.pkl", &seed), ("a/data/0", &[0; 64])]);
        assert!(Checkpoint::parse(&archive).unwrap().shapes().count() > 3);
    }
    load::from_bytes("ours", &seeds::safetensors()[0], &Default::default()).unwrap();
    for seed in seeds::study() {
        nettriage_study::Study::parse(std::str::from_utf8(&seed).unwrap(), "study.toml").unwrap();
    }
}

#[test]
fn memory_above_the_limit_is_found() {
    // A target that allocates more than it may.
    fn greedy(_: &[u8]) -> usize {
        std::hint::black_box(vec![1u8; measure::FIXED_MEMORY + 100]).len() - measure::FIXED_MEMORY - 100
    }
    assert!(std::panic::catch_unwind(|| measure::run(greedy, &[0; 10])).is_err());
    assert!(measure::run(greedy, &[0; 30]).bytes >= measure::FIXED_MEMORY + 100);
}

#[test]
fn every_target_has_its_entry_point() {
    let manifest = include_str!("../Cargo.toml");
    for (name, _, _) in TARGETS {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
    }
}
