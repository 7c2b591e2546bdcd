//! Milliseconds of parts of a network, measured.

use std::collections::HashMap;
use std::time::Instant;

use nettriage_engine::Options as Run;
use nettriage_net::{Graph, Network};

use nettriage_train::{Device, seed};

use crate::Error;

/// Least seconds and least repetitions of a measurement.
const MIN_MEASUREMENT: (f64, usize) = (0.004, 7);

/// Measured milliseconds, by what a part is: equal parts are measured once.
pub struct Stopwatch {
    device: Device,
    batch: usize,
    exact: bool,
    known: HashMap<String, f64>,
}

impl Stopwatch {
    /// For passes of `batch` images on one thread.
    pub fn new(device: &Device, batch: usize, exact: bool) -> Stopwatch {
        Stopwatch { device: device.clone(), batch, exact, known: HashMap::new() }
    }

    /// Milliseconds of a forward pass: the median of repetitions. They do not depend on the weights, which are random.
    pub fn measure(&mut self, graph: &Graph) -> Result<f64, Error> {
        let key = format!("{:?} {:?}", graph.input, graph.layers.iter().map(|l| &l.kind).collect::<Vec<_>>());
        if let Some(known) = self.known.get(&key) {
            return Ok(*known);
        }
        let network = Network::initialised(graph.clone(), &mut seed::rng("timed weights", &[]))?;
        let mut model = self.device.model(&network, &Run { exact: self.exact, ..Run::inference(self.batch) })?;
        let images = vec![0.0; self.batch * graph.input.elements()];
        std::hint::black_box(model.forward(&images)?);
        let begin = Instant::now();
        let mut seconds = Vec::new();
        while seconds.len() < MIN_MEASUREMENT.1 || begin.elapsed().as_secs_f64() < MIN_MEASUREMENT.0 {
            let start = Instant::now();
            std::hint::black_box(model.forward(&images)?);
            seconds.push(start.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        let median = 1e3 * seconds[seconds.len() / 2];
        self.known.insert(key, median);
        Ok(median)
    }
}
