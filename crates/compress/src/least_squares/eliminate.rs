//! Backward elimination of input channels: one after another the channel whose absence costs the regression least.
//!
//! With H = (Z'Z + lambda I)^-1, W = H Z'T and the rows g of a channel, the best solution without the channel has the squared error
//! (ridge included) of W plus tr(W_g' (H_gg)^-1 W_g). It is W - H_·g (H_gg)^-1 W_g, and its H is H - H_·g (H_gg)^-1 H_g·. This is the
//! optimal brain surgeon (Hassibi and Stork, NIPS 1992) for groups of weights of a quadratic loss. Channel pruning (He et al.,
//! arXiv:1707.06168) minimises the same error over the channels, by the lasso.

use faer::linalg::solvers::Solve;
use faer::{Mat, Side};

use super::solve::System;

/// H; none where Z'Z is not finite.
pub fn inverse(system: &System, ridge: f64) -> Option<Mat<f64>> {
    let n = system.unknowns();
    Some(system.factor(ridge)?.solve(&Mat::<f64>::identity(n, n)))
}

/// The channels in the order of their elimination: row `a` of `h` and of `right` (Z'T) belongs to channel `a % channels`.
pub fn order(mut h: Mat<f64>, right: &Mat<f64>, channels: usize) -> Vec<usize> {
    let (n, targets) = (h.nrows(), right.ncols());
    let rows = |channel: usize| -> Vec<usize> { (channel..n).step_by(channels).collect() };
    let mut weight = &h * right;
    let mut left: Vec<usize> = (0..channels).collect();
    let mut order = Vec::with_capacity(channels);
    while !left.is_empty() {
        let mut best: Option<(f64, usize, Mat<f64>)> = None;
        for (place, &channel) in left.iter().enumerate() {
            let rows = rows(channel);
            let own = Mat::from_fn(rows.len(), rows.len(), |a, b| h[(rows[a], rows[b])]);
            let weights = Mat::from_fn(rows.len(), targets, |a, f| weight[(rows[a], f)]);
            // H is positive definite but for rounding; a channel for which it is not cannot be judged and stays to the end.
            let Ok(factor) = own.llt(Side::Lower) else { continue };
            let solved = factor.solve(&weights);
            let pairs = (0..targets).flat_map(|f| (0..rows.len()).map(move |a| (a, f)));
            let cost: f64 = pairs.map(|at| weights[at] * solved[at]).sum();
            if best.as_ref().is_none_or(|(least, ..)| cost < *least) {
                best = Some((cost, place, own));
            }
        }
        let Some((_, place, own)) = best else {
            order.append(&mut left);
            break;
        };
        let channel = left.remove(place);
        order.push(channel);
        let gone = rows(channel);
        let columns = Mat::from_fn(n, gone.len(), |a, b| h[(a, gone[b])]);
        let Ok(factor) = own.llt(Side::Lower) else { continue };
        let across = factor.solve(&Mat::from_fn(gone.len(), n, |a, b| h[(gone[a], b)]));
        let weights = factor.solve(&Mat::from_fn(gone.len(), targets, |a, f| weight[(gone[a], f)]));
        h -= &columns * &across;
        weight -= &columns * &weights;
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The least squared error, ridge included, of the rows `kept`: tr(T'T) is left out.
    fn error(gram: &Mat<f64>, right: &Mat<f64>, kept: &[usize]) -> f64 {
        let own = Mat::from_fn(kept.len(), kept.len(), |a, b| gram[(kept[a], kept[b])]);
        let side = Mat::from_fn(kept.len(), right.ncols(), |a, f| right[(kept[a], f)]);
        let weight = own.llt(Side::Lower).unwrap().solve(&side);
        -(0..right.ncols())
            .flat_map(|f| (0..kept.len()).map(move |a| (a, f)))
            .map(|at| side[at] * weight[at])
            .sum::<f64>()
    }

    #[test]
    fn each_step_leaves_out_the_channel_whose_absence_costs_least() {
        let (channels, taps, targets) = (5, 3, 4);
        let n = channels * taps;
        let mut state = 7u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / (1u64 << 31) as f64 - 0.5
        };
        let rows = Mat::from_fn(40, n, |_, _| noise());
        let wanted = Mat::from_fn(40, targets, |_, _| noise());
        let gram = rows.transpose() * &rows;
        let right = rows.transpose() * &wanted;
        let h = gram.llt(Side::Lower).unwrap().solve(&Mat::<f64>::identity(n, n));
        let found = order(h, &right, channels);
        // By solving every smaller regression again.
        let mut left: Vec<usize> = (0..channels).collect();
        for channel in found {
            let without = |out: usize| -> Vec<usize> {
                (0..n).filter(|row| left.contains(&(row % channels)) && row % channels != out).collect()
            };
            if left.len() > 1 {
                let costs: Vec<f64> = left.iter().map(|&out| error(&gram, &right, &without(out))).collect();
                let least = costs.iter().copied().fold(f64::INFINITY, f64::min);
                assert!((error(&gram, &right, &without(channel)) - least).abs() < 1e-9, "{costs:?}");
            }
            left.retain(|other| *other != channel);
        }
        assert!(left.is_empty());
    }
}
