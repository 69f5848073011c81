//! What is recorded, and what of a block's translation calls back.

use std::ffi::{c_uint, c_void};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};

use super::interface::{
    ADD, AccessInfo, Block, Forgetting, Functions, Instruction, NO_REGISTERS, OnAccess, OnExecution,
    PluginId, READS_AND_WRITES,
};
use crate::stream::{
    AccessKind, AddressSpace, KeptLine, LINE_BYTES, Record, Recording, RingWriter, StreamWriter,
};

const PAGE_BYTES: u64 = 4096;

/// The largest access of one callback: TCG splits larger ones.
const MOST_ACCESS_BYTES: u64 = 16;

/// What generated code calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Callbacks {
    pub(super) on_block: OnExecution,
    pub(super) on_fetch: OnExecution,
    pub(super) on_access: OnAccess,
    pub(super) on_return: OnExecution,
}

/// Whether an access at a virtual address may touch the kept line of a page, of which `first` is what [`first`] says.
#[inline]
pub(super) fn may_touch(address: u64, first: u64) -> bool {
    address.wrapping_sub(first) & (PAGE_BYTES - 1) < LINE_BYTES + MOST_ACCESS_BYTES - 1
}

/// The lowest place in a page, modulo the page, where an access may begin that touches the kept line.
fn first(line: KeptLine) -> u64 {
    line.offset_bytes().wrapping_sub(MOST_ACCESS_BYTES - 1) & (PAGE_BYTES - 1)
}

/// Records what QEMU's vCPUs do.
#[derive(Debug)]
pub(super) struct Recorder {
    id: PluginId,
    functions: Functions,
    forgetting: Option<Forgetting>,
    callbacks: Callbacks,
    stream: StreamWriter,
    /// The number of the recording that translated code was made for; 0 for none.
    applied: AtomicU64,
    /// Its line.
    line: AtomicU8,
    /// Whether translated code is about to be dropped.
    is_changing: AtomicBool,
    /// The line that each vCPU last fetched from, of those that are recorded.
    last_fetch: Vec<AtomicU64>,
}

impl Recorder {
    pub(super) fn new(
        id: PluginId,
        functions: Functions,
        forgetting: Option<Forgetting>,
        callbacks: Callbacks,
        stream: StreamWriter,
    ) -> Self {
        let last_fetch = (0..stream.vcpus()).map(|_| AtomicU64::new(0)).collect();
        let (applied, line) = (AtomicU64::new(0), AtomicU8::new(0));
        Self {
            id,
            functions,
            forgetting,
            callbacks,
            stream,
            applied,
            line,
            is_changing: false.into(),
            last_fetch,
        }
    }

    pub(super) fn id(&self) -> PluginId {
        self.id
    }

    pub(super) fn functions(&self) -> &Functions {
        &self.functions
    }

    /// Makes vCPUs forget the callbacks of code that was dropped.
    ///
    /// # Safety
    /// No vCPU runs.
    pub(super) unsafe fn forget_callbacks(&self) {
        if let Some(forgetting) = &self.forgetting {
            // SAFETY: by the contract of this function.
            unsafe { forgetting.forget(self.stream.vcpus()) };
        }
    }

    /// What translated code records.
    fn applied(&self) -> Option<Recording> {
        let number = self.applied.load(Relaxed);
        let line = KeptLine::new(self.line.load(Relaxed))?;
        (number != 0).then_some(Recording { number, line })
    }

    /// Whether the runner wants another recording than the one that code was translated for, said once.
    pub(super) fn begins_to_change(&self) -> bool {
        self.stream.wanted() != self.applied() && !self.is_changing.swap(true, Relaxed)
    }

    /// From now on code is translated for what the runner wants. There is no translated code, and no vCPU runs.
    pub(super) fn apply(&self) {
        let wanted = self.stream.wanted();
        self.applied.store(wanted.map_or(0, |wanted| wanted.number), Relaxed);
        self.line.store(wanted.map_or(0, |wanted| wanted.line.number()), Relaxed);
        self.last_fetch.iter().for_each(|line| line.store(0, Relaxed));
        self.stream.apply(wanted);
        self.is_changing.store(false, Relaxed);
    }

    /// Registers what a block calls back for.
    ///
    /// # Safety
    /// The block is one that QEMU is translating.
    pub(super) unsafe fn translate(&self, block: *mut Block) {
        let (qemu, call) = (&self.functions, &self.callbacks);
        let recording = self.applied();
        // SAFETY: by the contract of this function, for all calls of QEMU's functions below: instructions of a block
        // are valid while it is translated, and indices below their number are instructions.
        unsafe {
            let count = (qemu.instructions)(block);
            if recording.is_some() {
                self.count_block(block, count as u64);
            }
            // A block has at most two pages, each with one kept line.
            let mut fetched = None;
            for number in 0..count {
                let instruction = (qemu.instruction)(block, number);
                if let Some(Recording { line, .. }) = recording {
                    let first = first(line) as *mut c_void;
                    (qemu.on_access)(instruction, call.on_access, NO_REGISTERS, READS_AND_WRITES, first);
                    if let Some(address) = self.fetches_from(instruction, line)
                        && fetched.replace(address) != Some(address)
                    {
                        (qemu.on_instruction)(
                            instruction,
                            call.on_fetch,
                            NO_REGISTERS,
                            address as *mut c_void,
                        );
                    }
                }
                if self.returns_from_interrupt(instruction) {
                    (qemu.on_instruction)(instruction, call.on_return, NO_REGISTERS, std::ptr::null_mut());
                }
            }
        }
    }

    /// # Safety
    /// As [`Self::translate`].
    unsafe fn count_block(&self, block: *mut Block, instructions: u64) {
        // An operation without a call has one address for all vCPUs, and loses what two add at once.
        match (self.stream.ring(0), self.stream.vcpus()) {
            (Some(ring), 1) => {
                let word = std::ptr::from_ref(ring.instructions()).cast_mut().cast();
                // SAFETY: by the contract of this function; the word stays until the process ends.
                unsafe { (self.functions.inline_on_block)(block, ADD, word, instructions) };
            }
            _ => {
                let on_block = self.callbacks.on_block;
                // SAFETY: as above.
                unsafe {
                    (self.functions.on_block)(block, on_block, NO_REGISTERS, instructions as *mut c_void)
                };
            }
        }
    }

    /// The kept line that an instruction is fetched from, as an address of QEMU's process; `None` where it is fetched
    /// from no kept line, or from the next page, whose address is that of the next instruction.
    ///
    /// # Safety
    /// It is of a block that QEMU is translating.
    unsafe fn fetches_from(&self, instruction: *const Instruction, line: KeptLine) -> Option<u64> {
        // SAFETY: by the contract of this function.
        let (start, size, host) = unsafe {
            (
                (self.functions.virtual_address)(instruction),
                (self.functions.size)(instruction) as u64,
                (self.functions.host_address)(instruction) as u64,
            )
        };
        let kept = (start & !(PAGE_BYTES - 1)) + line.offset_bytes();
        let touches = start < kept + LINE_BYTES && kept < start.saturating_add(size);
        // Code that is in no memory is at null or just beside.
        (touches && host >= PAGE_BYTES && host != u64::MAX)
            .then(|| host.wrapping_sub(start).wrapping_add(kept))
    }

    /// Whether it is an IRET (Intel SDM volume 2, IRET/IRETD/IRETQ: CF, with a REX prefix for 64 bits).
    ///
    /// # Safety
    /// It is of a block that QEMU is translating.
    unsafe fn returns_from_interrupt(&self, instruction: *const Instruction) -> bool {
        // SAFETY: by the contract of this function.
        let (data, size) =
            unsafe { ((self.functions.data)(instruction), (self.functions.size)(instruction)) };
        if data.is_null() || size > 2 {
            return false;
        }
        // SAFETY: QEMU's bytes of the instruction, which are so many.
        let bytes = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), size) };
        matches!(bytes, [0xcf] | [0x40..=0x4f, 0xcf])
    }

    /// Counts the instructions of a block that a vCPU begins.
    pub(super) fn count(&self, vcpu: c_uint, instructions: u64) {
        if let Some(ring) = self.stream.ring(vcpu as usize) {
            let word = ring.instructions();
            word.store(word.load(Relaxed).wrapping_add(instructions), Relaxed);
        }
    }

    /// The ring of a vCPU, with what is recorded; `None` where the runner wants that no more.
    #[inline]
    fn recording(&self, vcpu: c_uint) -> Option<(Recording, &RingWriter)> {
        let recording = self.applied()?;
        (self.stream.wanted() == Some(recording)).then_some((recording, self.stream.ring(vcpu as usize)?))
    }

    /// A vCPU fetches from a kept line, given by its address in QEMU's process. In a loop that stays in the line it
    /// does so once: what the loop repeats comes from the core itself.
    pub(super) fn fetch(&self, vcpu: c_uint, address: u64) {
        let Some(last) = self.last_fetch.get(vcpu as usize) else { return };
        if last.load(Relaxed) == address {
            return;
        }
        if let Some((_, ring)) = self.recording(vcpu) {
            last.store(address, Relaxed);
            let instructions = ring.instructions().load(Relaxed);
            let (space, kind) = (AddressSpace::Qemu, AccessKind::Fetch);
            ring.push(Record { instructions, address, space, kind });
        }
    }

    /// An access of a vCPU to a virtual address, in its callback.
    pub(super) fn access(&self, vcpu: c_uint, info: AccessInfo, address: u64) {
        let Some((recording, ring)) = self.recording(vcpu) else { return };
        // SAFETY: queries about the access whose callback this is.
        let (size_shift, is_store) =
            unsafe { ((self.functions.size_shift)(info), (self.functions.is_store)(info)) };
        let last = address.wrapping_add(1u64.checked_shl(size_shift).unwrap_or(1) - 1);
        let kind = if is_store { AccessKind::Write } else { AccessKind::Read };
        let is_kept = |address: u64| address & (PAGE_BYTES - LINE_BYTES) == recording.line.offset_bytes();
        let is_one_line = address / LINE_BYTES == last / LINE_BYTES;
        for touched in [Some(address), (!is_one_line).then_some(last)].into_iter().flatten() {
            if is_kept(touched)
                && let Some(address) = self.memory(info, touched)
            {
                let address = address & !(LINE_BYTES - 1);
                let instructions = ring.instructions().load(Relaxed);
                ring.push(Record { instructions, address, space: AddressSpace::GuestRam, kind });
            }
        }
    }

    /// The address of RAM of an access; `None` for a device.
    fn memory(&self, info: AccessInfo, address: u64) -> Option<u64> {
        // SAFETY: a query about the access whose callback this is.
        let physical = unsafe { (self.functions.physical)(info, address) };
        // SAFETY: what QEMU returned, valid within the callback.
        let in_memory = !physical.is_null() && unsafe { !(self.functions.is_device)(physical) };
        // SAFETY: as above.
        in_memory.then(|| unsafe { (self.functions.physical_address)(physical) })
    }
}

#[cfg(test)]
mod tests;
