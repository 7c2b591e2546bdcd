//! Inference times of two networks, in alternation.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nettriage_engine::Options;
use nettriage_net::Network;
use nettriage_records::record::InferenceTime;
use nettriage_train::Device;

use crate::Error;

const IMAGES: usize = 32;
/// Passes that a trial adds.
const REPETITIONS: usize = 5;
/// Passes of an architecture that are enough: those of three trials, at three moments.
const MAX_REPETITIONS: usize = 3 * REPETITIONS;

/// A measurement that takes longer ends with fewer pairs than requested, but at least [`LEAST_PAIRS`].
const LONGEST: Duration = Duration::from_secs(10);
const LEAST_PAIRS: usize = 15;

/// Inference times per architecture. Weights do not change them, so trials of one architecture pool their passes.
#[derive(Default)]
pub struct Latencies(Mutex<HashMap<String, Vec<[f64; 2]>>>);

impl Latencies {
    /// Seconds per image of `network`, whose architecture has that name, and of `parent`, one thread each: of all passes
    /// so far and, while these are not enough, of some more.
    pub fn of(
        &self,
        device: &Device,
        architecture: &str,
        network: &Network,
        parent: &Network,
        exact: bool,
    ) -> Result<InferenceTime, Error> {
        let known = || self.0.lock().expect("no holder of this lock panics");
        let enough = known().get(architecture).filter(|passes| passes.len() >= MAX_REPETITIONS).cloned();
        let pairs = match enough {
            Some(pairs) => pairs,
            None => {
                let new = passes(device, [network, parent], IMAGES, REPETITIONS, exact)?;
                let mut known = known();
                let all = known.entry(architecture.to_owned()).or_default();
                all.extend(new);
                all.clone()
            }
        };
        let summary = |index: usize| {
            let seconds = sorted(pairs.iter().map(|pair| pair[index]));
            [median(&seconds), seconds[0], seconds[seconds.len() - 1]].map(|seconds| seconds / IMAGES as f64)
        };
        let ratios = sorted(pairs.iter().map(|[network, parent]| network / parent));
        let [low, high] = median_interval(&ratios);
        Ok(InferenceTime {
            batch: IMAGES,
            repetitions: pairs.len(),
            network: summary(0),
            parent: summary(1),
            ratio: Some([median(&ratios), low, high]),
        })
    }
}

/// Times of two networks, measured in pairs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// Milliseconds of a forward pass of either network: medians.
    pub milliseconds: [f64; 2],
    /// The second network's time divided by the first's: the median over pairs, with its 95% interval.
    pub ratio: [f64; 3],
}

impl Timing {
    /// Of the seconds of pairs of passes, at least one.
    ///
    /// # Panics
    /// Without a pair.
    pub fn of(pairs: &[[f64; 2]]) -> Timing {
        let ratios = sorted(pairs.iter().map(|[first, second]| second / first));
        let [low, high] = median_interval(&ratios);
        let milliseconds = [0, 1].map(|index| 1e3 * median(&sorted(pairs.iter().map(|pair| pair[index]))));
        Timing { milliseconds, ratio: [median(&ratios), low, high] }
    }
}

/// Times of two networks, of `repetitions` pairs of passes of `batch` images on one thread.
///
/// # Errors
/// Those of the engine.
pub fn paired(
    device: &Device,
    networks: [&Network; 2],
    batch: usize,
    repetitions: usize,
    exact: bool,
) -> Result<Timing, Error> {
    Ok(Timing::of(&passes(device, networks, batch, repetitions, exact)?))
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The middle one of sorted values; of an even number the upper.
fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

/// The distribution-free interval of the median by order statistics, with at least 95% coverage for six values or more;
/// the lowest to the highest of fewer.
fn median_interval(sorted: &[f64]) -> [f64; 2] {
    let n = sorted.len();
    // P(X < k) for a binomial X of n trials with probability 1/2, summed up term by term.
    let (mut term, mut below, mut k) = (0.5_f64.powi(n as i32), 0.0, 0);
    while k < n / 2 && below + term <= 0.025 {
        below += term;
        term *= (n - k) as f64 / (k + 1) as f64;
        k += 1;
    }
    let k = k.max(1);
    [sorted[k - 1], sorted[n - k]]
}

/// Seconds of forward passes of two networks on one thread, on images of zeros: `repetitions` pairs, fewer if they take long.
fn passes(
    device: &Device,
    networks: [&Network; 2],
    batch: usize,
    repetitions: usize,
    exact: bool,
) -> Result<Vec<[f64; 2]>, Error> {
    let options = Options { exact, ..Options::inference(batch) };
    let mut models = [device.model(networks[0], &options)?, device.model(networks[1], &options)?];
    let images = vec![0.0; batch * networks[0].graph.input.elements()];
    let seconds = |index: usize| {
        let start = Instant::now();
        std::hint::black_box(models[index].forward(&images)?);
        Ok(start.elapsed().as_secs_f64())
    };
    in_turns(repetitions, seconds)
}

/// Pairs of measurements of two things, 0 and 1.
///
/// A pair is the mean of two measurements each, in the order 0, 1, 1, 0. A machine that slows down slows both alike, and each is
/// measured as often after the other, whose data fill the caches, as after itself.
fn in_turns(repetitions: usize, mut seconds: impl FnMut(usize) -> Result<f64, Error>) -> Result<Vec<[f64; 2]>, Error> {
    let mut pairs = Vec::with_capacity(repetitions);
    let begin = Instant::now();
    // The first pair warms up caches and memory.
    for repetition in 0..=repetitions {
        let mut pair = [0.0; 2];
        for index in [0, 1, 1, 0] {
            pair[index] += seconds(index)? / 2.0;
        }
        if repetition > 0 {
            pairs.push(pair);
        }
        if pairs.len() >= LEAST_PAIRS && begin.elapsed() > LONGEST {
            break;
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nettriage_net::Shape;
    use nettriage_net::arch::{self, ArchSpec};
    use rand::SeedableRng;

    #[test]
    fn median_interval_has_the_published_ranks() {
        // Conover, Practical Nonparametric Statistics, table A3: ranks 1 and 6 of 6, 2 and 9 of 10, 4 and 12 of 15.
        for (n, low, high) in [(6, 1.0, 6.0), (10, 2.0, 9.0), (15, 4.0, 12.0), (5, 1.0, 5.0), (1, 1.0, 1.0)] {
            let values: Vec<f64> = (1..=n).map(f64::from).collect();
            assert_eq!(median_interval(&values), [low, high], "{n}");
        }
    }

    #[test]
    fn equal_networks_take_equal_times_whichever_is_first() {
        // A pass takes 10% longer after one of the other network, and the machine becomes slower all the time.
        let (mut last, mut clock) = (0, 0.0);
        let pairs = in_turns(15, |index| {
            clock += 1.0;
            let evicted = if index == last { 1.0 } else { 1.1 };
            last = index;
            Ok(evicted * (1000.0 + clock))
        })
        .unwrap();
        let [ratio, low, high] = Timing::of(&pairs).ratio;
        assert!((ratio - 1.0).abs() < 1e-3 && high - low < 1e-3, "{ratio} {low} {high}");
    }

    #[test]
    fn a_disturbed_pass_moves_no_ratio() {
        let pairs: Vec<[f64; 2]> = (0..15).map(|i| [0.5, if i == 3 { 12.0 } else { 1.0 }]).collect();
        let ratios = sorted(pairs.iter().map(|[network, parent]| network / parent));
        assert_eq!((median(&ratios), median_interval(&ratios)), (0.5, [0.5, 0.5]));
    }

    #[test]
    fn passes_of_one_architecture_are_put_together_until_they_are_enough() {
        let spec = ArchSpec { plan: Some(vec![vec![4], vec![4]]), ..ArchSpec::named("vgg") };
        let graph = arch::build(&spec, Shape::new(1, 8, 8), 10).unwrap();
        let network = Network::initialised(graph, &mut rand_chacha::ChaCha8Rng::seed_from_u64(1)).unwrap();
        let latencies = Latencies::default();
        let of = |name: &str| latencies.of(&Device::Cpu, name, &network, &network, false).unwrap();
        let all: Vec<InferenceTime> = (0..4).map(|_| of("one")).collect();
        assert_eq!(all.iter().map(|time| time.repetitions).collect::<Vec<_>>(), [5, 10, 15, 15]);
        assert_eq!(all[2], all[3]);
        assert_eq!(of("other").repetitions, 5);
    }
}
