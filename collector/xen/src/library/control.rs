//! An open handle of libxenctrl, with calls in Rust's types.

use std::path::PathBuf;

use huddle_model::cpuset::CpuSet;
use nix::errno::Errno;

use super::layouts::{
    AFFINITY_HARD, AFFINITY_SOFT, CpuTopology, DomainInfo, Handle, INVALID_ID, VERSION, VcpuInfo,
};
use super::symbols::{AffinityCall, Control, KNOWN_VERSION, SILENT};
use crate::running_version;
use crate::toolstack::{AffinityKind, CpuPool, DomainRef, XenError};
use huddle_host::HostRoot;

/// Domains per request.
const DOMAINS_AT_ONCE: usize = 256;

/// A handle, closed on drop.
pub(super) struct Xen {
    pub(super) calls: Control,
    pub(super) handle: Handle,
}

// SAFETY: a handle of libxenctrl may be used by any thread, by one at a time (xenctrl.h, 4.17: only handles opened
// with XC_OPENFLAG_NON_REENTRANT are bound to one); there is no shared access, since it is not `Sync`.
unsafe impl Send for Xen {}

impl Drop for Xen {
    fn drop(&mut self) {
        // SAFETY: the handle was opened by `open` and is closed once.
        unsafe { (self.calls.xc_interface_close)(self.handle) };
    }
}

impl Xen {
    /// Opens a handle and checks that the running Xen has the library's version.
    pub(super) fn open(root: &HostRoot) -> Result<Self, XenError> {
        let calls = Control::load().map_err(|missing| match running_version(root) {
            // Its own libraries may be present, under names that are not looked for.
            Some(found) if found != KNOWN_VERSION => XenError::UnknownVersion { found, known: KNOWN_VERSION },
            _ => missing,
        })?;
        let silent = SILENT.pointer();
        Errno::clear();
        // SAFETY: both loggers live as long as the program and have the layout of `xentoollog_logger`.
        let handle = unsafe { (calls.xc_interface_open)(silent, silent, 0) };
        if handle.is_null() {
            return Err(XenError::NoAccess { path: device(root), errno: Errno::last() });
        }
        let xen = Self { calls, handle };
        // SAFETY: this command of `xc_version` takes no argument.
        let version = unsafe { (xen.calls.xc_version)(xen.handle, VERSION, std::ptr::null_mut()) };
        let version = xen.check(version, || "xc_version".into())?;
        let found = format!("{}.{}", version >> 16, version & 0xffff);
        if found != KNOWN_VERSION {
            return Err(XenError::UnknownVersion { found, known: KNOWN_VERSION });
        }
        Ok(xen)
    }

    /// Most libxenctrl calls return -1 and set errno; some return the negative number itself.
    pub(super) fn check(&self, result: i32, call: impl FnOnce() -> String) -> Result<i32, XenError> {
        match result {
            0.. => Ok(result),
            -1 => Err(XenError::Call { call: call(), errno: Errno::last() }),
            negative => Err(XenError::Call { call: call(), errno: Errno::from_raw(-negative) }),
        }
    }

    pub(super) fn domains(&self) -> Result<Vec<DomainInfo>, XenError> {
        let mut all: Vec<DomainInfo> = Vec::new();
        loop {
            let first = all.last().map_or(0, |last| u32::from(last.domain) + 1);
            let mut some = vec![DomainInfo::default(); DOMAINS_AT_ONCE];
            let count = DOMAINS_AT_ONCE as u32;
            // SAFETY: the array has as many elements as passed.
            let found =
                unsafe { (self.calls.xc_domain_getinfolist)(self.handle, first, count, some.as_mut_ptr()) };
            let found = self.check(found, || "xc_domain_getinfolist".into())? as usize;
            all.extend(&some[..found.min(DOMAINS_AT_ONCE)]);
            if found < DOMAINS_AT_ONCE {
                return Ok(all);
            }
        }
    }

    /// The current state of a domain.
    ///
    /// # Errors
    /// [`XenError::Gone`] if no domain, or another one, has its number.
    pub(super) fn domain(&self, domain: DomainRef) -> Result<DomainInfo, XenError> {
        let mut info = DomainInfo::default();
        // SAFETY: one element, as passed.
        let found = unsafe {
            (self.calls.xc_domain_getinfolist)(self.handle, u32::from(domain.id), 1, &raw mut info)
        };
        let found = self.check(found, || "xc_domain_getinfolist".into())?;
        if found < 1 || info.domain != domain.id || info.handle != domain.uuid {
            return Err(XenError::Gone(domain.id));
        }
        Ok(info)
    }

    /// Distinguishes the end of a domain from other failures of a call about it.
    pub(super) fn why(&self, domain: DomainRef, error: XenError) -> XenError {
        match self.domain(domain) {
            Err(gone @ XenError::Gone(_)) => gone,
            _ => error,
        }
    }

    pub(super) fn vcpu(&self, domain: u16, vcpu: u32) -> Result<VcpuInfo, XenError> {
        let mut info = VcpuInfo::default();
        // SAFETY: the structure is the call's own.
        let result =
            unsafe { (self.calls.xc_vcpu_getinfo)(self.handle, u32::from(domain), vcpu, &raw mut info) };
        self.check(result, || format!("xc_vcpu_getinfo of vCPU {vcpu} of domain {domain}"))?;
        Ok(info)
    }

    /// Maximum number of CPUs: the bits of a map.
    fn map_bytes(&self) -> Result<usize, XenError> {
        // SAFETY: the handle is open.
        let bytes = unsafe { (self.calls.xc_get_cpumap_size)(self.handle) };
        Ok(self.check(bytes, || "xc_get_cpumap_size".into())?.max(1) as usize)
    }

    fn max_cpus(&self) -> Result<u32, XenError> {
        // SAFETY: the handle is open.
        let cpus = unsafe { (self.calls.xc_get_max_cpus)(self.handle) };
        Ok(self.check(cpus, || "xc_get_max_cpus".into())? as u32)
    }

    pub(super) fn affinity(&self, domain: u16, vcpu: u32, kind: AffinityKind) -> Result<CpuSet, XenError> {
        let call = self.calls.xc_vcpu_getaffinity;
        let map = self.call_affinity(call, domain, vcpu, kind, vec![0; self.map_bytes()?], || {
            format!("xc_vcpu_getaffinity of vCPU {vcpu} of domain {domain}")
        })?;
        Ok(cpus(&map, self.max_cpus()?).intersection(&self.existing()?))
    }

    pub(super) fn set_affinity(
        &self,
        domain: u16,
        vcpu: u32,
        kind: AffinityKind,
        cpus: &CpuSet,
    ) -> Result<(), XenError> {
        // All existing CPUs are passed as all bits, so that a CPU that comes later is included.
        let bytes = self.map_bytes()?;
        let map = if self.existing()?.is_subset(cpus) { vec![u8::MAX; bytes] } else { map(cpus, bytes) };
        self.call_affinity(self.calls.xc_vcpu_setaffinity, domain, vcpu, kind, map, || {
            format!("xc_vcpu_setaffinity of vCPU {vcpu} of domain {domain} to CPUs {cpus}")
        })?;
        Ok(())
    }

    /// Calls one of the two functions for affinities, which have the same arguments; `map` is passed, and the
    /// affinity of `kind` that the call leaves in the map is returned.
    fn call_affinity(
        &self,
        call: AffinityCall,
        domain: u16,
        vcpu: u32,
        kind: AffinityKind,
        map: Vec<u8>,
        what: impl FnOnce() -> String,
    ) -> Result<Vec<u8>, XenError> {
        let (mut hard, mut soft) = (map.clone(), map);
        let (hard_map, soft_map) = (hard.as_mut_ptr(), soft.as_mut_ptr());
        // SAFETY: `call` is one of the two functions, the handle is open, and both maps have as many bytes as
        // the library says (`map_bytes`).
        let result =
            unsafe { call(self.handle, u32::from(domain), vcpu as i32, hard_map, soft_map, flag(kind)) };
        self.check(result, what)?;
        Ok(if kind == AffinityKind::Hard { hard } else { soft })
    }

    pub(super) fn cpus(&self) -> Result<Vec<CpuTopology>, XenError> {
        let mut count = self.max_cpus()?;
        let mut cpus = vec![CpuTopology::default(); count as usize];
        // SAFETY: the array has `count` elements.
        let result = unsafe { (self.calls.xc_cputopoinfo)(self.handle, &raw mut count, cpus.as_mut_ptr()) };
        self.check(result, || "xc_cputopoinfo".into())?;
        cpus.truncate(count as usize);
        Ok(cpus)
    }

    /// The existing CPUs; there may be room for more, to be plugged in.
    fn existing(&self) -> Result<CpuSet, XenError> {
        let known = (0..).zip(self.cpus()?).filter(|(_, of)| of.core != INVALID_ID);
        Ok(known.map(|(cpu, _)| cpu).collect())
    }

    pub(super) fn pools(&self) -> Result<Vec<CpuPool>, XenError> {
        let (max_cpus, bytes) = (self.max_cpus()?, self.map_bytes()?);
        let mut pools: Vec<CpuPool> = Vec::new();
        loop {
            let next = pools.last().map_or(0, |last| last.id + 1);
            Errno::clear();
            // SAFETY: the handle is open; the call returns the pool of this number or the next one, or null.
            let found = unsafe { (self.calls.xc_cpupool_getinfo)(self.handle, next) };
            // SAFETY: the result is owned by the library until it is freed below.
            let Some(info) = (unsafe { found.as_ref() }) else {
                return match Errno::last() {
                    // There are no further pools.
                    Errno::ENOENT => Ok(pools),
                    errno => Err(XenError::Call { call: "xc_cpupool_getinfo".into(), errno }),
                };
            };
            // SAFETY: the map has as many bytes as the library says.
            let map = unsafe { std::slice::from_raw_parts(info.cpumap, bytes) };
            pools.push(CpuPool { id: info.cpupool_id, cpus: cpus(map, max_cpus) });
            // SAFETY: it is from `xc_cpupool_getinfo` and is not used any more.
            unsafe { (self.calls.xc_cpupool_infofree)(self.handle, found) };
        }
    }
}

/// The device that the library opens.
fn device(root: &HostRoot) -> PathBuf {
    root.dev("xen/privcmd")
}

fn flag(kind: AffinityKind) -> u32 {
    match kind {
        AffinityKind::Hard => AFFINITY_HARD,
        AffinityKind::Soft => AFFINITY_SOFT,
    }
}

/// The CPUs of a map, limited to existing ones.
fn cpus(map: &[u8], max_cpus: u32) -> CpuSet {
    let is_set = |cpu: &u32| map.get(*cpu as usize / 8).is_some_and(|byte| byte >> (cpu % 8) & 1 == 1);
    (0..max_cpus).filter(is_set).collect()
}

/// A map of CPUs; those beyond its end cannot exist and are left out.
fn map(cpus: &CpuSet, bytes: usize) -> Vec<u8> {
    let mut map = vec![0u8; bytes];
    for cpu in cpus.iter() {
        if let Some(byte) = map.get_mut(cpu as usize / 8) {
            *byte |= 1 << (cpu % 8);
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_hold_cpus_by_bit() {
        let set: CpuSet = "0,3,8-9".parse().unwrap();
        assert_eq!(map(&set, 2), [0b1001, 0b11]);
        assert_eq!(cpus(&[0b1001, 0b11], 16), set);
        assert_eq!(cpus(&[0xff, 0xff], 4).to_string(), "0-3", "bits beyond the existing CPUs");
        assert_eq!(map(&"1000".parse().unwrap(), 2), [0, 0]);
    }
}
