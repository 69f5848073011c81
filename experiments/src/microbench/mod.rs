//! The microbenchmark of the paper (Figure 4): does it pay to run the VMs that share most on one cache?
//!
//! Guests hold data: two of them data A, two data B, as a rule. Each has memory of its own, and a copy of
//! its data that equals no other guest's. The host merges what is equal, or, in a placebo, nothing. Then the
//! arms alternate in blocks: the guests are placed, begin to read at random, a settling time passes, and their
//! reads in a window of time are counted. Placed as recommended, a cache holds one data set that both its guests
//! use; placed the opposite way, or with data that is not merged, it has to hold two.
//!
//! Merging is verified by the frames of the guests before the first window and after every block: a
//! block at whose end it did not hold is invalid and enters no figure, and so is one in which a guest was
//! kept from running at all.

mod command;
mod emulated_reads;
mod known_reads;
mod measure;
mod report;
mod spec;
#[cfg(test)]
pub(crate) mod tests;

use std::rc::Rc;
use std::time::Duration;

use huddle_guest::chase::NODE_WORDS;
use huddle_model::availability::Availability;
use huddle_model::cache::estimate::ReadPattern;
use huddle_model::cpuset::CpuSet;
use huddle_model::matrix::SharingMatrix;
use huddle_model::plan::Plan;
use huddle_model::stats::trend;
use huddle_model::summary::{
    Arm, Block, BootFigures, GuestSample, MicrobenchConfig, MicrobenchFigures, SECONDS_A_MILLION_READS,
    Sample, VcpuFigures, figures,
};

use crate::access_stream::Recorders;
use crate::frame::run::RunError;
use crate::frame::simulate::AccessSource;
use crate::frame::simulate::emulated::EmulatedAccesses;
use crate::frame::spec::GuestKind;
use crate::frame::summary::{boot_figures, misses, values_of_arm};
use crate::frame::{Cold, Figure, Metric, Outcome, RatioSpec, Verify, Window, Workload};
use crate::guest::{GuestData, Pace, Reader};
use crate::host::HostFailure;
use emulated_reads::Reads;
use known_reads::KnownReads;

pub use command::{Args, execute};
pub use spec::{MicrobenchSettings, MicrobenchSpec, Preset, ReadOrder};

/// The microbenchmark of a specification.
#[derive(Clone, Debug)]
pub struct Microbench {
    /// What is run.
    pub spec: MicrobenchSpec,
    /// On Xen, the CPUs of each last-level cache; empty for one a socket.
    pub last_level_cache: Vec<CpuSet>,
    /// What records the accesses of emulated VMs, if that is wanted.
    pub recorders: Option<Rc<Recorders>>,
}

/// Bytes of a line of data.
const LINE_BYTES: u64 = (NODE_WORDS * size_of::<u64>()) as u64;

/// How many data sets a VM that holds cold data has of it where no size is given: enough that pairs with the same cold
/// data share most.
const COLD_SETS: u64 = 4;

const TIME_PER_READ: Metric = |sample| Some(1.0 / sample.reads_per_s()?);

const fn opposed(name: &'static str, text: &'static str, of: Metric) -> RatioSpec {
    RatioSpec { name, text, over: Arm::Opposed, under: Arm::Recommended, of }
}

const fn by_reads(name: &'static str, text: &'static str, over: Arm, of: Metric) -> RatioSpec {
    RatioSpec { name, text, over, under: Arm::ByReads, of }
}

/// As ratios are called below the first of their arms.
const BUSY: &str = "  the same in CPU time, as guests count it";
const HOST_BUSY: &str = "  the same in CPU time, as the host counts it";

impl Workload for Microbench {
    const NAME: &'static str = "microbench";
    type Settings = MicrobenchSettings;
    type Guest = dyn Reader;
    type Figures = MicrobenchFigures;

    fn spec(&self) -> &MicrobenchSpec {
        &self.spec
    }

    fn guests(&self) -> String {
        format!("{} guests", self.spec.guests())
    }

    fn vcpus(&self) -> usize {
        self.spec.guests() * self.spec.settings.vcpus as usize
    }

    fn pace(&self, data_bytes: u64) -> Pace {
        let lines = data_bytes / LINE_BYTES;
        // A burst reads all of the data, and then another guest on the CPU has time for a burst.
        let idle_us = if self.spec.guest.has_kernels() { 50 } else { 0 };
        Pace {
            burst_reads: self.spec.settings.burst_reads.unwrap_or(lines * 5 / 4),
            idle_us: self.spec.settings.idle_us.unwrap_or(idle_us),
        }
    }

    fn verify(&self) -> Verify {
        if self.spec.settings.merge { Verify::Merged } else { Verify::Unmerged }
    }

    fn cold(&self, data_bytes: u64) -> Option<Cold> {
        let settings = &self.spec.settings;
        let kib = settings.cold_kib.unwrap_or(data_bytes / 1024 * COLD_SETS);
        settings.cold.iter().any(|name| !name.is_empty()).then(|| Cold { names: settings.cold.clone(), kib })
    }

    fn measures_boot(&self) -> bool {
        // Stand-ins share nothing before they hold data.
        self.spec.guest.has_kernels()
    }

    fn measure(
        &self,
        window: &mut Window<'_, dyn Reader>,
        arm: Arm,
        plan: &Plan,
    ) -> Result<Result<Sample, String>, RunError> {
        measure::sample(&self.spec.settings, window, arm, plan)
    }

    fn accesses<'a>(
        &'a self,
        window: Window<'a, dyn Reader>,
        data: &'a [GuestData],
    ) -> Result<Box<dyn AccessSource + 'a>, RunError> {
        match self.spec.guest {
            GuestKind::Process => Ok(Box::new(KnownReads::new(window, data, self.spec.seed, self.spec.settings.simulated_order))),
            GuestKind::Qemu => {
                let recorders = self.recorders.as_ref().map_or(&[][..], |recorders| recorders.streams());
                let streams = window.host.access_streams(window.vms, self.spec.memory_mib, recorders)?;
                let lines = data.first().map_or(0, |data| data.kib * 1024 / LINE_BYTES);
                let work = Box::new(Reads::of(lines));
                Ok(Box::new(EmulatedAccesses { window, streams, seed: self.spec.seed, set_forward: 0, work }))
            }
            GuestKind::Xen => Err(HostFailure::Cannot(
                "what domains of Xen read is not recorded, so no cache can be simulated; take stand-ins (--guest process)"
                    .to_owned(),
            )
            .into()),
        }
    }

    fn read_pattern(&self) -> Option<ReadPattern> {
        // The kernels of VMs read besides.
        let is_all = self.spec.guest == GuestKind::Process;
        is_all.then_some(match self.spec.settings.simulated_order {
            ReadOrder::Ring => ReadPattern::Cyclic,
            ReadOrder::Random => ReadPattern::Independent,
        })
    }

    fn first_block(&self) -> Option<Duration> {
        let an_arm =
            Duration::from_secs_f64(self.spec.settings.settle_seconds + self.spec.settings.seconds_per_arm);
        Some(an_arm * self.spec.arms.len() as u32)
    }

    const MAIN: Figure = Figure { name: "reads per second", unit: "reads/s", of: Sample::reads_per_s };
    const TIME: Metric = TIME_PER_READ;
    const MISSES: Figure =
        Figure { name: "misses per read", unit: "misses/read", of: Sample::llc_misses_per_read };
    /// The first is the paper's Figure 4: 2.1.
    const RATIOS: &'static [RatioSpec] = &[
        by_reads(
            "recommended_over_by_reads",
            "recommended over by reads, time per read",
            Arm::Recommended,
            TIME_PER_READ,
        ),
        by_reads("recommended_over_by_reads_busy", BUSY, Arm::Recommended, Sample::busy_ns_per_read),
        by_reads(
            "recommended_over_by_reads_host_busy",
            HOST_BUSY,
            Arm::Recommended,
            Sample::host_ns_per_read,
        ),
        by_reads("kernel_over_by_reads", "left to the kernel over by reads", Arm::Kernel, TIME_PER_READ),
        opposed("opposed_over_recommended", "opposed over recommended, time per read", TIME_PER_READ),
        opposed("opposed_over_recommended_busy", BUSY, Sample::busy_ns_per_read),
        opposed("opposed_over_recommended_host_busy", HOST_BUSY, Sample::host_ns_per_read),
    ];

    fn figures(&self, valid: &[&Block], outcome: &Outcome) -> MicrobenchFigures {
        let settings = &self.spec.settings;
        MicrobenchFigures {
            arms_busy: figures(valid, "ns/read", Sample::busy_ns_per_read),
            arms_host_busy: figures(valid, "ns/read", Sample::host_ns_per_read),
            arms_time: figures(valid, SECONDS_A_MILLION_READS, |sample| {
                Some(1e6 * sample.guests.len() as f64 / sample.reads_per_s()?)
            }),
            vcpus: vcpus(valid),
            events: outcome.events.clone(),
            trend: trend(&values_of_arm(valid, Arm::Recommended, Sample::reads_per_s)),
            config: MicrobenchConfig {
                data_kib: outcome.data_bytes / 1024,
                cold_kib: outcome.cold.as_ref().map(|cold| cold.kib),
                private_kib: settings.private_kib,
                burst_reads: outcome.pace.burst_reads,
                idle_us: outcome.pace.idle_us,
                seconds_per_arm: settings.seconds_per_arm,
                settle_s: settings.settle_seconds,
                repetitions: self.spec.repetitions,
                warm_up_blocks: self.spec.warm_up_blocks,
                cache_level: outcome.topology.level(),
                seed: self.spec.seed,
                merging_s: outcome.merging_s,
            },
        }
    }

    fn boot(&self, matrix: Option<&SharingMatrix>) -> Option<Availability<BootFigures>> {
        let flavours = &self.spec.settings.flavours;
        Some(match (matrix, self.spec.guest) {
            (Some(matrix), _) => {
                Availability::Available(boot_figures(matrix, |i, j| flavours[i] == flavours[j]))
            }
            (None, GuestKind::Qemu | GuestKind::Xen) => {
                Availability::Unavailable("it was not measured".into())
            }
            (None, GuestKind::Process) => Availability::Unavailable(
                "stand-ins have no operating system to share; run with --guest qemu".into(),
            ),
        })
    }

    fn effect(ratio: f64) -> String {
        match ratio > 1.0 {
            true => format!(
                "placed as recommended the guests read {ratio:.2} times as fast as placed the opposite way"
            ),
            false => format!(
                "placed as recommended the guests read SLOWER than placed the opposite way: {ratio:.2} times as fast"
            ),
        }
    }
}

fn vcpus(blocks: &[&Block]) -> Vec<VcpuFigures> {
    let sample = blocks.iter().find_map(|block| block.samples.first());
    let vcpus = sample.into_iter().flat_map(|sample| &sample.guests);
    let figures_of = |first: &GuestSample| {
        // Only this one, as if there were no other guests.
        let alone = |block: &&Block| {
            let is_it = |guest: &GuestSample| guest.vm == first.vm && guest.vcpu == first.vcpu;
            let mut block = Block::clone(block);
            block.samples.iter_mut().for_each(|sample| sample.guests.retain(is_it));
            block
        };
        let alone: Vec<Block> = blocks.iter().map(alone).collect();
        let alone: Vec<&Block> = alone.iter().collect();
        let found = figures(&alone, "misses/read", Sample::llc_misses_per_read);
        VcpuFigures {
            vm: first.vm.clone(),
            vcpu: first.vcpu,
            reads: figures(&alone, "reads/s", Sample::reads_per_s),
            llc_misses: misses(found, &alone),
        }
    };
    vcpus.map(figures_of).collect()
}
