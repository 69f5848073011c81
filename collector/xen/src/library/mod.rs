//! Xen's own C libraries, loaded at run time. Nothing of Xen is needed to build huddle, and only the one
//! version whose structures are known ([`layouts`]) is used: the libraries have it in their names, and the
//! running Xen is checked, too.

mod control;
mod layouts;
mod memory;
mod monitor;
mod names;
mod sharing;
mod symbols;

pub use memory::LibraryMemory;
pub use monitor::LibraryMonitor;
pub use sharing::LibrarySharing;

use huddle_model::cpuset::CpuSet;

use self::control::Xen;
use self::layouts::{
    DOMINF_DYING, DOMINF_HVM_GUEST, DOMINF_PAUSED, DOMINF_SHUTDOWN, DomainInfo, EMU_PIC, INVALID_ID,
    INVALID_MAX_VCPU_ID,
};
use self::names::Names;
use super::toolstack::{
    AffinityKind, Domain, DomainKind, DomainRef, DomainVcpu, Machine, PhysicalCpu, Toolstack, XenError,
};
use huddle_host::HostRoot;

/// Lists and pins through libxenctrl; names come from xenstore.
pub struct LibraryToolstack {
    xen: Xen,
    names: Names,
}

impl LibraryToolstack {
    /// # Errors
    /// The libraries of the known version are missing, Xen is of another version, or access is denied.
    pub fn open(root: &HostRoot) -> Result<Self, XenError> {
        Ok(Self { xen: Xen::open(root)?, names: Names::new(root) })
    }

    fn domain(&self, info: &DomainInfo) -> Result<Domain, XenError> {
        let domain = DomainRef { id: info.domain, uuid: info.handle };
        let last = if info.max_vcpu_id == INVALID_MAX_VCPU_ID { None } else { Some(info.max_vcpu_id) };
        let mut vcpus = Vec::new();
        for index in last.map_or(0..0, |last| 0..last + 1) {
            vcpus.extend(self.vcpu(domain, index)?);
        }
        Ok(Domain {
            domain,
            name: self.names.of(domain),
            kind: Some(kind(info)),
            pool: info.cpupool,
            is_paused: info.flags & DOMINF_PAUSED != 0,
            is_ending: info.flags & (DOMINF_DYING | DOMINF_SHUTDOWN) != 0,
            pages: info.tot_pages,
            shared_pages: Some(info.shr_pages),
            vcpus,
        })
    }

    /// `None` for one that is offline or was never created.
    fn vcpu(&self, domain: DomainRef, index: u32) -> Result<Option<DomainVcpu>, XenError> {
        let info = match self.xen.vcpu(domain.id, index) {
            Ok(info) if info.online == 0 => return Ok(None),
            Ok(info) => info,
            Err(error) => match self.xen.why(domain, error) {
                // Numbers of vCPUs may have gaps.
                XenError::Call { errno: nix::errno::Errno::ESRCH, .. } => return Ok(None),
                error => return Err(error),
            },
        };
        Ok(Some(DomainVcpu {
            index,
            cpu: (info.cpu != u32::MAX).then_some(info.cpu),
            cpu_time_ns: info.cpu_time,
            hard: self.xen.affinity(domain.id, index, AffinityKind::Hard)?,
            soft: self.xen.affinity(domain.id, index, AffinityKind::Soft)?,
        }))
    }
}

impl Toolstack for LibraryToolstack {
    fn name(&self) -> String {
        format!("libxenctrl {}", symbols::KNOWN_VERSION)
    }

    fn domains(&self) -> Result<Vec<Domain>, XenError> {
        let mut domains = Vec::new();
        let infos = self.xen.domains()?;
        self.names.keep(infos.iter().map(|info| DomainRef { id: info.domain, uuid: info.handle }));
        for info in infos {
            match self.domain(&info) {
                Ok(domain) => domains.push(domain),
                Err(error) => {
                    let domain = DomainRef { id: info.domain, uuid: info.handle };
                    match self.xen.why(domain, error) {
                        XenError::Gone(_) => {}
                        // A domain that is ending has no vCPUs any more.
                        _ if info.flags & DOMINF_DYING != 0 => {}
                        error => return Err(error),
                    }
                }
            }
        }
        Ok(domains)
    }

    fn machine(&self) -> Result<Machine, XenError> {
        let known = |id: u32| (id != INVALID_ID).then_some(id);
        let cpus = (0..).zip(self.xen.cpus()?).filter_map(|(cpu, of)| {
            Some(PhysicalCpu { cpu, core: known(of.core)?, socket: known(of.socket)?, node: known(of.node) })
        });
        Ok(Machine { cpus: cpus.collect(), pools: self.xen.pools()? })
    }

    fn affinity(&self, domain: DomainRef, vcpu: u32, kind: AffinityKind) -> Result<CpuSet, XenError> {
        self.xen.domain(domain)?;
        self.xen.affinity(domain.id, vcpu, kind).map_err(|error| self.xen.why(domain, error))
    }

    fn set_affinity(
        &self,
        domain: DomainRef,
        vcpu: u32,
        kind: AffinityKind,
        cpus: &CpuSet,
    ) -> Result<(), XenError> {
        self.xen.domain(domain)?;
        self.xen.set_affinity(domain.id, vcpu, kind, cpus).map_err(|error| self.xen.why(domain, error))?;
        // Its number may have been reused: then this domain was not changed.
        self.xen.domain(domain).map(|_| ())
    }
}

fn kind(info: &DomainInfo) -> DomainKind {
    match (info.flags & DOMINF_HVM_GUEST != 0, info.emulation_flags & EMU_PIC != 0) {
        (false, _) => DomainKind::Pv,
        (true, true) => DomainKind::Hvm,
        (true, false) => DomainKind::Pvh,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_a_domain_is_derived_from_its_flags() {
        let of =
            |flags, emulation_flags| kind(&DomainInfo { flags, emulation_flags, ..DomainInfo::default() });
        assert_eq!(of(0, 0), DomainKind::Pv);
        // As set by 4.17's libxl for PVH (the LAPIC) and HVM (all but vPCI).
        assert_eq!(of(DOMINF_HVM_GUEST, 1), DomainKind::Pvh);
        assert_eq!(of(DOMINF_HVM_GUEST, 0x3ff), DomainKind::Hvm);
    }

    #[test]
    fn without_xen_the_error_names_what_is_missing() {
        let error = LibraryToolstack::open(&HostRoot::real()).err();
        // The libraries may be installed, but the hypervisor is not.
        let text = error.map(|error| error.to_string()).unwrap_or_default();
        assert!(text.contains("libxenctrl.so.4.17") || text.contains("xen/privcmd"), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }
}
