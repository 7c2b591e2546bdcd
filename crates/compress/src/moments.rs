//! Mean and variance of each channel of a tensor, batch by batch.

/// Sums over the positions so far.
pub struct Moments {
    sums: Vec<f64>,
    squares: Vec<f64>,
    count: f64,
}

impl Moments {
    /// No value yet, of `channels` channels.
    pub fn new(channels: usize) -> Moments {
        Moments { sums: vec![0.0; channels], squares: vec![0.0; channels], count: 0.0 }
    }

    /// Adds values, N x H x W x C.
    pub fn add(&mut self, values: &[f32]) {
        for position in values.chunks_exact(self.sums.len()) {
            for ((sum, square), &value) in self.sums.iter_mut().zip(&mut self.squares).zip(position) {
                *sum += f64::from(value);
                *square += f64::from(value).powi(2);
            }
            self.count += 1.0;
        }
    }

    /// The means and the variances.
    pub fn finish(self) -> [Vec<f32>; 2] {
        let n = self.count;
        let mean = self.sums.iter().map(|sum| (sum / n) as f32).collect();
        let variance = |(sum, square): (&f64, &f64)| (square / n - (sum / n).powi(2)).max(0.0) as f32;
        [mean, self.sums.iter().zip(&self.squares).map(variance).collect()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_variances_of_two_channels() {
        let mut moments = Moments::new(2);
        moments.add(&[1.0, 5.0, 2.0, 5.0]);
        moments.add(&[6.0, 5.0]);
        assert_eq!(moments.finish(), [vec![3.0, 5.0], vec![14.0 / 3.0, 0.0]]);
    }
}
