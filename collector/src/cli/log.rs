//! Where the log goes: stderr, but not across a screen that is being drawn.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

/// Lines go to stderr at once, or are kept while a [`HeldLog`] lives.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Option<Vec<u8>>>>);

/// While it lives, lines are kept; when it is dropped they go to stderr.
#[derive(Debug)]
pub(crate) struct HeldLog(Log);

impl Log {
    /// Keeps lines back until what is returned is dropped.
    pub(crate) fn hold(&self) -> HeldLog {
        self.kept().get_or_insert_default();
        HeldLog(self.clone())
    }

    fn kept(&self) -> MutexGuard<'_, Option<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for HeldLog {
    fn drop(&mut self) {
        let kept = self.0.kept().take().unwrap_or_default();
        // The log of last resort is stderr itself: if that fails there is no other place.
        let _ = io::stderr().write_all(&kept);
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut *self.kept() {
            Some(kept) => kept.extend_from_slice(bytes),
            None => io::stderr().write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_kept_while_held_and_only_then() {
        let mut log = Log::default();
        let held = log.hold();
        log.write_all(b"kept\n").unwrap();
        assert_eq!(log.kept().as_deref(), Some(&b"kept\n"[..]));
        drop(held);
        assert_eq!(*log.kept(), None);
        log.write_all(b"").unwrap();
        assert_eq!(*log.kept(), None);
    }
}
