//! How much is read of what others write, in one place.
//!
//! huddle runs as root beside processes of anybody. A process decides what its command line holds, how many threads
//! and mappings it has, what its monitor answers and how fast. So each of these has a limit, and all that one round
//! of discovery reads has a limit of time and of memory. A process that is beyond a limit is left out, which is said
//! once; the round goes on with the others.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Limits for what is read of processes. A VM beyond one of them is left out, with the reason. The defaults are well
/// beyond what real VMs have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Longest command line, in KiB. QEMU's have 10 KiB, with hundreds of disks 100.
    pub command_line_kib: u32,
    /// Longest name of a VM, in bytes, with the number that makes it unique; what is longer is cut.
    pub name_bytes: u32,
    /// Most threads of a process. KVM has at most 4,096 vCPUs in a VM.
    pub threads: u32,
    /// Most mappings of a process.
    pub mappings: u32,
    /// Most open files of a process that are looked through for those of KVM.
    pub open_files: u32,
    /// Most processes of one `[[vm]] cgroup`.
    pub cgroup_processes: u32,
    /// Most guest memory of a VM, as a multiple of the memory of this host.
    pub memory_factor: u32,
    /// Most monitors (QMP sockets) of a process that are asked.
    pub monitors: u32,
    /// Time for all monitors of a round to answer, in milliseconds. They are asked side by side.
    pub monitor_ms: u32,
    /// Most that a monitor may send, in KiB. With 4,096 vCPUs the answer has 800.
    pub monitor_kib: u32,
    /// Time to read about the threads and open files of one VM in one round, in milliseconds.
    pub vm_ms: u32,
    /// Time to look for VMs in one round, in milliseconds. What is not reached is left for the next round.
    pub round_ms: u32,
    /// Memory for what is known of all VMs, in MiB.
    pub round_mib: u32,
    /// Most names of which workloads may report in one window of observation.
    pub report_names: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            command_line_kib: 256,
            name_bytes: 256,
            threads: 8_192,
            mappings: 16_384,
            open_files: 65_536,
            cgroup_processes: 4_096,
            memory_factor: 4,
            monitors: 4,
            monitor_ms: 1_000,
            monitor_kib: 1_024,
            vm_ms: 500,
            round_ms: 2_000,
            round_mib: 64,
            report_names: 4_096,
        }
    }
}

/// A limit that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLimit {
    /// Nothing would be left.
    #[error("{0} is 0, expected 1 or more")]
    Zero(&'static str),
    /// No name would be told from another.
    #[error("name_bytes is {0}, expected 16 to 4096")]
    NameBytes(u32),
}

impl Limits {
    /// Says which limit makes no sense, if one does not.
    ///
    /// # Errors
    /// The first limit that cannot be.
    pub fn check(&self) -> Result<(), BadLimit> {
        if !(16..=4096).contains(&self.name_bytes) {
            return Err(BadLimit::NameBytes(self.name_bytes));
        }
        let all = [
            ("command_line_kib", self.command_line_kib),
            ("threads", self.threads),
            ("mappings", self.mappings),
            ("open_files", self.open_files),
            ("cgroup_processes", self.cgroup_processes),
            ("memory_factor", self.memory_factor),
            ("monitors", self.monitors),
            ("monitor_ms", self.monitor_ms),
            ("monitor_kib", self.monitor_kib),
            ("vm_ms", self.vm_ms),
            ("round_ms", self.round_ms),
            ("round_mib", self.round_mib),
            ("report_names", self.report_names),
        ];
        all.into_iter().find(|(_, value)| *value == 0).map_or(Ok(()), |(name, _)| Err(BadLimit::Zero(name)))
    }

    /// Longest name that a VM may want, in bytes: a number has to fit behind it.
    pub fn wanted_name_bytes(&self) -> usize {
        count(self.name_bytes).saturating_sub("-2147483647".len())
    }

    /// Longest command line, in bytes.
    pub fn command_line_bytes(&self) -> usize {
        kib(self.command_line_kib)
    }

    /// Most that a monitor may send, in bytes.
    pub fn monitor_bytes(&self) -> usize {
        kib(self.monitor_kib)
    }

    /// Time for all monitors of a round.
    pub fn monitor_time(&self) -> Duration {
        Duration::from_millis(self.monitor_ms.into())
    }

    /// The longest that a file of one line for each mapping may be, in bytes: paths have up to 4,096 bytes, of which
    /// some take four, but few are long.
    pub fn mappings_bytes(&self) -> usize {
        count(self.mappings).saturating_mul(512)
    }
}

/// What is left of a round's time and memory.
#[derive(Clone, Debug)]
pub struct Budget {
    ends: Instant,
    vm_time: Duration,
    memory_bytes: usize,
}

/// What there is too much of, as the end of a sentence about a process.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    /// Reading takes too long.
    #[error("reading about it took longer than {0} ms ([limits] vm_ms)")]
    Time(u128),
    /// What is known of all VMs fills the memory for it.
    #[error("there is no room to know more of VMs ([limits] round_mib)")]
    Memory,
    /// More of something than is read.
    #[error("it has more than {most} {of} ([limits] {limit})")]
    Count {
        /// Of what.
        of: &'static str,
        /// The limit.
        most: u64,
        /// Its name in the configuration.
        limit: &'static str,
    },
}

impl Budget {
    /// All of a round that begins now.
    pub fn of_round(limits: &Limits) -> Self {
        Self {
            ends: Instant::now() + Duration::from_millis(limits.round_ms.into()),
            vm_time: Duration::from_millis(limits.vm_ms.into()),
            memory_bytes: kib(limits.round_mib).saturating_mul(1024),
        }
    }

    /// Whether the time of the round is over.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.ends
    }

    /// The time to read about one VM, which begins now.
    pub fn vm(&self) -> VmTime {
        VmTime { ends: Instant::now() + self.vm_time, all: self.vm_time }
    }

    /// Takes memory for what is known of a VM.
    ///
    /// # Errors
    /// Not so much is left; nothing is taken.
    pub fn take(&mut self, bytes: usize) -> Result<(), TooMuch> {
        self.memory_bytes = self.memory_bytes.checked_sub(bytes).ok_or(TooMuch::Memory)?;
        Ok(())
    }
}

/// The time to read about one VM.
#[derive(Clone, Copy, Debug)]
pub struct VmTime {
    ends: Instant,
    all: Duration,
}

impl VmTime {
    /// # Errors
    /// It is over.
    pub fn check(&self) -> Result<(), TooMuch> {
        if Instant::now() < self.ends { Ok(()) } else { Err(TooMuch::Time(self.all.as_millis())) }
    }
}

fn kib(kib: u32) -> usize {
    count(kib).saturating_mul(1024)
}

/// A limit as a number of things in memory.
pub fn count(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_make_sense_and_nothing_of_nothing_does_not() {
        assert_eq!(Limits::default().check(), Ok(()));
        let none = Limits { threads: 0, ..Limits::default() };
        assert_eq!(none.check().unwrap_err().to_string(), "threads is 0, expected 1 or more");
        for name_bytes in [0, 15, 4097] {
            assert!(Limits { name_bytes, ..Limits::default() }.check().is_err());
        }
    }

    #[test]
    fn a_budget_is_spent_and_not_overdrawn() {
        let limits = Limits { round_ms: 1, vm_ms: 1, round_mib: 1, ..Limits::default() };
        let mut budget = Budget::of_round(&limits);
        let time = budget.vm();
        assert_eq!(budget.take(1 << 19), Ok(()));
        assert_eq!(budget.take((1 << 19) + 1), Err(TooMuch::Memory));
        assert_eq!(budget.take(1 << 19), Ok(()), "what was refused was not taken");
        std::thread::sleep(Duration::from_millis(3));
        assert!(budget.is_over() && time.check() == Err(TooMuch::Time(1)));
        let long = Budget::of_round(&Limits::default());
        assert!(!long.is_over() && long.vm().check().is_ok());
    }
}
