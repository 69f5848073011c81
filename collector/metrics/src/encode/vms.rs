//! What vCPUs did: sums of windows, and values of the last window.

use std::fmt;

use huddle_model::observation::Observation;

use super::Exported;
use crate::families::{self as family, Family};
use crate::fold::VmSums;
use crate::sample::{Families, Sample, Value};

/// Families of counts of the PMU, in the order of [`huddle_model::counters::CounterRole::ALL`].
const COUNTS: [&Family; 4] =
    [&family::VM_CYCLES, &family::VM_INSTRUCTIONS, &family::VM_REFERENCES, &family::VM_MISSES];

impl Exported {
    pub(super) fn write_vms(&self, families: &mut Families<'_>) -> fmt::Result {
        self.write_merging(families)?;
        self.write_running(families)?;
        for (at, family) in COUNTS.into_iter().enumerate() {
            families.write(family, self.sums(move |sums| sums.counts[at].map(Value::Real)))?;
        }
        self.write_caches(families)?;
        families.write(&family::VM_OPERATIONS, self.sums(|sums| sums.operations.map(Value::Whole)))?;
        let latencies = self.last_window().into_iter().flat_map(|window| &window.reported);
        let latencies = latencies.filter_map(|reported| {
            let latency_us = reported.latency_us.filter(|latency_us| latency_us.is_finite())?;
            Some(Sample::new(latency_us / 1e6).of(self.labels.get(&reported.vm)?))
        });
        families.write(&family::VM_LATENCY, latencies)
    }

    /// A sum of each VM that has it.
    fn sums(&self, sum: impl Fn(&VmSums) -> Option<Value>) -> impl Iterator<Item = Sample<'_>> {
        let named = self.fold.vms.iter().filter_map(|(vm, sums)| Some((self.labels.get(vm)?, sums)));
        named.filter_map(move |(name, sums)| Some(Sample::new(sum(sums)?).of(name)))
    }

    /// The last window, if it could be observed.
    fn last_window(&self) -> Option<&Observation> {
        Some(self.fold.view.as_ref()?.observation.value()?)
    }

    fn write_merging(&self, families: &mut Families<'_>) -> fmt::Result {
        let page = self.fold.view.as_ref().and_then(|view| view.round.ksm.value()).map(|ksm| ksm.page_size);
        let merging = self.last_window().into_iter().flat_map(|window| &window.merging);
        let merged = merging.filter_map(|merging| {
            let pages = merging.merged_now.value()?;
            Some(Sample::new(page?.bytes_of(*pages)).of(self.labels.get(&merging.vm)?))
        });
        families.write(&family::VM_MERGED, merged)?;
        families.write(&family::VM_MERGES, self.sums(|sums| sums.merges.map(Value::Whole)))?;
        families.write(&family::VM_BREAKS, self.sums(|sums| sums.breaks.map(Value::Whole)))?;
        families.write(&family::MERGES, self.fold.merges.map(Sample::new))?;
        families.write(&family::BREAKS, self.fold.breaks.map(Sample::new))
    }

    fn write_running(&self, families: &mut Families<'_>) -> fmt::Result {
        families.write(&family::VM_CPU, self.sums(|sums| sums.run_ns.map(Value::seconds_of_ns)))?;
        let named = self.fold.vms.iter().filter_map(|(vm, sums)| Some((self.labels.get(vm)?, sums)));
        let by_domain = named.flat_map(|(name, sums)| {
            sums.run_ns_by_domain.iter().map(move |(domain, run_ns)| {
                Sample::new(Value::seconds_of_ns(*run_ns)).of(name).of(domain.0.to_string())
            })
        });
        families.write(&family::VM_DOMAIN_CPU, by_domain)?;
        families.write(&family::VM_GUEST, self.sums(|sums| sums.guest_ns.map(Value::seconds_of_ns)))?;
        families.write(&family::VM_MOVES, self.sums(|sums| sums.migrations.map(Value::Whole)))?;
        families
            .write(&family::VM_DOMAIN_MOVES, self.sums(|sums| sums.domain_migrations.map(Value::Whole)))?;
        families.write(&family::VM_COUNTED, self.sums(|sums| sums.counted_us.map(Value::seconds_of_us)))
    }

    fn write_caches(&self, families: &mut Families<'_>) -> fmt::Result {
        let occupied = self.last_window().and_then(|window| window.occupancy.value());
        let occupied = occupied.into_iter().flatten().filter_map(|of| {
            let name = self.labels.get(&of.vm)?;
            Some(Sample::new(*of.llc_bytes.value()?).of(name).of(of.cache.to_string()))
        });
        families.write(&family::VM_OCCUPANCY, occupied)?;
        let named = self.fold.vms.iter().filter_map(|(vm, sums)| Some((self.labels.get(vm)?, sums)));
        let moved = named.flat_map(|(name, sums)| {
            let by_cache = sums.transfers.iter();
            by_cache.map(move |(cache, bytes)| Sample::new(*bytes).of(name).of(cache.to_string()))
        });
        families.write(&family::VM_TRANSFERS, moved)
    }
}
