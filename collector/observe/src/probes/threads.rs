//! Watched threads: where they run and for how long, when they move, which samples hit them, and their time
//! in guest mode.
//!
//! The programs look up every thread at each switch; only watched ones cost more than a few instructions.
//! Their counts are in arrays mapped into this process, so a reading makes no system call.

mod reading;
mod slots;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aya::maps::{Array, HashMap, MapData, MapError};
use aya::programs::perf_event::PerfEventLink;
use aya::programs::tp_btf::BtfTracePointLink;
use huddle_abi::{Residency, Slot, VcpuThread};
use huddle_model::availability::Availability;
use huddle_model::vm::TaskId;

use super::attach::Attacher;
use super::kvm::KvmLinks;
use super::mapped::MappedArray;
use super::program::Program;
use super::{ProbeError, if_there, take_map};
use huddle_host::clock::monotonic_ns;
use huddle_host::discover::GuestThread;
use huddle_host::{HostError, HostRoot, read_text, task};
pub use reading::{CpuReading, GuestReading, ThreadReading};
use slots::SlotTable;

const WATCH_BITS: &str = "WATCH_BITS";
const WATCHED: &str = "WATCHED";
const SLOTS: &str = "SLOTS";
const RESIDENCY: &str = "RESIDENCY";
const DOMAIN_OF: &str = "DOMAIN_OF";
const VCPU_THREADS: &str = "VCPU_THREADS";
const KVM_EXITS: &str = "KVM_EXITS";

/// Words of a [`Slot`] and of a [`Residency`].
const SLOT_WORDS: usize = size_of::<Slot>() / 8;
const RESIDENCY_WORDS: usize = size_of::<Residency>() / 8;

/// How long a slot stays unused after its thread was watched: a program that found the slot just before may
/// still write to it.
const REST: Duration = Duration::from_secs(1);

/// Why a thread cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// All slots are taken.
    #[error("{limit} threads are watched already; raise the limit of watched threads")]
    Full {
        /// The limit.
        limit: u32,
    },
    /// The thread id is beyond the largest one when the programs were loaded.
    #[error("thread {tid} is beyond the largest id when the probes were loaded; restart huddle")]
    TooLarge {
        /// The thread.
        tid: i32,
    },
    /// The thread is gone, or its `stat` cannot be read.
    #[error("thread {tid} of process {pid} cannot be watched: {source}")]
    Thread {
        /// The thread.
        tid: i32,
        /// Its process.
        pid: i32,
        /// The error of `/proc`.
        source: HostError,
    },
    /// The id now belongs to another thread.
    #[error("thread {tid} of process {pid} was replaced by another thread")]
    Reused {
        /// The thread.
        tid: i32,
        /// Its process.
        pid: i32,
    },
    /// A map cannot be written.
    #[error(transparent)]
    Probe(#[from] ProbeError),
}

/// Facts about a thread when watching starts.
struct Watch {
    thread: TaskId,
    pid: i32,
    slot: u32,
    watched_from_ns: u64,
    /// Counts of an earlier thread in the slot.
    base: Vec<Residency>,
}

/// Number of CPUs and threads that the maps have room for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) cpus: u32,
    pub(super) threads: u32,
    pub(super) pid_max: u32,
    pub(super) tick_ns: u64,
}

/// Links of the programs that count for watched threads.
struct Links {
    switch: Option<BtfTracePointLink>,
    migrate: Option<BtfTracePointLink>,
    clock: Option<Vec<PerfEventLink>>,
    misses: Option<Vec<PerfEventLink>>,
    kvm: KvmLinks,
}

/// Watches threads.
pub struct ThreadProbe {
    bits: Array<MapData, u64>,
    watched: HashMap<MapData, u32, u32>,
    slots: Array<MapData, Slot>,
    domain_of: Array<MapData, u32>,
    vcpu_threads: HashMap<MapData, u32, VcpuThread>,
    exits: HashMap<MapData, huddle_abi::ExitKey, u64>,
    slot_words: MappedArray<SLOT_WORDS>,
    residency_words: MappedArray<RESIDENCY_WORDS>,
    table: SlotTable,
    watches: BTreeMap<TaskId, Watch>,
    sizes: Sizes,
    links: Links,
}

impl ThreadProbe {
    pub(super) fn attach(attacher: &mut Attacher<'_>, sizes: Sizes) -> Availability<Self> {
        let switch = attacher.tracepoint(Program::SchedSwitch);
        let migrate = attacher.tracepoint(Program::SchedMigrateTask);
        let clock = attacher.samples(Program::SampleClock);
        let misses = attacher.samples(Program::SampleMisses);
        let kvm = KvmLinks::attach(attacher);
        let links = Links {
            switch: value(switch),
            migrate: value(migrate),
            clock: value(clock),
            misses: value(misses),
            kvm,
        };
        if !links.any() {
            return Availability::Unavailable("no program that watches threads could be attached".into());
        }
        Self::with_links(attacher, sizes, links).into()
    }

    fn with_links(attacher: &mut Attacher<'_>, sizes: Sizes, links: Links) -> Result<Self, ProbeError> {
        let (threads, cpus) = (sizes.threads as usize, sizes.cpus as usize);
        let (slots, residency) = (take_map(attacher.ebpf, SLOTS)?, take_map(attacher.ebpf, RESIDENCY)?);
        let slot_words = MappedArray::new(SLOTS, &slots, threads)?;
        let residency_words = MappedArray::new(RESIDENCY, &residency, threads * cpus)?;
        Ok(Self {
            bits: Array::try_from(take_map(attacher.ebpf, WATCH_BITS)?).map_err(failed(WATCH_BITS))?,
            watched: HashMap::try_from(take_map(attacher.ebpf, WATCHED)?).map_err(failed(WATCHED))?,
            domain_of: Array::try_from(take_map(attacher.ebpf, DOMAIN_OF)?).map_err(failed(DOMAIN_OF))?,
            vcpu_threads: HashMap::try_from(take_map(attacher.ebpf, VCPU_THREADS)?)
                .map_err(failed(VCPU_THREADS))?,
            exits: HashMap::try_from(take_map(attacher.ebpf, KVM_EXITS)?).map_err(failed(KVM_EXITS))?,
            slots: Array::try_from(slots).map_err(failed(SLOTS))?,
            slot_words,
            residency_words,
            table: SlotTable::new(sizes.threads),
            watches: BTreeMap::new(),
            sizes,
            links,
        })
    }

    /// Sets the cache domain of each CPU, so that moves between domains are distinguished from moves within
    /// one; until then, all CPUs count as one domain.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn set_domains(&mut self, domain_of_cpu: &BTreeMap<u32, u32>) -> Result<(), ProbeError> {
        for (&cpu, &domain) in domain_of_cpu {
            self.domain_of.set(cpu, domain, 0).map_err(failed(DOMAIN_OF))?;
        }
        Ok(())
    }

    /// The watched threads, in ascending id.
    pub fn watched(&self) -> impl Iterator<Item = TaskId> {
        self.watches.keys().copied()
    }

    /// Starts to watch a thread of process `pid`, with counts from zero. A thread that is watched already is
    /// left as it is.
    ///
    /// # Errors
    /// The thread is gone or replaced, all slots are taken, or a map cannot be written.
    pub fn watch(&mut self, root: &HostRoot, pid: i32, thread: TaskId) -> Result<(), WatchError> {
        if self.watches.contains_key(&thread) {
            return Ok(());
        }
        // An earlier thread of this id has ended.
        let earlier = self.watches.keys().find(|watched| watched.id == thread.id).copied();
        if let Some(earlier) = earlier {
            self.unwatch(earlier)?;
        }
        let tid = u32::try_from(thread.id).ok().filter(|tid| *tid < self.sizes.pid_max);
        let tid = tid.ok_or(WatchError::TooLarge { tid: thread.id })?;
        let unwatchable = |source| WatchError::Thread { tid: thread.id, pid, source };
        let cpu_time_from_ns = cpu_time_ns(root, pid, thread, self.sizes.tick_ns).map_err(unwatchable)?;
        let Some(cpu_time_from_ns) = cpu_time_from_ns else {
            return Err(WatchError::Reused { tid: thread.id, pid });
        };
        let slot = self.table.take(Instant::now()).ok_or(WatchError::Full { limit: self.sizes.threads })?;
        let base = (0..self.sizes.cpus).filter_map(|cpu| self.residency(slot, cpu)).collect();
        let watched_from_ns = monotonic_ns();
        self.clear_exits(slot)?;
        let fresh = Slot { start_ticks: thread.start_ticks, cpu_time_from_ns, ..Slot::default() };
        self.watches.insert(thread, Watch { thread, pid, slot, watched_from_ns, base });
        self.slots.set(slot, fresh, 0).map_err(failed(SLOTS))?;
        self.watched.insert(tid, slot, 0).map_err(failed(WATCHED))?;
        self.set_bit(tid, true)?;
        Ok(())
    }

    /// Stops watching a thread; does nothing for an unwatched one.
    ///
    /// # Errors
    /// A map cannot be written.
    pub fn unwatch(&mut self, thread: TaskId) -> Result<(), ProbeError> {
        let Some(watch) = self.watches.remove(&thread) else { return Ok(()) };
        let tid = thread.id.cast_unsigned();
        self.set_bit(tid, false)?;
        if_there(self.watched.remove(&tid)).map_err(failed(WATCHED))?;
        self.table.give_back(watch.slot, Instant::now() + REST);
        Ok(())
    }

    /// Every thread that entered guest mode since the programs were loaded, watched or not. `None` where that
    /// is not traced.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn vcpu_threads(&self) -> Result<Option<Vec<GuestThread>>, ProbeError> {
        if !self.links.kvm.entries() {
            return Ok(None);
        }
        let rows = self.vcpu_threads.iter().map(|row| {
            let (tid, thread) = row.map_err(failed(VCPU_THREADS))?;
            let (tid, pid) = (tid.cast_signed(), thread.tgid.cast_signed());
            let vcpu_id = (thread.vcpu_id != huddle_abi::NO_VCPU_ID).then_some(thread.vcpu_id);
            Ok(GuestThread { tid, pid, vcpu_id })
        });
        rows.collect::<Result<Vec<_>, _>>().map(Some)
    }

    /// Removes an earlier thread's entries from the map of exit reasons.
    fn clear_exits(&mut self, slot: u32) -> Result<(), ProbeError> {
        if !self.links.kvm.exits() {
            return Ok(());
        }
        let keys: Vec<_> = self.exits.keys().collect::<Result<_, _>>().map_err(failed(KVM_EXITS))?;
        for key in keys.iter().filter(|key| key.slot == slot) {
            if_there(self.exits.remove(key)).map_err(failed(KVM_EXITS))?;
        }
        Ok(())
    }

    fn set_bit(&mut self, tid: u32, on: bool) -> Result<(), ProbeError> {
        let element = self.bits.get(&(tid / 64), 0).map_err(failed(WATCH_BITS))?;
        let bit = 1_u64 << (tid % 64);
        let element = if on { element | bit } else { element & !bit };
        self.bits.set(tid / 64, element, 0).map_err(failed(WATCH_BITS))
    }
}

impl Links {
    fn any(&self) -> bool {
        self.switch.is_some()
            || self.migrate.is_some()
            || self.clock.is_some()
            || self.misses.is_some()
            || self.kvm.entries()
            || self.kvm.exits()
    }
}

fn value<T>(availability: Availability<T>) -> Option<T> {
    match availability {
        Availability::Available(value) => Some(value),
        Availability::Unavailable(_) => None,
    }
}

fn failed(map: &'static str) -> impl Fn(MapError) -> ProbeError {
    move |source| ProbeError::Map { map, source }
}

/// CPU time of a thread as the scheduler counts it, up to the last tick: the first field of
/// `/proc/PID/task/TID/schedstat` (Documentation/scheduler/sched-stats.rst, Linux 6.18), or, without
/// CONFIG_SCHED_INFO, of `stat` in whole clock ticks. `None` if the id belongs to another thread now.
fn cpu_time_ns(root: &HostRoot, pid: i32, thread: TaskId, tick_ns: u64) -> Result<Option<u64>, HostError> {
    let path = root.proc(format!("{pid}/task/{}/schedstat", thread.id));
    let text = read_text(&path);
    // After the time, so that the time is not of a later thread.
    let stat = task::thread(root, pid, thread.id)?;
    if stat.id != thread {
        return Ok(None);
    }
    let Ok(text) = text else { return Ok(Some(stat.cpu_ticks * tick_ns)) };
    let first = text.split_ascii_whitespace().next().unwrap_or_default();
    first.parse().map(Some).map_err(|_| HostError::parse(&path, first, "nanoseconds of CPU time"))
}
