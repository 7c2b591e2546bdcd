//! Fitting: closed-form weights of many substitutes at once, in one pass over the images and one more per refit iteration.

use std::collections::HashMap;

use nettriage_net::Network;

use super::accumulate::{Accumulator, BatchValues};
use super::images::{Gradients, Images, Tensors};
use super::options::{Method, Options};
use super::regression::{FitRequest, Regression, Solution};
use crate::Error;
use crate::parallel::in_parallel;

/// Images in a forward pass.
const BATCH: usize = 40;

/// One image in this many is held out, to choose the ridge.
const HELD_OUT: usize = 5;

/// Where inputs and targets come from.
pub struct Sources<'a> {
    /// The network whose tensors are the substitutes' inputs.
    pub inputs: &'a Network,
    /// The parent, whose tensors are the targets; none if it is the same network.
    pub targets: Option<&'a Network>,
    /// The images.
    pub images: &'a Images<'a>,
}

/// Solves every request of `regressions` by every method, all with row weights or all without. Returns, for each method, the
/// solutions by request.
///
/// The sums depend on the order of the images only, not on the number of threads.
pub fn fit(
    sources: &Sources<'_>,
    requests: &[FitRequest],
    regressions: &[Regression],
    methods: &[Method],
    options: &Options,
    progress: &dyn Fn(usize, usize),
) -> Result<Vec<HashMap<usize, Solution>>, Error> {
    let solves = methods.iter().map(|m| m.solves).max().unwrap_or(1);
    let total = sources.images.count * solves;
    let mut stream = ImagePass::new(sources, regressions, methods.iter().any(|m| m.gradients), options)?;
    let mut states: Vec<Accumulator<'_>> =
        regressions.iter().map(|regression| Accumulator::new(regression, sources, options)).collect();
    stream.pass(&mut states, &|n| progress(n, total), &|state, held, threads| state.add_rows(held, threads))?;
    each(&mut states, options.threads, &Accumulator::solve);

    let mut results: Vec<HashMap<usize, Solution>> = vec![HashMap::new(); methods.len()];
    let mut collect = |states: &[Accumulator<'_>], solves: usize| {
        for (method, result) in methods.iter().zip(&mut results) {
            if method.solves == solves {
                states.iter().for_each(|state| state.collect(requests, *method, options.threads, result));
            }
        }
    };
    collect(&states, 1);
    for solve in 2..=solves {
        states.iter_mut().for_each(|state| state.begin_refit(requests));
        let before = sources.images.count * (solve - 1);
        stream
            .pass(&mut states, &|n| progress(before + n, total), &|state, _, threads| state.add_refit_rows(threads))?;
        each(&mut states, options.threads, &Accumulator::solve_refit);
        collect(&states, solve);
    }
    Ok(results)
}

/// Calls `work` for every regression: side by side where they are as many as the threads, else one after another on all threads.
fn each<'b>(states: &mut [Accumulator<'b>], threads: usize, work: &(dyn Fn(&mut Accumulator<'b>, usize) + Sync)) {
    if states.len() >= threads {
        in_parallel(states, threads, &|state| work(state, 1));
    } else {
        states.iter_mut().for_each(|state| work(state, threads));
    }
}

struct ImagePass<'a> {
    images: &'a Images<'a>,
    inputs: Tensors,
    targets: Option<Tensors>,
    gradients: Option<Gradients>,
    threads: usize,
}

impl<'a> ImagePass<'a> {
    fn new(
        sources: &Sources<'a>,
        regressions: &[Regression],
        weighted: bool,
        options: &Options,
    ) -> Result<ImagePass<'a>, Error> {
        let mut inputs: Vec<&str> = regressions.iter().map(|s| s.input.as_str()).collect();
        let targets: Vec<&str> = regressions.iter().flat_map(|s| &s.targets).map(|t| t.tensor.as_str()).collect();
        let tensors = |network, names: &[&str]| {
            Tensors::new(&options.device, network, names, BATCH, options.threads, options.exact)
        };
        let parent = sources.targets.unwrap_or(sources.inputs);
        let gradients = || Gradients::new(&options.device, parent, &targets, BATCH, options.threads, options.exact);
        let gradients = weighted.then(gradients).transpose()?;
        let targets = match sources.targets {
            Some(parent) => Some(tensors(parent, &targets)?),
            None => {
                inputs.extend(targets);
                None
            }
        };
        let inputs = tensors(sources.inputs, &inputs)?;
        Ok(ImagePass { images: sources.images, inputs, targets, gradients, threads: options.threads })
    }

    /// Adds every image to every regression. `full` is called with a number of threads when a regression has gathered enough rows, at
    /// the end of the images that fit, and at the end of those that are held out.
    fn pass(
        &mut self,
        states: &mut [Accumulator<'_>],
        progress: &dyn Fn(usize),
        full: &(dyn Fn(&mut Accumulator<'_>, bool, usize) + Sync),
    ) -> Result<(), Error> {
        let count = self.images.count;
        // Fewer regressions than threads share the threads.
        let threads = (self.threads / states.len().max(1)).max(1);
        let first_held_out = count - count / HELD_OUT;
        for held in [false, true] {
            let range = if held { first_held_out..count } else { 0..first_held_out };
            for start in range.clone().step_by(BATCH) {
                let images = start..range.end.min(start + BATCH);
                self.inputs.run(self.images, images.clone())?;
                if let Some(targets) = &mut self.targets {
                    targets.run(self.images, images.clone())?;
                }
                if let Some(gradients) = &mut self.gradients {
                    gradients.run(self.images, images.clone())?;
                }
                let targets = self.targets.as_ref().unwrap_or(&self.inputs);
                let gradients = self.gradients.as_ref();
                let values: Vec<BatchValues<'_>> = states
                    .iter()
                    .map(|state| BatchValues::of(state.regression, &self.inputs, targets, gradients))
                    .collect();
                in_parallel(states.iter_mut().zip(&values), self.threads, &|(state, values)| {
                    state.add_images(values, images.clone(), &|state| full(state, held, threads));
                });
                progress(images.end);
            }
            in_parallel(&mut *states, self.threads, &|state| full(state, held, threads));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use nettriage_net::surgery::AffineMap;
    use nettriage_net::{Activation, Conv, Graph, INPUT, Kind, Layer, Padding, Shape};
    use nettriage_train::Device;
    use nettriage_train::seed;

    use super::super::images::noise;
    use super::super::regression::group;
    use super::*;

    const SHAPE: Shape = Shape { channels: 4, height: 8, width: 6 };

    fn network(conv: Conv) -> Network {
        let layer = |name: &str, input: &str, kind| Layer { name: name.into(), inputs: vec![input.into()], kind };
        let layers =
            vec![layer("conv", INPUT, Kind::Conv(conv)), layer("act", "conv", Kind::Activation(Activation::Relu))];
        let graph = Graph { name: "one".into(), input: SHAPE, layers, output: "act".into() };
        let mut network = Network::initialised(graph, &mut seed::rng("test", &[])).unwrap();
        let bias = (0..conv.filters).map(|f| f as f32 / 3.0 - 0.8).collect();
        network.weights.insert("conv.bias".into(), nettriage_net::Tensor::new(&[conv.filters], bias));
        network
    }

    fn images() -> Images<'static> {
        noise(SHAPE, 150)
    }

    fn wanted(from: &Network, conv: Conv) -> FitRequest {
        let to = from.graph.shape_of("conv").unwrap();
        let input = INPUT.to_owned();
        FitRequest {
            input,
            from: SHAPE,
            target: "conv".into(),
            to,
            map: conv.into(),
            closing: Some(Activation::Relu),
            closed: false,
        }
    }

    fn run(
        network: &Network,
        requests: &[FitRequest],
        methods: &[Method],
        threads: usize,
    ) -> Vec<HashMap<usize, Solution>> {
        let images = images();
        let sources = Sources { inputs: network, targets: None, images: &images };
        let options = Options { threads, ..Options::default() };
        let weighted = methods[0].gradients;
        fit(&sources, requests, &group(requests, weighted), methods, &options, &|_, _| ()).unwrap()
    }

    const PLAIN: Method = Method { solves: 1, moments: false, gradients: false };

    #[test]
    fn the_weights_of_a_convolution_are_recovered_from_its_outputs() {
        for (groups, stride) in [(1, 1), (2, 1), (1, 2), (4, 1)] {
            let conv = Conv { groups, stride: [stride; 2], padding: Padding::all(1), ..Conv::same(8, 3) };
            let network = network(conv);
            // A larger kernel beside it: the same regression, other patch elements.
            let larger = Conv { kernel: [5; 2], padding: Padding::all(2), ..conv };
            let found = run(&network, &[wanted(&network, larger), wanted(&network, conv)], &[PLAIN], 1);
            let truth = &network.weights["conv.weight"].data;
            let fitted = &found[0][&1];
            let worst = fitted.weight.iter().zip(truth).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4, "{groups} groups, stride {stride}: {worst}");
            let bias = &network.weights["conv.bias"].data;
            assert!(fitted.bias.iter().zip(bias).all(|(a, b)| (a - b).abs() < 1e-4));
            assert!(fitted.error < 1e-6, "{}", fitted.error);
            // The larger kernel has the smaller one in its centre and nearly zero around it.
            let per_filter = SHAPE.channels / groups;
            for (at, weight) in found[0][&0].weight.iter().enumerate() {
                let (channel, tap) = (at / 25, at % 25);
                let (y, x) = (tap / 5, tap % 5);
                let inner = (1..4).contains(&y) && (1..4).contains(&x);
                let expected = if inner { truth[channel * 9 + (y - 1) * 3 + x - 1] } else { 0.0 };
                assert!((weight - expected).abs() < 1e-3, "{per_filter} channels a group: {weight} {expected}");
            }
        }
    }

    #[test]
    fn results_do_not_depend_on_the_number_of_threads() {
        let network = network(Conv::same(8, 5));
        let methods = [PLAIN, Method { solves: 3, moments: true, ..PLAIN }];
        // The first has enough unknowns for several blocks of sums and for a solve on several threads; the others are parts of it.
        let wanted = [17, 5, 3, 1].map(|kernel| wanted(&network, Conv::same(8, kernel)));
        let [one, three] = [1, 3].map(|threads| run(&network, &wanted, &methods, threads));
        for (a, b) in one.iter().zip(&three) {
            for index in 0..wanted.len() {
                assert_eq!(a[&index].weight, b[&index].weight);
                assert_eq!(a[&index].bias, b[&index].bias);
                assert_eq!([a[&index].ridge, a[&index].error], [b[&index].ridge, b[&index].error]);
            }
        }
        let truth = &network.weights["conv.weight"].data;
        let worst = one[0][&1].weight.iter().zip(truth).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{worst}");
    }

    /// Mean squared error after the ReLU, and mean and variance before it, of one filter, by the definition.
    fn outcome(network: &Network, fitted: &Solution, kernel: usize, filter: usize) -> (f64, [f64; 2], [f64; 2]) {
        let images = images();
        let mut tensors = Tensors::new(&Device::Cpu, network, &["conv"], images.count, 1, true).unwrap();
        tensors.run(&images, 0..images.count).unwrap();
        let (x, y) = (tensors.get(INPUT), tensors.get("conv"));
        let filters = fitted.bias.len();
        let half = (kernel / 2) as isize;
        let (mut error, mut own, mut target, mut n) = (0.0, [0.0f64; 2], [0.0f64; 2], 0.0);
        for (at, y) in y.chunks_exact(filters).enumerate() {
            let (image, row, column) = (at / 48, (at % 48) / 6, at % 6);
            let mut sum = f64::from(fitted.bias[filter]);
            for (c, ky, kx) in (0..4).flat_map(|c| (0..kernel).flat_map(move |a| (0..kernel).map(move |b| (c, a, b)))) {
                let (r, s) = (row as isize + ky as isize - half, column as isize + kx as isize - half);
                if (0..8).contains(&r) && (0..6).contains(&s) {
                    let pixel = x[((image * 8 + r as usize) * 6 + s as usize) * 4 + c];
                    let weight = fitted.weight[((filter * 4 + c) * kernel + ky) * kernel + kx];
                    sum += f64::from(weight) * f64::from(pixel);
                }
            }
            let wanted = f64::from(y[filter]);
            error += (sum.max(0.0) - wanted.max(0.0)).powi(2);
            (0..2).for_each(|k| own[k] += sum.powi(k as i32 + 1));
            (0..2).for_each(|k| target[k] += wanted.powi(k as i32 + 1));
            n += 1.0;
        }
        let moments = |[sum, square]: [f64; 2]| [sum / n, square / n - (sum / n).powi(2)];
        (error / n, moments(own), moments(target))
    }

    #[test]
    fn a_refit_iteration_reduces_the_error_after_the_relu_and_moments_match() {
        let network = network(Conv::same(6, 5));
        let wanted = [wanted(&network, Conv::same(6, 3))];
        let methods = [PLAIN, Method { solves: 2, ..PLAIN }, Method { moments: true, ..PLAIN }];
        let found = run(&network, &wanted, &methods, 2);
        let sum = |method: usize| (0..6).map(|f| outcome(&network, &found[method][&0], 3, f).0).sum::<f64>();
        assert!(sum(1) < sum(0), "{} and {}", sum(1), sum(0));
        for filter in 0..6 {
            let (_, own, target) = outcome(&network, &found[2][&0], 3, filter);
            assert!((own[0] - target[0]).abs() < 1e-3, "{own:?} {target:?}");
            assert!((own[1] / target[1] - 1.0).abs() < 1e-3, "{own:?} {target:?}");
        }
    }

    /// A 3x3 convolution to which its input is added, before a ReLU, with the request of a substitute for both.
    fn residual(seed: &str) -> Network {
        let mut network = network(Conv::same(4, 3));
        let add = Layer { name: "sum".into(), inputs: vec![INPUT.into(), "conv".into()], kind: Kind::Add };
        network.graph.layers.insert(1, add);
        network.graph.layers[2].inputs = vec!["sum".into()];
        let weight = Network::initialised(network.graph.clone(), &mut seed::rng(seed, &[])).unwrap().weights;
        network.weights.insert("conv.weight".into(), weight["conv.weight"].clone());
        network
    }

    #[test]
    fn a_residual_branch_is_recovered_by_every_method_and_a_separable_one_is_fitted() {
        let network = residual("residual");
        let request = |kernel: usize, skip: bool, separable: bool| FitRequest {
            target: "sum".into(),
            map: AffineMap { skip, separable, ..Conv::same(4, kernel).into() },
            ..wanted(&network, Conv::same(4, kernel))
        };
        let wanted = [(3, true, false), (5, true, false), (3, false, false), (3, true, true), (1, true, false)];
        let wanted = wanted.map(|(kernel, skip, separable)| request(kernel, skip, separable));
        let methods = [PLAIN, Method { solves: 2, ..PLAIN }, Method { solves: 2, moments: true, ..PLAIN }];
        let found = run(&network, &wanted, &methods, 2);
        let truth = &network.weights["conv.weight"].data;
        for by_method in &found {
            let branch = &by_method[&0];
            let worst = branch.weight.iter().zip(truth).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-3 && branch.error < 1e-6, "{worst}, {}", branch.error);
            // The whole has the input in it.
            let whole = &by_method[&2];
            for (at, (whole, branch)) in whole.weight.iter().zip(&branch.weight).enumerate() {
                let own = at / 36 == at / 9 % 4 && at % 9 == 4;
                assert!((whole - branch - f32::from(own)).abs() < 1e-3);
            }
            // A separable branch and one of 1x1 explain a part.
            assert!((0.01..0.99).contains(&by_method[&3].error) && (0.01..1.0).contains(&by_method[&4].error));
        }
        let one = run(&network, &wanted, &methods, 1);
        assert!((0..wanted.len()).all(|at| one[2][&at].weight == found[2][&at].weight));
        // Matched moments are those of the branch's target, the convolution.
        let values = |name: &str| {
            let images = images();
            let mut tensors = Tensors::new(&Device::Cpu, &network, &[name], images.count, 1, true).unwrap();
            tensors.run(&images, 0..images.count).unwrap();
            tensors.get(name).to_vec()
        };
        let (x, y) = (values(INPUT), values("conv"));
        let fitted = &found[2][&4];
        for filter in 0..4 {
            let of = |at: usize| (0..4).map(|c| f64::from(fitted.weight[filter * 4 + c] * x[at * 4 + c])).sum::<f64>();
            let own = (0..x.len() / 4).map(|at| of(at) + f64::from(fitted.bias[filter]));
            let target = y.iter().skip(filter).step_by(4).map(|y| f64::from(*y));
            let moments = |values: Vec<f64>| {
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                [mean, values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64]
            };
            let (own, target) = (moments(own.collect()), moments(target.collect()));
            assert!((own[0] - target[0]).abs() < 1e-3 && (own[1] / target[1] - 1.0).abs() < 1e-3, "{own:?} {target:?}");
        }
    }

    #[test]
    fn positions_without_gradient_do_not_count_if_rows_have_weights() {
        // A 1x1 convolution cannot reproduce a 3x3 one everywhere; only the left half of the feature map affects the logits.
        let conv = Conv::same(2, 3);
        let mut network = network(conv);
        let layer = |name: &str, input: &str, kind| Layer { name: name.into(), inputs: vec![input.into()], kind };
        network.graph.layers.push(layer("flat", "act", Kind::Flatten));
        network.graph.layers.push(layer(
            "logits",
            "flat",
            Kind::Linear(nettriage_net::layer::Linear { features: 3, bias: false }),
        ));
        network.graph.output = "logits".into();
        let elements = 2 * SHAPE.height * SHAPE.width;
        let half =
            |at: usize| if at % SHAPE.width < SHAPE.width / 2 { ((at * 7) % 11) as f32 / 50.0 - 0.1 } else { 0.0 };
        let weight = (0..3 * elements).map(half).collect();
        network.weights.insert("logits.weight".into(), nettriage_net::Tensor::new(&[3, elements], weight));
        let images = images();
        let mut gradients = Gradients::new(&Device::Cpu, &network, &["conv"], images.count, 1, true).unwrap();
        gradients.run(&images, 0..images.count).unwrap();
        let found = gradients.get("conv");
        let nothing = |at: usize| (at / 2) % SHAPE.width >= SHAPE.width / 2;
        assert!(found.iter().enumerate().all(|(at, g)| !nothing(at) || *g == 0.0));
        assert!(found.iter().filter(|g| **g != 0.0).count() > found.len() / 64);

        // The right half has another relation between both tensors, which biases only the fit without weights.
        let mut sums = Vec::new();
        for gradients in [false, true] {
            let method = Method { gradients, ..PLAIN };
            let fitted = &run(&network, &[wanted(&network, Conv::same(2, 1))], &[method], 1)[0][&0];
            let mut tensors = Tensors::new(&Device::Cpu, &network, &["conv"], images.count, 1, true).unwrap();
            tensors.run(&images, 0..images.count).unwrap();
            let (x, y) = (tensors.get(INPUT), tensors.get("conv"));
            let error = |row: usize| -> f64 {
                let fit =
                    |f: usize| fitted.bias[f] + (0..4).map(|c| fitted.weight[f * 4 + c] * x[row * 4 + c]).sum::<f32>();
                let weight: f64 = (0..2).map(|f| f64::from(found[row * 2 + f]).powi(2)).sum();
                weight * (0..2).map(|f| f64::from(fit(f) - y[row * 2 + f]).powi(2)).sum::<f64>()
            };
            sums.push((0..x.len() / 4).map(error).sum::<f64>());
        }
        assert!(sums[1] < sums[0], "weighted errors: {sums:?}");
    }
}
