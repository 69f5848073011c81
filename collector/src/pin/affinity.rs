//! The affinity of one vCPU, and whether the vCPU is still the one that was meant.

use std::cell::{OnceCell, RefCell};

use huddle_model::cpuset::CpuSet;
use huddle_model::id::{TaskId, VcpuId, XenDomainId};
use nix::errno::Errno;
use nix::sched::{sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::pinner::PinError;
use crate::host::{HostError, HostRoot, task};
use crate::xen;
use crate::xen::toolstack::{AffinityKind, DomainRef, Toolstack, XenError};

/// Who schedules a vCPU, and so keeps its affinity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheduler {
    /// The host's kernel: the vCPU is a thread.
    #[default]
    Host,
    /// Xen: the vCPU is one of a domain, and this one of its two affinities is meant.
    Xen(AffinityKind),
}

/// A vCPU whose affinity is read or set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VcpuRef {
    /// A thread, which the host's kernel schedules.
    Thread {
        /// Its process.
        process: TaskId,
        /// Itself.
        thread: TaskId,
    },
    /// A vCPU of a domain, which Xen schedules.
    Xen {
        /// The domain.
        domain: XenDomainId,
        /// Its number within it.
        vcpu: u32,
        /// Which of its two affinities is meant.
        affinity: AffinityKind,
    },
}

impl VcpuRef {
    /// A vCPU as its scheduler knows it; `None` where `scheduler` does not schedule such vCPUs, or the process
    /// of a thread is not known.
    pub(super) fn of(scheduler: Scheduler, id: VcpuId, process: Option<TaskId>) -> Option<Self> {
        match (scheduler, id) {
            (Scheduler::Host, VcpuId::Thread(thread)) => Some(Self::Thread { process: process?, thread }),
            (Scheduler::Xen(affinity), VcpuId::Xen { domain, vcpu }) => {
                Some(Self::Xen { domain, vcpu, affinity })
            }
            _ => None,
        }
    }
}

/// What the schedulers of a host are asked, so that tests can stand in for them.
pub(super) trait Affinities: Send {
    /// The domains of Xen there are now; none where there is no Xen.
    fn domains(&self) -> Result<Vec<XenDomainId>, PinError> {
        Ok(Vec::new())
    }
    /// Looks at both identities; an affinity is only ever set where this is [`Presence::Here`].
    fn presence(&self, vcpu: VcpuRef) -> Result<Presence, PinError>;
    /// CPUs the vCPU may run on; of a thread, those of them that are online.
    fn get(&self, vcpu: VcpuRef) -> Result<CpuSet, Errno>;
    /// Asks for `cpus`; the kernel narrows them silently to the thread's cpuset
    /// (sched_setaffinity(2)).
    fn set(&self, vcpu: VcpuRef, cpus: &CpuSet) -> Result<(), Errno>;
}

/// The running kernel, and the Xen beneath it once a domain is asked for.
pub(super) struct Schedulers {
    root: HostRoot,
    xen: OnceCell<Box<dyn Toolstack>>,
    /// The domains as they were listed last: the calls about one look at its UUID themselves, and a list of all
    /// for each vCPU of each would take minutes on a large host.
    domains: RefCell<Vec<DomainRef>>,
}

impl Schedulers {
    pub(super) fn new(root: HostRoot) -> Self {
        Self { root, xen: OnceCell::new(), domains: RefCell::default() }
    }

    /// With a Xen that is open already.
    pub(super) fn on_xen(root: HostRoot, toolstack: Box<dyn Toolstack>) -> Self {
        Self { xen: OnceCell::from(toolstack), ..Self::new(root) }
    }

    fn xen(&self) -> Result<&dyn Toolstack, XenError> {
        if let Some(toolstack) = self.xen.get() {
            return Ok(&**toolstack);
        }
        let toolstack = xen::open(&self.root)?;
        Ok(&**self.xen.get_or_init(|| toolstack))
    }

    /// The domain that is meant; listed anew where it is not known.
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

    /// Whom to ask of a domain's vCPUs, and by which name of the domain.
    fn on_domain(&self, wanted: XenDomainId) -> Result<(&dyn Toolstack, DomainRef), XenError> {
        let domain = self.domain(wanted)?.ok_or_else(|| XenError::gone(wanted))?;
        Ok((self.xen()?, domain))
    }
}

/// What Xen refused, as the kernel would; what is no refusal is told in the log.
fn errno(error: XenError) -> Errno {
    match &error {
        XenError::Gone(_) => Errno::ESRCH,
        other => other.errno().unwrap_or_else(|| {
            tracing::warn!("{error}");
            Errno::EIO
        }),
    }
}

impl Affinities for Schedulers {
    fn domains(&self) -> Result<Vec<XenDomainId>, PinError> {
        Ok(self.xen()?.domains()?.into_iter().map(|found| found.domain.xen_id()).collect())
    }

    fn presence(&self, of: VcpuRef) -> Result<Presence, PinError> {
        let (domain, vcpu, affinity) = match of {
            VcpuRef::Thread { process, thread } => return Ok(presence(&self.root, process, thread)?),
            VcpuRef::Xen { domain, vcpu, affinity } => (domain, vcpu, affinity),
        };
        let asked = self.on_domain(domain).and_then(|(xen, found)| xen.affinity(found, vcpu, affinity));
        match asked {
            Ok(_) => Ok(Presence::Here),
            Err(XenError::Gone(_)) => {
                let taken =
                    |of: &DomainRef| of.xen_id().domid == domain.domid && !of.xen_id().matches(&domain);
                let is_taken = self.domains.borrow().iter().any(taken);
                Ok(if is_taken { Presence::Reused } else { Presence::Gone })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn get(&self, of: VcpuRef) -> Result<CpuSet, Errno> {
        match of {
            VcpuRef::Thread { thread, .. } => of_thread(thread.id),
            VcpuRef::Xen { domain, vcpu, affinity } => {
                let (xen, domain) = self.on_domain(domain).map_err(errno)?;
                xen.affinity(domain, vcpu, affinity).map_err(errno)
            }
        }
    }

    fn set(&self, of: VcpuRef, cpus: &CpuSet) -> Result<(), Errno> {
        match of {
            VcpuRef::Thread { thread, .. } => set_of_thread(thread.id, cpus),
            VcpuRef::Xen { domain, vcpu, affinity } => {
                let (xen, domain) = self.on_domain(domain).map_err(errno)?;
                xen.set_affinity(domain, vcpu, affinity, cpus).map_err(errno)
            }
        }
    }
}

fn of_thread(tid: i32) -> Result<CpuSet, Errno> {
    let set = sched_getaffinity(Pid::from_raw(tid))?;
    // `is_set` only fails beyond `count`.
    Ok((0..nix::sched::CpuSet::count())
        .filter(|cpu| set.is_set(*cpu) == Ok(true))
        .filter_map(|cpu| u32::try_from(cpu).ok())
        .collect())
}

fn set_of_thread(tid: i32, cpus: &CpuSet) -> Result<(), Errno> {
    let mut set = nix::sched::CpuSet::new();
    for cpu in cpus.iter() {
        set.set(cpu as usize)?;
    }
    sched_setaffinity(Pid::from_raw(tid), &set)
}

/// Whether a vCPU is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// The very thread, in the very process; the very vCPU.
    Here,
    /// It has ended.
    Gone,
    /// Its number, or that of its process or domain, belongs to another one now.
    Reused,
}

impl Presence {
    /// Why nothing is done to it.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Here => "is there",
            Self::Gone => "is gone",
            Self::Reused => "is gone and its number belongs to another task now",
        }
    }
}

/// Whether a thread is there, in its process.
pub(super) fn presence(root: &HostRoot, process: TaskId, thread: TaskId) -> Result<Presence, HostError> {
    for (stat, wanted) in
        [(task::process(root, process.id), process), (task::thread(root, process.id, thread.id), thread)]
    {
        match stat {
            Ok(stat) if stat.id != wanted => return Ok(Presence::Reused),
            // A process whose first thread has ended is a zombie to `stat` while others still run.
            Ok(stat) if stat.is_dead() && wanted == thread => return Ok(Presence::Gone),
            Ok(_) => {}
            Err(error) if error.is_gone() => return Ok(Presence::Gone),
            Err(error) => return Err(error),
        }
    }
    Ok(Presence::Here)
}

/// How messages name a vCPU.
pub(super) fn describe(vm: &str, vcpu: u32, of: VcpuRef) -> String {
    match of {
        VcpuRef::Thread { thread, .. } => format!("vCPU {vcpu} of VM {vm} (thread {thread})"),
        VcpuRef::Xen { domain, .. } => format!("vCPU {vcpu} of VM {vm} (Xen domain {domain})"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::xen::toolstack::{Domain, Machine};

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
        let schedulers = Schedulers::on_xen(HostRoot::real(), Box::new(xen.clone()));
        let half: CpuSet = "0-1".parse().unwrap();
        for of in &domains {
            let of = vcpu(*of, 0);
            assert_eq!(schedulers.presence(of).unwrap(), Presence::Here);
            assert_eq!(schedulers.get(of), Ok(all.clone()));
            assert_eq!(schedulers.set(of, &half), Ok(()));
            assert_eq!(schedulers.get(of), Ok(half.clone()));
        }
        assert_eq!(xen.0.lock().unwrap().listed, 1);
    }

    #[test]
    fn a_domain_that_ended_is_gone_and_its_number_may_be_anothers() {
        let xen = FakeToolstack::default();
        let all: CpuSet = "0-3".parse().unwrap();
        xen.0.lock().unwrap().affinities.insert(domain(5, 1), all.clone());
        let schedulers = Schedulers::on_xen(HostRoot::real(), Box::new(xen.clone()));
        assert_eq!(schedulers.presence(vcpu(domain(5, 1), 0)).unwrap(), Presence::Here);
        assert_eq!(schedulers.presence(vcpu(domain(5, 1), 1)).unwrap(), Presence::Gone, "it has one vCPU");
        assert_eq!(schedulers.presence(vcpu(domain(5, 2), 0)).unwrap(), Presence::Reused);
        assert_eq!(schedulers.presence(vcpu(domain(6, 1), 0)).unwrap(), Presence::Gone);
        assert_eq!(schedulers.set(vcpu(domain(5, 2), 0), &all), Err(Errno::ESRCH));
        xen.0.lock().unwrap().affinities.clear();
        assert_eq!(schedulers.presence(vcpu(domain(5, 1), 0)).unwrap(), Presence::Gone);
    }
}
