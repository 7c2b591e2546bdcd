//! The places of a tensor's elements in memory, for any order of its axes.

/// Yields the index of every element of a shape in row-major order, for the given steps along its axes.
pub(crate) struct Walk {
    dims: Vec<usize>,
    steps: Vec<isize>,
    at: Vec<usize>,
    index: isize,
    left: usize,
}

impl Walk {
    /// From index `first` on. The product of `dims` must not overflow, nor any index reached be negative.
    pub fn new(first: usize, dims: &[usize], steps: &[isize]) -> Walk {
        let left = dims.iter().product();
        Walk { dims: dims.to_vec(), steps: steps.to_vec(), at: vec![0; dims.len()], index: first as isize, left }
    }
}

impl Iterator for Walk {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        let index = self.index as usize;
        for axis in (0..self.dims.len()).rev() {
            self.at[axis] += 1;
            self.index += self.steps[axis];
            if self.at[axis] < self.dims[axis] {
                break;
            }
            self.index -= self.steps[axis] * self.dims[axis] as isize;
            self.at[axis] = 0;
        }
        Some(index)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposes_and_reverses() {
        assert_eq!(Walk::new(0, &[3, 2], &[1, 3]).collect::<Vec<_>>(), [0, 3, 1, 4, 2, 5]);
        assert_eq!(Walk::new(5, &[3], &[-2]).collect::<Vec<_>>(), [5, 3, 1]);
        assert_eq!(Walk::new(7, &[], &[]).collect::<Vec<_>>(), [7]);
        assert_eq!(Walk::new(0, &[2, 0], &[1, 1]).count(), 0);
    }
}
