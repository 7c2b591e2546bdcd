//! Synthetic studies with known truth: records without any training.
//!
//! A network classifies image i correctly if a + g_i + h_bi + e > 0, where a is the network's level, g_i the easiness of the
//! image (shared by all networks), h_bi its interaction with replacing block b (shared by all seeds), and e noise of network
//! and image. The level varies between seeds and between parents, and between parents for each block. All terms are normal, so
//! the true accuracy over new seeds, parents and images is Phi(a / spread) with spread^2 the sum of all variances. Levels are
//! chosen to give the accuracies that a study states.
#![allow(dead_code)]

use base64::Engine;
use nettriage_records::content_id;
use nettriage_records::plan::*;
use nettriage_records::record::*;
use nettriage_report::stats::distributions::normal_quantile;
use nettriage_report::{About, RunData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub struct Truth {
    pub blocks: usize,
    pub inits: Vec<&'static str>,
    pub schemes: Vec<&'static str>,
    pub parents: usize,
    pub seeds: usize,
    pub images: usize,
    /// Accuracy of parents.
    pub parent: f64,
    /// Accuracy gained by fine-tuning the parent.
    pub continued: f64,
    /// Accuracy of a child, given block, init and scheme.
    pub child: fn(usize, &str, &str) -> f64,
    /// Standard deviations of the level between seeds and between parents, on the latent scale.
    pub seed_sd: f64,
    pub parent_sd: f64,
    /// Examples until recovery, given the scheme; infinite for never.
    pub examples: fn(&str) -> f64,
    /// Standard deviations of images' easiness, and of their interaction with a block.
    pub image_sd: f64,
    pub image_block_sd: f64,
    /// Standard deviation between parents of the effect of replacing a block.
    pub interaction_sd: f64,
    /// Images that children train on; every trial under each.
    pub budgets: Vec<usize>,
    /// Accuracy that a budget costs a child, below what `child` gives.
    pub shortfall: fn(usize) -> f64,
}

pub const BUDGET: u64 = 20_000;

impl Truth {
    pub fn small() -> Truth {
        Truth {
            blocks: 4,
            inits: vec!["random", "least-squares"],
            schemes: vec!["none", "local", "global", "distill"],
            parents: 1,
            seeds: 4,
            images: 1000,
            parent: 0.9,
            continued: 0.005,
            child: |block, init, scheme| {
                let loss = [0.05, 0.005, 0.01, 0.002][block % 4];
                let init = if init == "random" { 1.5 } else { 1.0 };
                match scheme {
                    "none" => 0.9 - 8.0 * init * loss,
                    "local" => 0.9 - 2.0 * init * loss,
                    _ => 0.905 - init * loss,
                }
            },
            seed_sd: 0.02,
            parent_sd: 0.05,
            examples: |scheme| if scheme == "distill" { 5_000.0 } else { 11_000.0 },
            image_sd: 1.0,
            image_block_sd: 0.3,
            interaction_sd: 0.0,
            budgets: vec![BUDGET as usize],
            shortfall: |_| 0.0,
        }
    }

    /// The level that gives an accuracy over new seeds, parents and images.
    fn level(&self, role: Role, accuracy: f64) -> f64 {
        normal_quantile(accuracy) * self.spread(role)
    }

    /// The spread of the latent scale around a level: noise, images, seeds, parents.
    fn spread(&self, role: Role) -> f64 {
        let seeds = if role == Role::Parent { 0.0 } else { self.seed_sd.powi(2) };
        let block = if role == Role::Child { self.image_block_sd.powi(2) + self.interaction_sd.powi(2) } else { 0.0 };
        (1.0 + self.image_sd.powi(2) + self.parent_sd.powi(2) + seeds + block).sqrt()
    }

    /// The study with this seed.
    pub fn simulate(&self, seed: u64) -> RunData {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let plan = self.plan();
        let ease: Vec<f64> = (0..self.images).map(|_| self.image_sd * normal(&mut random)).collect();
        let shifts: Vec<f64> = (0..self.parents).map(|_| self.parent_sd * normal(&mut random)).collect();
        let base: Vec<Vec<u8>> = shifts
            .iter()
            .map(|shift| draw(&mut random, &ease, self.level(Role::Parent, self.parent) + shift))
            .collect();
        let table = |random: &mut ChaCha8Rng, rows: usize, columns: usize, sd: f64| -> Vec<Vec<f64>> {
            (0..rows).map(|_| (0..columns).map(|_| sd * normal(random)).collect()).collect()
        };
        let image_block = table(&mut random, self.blocks, self.images, self.image_block_sd);
        let interactions = table(&mut random, self.parents, self.blocks, self.interaction_sd);
        let parents: Vec<ParentRecord> = plan
            .parents
            .iter()
            .zip(&base)
            .map(|(spec, bits)| ParentRecord {
                validation_seen: None,
                version: VERSION,
                id: spec.id.clone(),
                seed: spec.seed,
                validation: evaluation(bits, bits),
                test: evaluation(bits, bits),
                test_correct: pack(bits),
                curve: vec![CurvePoint {
                    examples: 45_000,
                    stage: 0,
                    train_loss: Some(0.2),
                    validation_top1: 0.9,
                    validation_loss: 0.3,
                }],
                cost: Cost { parameters: 1_000_000, macs: 50_000_000 },
                clock: Clock { seconds: 30.0, finished: 100.0, ..Clock::default() },
            })
            .collect();
        let records = plan
            .trials
            .iter()
            .map(|spec| {
                let parent = plan.parents.iter().position(|parent| parent.id == spec.parent).unwrap();
                let block: Option<usize> =
                    spec.block.as_ref().map(|name| name.trim_start_matches("block").parse::<usize>().unwrap() - 1);
                let accuracy = match spec.role {
                    Role::Child => {
                        let accuracy = (self.child)(block.unwrap(), spec.init.as_deref().unwrap(), &spec.scheme);
                        accuracy - spec.budget.map_or(0.0, self.shortfall)
                    }
                    Role::ParentContinued | Role::Placebo => self.parent + self.continued,
                    Role::Parent => self.parent,
                    Role::Reinit => self.parent - 0.01,
                    Role::Drop => (self.parent - 0.2).max(0.02),
                };
                let mut level = self.level(spec.role, accuracy) + shifts[parent] + self.seed_sd * normal(&mut random);
                let bits = match (spec.role, block) {
                    (Role::Parent, _) => base[parent].clone(),
                    (Role::Child, Some(block)) => {
                        level += interactions[parent][block];
                        let own: Vec<f64> =
                            ease.iter().zip(&image_block[block]).map(|(ease, own)| ease + own).collect();
                        draw(&mut random, &own, level)
                    }
                    _ => draw(&mut random, &ease, level),
                };
                self.record(&mut random, spec, &bits, &base[parent], block)
            })
            .collect();
        let about = About {
            program: "nettriage 0.1.0".into(),
            machine: "2 cores, AVX2".into(),
            command: "nettriage run studies/synthetic.toml".into(),
            folder: "synthetic-0123456789abcdef".into(),
            trials_seconds: Some(1234.5),
            ..About::default()
        };
        RunData { plan, parents, records, range_tests: vec![], sample_images: None, about }
    }

    fn record(
        &self,
        random: &mut ChaCha8Rng,
        spec: &TrialSpec,
        bits: &[u8],
        parent: &[u8],
        block: Option<usize>,
    ) -> Record {
        let test = evaluation(bits, parent);
        let trains = spec.scheme != "none";
        let start = if spec.role == Role::Child { (test.top1 - 0.3).max(0.1) } else { test.top1 };
        // Exponential waiting time, read off a grid of twenty points.
        let waits = -(self.examples)(&spec.scheme) * (1.0 - random.random::<f64>()).ln();
        let budget = spec.budget.map_or(BUDGET, |images| images as u64);
        let step = budget / 20;
        let recovered_at = (trains && waits <= budget as f64).then(|| (waits as u64).div_ceil(step).max(1) * step);
        let point = |i: u64| {
            let progress = if trains { 1.0 - (-(i as f64) / 5.0).exp() } else { 0.0 };
            CurvePoint {
                examples: i * step,
                stage: 0,
                train_loss: (i > 0).then(|| 2.0 * (-(i as f64) / 6.0).exp() + 0.1),
                validation_top1: start + (test.top1 - start) * progress,
                validation_loss: 2.0 - progress,
            }
        };
        let curve: Vec<CurvePoint> = (0..=if trains { 20 } else { 0 }).map(point).collect();
        let saved = block.map_or(0, |block| 40_000 << block);
        let cost = if spec.role == Role::Child {
            Cost { parameters: 1_000_000 - saved, macs: 50_000_000 - 6_000_000 * (1 + block.unwrap() as u64 % 3) }
        } else {
            Cost { parameters: 1_000_000, macs: 50_000_000 }
        };
        let filters = (spec.role == Role::Child).then(|| {
            let byte = |random: &mut ChaCha8Rng| random.random_range(1..=255_u8);
            let channels = if block == Some(0) { 3 } else { 4 };
            let pixels =
                |random: &mut ChaCha8Rng| -> Vec<u8> { (0..12 * channels * 9).map(|_| byte(random)).collect() };
            let encode = |bytes: Vec<u8>| base64::engine::general_purpose::STANDARD.encode(bytes);
            Filters {
                shape: [64, if block == Some(0) { 3 } else { 64 }, 3, 3],
                norms_before: (0..64).map(|i| 0.5 + i as f32 / 64.0).collect(),
                norms: (0..64).map(|i| 0.4 + (i * i) as f32 / 2048.0).collect(),
                dead: 3,
                effective_rank: 21.25,
                images: FilterImages {
                    filters: 12,
                    channels,
                    kernel: [3, 3],
                    before: encode(pixels(random)),
                    after: encode(pixels(random)),
                },
                patches: (0..12)
                    .map(|filter| {
                        let patch = |image| Patch { image, top: filter, left: 3, height: 9, width: 7, value: 1.5 };
                        if filter == 2 { Vec::new() } else { (0..4).map(patch).collect() }
                    })
                    .collect(),
            }
        });
        let readings = Readings {
            before: Evaluation { top1: start, ..test.clone() },
            validation: test.clone(),
            best: Best { examples: budget, validation_top1: test.top1, test: test.clone() },
            test,
            curve,
            recovered_at,
            cost,
            filters,
            test_correct: pack(bits),
            similarity: (spec.role == Role::Child).then(|| Similarity {
                images: 256,
                batch: 64,
                layers: (0..4)
                    .map(|place: u32| LayerSimilarity {
                        layer: format!("layer{place}"),
                        before: (place > 0).then(|| 1.0 - 0.1 * f64::from(place) - 0.01 * spec.seed as f64),
                        after: Some(1.0 - 0.05 * f64::from(place) - 0.01 * spec.seed as f64),
                    })
                    .collect(),
            }),
            activations: None,
        };
        let ratio = cost.macs as f64 / 50_000_000.0;
        let inference = InferenceTime {
            batch: 64,
            repetitions: 15,
            network: [2e-4 * ratio, 1.9e-4 * ratio, 2.3e-4 * ratio],
            parent: [2e-4, 1.9e-4, 2.4e-4],
            ratio: Some([ratio, 0.98 * ratio, 1.02 * ratio]),
        };
        let seconds = if trains { 40.0 } else { 2.0 };
        let clock = Clock {
            train_seconds: seconds - 1.0,
            seconds,
            inference: Some(inference),
            finished: 1000.0,
            machine: None,
        };
        Record {
            version: VERSION,
            spec: spec.clone(),
            outcome: Outcome::Done,
            readings: Some(readings),
            measured: None,
            clock,
        }
    }

    pub fn plan(&self) -> Plan {
        let parents: Vec<ParentSpec> =
            (0..self.parents as u64).map(|seed| ParentSpec { id: content_id(&("parent", seed)), seed }).collect();
        let mut trials = Vec::new();
        let runs = parents.iter().flat_map(|parent| self.budgets.iter().map(move |budget| (parent, *budget)));
        for (parent, budget) in runs {
            for seed in 0..self.seeds as u64 {
                let mut push = |role, block: Option<&str>, init: Option<&str>, scheme: &str| {
                    if scheme == "none" && budget != self.budgets[0] {
                        return;
                    }
                    trials.push(TrialSpec {
                        id: content_id(&(&parent.id, role, block, init, scheme, seed, budget)),
                        role,
                        parent: parent.id.clone(),
                        block: block.map(str::to_owned),
                        substitute: (role == Role::Child).then(|| "conv3x3".to_owned()),
                        init: init.map(str::to_owned),
                        scheme: scheme.to_owned(),
                        budget: (scheme != "none").then_some(budget),
                        seed,
                    });
                };
                for scheme in &self.schemes {
                    if *scheme != "none" {
                        push(Role::ParentContinued, None, None, scheme);
                    }
                    for block in 1..=self.blocks {
                        let block = format!("block{block}");
                        for init in &self.inits {
                            push(Role::Child, Some(&block), Some(init), scheme);
                        }
                        if *scheme == "global" {
                            push(Role::Reinit, Some(&block), None, scheme);
                            push(Role::Drop, Some(&block), None, scheme);
                        }
                    }
                }
            }
        }
        let summary = |name: &str, kind: &str, c: usize, size: usize, block: Option<String>| LayerSummary {
            name: name.to_owned(),
            kind: kind.to_owned(),
            shape: [c, size, size],
            parameters: 9 * (c * c) as u64,
            macs: 9 * (c * c * size * size) as u64,
            block,
        };
        let mut layers = Vec::new();
        let mut blocks = Vec::new();
        for b in 0..self.blocks {
            let (c, size) = (16 << b.min(5), (32 >> b).max(2));
            let name = format!("block{}", b + 1);
            let names: Vec<String> = (1..=2).map(|i| format!("conv{}_{i}", b + 1)).collect();
            for layer in &names {
                layers.push(summary(layer, &format!("conv 3x3, {c}"), c, size, Some(name.clone())));
            }
            layers.push(summary(&format!("pool{}", b + 1), "max pool 2x2", c, size / 2, None));
            blocks.push(BlockSummary {
                name,
                layers: names,
                input: [if b == 0 { 3 } else { c / 2 }, size, size],
                output: [c, size, size],
                parameters: 18 * (c * c) as u64,
                macs: 18 * (c * c * size * size) as u64,
                substitutes: [(
                    "conv3x3".to_owned(),
                    Cost { parameters: 9 * (c * c) as u64, macs: 9 * (c * c * size * size) as u64 },
                )]
                .into(),
            });
        }
        layers.push(LayerSummary { kind: "linear, 10".into(), shape: [10, 1, 1], ..summary("fc", "", 10, 1, None) });
        let scheme = |name: &&str| SchemeSummary {
            name: name.to_string(),
            stages: match *name {
                "none" => vec![],
                "local" => vec!["labels, substitute, 100% of the budget".into()],
                "hint" => vec!["hint, substitute, 100% of the budget".into()],
                "distill" => vec!["soft targets (T 4, alpha 0.9), every layer, 100% of the budget".into()],
                _ => vec!["labels, every layer, 100% of the budget".into()],
            },
            global: matches!(*name, "global" | "distill"),
            distills: *name == "distill",
            undistilled: (*name == "distill").then(|| "global".to_owned()),
        };
        Plan {
            engine: None,
            version: VERSION,
            name: "synthetic".into(),
            study: "# a synthetic study\nname = \"synthetic\"\nseeds = [0, 1, 2, 3]\n".into(),
            data: DataSummary {
                name: "synthetic".into(),
                checksum: "sha256:0123".into(),
                classes: ["aeroplane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "lorry"]
                    .map(str::to_owned)
                    .into(),
                shape: [3, 32, 32],
                mean: vec![0.49, 0.48, 0.45],
                std: vec![0.25, 0.24, 0.26],
                train: 45_000,
                validation: 5_000,
                test: self.images,
            },
            budgets: self
                .budgets
                .iter()
                .map(|&images| BudgetSummary { name: format!("{images} images"), images })
                .collect(),
            layers,
            blocks,
            schemes: self.schemes.iter().map(scheme).collect(),
            parents,
            trials,
            margin: 0.01,
            metric: None,
            range_tests: vec![],
        }
    }

    /// True difference of accuracy over new seeds, parents and images, percentage points: control - child.
    pub fn criticality(&self, block: usize, init: &str, scheme: &str) -> f64 {
        let control = if scheme == "none" { self.parent } else { self.parent + self.continued };
        100.0 * (control - (self.child)(block, init, scheme))
    }
}

pub fn normal(random: &mut ChaCha8Rng) -> f64 {
    let u: f64 = 1.0 - random.random::<f64>();
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * random.random::<f64>()).cos()
}

fn draw(random: &mut ChaCha8Rng, ease: &[f64], level: f64) -> Vec<u8> {
    ease.iter().map(|ease| u8::from(level + ease + normal(random) > 0.0)).collect()
}

fn pack(bits: &[u8]) -> String {
    let bytes: Vec<u8> =
        bits.chunks(8).map(|chunk| chunk.iter().enumerate().fold(0, |byte, (i, bit)| byte | bit << (7 - i))).collect();
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn evaluation(bits: &[u8], parent: &[u8]) -> Evaluation {
    let correct: u64 = bits.iter().map(|&bit| u64::from(bit)).sum();
    let n = bits.len();
    let same = bits.iter().zip(parent).filter(|(a, b)| a == b).count();
    let top1 = correct as f64 / n as f64;
    // Class c holds the images i with i % 10 == c.
    let class = |c: usize| {
        let own: Vec<u8> = bits.iter().skip(c).step_by(10).copied().collect();
        own.iter().map(|&bit| f64::from(bit)).sum::<f64>() / own.len().max(1) as f64
    };
    Evaluation {
        images: n as u64,
        correct,
        top1,
        top5: top1 + (1.0 - top1) * 0.8,
        loss: 3.0 * (1.0 - top1),
        calibration_error: 0.02 + 0.1 * (1.0 - top1),
        agreement: same as f64 / n as f64,
        per_class: (0..10).map(class).collect(),
    }
}

/// Images for the page: 200 validation and 300 test images, 32 x 32 pixels in colour.
#[allow(dead_code, reason = "each test file uses its own part")]
pub fn sample_images() -> nettriage_records::SampleImages {
    let bytes = |count: usize| -> Vec<u8> { (0..count * 32 * 32 * 3).map(|i| (i * i / 7 % 251) as u8).collect() };
    nettriage_records::SampleImages {
        version: VERSION,
        shape: [32, 32, 3],
        validation: nettriage_records::SampleImages::encode(&bytes(200)),
        test: nettriage_records::SampleImages::encode(&bytes(300)),
        labels: (0..300).map(|i| i % 10).collect(),
    }
}
