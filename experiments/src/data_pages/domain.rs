//! The memory of VMs that are domains of Xen's. Pages are numbered as [`ForeignMemory`] numbers them.

use huddle_model::vm::Vm;
use huddle_xen::merging::shared_frames;
use huddle_xen::toolstack::{BATCH_PAGES, Domain, ForeignMemory, MemorySharing, Toolstack, XenError};

use super::{CannotRead, NODE_BYTES, VmMemory};

/// The domains of a Xen host.
pub struct DomainMemory<'a> {
    /// Lists them.
    pub toolstack: &'a dyn Toolstack,
    /// Reads their pages.
    pub memory: &'a mut dyn ForeignMemory,
    /// Reports which pages are on one frame; without it none are.
    pub sharing: Option<&'a mut dyn MemorySharing>,
}

impl DomainMemory<'_> {
    fn domain(&self, vm: &Vm) -> Result<Domain, XenError> {
        let listed = self.toolstack.domains()?;
        listed.into_iter().find(|found| is(found, vm)).ok_or_else(|| gone(vm))
    }
}

fn is(found: &Domain, vm: &Vm) -> bool {
    vm.id.xen_domain() == Some(found.domain.xen_id())
}

fn gone(vm: &Vm) -> XenError {
    vm.id.xen_domain().map_or(XenError::Gone(u16::MAX), XenError::gone)
}

impl VmMemory for DomainMemory<'_> {
    fn each_page(&mut self, vm: &Vm, each: &mut dyn FnMut(u64, &[u8; NODE_BYTES])) -> Result<(), CannotRead> {
        let domain = self.domain(vm)?;
        for batch in self.memory.frames(&domain)?.chunks(BATCH_PAGES) {
            self.memory.map(domain.domain, batch, &mut |position, page| {
                if let Some(node) = page.first_chunk() {
                    each(batch[position], node);
                }
            })?;
        }
        Ok(())
    }

    fn frames(&mut self, pages: &[(&Vm, u64)]) -> Result<Vec<Option<u64>>, CannotRead> {
        let listed = self.toolstack.domains()?;
        let of = |(vm, number): &(&Vm, u64)| {
            let found = listed.iter().find(|found| is(found, vm));
            found.map(|found| (found.domain, *number)).ok_or_else(|| gone(vm))
        };
        let pages = pages.iter().map(of).collect::<Result<Vec<_>, _>>()?;
        let toolstack = self.toolstack;
        Ok(match &mut self.sharing {
            Some(sharing) => shared_frames(&pages, &mut **sharing, &mut || toolstack.domains())?,
            None => vec![None; pages.len()],
        })
    }
}

#[cfg(test)]
mod tests;
