//! What huddle asks of Xen, and what it answers. Tests stand in for it here.

use std::path::PathBuf;
use std::time::Duration;

pub use huddle_host::pin::AffinityKind;
use huddle_model::cpuset::CpuSet;
use huddle_model::id::{Uuid, VcpuId, XenDomainId};
use huddle_sharing::SharingError;
use nix::errno::Errno;

/// Bytes of a page of a domain.
pub const PAGE_BYTES: usize = 4096;

/// Pages that are mapped at once: large enough that the calls do not show, 4 MiB of address space.
pub const BATCH_PAGES: usize = 1024;

/// A domain that cannot be confused with a later one of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainRef {
    /// Its number (`domid_t`).
    pub id: u16,
    /// Its UUID (`xen_domain_handle_t`), which its toolstack chose.
    pub uuid: [u8; 16],
}

impl DomainRef {
    /// The domain as the model identifies it.
    pub fn xen_id(self) -> XenDomainId {
        // The handle has the UUID's bytes in their usual order (libxl_uuid.h, Xen 4.17).
        XenDomainId { domid: u32::from(self.id), uuid: Uuid::from_bytes(self.uuid) }
    }

    /// One of its vCPUs, likewise.
    pub fn vcpu_id(self, vcpu: u32) -> VcpuId {
        VcpuId::Xen { domain: self.xen_id(), vcpu }
    }
}

/// How a domain is virtualised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainKind {
    /// It knows machine frames and asks Xen to change its page tables.
    Pv,
    /// Hardware translates its addresses; no emulated devices.
    Pvh,
    /// Hardware translates its addresses; a device model emulates a PC.
    Hvm,
}

/// A domain as Xen lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Which.
    pub domain: DomainRef,
    /// Its name in xenstore; `Domain-ID` where it has none or it is not known.
    pub name: String,
    /// How it is virtualised; `None` where that is not known (`xl`).
    pub kind: Option<DomainKind>,
    /// Its cpupool.
    pub pool: u32,
    /// Whether its toolstack has paused it.
    pub is_paused: bool,
    /// Whether it is going, or has shut down: such a domain is not measured and not pinned.
    pub is_ending: bool,
    /// Pages it has now.
    pub pages: u64,
    /// Pages of them that memory sharing has merged with others; `None` where that is not known.
    pub shared_pages: Option<u64>,
    /// Its vCPUs that are online, in ascending number.
    pub vcpus: Vec<DomainVcpu>,
}

/// A vCPU of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainVcpu {
    /// Its number within the domain.
    pub index: u32,
    /// The physical CPU it runs on or ran on last.
    pub cpu: Option<u32>,
    /// CPU time it has used, in nanoseconds (`xl` reports tenths of a second).
    pub cpu_time_ns: u64,
    /// Physical CPUs it may run on, as they were set; restricted to those that exist.
    pub hard: CpuSet,
    /// Those of them it is preferred to run on, likewise.
    pub soft: CpuSet,
}

/// One physical CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhysicalCpu {
    /// Its number.
    pub cpu: u32,
    /// Its core, unique within the socket only.
    pub core: u32,
    /// Its socket.
    pub socket: u32,
    /// Its NUMA node, where it is known.
    pub node: Option<u32>,
}

/// A cpupool: its domains run on its CPUs only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuPool {
    /// Its number.
    pub id: u32,
    /// Its CPUs.
    pub cpus: CpuSet,
}

/// The machine beneath the domains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its online CPUs, ascending.
    pub cpus: Vec<PhysicalCpu>,
    /// Its cpupools; a CPU in none runs no domain.
    pub pools: Vec<CpuPool>,
}

/// Listing domains and setting affinities.
pub trait Toolstack: Send {
    /// What answers, for `doctor`, as "libxenctrl 4.17".
    fn name(&self) -> String;

    /// All domains, dom0 too, in ascending number. A domain that ends meanwhile is left out.
    ///
    /// # Errors
    /// When Xen does not answer.
    fn domains(&self) -> Result<Vec<Domain>, XenError>;

    /// CPUs and cpupools.
    ///
    /// # Errors
    /// When Xen does not answer.
    fn machine(&self) -> Result<Machine, XenError>;

    /// An affinity as it was set (not narrowed by the cpupool), restricted to CPUs that exist.
    ///
    /// # Errors
    /// [`XenError::Gone`] where another domain or none has the number, or the vCPU does not exist.
    fn affinity(&self, domain: DomainRef, vcpu: u32, kind: AffinityKind) -> Result<CpuSet, XenError>;

    /// Sets one of a vCPU's affinities and leaves the other.
    ///
    /// # Errors
    /// As [`Self::affinity`]; `EINVAL` where none of the CPUs is online in the domain's cpupool.
    fn set_affinity(
        &self,
        domain: DomainRef,
        vcpu: u32,
        kind: AffinityKind,
        cpus: &CpuSet,
    ) -> Result<(), XenError>;
}

/// What lists the domains for those who only look at them: [`Toolstack::domains`].
pub type ListDomains<'a> = dyn FnMut() -> Result<Vec<Domain>, XenError> + 'a;

/// Reading the pages of domains.
pub trait ForeignMemory: Send {
    /// The pages of a domain as numbers that [`Self::map`] takes: for a PV domain its machine frames, in the order
    /// of its own page numbers; for others guest frame numbers that may be holes. Without what is certainly none.
    ///
    /// # Errors
    /// [`XenError::Gone`] where the domain has ended.
    fn frames(&mut self, domain: &Domain) -> Result<Vec<u64>, XenError>;

    /// Maps up to [`BATCH_PAGES`] pages read-only, gives the content of those that can be mapped, by their
    /// position in `frames`, and unmaps them before it returns, whatever happens.
    ///
    /// # Errors
    /// When nothing can be mapped at all: [`XenError::Gone`] where the domain has ended.
    fn map(
        &mut self,
        domain: DomainRef,
        frames: &[u64],
        each: &mut dyn FnMut(usize, &[u8; PAGE_BYTES]),
    ) -> Result<(), XenError>;
}

/// What a processor's cache monitoring says of a domain on one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketReading {
    /// The socket.
    pub socket: u32,
    /// Bytes of its last-level cache that hold the domain's lines; `None` where that is not counted.
    pub llc_bytes: Option<u64>,
    /// Bytes moved so far between any memory and that cache; a counter that may wrap; `None` likewise.
    pub total_bytes: Option<u64>,
    /// Those of them from the socket's own node.
    pub local_bytes: Option<u64>,
}

/// The processor's cache monitoring (PSR: CMT and MBM), per domain and socket; Intel only.
pub trait CacheMonitor: Send {
    /// Begins to watch a domain.
    ///
    /// # Errors
    /// No monitoring on this host (`ENODEV`), no monitoring id left (`EOVERFLOW`, `EUSERS`), the domain is gone.
    fn attach(&mut self, domain: DomainRef) -> Result<(), XenError>;
    /// Ends that; a domain that is gone is no error.
    ///
    /// # Errors
    /// When Xen does not answer.
    fn detach(&mut self, domain: DomainRef) -> Result<(), XenError>;
    /// What was counted of a watched domain, one reading a socket.
    ///
    /// # Errors
    /// As [`Self::attach`].
    fn read(&mut self, domain: DomainRef) -> Result<Vec<SocketReading>, XenError>;
}

/// Memory sharing (`XENMEM_sharing_op`), which few hosts have.
pub trait MemorySharing: Send {
    /// Lets pages of the domain be shared, or no more.
    ///
    /// # Errors
    /// `ENOSYS` or `EOPNOTSUPP` where Xen was built without it, `ENODEV` where the domain has no hardware
    /// assisted paging.
    fn control(&mut self, domain: DomainRef, is_on: bool) -> Result<(), XenError>;
    /// Makes a page read-only, to be shared; the handle is void once it is written.
    ///
    /// # Errors
    /// `EINVAL` or `E2BIG` for a page that cannot be shared.
    fn nominate(&mut self, domain: DomainRef, gfn: u64) -> Result<u64, XenError>;
    /// Puts the client's page on the source's frame. It does not compare contents: who calls it has, after
    /// nominating both.
    ///
    /// # Errors
    /// A handle that is void by now.
    fn share(&mut self, source: (DomainRef, u64, u64), client: (DomainRef, u64, u64))
    -> Result<(), XenError>;
    /// Gives a page a frame of its own again, as a write to it would.
    ///
    /// # Errors
    /// No memory for it.
    fn unshare(&mut self, domain: DomainRef, gfn: u64) -> Result<(), XenError>;
}

/// Why Xen could not be asked, or what it refused.
#[derive(Debug, thiserror::Error)]
pub enum XenError {
    /// Not privileged.
    #[error("{} cannot be opened ({errno}), so Xen cannot be asked; run as root in dom0", path.display())]
    NoAccess {
        /// The device.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// A library of Xen's is not there.
    #[error("{library} cannot be loaded ({why}); install Xen's libraries (Debian: libxenmisc4.17)")]
    NoLibrary {
        /// Its versioned name.
        library: String,
        /// What the loader said.
        why: String,
    },
    /// A version whose structures nobody checked.
    #[error("this is Xen {found}, and huddle knows the structures of {known} only")]
    UnknownVersion {
        /// The version that was found.
        found: String,
        /// Those that are known.
        known: &'static str,
    },
    /// A call failed.
    #[error("{call} failed: {errno}")]
    Call {
        /// What was asked, with the domain it was about.
        call: String,
        /// What Xen answered.
        errno: Errno,
    },
    /// The loop is to end, and reads nothing more.
    #[error("the loop is ending")]
    Ending,
    /// The domain is not there any more, or another one has its number.
    #[error("domain {0} is gone")]
    Gone(u16),
    /// `xl` could not be run or failed.
    #[error("`{command}` {why}")]
    Xl {
        /// The command line.
        command: String,
        /// How it ended, with what it printed.
        why: String,
    },
    /// `xl` or xenstore did not answer in time.
    #[error("{what} did not answer within {} s; is xenstored running?", after.as_secs())]
    TimedOut {
        /// What was asked.
        what: String,
        /// How long was waited.
        after: Duration,
    },
    /// An answer that is not understood.
    #[error("{what} is not understood: {text:?}")]
    Answer {
        /// What was asked.
        what: String,
        /// The part that makes no sense.
        text: String,
    },
    /// Xenstore refused.
    #[error("xenstore: {0}")]
    Xenstore(String),
    /// Two VMs were said to be one domain.
    #[error("VMs {first:?} and {second:?} both claim domain {domain}: name each domain once")]
    SameDomain {
        /// One VM.
        first: String,
        /// The other.
        second: String,
        /// Number of the domain.
        domain: u16,
    },
}

impl From<XenError> for SharingError {
    fn from(error: XenError) -> Self {
        Self::Hypervisor(Box::new(error))
    }
}

impl XenError {
    /// The domain of this id is not there, or not any more.
    pub fn gone(domain: XenDomainId) -> Self {
        Self::Gone(u16::try_from(domain.domid).unwrap_or(u16::MAX))
    }

    /// Whether the domain has ended.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone(_))
    }

    /// The error number of a refused call.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Call { errno, .. } | Self::NoAccess { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}
