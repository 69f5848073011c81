//! What was measured in one arm of an experiment, over all of its valid blocks, as one window of observation.

use std::collections::{BTreeMap, HashMap};

use super::steps::SENTENCE_BYTES;
use super::{Arm, Sample, ShownFigures, Summary, VcpuProbe};
use crate::availability::Availability;
use crate::id::{TaskId, VcpuId, VmId};
use crate::observation::{CpuResidency, Observation, VcpuObservation};
use crate::rates::CounterDelta;
use crate::text::plain_short;
use crate::vm::Vm;

/// One vCPU in one sample.
pub(super) struct Probe<'a> {
    pub(super) vm: &'a str,
    /// Its number; 0 for a server of the web experiment, of which the vCPUs are counted together.
    pub(super) vcpu: u32,
    host: Option<&'a VcpuProbe>,
    /// How long it was measured by its own clock, in nanoseconds; `None` for a server.
    elapsed_ns: Option<u64>,
}

/// The vCPUs of a sample.
pub(super) fn probes(sample: &Sample) -> impl Iterator<Item = Probe<'_>> {
    let guests = sample.guests.iter().map(|guest| Probe {
        vm: &guest.vm,
        vcpu: guest.vcpu,
        host: guest.host.as_ref(),
        elapsed_ns: Some(guest.elapsed_ns),
    });
    let tenants = sample.tenants.iter().map(|tenant| Probe {
        vm: &tenant.vm,
        vcpu: 0,
        host: tenant.host.as_ref(),
        elapsed_ns: None,
    });
    guests.chain(tenants)
}

/// The id of a vCPU, of which a summary does not have the thread.
pub(super) fn vcpu_id(vm: VmId, vcpu: u32) -> VcpuId {
    match vm {
        VmId::Process(process) => VcpuId::Thread(process),
        VmId::XenDomain(domain) => VcpuId::Xen { domain, vcpu },
    }
}

/// The valid blocks of an arm as one window of a round, from `began_us` on; unavailable, with the reason of the summary, if none was
/// measured.
pub(super) fn observation(
    summary: &Summary<ShownFigures>,
    arm: Arm,
    round: u64,
    began_us: u64,
    vms: &[Vm],
) -> Availability<Observation> {
    let valid = summary.blocks.iter().filter(|block| block.invalid.is_none());
    let samples: Vec<&Sample> = valid.filter_map(|block| block.sample(arm)).collect();
    let mut vcpus: Vec<((&str, u32), Vec<Probe<'_>>)> = Vec::new();
    let mut positions: HashMap<(&str, u32), usize> = HashMap::new();
    for probe in samples.iter().flat_map(|sample| probes(sample)) {
        let key = (probe.vm, probe.vcpu);
        let at = *positions.entry(key).or_insert_with(|| {
            vcpus.push((key, Vec::new()));
            vcpus.len() - 1
        });
        vcpus[at].1.push(probe);
    }
    if vcpus.is_empty() {
        return Availability::Unavailable(why_nothing(summary, !samples.is_empty()));
    }
    let ids: HashMap<&str, &Vm> = vms.iter().map(|vm| (vm.name.as_str(), vm)).collect();
    let of = |((vm, vcpu), probes): &((&str, u32), Vec<Probe<'_>>)| {
        let id = ids.get(vm).map_or(VmId::Process(TaskId { id: 0, start_ticks: 0 }), |vm| vm.id);
        one(vm, *vcpu, id, probes)
    };
    // Where it is known of none, the window has no length, and so nothing in it a rate.
    let seconds = vcpus.iter().filter_map(|(_, probes)| seconds(probes)).fold(0.0, f64::max);
    let missing =
        |what: &str| format!("a replay of an experiment does not show {what}; summary.json may have it");
    Availability::Available(Observation {
        window: round,
        round,
        trial: None,
        begin_unix_us: began_us,
        // What is beyond a number of microseconds ends at the last of them.
        end_unix_us: began_us.saturating_add((seconds * 1e6) as u64),
        vms: vms.iter().map(Vm::reference).collect(),
        vcpus: vcpus.iter().map(of).collect(),
        merging: Vec::new(),
        occupancy: Availability::Unavailable(missing("the occupancy of caches")),
        reported: Vec::new(),
        events: summary.own.events.clone(),
        programs: Vec::new(),
        losses: Availability::Unavailable(missing("the losses of probes")),
        own_cpu_us: Availability::Unavailable(missing("the CPU time of huddle")),
        reading_cpu_us: Availability::Unavailable(missing("the CPU time of readings")),
    })
}

/// Why no vCPU was measured in an arm; `has_samples`: there are samples, without vCPUs.
fn why_nothing(summary: &Summary<ShownFigures>, has_samples: bool) -> String {
    let untimed = summary.untimed.as_ref().map(|why| format!("nothing was timed: {why}"));
    let of_experiment = match summary.blocks.is_empty() {
        true => untimed.as_deref().or(summary.verdict.as_deref()),
        false => summary.why_no_misses(),
    };
    match of_experiment {
        Some(reason) => plain_short(reason, SENTENCE_BYTES),
        None if has_samples => "the result has no counts of vCPUs".to_owned(),
        None if summary.blocks.is_empty() => "nothing was measured in this experiment".to_owned(),
        None => "no valid block was measured in this arm".to_owned(),
    }
}

/// How long a vCPU was measured in all, in seconds; `None` where that is not known of one sample.
fn seconds(probes: &[Probe<'_>]) -> Option<f64> {
    let of = |probe: &Probe<'_>| {
        let counted = probe.host.and_then(|host| host.counters.as_ref()).map(|counted| counted.interval_s);
        let own = probe.elapsed_ns.map(|ns| ns as f64 / 1e9);
        counted.filter(|seconds| *seconds > 0.0).or(own)
    };
    probes.iter().map(of).sum()
}

fn one(vm: &str, vcpu: u32, id: VmId, probes: &[Probe<'_>]) -> VcpuObservation {
    let (counters, residency) = match probes.iter().map(|probe| probe.host).collect::<Option<Vec<_>>>() {
        Some(hosts) => (counters(&hosts), residency(&hosts)),
        None => (CounterDelta::unavailable(NOT_COUNTED), Availability::Unavailable(NOT_COUNTED.into())),
    };
    let missing = || "a replay of an experiment does not show it; summary.json has it by block".to_owned();
    VcpuObservation {
        vm: vm.to_owned(),
        vcpu,
        id: vcpu_id(id, vcpu),
        process: id.process(),
        counters,
        residency,
        run_ns_anywhere: None,
        migrations: Availability::Unavailable(missing()),
        domain_migrations: Availability::Unavailable(missing()),
        guest_entries: Availability::Unavailable(missing()),
        guest_ns: Availability::Unavailable(missing()),
        exits: Availability::Unavailable(missing()),
    }
}

const NOT_COUNTED: &str = "the result does not have what the host counted of this vCPU in every block";

/// The counts of all blocks together. One that a block lacks is unavailable, never a part of the sum.
fn counters(hosts: &[&VcpuProbe]) -> CounterDelta {
    let Some(deltas) = hosts.iter().map(|host| host.counters.as_ref()).collect::<Option<Vec<_>>>() else {
        return CounterDelta::unavailable(NOT_COUNTED);
    };
    let total =
        |of: fn(&CounterDelta) -> u64| deltas.iter().fold(0u64, |sum, delta| sum.saturating_add(of(delta)));
    let times = (total(|delta| delta.time_enabled_ns), total(|delta| delta.time_running_ns));
    let interval_s = deltas.iter().map(|delta| delta.interval_s).sum();
    CounterDelta::recorded(interval_s, times, |role| {
        let counts = deltas.iter().map(|delta| delta.count(role).as_ref());
        summed(counts, 0.0, |sum, count| sum + count)
    })
}

/// Where it ran in all blocks together.
fn residency(hosts: &[&VcpuProbe]) -> Availability<Vec<CpuResidency>> {
    let add = |one: Option<u64>, other: Option<u64>| Some(one?.saturating_add(other?));
    let by_cpu =
        summed(hosts.iter().map(|host| host.residency.as_ref()), BTreeMap::new(), |mut sum, cpus| {
            for cpu in cpus {
                let known = *sum.get(&cpu.cpu).unwrap_or(&CpuResidency {
                    cpu: cpu.cpu,
                    run_ns: Some(0),
                    switches: Some(0),
                    clock_samples: Some(0),
                    miss_samples: Some(0),
                });
                sum.insert(
                    cpu.cpu,
                    CpuResidency {
                        cpu: cpu.cpu,
                        run_ns: add(known.run_ns, cpu.run_ns),
                        switches: add(known.switches, cpu.switches),
                        clock_samples: add(known.clock_samples, cpu.clock_samples),
                        miss_samples: add(known.miss_samples, cpu.miss_samples),
                    },
                );
            }
            sum
        });
    by_cpu.map(|by_cpu| by_cpu.into_values().collect())
}

/// All values folded; unavailable, with the first reason, if one is.
fn summed<'a, T: 'a, S>(
    mut values: impl Iterator<Item = Availability<&'a T>>,
    begin: S,
    add: impl Fn(S, &T) -> S,
) -> Availability<S> {
    let sum = values.try_fold(begin, |sum, value| match value {
        Availability::Available(value) => Ok(add(sum, value)),
        Availability::Unavailable(reason) => Err(reason),
    });
    match sum {
        Ok(sum) => Availability::Available(sum),
        Err(reason) => Availability::Unavailable(reason),
    }
}
