//! What the host counts of each vCPU thread: its CPU time, and the processor's cache events where this
//! host has them.

use std::path::PathBuf;

use huddle_collector::host::HostRoot;
use huddle_collector::observe::perf::events::{CacheEvents, EventSpec, Processor};
use huddle_collector::observe::perf::group::{PerfGroup, Scope};
use huddle_model::availability::Availability;
use huddle_model::counters::CounterRole;
use huddle_model::vm::Vm;
use serde::Serialize;

/// What one vCPU thread did between two readings, or since the probes were opened.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VcpuProbe {
    /// CPU time of the thread as the host counts it, in nanoseconds (`/proc/PID/task/TID/schedstat`).
    pub cpu_time_ns: Availability<u64>,
    /// Cycles, instructions, LLC references and LLC misses, in the order of [`CounterRole::ALL`]; raw
    /// counts of the group while it was on the processor.
    pub counts: [Availability<u64>; 4],
    /// Part (0 to 1) of the time for which the events were really counted: below 1, counts are of that
    /// part only. `None` where nothing is counted.
    pub counted_part: Option<f64>,
}

impl VcpuProbe {
    /// What was counted since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let difference = |late: &Availability<u64>, early: &Availability<u64>| match (late, early) {
            (Availability::Available(late), Availability::Available(early)) => {
                late.checked_sub(*early).ok_or("a counter ran backwards").into()
            }
            (Availability::Unavailable(why), _) | (_, Availability::Unavailable(why)) => {
                Availability::Unavailable(why.clone())
            }
        };
        Self {
            cpu_time_ns: difference(&self.cpu_time_ns, &earlier.cpu_time_ns),
            counts: std::array::from_fn(|role| difference(&self.counts[role], &earlier.counts[role])),
            counted_part: self.counted_part,
        }
    }

    /// LLC misses.
    pub fn llc_misses(&self) -> &Availability<u64> {
        &self.counts[CounterRole::ALL.iter().position(|role| *role == CounterRole::LlcMisses).unwrap_or(3)]
    }
}

struct Thread {
    schedstat: PathBuf,
    group: PerfGroup,
    /// For each role its place in the group, or why it is not there.
    places: [Availability<usize>; 4],
}

/// The probes of all vCPUs of a run.
pub(crate) struct Probes {
    root: HostRoot,
    events: CacheEvents,
    threads: Vec<Thread>,
}

impl Probes {
    /// Probes that count nothing yet.
    pub(crate) fn new(root: &HostRoot) -> Self {
        // A processor nobody knows gets the kernel's generic events.
        let processor = Processor::read(root).ok().flatten();
        Self { root: root.clone(), events: CacheEvents::of(processor.as_ref()), threads: Vec::new() }
    }

    /// Begins to count the vCPUs of `vms`, and ends what was counted before.
    pub(crate) fn open(&mut self, vms: &[Vm]) {
        let events = &self.events;
        let roles = [&events.cycles, &events.instructions, &events.llc_references, &events.llc_misses];
        self.threads.clear();
        for vcpu in vms.iter().flat_map(|vm| &vm.vcpus) {
            let mut wanted: Vec<EventSpec> = Vec::new();
            let places = roles.map(|event| {
                event.clone().map(|event| {
                    wanted.push(event);
                    wanted.len() - 1
                })
            });
            let (process, thread) = (vcpu.process.id, vcpu.thread.id);
            self.threads.push(Thread {
                schedstat: self.root.proc(format!("{process}/task/{thread}/schedstat")),
                group: PerfGroup::open(thread, &wanted, Scope::HostAndGuest),
                places,
            });
        }
    }

    /// What was counted since they were opened.
    pub(crate) fn read(&mut self) -> Vec<VcpuProbe> {
        self.threads.iter_mut().map(Thread::read).collect()
    }
}

impl Thread {
    fn read(&mut self) -> VcpuProbe {
        let cpu_time_ns = cpu_time_ns(&self.schedstat).into();
        match self.group.read() {
            Ok(reading) => VcpuProbe {
                cpu_time_ns,
                counts: self.places.clone().map(|place| match place {
                    Availability::Available(place) => reading.counts[place].clone(),
                    Availability::Unavailable(why) => Availability::Unavailable(why),
                }),
                counted_part: (reading.time_enabled_ns > 0)
                    .then(|| reading.time_running_ns as f64 / reading.time_enabled_ns as f64),
            },
            Err(error) => VcpuProbe {
                cpu_time_ns,
                counts: std::array::from_fn(|_| Availability::Unavailable(error.to_string())),
                counted_part: None,
            },
        }
    }
}

/// The first field of schedstat (Documentation/scheduler/sched-stats.rst): time on the CPU.
fn cpu_time_ns(path: &PathBuf) -> Result<u64, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("{}: {error} (needs CONFIG_SCHED_INFO)", path.display()))?;
    let first = text.split_ascii_whitespace().next().and_then(|field| field.parse().ok());
    first.ok_or_else(|| format!("{}: no CPU time in {text:?}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(cpu: u64, misses: Availability<u64>) -> VcpuProbe {
        let none = || Availability::Unavailable("no PMU".to_owned());
        let counts = [none(), none(), none(), misses];
        VcpuProbe { cpu_time_ns: Availability::Available(cpu), counts, counted_part: Some(1.0) }
    }

    #[test]
    fn a_difference_with_something_unavailable_is_unavailable() {
        let late = probe(9, Availability::Available(7));
        let between = late.since(&probe(4, Availability::Available(2)));
        assert_eq!((between.cpu_time_ns.value(), between.llc_misses().value()), (Some(&5), Some(&5)));
        assert_eq!(between.counts[0].reason(), Some("no PMU"));
        let early = probe(10, Availability::Unavailable("gone".into()));
        let between = late.since(&early);
        assert_eq!((between.cpu_time_ns.value(), between.llc_misses().reason()), (None, Some("gone")));
    }
}
