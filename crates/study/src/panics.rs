//! A panic in one trial as a failure of that trial, with the place in the source.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// The place of the last panic, while this thread runs [`contained`].
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`; a panic in this thread becomes an error that names its place and message.
///
/// Other panics of the process are reported as before.
pub(crate) fn contained<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !CONTAINED.get() {
                return before(info);
            }
            let place = info.location().map(|place| format!("{}:{}", place.file(), place.line()));
            PLACE.with_borrow_mut(|last| *last = place);
        }));
    });
    CONTAINED.set(true);
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    CONTAINED.set(false);
    result.map_err(|panic| {
        let place = PLACE.take().map_or(String::new(), |place| format!(" at {place}"));
        format!("internal error{place}: {}", message(panic.as_ref()))
    })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::contained;

    #[test]
    fn a_panic_is_an_error_with_its_place() {
        assert_eq!(contained(|| 7), Ok(7));
        let line = line!() + 1;
        let error = contained(|| panic!("index {} of {}", 3, 2)).unwrap_err();
        assert_eq!(error, format!("internal error at {}:{line}: index 3 of 2", file!()));
        // Other threads of the process continue, and so does this one.
        assert_eq!(contained(|| [1, 2].len()), Ok(2));
    }
}
