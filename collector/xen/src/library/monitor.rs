//! The processor's cache monitoring (PSR) through libxenctrl: occupancy of the last-level cache (CMT) and traffic
//! between it and memory (MBM), per domain and socket (docs/misc/xl-psr.pandoc, Xen 4.17). Intel only.

use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;

use super::control::Xen;
use super::layouts::{CMT_L3_OCCUPANCY, CMT_LOCAL_MEM_COUNT, CMT_TOTAL_MEM_COUNT, INVALID_ID};
use crate::toolstack::{CacheMonitor, DomainRef, SocketReading, XenError};
use huddle_host::HostRoot;

/// Bits of the event mask (xen/arch/x86/include/asm/psr.h and tools/libs/light/libxl_psr.c, Xen 4.17).
const EVENT_OCCUPANCY: u32 = 1 << 0;
const EVENT_TOTAL: u32 = 1 << 1;
const EVENT_LOCAL: u32 = 1 << 2;

/// Monitoring that this processor has.
pub struct LibraryMonitor {
    xen: Xen,
    events: u32,
    /// Bytes per count.
    bytes_per_count: u64,
    /// One CPU of each socket, for reading the socket's counts.
    sockets: BTreeMap<u32, u32>,
    /// Domains monitored by another program, whose monitoring is not stopped here.
    of_others: BTreeSet<DomainRef>,
}

impl LibraryMonitor {
    /// # Errors
    /// `ENODEV` where the processor or Xen's command line (`psr=cmt`) does not have it; otherwise as for
    /// other handles.
    pub fn open(root: &HostRoot) -> Result<Self, XenError> {
        let xen = Xen::open(root)?;
        // SAFETY: the handle is open.
        if unsafe { (xen.calls.xc_psr_cmt_enabled)(xen.handle) } != 1 {
            let call = "asking for the processor's cache monitoring (CMT)".to_owned();
            return Err(XenError::Call { call, errno: Errno::ENODEV });
        }
        let (mut events, mut scale) = (0, 0);
        // SAFETY: the call writes this number.
        let result = unsafe { (xen.calls.xc_psr_cmt_get_l3_event_mask)(xen.handle, &raw mut events) };
        xen.check(result, || "xc_psr_cmt_get_l3_event_mask".into())?;
        // SAFETY: likewise.
        let result = unsafe { (xen.calls.xc_psr_cmt_get_l3_upscaling_factor)(xen.handle, &raw mut scale) };
        xen.check(result, || "xc_psr_cmt_get_l3_upscaling_factor".into())?;
        let mut sockets = BTreeMap::new();
        for (cpu, of) in (0..).zip(xen.cpus()?).filter(|(_, of)| of.socket != INVALID_ID) {
            sockets.entry(of.socket).or_insert(cpu);
        }
        Ok(Self { xen, events, bytes_per_count: u64::from(scale), sockets, of_others: BTreeSet::new() })
    }

    fn count(&self, id: u32, cpu: u32, event: u32, kind: u32) -> Result<Option<u64>, XenError> {
        if self.events & event == 0 {
            return Ok(None);
        }
        let mut count = 0;
        Errno::clear();
        // SAFETY: the call writes this number; no time stamp is requested (tools/libs/ctrl/xc_psr.c, 4.17).
        let result = unsafe {
            (self.xen.calls.xc_psr_cmt_get_data)(
                self.xen.handle,
                id,
                cpu,
                kind,
                &raw mut count,
                std::ptr::null_mut(),
            )
        };
        // Failure without an error number: the processor has no count now.
        if result == -1 && Errno::last_raw() == 0 {
            return Ok(None);
        }
        self.xen.check(result, || format!("xc_psr_cmt_get_data on CPU {cpu}"))?;
        Ok(Some(count.saturating_mul(self.bytes_per_count)))
    }
}

impl CacheMonitor for LibraryMonitor {
    fn attach(&mut self, domain: DomainRef) -> Result<(), XenError> {
        self.xen.domain(domain)?;
        // SAFETY: the handle is open.
        let result = unsafe { (self.xen.calls.xc_psr_cmt_attach)(self.xen.handle, u32::from(domain.id)) };
        match self.xen.check(result, || format!("xc_psr_cmt_attach of domain {}", domain.id)) {
            Ok(_) => Ok(()),
            Err(XenError::Call { errno: Errno::EEXIST, .. }) => {
                self.of_others.insert(domain);
                Ok(())
            }
            Err(error) => Err(self.xen.why(domain, error)),
        }
    }

    fn detach(&mut self, domain: DomainRef) -> Result<(), XenError> {
        // A later domain with its number may be monitored by others.
        match self.xen.domain(domain) {
            Err(XenError::Gone(_)) => return Ok(()),
            found => _ = found?,
        }
        if self.of_others.remove(&domain) {
            return Ok(());
        }
        // SAFETY: the handle is open.
        let result = unsafe { (self.xen.calls.xc_psr_cmt_detach)(self.xen.handle, u32::from(domain.id)) };
        let result = self.xen.check(result, || format!("xc_psr_cmt_detach of domain {}", domain.id));
        match result.map_err(|error| self.xen.why(domain, error)) {
            Err(XenError::Gone(_) | XenError::Call { errno: Errno::ENOENT, .. }) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn read(&mut self, domain: DomainRef) -> Result<Vec<SocketReading>, XenError> {
        let mut id = 0;
        // SAFETY: the call writes this number.
        let result = unsafe {
            (self.xen.calls.xc_psr_cmt_get_domain_rmid)(self.xen.handle, u32::from(domain.id), &raw mut id)
        };
        let call = || format!("xc_psr_cmt_get_domain_rmid of domain {}", domain.id);
        self.xen.check(result, call).map_err(|error| self.xen.why(domain, error))?;
        if id == 0 {
            // Everything that is not monitored is counted together under 0.
            let call =
                format!("reading the cache monitoring of domain {}, which is not monitored", domain.id);
            return Err(XenError::Call { call, errno: Errno::ENOENT });
        }
        let reading = |(socket, cpu): (&u32, &u32)| {
            Ok(SocketReading {
                socket: *socket,
                llc_bytes: self.count(id, *cpu, EVENT_OCCUPANCY, CMT_L3_OCCUPANCY)?,
                total_bytes: self.count(id, *cpu, EVENT_TOTAL, CMT_TOTAL_MEM_COUNT)?,
                local_bytes: self.count(id, *cpu, EVENT_LOCAL, CMT_LOCAL_MEM_COUNT)?,
            })
        };
        self.sockets.iter().map(reading).collect()
    }
}
