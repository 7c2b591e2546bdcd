//! Fitting: closed-form weights for many substitutes at once, from a pass over the images or two.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use faer::linalg::matmul::matmul;
use faer::linalg::solvers::Llt;
use faer::{Accum, Mat, MatRef, Par};
use nettriage_net::{Activation, Conv, Network, Shape};

use super::images::{Gradients, Images, Tensors};
use super::solve::{self, Affine, Part, RIDGES, System, parts};
use super::sums::{Positions, Rows, Sums, Window, add_product};
use super::{Method, Options};
use crate::Error;

/// Images that run through the network at a time.
pub const BATCH: usize = 40;

/// One image in so many is held out, to choose the ridge.
const HELD: usize = 5;

/// A substitute to be fitted.
pub struct Wanted {
    /// The tensor that enters.
    pub input: String,
    /// Its shape.
    pub from: Shape,
    /// The tensor that the affine map stands for.
    pub target: String,
    /// Its shape.
    pub to: Shape,
    /// The convolution, or the linear layer as a 1x1 convolution.
    pub conv: Conv,
    /// What follows the affine map.
    pub closing: Option<Activation>,
    /// Whether the target was taken after that activation already (where pooling follows it).
    pub closed: bool,
}

/// Weights of a substitute.
#[derive(Clone, Debug)]
pub struct Fitted {
    /// `[o, i / groups, k, k]`, flat.
    pub weight: Vec<f32>,
    /// `[o]`.
    pub bias: Vec<f32>,
    /// The ridge chosen, as a share of the mean diagonal element.
    pub ridge: f64,
    /// Squared error on the held-out images over the target's variance there; of the plain solution.
    pub error: f64,
}

/// Several substitutes that look at one tensor through one window.
pub struct Site {
    input: String,
    window: Window,
    targets: Vec<Target>,
    /// Indices into what was wanted, with the patch elements and targets of each group.
    fits: Vec<(usize, Vec<Part>)>,
}

struct Target {
    tensor: String,
    channels: usize,
    first: usize,
}

impl Site {
    fn columns(&self) -> usize {
        self.targets.last().map_or(0, |t| t.first + t.channels)
    }

    /// The tensor that it looks at.
    pub fn input(&self) -> &str {
        &self.input
    }

    /// Bytes that its sums and rows take, and the solutions of what is wanted of it.
    pub fn bytes(&self) -> usize {
        let solutions: usize = self.fits.iter().flat_map(|(_, parts)| parts).map(bytes_of_part).sum();
        2 * Sums::bytes(&self.window, self.columns()) + Rows::bytes(&self.window, self.columns()) + solutions
    }

    /// What it fits, as indices.
    pub fn wanted(&self) -> impl Iterator<Item = usize> {
        self.fits.iter().map(|(index, _)| *index)
    }
}

/// Of a part's maps (plain, refined and as f32) and sums.
fn bytes_of_part(part: &Part) -> usize {
    (part.index.len() + 1) * (part.targets[1] - part.targets[0]) * 40
}

/// Arranges what is wanted by sites. Where rows have weights these are the target's, so that a site has one target alone.
pub fn sites(wanted: &[Wanted], weighted: bool) -> Vec<Site> {
    let window = |w: &Wanted| Window::of(&w.conv, w.from, w.to);
    // Largest kernels first: the smaller ones then find a site that holds theirs.
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(window(&wanted[i]).patch()));
    let mut sites: Vec<Site> = Vec::new();
    for index in order {
        let want = &wanted[index];
        let inner = window(want);
        let fits = |site: &Site| {
            let other = weighted && site.targets.iter().any(|target| target.tensor != want.target);
            site.input == want.input && site.window.offset(&inner).is_some() && !other
        };
        let at = sites.iter().position(fits).unwrap_or_else(|| {
            sites.push(Site { input: want.input.clone(), window: inner, targets: Vec::new(), fits: Vec::new() });
            sites.len() - 1
        });
        let site = &mut sites[at];
        let first = match site.targets.iter().find(|t| t.tensor == want.target) {
            Some(target) => target.first,
            None => {
                let first = site.columns();
                let target = Target { tensor: want.target.clone(), channels: want.to.channels, first };
                site.targets.push(target);
                first
            }
        };
        let offset = site.window.offset(&inner).unwrap_or_default();
        site.fits.push((index, parts(&site.window, offset, &want.conv, want.to.channels, first)));
    }
    sites
}

/// Where inputs and targets come from.
pub struct Sources<'a> {
    /// The network whose tensors enter the substitutes.
    pub inputs: &'a Network,
    /// The parent, whose tensors they are to reproduce; none where it is the same network.
    pub targets: Option<&'a Network>,
    /// The images.
    pub images: &'a Images<'a>,
}

/// Fits every substitute of `sites` by every method, all with weights or all without: for each method one [`Fitted`] for
/// each of `wanted` that some site names.
///
/// The sums depend on the order of the images alone, not on the number of threads.
pub fn fit(
    sources: &Sources<'_>,
    wanted: &[Wanted],
    sites: &[Site],
    methods: &[Method],
    options: &Options,
    progress: &dyn Fn(usize, usize),
) -> Result<Vec<HashMap<usize, Fitted>>, Error> {
    let solves = methods.iter().map(|m| m.solves).max().unwrap_or(1);
    let total = sources.images.count * solves;
    let mut stream = Stream::new(sources, sites, methods.iter().any(|m| m.gradients), options)?;
    let states: Vec<Mutex<State>> = sites.iter().map(|site| Mutex::new(State::new(site, sources, options))).collect();
    stream.pass(&states, &|n| progress(n, total), &|state, held| state.gather(held))?;
    in_parallel(states.len(), options.threads, &|i| lock(&states[i]).solve());

    let mut results: Vec<HashMap<usize, Fitted>> = vec![HashMap::new(); methods.len()];
    let collect = |results: &mut Vec<HashMap<usize, Fitted>>, solves: usize| {
        for (method, result) in methods.iter().zip(results) {
            if method.solves == solves {
                states.iter().for_each(|state| lock(state).collect(wanted, *method, result));
            }
        }
    };
    collect(&mut results, 1);
    for solve in 2..=solves {
        states.iter().for_each(|state| lock(state).begin_refining(wanted));
        let before = sources.images.count * (solve - 1);
        stream.pass(&states, &|n| progress(before + n, total), &|state, _| state.refine())?;
        in_parallel(states.len(), options.threads, &|i| lock(&states[i]).solve_again());
        collect(&mut results, solve);
    }
    Ok(results)
}

fn lock<'a, 'b>(state: &'a Mutex<State<'b>>) -> std::sync::MutexGuard<'a, State<'b>> {
    state.lock().expect("no holder of this lock panics")
}

/// Runs `work` for 0 to `count` on so many threads; who does which decides no result.
pub fn in_parallel(count: usize, threads: usize, work: &(dyn Fn(usize) + Sync)) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(count) {
            scope.spawn(|| {
                while let Some(index) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|i| *i < count) {
                    work(index);
                }
            });
        }
    });
}

struct Stream<'a> {
    images: &'a Images<'a>,
    inputs: Tensors,
    targets: Option<Tensors>,
    gradients: Option<Gradients>,
    threads: usize,
}

impl<'a> Stream<'a> {
    fn new(sources: &Sources<'a>, sites: &[Site], weighted: bool, options: &Options) -> Result<Stream<'a>, Error> {
        let mut inputs: Vec<&str> = sites.iter().map(|s| s.input.as_str()).collect();
        let targets: Vec<&str> = sites.iter().flat_map(|s| &s.targets).map(|t| t.tensor.as_str()).collect();
        let tensors = |network, names: &[&str]| Tensors::new(network, names, BATCH, options.threads, options.exact);
        let parent = sources.targets.unwrap_or(sources.inputs);
        let gradients = || Gradients::new(parent, &targets, BATCH, options.threads, options.exact);
        let gradients = weighted.then(gradients).transpose()?;
        let targets = match sources.targets {
            Some(parent) => Some(tensors(parent, &targets)?),
            None => {
                inputs.extend(targets);
                None
            }
        };
        let inputs = tensors(sources.inputs, &inputs)?;
        Ok(Stream { images: sources.images, inputs, targets, gradients, threads: options.threads })
    }

    /// Shows every site every image; `full` is called where a site's rows are full, and at the end of the images that
    /// are not held out, and of those that are.
    fn pass(
        &mut self,
        states: &[Mutex<State<'_>>],
        progress: &dyn Fn(usize),
        full: &(dyn Fn(&mut State<'_>, bool) + Sync),
    ) -> Result<(), Error> {
        let count = self.images.count;
        let held_from = count - count / HELD;
        for held in [false, true] {
            let range = if held { held_from..count } else { 0..held_from };
            for start in range.clone().step_by(BATCH) {
                let images = start..range.end.min(start + BATCH);
                self.inputs.run(self.images, images.clone());
                if let Some(targets) = &mut self.targets {
                    targets.run(self.images, images.clone());
                }
                if let Some(gradients) = &mut self.gradients {
                    gradients.run(self.images, images.clone());
                }
                let targets = self.targets.as_ref().unwrap_or(&self.inputs);
                let gradients = self.gradients.as_ref();
                let values: Vec<Values<'_>> =
                    states.iter().map(|state| Values::of(lock(state).site, &self.inputs, targets, gradients)).collect();
                let show = |index: usize| {
                    lock(&states[index]).show(&values[index], images.clone(), &|state| full(state, held));
                };
                in_parallel(states.len(), self.threads, &show);
                progress(images.end);
            }
            in_parallel(states.len(), self.threads, &|index| full(&mut lock(&states[index]), held));
        }
        Ok(())
    }
}

/// What a site looks at in a batch of images.
struct Values<'a> {
    input: &'a [f32],
    targets: Vec<&'a [f32]>,
    /// Of the only target, where rows have weights.
    gradient: Option<&'a [f32]>,
}

impl<'a> Values<'a> {
    fn of(site: &Site, inputs: &'a Tensors, targets: &'a Tensors, gradients: Option<&'a Gradients>) -> Values<'a> {
        let gradient = gradients.map(|gradients| gradients.get(&site.targets[0].tensor));
        let targets = site.targets.iter().map(|target| targets.get(&target.tensor)).collect();
        Values { input: inputs.get(&site.input), targets, gradient }
    }

    /// The root of a row's weight, which is the squared length of the gradient at that position; never quite zero, so that a
    /// network that is sure of everything is fitted as without weights.
    fn scale(&self, row: usize, channels: usize) -> f32 {
        let length = |gradient: &[f32]| gradient.iter().map(|g| g * g).sum::<f32>().sqrt();
        self.gradient.map_or(1.0, |gradient| length(&gradient[row * channels..(row + 1) * channels]).max(1e-6))
    }
}

/// A site in the making.
struct State<'a> {
    site: &'a Site,
    positions: Positions,
    rows: Rows,
    /// Of the images that are not held out, and of those that are.
    sums: [Sums; 2],
    /// Of each fit, of each of its parts.
    maps: Vec<Vec<Map>>,
}

/// A part's solution.
struct Map {
    ridge: f64,
    /// Squared error and variance on the held-out images.
    error: (f64, f64),
    affine: Affine,
    refining: Option<Refining>,
}

/// The right-hand side of the next solve in the making.
struct Refining {
    closing: Option<Activation>,
    /// The affine map with its bias as the last row, in f32.
    weight: Mat<f32>,
    cross: Mat<f64>,
    part: Mat<f32>,
}

impl<'a> State<'a> {
    fn new(site: &'a Site, sources: &Sources<'_>, options: &Options) -> State<'a> {
        let (columns, window) = (site.columns(), site.window);
        let rows = (options.rows * (window.patch() + 1)).max(options.least_rows);
        let take = rows.div_ceil(sources.images.count);
        State {
            site,
            positions: Positions::new(take, window.positions()),
            rows: Rows::new(window, columns),
            sums: [Sums::new(&window, columns), Sums::new(&window, columns)],
            maps: Vec::new(),
        }
    }

    fn show(&mut self, values: &Values<'_>, images: std::ops::Range<usize>, full: &dyn Fn(&mut State<'_>)) {
        let site = self.site;
        let positions = site.window.positions();
        let elements = site.window.input.elements();
        for (n, image) in images.enumerate() {
            for position in self.positions.draw(image).to_vec() {
                let position = position as usize;
                let pixels = &values.input[n * elements..(n + 1) * elements];
                let scale = values.scale(n * positions + position, site.targets[0].channels);
                let ended = self.rows.push(pixels, position, scale, |row| {
                    for (target, values) in site.targets.iter().zip(&values.targets) {
                        let at = (n * positions + position) * target.channels;
                        row[target.first..target.first + target.channels]
                            .copy_from_slice(&values[at..at + target.channels]);
                    }
                });
                if ended {
                    full(self);
                }
            }
        }
    }

    fn gather(&mut self, held: bool) {
        self.sums[usize::from(held)].add(&self.rows);
        self.rows.clear();
    }

    /// Fits and parts that have the same patch elements: they share factors.
    fn alike(&self) -> Vec<Vec<(usize, usize)>> {
        let mut alike: Vec<Vec<(usize, usize)>> = Vec::new();
        let mut known: HashMap<&[usize], usize> = HashMap::new();
        for (fit, (_, parts)) in self.site.fits.iter().enumerate() {
            for (number, part) in parts.iter().enumerate() {
                let at = *known.entry(&part.index).or_insert_with(|| {
                    alike.push(Vec::new());
                    alike.len() - 1
                });
                alike[at].push((fit, number));
            }
        }
        alike
    }

    fn solve(&mut self) {
        let mut maps: Vec<Vec<Option<Map>>> =
            self.site.fits.iter().map(|(_, parts)| parts.iter().map(|_| None).collect()).collect();
        for members in self.alike() {
            let parts: Vec<&Part> = members.iter().map(|&(fit, number)| &self.site.fits[fit].1[number]).collect();
            for ((fit, number), map) in members.iter().zip(solve_parts(&self.sums, &parts)) {
                maps[*fit][*number] = Some(map);
            }
        }
        self.maps = maps.into_iter().map(|maps| maps.into_iter().flatten().collect()).collect();
    }

    /// Prepares a further solve from the maps at hand.
    fn begin_refining(&mut self, wanted: &[Wanted]) {
        for ((index, _), maps) in self.site.fits.iter().zip(&mut self.maps) {
            for map in maps {
                let (n, targets) = (map.affine.weight.nrows(), map.affine.weight.ncols());
                let element = |a: usize, f: usize| if a < n { map.affine.weight[(a, f)] } else { map.affine.bias[f] };
                map.refining = Some(Refining {
                    closing: wanted[*index].closing,
                    weight: Mat::from_fn(n + 1, targets, |a, f| element(a, f) as f32),
                    cross: Mat::zeros(n + 1, targets),
                    part: Mat::zeros(n + 1, targets),
                });
            }
        }
    }

    /// Adds the rows gathered to the right-hand sides, their targets respecting the closing activation.
    fn refine(&mut self) {
        let (patches, values) = (self.rows.patches(), self.rows.values());
        let ones = patches.nrows() - 1;
        for ((_, parts), maps) in self.site.fits.iter().zip(&mut self.maps) {
            for (part, map) in parts.iter().zip(maps) {
                let Some(refining) = &mut map.refining else { continue };
                let own = rows_of(patches, &part.index, ones);
                let mut fitted: Mat<f32> = Mat::zeros(refining.weight.ncols(), patches.ncols());
                matmul(fitted.as_mut(), Accum::Replace, refining.weight.transpose(), own.as_ref(), 1.0, Par::Seq);
                for row in 0..fitted.ncols() {
                    let scale = patches[(ones, row)];
                    for f in 0..fitted.nrows() {
                        let target = values[(part.targets[0] + f, row)];
                        fitted[(f, row)] = respect(refining.closing, scale, target, fitted[(f, row)]);
                    }
                }
                add_product(&mut refining.cross, &mut refining.part, own.as_ref(), fitted.as_ref());
            }
        }
        self.rows.clear();
    }

    fn solve_again(&mut self) {
        let sums = [&self.sums[0], &self.sums[1]];
        for members in self.alike() {
            let (fit, number) = members[0];
            let system = System::new(&sums, &self.site.fits[fit].1[number].index);
            let mut factors = Factors::new(&system);
            for (fit, number) in members {
                let map = &mut self.maps[fit][number];
                let Some(refining) = map.refining.take() else { continue };
                let (right, means) = system.right(|a, f| refining.cross[(a, f)], refining.cross.ncols());
                if let Some(factor) = factors.get(map.ridge) {
                    map.affine = system.solve(factor, &right, &means);
                }
            }
        }
    }

    fn collect(&self, wanted: &[Wanted], method: Method, into: &mut HashMap<usize, Fitted>) {
        for ((index, parts), maps) in self.site.fits.iter().zip(&self.maps) {
            let want = &wanted[*index];
            let (mut weight, mut bias) = (Vec::new(), Vec::new());
            for (part, map) in parts.iter().zip(maps) {
                let scaled = (method.moments && !want.closed).then(|| self.scaled(part, &map.affine));
                let affine = scaled.as_ref().unwrap_or(&map.affine);
                affine.append(want.conv.kernel[0] * want.conv.kernel[1], &mut weight, &mut bias);
            }
            let (error, variance) = maps.iter().fold((0.0, 0.0), |sum, m| (sum.0 + m.error.0, sum.1 + m.error.1));
            let ridge = maps.first().map_or(0.0, |m| m.ridge);
            let error = if variance > 0.0 { error / variance } else { 0.0 };
            into.insert(*index, Fitted { weight, bias, ridge, error });
        }
    }

    /// The map with its outputs' means and variances made those of the targets.
    fn scaled(&self, part: &Part, affine: &Affine) -> Affine {
        let sums = [&self.sums[0], &self.sums[1]];
        let system = System::new(&sums, &part.index);
        let variance = system.variance(affine);
        let mut scaled = affine.clone();
        for (f, (mean, wanted)) in solve::moments(&sums, part).into_iter().enumerate() {
            if variance[f] <= 0.0 {
                continue;
            }
            let factor = (wanted / variance[f]).sqrt();
            (0..scaled.weight.nrows()).for_each(|a| scaled.weight[(a, f)] *= factor);
            let output = affine.bias[f] + system.mean_output(affine, f);
            scaled.bias[f] = mean + factor * (affine.bias[f] - output);
        }
        scaled
    }
}

/// The rows of some patch elements, and the ones.
fn rows_of(patches: MatRef<'_, f32>, index: &[usize], ones: usize) -> Mat<f32> {
    let mut own = Mat::zeros(index.len() + 1, patches.ncols());
    for column in 0..patches.ncols() {
        let from = patches.col(column);
        let to = own.col_as_slice_mut(column);
        to.iter_mut().zip(index).for_each(|(to, &at)| *to = from[at]);
        to[index.len()] = from[ones];
    }
    own
}

/// The target of a further solve, of a row scaled by so much: what the closing activation makes no difference of costs nothing.
///
/// Where a ReLU puts out zero for the target, any fitted value below zero is as good.
fn respect(closing: Option<Activation>, scale: f32, target: f32, fitted: f32) -> f32 {
    match closing {
        Some(Activation::Relu) if target <= 0.0 => fitted.min(0.0),
        Some(Activation::Clip { min, .. }) if target <= min * scale => fitted.min(min * scale),
        Some(Activation::Clip { max, .. }) if target >= max * scale => fitted.max(max * scale),
        _ => target,
    }
}

/// Factors of one system, by their ridges.
struct Factors<'a> {
    system: &'a System,
    known: Vec<(f64, Option<Llt<f64>>)>,
}

impl<'a> Factors<'a> {
    fn new(system: &'a System) -> Factors<'a> {
        Factors { system, known: Vec::new() }
    }

    fn get(&mut self, ridge: f64) -> Option<&Llt<f64>> {
        let at = self.known.iter().position(|(known, _)| *known == ridge).unwrap_or_else(|| {
            self.known.push((ridge, self.system.factor(ridge)));
            self.known.len() - 1
        });
        self.known[at].1.as_ref()
    }
}

/// For each part the ridge that errs least on the held-out images, then the solution on all. The parts have the same
/// patch elements.
fn solve_parts(sums: &[Sums; 2], parts: &[&Part]) -> Vec<Map> {
    let index = &parts[0].index;
    let (fitted, held) = (System::new(&[&sums[0]], index), System::new(&[&sums[1]], index));
    let sides: Vec<_> =
        parts.iter().map(|part| (fitted.side(&[&sums[0]], part), held.side(&[&sums[1]], part))).collect();
    let mut best: Vec<(f64, (f64, f64))> = vec![(RIDGES[RIDGES.len() - 1], (f64::INFINITY, 0.0)); parts.len()];
    for ridge in RIDGES {
        let Some(factor) = fitted.factor(ridge) else { continue };
        for ((part, ((side, means), held_side)), best) in parts.iter().zip(&sides).zip(&mut best) {
            let map = fitted.solve(&factor, side, means);
            let squares = &sums[1].squares[part.targets[0]..part.targets[1]];
            let found = held.unexplained(&map, held_side, squares);
            if found.0 < best.1.0 {
                *best = (ridge, found);
            }
        }
    }
    let both = [&sums[0], &sums[1]];
    let system = System::new(&both, index);
    let mut factors = Factors::new(&system);
    let solve = |(part, (ridge, error)): (&&Part, (f64, (f64, f64)))| {
        let (side, means) = system.side(&both, part);
        let affine = match factors.get(ridge) {
            Some(factor) => system.solve(factor, &side, &means),
            None => Affine { weight: Mat::zeros(index.len(), means.len()), bias: means },
        };
        Map { ridge, error, affine, refining: None }
    };
    parts.iter().zip(best).map(solve).collect()
}

#[cfg(test)]
mod tests {
    use nettriage_net::{Graph, INPUT, Kind, Layer, Padding};

    use super::*;
    use nettriage_train::seed;

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

    /// Seeded noise, the same whatever the range.
    fn images() -> Images<'static> {
        let fill = |range: std::ops::Range<usize>, out: &mut [f32]| {
            for (image, pixels) in range.zip(out.chunks_exact_mut(SHAPE.elements())) {
                let mut state = image as u32 * 7919 + 1;
                for value in pixels {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    *value = (state >> 8) as f32 / (1 << 23) as f32 - 1.0;
                }
            }
        };
        Images { count: 150, fill: Box::new(fill), labels: None }
    }

    fn wanted(from: &Network, conv: Conv) -> Wanted {
        let to = from.graph.shape_of("conv").unwrap();
        let input = INPUT.to_owned();
        Wanted { input, from: SHAPE, target: "conv".into(), to, conv, closing: Some(Activation::Relu), closed: false }
    }

    fn run(network: &Network, wanted: &[Wanted], methods: &[Method], threads: usize) -> Vec<HashMap<usize, Fitted>> {
        let images = images();
        let sources = Sources { inputs: network, targets: None, images: &images };
        let options = Options { threads, ..Options::default() };
        let weighted = methods[0].gradients;
        fit(&sources, wanted, &sites(wanted, weighted), methods, &options, &|_, _| ()).unwrap()
    }

    const PLAIN: Method = Method { solves: 1, moments: false, gradients: false };

    #[test]
    fn a_convolution_is_found_again_from_what_it_does() {
        for (groups, stride) in [(1, 1), (2, 1), (1, 2), (4, 1)] {
            let conv = Conv { groups, stride: [stride; 2], padding: Padding::all(1), ..Conv::same(8, 3) };
            let network = network(conv);
            // A larger kernel beside it: the same site, other patch elements.
            let larger = Conv { kernel: [5; 2], padding: Padding::all(2), ..conv };
            let found = run(&network, &[wanted(&network, larger), wanted(&network, conv)], &[PLAIN], 1);
            let truth = &network.weights["conv.weight"].data;
            let fitted = &found[0][&1];
            let worst = fitted.weight.iter().zip(truth).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4, "{groups} groups, stride {stride}: {worst}");
            let bias = &network.weights["conv.bias"].data;
            assert!(fitted.bias.iter().zip(bias).all(|(a, b)| (a - b).abs() < 1e-4));
            assert!(fitted.error < 1e-6, "{}", fitted.error);
            // The larger kernel holds the smaller one in its middle and near nothing around it.
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
    fn threads_change_no_bit() {
        let network = network(Conv::same(8, 5));
        let methods = [PLAIN, Method { solves: 3, moments: true, ..PLAIN }];
        let wanted = [wanted(&network, Conv::same(8, 3)), wanted(&network, Conv::same(8, 1))];
        let [one, three] = [1, 3].map(|threads| run(&network, &wanted, &methods, threads));
        for (a, b) in one.iter().zip(&three) {
            for index in [0, 1] {
                assert_eq!(a[&index].weight, b[&index].weight);
                assert_eq!(a[&index].bias, b[&index].bias);
            }
        }
    }

    /// Mean squared error after the ReLU, and mean and variance before it, of one filter, by the definition.
    fn outcome(network: &Network, fitted: &Fitted, kernel: usize, filter: usize) -> (f64, [f64; 2], [f64; 2]) {
        let images = images();
        let mut tensors = Tensors::new(network, &["conv"], images.count, 1, true).unwrap();
        tensors.run(&images, 0..images.count);
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
    fn a_further_solve_errs_less_behind_the_relu_and_moments_are_met() {
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
    #[test]
    fn what_the_network_does_not_look_at_costs_nothing_where_rows_have_weights() {
        // A 1x1 convolution of a 3x3 one's input cannot be it everywhere; behind it only the picture's left half counts.
        let conv = Conv::same(2, 3);
        let mut network = network(conv);
        let layer = |name: &str, input: &str, kind| Layer { name: name.into(), inputs: vec![input.into()], kind };
        network.graph.layers.push(layer("flat", "act", Kind::Flatten));
        network.graph.layers.push(layer("logits", "flat", Kind::Linear { features: 3, bias: false }));
        network.graph.output = "logits".into();
        let elements = 2 * SHAPE.height * SHAPE.width;
        let half =
            |at: usize| if at % SHAPE.width < SHAPE.width / 2 { ((at * 7) % 11) as f32 / 50.0 - 0.1 } else { 0.0 };
        let weight = (0..3 * elements).map(half).collect();
        network.weights.insert("logits.weight".into(), nettriage_net::Tensor::new(&[3, elements], weight));
        let images = images();
        let mut gradients = Gradients::new(&network, &["conv"], images.count, 1, true).unwrap();
        gradients.run(&images, 0..images.count);
        let found = gradients.get("conv");
        let nothing = |at: usize| (at / 2) % SHAPE.width >= SHAPE.width / 2;
        assert!(found.iter().enumerate().all(|(at, g)| !nothing(at) || *g == 0.0));
        assert!(found.iter().filter(|g| **g != 0.0).count() > found.len() / 64);

        // The right half holds another relation of the two tensors, which only the fit without weights is drawn to.
        let mut sums = Vec::new();
        for gradients in [false, true] {
            let method = Method { gradients, ..PLAIN };
            let fitted = &run(&network, &[wanted(&network, Conv::same(2, 1))], &[method], 1)[0][&0];
            let mut tensors = Tensors::new(&network, &["conv"], images.count, 1, true).unwrap();
            tensors.run(&images, 0..images.count);
            let (x, y) = (tensors.get(INPUT), tensors.get("conv"));
            let error = |row: usize| -> f64 {
                let fit =
                    |f: usize| fitted.bias[f] + (0..4).map(|c| fitted.weight[f * 4 + c] * x[row * 4 + c]).sum::<f32>();
                let weight: f64 = (0..2).map(|f| f64::from(found[row * 2 + f]).powi(2)).sum();
                weight * (0..2).map(|f| f64::from(fit(f) - y[row * 2 + f]).powi(2)).sum::<f64>()
            };
            sums.push((0..x.len() / 4).map(error).sum::<f64>());
        }
        assert!(sums[1] < sums[0], "by the weights' own measure: {sums:?}");
    }
}
