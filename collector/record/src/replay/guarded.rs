//! Reading files that may be damaged with a library that panics on some of them.

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::{Arc, Mutex, PoisonError};

/// One reading at a time changes what a panic says.
static HOOK: Mutex<()> = Mutex::new(());

/// What `read` gives; a panic in it is `None` and says nothing.
///
/// The Parquet reader unwraps what a damaged page header may lack (`PageMetadata::try_from` of parquet
/// 60.1). Its panic is not huddle's, must not end a replay, and must not leave the terminal, which the
/// panic hook does. Panics of other threads are told as always.
///
/// Whatever `read` has begun to fill must be given up after a panic.
pub(super) fn guarded<T>(read: impl FnOnce() -> T) -> Option<T> {
    let _one = HOOK.lock().unwrap_or_else(PoisonError::into_inner);
    let here = std::thread::current().id();
    let usual = Arc::new(take_hook());
    let of_others = Arc::clone(&usual);
    set_hook(Box::new(move |info| {
        if std::thread::current().id() != here {
            of_others(info);
        }
    }));
    let read = catch_unwind(AssertUnwindSafe(read));
    drop(take_hook());
    // Ours was the other owner, and is gone: hooks are taken away only while none runs.
    set_hook(Arc::try_unwrap(usual).unwrap_or_else(|usual| Box::new(move |info| usual(info))));
    read.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_no_answer_and_the_hook_stays() {
        assert_eq!(guarded(|| 7), Some(7));
        assert_eq!(guarded(|| panic!("of a library")), None::<u32>);
        assert_eq!(guarded(|| 8), Some(8));
    }
}
