//! Domains as the VMs of the loop.

use std::collections::BTreeMap;

use huddle_model::cpuset::CpuSet;
use huddle_model::vm::{GuestRegion, MemoryKind, Vcpu, Vm, VmmKind};

use super::toolstack::{AffinityKind, Domain, DomainKind, Machine, PAGE_BYTES, Toolstack, XenError};
use huddle_host::discover::Discovery;
use huddle_host::stages::{StageError, VmSource};

/// Number of the control domain, in which huddle runs.
pub const CONTROL_DOMAIN: u16 = 0;

/// Selection of domains.
#[derive(Clone, Debug, Default)]
pub struct DomainChoice {
    /// The affinity that is read and set.
    pub affinity: AffinityKind,
    /// Names of domains to leave alone: not measured, pinned or merged. The control domain always is.
    pub exclude: Vec<String>,
}

impl DomainChoice {
    /// Whether a domain is one of the VMs.
    pub fn takes(&self, domain: &Domain) -> bool {
        domain.domain.id != CONTROL_DOMAIN && !domain.is_ending && !self.exclude.contains(&domain.name)
    }
}

/// The domains of this host.
pub struct XenVms {
    /// Lists the domains.
    pub toolstack: Box<dyn Toolstack>,
    /// Selects among them.
    pub choice: DomainChoice,
}

impl XenVms {
    /// The selected domains, in ascending number.
    ///
    /// # Errors
    /// When Xen does not answer.
    pub fn discover(&self) -> Result<Discovery, XenError> {
        Ok(discovery(&self.toolstack.domains()?, &self.toolstack.machine()?, &self.choice))
    }
}

impl VmSource for XenVms {
    fn discover(&mut self) -> Result<Discovery, StageError> {
        Ok(Self::discover(self)?)
    }
}

/// The VMs of these domains.
pub(super) fn discovery(domains: &[Domain], machine: &Machine, choice: &DomainChoice) -> Discovery {
    let chosen: Vec<&Domain> = domains.iter().filter(|domain| choice.takes(domain)).collect();
    let mut names = BTreeMap::<&str, usize>::new();
    for domain in &chosen {
        *names.entry(&domain.name).or_default() += 1;
    }
    let mut notes = Vec::new();
    let mut vms = Vec::new();
    for domain in chosen {
        let name = match names.get(domain.name.as_str()) {
            Some(1) | None => domain.name.clone(),
            Some(_) => {
                let name = format!("{}-{}", domain.name, domain.domain.id);
                notes.push(format!("several domains are called {:?}; one is {name:?} here", domain.name));
                name
            }
        };
        vms.push(vm(name, domain, machine, choice.affinity));
    }
    Discovery { vms, notes }
}

/// The VM of a domain, under a unique name, with its affinity of the given kind.
pub fn vm(name: String, found: &Domain, machine: &Machine, affinity: AffinityKind) -> Vm {
    let domain = found.domain.xen_id();
    let existing: CpuSet = machine.cpus.iter().map(|cpu| cpu.cpu).collect();
    let pool = machine.pools.iter().find(|pool| pool.id == found.pool);
    let allowed_cpus = pool.map_or(existing.clone(), |pool| pool.cpus.intersection(&existing));
    let vcpus = found.vcpus.iter().map(|vcpu| Vcpu {
        index: vcpu.index,
        id: found.domain.vcpu_id(vcpu.index),
        // No thread of this host runs it.
        process: None,
        thread_name: None,
        affinity: match affinity {
            AffinityKind::Hard => vcpu.hard.clone(),
            AffinityKind::Soft => vcpu.soft.clone(),
        },
        last_cpu: vcpu.cpu,
    });
    let end = found.pages * PAGE_BYTES as u64;
    Vm {
        name,
        id: domain.into(),
        uuid: Some(domain.uuid),
        vmm: match found.kind {
            Some(DomainKind::Pv) => VmmKind::XenPv,
            Some(DomainKind::Pvh) => VmmKind::XenPvh,
            Some(DomainKind::Hvm) => VmmKind::XenHvm,
            None => VmmKind::Xen,
        },
        vcpus: vcpus.collect(),
        memory: vec![GuestRegion { process: None, start: 0, end, kind: MemoryKind::Domain }],
        allowed_cpus,
        cannot_merge: cannot_merge(found),
    }
}

/// Xen's memory sharing works only with hardware assisted paging (xen/arch/x86/mm/mem_sharing.c, Xen 4.17:
/// `hap_enabled`).
fn cannot_merge(domain: &Domain) -> Vec<String> {
    let is_pv = domain.kind == Some(DomainKind::Pv);
    let why = "its memory cannot be merged: Xen's memory sharing needs a domain with hardware assisted paging; \
               start it with type=\"pvh\" or \"hvm\"";
    is_pv.then(|| why.to_owned()).into_iter().collect()
}
