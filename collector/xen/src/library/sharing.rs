//! Memory sharing through libxenctrl (xen/public/memory.h: `XENMEM_sharing_op`, Xen 4.17). Debian's Xen is
//! built without it; the error of such a Xen (`ENOSYS`) is returned unchanged.

use nix::errno::Errno;
use nix::libc::{PROT_READ, PROT_WRITE};

use super::control::Xen;
use super::memory::Mappings;
use crate::toolstack::{DomainRef, MemorySharing, XenError};
use huddle_host::HostRoot;

/// Nominating and sharing pages.
pub struct LibrarySharing {
    xen: Xen,
    mappings: Mappings,
}

impl LibrarySharing {
    /// # Errors
    /// As for other handles.
    pub fn open(root: &HostRoot) -> Result<Self, XenError> {
        Ok(Self { xen: Xen::open(root)?, mappings: Mappings::open(root)? })
    }
}

impl MemorySharing for LibrarySharing {
    fn control(&mut self, domain: DomainRef, is_on: bool) -> Result<(), XenError> {
        self.xen.domain(domain)?;
        // SAFETY: the handle is open.
        let result = unsafe {
            (self.xen.calls.xc_memshr_control)(self.xen.handle, u32::from(domain.id), i32::from(is_on))
        };
        let call = || format!("xc_memshr_control of domain {}", domain.id);
        self.xen.check(result, call).map(|_| ()).map_err(|error| self.xen.why(domain, error))
    }

    fn nominate(&mut self, domain: DomainRef, gfn: u64) -> Result<u64, XenError> {
        let mut handle = 0;
        // SAFETY: the call writes this number.
        let result = unsafe {
            (self.xen.calls.xc_memshr_nominate_gfn)(
                self.xen.handle,
                u32::from(domain.id),
                gfn,
                &raw mut handle,
            )
        };
        let call = || format!("xc_memshr_nominate_gfn of page {gfn:#x} of domain {}", domain.id);
        self.xen.check(result, call).map_err(|error| self.xen.why(domain, error))?;
        Ok(handle)
    }

    fn share(
        &mut self,
        (source, source_gfn, source_handle): (DomainRef, u64, u64),
        (client, client_gfn, client_handle): (DomainRef, u64, u64),
    ) -> Result<(), XenError> {
        // SAFETY: the handle is open.
        let result = unsafe {
            (self.xen.calls.xc_memshr_share_gfns)(
                self.xen.handle,
                u32::from(source.id),
                source_gfn,
                source_handle,
                u32::from(client.id),
                client_gfn,
                client_handle,
            )
        };
        // An invalid handle is reported as error number 9 or 10 (`XENMEM_SHARING_OP_*_HANDLE_INVALID`), which
        // merging knows.
        let call = || format!("xc_memshr_share_gfns of page {client_gfn:#x} of domain {}", client.id);
        self.xen.check(result, call).map(|_| ()).map_err(|error| self.xen.why(client, error))
    }

    /// By mapping it writable, which makes Xen copy it (xen/arch/x86/mm.c, 4.17: `P2M_UNSHARE`).
    fn unshare(&mut self, domain: DomainRef, gfn: u64) -> Result<(), XenError> {
        let mapped = self.mappings.map(domain, PROT_READ | PROT_WRITE, &[gfn]);
        let mapped = mapped.map_err(|error| self.xen.why(domain, error))?;
        match mapped.errors[0] {
            0 => Ok(()),
            error => {
                let call = format!("unsharing page {gfn:#x} of domain {}", domain.id);
                Err(self.xen.why(domain, XenError::Call { call, errno: Errno::from_raw(error.abs()) }))
            }
        }
    }
}
