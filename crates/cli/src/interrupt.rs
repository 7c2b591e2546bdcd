//! Ctrl-C and other termination signals: a message that says what is saved and how to resume.

use std::io::Write;
use std::sync::{Arc, Mutex};

use nettriage_train::StopSignal;

use crate::fail::Fail;

fn unhandled(error: ctrlc::Error) -> Fail {
    Fail::Message(format!("signals cannot be handled: {error}"))
}

/// Makes the message that is printed when the user or the system stops this process.
type ShutdownMessage = Box<dyn Fn() -> String + Send>;

/// Handles SIGINT, SIGTERM and SIGHUP until the process ends.
pub struct Interrupt(Arc<Mutex<Option<ShutdownMessage>>>);

/// What a first signal does.
pub enum First {
    /// It ends the process. Records are written atomically, so no work has to be finished first.
    Ends,
    /// It tells trainings to save themselves and stop, after which the command ends by [`Interrupt::message`]; a second one ends
    /// the process.
    Saves(StopSignal),
}

impl Interrupt {
    /// On a signal that ends the process, prints what `message` returns; the exit code is 130.
    pub fn new(first: First, message: impl Fn() -> String + Send + 'static) -> Result<Interrupt, Fail> {
        let held: Arc<Mutex<Option<ShutdownMessage>>> = Arc::new(Mutex::new(Some(Box::new(message))));
        let handler = held.clone();
        let handle = move || {
            let message = handler.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some(message) = message.as_ref() {
                if let First::Saves(stop) = &first
                    && !stop.is_set()
                {
                    stop.set();
                    eprintln!("\nsaving what is in training; a second signal ends at once");
                    return;
                }
                let text = message();
                // Locked until the end, so that no other thread prints after this message.
                let mut error = std::io::stderr().lock();
                let _ = writeln!(error, "\nstopped: {text}");
                std::process::exit(130);
            }
            std::process::exit(130);
        };
        ctrlc::set_handler(handle).map_err(unhandled)?;
        Ok(Interrupt(held))
    }

    /// On the first signal tells trainings to save themselves and stop; a second one ends the process at once.
    pub fn stopping(stop: StopSignal) -> Result<(), Fail> {
        let handle = move || {
            if stop.is_set() {
                std::process::exit(130);
            }
            stop.set();
        };
        ctrlc::set_handler(handle).map_err(unhandled)
    }

    /// The message that a signal ends the command with.
    pub fn message(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).as_ref().map(|message| message())
    }

    /// From here on a signal ends the process silently.
    pub fn over(&self) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
    }
}
