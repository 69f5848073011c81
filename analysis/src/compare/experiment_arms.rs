//! Arms of an experiment: the samples of its blocks.

use huddle_model::rates::CounterDelta;
use huddle_model::stats::BlockSums;
use huddle_model::summary::{Block, Sample, Summary};

use super::{ArmData, Arms, Measure, Place};

/// The arms of an experiment, by block; invalid blocks are left out.
pub(super) fn arms(summary: &Summary) -> Arms {
    let mut arms = Arms::new();
    for block in summary.blocks.iter().filter(|block| block.invalid.is_none()) {
        for sample in &block.samples {
            let arm = arms.entry(sample.arm.name().to_owned()).or_default();
            add(arm, block, sample, summary.why_no_misses());
        }
    }
    arms
}

fn add(arm: &mut ArmData, block: &Block, sample: &Sample, why_no_misses: Option<&str>) {
    let place: Place = (0, block.number as u64);
    let mut sums = BlockSums::default();
    for (vm, host) in sample.probes() {
        let unknown = || CounterDelta::unavailable(why_no_misses.unwrap_or("not counted"));
        let counters = host.and_then(|host| host.counters.clone()).unwrap_or_else(unknown);
        let moves = host.and_then(|host| host.domain_migrations.value().or(host.migrations.value()));
        let merging = sample.seen.iter().flat_map(|seen| &seen.merging);
        let broken = merging.filter(|merged| merged.vm == vm).find_map(|merged| merged.breaks.value());
        sums.add_sample(&counters, moves.copied(), broken.copied());
    }
    arm.blocks.insert(place, sums);
    for (measure, value) in [
        (Measure::Throughput, sample.reads_per_s()),
        (Measure::CpuTimeNs, sample.busy_ns_per_read()),
        (Measure::HostCpuTimeNs, sample.host_ns_per_read()),
        (Measure::MissesPerOperation, sample.llc_misses_per_read()),
    ] {
        if let Some(value) = value.filter(|value| value.is_finite()) {
            arm.figures.entry(measure).or_default().insert(place, value);
        }
    }
}
