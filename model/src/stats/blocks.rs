//! Aggregation of the samples of a trial to one value per block, the same for decisions of the loop and for
//! offline tables.
//!
//! A sample is one vCPU in one window. A block's value is a ratio of sums over its samples (and not a
//! mean of ratios, in which an idle window would weigh as much as a busy one), each sum over the samples
//! that have both counts, as in [`crate::rates`].

use serde::{Deserialize, Serialize};

use crate::availability::Availability;
use crate::counters::CounterRole;
use crate::observation::Observation;
use crate::rates::CounterDelta;
use crate::trial::Objective;

/// Sums of one placement's part of one block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BlockSums {
    /// LLC misses and instructions of the samples that have both.
    pub mpki: Part,
    /// LLC misses and LLC references of the samples that have both.
    pub miss_ratio: Part,
    /// Instructions and cycles of the samples that have both.
    pub ipc: Part,
    /// Operations that workloads reported, and the seconds of the windows they reported in.
    pub reported: Part,
    /// Quality of the samples.
    pub samples: SampleFlags,
}

/// A numerator and its denominator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The numerator.
    pub above: f64,
    /// The denominator.
    pub below: f64,
}

/// Number of samples, and number of samples with a flaw. A flawed sample counts like any other: the flags
/// show how far to trust the sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleFlags {
    /// All samples.
    pub samples: u64,
    /// Without LLC misses.
    pub without_misses: u64,
    /// Counts are estimates, because the counters had to share the PMU.
    pub multiplexed: u64,
    /// The thread moved between cache domains.
    pub migrated: u64,
    /// It is not known whether the thread moved.
    #[serde(default)]
    pub without_moves: u64,
    /// Pages of the VM left their merged frame.
    pub broken: u64,
    /// It is not known whether pages of the VM left their merged frame.
    #[serde(default)]
    pub without_breaks: u64,
}

impl BlockSums {
    /// Adds one window, without the VMs that are no part of its trial.
    pub fn add(&mut self, seen: &Observation) {
        for vcpu in seen.vcpus.iter().filter(|vcpu| !seen.is_outside(&vcpu.vm)) {
            let broken = seen.merging.iter().find(|vm| vm.vm == vcpu.vm).and_then(|vm| vm.breaks.value());
            // Moves within a domain keep the cache; if domains are unknown any move counts.
            let moved = vcpu.domain_migrations.value().or(vcpu.migrations.value());
            self.add_sample(&vcpu.counters, moved.copied(), broken.copied());
        }
        let reported = seen.reported.iter().filter(|report| !seen.is_outside(&report.vm));
        let operations: Vec<f64> = reported.map(|report| report.operations as f64).collect();
        if !operations.is_empty() {
            self.reported.above += operations.iter().sum::<f64>();
            self.reported.below += seen.seconds();
        }
    }

    /// Adds one vCPU in one window: its counts, how often it moved to another cache, and how many shared pages of its VM
    /// were broken; `None` where that is not known.
    pub fn add_sample(&mut self, counters: &CounterDelta, moves: Option<u64>, broken_pages: Option<u64>) {
        use CounterRole::{Cycles, Instructions, LlcMisses, LlcReferences};
        self.mpki.add(counters, LlcMisses, Instructions);
        self.miss_ratio.add(counters, LlcMisses, LlcReferences);
        self.ipc.add(counters, Instructions, Cycles);
        self.samples.samples += 1;
        self.samples.without_misses += u64::from(counters.count(LlcMisses).value().is_none());
        self.samples.multiplexed += u64::from(counters.is_multiplexed());
        self.samples.add_moves(moves);
        self.samples.add_breaks(broken_pages);
    }

    /// The value of the block by `objective`; unavailable if nothing was counted for it.
    pub fn value(&self, objective: Objective) -> Availability<f64> {
        let (part, scale, missing) = match objective {
            Objective::Mpki => (self.mpki, 1000.0, "no sample has both LLC misses and instructions"),
            Objective::MissRatio => (self.miss_ratio, 1.0, "no sample has both LLC misses and references"),
            Objective::Ipc => (self.ipc, 1.0, "no sample has both instructions and cycles"),
            Objective::Reported => (self.reported, 1.0, "no workload reported anything"),
        };
        if !part.above.is_finite() || !part.below.is_finite() {
            Availability::Unavailable("a sample is not a finite number".to_owned())
        } else if part.below > 0.0 {
            Availability::Available(scale * part.above / part.below)
        } else {
            Availability::Unavailable(missing.to_owned())
        }
    }
}

impl Part {
    fn add(&mut self, counters: &CounterDelta, above: CounterRole, below: CounterRole) {
        let count = |role| counters.count(role).value().copied();
        if let (Some(above), Some(below)) = (count(above), count(below)) {
            self.above += above;
            self.below += below;
        }
    }
}

impl SampleFlags {
    /// Counts how often the thread moved to another cache; `None` where that is not known.
    pub fn add_moves(&mut self, moves: Option<u64>) {
        self.migrated += u64::from(moves.is_some_and(|moves| moves > 0));
        self.without_moves += u64::from(moves.is_none());
    }

    /// Counts how many pages of the VM left their merged frame; `None` where that is not known.
    pub fn add_breaks(&mut self, pages: Option<u64>) {
        self.broken += u64::from(pages.is_some_and(|pages| pages > 0));
        self.without_breaks += u64::from(pages.is_none());
    }

    /// The samples whose thread moved; `None` where that is known of no sample.
    pub fn moved_samples(&self) -> Option<u64> {
        (self.without_moves < self.samples || self.samples == 0).then_some(self.migrated)
    }

    /// The samples of whose VM pages left their merged frame; `None` where that is known of no sample.
    pub fn broken_samples(&self) -> Option<u64> {
        (self.without_breaks < self.samples || self.samples == 0).then_some(self.broken)
    }

    /// Adds other counts.
    pub fn merge(&mut self, other: &Self) {
        self.samples += other.samples;
        self.without_misses += other.without_misses;
        self.multiplexed += other.multiplexed;
        self.migrated += other.migrated;
        self.without_moves += other.without_moves;
        self.broken += other.broken;
        self.without_breaks += other.without_breaks;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::{Counts, GroupReading};
    use crate::observation::{MergeObservation, ReportObservation, VcpuObservation};
    use crate::vm::TaskId;

    fn delta(running: u64, cycles: u64, instructions: u64, misses: Option<u64>) -> CounterDelta {
        let reading = |at: u64, factor: u64| GroupReading {
            begin_ns: at,
            end_ns: at,
            time_enabled_ns: 1000 * factor,
            time_running_ns: running * factor,
            counts: Counts {
                cycles: Some(cycles * factor),
                instructions: Some(instructions * factor),
                llc_references: Some(100 * factor),
                llc_misses: misses.map(|misses| misses * factor),
            },
        };
        CounterDelta::between(&reading(0, 0), &reading(1_000_000, 1))
    }

    fn window(deltas: Vec<CounterDelta>) -> Observation {
        let none = || Availability::Unavailable("-".to_owned());
        let task = TaskId { id: 1, start_ticks: 1 };
        let vcpus = deltas.into_iter().enumerate().map(|(i, counters)| VcpuObservation {
            vm: format!("vm{i}"),
            vcpu: 0,
            id: task.into(),
            process: Some(task),
            counters,
            residency: none().map(|()| Vec::new()),
            run_ns_anywhere: None,
            migrations: Availability::Available(3),
            domain_migrations: Availability::Available(i as u64),
            guest_entries: Availability::Unavailable("-".into()),
            guest_ns: Availability::Unavailable("-".into()),
            exits: Availability::Unavailable("-".into()),
        });
        Observation {
            round: 1,
            window: 1,
            trial: None,
            vms: Vec::new(),
            begin_unix_us: 0,
            end_unix_us: 2_000_000,
            vcpus: vcpus.collect(),
            merging: vec![MergeObservation {
                vm: "vm0".into(),
                id: task.into(),
                merged_now: Availability::Available(5),
                merges: Availability::Available(5),
                breaks: Availability::Available(2),
                failed: Availability::Available(0),
            }],
            occupancy: Availability::Unavailable("-".into()),
            reported: vec![
                ReportObservation { vm: "vm0".into(), operations: 10, latency_us: None },
                ReportObservation { vm: "vm1".into(), operations: 30, latency_us: None },
            ],
            events: Vec::new(),
            programs: Vec::new(),
            losses: Availability::Unavailable("-".into()),
            own_cpu_us: Availability::Unavailable("-".into()),
            reading_cpu_us: Availability::Unavailable("-".into()),
        }
    }

    #[test]
    fn a_block_is_sums_over_sums() {
        let mut block = BlockSums::default();
        block.add(&window(vec![delta(1000, 400, 1000, Some(10)), delta(500, 100, 150, None)]));
        block.add(&window(vec![delta(1000, 600, 3000, Some(20))]));
        // The sample without misses is in neither sum of MPKI: 30 misses in 4000 instructions.
        assert_eq!(block.value(Objective::Mpki), Availability::Available(7.5));
        assert_eq!(block.value(Objective::MissRatio), Availability::Available(0.15));
        // The multiplexed sample is scaled by two: (1000 + 300 + 3000) / (400 + 200 + 600).
        assert_eq!(block.value(Objective::Ipc), Availability::Available(4300.0 / 1200.0));
        // 80 operations in two windows of two seconds.
        assert_eq!(block.value(Objective::Reported), Availability::Available(20.0));
        // What KSM did to the second VM is not known.
        let (moves, breaks) = ((1, 0), (2, 1));
        let flags = SampleFlags {
            samples: 3,
            without_misses: 1,
            multiplexed: 1,
            migrated: moves.0,
            without_moves: moves.1,
            broken: breaks.0,
            without_breaks: breaks.1,
        };
        assert_eq!(block.samples, flags);
    }

    #[test]
    fn flaws_that_are_known_of_no_sample_are_unavailable() {
        let counters = delta(1000, 400, 1000, Some(10));
        let flags = |samples: &[(Option<u64>, Option<u64>)]| {
            let mut block = BlockSums::default();
            samples.iter().for_each(|(moves, pages)| block.add_sample(&counters, *moves, *pages));
            (block.samples.moved_samples(), block.samples.broken_samples())
        };
        assert_eq!(flags(&[]), (Some(0), Some(0)));
        assert_eq!(flags(&[(None, None), (None, None)]), (None, None));
        assert_eq!(flags(&[(None, Some(0)), (Some(0), None)]), (Some(0), Some(0)));
        assert_eq!(flags(&[(Some(2), Some(1)), (None, None)]), (Some(1), Some(1)));
    }

    #[test]
    fn an_empty_block_has_no_value() {
        let mut block = BlockSums::default();
        for objective in [Objective::Mpki, Objective::MissRatio, Objective::Ipc, Objective::Reported] {
            assert_eq!(block.value(objective).value(), None);
        }
        block.add(&window(vec![delta(1000, 0, 0, Some(5))]));
        assert_eq!(
            block.value(Objective::Mpki).reason(),
            Some("no sample has both LLC misses and instructions")
        );
    }
}
