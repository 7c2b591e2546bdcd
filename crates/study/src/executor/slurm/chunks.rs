//! How many trials go into one task.

use super::super::{Job, Resources};
use crate::Error;
use crate::estimate::estimate;

/// Records that are read for a mean: enough, and quick on a slow file system.
const SAMPLE: usize = 200;

/// Seconds of a trial: the mean of the records that are there, else an estimate from a short measurement here.
pub fn trial_seconds(job: &Job<'_>, resources: Resources) -> Result<f64, Error> {
    let there = job.run.recorded()?;
    let mut seconds = Vec::new();
    for spec in job.run.plan().trials.iter().filter(|spec| there.contains(&spec.id)).take(SAMPLE) {
        let record = job.run.record(&spec.id)?.filter(|record| record.readings.is_some());
        seconds.extend(record.map(|record| record.clock.seconds));
    }
    if seconds.len() >= 5 {
        return Ok(seconds.iter().sum::<f64>() / seconds.len() as f64);
    }
    let one = Resources { workers: 1, ..resources };
    Ok(estimate(job.setting, job.run.plan(), job.pending, 0, one, true)?.trial)
}

/// Trials of one task: as many as `chunk` seconds hold, and no more than keeps `at_once` tasks busy.
pub fn size(chunk: f64, seconds: f64, trials: usize, at_once: Option<u32>) -> usize {
    let by_time = (chunk / seconds.max(1e-6)) as usize;
    let by_share = at_once.map_or(usize::MAX, |at_once| trials.div_ceil(at_once as usize));
    by_time.min(by_share).max(1)
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn a_task_holds_what_its_time_does() {
        assert_eq!(size(600.0, 6.0, 10_000, None), 100);
        // Longer than the chunk: one at a time.
        assert_eq!(size(600.0, 6000.0, 10_000, None), 1);
        // Four tasks at once share 200 trials evenly, though one could hold them all.
        assert_eq!(size(600.0, 0.1, 200, Some(4)), 50);
        assert_eq!(size(600.0, 0.1, 3, Some(4)), 1);
        assert_eq!(size(600.0, 0.0, 10, None), 600_000_000);
    }
}
