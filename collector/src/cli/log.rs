//! Where the log goes: stderr, but not while a screen is drawn.

use std::env;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::anyhow;
use huddle_model::text::plain;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{FormatFields, Writer, debug_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::failure::Failure;

/// What is logged: a level, or levels by module, as `warn,huddle_engine=debug`.
const FILTER: &str = "HUDDLE_LOG";

/// Formats the fields of a log line: messages contain names and paths of others, and each stays one plain line.
fn plain_fields() -> impl for<'writer> FormatFields<'writer> {
    debug_fn(|writer: &mut Writer<'_>, field, value| {
        let text = format!("{value:?}");
        match field.name() {
            "message" => write!(writer, "{}", plain(&text)),
            name => write!(writer, " {name}={}", plain(&text)),
        }
    })
}

/// Lines go to stderr at once, or are buffered while a [`HeldLog`] lives.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Option<Vec<u8>>>>);

/// While it lives, lines are buffered; when it is dropped they go to stderr.
#[derive(Debug)]
pub(crate) struct HeldLog(Log);

impl Log {
    /// Starts logging to stderr, as the environment variable [`FILTER`] says; `info` where it is not set.
    ///
    /// # Errors
    /// The variable is not a valid filter.
    pub(crate) fn start() -> Result<Self, Failure> {
        let filter = match env::var_os(FILTER).filter(|text| !text.is_empty()) {
            None => Targets::new().with_default(LevelFilter::INFO),
            Some(text) => filter(&text.to_string_lossy())?,
        };
        let log = Self::default();
        let lines = tracing_subscriber::fmt::layer()
            .fmt_fields(plain_fields())
            .with_writer(log.clone())
            .with_target(false)
            .with_ansi(io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none());
        tracing_subscriber::registry().with(lines.with_filter(filter)).init();
        Ok(log)
    }

    /// Buffers lines until the returned value is dropped.
    pub(crate) fn hold(&self) -> HeldLog {
        self.buffer().get_or_insert_default();
        HeldLog(self.clone())
    }

    fn buffer(&self) -> MutexGuard<'_, Option<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn filter(text: &str) -> Result<Targets, Failure> {
    text.parse().map_err(|error| {
        Failure::usage(anyhow!(
            "{FILTER} is `{}`: {error}. Give a level (error, warn, info, debug, trace, off), or levels by module: \
             `warn,huddle_engine=debug`",
            text.escape_debug()
        ))
    })
}

impl Drop for HeldLog {
    fn drop(&mut self) {
        let kept = self.0.buffer().take().unwrap_or_default();
        // If stderr fails there is no other place to report it.
        let _ = io::stderr().write_all(&kept);
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut *self.buffer() {
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
    fn filters_are_levels_or_levels_by_module() {
        for text in ["debug", "warn,huddle_engine=debug", "off"] {
            assert!(filter(text).is_ok(), "{text}");
        }
        let error = filter("huddle=loud").unwrap_err().to_string();
        assert!(error.starts_with("HUDDLE_LOG is `huddle=loud`: "), "{error}");
    }

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
        let logged = String::from_utf8(log.buffer().take().unwrap()).unwrap();
        assert_eq!(logged, " WARN VM web\\n INFO forged\\u{202e}\\u{1b}[2J is left out vm=\"a\\nb\"\n");
        drop(held);
    }

    #[test]
    fn lines_are_buffered_while_held_and_only_then() {
        let mut log = Log::default();
        let held = log.hold();
        log.write_all(b"kept\n").unwrap();
        assert_eq!(log.buffer().as_deref(), Some(&b"kept\n"[..]));
        drop(held);
        assert_eq!(*log.buffer(), None);
        log.write_all(b"").unwrap();
        assert_eq!(*log.buffer(), None);
    }
}
