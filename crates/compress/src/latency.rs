//! Inference times of two networks, in alternation.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Instant;

use nettriage_engine::{Model, Options};
use nettriage_net::Network;
use nettriage_records::record::InferenceTime;

use crate::Error;

const IMAGES: usize = 32;
/// Passes that a trial adds.
const REPETITIONS: usize = 5;
/// Passes of an architecture that are enough: those of three trials, at three moments.
const ENOUGH: usize = 3 * REPETITIONS;

/// Inference times, architecture by architecture: no weight changes them, so trials of one put their passes together.
#[derive(Default)]
pub struct Latencies(Mutex<HashMap<String, [Vec<f64>; 2]>>);

impl Latencies {
    /// Seconds per image of `network`, whose architecture has that name, and of `parent`, one thread each: of all passes
    /// so far and, while these are not enough, of some more.
    pub fn of(
        &self,
        architecture: &str,
        network: &Network,
        parent: &Network,
        exact: bool,
    ) -> Result<InferenceTime, Error> {
        let known = || self.0.lock().expect("no holder of this lock panics");
        let enough = known().get(architecture).filter(|[passes, _]| passes.len() >= ENOUGH).cloned();
        let seconds = match enough {
            Some(seconds) => seconds,
            None => {
                let new = passes([network, parent], IMAGES, REPETITIONS, exact)?;
                let mut known = known();
                let all = known.entry(architecture.to_owned()).or_default();
                all.iter_mut().zip(new).for_each(|(all, new)| {
                    all.extend(new);
                    all.sort_by(f64::total_cmp);
                });
                all.clone()
            }
        };
        let repetitions = seconds[0].len();
        let [network, parent] =
            seconds.map(|s| [s[repetitions / 2], s[0], s[repetitions - 1]].map(|seconds| seconds / IMAGES as f64));
        Ok(InferenceTime { batch: IMAGES, repetitions, network, parent })
    }
}

/// Milliseconds of a forward pass of two networks, measured alternately: the medians of `repetitions`.
///
/// # Errors
/// Those of the engine.
pub fn alternating(networks: [&Network; 2], batch: usize, repetitions: usize, exact: bool) -> Result<[f64; 2], Error> {
    Ok(passes(networks, batch, repetitions, exact)?.map(|seconds| 1e3 * seconds[seconds.len() / 2]))
}

/// Seconds of `repetitions` forward passes of each of two networks, one thread each, sorted; on images of zeros.
///
/// In alternation, so that a machine that slows down slows both.
fn passes(networks: [&Network; 2], batch: usize, repetitions: usize, exact: bool) -> Result<[Vec<f64>; 2], Error> {
    let options = Options { exact, ..Options::inference(batch) };
    let mut models = [Model::new(networks[0], &options)?, Model::new(networks[1], &options)?];
    let images = vec![0.0; batch * networks[0].graph.input.elements()];
    let mut seconds = [Vec::new(), Vec::new()];
    for repetition in 0..=repetitions {
        for (model, seconds) in models.iter_mut().zip(&mut seconds) {
            let start = Instant::now();
            std::hint::black_box(model.forward(&images));
            // The first is warming up.
            if repetition > 0 {
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
    }
    seconds.iter_mut().for_each(|seconds| seconds.sort_by(f64::total_cmp));
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nettriage_net::Shape;
    use nettriage_net::arch::{self, ArchSpec};
    use rand::SeedableRng;

    #[test]
    fn passes_of_one_architecture_are_put_together_until_they_are_enough() {
        let spec = ArchSpec { plan: Some(vec![vec![4], vec![4]]), ..ArchSpec::named("vgg") };
        let graph = arch::build(&spec, Shape::new(1, 8, 8), 10).unwrap();
        let network = Network::initialised(graph, &mut rand_chacha::ChaCha8Rng::seed_from_u64(1)).unwrap();
        let latencies = Latencies::default();
        let of = |name: &str| latencies.of(name, &network, &network, false).unwrap();
        let all: Vec<InferenceTime> = (0..4).map(|_| of("one")).collect();
        assert_eq!(all.iter().map(|time| time.repetitions).collect::<Vec<_>>(), [5, 10, 15, 15]);
        assert_eq!(all[2], all[3]);
        assert_eq!(of("other").repetitions, 5);
    }
}
