//! One group of events on one thread.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd};

use huddle_model::availability::Availability;
use nix::errno::Errno;
use perf_event_open_sys::bindings::{
    PERF_FLAG_FD_CLOEXEC, PERF_FORMAT_GROUP, PERF_FORMAT_TOTAL_TIME_ENABLED, PERF_FORMAT_TOTAL_TIME_RUNNING,
    perf_event_attr,
};

use super::events::EventSpec;
use huddle_host::clock::monotonic_ns;

/// The thread id that means whoever calls (perf_event_open(2)).
pub(super) const CALLING_THREAD: i32 = 0;

/// What of a thread is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything the thread does, in the guest and for it.
    HostAndGuest,
    /// Only while it runs the guest (KVM); software events do not know the difference.
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
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The kernel gave something else than it documents.
    #[error("the counters of thread {tid} gave {got} words instead of {expected}")]
    Format {
        /// The thread.
        tid: i32,
        /// Words read.
        got: usize,
        /// Words of a group of this size.
        expected: usize,
    },
}

/// One reading of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupReading {
    /// When the reading began, on `CLOCK_MONOTONIC` in nanoseconds.
    pub begin_ns: u64,
    /// When it was done, likewise.
    pub end_ns: u64,
    /// Time the group was enabled, in nanoseconds.
    pub time_enabled_ns: u64,
    /// Time it was really on the processor, in nanoseconds; less where events were multiplexed.
    pub time_running_ns: u64,
    /// The raw count of each event in the order they were asked for; not scaled.
    pub counts: Vec<Availability<u64>>,
}

impl GroupReading {
    /// Whether the group was on the processor for a part of the time only, so that counts are estimates.
    pub fn is_multiplexed(&self) -> bool {
        self.time_running_ns < self.time_enabled_ns
    }
}

/// Events that are counted together on one thread; counting ends when it is dropped.
#[derive(Debug)]
pub struct PerfGroup {
    tid: i32,
    /// The events that could be opened, the leader first.
    members: Vec<File>,
    /// For each event asked for its place among the members, or why it is not there.
    places: Vec<Availability<usize>>,
}

impl PerfGroup {
    /// Starts to count. Events that cannot be opened are unavailable, with the reason; the others are one
    /// group. The thread's children are not counted.
    pub fn open(tid: i32, events: &[EventSpec], scope: Scope) -> Self {
        let mut members: Vec<File> = Vec::new();
        let places = events.iter().map(|event| match open(tid, event, scope, members.first()) {
            Ok(file) => {
                members.push(file);
                Availability::Available(members.len() - 1)
            }
            Err(errno) => Availability::Unavailable(explain(event, tid, errno)),
        });
        let places = places.collect();
        Self { tid, members, places }
    }

    /// Which of the events asked for are counted, and why others are not, in the order of asking.
    pub fn events(&self) -> Vec<Availability<()>> {
        self.places.iter().map(|place| place.clone().map(|_| ())).collect()
    }

    /// Reads all events at once.
    ///
    /// # Errors
    /// The kernel does not give the group.
    pub fn read(&mut self) -> Result<GroupReading, GroupError> {
        let begin_ns = monotonic_ns();
        let expected = 3 + self.members.len();
        let mut bytes = vec![0_u8; expected * 8];
        let mut words = vec![0; 3];
        if let Some(leader) = self.members.first_mut() {
            let failed = |source| GroupError::Read { tid: self.tid, source };
            let length = leader.read(&mut bytes).map_err(failed)?;
            let word = |word: &[u8; 8]| u64::from_ne_bytes(*word);
            words = bytes[..length].as_chunks().0.iter().map(word).collect();
            // Linux gives no words at all for a group in an error state.
            if words.len() != expected || words[0] as usize != self.members.len() {
                return Err(GroupError::Format { tid: self.tid, got: words.len(), expected });
            }
        }
        let count = |place: &Availability<usize>| place.clone().map(|place| words[3 + place]);
        Ok(GroupReading {
            begin_ns,
            end_ns: monotonic_ns(),
            time_enabled_ns: words[1],
            time_running_ns: words[2],
            counts: self.places.iter().map(count).collect(),
        })
    }
}

fn open(tid: i32, event: &EventSpec, scope: Scope, leader: Option<&File>) -> Result<File, Errno> {
    let mut attributes = perf_event_attr {
        size: size_of::<perf_event_attr>() as u32,
        type_: event.kind,
        config: event.config,
        read_format: u64::from(
            PERF_FORMAT_GROUP | PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING,
        ),
        ..perf_event_attr::default()
    };
    if scope == Scope::GuestOnly && !event.is_software() {
        attributes.set_exclude_host(1);
    }
    let group = leader.map_or(-1, AsRawFd::as_raw_fd);
    // SAFETY: the attributes live through the call and hold their own size; the kernel keeps no pointer.
    let fd = unsafe {
        perf_event_open_sys::perf_event_open(&mut attributes, tid, -1, group, PERF_FLAG_FD_CLOEXEC.into())
    };
    if fd < 0 {
        return Err(Errno::last());
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// What an error of perf_event_open(2) means here, and what to do.
fn explain(event: &EventSpec, tid: i32, errno: Errno) -> String {
    let why = match errno {
        Errno::ENOENT | Errno::ENODEV => {
            "this host has no such counter (a VM without a virtual PMU has none)"
        }
        Errno::EOPNOTSUPP => {
            "this host cannot count it so; while a VM with KVM's mediated vPMU runs, nothing that guests do \
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
        Errno::EBUSY => "another user keeps the counters for itself",
        _ => "the kernel refused",
    };
    let of = if tid == CALLING_THREAD { String::new() } else { format!(" of thread {tid}") };
    format!("event {}{of} cannot be counted: {why} ({errno})", event.name)
}
