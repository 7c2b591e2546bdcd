//! Indices of a strided tensor's elements.

/// Yields the memory index of every element of a shape, in row-major order, for the given strides.
pub(crate) struct StridedIndices {
    dims: Vec<usize>,
    strides: Vec<isize>,
    position: Vec<usize>,
    index: isize,
    remaining: usize,
}

impl StridedIndices {
    /// Starts at index `first`. The product of `dims` must not overflow, nor any index reached be negative.
    pub fn new(first: usize, dims: &[usize], strides: &[isize]) -> StridedIndices {
        let remaining = dims.iter().product();
        StridedIndices {
            dims: dims.to_vec(),
            strides: strides.to_vec(),
            position: vec![0; dims.len()],
            index: first as isize,
            remaining,
        }
    }
}

impl Iterator for StridedIndices {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.remaining = self.remaining.checked_sub(1)?;
        let index = self.index as usize;
        for axis in (0..self.dims.len()).rev() {
            self.position[axis] += 1;
            self.index += self.strides[axis];
            if self.position[axis] < self.dims[axis] {
                break;
            }
            self.index -= self.strides[axis] * self.dims[axis] as isize;
            self.position[axis] = 0;
        }
        Some(index)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining, Some(self.remaining))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposes_and_reverses() {
        assert_eq!(StridedIndices::new(0, &[3, 2], &[1, 3]).collect::<Vec<_>>(), [0, 3, 1, 4, 2, 5]);
        assert_eq!(StridedIndices::new(5, &[3], &[-2]).collect::<Vec<_>>(), [5, 3, 1]);
        assert_eq!(StridedIndices::new(7, &[], &[]).collect::<Vec<_>>(), [7]);
        assert_eq!(StridedIndices::new(0, &[2, 0], &[1, 1]).count(), 0);
    }
}
