//! Progress to Python, and the end of a computation by Ctrl-C or by an exception of its callback.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use pyo3::prelude::*;

use crate::error::raise;

/// How often Python's signal handlers run while a computation does.
const POLL: Duration = Duration::from_millis(50);

/// A Python callable that receives (phase, done, of), and the exception that ends the computation.
pub struct Callback {
    callable: Option<Py<PyAny>>,
    raised: Mutex<Option<PyErr>>,
}

impl Callback {
    /// Of a callable; none for silence.
    pub fn new(callable: Option<Py<PyAny>>) -> Callback {
        Callback { callable, raised: Mutex::new(None) }
    }

    fn raised(&self) -> std::sync::MutexGuard<'_, Option<PyErr>> {
        self.raised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an exception has been raised.
    pub fn is_cancelled(&self) -> bool {
        self.raised().is_some()
    }

    /// Calls the callable, unless an exception has been raised.
    pub fn call(&self, phase: &str, done: usize, of: usize) {
        let Some(callable) = self.callable.as_ref().filter(|_| !self.is_cancelled()) else { return };
        // The interpreter's lock is taken before this one, as the polling thread does.
        Python::attach(|py| {
            if let Err(exception) = callable.call1(py, (phase, done, of)) {
                self.raised().get_or_insert(exception);
            }
        });
    }

    /// As [`Callback::call`], but ends the computation by unwinding: for computations that leave nothing half-done.
    pub fn call_or_unwind(&self, phase: &str, done: usize, of: usize) {
        self.call(phase, done, of);
        if self.is_cancelled() {
            resume_unwind(Box::new(Cancelled));
        }
    }

    /// Runs a computation on a thread of its own, without the interpreter's lock. Returns the exception that ended it, if
    /// one did.
    pub fn run<T: Send, E: std::fmt::Display + Send>(
        &self,
        py: Python<'_>,
        compute: impl FnOnce() -> Result<T, E> + Send,
    ) -> PyResult<T> {
        let result = std::thread::scope(|scope| {
            let (sender, receiver) = mpsc::channel();
            scope.spawn(move || {
                // The receiver lives as long as the scope.
                let _ = sender.send(catch_unwind(AssertUnwindSafe(compute)));
            });
            let receiver = Mutex::new(receiver);
            loop {
                let wait = || receiver.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(POLL);
                match py.detach(wait) {
                    Ok(result) => break Some(result),
                    Err(mpsc::RecvTimeoutError::Disconnected) => break None,
                    Err(mpsc::RecvTimeoutError::Timeout) => {
                        if let Err(exception) = py.check_signals() {
                            self.raised().get_or_insert(exception);
                        }
                    }
                }
            }
        });
        match (self.raised().take(), result) {
            (Some(exception), _) => Err(exception),
            (None, Some(Ok(result))) => result.map_err(raise),
            (None, Some(Err(panic))) => resume_unwind(panic),
            (None, None) => Err(raise("the computation's thread ended without a result")),
        }
    }
}

/// What unwinds through a computation that Python ended.
struct Cancelled;
