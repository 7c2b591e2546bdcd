//! How an ONNX tensor lies on one of ours.
//!
//! Ours are (C, H, W) per image. In ONNX the same elements pass under other shapes: NHWC, flattened, channels split
//! into groups and swapped. Such reshaping moves nothing until a layer needs it: a [`Live`] tensor is one of ours and,
//! for every ONNX axis, which stretches of our axes it runs over.

use nettriage_net::Shape;

/// The longest vector whose order is followed; the longest in use have some hundred thousand features.
const MAX_FEATURES: usize = 1 << 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    Batch,
    Channel,
    Row,
    Column,
}

/// `size` positions along one of our axes, `step` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Atom {
    pub axis: Axis,
    pub size: usize,
    pub step: usize,
}

/// The atoms that an ONNX axis runs over, outermost first; none for an axis of extent 1.
pub type Dim = Vec<Atom>;

/// An ONNX tensor that depends on the input.
#[derive(Clone, Debug)]
pub struct Live {
    /// Our tensor: a layer or the input.
    pub tensor: String,
    pub shape: Shape,
    pub dims: Vec<Dim>,
}

fn whole(axis: Axis, size: usize) -> Dim {
    if size == 1 { Vec::new() } else { vec![Atom { axis, size, step: 1 }] }
}

pub fn size(dim: &Dim) -> usize {
    dim.iter().map(|atom| atom.size).product()
}

/// Joins neighbours that are one stretch.
fn merged(dim: Dim) -> Dim {
    let mut result: Dim = Vec::with_capacity(dim.len());
    for atom in dim {
        match result.last_mut() {
            Some(outer)
                if outer.axis == atom.axis && atom.axis != Axis::Batch && outer.step == atom.size * atom.step =>
            {
                *outer = Atom { axis: atom.axis, size: outer.size * atom.size, step: atom.step };
            }
            _ => result.push(atom),
        }
    }
    result
}

impl Live {
    fn batch(size: usize) -> Dim {
        vec![Atom { axis: Axis::Batch, size, step: 1 }]
    }

    /// (N, C, H, W).
    pub fn picture(tensor: String, shape: Shape, batch: usize) -> Live {
        let Shape { channels, height, width } = shape;
        let dims = vec![
            Live::batch(batch),
            whole(Axis::Channel, channels),
            whole(Axis::Row, height),
            whole(Axis::Column, width),
        ];
        Live { tensor, shape, dims }
    }

    /// (N, H, W, C).
    pub fn channels_last(tensor: String, shape: Shape, batch: usize) -> Live {
        let mut live = Live::picture(tensor, shape, batch);
        live.dims = [0, 2, 3, 1].map(|axis| live.dims[axis].clone()).to_vec();
        live
    }

    /// (N, F).
    pub fn vector(tensor: String, features: usize, batch: usize) -> Live {
        let dims = vec![Live::batch(batch), whole(Axis::Channel, features)];
        Live { tensor, shape: Shape::new(features, 1, 1), dims }
    }

    pub fn batch_size(&self) -> usize {
        self.dims.iter().flatten().find(|atom| atom.axis == Axis::Batch).map_or(1, |atom| atom.size)
    }

    /// The ONNX shape.
    pub fn extents(&self) -> Vec<usize> {
        self.dims.iter().map(size).collect()
    }

    /// The same view of another tensor of the same shape.
    pub fn with(&self, tensor: String) -> Live {
        Live { tensor, ..self.clone() }
    }

    /// Whether this is (N, C, H, W), or (N, F) for a vector.
    pub fn is_plain(&self) -> bool {
        let picture = Live::picture(String::new(), self.shape, self.batch_size());
        self.dims == picture.dims || self.is_plain_vector()
    }

    pub fn is_plain_vector(&self) -> bool {
        let Shape { channels, height, width } = self.shape;
        (height, width) == (1, 1) && self.dims == Live::vector(String::new(), channels, self.batch_size()).dims
    }

    /// Which ONNX axis runs over all channels, in order.
    pub fn channel_axis(&self) -> Option<usize> {
        let channels = whole(Axis::Channel, self.shape.channels);
        if channels.is_empty() {
            // One channel: the place where it would stand.
            return Some(1).filter(|_| self.dims.len() >= 2);
        }
        self.dims.iter().position(|dim| *dim == channels)
    }

    /// Which of our axes an ONNX axis runs over, if it is one and whole; the channels where its extent is 1 and
    /// nothing else says.
    pub fn axis(&self, at: usize) -> Option<Axis> {
        let Shape { channels, height, width } = self.shape;
        let candidates = [(Axis::Channel, channels), (Axis::Row, height), (Axis::Column, width)];
        candidates
            .into_iter()
            .find(|(axis, size)| *size > 1 && self.dims[at] == whole(*axis, *size))
            .map(|(axis, _)| axis)
    }

    pub fn transposed(&self, order: &[usize]) -> Live {
        Live { dims: order.iter().map(|&axis| self.dims[axis].clone()).collect(), ..self.clone() }
    }

    /// The same elements under other extents.
    pub fn reshaped(&self, extents: &[usize]) -> Result<Live, String> {
        let fail = || format!("{:?} cannot be seen as {extents:?}", self.extents());
        let mut atoms: Vec<Atom> = self.dims.iter().flatten().rev().copied().collect();
        let mut dims: Vec<Dim> = Vec::with_capacity(extents.len());
        for (at, &extent) in extents.iter().enumerate() {
            let mut wanted = extent;
            let mut dim = Vec::new();
            // The batch, whatever its number, belongs to the first axis.
            if at == 0 && atoms.last().is_some_and(|atom| atom.axis == Axis::Batch && wanted.is_multiple_of(atom.size))
            {
                let batch = atoms.pop().expect("there is one");
                wanted /= batch.size;
                dim.push(batch);
            }
            while wanted > 1 {
                let atom = atoms.pop().ok_or_else(fail)?;
                if wanted.is_multiple_of(atom.size) {
                    wanted /= atom.size;
                    dim.push(atom);
                } else if atom.size.is_multiple_of(wanted) && atom.axis != Axis::Batch {
                    let inner = atom.size / wanted;
                    dim.push(Atom { size: wanted, step: atom.step * inner, ..atom });
                    atoms.push(Atom { size: inner, ..atom });
                    wanted = 1;
                } else {
                    return Err(fail());
                }
            }
            if wanted == 0 {
                return Err(fail());
            }
            dims.push(merged(dim));
        }
        if !atoms.is_empty() {
            return Err(fail());
        }
        Ok(Live { dims, ..self.clone() })
    }

    /// For an (N, F) view in any order: our element, counted in (C, H, W) order, for every ONNX feature.
    pub fn feature_order(&self) -> Option<Vec<usize>> {
        let [batch, features] = self.dims.as_slice() else { return None };
        if batch.len() != 1 || batch[0].axis != Axis::Batch {
            return None;
        }
        let Shape { height, width, .. } = self.shape;
        if self.shape.elements() > MAX_FEATURES {
            return None;
        }
        let mut order = vec![0];
        for atom in features {
            let step = match atom.axis {
                Axis::Channel => atom.step * height * width,
                Axis::Row => atom.step * width,
                Axis::Column => atom.step,
                Axis::Batch => return None,
            };
            order = order.iter().flat_map(|&base| (0..atom.size).map(move |at| base + at * step)).collect();
        }
        (order.len() == self.shape.elements()).then_some(order)
    }

    /// What turns our tensor into a plain one for this view, where only the channels' order differs: the groups of a
    /// shuffle.
    pub fn shuffle(&self) -> Option<usize> {
        let mut plain = Live::picture(String::new(), self.shape, self.batch_size());
        let channels = self.dims.get(1)?;
        let [inner, outer] = channels.as_slice() else { return None };
        let swapped =
            inner.axis == Axis::Channel && outer.axis == Axis::Channel && inner.step == 1 && outer.step == inner.size;
        if !swapped || inner.size * outer.size != self.shape.channels {
            return None;
        }
        plain.dims[1] = channels.clone();
        (self.dims == plain.dims).then_some(outer.size)
    }

    /// The (C, H, W) that an unflattened vector's view stands for.
    pub fn unflattened(&self) -> Option<Shape> {
        let [batch, c, h, w] = self.dims.as_slice() else { return None };
        let mut flat = c.clone();
        flat.extend(h.iter().chain(w));
        let whole = merged(flat) == whole(Axis::Channel, self.shape.channels);
        let vector =
            (self.shape.height, self.shape.width) == (1, 1) && batch.len() == 1 && batch[0].axis == Axis::Batch;
        (whole && vector).then(|| Shape::new(size(c), size(h), size(w)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(shape: Shape) -> Live {
        Live::picture("x".into(), shape, 1)
    }

    #[test]
    fn a_channel_shuffle_is_seen() {
        let x = live(Shape::new(12, 4, 5));
        let split = x.reshaped(&[1, 3, 4, 4, 5]).unwrap();
        let swapped = split.transposed(&[0, 2, 1, 3, 4]).reshaped(&[1, 12, 4, 5]).unwrap();
        assert!(!swapped.is_plain());
        assert_eq!(swapped.shuffle(), Some(3));
        // Swapped back, it is as it was.
        let back =
            swapped.reshaped(&[1, 4, 3, 4, 5]).unwrap().transposed(&[0, 2, 1, 3, 4]).reshaped(&[1, 12, 4, 5]).unwrap();
        assert!(back.is_plain());
    }

    #[test]
    fn flattening_keeps_track_of_the_order() {
        let x = live(Shape::new(2, 2, 3));
        let last = x.transposed(&[0, 2, 3, 1]).reshaped(&[1, 12]).unwrap();
        // (h, w, c): the second feature is channel 1 of the first pixel, our element 6.
        assert_eq!(last.feature_order().unwrap()[..4], [0, 6, 1, 7]);
        assert_eq!(x.reshaped(&[1, 12]).unwrap().feature_order().unwrap(), (0..12).collect::<Vec<_>>());
    }

    #[test]
    fn impossible_views_are_refused() {
        let x = live(Shape::new(4, 3, 3));
        assert!(x.reshaped(&[1, 35]).is_err());
        assert!(x.reshaped(&[1, 0, 36]).is_err());
        assert!(x.reshaped(&[2, 18]).is_ok_and(|view| view.feature_order().is_none()));
        assert!(x.transposed(&[0, 1, 3, 2]).reshaped(&[1, 4, 9]).is_ok_and(|view| !view.is_plain()));
    }

    #[test]
    fn vectors_unflatten() {
        let x = Live::vector("x".into(), 24, 1).reshaped(&[1, 2, 3, 4]).unwrap();
        assert_eq!(x.unflattened(), Some(Shape::new(2, 3, 4)));
        assert_eq!(x.transposed(&[0, 2, 1, 3]).unflattened(), None);
    }
}
