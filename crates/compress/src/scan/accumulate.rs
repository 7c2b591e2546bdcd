//! The normal equations of one regression problem: accumulated over the images, solved, and solved again by refit iterations.

use std::collections::HashMap;

use faer::linalg::matmul::matmul;
use faer::linalg::solvers::Llt;
use faer::{Accum, Mat, MatRef, Par};
use nettriage_net::Activation;

use super::fit::Sources;
use super::images::{Gradients, Tensors};
use super::options::{Method, Options};
use super::regression::{FitRequest, Regression, Solution};
use crate::least_squares::solve::{self, Affine, Part, RIDGES, System};
use crate::least_squares::sums::{Positions, Rows, Sums, add_product};
use crate::parallel::in_parallel;

/// Unknowns from which a system is solved on several threads.
const LARGE_SYSTEM: usize = 1024;

/// Most targets of a part by whose error a ridge is chosen, evenly spaced: with n unknowns each costs 4 n² operations for each ridge.
const RIDGE_TARGETS: usize = 128;

/// The tensors of a regression on a batch of images.
pub struct BatchValues<'a> {
    input: &'a [f32],
    targets: Vec<&'a [f32]>,
    /// Of the only target, if rows have weights.
    gradient: Option<&'a [f32]>,
}

impl<'a> BatchValues<'a> {
    /// Of a regression.
    pub fn of(
        regression: &Regression,
        inputs: &'a Tensors,
        targets: &'a Tensors,
        gradients: Option<&'a Gradients>,
    ) -> BatchValues<'a> {
        let gradient = gradients.map(|gradients| gradients.get(&regression.targets[0].tensor));
        let targets = regression.targets.iter().map(|target| targets.get(&target.tensor)).collect();
        BatchValues { input: inputs.get(&regression.input), targets, gradient }
    }

    /// The square root of a row's weight, which is the squared norm of the gradient at that position. It is never zero, so that
    /// a network whose gradients all vanish is fitted as without weights.
    fn scale(&self, row: usize, channels: usize) -> f32 {
        let length = |gradient: &[f32]| gradient.iter().map(|g| g * g).sum::<f32>().sqrt();
        self.gradient.map_or(1.0, |gradient| length(&gradient[row * channels..(row + 1) * channels]).max(1e-6))
    }
}

/// The sums of a regression, and its solutions.
pub struct Accumulator<'a> {
    /// The regression.
    pub regression: &'a Regression,
    positions: Positions,
    rows: Rows,
    /// Of the images that fit, and of those that are held out.
    sums: [Sums; 2],
    /// For each fit and each of its parts.
    maps: Vec<Vec<Map>>,
}

/// The solution of one part.
struct Map {
    ridge: f64,
    /// Squared error and variance on the held-out images.
    error: (f64, f64),
    affine: Affine,
    refit: Option<Refit>,
}

/// The right-hand side of the next solve.
struct Refit {
    closing: Option<Activation>,
    /// The affine map with its bias as the last row, in f32.
    weight: Mat<f32>,
    cross: Mat<f64>,
    part: Mat<f32>,
}

impl<'a> Accumulator<'a> {
    /// No row yet.
    pub fn new(regression: &'a Regression, sources: &Sources<'_>, options: &Options) -> Accumulator<'a> {
        let (columns, window) = (regression.columns(), regression.window);
        let rows = (options.rows * (window.patch() + 1)).max(options.least_rows);
        let take = rows.div_ceil(sources.images.count);
        Accumulator {
            regression,
            positions: Positions::new(take, window.positions()),
            rows: Rows::new(window, columns),
            sums: [Sums::new(&window, columns), Sums::new(&window, columns)],
            maps: Vec::new(),
        }
    }

    /// Adds the rows of a batch; calls `full` whenever enough rows for a matrix product have been gathered.
    pub fn add_images(
        &mut self,
        values: &BatchValues<'_>,
        images: std::ops::Range<usize>,
        full: &dyn Fn(&mut Accumulator<'_>),
    ) {
        let regression = self.regression;
        let positions = regression.window.positions();
        let elements = regression.window.input.elements();
        for (n, image) in images.enumerate() {
            for position in self.positions.draw(image).to_vec() {
                let position = position as usize;
                let pixels = &values.input[n * elements..(n + 1) * elements];
                let scale = values.scale(n * positions + position, regression.targets[0].channels);
                let ended = self.rows.push(pixels, position, scale, |row| {
                    for (target, values) in regression.targets.iter().zip(&values.targets) {
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

    /// Adds the gathered rows to the sums of the fitting or of the held-out images, on `threads` threads.
    pub fn add_rows(&mut self, held: bool, threads: usize) {
        self.sums[usize::from(held)].add(&self.rows, threads);
        self.rows.clear();
    }

    /// Fits and parts with the same patch elements: they share matrix factors.
    fn sharing_factors(&self) -> Vec<Vec<(usize, usize)>> {
        let mut sharing_factors: Vec<Vec<(usize, usize)>> = Vec::new();
        let mut known: HashMap<&[usize], usize> = HashMap::new();
        for (fit, (_, parts)) in self.regression.fits.iter().enumerate() {
            for (number, part) in parts.iter().enumerate() {
                let at = *known.entry(&part.index).or_insert_with(|| {
                    sharing_factors.push(Vec::new());
                    sharing_factors.len() - 1
                });
                sharing_factors[at].push((fit, number));
            }
        }
        sharing_factors
    }

    /// Solves every fit. Large systems are solved one after another on `threads` threads, small ones side by side.
    pub fn solve(&mut self, threads: usize) {
        let groups = self.sharing_factors();
        let parts = |group: &[(usize, usize)]| -> Vec<&Part> {
            group.iter().map(|&(fit, number)| &self.regression.fits[fit].1[number]).collect()
        };
        let solve = |at: usize, threads: usize| (at, solve_parts(&self.sums, &parts(&groups[at]), threads));
        let (large, small): (Vec<usize>, Vec<usize>) =
            (0..groups.len()).partition(|&at| parts(&groups[at])[0].index.len() >= LARGE_SYSTEM);
        let mut solved: Vec<(usize, Vec<Map>)> = large.into_iter().map(|at| solve(at, threads)).collect();
        solved.extend(in_parallel(small, threads, &|at| solve(at, 1)));
        let mut maps: Vec<Vec<Option<Map>>> =
            self.regression.fits.iter().map(|(_, parts)| parts.iter().map(|_| None).collect()).collect();
        for (at, solved) in solved {
            for ((fit, number), map) in groups[at].iter().zip(solved) {
                maps[*fit][*number] = Some(map);
            }
        }
        self.maps = maps.into_iter().map(|maps| maps.into_iter().flatten().collect()).collect();
    }

    /// Starts a refit iteration from the current maps.
    pub fn begin_refit(&mut self, requests: &[FitRequest]) {
        for ((index, _), maps) in self.regression.fits.iter().zip(&mut self.maps) {
            for map in maps {
                let (n, targets) = (map.affine.weight.nrows(), map.affine.weight.ncols());
                let element = |a: usize, f: usize| if a < n { map.affine.weight[(a, f)] } else { map.affine.bias[f] };
                map.refit = Some(Refit {
                    closing: requests[*index].closing,
                    weight: Mat::from_fn(n + 1, targets, |a, f| element(a, f) as f32),
                    cross: Mat::zeros(n + 1, targets),
                    part: Mat::zeros(n + 1, targets),
                });
            }
        }
    }

    /// Adds the gathered rows to the right-hand sides, with activation-aware targets, on `threads` threads.
    pub fn add_refit_rows(&mut self, threads: usize) {
        let (patches, values) = (self.rows.patches(), self.rows.values());
        let all = self.regression.fits.iter().zip(&mut self.maps).flat_map(|((_, parts), maps)| parts.iter().zip(maps));
        let tasks: Vec<(&Part, &mut Map)> = all.collect();
        in_parallel(tasks, threads, &|(part, map)| {
            if let Some(refit) = &mut map.refit {
                refit.add(part, patches, values);
            }
        });
        self.rows.clear();
    }

    /// Solves the refit iteration on `threads` threads.
    pub fn solve_refit(&mut self, threads: usize) {
        let sums = [&self.sums[0], &self.sums[1]];
        for members in self.sharing_factors() {
            let (fit, number) = members[0];
            let system = System::new(&sums, &self.regression.fits[fit].1[number].index);
            let mut factors = Factors::new(&system);
            for (fit, number) in &members {
                factors.get(self.maps[*fit][*number].ridge);
            }
            let solved = in_parallel(&members, threads, &|&(fit, number): &(usize, usize)| -> Option<Affine> {
                let map = &self.maps[fit][number];
                let (refit, factor) = (map.refit.as_ref()?, factors.find(map.ridge)?);
                let part = &self.regression.fits[fit].1[number];
                let mut side = system.right(|a, f| refit.cross[(a, f)], refit.cross.ncols());
                if let Some(own) = &part.own {
                    system.subtract_input(&mut side, own.iter().copied());
                }
                Some(system.solve_part(part, map.ridge, factor, &side))
            });
            for ((fit, number), solved) in members.into_iter().zip(solved) {
                let map = &mut self.maps[fit][number];
                map.refit = None;
                if let Some(affine) = solved {
                    map.affine = affine;
                }
            }
        }
    }

    /// The solutions by one method, computed on `threads` threads.
    pub fn collect(
        &self,
        requests: &[FitRequest],
        method: Method,
        threads: usize,
        into: &mut HashMap<usize, Solution>,
    ) {
        let mut scaled = if method.moments { self.scaled(requests, threads) } else { HashMap::new() };
        for (fit, ((index, parts), maps)) in self.regression.fits.iter().zip(&self.maps).enumerate() {
            let request = &requests[*index];
            let (mut weight, mut bias) = (Vec::new(), Vec::new());
            for (number, map) in maps.iter().enumerate().take(parts.len()) {
                let scaled = scaled.remove(&(fit, number));
                let affine = scaled.as_ref().unwrap_or(&map.affine);
                let [rows, columns] = request.map.conv.kernel;
                affine.append(rows * columns, &mut weight, &mut bias);
            }
            let (error, variance) = maps.iter().fold((0.0, 0.0), |sum, m| (sum.0 + m.error.0, sum.1 + m.error.1));
            let ridge = maps.first().map_or(0.0, |m| m.ridge);
            let error = if variance > 0.0 { error / variance } else { 0.0 };
            into.insert(*index, Solution { weight, bias, ridge, error });
        }
    }

    /// By fit and part, the maps scaled and shifted so that their outputs have the targets' means and variances; not those of targets
    /// behind the closing activation.
    fn scaled(&self, requests: &[FitRequest], threads: usize) -> HashMap<(usize, usize), Affine> {
        let sums = [&self.sums[0], &self.sums[1]];
        let mut all = HashMap::new();
        for mut members in self.sharing_factors() {
            members.retain(|(fit, _)| !requests[self.regression.fits[*fit].0].closed);
            let Some(&(fit, number)) = members.first() else { continue };
            let system = System::new(&sums, &self.regression.fits[fit].1[number].index);
            let scaled = in_parallel(&members, threads, &|&(fit, number): &(usize, usize)| {
                let moments = solve::moments(&sums, &self.regression.fits[fit].1[number]);
                system.matched(&self.maps[fit][number].affine, &moments)
            });
            all.extend(members.into_iter().zip(scaled));
        }
        all
    }
}

impl Refit {
    /// Adds rows of patches, with their ones, and of targets.
    fn add(&mut self, part: &Part, patches: MatRef<'_, f32>, values: MatRef<'_, f32>) {
        let ones = patches.nrows() - 1;
        let whole = part.index.iter().copied().eq(0..ones);
        let copied = if whole { None } else { Some(rows_of(patches, &part.index, ones)) };
        let own = copied.as_ref().map_or(patches, |own| own.as_ref());
        let mut fitted: Mat<f32> = Mat::zeros(self.weight.ncols(), patches.ncols());
        matmul(fitted.as_mut(), Accum::Replace, self.weight.transpose(), own, 1.0, Par::Seq);
        for row in 0..fitted.ncols() {
            let scale = patches[(ones, row)];
            for f in 0..fitted.nrows() {
                let target = values[(part.targets[0] + f, row)];
                // Of the whole, which the activation acts on.
                let input = part.own.as_ref().map_or(0.0, |places| own[(places[f], row)]);
                fitted[(f, row)] = activation_aware_target(self.closing, scale, target, fitted[(f, row)] + input);
            }
        }
        add_product(&mut self.cross, &mut self.part, own, fitted.as_ref(), 1);
    }
}

/// The selected patch elements of every row, and the constant ones.
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

/// The target of a refit iteration, for a row scaled by `scale`: differences that the closing activation removes do not count.
///
/// Where the target is cut to zero by a ReLU, any fitted value below zero is exact.
fn activation_aware_target(closing: Option<Activation>, scale: f32, target: f32, fitted: f32) -> f32 {
    match closing {
        Some(Activation::Relu) if target <= 0.0 => fitted.min(0.0),
        Some(Activation::Clip { min, .. }) if target <= min * scale => fitted.min(min * scale),
        Some(Activation::Clip { max, .. }) if target >= max * scale => fitted.max(max * scale),
        _ => target,
    }
}

/// Cholesky factors of one system, by ridge.
struct Factors<'a> {
    system: &'a System,
    known: Vec<(f64, Option<Llt<f64>>)>,
}

impl<'a> Factors<'a> {
    fn new(system: &'a System) -> Factors<'a> {
        Factors { system, known: Vec::new() }
    }

    fn get(&mut self, ridge: f64) -> Option<&Llt<f64>> {
        if !self.known.iter().any(|(known, _)| *known == ridge) {
            self.known.push((ridge, self.system.factor(ridge)));
        }
        self.find(ridge)
    }

    /// One that was computed before.
    fn find(&self, ridge: f64) -> Option<&Llt<f64>> {
        self.known.iter().find(|(known, _)| *known == ridge)?.1.as_ref()
    }
}

/// For each part the solution from all images, with the ridge of least error on the held-out images, on `threads` threads. The parts
/// have the same patch elements.
fn solve_parts(sums: &[Sums; 2], parts: &[&Part], threads: usize) -> Vec<Map> {
    let index = &parts[0].index;
    let chosen = choose_ridges(sums, parts, threads);
    let both = [&sums[0], &sums[1]];
    let system = System::new(&both, index);
    let mut factors = Factors::new(&system);
    for (ridge, _) in &chosen {
        factors.get(*ridge);
    }
    in_parallel(0..parts.len(), threads, &|at| {
        let (ridge, mut error) = chosen[at];
        if parts[at].separable.is_some() {
            error = held_out_error(sums, parts[at], ridge).unwrap_or(error);
        }
        let side = system.side(&both, parts[at]);
        let affine = match factors.find(ridge) {
            Some(factor) => system.solve_part(parts[at], ridge, factor, &side),
            None => Affine { weight: Mat::zeros(index.len(), side.1.len()), bias: side.1 },
        };
        Map { ridge, error, affine, refit: None }
    })
}

/// The squared error and the variance of all targets of a part on the held-out images, with a ridge.
fn held_out_error(sums: &[Sums; 2], part: &Part, ridge: f64) -> Option<(f64, f64)> {
    let [fitted, held] = [0, 1].map(|set| System::new(&[&sums[set]], &part.index));
    let factor = fitted.factor(ridge)?;
    let map = fitted.solve_part(part, ridge, &factor, &fitted.side(&[&sums[0]], part));
    let input = |f: usize| part.own.as_ref().map(|own| part.index[own[f]]);
    let all = 0..part.targets[1] - part.targets[0];
    let squares: Vec<f64> = all.map(|f| solve::squares(&sums[1], part.targets[0] + f, input(f))).collect();
    Some(held.unexplained(&map, &held.side(&[&sums[1]], part), &squares))
}

/// For each part the ridge of least error on the held-out images, and the squared error and variance there.
fn choose_ridges(sums: &[Sums; 2], parts: &[&Part], threads: usize) -> Vec<(f64, (f64, f64))> {
    let index = &parts[0].index;
    let (fitted, held) = (System::new(&[&sums[0]], index), System::new(&[&sums[1]], index));
    let sides: Vec<_> = parts
        .iter()
        .map(|part| {
            let count = part.targets[1] - part.targets[0];
            let every = count.div_ceil(RIDGE_TARGETS).max(1);
            let targets: Vec<usize> = (0..count).step_by(every).collect();
            let input = |f: usize| part.own.as_ref().map(|own| index[own[f]]);
            let squares: Vec<f64> =
                targets.iter().map(|&f| solve::squares(&sums[1], part.targets[0] + f, input(f))).collect();
            let side = fitted.side_of(&[&sums[0]], part, &targets);
            (side, held.side_of(&[&sums[1]], part, &targets), squares)
        })
        .collect();
    // For each ridge the errors of the parts, or none where it is too small to solve the system.
    let errors = in_parallel(RIDGES, threads, &|ridge| -> Vec<(f64, f64)> {
        let Some(factor) = fitted.factor(ridge) else { return Vec::new() };
        let found = sides.iter().map(|((side, means), held_side, squares)| {
            held.unexplained(&fitted.solve(&factor, side, means), held_side, squares)
        });
        found.collect()
    });
    let mut best = vec![(RIDGES[RIDGES.len() - 1], (f64::INFINITY, 0.0)); parts.len()];
    for (ridge, errors) in RIDGES.into_iter().zip(errors) {
        for (best, found) in best.iter_mut().zip(errors) {
            if found.0 < best.1.0 {
                *best = (ridge, found);
            }
        }
    }
    best
}
