//! Where the log goes: stderr, but not while a screen is drawn. Where stderr is the journal of systemd, a line has its
//! priority instead of time and level (sd-daemon(3)).

use std::env;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::anyhow;
use huddle_model::text::plain;
use nix::sys::stat::fstat;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer, debug_fn};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
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

/// Whether stderr is connected to the journal (systemd.exec(5), `JOURNAL_STREAM`).
pub(crate) fn is_journal() -> bool {
    let stream = env::var("JOURNAL_STREAM").ok();
    let stderr = fstat(io::stderr()).ok();
    stream.zip(stderr).is_some_and(|(stream, stderr)| is_stream(&stream, stderr.st_dev, stderr.st_ino))
}

/// Whether a value of `JOURNAL_STREAM` (device and inode) is this file.
fn is_stream(value: &str, device: u64, inode: u64) -> bool {
    value
        .split_once(':')
        .is_some_and(|(first, second)| first.parse() == Ok(device) && second.parse() == Ok(inode))
}

/// What a line that says why this program failed begins with.
pub(crate) fn error_prefix() -> &'static str {
    if is_journal() { "<3>" } else { "" }
}

/// Lines for the journal, which adds the time.
struct JournalLines;

impl<S, N> FormatEvent<S, N> for JournalLines
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        // syslog(3).
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{priority}>")?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
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
        let lines = if is_journal() { lines.event_format(JournalLines).boxed() } else { lines.boxed() };
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
    fn the_journal_gets_priorities_instead_of_times() {
        let log = Log::default();
        let held = log.hold();
        let subscriber = tracing_subscriber::fmt()
            .fmt_fields(plain_fields())
            .with_writer(log.clone())
            .with_ansi(false)
            .event_format(JournalLines)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!("a\n<0>forged");
            tracing::warn!("b");
            tracing::info!(vm = "web", "c");
        });
        let logged = String::from_utf8(log.buffer().take().unwrap()).unwrap();
        assert_eq!(logged, "<3>a\\n<0>forged\n<4>b\n<6>c vm=\"web\"\n");
        drop(held);
        assert!(is_stream("8:1234", 8, 1234));
        assert!(!is_stream("8:1234", 8, 123) && !is_stream("8", 8, 8) && !is_stream("", 0, 0));
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
