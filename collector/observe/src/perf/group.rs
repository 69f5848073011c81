//! One group of events on one thread.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use huddle_model::availability::Availability;
use nix::errno::Errno;
use perf_event::{Builder, Counter, ReadFormat};

use super::events::EventSpec;
use huddle_host::clock::monotonic_ns;

/// The thread id that means the calling thread (perf_event_open(2)).
pub(super) const CALLING_THREAD: i32 = 0;

/// Which part of a thread is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything the thread does, in the guest and for it.
    HostAndGuest,
    /// Only while it runs the guest (KVM); software events cannot distinguish the two.
    GuestOnly,
}

/// A group that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The read failed.
    #[error("the counters of thread {tid} cannot be read: {source}")]
    Read {
        /// The thread.
        tid: i32,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// The kernel returned something else than it documents.
    #[error("the counters of thread {tid} gave {got} counts instead of {expected}")]
    Format {
        /// The thread.
        tid: i32,
        /// Counts read.
        got: usize,
        /// Counts of a group of this size.
        expected: usize,
    },
}

/// One reading of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupReading {
    /// When the reading began, on `CLOCK_MONOTONIC` in nanoseconds.
    pub begin_ns: u64,
    /// When the reading ended, likewise.
    pub end_ns: u64,
    /// Time the group was enabled, in nanoseconds.
    pub time_enabled_ns: u64,
    /// Time it was really on the processor, in nanoseconds; less where events were multiplexed.
    pub time_running_ns: u64,
    /// The raw count of each event in the order of the request; not scaled.
    pub counts: Vec<Availability<u64>>,
}

impl GroupReading {
    /// Whether the group was on the processor for only part of the time, so that counts are estimates.
    pub fn is_multiplexed(&self) -> bool {
        self.time_running_ns < self.time_enabled_ns
    }
}

/// Events that are counted together on one thread; counting ends when it is dropped.
#[derive(Debug)]
pub struct PerfGroup {
    tid: i32,
    /// The events that could be opened, the leader first.
    members: Vec<Counter>,
    /// For each requested event its position among the members, or why it is missing.
    places: Vec<Availability<usize>>,
}

impl PerfGroup {
    /// Starts to count. Events that cannot be opened are unavailable, with the reason; the others form one
    /// group. The thread's children are not counted.
    pub fn open(tid: i32, events: &[EventSpec], scope: Scope) -> Self {
        let mut members: Vec<Counter> = Vec::new();
        let places = events.iter().map(|event| {
            let builder = builder(tid, event, scope);
            let opened = match members.first_mut() {
                Some(leader) => builder.build_with_group(leader),
                None => builder.build(),
            };
            match opened {
                Ok(counter) => {
                    members.push(counter);
                    Availability::Available(members.len() - 1)
                }
                Err(error) => Availability::Unavailable(explain(event, tid, errno(&error))),
            }
        });
        let places = places.collect();
        Self { tid, members, places }
    }

    /// Which of the requested events are counted, and why others are not, in the order of the request.
    pub fn events(&self) -> Vec<Availability<()>> {
        self.places.iter().map(|place| place.clone().map(|_| ())).collect()
    }

    /// The descriptors of the events that are counted.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.members.iter().map(AsRawFd::as_raw_fd)
    }

    /// Reads all events at once.
    ///
    /// # Errors
    /// The group cannot be read.
    pub fn read(&mut self) -> Result<GroupReading, GroupError> {
        let begin_ns = monotonic_ns();
        let mut reading = GroupReading {
            begin_ns,
            end_ns: begin_ns,
            time_enabled_ns: 0,
            time_running_ns: 0,
            counts: self.places.iter().map(|place| place.clone().map(|_| 0)).collect(),
        };
        let (tid, expected) = (self.tid, self.members.len());
        if let Some(leader) = self.members.first_mut() {
            let wrong = |got| GroupError::Format { tid, got, expected };
            let data = leader.read_group().map_err(|source| match source.kind() {
                // Linux returns no bytes for a group in an error state.
                io::ErrorKind::UnexpectedEof => wrong(0),
                _ => GroupError::Read { tid, source },
            })?;
            reading.time_enabled_ns = nanoseconds(data.time_enabled());
            reading.time_running_ns = nanoseconds(data.time_running());
            for (count, place) in reading.counts.iter_mut().zip(&self.places) {
                let Availability::Available(place) = place else { continue };
                let entry = data.get(&self.members[*place]).ok_or_else(|| wrong(data.len()))?;
                *count = Availability::Available(entry.value());
            }
        }
        reading.end_ns = monotonic_ns();
        Ok(reading)
    }
}

/// Counts everything that the thread does, in user space, kernel and guest, from the moment the event is
/// open, without its children. The builder's default excludes the kernel and the hypervisor, so that context
/// switches and migrations would always be 0.
fn builder(tid: i32, event: &EventSpec, scope: Scope) -> Builder<'static> {
    let mut builder = event.code.builder();
    builder
        .observe_pid(tid)
        .any_cpu()
        .enabled(true)
        .inherit(false)
        .pinned(false)
        .exclude_user(false)
        .exclude_kernel(false)
        .exclude_hv(false)
        .exclude_guest(false)
        // Software events cannot distinguish the guest from the host.
        .exclude_host(scope == Scope::GuestOnly && !event.is_software())
        .read_format(
            ReadFormat::GROUP
                | ReadFormat::ID
                | ReadFormat::TOTAL_TIME_ENABLED
                | ReadFormat::TOTAL_TIME_RUNNING,
        );
    builder
}

/// Times are requested, so they are present.
fn nanoseconds(time: Option<Duration>) -> u64 {
    time.and_then(|time| u64::try_from(time.as_nanos()).ok()).unwrap_or(0)
}

/// The error number of a call by the builder.
fn errno(error: &io::Error) -> Errno {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number),
        // The builder has its own error only for E2BIG.
        None => Errno::E2BIG,
    }
}

/// What an error of perf_event_open(2) means here, and what to do.
fn explain(event: &EventSpec, tid: i32, errno: Errno) -> String {
    let why = match errno {
        Errno::ENOENT | Errno::ENODEV => {
            "this host has no such counter (a VM without a virtual PMU has none)"
        }
        Errno::EOPNOTSUPP => {
            "this host cannot count it this way; while a VM with KVM's mediated vPMU runs, nothing that guests do \
             can be counted"
        }
        Errno::EACCES | Errno::EPERM => {
            "not allowed; run as root, with CAP_PERFMON, or lower /proc/sys/kernel/perf_event_paranoid"
        }
        Errno::ESRCH => "the thread is gone",
        Errno::EMFILE => "too many open files; raise the limit (ulimit -n)",
        Errno::EINVAL => {
            "the processor cannot count it, or not together with the others or in the guest only"
        }
        Errno::EBUSY => "another user has exclusive use of the counters",
        _ => "the kernel refused",
    };
    let of = if tid == CALLING_THREAD { String::new() } else { format!(" of thread {tid}") };
    format!("event {}{of} cannot be counted: {why} ({errno})", event.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bits of the flags of `perf_event_attr` (include/uapi/linux/perf_event.h, Linux 6.18).
    const EXCLUDE_HOST: u64 = 1 << 19;
    const ENABLED_RUNNING_ID_GROUP: u64 = 0b1111;

    #[test]
    fn the_request_has_the_event_and_nothing_else() {
        let events = [
            EventSpec::context_switches(),
            EventSpec::cpu_migrations(),
            EventSpec::named("cycles").unwrap(),
            EventSpec::named("LLC-loads").unwrap(),
            EventSpec::raw("r412e", 0x412e),
        ];
        for event in &events {
            for scope in [Scope::HostAndGuest, Scope::GuestOnly] {
                let builder = builder(7, event, scope);
                let attrs = builder.attrs();
                let guest_only = scope == Scope::GuestOnly && !event.is_software();
                // Enabled, not inherited, not pinned, nothing excluded: no flag at all.
                let flags = attrs._bitfield_1.get(0, 64);
                assert_eq!(flags, if guest_only { EXCLUDE_HOST } else { 0 }, "{event:?} {scope:?}");
                assert_eq!(attrs.read_format, ENABLED_RUNNING_ID_GROUP);
                // The size of Linux 5.13 (PERF_ATTR_SIZE_VER7) or later; older kernels take zeros beyond theirs.
                assert!(attrs.size >= 128 && attrs.sample_type == 0, "{attrs:?}");
                assert_eq!((attrs.config2, attrs.config3, attrs.branch_sample_type), (0, 0, 0));
                assert_eq!((attrs.clockid, attrs.aux_watermark, attrs.sig_data), (0, 0, 0));
            }
        }
    }

    #[test]
    fn errors_keep_their_number() {
        assert_eq!(errno(&io::Error::from_raw_os_error(Errno::ENOENT as i32)), Errno::ENOENT);
        let mut builder = EventSpec::page_faults().code.builder();
        // Too small for any kernel, which returns E2BIG.
        builder.attrs_mut().size = 1;
        assert_eq!(errno(&builder.build().unwrap_err()), Errno::E2BIG);
    }
}
