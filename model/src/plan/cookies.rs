//! Core scheduling: threads with different cookies never run on one core at the same time
//! (Documentation/admin-guide/hw-vuln/core-scheduling.rst, Linux 6.18). A core with vCPUs of two cookies counts as one
//! CPU, since one of its threads idles.

use std::collections::BTreeMap;

use super::PlanInput;
use crate::topology::CacheDomain;

/// How much of the CPUs vCPUs of several cookies can use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usable {
    /// Different cookies, no cookie being one of them.
    cookies: usize,
    /// The part of the CPUs that run a vCPU if each cookie has cores of its own, from 0 to 1.
    part: f64,
}

impl Usable {
    /// `None` if no CPU is lost: one cookie only, cookies that are not known, cores of one thread, or vCPUs that fill
    /// the cores of their cookie.
    pub(super) fn of(input: &PlanInput<'_>) -> Option<Self> {
        let threads =
            input.topology.cores().iter().map(|core| core.len() as u64).max().filter(|most| *most > 1)?;
        let mut vcpus = BTreeMap::<u64, u64>::new();
        for vm in 0..input.matrix.len() {
            let known = input.vms.get(vm).map_or(&[][..], |vm| &vm.core_cookies);
            for position in 0..input.vcpus(vm) as usize {
                *vcpus.entry(*known.get(position)?).or_default() += 1;
            }
        }
        let (cookies, all): (usize, u64) = (vcpus.len(), vcpus.values().sum());
        let on_own_cores: u64 = vcpus.values().map(|of| of.div_ceil(threads) * threads).sum();
        (cookies > 1 && all < on_own_cores).then(|| Self { cookies, part: all as f64 / on_own_cores as f64 })
    }

    /// CPUs of a domain that count.
    pub(super) fn cpus(self, input: &PlanInput<'_>, domain: &CacheDomain) -> u64 {
        // Rounding tolerance, as for limits by CPU.
        let usable = (domain.cpus.len() as f64 * self.part + 1e-9).floor() as u64;
        usable.max(input.topology.cores_in(domain) as u64)
    }

    /// One sentence.
    pub(super) fn reason(self) -> String {
        format!(
            "core scheduling keeps vCPUs of different cookies ({}) off one core at a time: {:.0} % of the CPUs count",
            self.cookies,
            self.part * 100.0
        )
    }
}
