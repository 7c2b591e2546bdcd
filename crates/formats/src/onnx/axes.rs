//! Axes and extents as the attributes of Reshape, Transpose and Slice give them.

use super::attributes::Node;

/// An axis counted from the end where negative.
pub fn axis(index: i64, rank: usize) -> Result<usize, String> {
    let positive = if index < 0 { index.checked_add(rank as i64) } else { Some(index) };
    positive
        .and_then(|i| usize::try_from(i).ok())
        .filter(|&i| i < rank)
        .ok_or_else(|| format!("axis {index} of {rank}"))
}

/// The axes that a Shape node gives the extents of: all of them, or a range from operator set 15 on.
pub fn shape_range(node: &Node, rank: usize) -> std::ops::Range<usize> {
    let position = |name: &str, default: usize| match node.int(name) {
        Some(at) if at < 0 => at.saturating_add(rank as i64).max(0) as usize,
        Some(at) => (at as usize).min(rank),
        None => default,
    };
    let start = position("start", 0);
    start..position("end", rank).max(start)
}

/// The extents of a Reshape: 0 copies the input's, -1 is inferred.
pub fn resolve(target: &[i64], extents: &[usize], zero_is_zero: bool) -> Result<Vec<usize>, String> {
    let fail = || format!("{extents:?} cannot be reshaped to {target:?}");
    let total = extents.iter().try_fold(1usize, |n, &e| n.checked_mul(e)).ok_or_else(fail)?;
    let mut open = None;
    let mut result = Vec::with_capacity(target.len().min(16));
    for (at, &extent) in target.iter().enumerate() {
        result.push(match extent {
            0 if !zero_is_zero => *extents.get(at).ok_or_else(fail)?,
            -1 if open.is_none() => {
                open = Some(at);
                1
            }
            _ => usize::try_from(extent).map_err(|_| fail())?,
        });
    }
    let known = result.iter().try_fold(1usize, |n, &e| n.checked_mul(e)).ok_or_else(fail)?;
    if let Some(at) = open {
        if known == 0 || !total.is_multiple_of(known) {
            return Err(fail());
        }
        result[at] = total / known;
    } else if known != total {
        return Err(fail());
    }
    Ok(result)
}

pub fn permutation(order: &[i64], rank: usize) -> Result<Vec<usize>, String> {
    let axes = order.iter().map(|&at| axis(at, rank)).collect::<Result<Vec<_>, _>>()?;
    let mut seen = axes.clone();
    seen.sort_unstable();
    if seen.len() != rank || seen.iter().enumerate().any(|(i, &at)| i != at) {
        return Err(format!("{order:?} is not a permutation of {rank} axes"));
    }
    Ok(axes)
}

/// The part of an axis that a Slice selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub start: usize,
    pub step: i64,
    pub number: usize,
}

/// The ranges of a Slice node, axis by axis. `listed` finds a list by attribute name or by input.
pub fn slices(
    dims: &[usize],
    listed: impl Fn(&str, usize) -> Result<Option<Vec<i64>>, String>,
) -> Result<Vec<(usize, Range)>, String> {
    let starts = listed("starts", 1)?.ok_or("it has no starts")?;
    let ends = listed("ends", 2)?.ok_or("it has no ends")?;
    let axes = listed("axes", 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = listed("steps", 4)?.unwrap_or_else(|| vec![1; starts.len()]);
    if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        return Err("its starts, ends, axes and steps are not of one length".into());
    }
    let mut ranges = Vec::new();
    for index in 0..starts.len() {
        let at = axis(axes[index], dims.len())?;
        let (extent, step) = (dims[at] as i64, steps[index]);
        let from_end = |position: i64| if position < 0 { position.saturating_add(extent) } else { position };
        let (start, end) = (from_end(starts[index]), from_end(ends[index]));
        let (start, number) = match step {
            0 => return Err("a step of 0".into()),
            _ if extent == 0 => (0, 0),
            1.. => {
                let (start, end) = (start.clamp(0, extent), end.clamp(0, extent));
                (start, steps_in(end - start, step))
            }
            _ => {
                let (start, end) = (start.clamp(0, extent - 1), end.clamp(-1, extent - 1));
                (start, steps_in(start - end, step.saturating_neg()))
            }
        };
        if ranges.iter().any(|(other, _)| *other == at) {
            return Err("its axes repeat".into());
        }
        ranges.push((at, Range { start: start.max(0) as usize, step, number: number as usize }));
    }
    Ok(ranges)
}

fn steps_in(distance: i64, step: i64) -> i64 {
    let distance = distance.max(0);
    distance / step + i64::from(distance % step != 0)
}
