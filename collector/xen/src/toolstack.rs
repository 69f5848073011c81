//! The interface to Xen. Tests implement it with fakes.

use std::path::PathBuf;
use std::time::Duration;

pub use huddle_host::pin::AffinityKind;
use huddle_model::cpuset::CpuSet;
use huddle_model::id::{Uuid, VcpuId, XenDomainId};
use huddle_sharing::SharingError;
use nix::errno::Errno;

/// Bytes of a page of a domain.
pub const PAGE_BYTES: usize = 4096;

/// Pages that are mapped at once: large enough that the cost of calls is negligible, 4 MiB of address space.
pub const BATCH_PAGES: usize = 1024;

/// A domain id that cannot be confused with a later domain of the same number.
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
        // The handle has the UUID's bytes in the usual order (libxl_uuid.h, Xen 4.17).
        XenDomainId { domid: u32::from(self.id), uuid: Uuid::from_bytes(self.uuid) }
    }

    /// The model's id of one of its vCPUs.
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
    /// Its id.
    pub domain: DomainRef,
    /// Its name in xenstore; `Domain-ID` if it has none or the name is unknown.
    pub name: String,
    /// How it is virtualised; `None` if unknown (`xl`).
    pub kind: Option<DomainKind>,
    /// Its cpupool.
    pub pool: u32,
    /// Whether its toolstack has paused it.
    pub is_paused: bool,
    /// Whether it is ending or has shut down: such a domain is neither measured nor pinned.
    pub is_ending: bool,
    /// Its current number of pages.
    pub pages: u64,
    /// Number of its pages that memory sharing has merged with others; `None` if unknown.
    pub shared_pages: Option<u64>,
    /// Its vCPUs that are online, in ascending number.
    pub vcpus: Vec<DomainVcpu>,
}

/// A vCPU of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainVcpu {
    /// Its number within the domain.
    pub index: u32,
    /// The physical CPU on which it runs or last ran.
    pub cpu: Option<u32>,
    /// CPU time it has used, in nanoseconds (`xl` reports tenths of a second).
    pub cpu_time_ns: u64,
    /// Its hard affinity as set, limited to existing CPUs.
    pub hard: CpuSet,
    /// Its soft affinity, likewise.
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
    /// Its NUMA node, if known.
    pub node: Option<u32>,
}

/// A cpupool: its domains run only on its CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuPool {
    /// Its number.
    pub id: u32,
    /// Its CPUs.
    pub cpus: CpuSet,
}

/// The machine below the domains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its online CPUs, ascending.
    pub cpus: Vec<PhysicalCpu>,
    /// Its cpupools; a CPU in no pool runs no domain.
    pub pools: Vec<CpuPool>,
}

/// Listing domains and setting affinities.
pub trait Toolstack: Send {
    /// Name of the interface for `doctor`, such as "libxenctrl 4.17".
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

    /// An affinity as set (not narrowed by the cpupool), limited to existing CPUs.
    ///
    /// # Errors
    /// [`XenError::Gone`] if another domain or none has the number, or the vCPU does not exist.
    fn affinity(&self, domain: DomainRef, vcpu: u32, kind: AffinityKind) -> Result<CpuSet, XenError>;

    /// Sets one of a vCPU's affinities and keeps the other.
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

/// A read-only list of domains: [`Toolstack::domains`].
pub type ListDomains<'a> = dyn FnMut() -> Result<Vec<Domain>, XenError> + 'a;

/// Reading the pages of domains.
pub trait ForeignMemory: Send {
    /// The pages of a domain as numbers for [`Self::map`]: for a PV domain its machine frames, in the order
    /// of its own page numbers; for others guest frame numbers, which may include holes. Known holes are left
    /// out.
    ///
    /// # Errors
    /// [`XenError::Gone`] where the domain has ended.
    fn frames(&mut self, domain: &Domain) -> Result<Vec<u64>, XenError>;

    /// Maps up to [`BATCH_PAGES`] pages read-only, passes the content of those that can be mapped with their
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

/// Cache monitoring of a domain on one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketReading {
    /// The socket.
    pub socket: u32,
    /// Bytes of its last-level cache that hold the domain's lines; `None` if not measured.
    pub llc_bytes: Option<u64>,
    /// Bytes moved so far between all memory and that cache, a counter that may wrap; `None` likewise.
    pub total_bytes: Option<u64>,
    /// Likewise between the socket's own node and that cache.
    pub local_bytes: Option<u64>,
}

/// The processor's cache monitoring (PSR: CMT and MBM), per domain and socket; Intel only.
pub trait CacheMonitor: Send {
    /// Starts to monitor a domain.
    ///
    /// # Errors
    /// No monitoring on this host (`ENODEV`), no monitoring id left (`EOVERFLOW`, `EUSERS`), the domain is gone.
    fn attach(&mut self, domain: DomainRef) -> Result<(), XenError>;
    /// Stops monitoring a domain; a gone domain is not an error.
    ///
    /// # Errors
    /// When Xen does not answer.
    fn detach(&mut self, domain: DomainRef) -> Result<(), XenError>;
    /// The counts of a monitored domain, one reading per socket.
    ///
    /// # Errors
    /// As [`Self::attach`].
    fn read(&mut self, domain: DomainRef) -> Result<Vec<SocketReading>, XenError>;
}

/// Memory sharing (`XENMEM_sharing_op`), which few hosts have.
pub trait MemorySharing: Send {
    /// Enables or disables sharing of the domain's pages.
    ///
    /// # Errors
    /// `ENOSYS` or `EOPNOTSUPP` where Xen was built without it, `ENODEV` where the domain has no hardware
    /// assisted paging.
    fn control(&mut self, domain: DomainRef, is_on: bool) -> Result<(), XenError>;
    /// Makes a page read-only for sharing; a write to it invalidates the handle.
    ///
    /// # Errors
    /// `EINVAL` or `E2BIG` for a page that cannot be shared.
    fn nominate(&mut self, domain: DomainRef, gfn: u64) -> Result<u64, XenError>;
    /// Moves the client's page to the source's frame. It does not compare contents: the caller must have done
    /// so after nominating both.
    ///
    /// # Errors
    /// A handle is not valid any more.
    fn share(&mut self, source: (DomainRef, u64, u64), client: (DomainRef, u64, u64))
    -> Result<(), XenError>;
    /// Gives a page its own frame again, as a write to it would.
    ///
    /// # Errors
    /// No memory for the frame.
    fn unshare(&mut self, domain: DomainRef, gfn: u64) -> Result<(), XenError>;
}

/// Why a request to Xen failed.
#[derive(Debug, thiserror::Error)]
pub enum XenError {
    /// Not privileged.
    #[error("{} cannot be opened ({errno}), so Xen cannot be queried; run as root in dom0", path.display())]
    NoAccess {
        /// The device.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// A library of Xen is missing.
    #[error("{library} cannot be loaded ({why}); install Xen's libraries (Debian: libxenmisc4.17)")]
    NoLibrary {
        /// Its versioned name.
        library: String,
        /// The loader's error.
        why: String,
    },
    /// A version whose structures are unknown.
    #[error("this is Xen {found}; huddle supports only {known}")]
    UnknownVersion {
        /// The version that was found.
        found: String,
        /// The supported versions.
        known: &'static str,
    },
    /// A call failed.
    #[error("{call} failed: {errno}")]
    Call {
        /// The call, with its domain.
        call: String,
        /// Xen's error number.
        errno: Errno,
    },
    /// The loop is to end, and reads nothing more.
    #[error("the loop is ending")]
    Ending,
    /// The domain does not exist any more, or another one has its number.
    #[error("domain {0} is gone")]
    Gone(u16),
    /// `xl` could not be run or failed.
    #[error("`{command}` {why}")]
    Xl {
        /// The command line.
        command: String,
        /// How it ended, with its output.
        why: String,
    },
    /// `xl` or xenstore did not answer in time.
    #[error("{what} did not answer within {} s; is xenstored running?", after.as_secs())]
    TimedOut {
        /// The request.
        what: String,
        /// The time limit.
        after: Duration,
    },
    /// An answer that cannot be parsed.
    #[error("{what} cannot be parsed: {text:?}")]
    Answer {
        /// The request.
        what: String,
        /// The offending part.
        text: String,
    },
    /// Xenstore returned an error.
    #[error("xenstore: {0}")]
    Xenstore(String),
    /// Two VMs refer to one domain.
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
    /// The domain of this id does not exist, or not any more.
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
