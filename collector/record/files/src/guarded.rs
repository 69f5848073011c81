//! Work that may panic without ending the program.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Installs our panic hook before the existing one, once.
static HOOK: Once = Once::new();
/// Guarded work in progress whose library has threads of its own.
static ALL_THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Guarded work in progress in this thread.
    static THIS_THREAD: Cell<usize> = const { Cell::new(0) };
}

/// Which threads' panics belong to the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The calling one. Panics of other threads are reported as usual.
    This,
    /// All of them: a library decodes in threads of its own, and the program does nothing else meanwhile.
    All,
}

/// A panic that was caught, with its message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Panicked(String);

/// Runs `work`; a panic becomes an error and is not printed on stderr.
///
/// Checksums keep damaged bytes away from the libraries that decode them, but older recordings have none: the Parquet
/// reader unwraps what a damaged page header may lack (`PageMetadata::try_from` of parquet 60.1), and Polars panics on
/// other damage. Such a panic must not end a program that can use the rest, and must not leave the terminal, as the
/// panic hook of a screen does. A hook that is set later has to check [`is_guarded`].
///
/// Whatever `work` has begun to change must be discarded after a panic.
///
/// # Errors
/// It panicked.
pub fn guarded<T>(threads: Threads, work: impl FnOnce() -> T) -> Result<T, Panicked> {
    HOOK.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |info| {
            if !is_guarded() {
                usual(info);
            }
        }));
    });
    let _in_progress = InProgress::begin(threads);
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| Panicked(text_of(&*payload)))
}

/// Whether a panic of this thread would be caught by [`guarded`], so that it need not be reported.
pub fn is_guarded() -> bool {
    THIS_THREAD.get() > 0 || ALL_THREADS.load(Ordering::SeqCst) > 0
}

struct InProgress(Threads);

impl InProgress {
    fn begin(threads: Threads) -> Self {
        match threads {
            Threads::This => THIS_THREAD.set(THIS_THREAD.get() + 1),
            Threads::All => _ = ALL_THREADS.fetch_add(1, Ordering::SeqCst),
        }
        Self(threads)
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        match self.0 {
            Threads::This => THIS_THREAD.set(THIS_THREAD.get() - 1),
            Threads::All => _ = ALL_THREADS.fetch_sub(1, Ordering::SeqCst),
        }
    }
}

fn text_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("without a message");
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    /// How often the earlier hook was called for the panic below.
    static REPORTED: AtomicU32 = AtomicU32::new(0);

    // One test, since there is one hook for the whole process.
    #[test]
    fn a_panic_is_an_error_and_only_the_threads_that_are_named_are_silent() {
        set_hook(Box::new(|info| {
            let is_ours = info.payload().downcast_ref::<&str>() == Some(&"of another thread");
            REPORTED.fetch_add(u32::from(is_ours), Ordering::SeqCst);
        }));
        for threads in [Threads::This, Threads::All] {
            assert_eq!(guarded(threads, || 7), Ok(7));
            let panicked = Panicked("of a library".into());
            assert_eq!(
                guarded(threads, || -> u32 { panic!("of a library\nat length") }),
                Err(panicked.clone())
            );
            let nested = || (guarded(threads, || -> u32 { panic!("of a {}", "library") }), is_guarded());
            assert_eq!(guarded(threads, nested), Ok((Err(panicked), true)));
            assert!(!is_guarded());
        }
        let in_another = || std::thread::spawn(|| panic!("of another thread")).join().is_err();
        assert_eq!(guarded(Threads::All, in_another), Ok(true));
        assert_eq!(REPORTED.load(Ordering::SeqCst), 0);
        assert_eq!(guarded(Threads::This, in_another), Ok(true));
        assert_eq!(REPORTED.load(Ordering::SeqCst), 1);
        assert!(in_another());
        assert_eq!(REPORTED.load(Ordering::SeqCst), 2, "the earlier hook still works");
    }
}
