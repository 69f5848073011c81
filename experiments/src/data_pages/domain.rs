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
    /// Tells which pages are on one frame; without it none are.
    pub sharing: Option<&'a mut dyn MemorySharing>,
}

impl DomainMemory<'_> {
    fn domain(&self, vm: &Vm) -> Result<Domain, XenError> {
        let listed = self.toolstack.domains()?;
        let gone = || XenError::Gone(u16::try_from(vm.process.id).unwrap_or(u16::MAX));
        listed.into_iter().find(|found| found.domain.task() == vm.process).ok_or_else(gone)
    }
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
            let found = listed.iter().find(|found| found.domain.task() == vm.process);
            let gone = || XenError::Gone(u16::try_from(vm.process.id).unwrap_or(u16::MAX));
            found.map(|found| (found.domain, *number)).ok_or_else(gone)
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
