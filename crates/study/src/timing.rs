//! Inference times of two networks, in alternation.

use std::time::Instant;

use nettriage_engine::{Model, Options};
use nettriage_net::Network;
use nettriage_records::record::InferenceTime;

use crate::Error;

const IMAGES: usize = 32;
const REPETITIONS: usize = 5;

/// Seconds per image of `network` and `parent`, one thread each.
pub fn inference(network: &Network, parent: &Network, exact: bool) -> Result<InferenceTime, Error> {
    let [network, parent] = passes([network, parent], IMAGES, REPETITIONS, exact)?
        .map(|s| [s[REPETITIONS / 2], s[0], s[REPETITIONS - 1]].map(|seconds| seconds / IMAGES as f64));
    Ok(InferenceTime { batch: IMAGES, repetitions: REPETITIONS, network, parent })
}

/// Seconds of `repetitions` forward passes of each of two networks, one thread each, sorted; on images of zeros.
///
/// In alternation, so that a machine that slows down slows both.
pub fn passes(networks: [&Network; 2], batch: usize, repetitions: usize, exact: bool) -> Result<[Vec<f64>; 2], Error> {
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
