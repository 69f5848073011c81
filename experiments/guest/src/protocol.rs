//! The protocol of runner and guest: a command is one line of words, an answer one line of JSON. When its input
//! ends, the guest ends.

use serde::{Deserialize, Serialize};

/// A command to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Hold the data of a seed and a copy of its own, and cold data, instead of what it held; answered by
    /// [`Reply::Loaded`].
    Load {
        /// Seed of the data: guests with the same seed hold the same.
        seed: u64,
        /// Seed of the differences of the guest's own copy: the same ring, so the same sequence of reads,
        /// but no page that equals one of another guest, so that it can never be merged.
        own_seed: u64,
        /// Size of the data in KiB, whole pages.
        kib: u64,
        /// What it holds besides; `None` for nothing.
        cold: Option<ColdData>,
    },
    /// Begin to read, counters at 0; answered by [`Reply::Started`].
    Start {
        /// How.
        pace: Pace,
        /// Whether the guest's own copy is read, which cannot be merged, instead of the common data.
        own: bool,
    },
    /// Report the counters and go on; answered by [`Reply::Reading`].
    Read,
    /// Stop and report the counters; answered by [`Reply::Stopped`].
    Stop,
}

/// Data that a guest holds and never reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColdData {
    /// Its seed: guests with the same seed hold the same.
    pub seed: u64,
    /// Its size in KiB, whole pages, not 0.
    pub kib: u64,
}

/// How a guest reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Dependent reads between two idle times.
    pub burst_reads: u64,
    /// How long it is idle, in microseconds; 0 only yields the CPU (sched_yield(2)).
    pub idle_us: u64,
}

impl Command {
    /// The first word, for messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Load { .. } => "load",
            Self::Start { .. } => "start",
            Self::Read => "read",
            Self::Stop => "stop",
        }
    }

    /// Its line, without the line end.
    pub fn line(self) -> String {
        let word = self.word();
        match self {
            Self::Load { seed, own_seed, kib, cold } => {
                let (cold_seed, cold_kib) = cold.map_or((0, 0), |cold| (cold.seed, cold.kib));
                format!("{word} {seed} {own_seed} {kib} {cold_seed} {cold_kib}")
            }
            Self::Start { pace: Pace { burst_reads, idle_us }, own } => {
                format!("{word} {burst_reads} {idle_us} {}", u8::from(own))
            }
            Self::Read | Self::Stop => word.to_owned(),
        }
    }

    /// The command of a line; `None` when it is not one.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let word = words.next()?;
        let numbers: Vec<u64> = words.map(|word| word.parse().ok()).collect::<Option<_>>()?;
        match (word, numbers[..].as_ref()) {
            ("load", [seed, own_seed, kib, cold_seed, cold_kib]) => {
                let cold = (*cold_kib > 0).then_some(ColdData { seed: *cold_seed, kib: *cold_kib });
                Some(Self::Load { seed: *seed, own_seed: *own_seed, kib: *kib, cold })
            }
            ("start", [burst_reads, idle_us, own @ (0 | 1)]) => Some(Self::Start {
                pace: Pace { burst_reads: *burst_reads, idle_us: *idle_us },
                own: *own == 1,
            }),
            ("read", []) => Some(Self::Read),
            ("stop", []) => Some(Self::Stop),
            _ => None,
        }
    }
}

/// What a guest answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Reply {
    /// It is up: the first message.
    Ready {
        /// How many vCPUs read.
        vcpus: u32,
    },
    /// It holds the data.
    Loaded {
        /// Bytes of it, and of the guest's own copy.
        data_bytes: u64,
    },
    /// It reads.
    Started,
    /// The counters of each vCPU while it reads.
    Reading {
        /// In the order of vCPUs.
        vcpus: Vec<Reading>,
    },
    /// The counters of each vCPU after it stopped.
    Stopped {
        /// In the order of vCPUs.
        vcpus: Vec<Reading>,
    },
    /// The command is unknown or makes no sense now.
    Error {
        /// Why.
        message: String,
    },
}

/// What one vCPU has done since it was started, as of the end of its last burst; all four numbers are
/// of that one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Dependent reads.
    pub reads: u64,
    /// Time since the start (CLOCK_MONOTONIC), in nanoseconds of the guest's clock.
    pub elapsed_ns: u64,
    /// CPU time its thread used (CLOCK_THREAD_CPUTIME_ID), in nanoseconds. In a VM it holds the time
    /// that the host gave to other programs in the middle of a burst, which a guest cannot distinguish.
    pub busy_ns: u64,
    /// Its position in its data, in words: follows from the data and the reads, so that reads that
    /// were never made cannot be counted.
    pub position: u64,
}

impl Reading {
    /// What was done between `earlier` and this one; `None` when the guest was restarted in between.
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
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn lines_are_stable() {
        let reading = Reading { reads: 5, elapsed_ns: 6, busy_ns: 7, position: 8 };
        let line = serde_json::to_string(&Reply::Reading { vcpus: vec![reading] }).unwrap();
        assert_eq!(
            line,
            r#"{"event":"reading","vcpus":[{"reads":5,"elapsed_ns":6,"busy_ns":7,"position":8}]}"#
        );
        let loaded = Reply::Loaded { data_bytes: 8192 };
        let line = serde_json::to_string(&loaded).unwrap();
        assert_eq!(line, r#"{"event":"loaded","data_bytes":8192}"#);
        assert_eq!(serde_json::from_str::<Reply>(&line).unwrap(), loaded);
    }

    #[test]
    fn every_command_is_read_as_it_was_said() {
        for command in [
            Command::Load { seed: u64::MAX, own_seed: 3, kib: 1536, cold: None },
            Command::Load {
                seed: 1,
                own_seed: 3,
                kib: 4,
                cold: Some(ColdData { seed: u64::MAX, kib: 6144 }),
            },
            Command::Start { pace: Pace { burst_reads: 30_720, idle_us: 1000 }, own: false },
            Command::Start { pace: Pace { burst_reads: 1, idle_us: 0 }, own: true },
            Command::Read,
            Command::Stop,
        ] {
            assert_eq!(Command::parse(&format!("{}\r\n", command.line())), Some(command));
        }
        for line in [
            "",
            "halt",
            "load 1",
            "load 1 2 3",
            "load 1 2 3 4",
            "load 1 2 -4 0 0",
            "start 1 2 3",
            "start",
            "read 1",
        ] {
            assert_eq!(Command::parse(line), None, "{line:?}");
        }
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
