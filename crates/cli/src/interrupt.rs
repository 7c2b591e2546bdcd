//! Ctrl-C and its like: a message that says what is saved and how to go on.

use std::io::Write;
use std::sync::{Arc, Mutex};

use crate::fail::Fail;

/// What is done and said when the user or the system stops this process.
type Goodbye = Box<dyn Fn() -> String + Send>;

/// Handles SIGINT, SIGTERM and SIGHUP until the process ends.
pub struct Interrupt(Arc<Mutex<Option<Goodbye>>>);

impl Interrupt {
    /// On a signal `goodbye` is called, what it returns is printed, and the process ends with exit code 130.
    ///
    /// At once: records are written whole or not at all, so that nothing has to be brought to an end first.
    pub fn new(goodbye: impl Fn() -> String + Send + 'static) -> Result<Interrupt, Fail> {
        let held: Arc<Mutex<Option<Goodbye>>> = Arc::new(Mutex::new(Some(Box::new(goodbye))));
        let handler = held.clone();
        let handle = move || {
            let goodbye = handler.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some(goodbye) = goodbye.as_ref() {
                let words = goodbye();
                // Held to the end: nothing that still runs may speak after the last word.
                let mut error = std::io::stderr().lock();
                let _ = writeln!(error, "\n{words}");
                std::process::exit(130);
            }
            std::process::exit(130);
        };
        ctrlc::set_handler(handle).map_err(|error| Fail::Message(format!("signals cannot be handled: {error}")))?;
        Ok(Interrupt(held))
    }

    /// From here on a signal ends the process without a word.
    pub fn over(&self) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
    }
}
