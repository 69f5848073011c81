//! The VMs and what they share; KSM.

use std::fmt;

use huddle_model::matrix::{MatrixVm, MemoryUse};

use super::Exported;
use crate::families as family;
use crate::sample::{Families, Sample, Value};

impl Exported {
    pub(super) fn write_sharing(&self, families: &mut Families<'_>) -> fmt::Result {
        self.write_vm_list(families)?;
        self.write_matrix(families)?;
        self.write_pairs(families)?;
        self.write_ksm(families)
    }

    fn write_vm_list(&self, families: &mut Families<'_>) -> fmt::Result {
        let Some(view) = &self.fold.view else { return Ok(()) };
        let vms = &view.round.vms;
        families.write(&family::VMS, [Sample::new(vms.len() as u64)])?;
        let left_out = vms.len().saturating_sub(self.labels.len());
        families.write(&family::VMS_LEFT_OUT, [Sample::new(left_out as u64)])?;
        let shown = || vms.iter().filter_map(|vm| Some((self.labels.get(&vm.name)?, vm)));
        let about = shown().map(|(name, vm)| {
            let uuid = vm.uuid.map_or_else(String::new, |uuid| uuid.to_string());
            Sample::new(1).of(name).of(uuid).of(vm.vmm.name())
        });
        families.write(&family::VM, about)?;
        families.write(&family::VCPUS, shown().map(|(name, vm)| Sample::new(vm.vcpus.len() as u64).of(name)))
    }

    /// The VMs of the matrix that have metrics of their own, with their positions.
    fn measured(&self) -> impl Iterator<Item = (usize, &str, &MatrixVm)> {
        let matrix = self.fold.view.as_ref().and_then(|view| view.round.matrix.value());
        let vms = matrix.map_or(&[][..], |matrix| matrix.vms()).iter().enumerate();
        vms.filter_map(|(at, vm)| Some((at, self.labels.get(&vm.name)?, vm)))
    }

    fn write_matrix(&self, families: &mut Families<'_>) -> fmt::Result {
        let matrix = self.fold.view.as_ref().and_then(|view| view.round.matrix.value());
        let (Some(matrix), Some(derived)) = (matrix, &self.derived) else { return Ok(()) };
        let estimated = if matrix.len() > 1 && matrix.rate_error(0, 1).is_some() { "true" } else { "false" };
        families.write(&family::SHARING, [Sample::new(1).of(matrix.method().name()).of(estimated)])?;
        let duration = matrix.duration_ms().map(|ms| Value::Real(ms / 1e3));
        families.write(&family::MATRIX_DURATION, duration.map(Sample::new))?;
        let page = matrix.page_size();
        let memory = |pages: fn(&MemoryUse) -> u64| {
            self.measured().filter_map(move |(_, name, vm)| {
                Some(Sample::new(page.bytes_of(pages(vm.memory.as_ref()?))).of(name))
            })
        };
        families.write(&family::VM_RESIDENT, memory(|memory| memory.pages_resident))?;
        families.write(&family::VM_USED, memory(|memory| memory.frames_used))?;
        let shared = self.measured().filter_map(|(at, name, _)| {
            Some(Sample::new(page.bytes_of(derived.vms.get(at)?.shared_frames?)).of(name))
        });
        families.write(&family::VM_SHARED, shared)?;
        let highest = self
            .measured()
            .filter_map(|(at, name, _)| Some(Sample::new(derived.vms.get(at)?.highest_rate?).of(name)));
        families.write(&family::VM_HIGHEST_RATE, highest)
    }

    fn write_pairs(&self, families: &mut Families<'_>) -> fmt::Result {
        let matrix = self.fold.view.as_ref().and_then(|view| view.round.matrix.value());
        let pairs = self.derived.as_ref().and_then(|derived| derived.pairs.as_ref());
        let (Some(matrix), Some(pairs)) = (matrix, pairs) else { return Ok(()) };
        let left_out = [
            ("pair_threshold", pairs.below_threshold),
            ("max_pairs", pairs.beyond_most),
            ("max_vms", pairs.beyond_vms),
        ];
        let left_out = left_out.map(|(limit, count)| Sample::new(count).of(limit));
        families.write(&family::PAIRS_LEFT_OUT, left_out)?;
        let name = |at: usize| self.labels.get(&matrix.vms()[at].name);
        // In the order of their names, so that a pair is one series whatever the order of the VMs.
        let names = |one: usize, other: usize| {
            let (one, other) = (name(one)?, name(other)?);
            Some(if one <= other { (one, other) } else { (other, one) })
        };
        let rates = pairs.chosen.iter().filter_map(|pair| {
            let (one, other) = names(pair.one, pair.other)?;
            Some(Sample::new(pair.rate).of(one).of(other))
        });
        families.write(&family::PAIR_RATE, rates)?;
        let frames = pairs.chosen.iter().filter_map(|pair| {
            let (one, other) = names(pair.one, pair.other)?;
            let frames = matrix.shared_frames(pair.one, pair.other)?;
            Some(Sample::new(matrix.page_size().bytes_of(frames)).of(one).of(other))
        });
        families.write(&family::PAIR_SHARED, frames)
    }

    fn write_ksm(&self, families: &mut Families<'_>) -> fmt::Result {
        let available = self.facts.host_available_bytes;
        families.write(&family::HOST_FREE, available.map(Sample::new))?;
        let ksm = self.fold.view.as_ref().and_then(|view| view.round.ksm.value());
        let Some(ksm) = ksm else { return Ok(()) };
        families.write(&family::KSM_SCANS, [Sample::new(ksm.full_scans)])?;
        let bytes = |pages: u64| Sample::new(ksm.page_size.bytes_of(pages));
        families.write(&family::KSM_FRAMES, [bytes(ksm.pages_shared)])?;
        families.write(&family::KSM_SAVED, [bytes(ksm.pages_sharing)])?;
        // Kernels before 6.6 do not count them (mm/ksm.c, Linux 6.6), so what is at risk is not known there.
        let zero_pages = ksm.ksm_zero_pages.and_then(|pages| u64::try_from(pages).ok());
        families.write(&family::KSM_ZERO, zero_pages.map(bytes))?;
        // A page on the zero page needs a frame of its own when it is written to, like one on a merged frame.
        let at_risk = zero_pages.map(|pages| bytes(ksm.pages_sharing.saturating_add(pages)));
        families.write(&family::AT_RISK, at_risk)
    }
}
