//! From the blocks of an experiment to arms that [`crate::compare`] compares.

use huddle_model::rates::CounterDelta;
use huddle_model::stats::BlockSums;

use super::result::{Block, GuestSample, Sample, Summary};
use crate::compare::{ArmData, Arms, Measure, Place};

/// The arms of an experiment, block by block; invalid blocks enter nothing.
pub(crate) fn arms(summary: &Summary) -> Arms {
    let mut arms = Arms::new();
    for block in summary.blocks.iter().filter(|block| block.invalid.is_none()) {
        for sample in &block.samples {
            add(arms.entry(sample.arm.clone()).or_default(), block, sample, summary.why_no_misses());
        }
    }
    arms
}

fn add(arm: &mut ArmData, block: &Block, sample: &Sample, why_no_misses: Option<&str>) {
    let place: Place = (0, block.number);
    let mut sums = BlockSums::default();
    for guest in &sample.guests {
        let unknown = || CounterDelta::unavailable(why_no_misses.unwrap_or("not counted"));
        let host = guest.host.as_ref();
        let counters = host.and_then(|host| host.counters.clone()).unwrap_or_else(unknown);
        let moves = host.and_then(|host| {
            let of = |moves: &Option<huddle_model::availability::Availability<u64>>| {
                moves.as_ref().and_then(|moves| moves.value().copied())
            };
            of(&host.domain_migrations).or(of(&host.migrations))
        });
        let broken = sample.merging.iter().find(|vm| vm.vm == guest.vm);
        let broken = broken.and_then(|vm| vm.breaks.as_ref()?.value().copied());
        sums.add_sample(
            &counters,
            moves.is_some_and(|moves| moves > 0),
            broken.is_some_and(|pages| pages > 0),
        );
    }
    arm.blocks.insert(place, sums);
    for (measure, value) in [
        (Measure::Throughput, throughput(&sample.guests)),
        (Measure::CpuTimeNs, per_read(&sample.guests, |guest| guest.busy_ns)),
        (Measure::HostCpuTimeNs, per_read(&sample.guests, host_ns)),
        (Measure::MissesPerOperation, per_read(&sample.guests, misses)),
    ] {
        if let Some(value) = value.filter(|value| value.is_finite()) {
            arm.figures.entry(measure).or_default().insert(place, value);
        }
    }
}

/// Reads per second of all guests together; `None` where one did not say.
fn throughput(guests: &[GuestSample]) -> Option<f64> {
    let of =
        |guest: &GuestSample| Some(guest.reads? * 1e9 / guest.elapsed_ns.filter(|elapsed| *elapsed > 0.0)?);
    (!guests.is_empty()).then(|| guests.iter().map(of).sum::<Option<f64>>())?
}

/// The sum of `figure` over all guests by the sum of their reads; `None` where one does not have it.
fn per_read(guests: &[GuestSample], figure: impl Fn(&GuestSample) -> Option<f64>) -> Option<f64> {
    let total = guests.iter().map(figure).sum::<Option<f64>>()?;
    let reads = guests.iter().map(|guest| guest.reads).sum::<Option<f64>>()?;
    (reads > 0.0).then(|| total / reads)
}

fn host_ns(guest: &GuestSample) -> Option<f64> {
    guest.host.as_ref()?.cpu_time_ns.as_ref()?.value().copied()
}

fn misses(guest: &GuestSample) -> Option<f64> {
    let counters = guest.host.as_ref()?.counters.as_ref()?;
    counters.count(huddle_model::counters::CounterRole::LlcMisses).value().copied()
}
