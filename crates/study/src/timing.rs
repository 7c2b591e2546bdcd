//! Inference time of a network beside its parent's, in alternation.

use std::time::Instant;

use nettriage_engine::{Model, Options};
use nettriage_net::Network;
use nettriage_records::record::InferenceTime;

use crate::Error;

const IMAGES: usize = 32;
const REPETITIONS: usize = 5;

/// Seconds per image of `network` and `parent`, one thread each, on images of zeros.
///
/// Alternating, so that a machine that slows down slows both.
pub fn inference(network: &Network, parent: &Network, exact: bool) -> Result<InferenceTime, Error> {
    let options = Options { exact, ..Options::inference(IMAGES) };
    let mut models = [Model::new(network, &options)?, Model::new(parent, &options)?];
    let images = vec![0.0; IMAGES * parent.graph.input.elements()];
    let mut seconds = [Vec::new(), Vec::new()];
    for repetition in 0..=REPETITIONS {
        for (model, seconds) in models.iter_mut().zip(&mut seconds) {
            let start = Instant::now();
            std::hint::black_box(model.forward(&images));
            // The first is warming up.
            if repetition > 0 {
                seconds.push(start.elapsed().as_secs_f64() / IMAGES as f64);
            }
        }
    }
    let [network, parent] = seconds.map(|mut s| {
        s.sort_by(f64::total_cmp);
        [s[REPETITIONS / 2], s[0], s[REPETITIONS - 1]]
    });
    Ok(InferenceTime { batch: IMAGES, repetitions: REPETITIONS, network, parent })
}
