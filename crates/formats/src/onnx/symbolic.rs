//! ONNX tensors as views of the tensors here.
//!
//! Tensors here are (C, H, W) per image. An ONNX model passes the same elements under other shapes: NHWC, flattened, or
//! with channels split into groups. Reshape and Transpose become no layers; they change the view, which a
//! [`SymbolicTensor`] holds: for every ONNX axis, the factors of C, H and W that it runs over.

use nettriage_net::Shape;

/// The longest vector whose feature order is computed; real ones have some hundred thousand features.
const MAX_FEATURES: usize = 1 << 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    Batch,
    Channel,
    Row,
    Column,
}

/// A factor of one of the axes C, H, W: `size` positions, `step` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AxisFactor {
    pub axis: Axis,
    pub size: usize,
    pub step: usize,
}

/// The factors of an ONNX axis, outermost first; none for an axis of extent 1.
pub type Dim = Vec<AxisFactor>;

/// An ONNX tensor that is computed from the image.
#[derive(Clone, Debug)]
pub struct SymbolicTensor {
    /// The tensor here: the input or a layer's output.
    pub name: String,
    pub shape: Shape,
    pub dims: Vec<Dim>,
}

pub fn whole(axis: Axis, size: usize) -> Dim {
    if size == 1 { Vec::new() } else { vec![AxisFactor { axis, size, step: 1 }] }
}

pub fn size(dim: &Dim) -> usize {
    dim.iter().map(|factor| factor.size).product()
}

/// Merges neighbouring factors that are one factor.
fn merged(dim: Dim) -> Dim {
    let mut result: Dim = Vec::with_capacity(dim.len());
    for factor in dim {
        match result.last_mut() {
            Some(outer)
                if outer.axis == factor.axis
                    && factor.axis != Axis::Batch
                    && outer.step == factor.size * factor.step =>
            {
                *outer = AxisFactor { axis: factor.axis, size: outer.size * factor.size, step: factor.step };
            }
            _ => result.push(factor),
        }
    }
    result
}

impl SymbolicTensor {
    fn batch(size: usize) -> Dim {
        vec![AxisFactor { axis: Axis::Batch, size, step: 1 }]
    }

    /// (N, C, H, W).
    pub fn channels_first(name: String, shape: Shape, batch: usize) -> SymbolicTensor {
        let Shape { channels, height, width } = shape;
        let dims = vec![
            SymbolicTensor::batch(batch),
            whole(Axis::Channel, channels),
            whole(Axis::Row, height),
            whole(Axis::Column, width),
        ];
        SymbolicTensor { name, shape, dims }
    }

    /// (N, H, W, C).
    pub fn channels_last(name: String, shape: Shape, batch: usize) -> SymbolicTensor {
        let plain = SymbolicTensor::channels_first(name, shape, batch);
        let dims = [0, 2, 3, 1].map(|axis| plain.dims[axis].clone()).to_vec();
        SymbolicTensor { dims, ..plain }
    }

    /// (N, F).
    pub fn vector(name: String, features: usize, batch: usize) -> SymbolicTensor {
        let dims = vec![SymbolicTensor::batch(batch), whole(Axis::Channel, features)];
        SymbolicTensor { name, shape: Shape::new(features, 1, 1), dims }
    }

    pub fn batch_size(&self) -> usize {
        self.dims.iter().flatten().find(|factor| factor.axis == Axis::Batch).map_or(1, |factor| factor.size)
    }

    /// The ONNX shape.
    pub fn extents(&self) -> Vec<usize> {
        self.dims.iter().map(size).collect()
    }

    /// The same view of another tensor of the same shape.
    pub fn renamed(&self, name: String) -> SymbolicTensor {
        SymbolicTensor { name, ..self.clone() }
    }

    /// Whether the view is (N, C, H, W), or (N, F) for a vector.
    pub fn is_plain(&self) -> bool {
        let plain = SymbolicTensor::channels_first(String::new(), self.shape, self.batch_size());
        self.dims == plain.dims || self.is_plain_vector()
    }

    pub fn is_plain_vector(&self) -> bool {
        let Shape { channels, height, width } = self.shape;
        (height, width) == (1, 1)
            && self.dims == SymbolicTensor::vector(String::new(), channels, self.batch_size()).dims
    }

    /// The ONNX axis that is all channels, in order.
    pub fn channel_axis(&self) -> Option<usize> {
        let channels = whole(Axis::Channel, self.shape.channels);
        if channels.is_empty() {
            // One channel: the axis where ONNX expects it.
            return Some(1).filter(|_| self.dims.len() >= 2);
        }
        self.dims.iter().position(|dim| *dim == channels)
    }

    /// The axis here that ONNX axis `at` is the whole of, if there is one.
    pub fn axis(&self, at: usize) -> Option<Axis> {
        let Shape { channels, height, width } = self.shape;
        let candidates = [(Axis::Channel, channels), (Axis::Row, height), (Axis::Column, width)];
        candidates
            .into_iter()
            .find(|(axis, size)| *size > 1 && self.dims[at] == whole(*axis, *size))
            .map(|(axis, _)| axis)
    }

    pub fn transposed(&self, order: &[usize]) -> SymbolicTensor {
        SymbolicTensor { dims: order.iter().map(|&axis| self.dims[axis].clone()).collect(), ..self.clone() }
    }

    /// The same elements under other extents.
    pub fn reshaped(&self, extents: &[usize]) -> Result<SymbolicTensor, String> {
        let fail = || format!("{:?} cannot be reshaped to {extents:?}", self.extents());
        // Neighbours of one axis are one factor, whatever ONNX axes they are on.
        let mut factors = merged(self.dims.iter().flatten().copied().collect());
        factors.reverse();
        let mut dims: Vec<Dim> = Vec::with_capacity(extents.len());
        for (at, &extent) in extents.iter().enumerate() {
            let mut wanted = extent;
            let mut dim = Vec::new();
            // The batch, also one of extent 1, belongs to the first axis.
            if at == 0
                && factors.last().is_some_and(|factor| factor.axis == Axis::Batch && wanted.is_multiple_of(factor.size))
            {
                let batch = factors.pop().expect("there is one");
                wanted /= batch.size;
                dim.push(batch);
            }
            // An axis of extent 1 may be the batch.
            if wanted == 1 && dim.is_empty() && factors.last().is_some_and(|f| f.axis == Axis::Batch && f.size == 1) {
                dim.extend(factors.pop());
            }
            while wanted > 1 {
                let factor = factors.pop().ok_or_else(fail)?;
                if wanted.is_multiple_of(factor.size) {
                    wanted /= factor.size;
                    dim.push(factor);
                } else if factor.size.is_multiple_of(wanted) && factor.axis != Axis::Batch {
                    let inner = factor.size / wanted;
                    dim.push(AxisFactor { size: wanted, step: factor.step * inner, ..factor });
                    factors.push(AxisFactor { size: inner, ..factor });
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
        if !factors.is_empty() {
            return Err(fail());
        }
        Ok(SymbolicTensor { dims, ..self.clone() })
    }

    /// For an (N, F) view of all elements of an image: extent and step in (C, H, W) order of every factor of F, outermost first.
    fn features(&self) -> Option<Vec<(usize, usize)>> {
        let [batch, features] = self.dims.as_slice() else { return None };
        if batch.len() != 1 || batch[0].axis != Axis::Batch {
            return None;
        }
        let Shape { height, width, .. } = self.shape;
        let steps = features.iter().map(|factor| match factor.axis {
            Axis::Channel => Some((factor.size, factor.step * height * width)),
            Axis::Row => Some((factor.size, factor.step * width)),
            Axis::Column => Some((factor.size, factor.step)),
            Axis::Batch => None,
        });
        let all = size(features) == self.shape.elements() && self.shape.elements() <= MAX_FEATURES;
        steps.collect::<Option<_>>().filter(|_| all)
    }

    /// Whether the view is (N, F), of all elements of an image in any order.
    pub fn is_vectors(&self) -> bool {
        self.features().is_some()
    }

    /// Whether the view is (N, F) in (C, H, W) order.
    pub fn in_feature_order(&self) -> bool {
        let in_order = |factors: Vec<(usize, usize)>| {
            let mut inner = 1;
            factors.iter().rev().all(|&(extent, step)| {
                let fits = extent == 1 || step == inner;
                inner *= extent;
                fits
            })
        };
        self.features().is_some_and(in_order)
    }

    /// For an (N, F) view: the index in (C, H, W) order of every ONNX feature.
    pub fn feature_order(&self) -> Option<Vec<usize>> {
        let mut order = vec![0];
        for (extent, step) in self.features()? {
            order = order.iter().flat_map(|&base| (0..extent).map(move |at| base + at * step)).collect();
        }
        Some(order)
    }

    /// The groups of the channel shuffle that makes this view (N, C, H, W), if only the channels' order differs so.
    pub fn shuffle(&self) -> Option<usize> {
        let mut plain = SymbolicTensor::channels_first(String::new(), self.shape, self.batch_size());
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

    /// The (C, H, W) of a vector that is viewed as a feature map.
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

    fn plain(shape: Shape) -> SymbolicTensor {
        SymbolicTensor::channels_first("x".into(), shape, 1)
    }

    #[test]
    fn channel_shuffles_are_recognised() {
        let x = plain(Shape::new(12, 4, 5));
        let split = x.reshaped(&[1, 3, 4, 4, 5]).unwrap();
        let swapped = split.transposed(&[0, 2, 1, 3, 4]).reshaped(&[1, 12, 4, 5]).unwrap();
        assert!(!swapped.is_plain());
        assert_eq!(swapped.shuffle(), Some(3));
        // The inverse transpose restores the plain view.
        let back =
            swapped.reshaped(&[1, 4, 3, 4, 5]).unwrap().transposed(&[0, 2, 1, 3, 4]).reshaped(&[1, 12, 4, 5]).unwrap();
        assert!(back.is_plain());
    }

    #[test]
    fn flattening_keeps_the_feature_order() {
        let x = plain(Shape::new(2, 2, 3));
        let last = x.transposed(&[0, 2, 3, 1]).reshaped(&[1, 12]).unwrap();
        // (h, w, c): the second feature is channel 1 of the first pixel, index 6.
        assert_eq!(last.feature_order().unwrap()[..4], [0, 6, 1, 7]);
        let plain = x.reshaped(&[1, 12]).unwrap();
        assert_eq!(plain.feature_order().unwrap(), (0..12).collect::<Vec<_>>());
        assert!(plain.is_vectors() && plain.in_feature_order());
        assert!(last.is_vectors() && !last.in_feature_order());
        assert!(!x.is_vectors() && !x.in_feature_order());
    }

    #[test]
    fn invalid_views_are_refused() {
        let x = plain(Shape::new(4, 3, 3));
        assert!(x.reshaped(&[1, 35]).is_err());
        assert!(x.reshaped(&[1, 0, 36]).is_err());
        assert!(x.reshaped(&[2, 18]).is_ok_and(|view| view.feature_order().is_none()));
        assert!(x.transposed(&[0, 1, 3, 2]).reshaped(&[1, 4, 9]).is_ok_and(|view| !view.is_plain()));
    }

    #[test]
    fn vectors_are_unflattened() {
        let x = SymbolicTensor::vector("x".into(), 24, 1).reshaped(&[1, 2, 3, 4]).unwrap();
        assert_eq!(x.unflattened(), Some(Shape::new(2, 3, 4)));
        assert_eq!(x.transposed(&[0, 2, 1, 3]).unflattened(), None);
    }
}
