//! Reading the counts of watched threads while the programs update them.

use std::collections::BTreeMap;

use huddle_abi::{Residency, Slot};
use huddle_model::availability::Availability;
use huddle_model::vm::TaskId;

use super::super::ProbeError;
use super::{KVM_EXITS, RESIDENCY_WORDS, SLOT_WORDS, ThreadProbe, Watch, cpu_time_ns, failed};
use huddle_host::clock::monotonic_ns;
use huddle_host::{HostRoot, task};

/// One watched thread since watching started. `None` means that the program which counts it is not attached;
/// the reason is in the status of the probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadReading {
    /// The thread.
    pub thread: TaskId,
    /// Its process.
    pub pid: i32,
    /// When it was read, on `CLOCK_MONOTONIC` in nanoseconds.
    pub at_ns: u64,
    /// When watching started, likewise.
    pub watched_from_ns: u64,
    /// The CPUs it ran on or was sampled on, in ascending number.
    pub cpus: Availability<Vec<CpuReading>>,
    /// Moves from one CPU to another.
    pub migrations: Option<u64>,
    /// Moves between cache domains among them.
    pub domain_migrations: Option<u64>,
    /// Its activity in guest mode.
    pub guest: GuestReading,
}

/// One watched thread on one CPU since watching started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuReading {
    /// The CPU.
    pub cpu: u32,
    /// CPU time it used there in nanoseconds; up to the last tick on the CPU where it runs now.
    pub run_ns: Option<u64>,
    /// Times it was switched away from there, voluntarily or not, as `/proc/PID/task/TID/status` counts.
    pub switches: Option<u64>,
    /// Samples of the software clock in it there.
    pub clock_samples: Option<u64>,
    /// Samples of last-level cache misses in it there.
    pub miss_samples: Option<u64>,
}

/// One watched thread in guest mode since watching started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestReading {
    /// Entries into guest mode.
    pub entries: Option<u64>,
    /// Time between entries and exits in nanoseconds; the current stay is not counted yet.
    pub guest_ns: Option<u64>,
    /// Exits by the processor's exit reason.
    pub exits: Option<BTreeMap<u32, u64>>,
}

impl ThreadProbe {
    /// Reads every watched thread. Ended threads keep their last counts until they are no longer watched.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn read(&self, root: &HostRoot) -> Result<Vec<ThreadReading>, ProbeError> {
        let mut exits: BTreeMap<u32, BTreeMap<u32, u64>> = BTreeMap::new();
        if self.links.kvm.exits() {
            for row in self.exits.iter() {
                let (key, count) = row.map_err(failed(KVM_EXITS))?;
                exits.entry(key.slot).or_default().insert(key.reason, count);
            }
        }
        let readings = self.watches.values().filter_map(|watch| {
            let exits = exits.remove(&watch.slot).unwrap_or_default();
            self.read_one(root, watch, exits)
        });
        Ok(readings.collect())
    }

    fn read_one(&self, root: &HostRoot, watch: &Watch, exits: BTreeMap<u32, u64>) -> Option<ThreadReading> {
        let (slot, mut per_cpu, at_ns) = self.consistent(watch.slot)?;
        for (now, base) in per_cpu.iter_mut().zip(&watch.base) {
            now.run_ns = now.run_ns.saturating_sub(base.run_ns);
            now.switches = now.switches.saturating_sub(base.switches);
            now.clock_samples = now.clock_samples.saturating_sub(base.clock_samples);
            now.miss_samples = now.miss_samples.saturating_sub(base.miss_samples);
        }
        let running = self.running(root, watch, &slot);
        let cpus = running.map(|running| {
            if let Some((cpu, run_ns)) = running
                && let Some(residency) = per_cpu.get_mut(cpu as usize)
            {
                residency.run_ns += run_ns;
            }
            self.cpu_readings(&per_cpu)
        });
        let migrate = self.links.migrate.is_some();
        let (entered, left) = (self.links.kvm.entries(), self.links.kvm.exits());
        Some(ThreadReading {
            thread: watch.thread,
            pid: watch.pid,
            at_ns,
            watched_from_ns: watch.watched_from_ns,
            cpus: cpus.into(),
            migrations: migrate.then_some(slot.migrations),
            domain_migrations: migrate.then_some(slot.domain_migrations),
            guest: GuestReading {
                entries: entered.then_some(slot.kvm_entries),
                guest_ns: (entered && left).then_some(slot.guest_ns),
                exits: left.then_some(exits),
            },
        })
    }

    fn cpu_readings(&self, per_cpu: &[Residency]) -> Vec<CpuReading> {
        let used = (0..).zip(per_cpu).filter(|(_, residency)| **residency != Residency::default());
        let reading = |(cpu, residency): (u32, &Residency)| CpuReading {
            cpu,
            run_ns: self.links.switch.as_ref().map(|_| residency.run_ns),
            switches: self.links.switch.as_ref().map(|_| residency.switches),
            clock_samples: self.links.clock.as_ref().map(|_| residency.clock_samples),
            miss_samples: self.links.misses.as_ref().map(|_| residency.miss_samples),
        };
        used.map(reading).collect()
    }

    /// Slot, residency and time of one moment: read again if a switch came in between. For a thread that
    /// switches faster than it can be read this would never end, so the last of some tries counts; it is off
    /// by one stay on a CPU at most.
    fn consistent(&self, slot: u32) -> Option<(Slot, Vec<Residency>, u64)> {
        let mut last = None;
        for _ in 0..8 {
            let before = self.slot(slot)?;
            let per_cpu: Vec<_> = (0..self.sizes.cpus).filter_map(|cpu| self.residency(slot, cpu)).collect();
            let at_ns = monotonic_ns();
            let after = self.slot(slot)?;
            let moment = |slot: &Slot| (slot.cpu_time_since_ns, slot.on_cpu_plus_one, slot.seen);
            last = Some((after, per_cpu, at_ns));
            if moment(&before) == moment(&after) {
                break;
            }
        }
        last
    }

    /// The CPU a thread is on and its CPU time there since it was switched to, which the programs add only
    /// when it is switched away. A thread that was never switched since watching started has been on one CPU
    /// all along, or on none, and has used nothing.
    fn running(&self, root: &HostRoot, watch: &Watch, slot: &Slot) -> Result<Option<(u32, u64)>, String> {
        if self.links.switch.is_none() || (slot.seen == 1 && slot.on_cpu_plus_one == 0) {
            return Ok(None);
        }
        let (pid, thread) = (watch.pid, watch.thread);
        let now_ns = match cpu_time_ns(root, pid, thread, self.sizes.tick_ns) {
            Ok(Some(now_ns)) => now_ns,
            Ok(None) => {
                return Err(format!("thread {thread} of process {pid} was replaced by another thread"));
            }
            Err(error) => return Err(error.to_string()),
        };
        if slot.seen == 1 {
            let used_ns = now_ns.saturating_sub(slot.cpu_time_since_ns);
            return Ok(Some((slot.on_cpu_plus_one - 1, used_ns)));
        }
        let stat = task::thread(root, pid, thread.id).map_err(|error| error.to_string())?;
        Ok(Some((stat.last_cpu, now_ns.saturating_sub(slot.cpu_time_from_ns))))
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        let words: [u64; SLOT_WORDS] = self.slot_words.read(index as usize)?;
        let [start_ticks, cpu_time_from_ns, cpu_time_since_ns, on_cpu_and_seen, rest @ ..] = words;
        let [migrations, domain_migrations, kvm_entries, guest_ns, guest_since_ns] = rest;
        let (on_cpu_plus_one, seen) = halves(on_cpu_and_seen);
        Some(Slot {
            start_ticks,
            cpu_time_from_ns,
            cpu_time_since_ns,
            on_cpu_plus_one,
            seen,
            migrations,
            domain_migrations,
            kvm_entries,
            guest_ns,
            guest_since_ns,
        })
    }

    pub(super) fn residency(&self, slot: u32, cpu: u32) -> Option<Residency> {
        let index = slot as usize * self.sizes.cpus as usize + cpu as usize;
        let words: [u64; RESIDENCY_WORDS] = self.residency_words.read(index)?;
        let [run_ns, switches, clock_samples, miss_samples] = words;
        Some(Residency { run_ns, switches, clock_samples, miss_samples })
    }
}

/// Two 32-bit fields in one word, in memory order.
fn halves(word: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_in_memory_order() {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&7_u32.to_ne_bytes());
        bytes[4..].copy_from_slice(&9_u32.to_ne_bytes());
        assert_eq!(halves(u64::from_ne_bytes(bytes)), (7, 9));
    }
}
