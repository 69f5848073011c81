//! Work that may panic and must not end the program.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Puts our hook before the one there was, once.
static HOOK: Once = Once::new();
/// Guarded work under way whose library has threads of its own.
static EVERYWHERE: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Guarded work under way in this thread.
    static HERE: Cell<usize> = const { Cell::new(0) };
}

/// Which threads' panics belong to the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The calling one. Panics of others are told as always.
    This,
    /// All of them: a library decodes in threads of its own, and the program does nothing else meanwhile.
    All,
}

/// A panic that was caught, with what it said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Panicked(String);

/// What `work` gives, or its panic, which says nothing on stderr.
///
/// Checksums keep damaged bytes away from the libraries that decode them, but recordings that huddle wrote before
/// it had checksums have none: the Parquet reader unwraps what a damaged page header may lack
/// (`PageMetadata::try_from` of parquet 60.1), and Polars panics on others. Such a panic must not end a program that
/// can answer from the rest, and must not leave the terminal, which the panic hook of a screen does. A hook that is
/// set later asks [`is_guarded`].
///
/// Whatever `work` has begun to change must be given up after a panic.
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
    let _under_way = UnderWay::begin(threads);
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| Panicked(text_of(&*payload)))
}

/// Whether a panic of this thread would be caught by [`guarded`] and be nothing to tell.
pub fn is_guarded() -> bool {
    HERE.get() > 0 || EVERYWHERE.load(Ordering::SeqCst) > 0
}

struct UnderWay(Threads);

impl UnderWay {
    fn begin(threads: Threads) -> Self {
        match threads {
            Threads::This => HERE.set(HERE.get() + 1),
            Threads::All => _ = EVERYWHERE.fetch_add(1, Ordering::SeqCst),
        }
        Self(threads)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        match self.0 {
            Threads::This => HERE.set(HERE.get() - 1),
            Threads::All => _ = EVERYWHERE.fetch_sub(1, Ordering::SeqCst),
        }
    }
}

fn text_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("it does not say why");
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    /// How often the hook that was there before said something of the panic below.
    static SAID: AtomicU32 = AtomicU32::new(0);

    // One test, since there is one hook for the whole process.
    #[test]
    fn a_panic_is_an_error_and_only_the_threads_that_are_named_are_silent() {
        set_hook(Box::new(|info| {
            let is_ours = info.payload().downcast_ref::<&str>() == Some(&"of another thread");
            SAID.fetch_add(u32::from(is_ours), Ordering::SeqCst);
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
        assert_eq!(SAID.load(Ordering::SeqCst), 0);
        assert_eq!(guarded(Threads::This, in_another), Ok(true));
        assert_eq!(SAID.load(Ordering::SeqCst), 1);
        assert!(in_another());
        assert_eq!(SAID.load(Ordering::SeqCst), 2, "the hook that was there before goes on");
    }
}
