//! When a learning curve has its points, and the training loss between them.

use crate::training::StageStep;

/// Decides after which steps a learning curve has a point, and averages the training loss since the point before.
pub struct CurveRecorder {
    /// Images after which the curve has a point, last first.
    points: Vec<usize>,
    loss: f64,
    images: usize,
}

impl CurveRecorder {
    /// A curve of `points` points, evenly spaced over `budget` images; each falls on the first step that reaches it.
    pub fn new(budget: usize, points: usize) -> CurveRecorder {
        CurveRecorder {
            points: (1..=points).rev().map(|k| (budget * k).div_ceil(points)).collect(),
            loss: 0.0,
            images: 0,
        }
    }

    /// Adds a step after which `seen` images of the budget have been seen; the mean training loss since the last point if
    /// the curve has a point here.
    pub fn step(&mut self, step: &StageStep, seen: usize) -> Option<f64> {
        self.loss += step.loss * step.images as f64;
        self.images += step.images;
        if self.points.last().is_none_or(|point| seen < *point) {
            return None;
        }
        self.points.retain(|point| *point > seen);
        let mean = self.loss / self.images as f64;
        self.restart();
        Some(mean)
    }

    /// Resets the training loss since the last point, for a new stage with another loss.
    pub fn restart(&mut self) {
        (self.loss, self.images) = (0.0, 0);
    }

    /// The training loss since the last point: its sum over images, and their number.
    pub fn loss(&self) -> (f64, usize) {
        (self.loss, self.images)
    }

    /// Continues a curve after `seen` images, with what [`CurveRecorder::loss`] returned there.
    pub fn resume(&mut self, seen: usize, loss: (f64, usize)) {
        self.points.retain(|point| *point > seen);
        (self.loss, self.images) = loss;
    }

    /// Whether all points are behind.
    pub fn is_complete(&self) -> bool {
        self.points.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_fall_on_the_first_step_that_reaches_them() {
        let mut curve = CurveRecorder::new(100, 4);
        let mut found = Vec::new();
        for step in 1..=10 {
            let loss = f64::from(step);
            let at = StageStep { seen: 10 * step as usize, loss, images: 10, taken: step as usize };
            found.extend(curve.step(&at, at.seen).map(|mean| (at.seen, mean)));
        }
        assert_eq!(found, [(30, 2.0), (50, 4.5), (80, 7.0), (100, 9.5)]);
        assert!(curve.is_complete());
    }

    #[test]
    fn a_step_beyond_several_points_gives_one() {
        let mut curve = CurveRecorder::new(100, 10);
        assert_eq!(curve.step(&StageStep { seen: 64, loss: 3.0, images: 64, taken: 1 }, 64), Some(3.0));
        assert_eq!(curve.step(&StageStep { seen: 100, loss: 1.0, images: 36, taken: 2 }, 100), Some(1.0));
    }
}
