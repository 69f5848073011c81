//! Where the log goes: stderr, but not across a screen that is being drawn.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use huddle_model::text::plain;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{FormatFields, Writer, debug_fn};

/// How what is logged becomes text: messages hold names and paths of others, and each stays one plain line.
pub(crate) fn plain_fields() -> impl for<'writer> FormatFields<'writer> {
    debug_fn(|writer: &mut Writer<'_>, field, value| {
        let text = format!("{value:?}");
        match field.name() {
            "message" => write!(writer, "{}", plain(&text)),
            name => write!(writer, " {name}={}", plain(&text)),
        }
    })
}

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
    fn what_is_logged_is_one_plain_line() {
        let log = Log::default();
        let held = log.hold();
        let subscriber = tracing_subscriber::fmt()
            .fmt_fields(plain_fields())
            .with_writer(log.clone())
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(vm = "a\nb", "VM {} is left out", "web\n INFO forged\u{202e}\u{1b}[2J");
        });
        let said = String::from_utf8(log.kept().take().unwrap()).unwrap();
        assert_eq!(said, " WARN VM web\\n INFO forged\\u{202e}\\u{1b}[2J is left out vm=\"a\\nb\"\n");
        drop(held);
    }

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
