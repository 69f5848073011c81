//! The counters of all vCPU threads of the watched VMs.

use std::collections::BTreeMap;

use huddle_model::availability::Availability;
use huddle_model::counters::{CounterRole, Counts, GroupReading};
use huddle_model::observation::CountedEvent;
use huddle_model::rates::CounterDelta;
use huddle_model::vm::{TaskId, Vm};

use super::check::Seen;
use super::set::{EventSet, OpenSet};
use huddle_host::{HostRoot, descriptors, task, threads};

/// One vCPU at one reading.
#[derive(Clone, Debug, PartialEq)]
pub struct VcpuReading {
    /// Name of the VM.
    pub vm: String,
    /// Number of the vCPU within it.
    pub vcpu: u32,
    /// The process that holds the thread.
    pub process: TaskId,
    /// The thread that runs it.
    pub thread: TaskId,
    /// Totals since its group was opened, with the time of this reading, or why they are missing.
    pub reading: Availability<GroupReading>,
    /// Difference to the previous reading; at the first one, to when the group was opened.
    pub delta: CounterDelta,
}

/// One group of counters for each vCPU thread. Counting ends when this is dropped.
#[derive(Debug)]
pub struct VcpuCounters {
    root: HostRoot,
    set: EventSet,
    events: Vec<CountedEvent>,
    seen: Seen,
    vcpus: Vec<Watched>,
    readings: usize,
}

/// Readings after which each thread's CPU time is looked at once: both clocks of a thread run apart by far less than
/// what counts as having run (`SURELY_RAN_NS` of the model) in so many windows, and reading `/proc` costs ten times as
/// much as reading the counters. A thread that was not enabled in a window is looked at in each.
const READINGS_PER_LOOK: usize = 64;

/// One vCPU and its group, or why it has none.
#[derive(Debug)]
struct Watched {
    vm: String,
    vcpu: u32,
    process: TaskId,
    thread: TaskId,
    group: Result<Group, String>,
}

#[derive(Debug)]
struct Group {
    open: OpenSet,
    last: GroupReading,
    since: Since,
}

/// When the thread's CPU time was last compared with the time that its group was enabled.
#[derive(Clone, Copy, Debug)]
struct Since {
    /// CPU time of the thread, in ticks.
    ticks: u64,
    /// Time the group was enabled.
    enabled_ns: u64,
}

impl VcpuCounters {
    /// Tries the set on the calling thread; no vCPU is watched yet. Never fails: on a host that counts
    /// nothing, [`Self::events`] and each reading have the reason. An event that counts nothing here may be one that
    /// the processor does not have: until it counted on some vCPU, its zeros are unavailable.
    ///
    /// Every vCPU takes a file descriptor for each event: see [`descriptors`].
    pub fn new(root: HostRoot, set: EventSet) -> Self {
        let events = set.probe();
        let mut seen = Seen::default();
        if let Some(counts) = set.check() {
            seen.note(&counts);
        }
        Self { root, set, events, seen, vcpus: Vec::new(), readings: 0 }
    }

    /// The event that is really counted for each role, or why there is none. Changes when an event counts for the first
    /// time.
    pub fn events(&self) -> Vec<CountedEvent> {
        let event = |CountedEvent { role, event }: &CountedEvent| CountedEvent {
            role: *role,
            event: match (event, self.doubt(*role)) {
                (Availability::Available(_), Some(doubt)) => Availability::Unavailable(doubt),
                (event, _) => event.clone(),
            },
        };
        self.events.iter().map(event).collect()
    }

    fn doubt(&self, role: CounterRole) -> Option<String> {
        self.seen.doubt(role, self.set.event(role))
    }

    /// Watches the vCPUs of `vms`: opens a group for each new thread, keeps existing ones, closes the others.
    /// A thread whose group could not be opened is tried again.
    pub fn sync(&mut self, vms: &[Vm]) {
        let earlier = std::mem::take(&mut self.vcpus).into_iter();
        let mut earlier: BTreeMap<TaskId, Group> =
            earlier.filter_map(|watched| Some((watched.thread, watched.group.ok()?))).collect();
        for vm in vms {
            for vcpu in &vm.vcpus {
                // A vCPU without a thread on this host cannot be counted here.
                let Some((process, thread)) = vcpu.thread() else { continue };
                let group = match earlier.remove(&thread) {
                    Some(group) => Ok(group),
                    None => self.open(process, thread),
                };
                self.vcpus.push(Watched { vm: vm.name.clone(), vcpu: vcpu.index, process, thread, group });
            }
        }
    }

    /// Reads each vCPU, in the order of the last [`Self::sync`]. A thread that has ended since has no
    /// numbers, because the time they cover is unknown.
    pub fn read(&mut self) -> Vec<VcpuReading> {
        let Self { root, vcpus, seen, readings, .. } = self;
        *readings = readings.wrapping_add(1);
        let turn = *readings % READINGS_PER_LOOK;
        let vcpu =
            |(index, watched): (usize, &mut Watched)| watched.read(root, index % READINGS_PER_LOOK == turn);
        let mut read: Vec<VcpuReading> = vcpus.iter_mut().enumerate().map(vcpu).collect();
        for counts in read.iter().filter_map(|vcpu| Some(&vcpu.reading.value()?.counts)) {
            seen.note(counts);
        }
        for role in CounterRole::ALL {
            let Some(doubt) = self.doubt(role) else { continue };
            let counted = |vcpu: &&mut VcpuReading| vcpu.delta.count(role).value().is_some();
            read.iter_mut().filter(counted).for_each(|vcpu| vcpu.delta.withhold(role, doubt.clone()));
        }
        read
    }

    fn open(&self, process: TaskId, thread: TaskId) -> Result<Group, String> {
        if let Some(reason) = self.nothing_opens() {
            return Err(reason);
        }
        let mut open = self.set.open(thread.id);
        open.group.descriptors().try_for_each(descriptors::leave_reserve)?;
        // After opening the events, so that they cannot belong to a later thread.
        let ticks = still_there(&self.root, process, thread)?;
        if open.outcome.iter().all(|(_, event)| event.value().is_none()) {
            return Err(first_reason(open.outcome.iter().map(|(_, event)| event)));
        }
        let last = read(&mut open)?;
        Ok(Group { open, last, since: Since { ticks, enabled_ns: last.time_enabled_ns } })
    }

    fn nothing_opens(&self) -> Option<String> {
        let events = || self.events.iter().map(|counted| &counted.event);
        events().all(|event| event.value().is_none()).then(|| first_reason(events()))
    }
}

impl Watched {
    /// `looks`: the thread's CPU time is read, whether or not its group was enabled.
    fn read(&mut self, root: &HostRoot, looks: bool) -> VcpuReading {
        let outcome = match &mut self.group {
            Ok(group) => read(&mut group.open).and_then(|now| {
                let was_enabled = now.time_enabled_ns > group.last.time_enabled_ns;
                // After the reading, so that the reading is not of an ended thread.
                let missed_ns = if looks || !was_enabled || !may_be_there(self.process, self.thread) {
                    group.since.look(still_there(root, self.process, self.thread)?, now.time_enabled_ns)
                } else {
                    None
                };
                let delta = CounterDelta::of_thread(&group.last, &now, missed_ns);
                group.last = now;
                Ok((now, delta))
            }),
            Err(reason) => Err(reason.clone()),
        };
        let (reading, delta) = match outcome {
            Ok((reading, delta)) => (Availability::Available(reading), delta),
            Err(reason) => {
                let delta = CounterDelta::unavailable(&reason);
                (Availability::Unavailable(reason), delta)
            }
        };
        let (vm, vcpu, process, thread) = (self.vm.clone(), self.vcpu, self.process, self.thread);
        VcpuReading { vm, vcpu, process, thread, reading, delta }
    }
}

impl Since {
    /// How long the thread ran without its group being enabled, since the last look.
    fn look(&mut self, ticks: u64, enabled_ns: u64) -> Option<u64> {
        let ran_ns = nanoseconds(ticks.saturating_sub(self.ticks));
        let missed_ns = ran_ns.map(|ran| ran.saturating_sub(enabled_ns.saturating_sub(self.enabled_ns)));
        *self = Self { ticks, enabled_ns };
        missed_ns
    }
}

/// A reading in the types of the model.
fn read(open: &mut OpenSet) -> Result<GroupReading, String> {
    let raw = open.group.read().map_err(|error| error.to_string())?;
    let mut counts = Counts::default();
    for (role, count) in open.roles.iter().zip(&raw.counts) {
        counts.set(*role, count.value().copied());
    }
    Ok(GroupReading {
        begin_ns: raw.begin_ns,
        end_ns: raw.end_ns,
        time_enabled_ns: raw.time_enabled_ns,
        time_running_ns: raw.time_running_ns,
        counts,
    })
}

/// Whether the thread may still be there, by a system call that costs a tenth of reading `/proc`. A first thread that has
/// ended stays until its process is collected, so that nothing is said of those. A later thread of the same number is
/// noticed at the next look.
fn may_be_there(process: TaskId, thread: TaskId) -> bool {
    process.id != thread.id && threads::exists(thread.id)
}

/// CPU time of the thread in ticks, if it is still the same thread.
fn still_there(root: &HostRoot, process: TaskId, thread: TaskId) -> Result<u64, String> {
    match task::thread(root, process.id, thread.id) {
        Ok(stat) if stat.id == thread && !stat.is_dead() => Ok(stat.cpu_ticks),
        Ok(stat) if stat.id == thread => Err(format!("thread {thread} has ended")),
        Ok(_) => Err(format!("thread {thread} has ended, and another has its number now")),
        Err(error) if error.is_gone() => Err(format!("thread {thread} has ended")),
        Err(error) => Err(format!("thread {thread} cannot be read: {error}")),
    }
}

/// Ticks of `/proc` in nanoseconds; `None` where the length of a tick is not known.
fn nanoseconds(ticks: u64) -> Option<u64> {
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    ticks.checked_mul(1_000_000_000)?.checked_div(u64::try_from(per_second).ok()?)
}

fn first_reason<'a>(mut events: impl Iterator<Item = &'a Availability<String>>) -> String {
    events.find_map(Availability::reason).unwrap_or("no event is configured").to_owned()
}
