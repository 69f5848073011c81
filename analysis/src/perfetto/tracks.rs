//! The tracks of VMs and vCPUs, made when they first appear, and counters that can be unavailable.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::writer::{Kind, TraceWriter, Track};
use crate::text::clean;

/// What is known of a VM besides its name.
#[derive(Clone, Debug, Default)]
pub(super) struct AboutVm {
    pub(super) pid: Option<i32>,
    pub(super) domid: Option<u32>,
    pub(super) description: Option<String>,
}

/// The tracks of all VMs of a run.
#[derive(Default)]
pub(super) struct VmTracks {
    vms: BTreeMap<String, VmTrack>,
    /// Processes and threads that a track has, since Perfetto takes those of one id for the same.
    pids: BTreeMap<i32, String>,
    tids: BTreeMap<i32, (String, u32)>,
}

struct VmTrack {
    track: Track,
    pid: Option<i32>,
    vcpus: BTreeMap<u32, VcpuTrack>,
    counters: BTreeMap<&'static str, Counter>,
}

/// The track of a vCPU, with its counters below it.
pub(super) struct VcpuTrack {
    pub(super) track: Track,
    thread: Option<i32>,
    pub(super) counters: BTreeMap<&'static str, Counter>,
}

impl VmTracks {
    /// The track of a VM: that of a process where it is held by one.
    pub(super) fn vm<W: Write>(
        &mut self,
        out: &mut TraceWriter<W>,
        name: &str,
        about: impl FnOnce() -> AboutVm,
    ) -> io::Result<Track> {
        Ok(self.entry(out, name, about)?.track)
    }

    fn entry<W: Write>(
        &mut self,
        out: &mut TraceWriter<W>,
        name: &str,
        about: impl FnOnce() -> AboutVm,
    ) -> io::Result<&mut VmTrack> {
        if !self.vms.contains_key(name) {
            let about = about();
            let is_free = |pid: &i32| !self.pids.contains_key(pid);
            let pid = about.pid.filter(|pid| *pid > 0).filter(is_free);
            let shown = match about.domid {
                Some(domid) => format!("{} (Xen domain {domid})", clean(name)),
                None => clean(name),
            };
            let kind = pid.map_or(Kind::Plain, Kind::Process);
            let track = out.track(&shown, &kind, None, self.vms.len() as i32, about.description)?;
            self.pids.extend(pid.map(|pid| (pid, name.to_owned())));
            let vm = VmTrack { track, pid, vcpus: BTreeMap::new(), counters: BTreeMap::new() };
            self.vms.insert(name.to_owned(), vm);
        }
        self.vms.get_mut(name).ok_or_else(|| io::Error::other("a track is missing"))
    }

    /// The track of a vCPU: that of a thread of its VM's process where it is one. A vCPU whose thread changed, since the VM was
    /// started anew under its name, gets a further one.
    pub(super) fn vcpu<W: Write>(
        &mut self,
        out: &mut TraceWriter<W>,
        vm: &str,
        vcpu: u32,
        thread: Option<i32>,
        process: Option<i32>,
    ) -> io::Result<&mut VcpuTrack> {
        let about = || AboutVm { pid: process, ..AboutVm::default() };
        self.entry(out, vm, about)?;
        let missing = || io::Error::other("a track is missing");
        let own = self.vms.get_mut(vm).ok_or_else(missing)?;
        let is_same = |known: &VcpuTrack| thread.is_none() || known.thread == thread;
        if !own.vcpus.get(&vcpu).is_some_and(is_same) {
            let is_of_process = process.is_none() || process == own.pid;
            let tids = &mut self.tids;
            let is_free = |tid: &i32| {
                let owner = tids.entry(*tid).or_insert_with(|| (vm.to_owned(), vcpu));
                owner.0 == vm && owner.1 == vcpu
            };
            let ids = own.pid.filter(|_| is_of_process).zip(thread.filter(|tid| *tid > 0).filter(is_free));
            // A track for a thread exists once.
            let ids = ids.filter(|_| !own.vcpus.contains_key(&vcpu));
            let (name, kind) = match (ids, thread) {
                (Some((pid, tid)), _) => (format!("vCPU {vcpu}"), Kind::Thread(pid, tid)),
                (None, Some(tid)) => (format!("vCPU {vcpu} (thread {tid})"), Kind::Plain),
                (None, None) => (format!("vCPU {vcpu}"), Kind::Plain),
            };
            let track = out.track(&name, &kind, Some(own.track), vcpu as i32, None)?;
            own.vcpus.insert(vcpu, VcpuTrack { track, thread, counters: BTreeMap::new() });
        }
        own.vcpus.get_mut(&vcpu).ok_or_else(missing)
    }

    /// Sets a counter of a VM over a time; `None` is unavailable.
    pub(super) fn set<W: Write>(
        &mut self,
        out: &mut TraceWriter<W>,
        vm: &str,
        (name, unit): (&'static str, &'static str),
        time_ns: (u64, u64),
        value: Option<f64>,
    ) -> io::Result<()> {
        let vm = self.entry(out, vm, AboutVm::default)?;
        set(out, &mut vm.counters, vm.track, (name, unit), time_ns, value)
    }

    /// Ends all counters where their last values end.
    pub(super) fn finish<W: Write>(self, out: &mut TraceWriter<W>) -> io::Result<()> {
        for vm in self.vms.into_values() {
            let of_vcpus = vm.vcpus.into_values().flat_map(|vcpu| vcpu.counters.into_values());
            vm.counters.into_values().chain(of_vcpus).try_for_each(|counter| counter.finish(out))?;
        }
        Ok(())
    }
}

/// Sets the counter `name` below `parent`, which is made with its first value: what was never available has no track.
pub(super) fn set<W: Write>(
    out: &mut TraceWriter<W>,
    counters: &mut BTreeMap<&'static str, Counter>,
    parent: Track,
    (name, unit): (&'static str, &'static str),
    time_ns: (u64, u64),
    value: Option<f64>,
) -> io::Result<()> {
    match (counters.get_mut(name), value) {
        (Some(counter), value) => counter.set(out, time_ns, value),
        (None, None) => Ok(()),
        (None, Some(_)) => {
            let rank = counters.len() as i32;
            let track = out.track(name, &Kind::Counter(unit), Some(parent), rank, None)?;
            counters.entry(name).or_insert_with(|| Counter::new(track)).set(out, time_ns, value)
        }
    }
}

/// A counter whose values hold for windows. Perfetto draws a value until the next one, so where a value ends and none
/// follows there is a value that is not a number, which its SQL has as null.
pub(super) struct Counter {
    track: Track,
    /// The value that was written last, and until when it holds.
    last: Option<(f64, u64)>,
}

impl Counter {
    fn new(track: Track) -> Self {
        Self { track, last: None }
    }

    fn set<W: Write>(
        &mut self,
        out: &mut TraceWriter<W>,
        (begin_ns, end_ns): (u64, u64),
        value: Option<f64>,
    ) -> io::Result<()> {
        let value = value.filter(|value| value.is_finite());
        if let Some((before, until_ns)) = self.last {
            // Windows follow each other; more than half of one between them is a gap.
            let is_gap = begin_ns > until_ns.saturating_add(end_ns.saturating_sub(begin_ns) / 2);
            if value.is_none() || is_gap {
                out.value(self.track, until_ns, f64::NAN)?;
                self.last = None;
            } else if value == Some(before) {
                self.last = Some((before, end_ns));
                return Ok(());
            }
        }
        if let Some(value) = value {
            out.value(self.track, begin_ns, value)?;
            self.last = Some((value, end_ns));
        }
        Ok(())
    }

    /// Ends it where its last value ends.
    pub(super) fn finish<W: Write>(self, out: &mut TraceWriter<W>) -> io::Result<()> {
        match self.last {
            Some((_, until_ns)) => out.value(self.track, until_ns, f64::NAN),
            None => Ok(()),
        }
    }
}
