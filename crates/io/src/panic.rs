//! Other people's decoders that answer damaged files with a panic.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Calls that are caught now, on any thread.
static CALLS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// What `call` returns, or the words of its panic, of which nothing is printed.
///
/// For readers of files in other crates, whose panics are errors of the file. What `call` changes
/// must be thrown away after a panic.
///
/// # Errors
/// `call` panicked.
pub fn without_panic<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            // A thread that is ending has no such value any more.
            let caught = CAUGHT.try_with(Cell::get).unwrap_or(false);
            // polars decodes on threads of its own, and hands their panics on.
            let polars = || {
                thread::current()
                    .name()
                    .is_some_and(|n| n.starts_with("polars-"))
            };
            if caught || (CALLS.load(Ordering::SeqCst) > 0 && polars()) {
                return;
            }
            before(panic);
        }));
    });
    let outer = CAUGHT.replace(true);
    CALLS.fetch_add(1, Ordering::SeqCst);
    let result = catch_unwind(AssertUnwindSafe(call));
    CALLS.fetch_sub(1, Ordering::SeqCst);
    CAUGHT.set(outer);
    result.map_err(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str);
        let words = words.or_else(|| panic.downcast_ref::<&str>().copied());
        let words = words.unwrap_or("without a word");
        format!(
            "its decoder stopped: {}",
            words.lines().next().unwrap_or_default()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_words() {
        assert_eq!(without_panic(|| 3), Ok(3));
        let number = 7;
        let broken = without_panic(|| panic!("found {number}\nand more"));
        assert_eq!(broken, Err::<(), _>("its decoder stopped: found 7".into()));
        let inner = without_panic(|| without_panic(|| panic!("inside")).is_err());
        assert_eq!(inner, Ok(true));
        assert!(!CAUGHT.get());
    }
}
