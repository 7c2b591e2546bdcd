//! Similarity of a network and its parent, layer by layer: linear CKA by minibatches.
//!
//! For n images and two tensors with Gram matrices K and L (of features, here after subtracting their mean, which
//! changes no estimate), diagonals set to zero, the unbiased estimator of HSIC is (Song et al., Feature Selection via
//! Dependence Maximization, JMLR 13, 2012, eq. 5)
//!
//!   HSIC(K, L) = [tr(K L) + 1'K1 1'L1 / ((n - 1)(n - 2)) - 2 / (n - 2) 1'K L1] / (n (n - 3)),
//!
//! and with means over batches (Nguyen et al., arXiv:2010.15327, eq. 2)
//!
//!   CKA = mean HSIC(K, L) / sqrt(mean HSIC(K, K) mean HSIC(L, L)).

use std::borrow::Cow;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use nettriage_engine::Options;
use nettriage_net::{Graph, INPUT, Kind, Network, Shape, slice};
use nettriage_records::record::{LayerSimilarity, Similarity};

use crate::Error;
use crate::child::Child;
use crate::shared::{ImageSet, Parent, SharedWork};

/// Most validation images used.
const IMAGES: usize = 256;
/// Images in a batch.
const BATCH: usize = 64;
/// Fewer images give too noisy an estimate; the estimator itself needs four.
const MIN_IMAGES: usize = 16;
/// Most tensors that are compared, beside the blocks' outputs.
const TENSORS: usize = 12;

/// A child's network before and after training.
pub(crate) struct Subject<'a> {
    /// After training.
    pub child: &'a Child,
    /// Before training.
    pub untrained: &'a Network,
    /// Names the network before training, which other schemes start from too.
    pub start: &'a str,
    /// The tensor up to which the network is the parent's.
    pub from: &'a str,
}

/// Before training and after it, tensor by tensor; `None` where the validation set is too small.
pub(crate) fn compare(
    shared: &SharedWork<'_>,
    parent: &Parent,
    subject: &Subject<'_>,
    threads: usize,
) -> Result<Option<Similarity>, Error> {
    let Some((batch, batches)) = batches(shared.context.validation.len()) else { return Ok(None) };
    let Subject { child, untrained, start, from } = *subject;
    let names = tensors(&parent.network.graph, shared)?;
    let size = batch * batch * batches;
    let probe = Probe { shared, parent, batch, batches, threads };
    let compute = || probe.grams(&parent.network, INPUT, &names);
    let theirs = shared.memoise(&parent.id, "similarity", "", names.len() * size, compute)?;
    // At the block's output: the substitute's output.
    let counterpart = |name: &String| match &child.block {
        Some(block) if *name == block.output => Some(child.block_output.clone()),
        _ => child.network.graph.layer(name).map(|layer| layer.name.clone()),
    };
    let graph = &child.network.graph;
    let shape = |graph: &Graph, name: &str| -> Result<Shape, Error> { Ok(graph.shape_of(name)?) };
    let mut pairs: Vec<(usize, String)> = Vec::new();
    for (index, name) in names.iter().enumerate() {
        if let Some(own) = counterpart(name)
            && own != INPUT
            && shape(graph, &own)? == shape(&parent.network.graph, name)?
        {
            pairs.push((index, own));
        }
    }
    let measure = |network: &Network, from: &str| -> Result<Vec<Option<f64>>, Error> {
        // The tensors before `from` are the parent's, so their Gram matrices are known if they are among `names`.
        let known = |own: &String| {
            let before = graph.position(own) <= graph.position(from);
            names.iter().position(|name| name == own).filter(|_| before)
        };
        let inside = |tail: &Network, own: &String| tail.graph.layer(own).is_some();
        let (mut from, mut tail) = (from, part(network, from)?);
        if !pairs.iter().all(|(_, own)| inside(&tail, own) || known(own).is_some()) {
            (from, tail) = (INPUT, Cow::Borrowed(network));
        }
        let own: Vec<String> = pairs.iter().map(|(_, own)| own.clone()).filter(|own| inside(&tail, own)).collect();
        let ours = probe.grams(&tail, from, &own)?;
        let mut ours = ours.chunks_exact(size);
        let of = |place: usize| &theirs[place * size..(place + 1) * size];
        let each = pairs.iter().map(|(index, own)| {
            let ours = if inside(&tail, own) { ours.next() } else { known(own).map(of) };
            ours.and_then(|ours| cka(ours, of(*index), batch))
        });
        Ok(each.collect())
    };
    // Whatever trains later, no layer before the block has yet.
    let context = shared.context;
    let starts = context.runtime.reuse.evaluation && context.study.children.activations.is_full();
    let block = child.block.as_ref().filter(|_| starts);
    let first = block.map_or(INPUT, |block| &block.input);
    let before = shared.untrained_similarity(start, || measure(untrained, first))?;
    let still = untrained.weights == child.network.weights;
    let after = if still { before.clone() } else { measure(&child.network, from)? };
    let layers = pairs.iter().zip(before.into_iter().zip(after)).map(|((index, _), (before, after))| LayerSimilarity {
        layer: names[*index].clone(),
        before,
        after,
    });
    Ok(Some(Similarity { images: batch * batches, batch, layers: layers.collect() }))
}

/// The part of `network` behind tensor `from`.
fn part<'a>(network: &'a Network, from: &str) -> Result<Cow<'a, Network>, Error> {
    match from {
        INPUT => Ok(Cow::Borrowed(network)),
        _ => Ok(Cow::Owned(slice::between(network, from, &network.graph.output)?)),
    }
}

/// Images in a batch and number of batches.
fn batches(images: usize) -> Option<(usize, usize)> {
    let images = images.min(IMAGES);
    let batch = images.min(BATCH);
    (batch >= MIN_IMAGES).then(|| (batch, images / batch))
}

/// The parent's tensors that are compared: activations spread over the depth, the blocks' outputs, and the network's.
fn tensors(graph: &Graph, shared: &SharedWork<'_>) -> Result<Vec<String>, Error> {
    let active = |kind: &Kind| matches!(kind, Kind::Activation(_));
    let mut places: Vec<usize> =
        graph.layers.iter().enumerate().filter(|(_, l)| active(&l.kind)).map(|(place, _)| place).collect();
    if places.is_empty() {
        places = (0..graph.layers.len()).collect();
    }
    let count = places.len().min(TENSORS);
    let mut chosen: Vec<usize> = (0..count).map(|i| places[i * places.len() / count]).collect();
    let outputs = shared.context.blocks.iter().map(|b| b.output.as_str()).chain([graph.output.as_str()]);
    chosen.extend(outputs.filter_map(|name| graph.position(name)));
    chosen.sort_unstable();
    chosen.dedup();
    Ok(chosen.into_iter().map(|place| graph.layers[place].name.clone()).collect())
}

/// What Gram matrices are computed of and with.
struct Probe<'a> {
    shared: &'a SharedWork<'a>,
    parent: &'a Parent,
    batch: usize,
    batches: usize,
    threads: usize,
}

impl Probe<'_> {
    /// The Gram matrices of these tensors of `network`, tensor by tensor and batch by batch; it takes the parent's tensor `from`.
    fn grams(&self, network: &Network, from: &str, names: &[String]) -> Result<Vec<f32>, Error> {
        let Probe { shared, parent, batch, batches, threads } = *self;
        let exact = shared.context.study.children.exact;
        let options = Options { threads, exact, keep: names.to_vec(), ..Options::inference(batch) };
        let mut model = shared.context.device().model(network, &options)?;
        let set = ImageSet::Validation;
        let mut images = shared.activations(&parent.request(from, set, batch, threads))?;
        let size = batch * batch;
        let mut all = vec![0.0; names.len() * batches * size];
        let mut centred = Vec::new();
        for index in 0..batches {
            model.forward(images.batch(index * batch..(index + 1) * batch)?)?;
            for (tensor, name) in names.iter().enumerate() {
                let values = model.activation(name).unwrap_or_default();
                let at = (tensor * batches + index) * size;
                gram(values, batch, &mut centred, &mut all[at..at + size]);
            }
        }
        Ok(all)
    }
}

/// X X' of the rows of `values`, the mean row subtracted in `centred`.
fn gram(values: &[f32], rows: usize, centred: &mut Vec<f32>, out: &mut [f32]) {
    let columns = values.len() / rows;
    let mut mean = vec![0.0f64; columns];
    for row in values.chunks_exact(columns) {
        mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += f64::from(*value));
    }
    mean.iter_mut().for_each(|mean| *mean /= rows as f64);
    centred.resize(values.len(), 0.0);
    for (centred, row) in centred.chunks_exact_mut(columns).zip(values.chunks_exact(columns)) {
        for ((centred, value), mean) in centred.iter_mut().zip(row).zip(&mean) {
            *centred = (f64::from(*value) - mean) as f32;
        }
    }
    let x = MatRef::from_row_major_slice(centred, rows, columns);
    // Symmetric, so that rows may be taken for columns.
    let product = MatMut::from_column_major_slice_mut(out, rows, rows);
    matmul(product, Accum::Replace, x, x.transpose(), 1.0, Par::Seq);
}

/// The estimate from Gram matrices of `n` x `n`, batch by batch; `None` where a tensor does not vary.
fn cka(ours: &[f32], theirs: &[f32], n: usize) -> Option<f64> {
    let mean = |a: &[f32], b: &[f32]| -> f64 {
        let pairs = a.chunks_exact(n * n).zip(b.chunks_exact(n * n));
        pairs.map(|(k, l)| hsic(k, l, n)).sum::<f64>() / (a.len() / (n * n)) as f64
    };
    let (own, other) = (mean(ours, ours), mean(theirs, theirs));
    let estimate = mean(ours, theirs) / (own * other).sqrt();
    (own > 0.0 && other > 0.0 && estimate.is_finite()).then_some(estimate)
}

/// The unbiased estimator of HSIC.
fn hsic(k: &[f32], l: &[f32], n: usize) -> f64 {
    let (mut trace, mut sum_k, mut sum_l, mut cross) = (0.0, 0.0, 0.0, 0.0);
    for i in 0..n {
        let (mut row_k, mut row_l) = (0.0, 0.0);
        for j in (0..n).filter(|&j| j != i) {
            let (a, b) = (f64::from(k[i * n + j]), f64::from(l[i * n + j]));
            trace += a * b;
            row_k += a;
            row_l += b;
        }
        cross += row_k * row_l;
        sum_k += row_k;
        sum_l += row_l;
    }
    let n = n as f64;
    (trace + sum_k * sum_l / ((n - 1.0) * (n - 2.0)) - 2.0 * cross / (n - 2.0)) / (n * (n - 3.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn noise(rng: &mut ChaCha8Rng, count: usize) -> Vec<f32> {
        // Sums of uniform numbers are near enough to normal ones here.
        (0..count).map(|_| (0..12).map(|_| rng.random_range(-0.5f32..0.5)).sum()).collect()
    }

    fn grams_of(batch: &[f32], n: usize) -> Vec<f32> {
        let mut out = vec![0.0; n * n];
        gram(batch, n, &mut Vec::new(), &mut out);
        out
    }

    #[test]
    fn hsic_by_the_sum_over_distinct_indices() {
        // The U-statistic that eq. 5 is a closed form of: runtime of K_ij L_ij, K_ij L_kl and K_ij L_ik over distinct i, j, k, l.
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let n = 6;
        let (k, l) = (grams_of(&noise(&mut rng, n * 3), n), grams_of(&noise(&mut rng, n * 2), n));
        let (k_at, l_at) = (|i: usize, j: usize| f64::from(k[i * n + j]), |i: usize, j: usize| f64::from(l[i * n + j]));
        let (mut pairs, mut quads, mut triples) = ((0.0, 0.0), (0.0, 0.0), (0.0, 0.0));
        for i in 0..n {
            for j in (0..n).filter(|&j| j != i) {
                pairs = (pairs.0 + k_at(i, j) * l_at(i, j), pairs.1 + 1.0);
                for q in (0..n).filter(|&q| q != i && q != j) {
                    triples = (triples.0 + k_at(i, j) * l_at(i, q), triples.1 + 1.0);
                    for r in (0..n).filter(|&r| r != i && r != j && r != q) {
                        quads = (quads.0 + k_at(i, j) * l_at(q, r), quads.1 + 1.0);
                    }
                }
            }
        }
        let by_definition = pairs.0 / pairs.1 + quads.0 / quads.1 - 2.0 * triples.0 / triples.1;
        assert!((hsic(&k, &l, n) - by_definition).abs() < 1e-6 * by_definition.abs().max(1.0));
    }

    #[test]
    fn alike_up_to_rotation_and_scale_and_unlike_for_noise() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let (n, images) = (32, 128);
        let x = noise(&mut rng, images * 2);
        // Turned by 0.7 radians, three times as large, moved far away.
        let (sin, cos) = 0.7f32.sin_cos();
        let rotated: Vec<f32> = x
            .chunks_exact(2)
            .flat_map(|p| [3.0 * (cos * p[0] - sin * p[1]) + 100.0, 3.0 * (sin * p[0] + cos * p[1]) - 50.0])
            .collect();
        let batched = |values: &[f32], width: usize| -> Vec<f32> {
            values.chunks_exact(n * width).flat_map(|batch| grams_of(batch, n)).collect()
        };
        let same = cka(&batched(&rotated, 2), &batched(&x, 2), n).unwrap();
        assert!((same - 1.0).abs() < 1e-4, "{same}");
        let other = noise(&mut rng, images * 500);
        let unlike = cka(&batched(&other, 500), &batched(&x, 2), n).unwrap();
        // The biased estimator gives far more than 0 here.
        assert!(unlike.abs() < 0.2, "{unlike}");
        assert_eq!(cka(&batched(&vec![1.0; images * 2], 2), &batched(&x, 2), n), None);
    }
}
