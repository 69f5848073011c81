//! Affinities of the vCPUs of domains, which Xen schedules.

use std::cell::{OnceCell, RefCell};

use huddle_host::HostRoot;
use huddle_host::pin::{Affinities, AffinityKind, PinError, Presence, Scheduler, VcpuRef};
use huddle_model::cpuset::CpuSet;
use nix::errno::Errno;

use crate::toolstack::{DomainRef, Toolstack, XenError};

/// The vCPUs of domains. Xen is opened when the first is asked for.
pub struct XenAffinities {
    root: HostRoot,
    xen: OnceCell<Box<dyn Toolstack>>,
    /// The domains as they were listed last: the calls about one look at its UUID themselves, and a list of all
    /// for each vCPU of each would take minutes on a large host.
    domains: RefCell<Vec<DomainRef>>,
}

impl XenAffinities {
    /// Of the Xen beneath this host.
    pub fn new(root: HostRoot) -> Self {
        Self { root, xen: OnceCell::new(), domains: RefCell::default() }
    }

    /// With a Xen that is open already.
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

    /// The domain that is meant; listed again where it is not known.
    fn domain(&self, vcpu: VcpuRef) -> Result<Option<DomainRef>, XenError> {
        let known = |domains: &[DomainRef]| domains.iter().find(|of| of.task() == vcpu.process).copied();
        if let Some(domain) = known(&self.domains.borrow()) {
            return Ok(Some(domain));
        }
        let listed: Vec<DomainRef> = self.xen()?.domains()?.into_iter().map(|of| of.domain).collect();
        let domain = known(&listed);
        *self.domains.borrow_mut() = listed;
        Ok(domain)
    }

    /// What to ask Xen of a vCPU: its domain and its number in it.
    fn on_domain(&self, vcpu: VcpuRef) -> Result<(&dyn Toolstack, DomainRef, u32), XenError> {
        let gone = || XenError::Gone(u16::try_from(vcpu.process.id).unwrap_or(u16::MAX));
        let domain = self.domain(vcpu)?.ok_or_else(gone)?;
        Ok((self.xen()?, domain, u32::try_from(vcpu.thread.id).map_err(|_| gone())?))
    }
}

/// What Xen refused, as the kernel would; what is not a refusal is logged.
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
    fn presence(&self, vcpu: VcpuRef) -> Result<Presence, PinError> {
        let (kind, process) = (kind_of(vcpu), vcpu.process);
        let asked = self.on_domain(vcpu).and_then(|(xen, domain, index)| xen.affinity(domain, index, kind));
        match asked {
            Ok(_) => Ok(Presence::Here),
            Err(XenError::Gone(_)) => {
                let taken = |of: &DomainRef| i32::from(of.id) == process.id && of.task() != process;
                let is_taken = self.domains.borrow().iter().any(taken);
                Ok(if is_taken { Presence::Reused } else { Presence::Gone })
            }
            Err(error) => Err(PinError::Hypervisor(Box::new(error))),
        }
    }

    fn get(&self, vcpu: VcpuRef) -> Result<CpuSet, Errno> {
        let (xen, domain, index) = self.on_domain(vcpu).map_err(errno)?;
        xen.affinity(domain, index, kind_of(vcpu)).map_err(errno)
    }

    fn set(&self, vcpu: VcpuRef, cpus: &CpuSet) -> Result<(), Errno> {
        let (xen, domain, index) = self.on_domain(vcpu).map_err(errno)?;
        xen.set_affinity(domain, index, kind_of(vcpu), cpus).map_err(errno)
    }
}

/// Which affinity is meant; those of the host's threads are never asked for here.
fn kind_of(vcpu: VcpuRef) -> AffinityKind {
    match vcpu.scheduler {
        Scheduler::Xen(kind) => kind,
        Scheduler::Host => AffinityKind::default(),
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
        let scheduler = Scheduler::Xen(AffinityKind::Hard);
        VcpuRef { scheduler, process: of.task(), thread: of.vcpu_task(index) }
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
    fn a_domain_that_ended_is_gone_and_its_number_may_be_anothers() {
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
