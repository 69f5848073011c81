//! Expected misses of a placement, where working sets are known: an estimate, see [`crate::cache::estimate`].
//!
//! # What goes in
//! - **Working sets**: as configured, or else as the processor's monitoring has them, or else the frames that a VM shares
//!   and was seen to read ([`WorkingSetSource`]). Where one is unknown there is no estimate at all: a VM that counts for
//!   nothing would leave its room in the cache to others.
//! - **Even use**: a VM reads all of its working set equally often, and its frames are in the working set equally likely.
//!   Of a frame that several VMs map, the VM with the largest part of its frames in use uses it first: what two VMs use of
//!   common frames is what the one with the smaller part uses. Where reads are seen, frames that both read are in use.
//! - **Rates**: reads are in proportion to CPU time, or, where it is not known, to vCPUs.
//! - **Caches**: their size, and their ways and lines, or the usual ones.
//!
//! A VM with vCPUs in several domains reads all of its working set in each, as often as it has vCPUs there.

mod data;
mod inputs;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use super::{PlanInput, VcpuPlacement};
use crate::cache::estimate::{ReadCost, misses_per_thousand_reads};
use crate::topology::DomainId;

pub use inputs::{CacheBasis, RatesBy, SharedBy, WorkingSet, WorkingSetSource};

use inputs::Inputs;

/// Expected misses of a placement and of the current one. An estimate: nothing was counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedMisses {
    /// Misses of the last-level caches for a million reads of all VMs, under the placement.
    pub misses_per_million_reads: u32,
    /// The same where the vCPUs are now; `None` if that is unknown.
    pub now_misses_per_million_reads: Option<u32>,
    /// Why it is unknown, as one clause; `None` where it is not.
    pub now_unavailable: Option<String>,
    /// Misses under the placement for a thousand of now; `None` if those are unknown or none.
    pub misses_permille_of_now: Option<u32>,
    /// Mean time of a read under the placement for a thousand of now, if a miss costs `miss_over_hit` hits; `None` if that
    /// of now is unknown.
    pub read_time_permille_of_now: Option<u32>,
    /// The domains with placed vCPUs under the placement.
    pub domains: Vec<DomainMisses>,
    /// The same where the vCPUs are now; empty if that is unknown.
    pub now_domains: Vec<DomainMisses>,
    /// What the estimate was made from.
    pub basis: MissBasis,
}

/// Expected misses of a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainMisses {
    /// The domain.
    pub domain: DomainId,
    /// Misses for a million reads of all vCPUs there.
    pub misses_per_million_reads: u32,
    /// The VMs with vCPUs there, in the order of the matrix.
    pub vms: Vec<VmMisses>,
}

/// Expected misses of a VM in a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmMisses {
    /// Its name.
    pub vm: String,
    /// Misses for a million reads of its vCPUs there.
    pub misses_per_million_reads: u32,
}

/// What an estimate was made from, besides the assumption of even use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissBasis {
    /// The working set of each VM, in the order of the matrix.
    pub working_sets: Vec<WorkingSet>,
    /// What the proportions of reads were taken from.
    pub rates_by: RatesBy,
    /// Which shared frames are in use.
    pub shared_by: SharedBy,
    /// The caches of the domains.
    pub caches: Vec<CacheBasis>,
    /// What a miss was taken to cost, in hits ([`ReadCost::PAPER`]).
    // As plans of earlier builds have it.
    #[serde(alias = "miss_cost_hits")]
    pub miss_over_hit: u32,
}

/// Domains with their misses, and the mean over all reads, for a thousand reads.
type Estimated = (f64, Vec<DomainMisses>);

/// The cost of a miss in every plan.
const COST: ReadCost = ReadCost::PAPER;

impl PlanInput<'_> {
    /// Expected misses under a placement of all VMs, and under another one, or why that is unknown.
    ///
    /// # Errors
    /// What is not known, as one clause.
    pub fn expected_misses(
        &self,
        placement: &[VcpuPlacement],
        now: Result<&[VcpuPlacement], String>,
    ) -> Result<ExpectedMisses, String> {
        let inputs = Inputs::of(self)?;
        let (mean, domains) = self.estimated(&inputs, placement)?;
        // Most rounds move nothing.
        let now = now.and_then(|now| match now == placement {
            true => Ok((mean, domains.clone())),
            false => self.estimated(&inputs, now),
        });
        let now_mean = now.as_ref().ok().map(|(mean, _)| *mean);
        let part = |part: f64, whole: f64| (whole > 0.0).then(|| (part / whole * 1000.0).round() as u32);
        Ok(ExpectedMisses {
            misses_per_million_reads: per_million(mean),
            now_misses_per_million_reads: now_mean.map(per_million),
            now_unavailable: now.as_ref().err().cloned(),
            misses_permille_of_now: now_mean
                .filter(|now| per_million(*now) > 0)
                .and_then(|now| part(mean, now)),
            read_time_permille_of_now: now_mean
                .and_then(|now| part(COST.read_time(mean), COST.read_time(now))),
            domains,
            now_domains: now.map(|(_, domains)| domains).unwrap_or_default(),
            basis: inputs.into_basis(COST.miss_over_hit as u32),
        })
    }

    /// Expected misses under a placement of all VMs, and where their vCPUs are now.
    ///
    /// # Errors
    /// What is not known, as one clause.
    pub(super) fn expected_misses_from_now(
        &self,
        placement: &[VcpuPlacement],
    ) -> Result<ExpectedMisses, String> {
        let now = self.current_placement();
        self.expected_misses(placement, now.as_deref().map_err(Clone::clone))
    }

    /// The current placement of all vCPUs.
    ///
    /// # Errors
    /// The place of one is not known, as one clause.
    fn current_placement(&self) -> Result<Vec<VcpuPlacement>, String> {
        let mut entries = Vec::new();
        for vm in 0..self.matrix.len() {
            let current = self.vms.get(vm).map_or(&[][..], |vm| &vm.current);
            for position in 0..self.vcpus(vm) as usize {
                let Some(domain) = current.get(position).copied().flatten() else {
                    return Err(format!("vCPUs of {} are not bound to one domain now", self.name(vm)));
                };
                let (vm, vcpu) = (self.name(vm).to_owned(), self.number(vm, position));
                entries.push(VcpuPlacement { vm, vcpu, domain });
            }
        }
        Ok(entries)
    }

    fn estimated(&self, inputs: &Inputs, placement: &[VcpuPlacement]) -> Result<Estimated, String> {
        let parts = self.parts_in_domains(placement)?;
        let (mut domains, mut missed, mut reads) = (Vec::new(), 0.0, 0.0);
        for (domain, load) in self.topology.domains().iter().zip(data::loads(inputs, &parts)) {
            if load.vms.is_empty() {
                continue;
            }
            let shape = inputs.shape(domain.id)?;
            let found = misses_per_thousand_reads(shape, &load.readers, &load.data);
            let found = found.map_err(|error| format!("domain {}: {error}", domain.id))?;
            // What reads nothing misses nothing.
            let found: Vec<f64> = found.into_iter().map(|misses| misses.unwrap_or(0.0)).collect();
            let rates = || load.readers.iter().map(|reader| reader.rate);
            let of_domain: f64 = found.iter().zip(rates()).map(|(misses, rate)| misses * rate).sum();
            let rate: f64 = rates().sum();
            (missed, reads) = (missed + of_domain, reads + rate);
            let vms = load.vms.iter().zip(&found).map(|(vm, misses)| VmMisses {
                vm: self.name(*vm).to_owned(),
                misses_per_million_reads: per_million(*misses),
            });
            domains.push(DomainMisses {
                domain: domain.id,
                misses_per_million_reads: per_million(of_domain / rate),
                vms: vms.collect(),
            });
        }
        if reads > 0.0 { Ok((missed / reads, domains)) } else { Err("no VM is placed".to_owned()) }
    }

    /// Of each VM the part of its vCPUs that is in each domain.
    ///
    /// # Errors
    /// vCPUs without a place, or with one that there is not.
    fn parts_in_domains(&self, placement: &[VcpuPlacement]) -> Result<Vec<Vec<(usize, f64)>>, String> {
        let domains = self.topology.domains();
        let mut of_name: std::collections::BTreeMap<&str, Vec<usize>> = Default::default();
        for placed in placement {
            let domain = domains.binary_search_by_key(&placed.domain, |domain| domain.id);
            let domain = domain.map_err(|_| format!("domain {} is not of this host", placed.domain))?;
            of_name.entry(&placed.vm).or_default().push(domain);
        }
        let parts = (0..self.matrix.len()).map(|vm| {
            let vcpus = self.vcpus(vm) as usize;
            let places = of_name.get(self.name(vm)).map_or(&[][..], Vec::as_slice);
            if vcpus == 0 || places.len() < vcpus {
                return Err(format!("vCPUs of {} have no place", self.name(vm)));
            }
            let mut parts: Vec<(usize, f64)> = Vec::new();
            for domain in places {
                let part = 1.0 / places.len() as f64;
                match parts.iter_mut().find(|(known, _)| known == domain) {
                    Some((_, known)) => *known += part,
                    None => parts.push((*domain, part)),
                }
            }
            Ok(parts)
        });
        parts.collect()
    }
}

/// From misses for a thousand reads.
fn per_million(misses_per_thousand: f64) -> u32 {
    (misses_per_thousand * 1000.0).round() as u32
}

impl std::fmt::Display for ExpectedMisses {
    /// One sentence.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let per_thousand = |misses: u32| f64::from(misses) / 1000.0;
        write!(
            f,
            "estimated: {:.1} of a thousand reads miss the cache",
            per_thousand(self.misses_per_million_reads)
        )?;
        match (self.now_misses_per_million_reads, &self.now_unavailable) {
            (Some(now), _) => write!(f, ", {:.1} where the vCPUs are now", per_thousand(now))?,
            (None, Some(why)) => write!(f, "; how many do now is unknown: {why}")?,
            (None, None) => {}
        }
        if let Some(time) = self.read_time_permille_of_now {
            let time = f64::from(time) / 1000.0;
            write!(
                f,
                " (a read takes {time:.2} of its time now, if a miss costs {} hits)",
                self.basis.miss_over_hit
            )?;
        }
        write!(f, "; {}", self.basis)
    }
}
