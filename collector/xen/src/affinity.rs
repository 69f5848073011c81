//! Affinities of the vCPUs of domains, which Xen schedules.

use std::cell::{OnceCell, RefCell};

use huddle_host::HostRoot;
use huddle_host::pin::{Affinities, AffinityKind, PinError, Presence, VcpuRef};
use huddle_model::cpuset::CpuSet;
use huddle_model::id::XenDomainId;
use nix::errno::Errno;

use crate::toolstack::{DomainRef, Toolstack, XenError};

/// The vCPUs of domains. Xen is opened at the first request.
pub struct XenAffinities {
    root: HostRoot,
    xen: OnceCell<Box<dyn Toolstack>>,
    /// The domains as last listed: calls about one domain check its UUID themselves, and listing all domains
    /// for each vCPU would take minutes on a large host.
    domains: RefCell<Vec<DomainRef>>,
}

impl XenAffinities {
    /// On the Xen below this host.
    pub fn new(root: HostRoot) -> Self {
        Self { root, xen: OnceCell::new(), domains: RefCell::default() }
    }

    /// With an already open Xen.
    pub fn of(root: HostRoot, toolstack: Box<dyn Toolstack>) -> Self {
        Self { xen: OnceCell::from(toolstack), ..Self::new(root) }
    }

    fn xen(&self) -> Result<&dyn Toolstack, XenError> {
        if let Some(toolstack) = self.xen.get() {
            return Ok(&**toolstack);
        }
        let toolstack = crate::open(&self.root)?;
        Ok(&**self.xen.get_or_init(|| toolstack))
    }

    /// The domain of this id; domains are listed again if it is unknown.
    fn domain(&self, wanted: XenDomainId) -> Result<Option<DomainRef>, XenError> {
        let known = |domains: &[DomainRef]| domains.iter().find(|of| of.xen_id().matches(&wanted)).copied();
        if let Some(domain) = known(&self.domains.borrow()) {
            return Ok(Some(domain));
        }
        let listed: Vec<DomainRef> = self.xen()?.domains()?.into_iter().map(|of| of.domain).collect();
        let domain = known(&listed);
        *self.domains.borrow_mut() = listed;
        Ok(domain)
    }

    /// The toolstack, and the domain as it identifies it.
    fn on_domain(&self, wanted: XenDomainId) -> Result<(&dyn Toolstack, DomainRef), XenError> {
        let domain = self.domain(wanted)?.ok_or_else(|| XenError::gone(wanted))?;
        Ok((self.xen()?, domain))
    }
}

/// Xen's refusal as an error number of the kernel; other errors are logged.
fn errno(error: XenError) -> Errno {
    match &error {
        XenError::Gone(_) => Errno::ESRCH,
        other => other.errno().unwrap_or_else(|| {
            tracing::warn!("{error}");
            Errno::EIO
        }),
    }
}

impl Affinities for XenAffinities {
    fn domains(&self) -> Result<Vec<XenDomainId>, PinError> {
        let listed = self.xen().and_then(|xen| xen.domains());
        let listed = listed.map_err(|error| PinError::Hypervisor(Box::new(error)))?;
        Ok(listed.into_iter().map(|found| found.domain.xen_id()).collect())
    }

    fn presence(&self, of: VcpuRef) -> Result<Presence, PinError> {
        let Some((domain, vcpu, affinity)) = on_xen(of) else { return Ok(Presence::Gone) };
        let asked = self.on_domain(domain).and_then(|(xen, found)| xen.affinity(found, vcpu, affinity));
        match asked {
            Ok(_) => Ok(Presence::Here),
            Err(XenError::Gone(_)) => {
                let same_number =
                    |of: &DomainRef| of.xen_id().domid == domain.domid && !of.xen_id().matches(&domain);
                let is_reused = self.domains.borrow().iter().any(same_number);
                Ok(if is_reused { Presence::Reused } else { Presence::Gone })
            }
            Err(error) => Err(PinError::Hypervisor(Box::new(error))),
        }
    }

    fn get(&self, of: VcpuRef) -> Result<CpuSet, Errno> {
        let (domain, vcpu, affinity) = on_xen(of).ok_or(Errno::ESRCH)?;
        let (xen, domain) = self.on_domain(domain).map_err(errno)?;
        xen.affinity(domain, vcpu, affinity).map_err(errno)
    }

    fn set(&self, of: VcpuRef, cpus: &CpuSet) -> Result<(), Errno> {
        let (domain, vcpu, affinity) = on_xen(of).ok_or(Errno::ESRCH)?;
        let (xen, domain) = self.on_domain(domain).map_err(errno)?;
        xen.set_affinity(domain, vcpu, affinity, cpus).map_err(errno)
    }
}

/// The vCPU of a domain; threads of the host never get here.
fn on_xen(of: VcpuRef) -> Option<(XenDomainId, u32, AffinityKind)> {
    match of {
        VcpuRef::Xen { domain, vcpu, affinity } => Some((domain, vcpu, affinity)),
        VcpuRef::Thread { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::toolstack::{Domain, Machine};

    /// Domains with one vCPU each, and how often they were listed.
    #[derive(Default)]
    struct Made {
        affinities: BTreeMap<DomainRef, CpuSet>,
        listed: u32,
    }

    #[derive(Clone, Default)]
    struct FakeToolstack(Arc<Mutex<Made>>);

    impl Toolstack for FakeToolstack {
        fn name(&self) -> String {
            "made up".to_owned()
        }

        fn domains(&self) -> Result<Vec<Domain>, XenError> {
            let mut made = self.0.lock().unwrap();
            made.listed += 1;
            let domain = |of: &DomainRef| Domain {
                domain: *of,
                name: format!("d{}", of.id),
                kind: None,
                pool: 0,
                is_paused: false,
                is_ending: false,
                pages: 1,
                shared_pages: None,
                vcpus: Vec::new(),
            };
            Ok(made.affinities.keys().map(domain).collect())
        }

        fn machine(&self) -> Result<Machine, XenError> {
            Ok(Machine { cpus: Vec::new(), pools: Vec::new() })
        }

        fn affinity(&self, domain: DomainRef, vcpu: u32, _: AffinityKind) -> Result<CpuSet, XenError> {
            let made = self.0.lock().unwrap();
            let found = made.affinities.get(&domain).filter(|_| vcpu == 0);
            found.cloned().ok_or(XenError::Gone(domain.id))
        }

        fn set_affinity(
            &self,
            domain: DomainRef,
            vcpu: u32,
            _: AffinityKind,
            cpus: &CpuSet,
        ) -> Result<(), XenError> {
            let mut made = self.0.lock().unwrap();
            let found = made.affinities.get_mut(&domain).filter(|_| vcpu == 0);
            *found.ok_or(XenError::Gone(domain.id))? = cpus.clone();
            Ok(())
        }
    }

    fn domain(id: u16, uuid: u8) -> DomainRef {
        DomainRef { id, uuid: [uuid; 16] }
    }

    fn vcpu(of: DomainRef, index: u32) -> VcpuRef {
        VcpuRef::Xen { domain: of.xen_id(), vcpu: index, affinity: AffinityKind::Hard }
    }

    #[test]
    fn domains_are_listed_once_for_all_their_vcpus() {
        let xen = FakeToolstack::default();
        let all: CpuSet = "0-3".parse().unwrap();
        let domains: Vec<DomainRef> = (1..50).map(|id| domain(id, id as u8)).collect();
        xen.0.lock().unwrap().affinities = domains.iter().map(|of| (*of, all.clone())).collect();
        let affinities = XenAffinities::of(HostRoot::real(), Box::new(xen.clone()));
        let half: CpuSet = "0-1".parse().unwrap();
        for of in &domains {
            let of = vcpu(*of, 0);
            assert_eq!(affinities.presence(of).unwrap(), Presence::Here);
            assert_eq!(affinities.get(of), Ok(all.clone()));
            assert_eq!(affinities.set(of, &half), Ok(()));
            assert_eq!(affinities.get(of), Ok(half.clone()));
        }
        assert_eq!(xen.0.lock().unwrap().listed, 1);
    }

    #[test]
    fn an_ended_domain_is_gone_even_if_its_number_is_reused() {
        let xen = FakeToolstack::default();
        let all: CpuSet = "0-3".parse().unwrap();
        xen.0.lock().unwrap().affinities.insert(domain(5, 1), all.clone());
        let affinities = XenAffinities::of(HostRoot::real(), Box::new(xen.clone()));
        assert_eq!(affinities.presence(vcpu(domain(5, 1), 0)).unwrap(), Presence::Here);
        assert_eq!(affinities.presence(vcpu(domain(5, 1), 1)).unwrap(), Presence::Gone, "it has one vCPU");
        assert_eq!(affinities.presence(vcpu(domain(5, 2), 0)).unwrap(), Presence::Reused);
        assert_eq!(affinities.presence(vcpu(domain(6, 1), 0)).unwrap(), Presence::Gone);
        assert_eq!(affinities.set(vcpu(domain(5, 2), 0), &all), Err(Errno::ESRCH));
        xen.0.lock().unwrap().affinities.clear();
        assert_eq!(affinities.presence(vcpu(domain(5, 1), 0)).unwrap(), Presence::Gone);
    }
}
