//! What running guests have in common, whatever they run in: a name, an end, and errors about both.

use std::fmt;
use std::time::{Duration, Instant};

use super::process_group::tail;
use super::{GuestError, GuestId};

/// What a guest runs in. Dropping it ends it.
pub trait Instance {
    /// What the host knows it as.
    fn id(&self) -> GuestId;

    /// How it ended, if it has.
    fn ended(&mut self) -> Option<String>;

    /// Ends it and waits for that. It may have ended already.
    fn end(&mut self);

    /// The output it has written, and its name: a console or a log. `None` if it has none.
    fn output(&self) -> Option<(String, String)>;
}

/// A running guest. Dropping it ends it.
pub struct Running<I: Instance> {
    name: String,
    /// What it runs in.
    pub(crate) instance: I,
}

impl<I: Instance> fmt::Debug for Running<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.instance.id())
    }
}

impl<I: Instance> Running<I> {
    /// The guest `name` in `instance`.
    pub fn new(name: &str, instance: I) -> Self {
        Self { name: name.to_owned(), instance }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the host knows it as.
    pub fn id(&self) -> GuestId {
        self.instance.id()
    }

    /// Makes sure that it has not ended, before or while it was to do `command`.
    ///
    /// # Errors
    /// How it ended, and the end of its output.
    pub fn check(&mut self, command: &'static str) -> Result<(), GuestError> {
        self.instance.ended().map_or(Ok(()), |status| Err(self.ended(command, status)))
    }

    /// As [`Self::check`], where its connection broke: the process ends a little later.
    ///
    /// # Errors
    /// It has ended.
    pub fn check_disconnected(&mut self, command: &'static str) -> Result<(), GuestError> {
        let until = Instant::now() + Duration::from_secs(1);
        loop {
            self.check(command)?;
            if Instant::now() >= until {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The error that it has ended.
    pub fn ended(&self, command: &'static str, status: String) -> GuestError {
        GuestError::Ended {
            name: self.name.clone(),
            id: self.id(),
            command,
            status,
            output: self.end_of_output(),
        }
    }

    /// The error that it did not answer within `limit`.
    pub fn timed_out(&self, command: &'static str, limit: Duration) -> GuestError {
        GuestError::TimedOut {
            name: self.name.clone(),
            id: self.id(),
            command,
            seconds: limit.as_secs_f64(),
            output: self.end_of_output(),
        }
    }

    /// The error that its answer makes no sense.
    pub fn unexpected(&self, command: &'static str, answer: String) -> GuestError {
        GuestError::Unexpected { name: self.name.clone(), id: self.id(), command, answer }
    }

    /// The last lines of its output, for messages; empty when there are none.
    pub fn end_of_output(&self) -> String {
        match self.instance.output().map(|(text, name)| (tail(&text), name)) {
            Some((lines, name)) if !lines.is_empty() => format!("\nthe end of its {name}:\n  {lines}"),
            _ => String::new(),
        }
    }
}
