//! Domains as the VMs of the loop.

use std::collections::BTreeSet;

use huddle_model::cpuset::CpuSet;
use huddle_model::names::Names;
use huddle_model::selection::{Facts, NotTaken, Selection};
use huddle_model::vm::{GuestRegion, MemoryKind, Vcpu, Vm, VmmKind};

use super::toolstack::{AffinityKind, Domain, DomainKind, Machine, PAGE_BYTES, Toolstack, XenError};
use huddle_host::discover::{Discovery, LeftOut};
use huddle_host::stages::{StageError, VmSource};

/// Number of the control domain, in which huddle runs.
pub const CONTROL_DOMAIN: u16 = 0;

/// Selection of domains.
#[derive(Clone, Debug, Default)]
pub struct DomainChoice {
    /// The affinity that is read and set.
    pub affinity: AffinityKind,
    /// Which are left alone: not measured, not pinned, not merged. The control domain always is. Xen itself says
    /// which domains there are, so all others are VMs unless they are excluded.
    pub selection: Selection,
}

impl DomainChoice {
    /// Whether a domain is one of the VMs.
    pub fn takes(&self, domain: &Domain) -> bool {
        is_guest(domain) && judge(&self.selection, domain).is_ok()
    }
}

/// Whether it could be one: it runs, and is not the one that huddle runs in.
fn is_guest(domain: &Domain) -> bool {
    domain.domain.id != CONTROL_DOMAIN && !domain.is_ending
}

/// Whether a domain that runs is one of the VMs.
///
/// # Errors
/// Why it is not.
pub fn judge(selection: &Selection, domain: &Domain) -> Result<(), NotTaken> {
    selection.judge(&Facts {
        name: &domain.name,
        owner: None,
        uids: &[],
        cgroups: &[],
        uuid: Some(domain.domain.xen_id().uuid),
        holds_vm: true,
    })
}

/// The domains of this host.
pub struct XenVms {
    /// Lists the domains.
    pub toolstack: Box<dyn Toolstack>,
    /// Selects among them.
    pub choice: DomainChoice,
    /// The names that they have here.
    names: Names,
}

impl XenVms {
    /// The domains that `toolstack` lists, as far as they are chosen.
    pub fn new(toolstack: Box<dyn Toolstack>, choice: DomainChoice) -> Self {
        Self { toolstack, choice, names: Names::default() }
    }

    /// All domains there are now, in ascending number.
    ///
    /// # Errors
    /// When Xen does not answer.
    pub fn discover(&mut self) -> Result<Discovery, XenError> {
        let (domains, machine) = (self.toolstack.domains()?, self.toolstack.machine()?);
        Ok(discovery(&domains, &machine, &self.choice, &mut self.names))
    }
}

impl VmSource for XenVms {
    fn discover(&mut self) -> Result<Discovery, StageError> {
        Ok(Self::discover(self)?)
    }
}

/// The VMs that these domains are.
pub(super) fn discovery(
    domains: &[Domain],
    machine: &Machine,
    choice: &DomainChoice,
    names: &mut Names,
) -> Discovery {
    let mut found = Discovery::default();
    let mut taken: Vec<&Domain> = Vec::new();
    for domain in domains.iter().filter(|domain| is_guest(domain)) {
        match judge(&choice.selection, domain) {
            Ok(()) => taken.push(domain),
            Err(why) => {
                let Vm { id, uuid, vmm, .. } = vm(String::new(), domain, machine, choice.affinity);
                let name = domain.name.clone();
                found.left_out.push(LeftOut { name, id, vmm, owner: None, uuid, reason: why.to_string() });
            }
        }
    }
    let wanted: Vec<_> =
        taken.iter().map(|domain| (domain.domain.xen_id().into(), domain.name.clone())).collect();
    for (domain, given) in taken.into_iter().zip(names.give(&wanted, &BTreeSet::new())) {
        if given.is_renamed {
            found
                .notes
                .push(format!("several domains are called {:?}; one is {:?} here", domain.name, given.name));
        }
        found.vms.push(vm(given.name, domain, machine, choice.affinity));
    }
    found
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
        limits: Default::default(),
    });
    let end = found.pages * PAGE_BYTES as u64;
    Vm {
        name,
        id: domain.into(),
        uuid: Some(domain.uuid),
        vmid: None,
        owner: None,
        vmm: match found.kind {
            Some(DomainKind::Pv) => VmmKind::XenPv,
            Some(DomainKind::Pvh) => VmmKind::XenPvh,
            Some(DomainKind::Hvm) => VmmKind::XenHvm,
            None => VmmKind::Xen,
        },
        vcpus: vcpus.collect(),
        memory: vec![GuestRegion { process: None, start: 0, end, kind: MemoryKind::Domain }],
        allowed_cpus,
        left_out: Vec::new(),
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

#[cfg(test)]
mod tests {
    use huddle_model::selection::VmPattern;

    use super::*;
    use crate::toolstack::DomainRef;

    fn domain(id: u16, name: &str) -> Domain {
        Domain {
            domain: DomainRef { id, uuid: [u8::try_from(id).unwrap(); 16] },
            name: name.into(),
            kind: Some(DomainKind::Pvh),
            pool: 0,
            is_paused: false,
            is_ending: false,
            pages: 1,
            shared_pages: None,
            vcpus: Vec::new(),
        }
    }

    fn names(found: &Discovery) -> Vec<&str> {
        found.vms.iter().map(|vm| vm.name.as_str()).collect()
    }

    #[test]
    fn the_bearer_of_a_name_keeps_it_and_the_excluded_are_left_out() {
        let machine = Machine { cpus: Vec::new(), pools: Vec::new() };
        let exclude =
            ["db*", "05050505-0505-0505-0505-050505050505"].map(|text| VmPattern::of_text(text).unwrap());
        let selection = Selection { exclude: exclude.to_vec(), ..Selection::default() };
        let choice = DomainChoice { selection, ..DomainChoice::default() };
        let mut given = Names::default();
        let first = [domain(0, "Domain-0"), domain(3, "web"), domain(4, "db-1"), domain(5, "uuid")];
        let found = discovery(&first, &machine, &choice, &mut given);
        assert_eq!(names(&found), ["web"]);
        let left: Vec<_> = found.left_out.iter().map(|left| (left.name.as_str(), left.id.number())).collect();
        assert_eq!(left, [("db-1", 4), ("uuid", 5)]);
        assert!(found.left_out[0].reason.contains("excluded by name \"db*\""), "{found:?}");
        assert!(first.iter().skip(1).map(|domain| choice.takes(domain)).eq([true, false, false]));

        let second = [domain(2, "web"), domain(3, "web")];
        let found = discovery(&second, &machine, &choice, &mut given);
        assert_eq!((names(&found), found.notes.len()), (vec!["web-2", "web"], 1));
        let ending = Domain { is_ending: true, ..domain(3, "web") };
        assert_eq!(names(&discovery(&[domain(2, "web"), ending], &machine, &choice, &mut given)), ["web-2"]);
    }
}
