//! Where vCPU threads ran, window by window.

use std::collections::BTreeMap;

use huddle_model::availability::Availability;
use huddle_model::observation::CpuResidency;
use huddle_model::topology::{DomainId, Topology};
use huddle_model::vm::{TaskId, Vcpu, Vm};

use super::super::probes::ProbeError;
use super::super::probes::program::Program;
use super::super::probes::threads::{CpuReading, ThreadProbe, ThreadReading};
use huddle_host::HostRoot;
use huddle_host::discover::GuestThread;

/// One thread in one window.
#[derive(Clone, Debug)]
pub(super) struct ThreadWindow {
    pub(super) residency: Availability<Vec<CpuResidency>>,
    pub(super) migrations: Availability<u64>,
    pub(super) domain_migrations: Availability<u64>,
    pub(super) guest_entries: Availability<u64>,
    pub(super) guest_ns: Availability<u64>,
    pub(super) exits: Availability<BTreeMap<u32, u64>>,
}

impl ThreadWindow {
    fn unavailable(reason: &str) -> Self {
        Self {
            residency: Availability::Unavailable(reason.to_owned()),
            migrations: Availability::Unavailable(reason.to_owned()),
            domain_migrations: Availability::Unavailable(reason.to_owned()),
            guest_entries: Availability::Unavailable(reason.to_owned()),
            guest_ns: Availability::Unavailable(reason.to_owned()),
            exits: Availability::Unavailable(reason.to_owned()),
        }
    }
}

/// All threads in one window.
pub(super) struct ThreadWindows {
    threads: BTreeMap<TaskId, ThreadWindow>,
    otherwise: String,
}

impl ThreadWindows {
    pub(super) fn of(&mut self, thread: TaskId) -> ThreadWindow {
        self.threads.remove(&thread).unwrap_or_else(|| ThreadWindow::unavailable(&self.otherwise))
    }
}

/// The watched threads.
pub(super) struct ResidencyWindow {
    probe: Availability<ThreadProbe>,
    /// The reasons of programs that do not run.
    reasons: BTreeMap<Program, String>,
    before: BTreeMap<TaskId, ThreadReading>,
    /// The reasons of threads that could not be watched.
    unwatched: BTreeMap<TaskId, String>,
    /// Domain of each CPU as last passed to the programs.
    domains: BTreeMap<u32, u32>,
}

impl ResidencyWindow {
    pub(super) fn new(probe: Availability<ThreadProbe>, reasons: BTreeMap<Program, String>) -> Self {
        Self { probe, reasons, before: BTreeMap::new(), unwatched: BTreeMap::new(), domains: BTreeMap::new() }
    }

    /// What the watched threads did since they were first watched, or since the last call.
    pub(super) fn read(&mut self, root: &HostRoot) -> ThreadWindows {
        let otherwise = |reason: String| ThreadWindows { threads: BTreeMap::new(), otherwise: reason };
        let readings = match &self.probe {
            Availability::Available(probe) => probe.read(root),
            Availability::Unavailable(reason) => return otherwise(reason.clone()),
        };
        let readings = match readings {
            Ok(readings) => readings,
            Err(error) => return otherwise(error.to_string()),
        };
        let mut threads: BTreeMap<_, _> = self
            .unwatched
            .iter()
            .map(|(thread, reason)| (*thread, ThreadWindow::unavailable(reason)))
            .collect();
        for reading in readings {
            let window = self.between(self.before.get(&reading.thread), &reading);
            threads.insert(reading.thread, window);
            self.before.insert(reading.thread, reading);
        }
        ThreadWindows { threads, otherwise: "its thread was not observed in this window".into() }
    }

    /// Watches the vCPU threads of `vms`, and no others; moves are distinguished by the domains of `topology`.
    pub(super) fn follow(&mut self, root: &HostRoot, vms: &[Vm], topology: Option<&Topology>) {
        let Availability::Available(probe) = &mut self.probe else { return };
        if let Some(topology) = topology {
            let of = |cpu| topology.domain_of(cpu).map(|DomainId(id)| (cpu, id));
            let cpus = topology.domains().iter().flat_map(|domain| domain.cpus.iter());
            let domains: BTreeMap<u32, u32> = cpus.filter_map(of).collect();
            if domains != self.domains {
                match probe.set_domains(&domains) {
                    Ok(()) => self.domains = domains,
                    Err(error) => tracing::warn!("moves between domains cannot be distinguished: {error}"),
                }
            }
        }
        let threads = vms.iter().flat_map(|vm| vm.vcpus.iter().filter_map(Vcpu::thread));
        let wanted: BTreeMap<TaskId, i32> = threads.map(|(process, thread)| (thread, process.id)).collect();
        let gone: Vec<TaskId> = probe.watched().filter(|thread| !wanted.contains_key(thread)).collect();
        for thread in gone {
            self.before.remove(&thread);
            if let Err(error) = probe.unwatch(thread) {
                tracing::warn!("thread {thread} is still observed: {error}");
            }
        }
        self.unwatched.clear();
        for (thread, pid) in wanted {
            if let Err(error) = probe.watch(root, pid, thread) {
                self.unwatched.insert(thread, error.to_string());
            }
        }
    }

    /// Every thread that entered guest mode; none where that is not traced.
    pub(super) fn guest_threads(&self) -> Result<Vec<GuestThread>, ProbeError> {
        match &self.probe {
            Availability::Available(probe) => Ok(probe.vcpu_threads()?.unwrap_or_default()),
            Availability::Unavailable(_) => Ok(Vec::new()),
        }
    }

    fn between(&self, before: Option<&ThreadReading>, now: &ThreadReading) -> ThreadWindow {
        let count = |program: Program, now: Option<u64>, before: Option<u64>| match now {
            Some(now) => Availability::Available(now.saturating_sub(before.unwrap_or(0))),
            None => Availability::Unavailable(self.reason(program)),
        };
        let migrated = |part: fn(&ThreadReading) -> Option<u64>| {
            count(Program::SchedMigrateTask, part(now), before.and_then(part))
        };
        let (guest, guest_before) = (&now.guest, before.map(|before| &before.guest));
        // Time in the guest needs both programs; the missing one has the reason.
        let guest_program = if guest.entries.is_none() { Program::KvmEntry } else { Program::KvmExit };
        ThreadWindow {
            residency: self.residency(before, now),
            migrations: migrated(|reading| reading.migrations),
            domain_migrations: migrated(|reading| reading.domain_migrations),
            guest_entries: count(
                Program::KvmEntry,
                guest.entries,
                guest_before.and_then(|before| before.entries),
            ),
            guest_ns: count(guest_program, guest.guest_ns, guest_before.and_then(|before| before.guest_ns)),
            exits: match &guest.exits {
                Some(exits) => {
                    let earlier = guest_before.and_then(|before| before.exits.as_ref());
                    let grown = |(reason, count): (&u32, &u64)| {
                        let earlier = earlier.and_then(|earlier| earlier.get(reason)).unwrap_or(&0);
                        (*reason, count.saturating_sub(*earlier))
                    };
                    Availability::Available(exits.iter().map(grown).filter(|(_, n)| *n > 0).collect())
                }
                None => Availability::Unavailable(self.reason(Program::KvmExit)),
            },
        }
    }

    fn residency(
        &self,
        before: Option<&ThreadReading>,
        now: &ThreadReading,
    ) -> Availability<Vec<CpuResidency>> {
        // Without any of the three the result is unavailable, not an empty list.
        let programs = [Program::SchedSwitch, Program::SampleClock, Program::SampleMisses];
        if programs.iter().all(|program| self.reasons.contains_key(program)) {
            return Availability::Unavailable(self.reason(Program::SchedSwitch));
        }
        let earlier = |cpu: u32| {
            let cpus = before.and_then(|before| before.cpus.value());
            cpus.and_then(|cpus| cpus.iter().find(|reading| reading.cpu == cpu))
        };
        if let Some(reason) = before.and_then(|before| before.cpus.reason()) {
            return Availability::Unavailable(format!("the window has no start value: {reason}"));
        }
        now.cpus.clone().map(|cpus| {
            let windows = cpus.iter().map(|now| between_cpu(earlier(now.cpu), now));
            windows.filter(|window| !idle(window)).collect()
        })
    }

    fn reason(&self, program: Program) -> String {
        let reason = self.reasons.get(&program).cloned();
        reason.unwrap_or_else(|| format!("the BPF program {} reports nothing", program.name()))
    }
}

fn between_cpu(before: Option<&CpuReading>, now: &CpuReading) -> CpuResidency {
    let grown = |part: fn(&CpuReading) -> Option<u64>| {
        part(now).map(|now| now.saturating_sub(before.and_then(part).unwrap_or(0)))
    };
    CpuResidency {
        cpu: now.cpu,
        run_ns: grown(|reading| reading.run_ns),
        switches: grown(|reading| reading.switches),
        clock_samples: grown(|reading| reading.clock_samples),
        miss_samples: grown(|reading| reading.miss_samples),
    }
}

/// Omits CPUs on which nothing happened in the window.
fn idle(cpu: &CpuResidency) -> bool {
    [cpu.run_ns, cpu.switches, cpu.clock_samples, cpu.miss_samples].iter().all(|n| n.unwrap_or(0) == 0)
}
