//! What runner and stand-in say to each other: one word a line on the guest's standard input, one JSON
//! object a line on its standard output. When its input ends, the guest ends.

use serde::{Deserialize, Serialize};

/// What a guest is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Begin to read, counters at 0; answered by [`Reply::Started`].
    Start,
    /// Tell the counters and go on; answered by [`Reply::Reading`].
    Read,
    /// Stop and tell the counters; answered by [`Reply::Stopped`].
    Stop,
}

impl Command {
    /// The line that says it, without the line's end.
    pub fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Read => "read",
            Self::Stop => "stop",
        }
    }

    /// The command a line says.
    pub fn parse(line: &str) -> Option<Self> {
        [Self::Start, Self::Read, Self::Stop].into_iter().find(|command| command.word() == line.trim())
    }
}

/// What a guest answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Reply {
    /// Its memory is filled; said once, unasked.
    Ready {
        /// Bytes of the data that is read.
        data_bytes: u64,
        /// Bytes of memory that no other guest holds.
        private_bytes: u64,
    },
    /// It reads.
    Started,
    /// The counters while it reads.
    Reading(Reading),
    /// The counters after it stopped.
    Stopped(Reading),
    /// It did not understand or cannot do it now.
    Error {
        /// Why.
        message: String,
    },
}

/// What a guest has done since it was started, as of the end of its last burst; all four numbers are of
/// that one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Dependent reads.
    pub reads: u64,
    /// Time since the start (CLOCK_MONOTONIC), in nanoseconds.
    pub elapsed_ns: u64,
    /// CPU time its vCPU thread used (CLOCK_THREAD_CPUTIME_ID), in nanoseconds.
    pub busy_ns: u64,
    /// Where in its data it stands, in words: follows from the data and the reads, so that reads that
    /// were never made cannot be counted.
    pub position: u64,
}

impl Reading {
    /// What was done between `earlier` and this one; `None` when the guest was started anew in between.
    pub fn since(&self, earlier: &Self) -> Option<Self> {
        Some(Self {
            reads: self.reads.checked_sub(earlier.reads)?,
            elapsed_ns: self.elapsed_ns.checked_sub(earlier.elapsed_ns)?,
            busy_ns: self.busy_ns.checked_sub(earlier.busy_ns)?,
            position: self.position,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_stable() {
        let reading = Reading { reads: 5, elapsed_ns: 6, busy_ns: 7, position: 8 };
        let line = serde_json::to_string(&Reply::Reading(reading)).unwrap();
        assert_eq!(line, r#"{"event":"reading","reads":5,"elapsed_ns":6,"busy_ns":7,"position":8}"#);
        assert_eq!(serde_json::from_str::<Reply>(&line).unwrap(), Reply::Reading(reading));
        assert_eq!(Command::parse("start\n"), Some(Command::Start));
        assert_eq!(Command::parse("halt"), None);
    }

    #[test]
    fn a_guest_started_anew_gives_no_difference() {
        let late = Reading { reads: 5, elapsed_ns: 60, busy_ns: 7, position: 8 };
        let early = Reading { reads: 2, elapsed_ns: 20, busy_ns: 3, position: 0 };
        let between = Reading { reads: 3, elapsed_ns: 40, busy_ns: 4, position: 8 };
        assert_eq!(late.since(&early), Some(between));
        assert_eq!(early.since(&late), None);
    }
}
