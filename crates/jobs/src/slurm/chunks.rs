//! How many jobs go into one task.

/// Jobs of one task: as many as fit `chunk` seconds, and few enough that `at_once` tasks have work.
pub fn size(chunk: f64, seconds: f64, jobs: usize, at_once: Option<u32>) -> usize {
    let by_time = (chunk / seconds.max(1e-6)) as usize;
    let by_share = at_once.map_or(usize::MAX, |at_once| jobs.div_ceil(at_once as usize));
    by_time.min(by_share).max(1)
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn a_task_has_as_many_jobs_as_fit_its_time() {
        assert_eq!(size(600.0, 6.0, 10_000, None), 100);
        // A job longer than the chunk: one per task.
        assert_eq!(size(600.0, 6000.0, 10_000, None), 1);
        // Four tasks at once share 200 jobs evenly, though one could hold them all.
        assert_eq!(size(600.0, 0.1, 200, Some(4)), 50);
        assert_eq!(size(600.0, 0.1, 3, Some(4)), 1);
        assert_eq!(size(600.0, 0.0, 10, None), 600_000_000);
    }
}
