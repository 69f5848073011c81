//! A VM under KVM that is nothing but the known loop: every vCPU runs it and leaves the guest after each slice. On
//! command, the guest writes to its own memory.

use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::{Context, ensure};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use crate::data::{Data, page_bytes};
use crate::writes::{self, Write};

/// What one VM does.
#[derive(Clone, Debug, clap::Args)]
pub struct Guest {
    /// vCPUs, each a thread with the name that QEMU gives it
    #[arg(long, default_value_t = 1)]
    pub vcpus: u32,
    /// Turns of the loop in one slice, after which a vCPU leaves the guest once
    #[arg(long, default_value_t = 1_000_000)]
    pub turns: u32,
    /// Slices of each vCPU; without it they end with the process
    #[arg(long)]
    pub slices: Option<u64>,
    /// Microseconds that a vCPU sleeps outside of the guest after each slice
    #[arg(long, default_value_t = 0)]
    pub sleep_us: u64,
    /// Pages of the VM's memory, which KSM may merge; the first has the code
    #[arg(long, default_value_t = 16)]
    pub pages: usize,
    /// VMs of one seed have the same data
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// A named pipe, made here, that takes lines `write FROM COUNT VALUE`: the guest writes VALUE to the first word of
    /// COUNT pages from page FROM on, and `wrote FROM COUNT` is printed
    #[arg(long)]
    pub commands: Option<PathBuf>,
}

/// A VM, with its memory.
pub struct Vm {
    vm: VmFd,
    turns: u32,
    page_bytes: u64,
    // After the VM, which uses it.
    memory: Data,
}

/// A vCPU of a VM, whose memory has to stay.
pub struct Vcpu<'vm> {
    vcpu: VcpuFd,
    vm: &'vm Vm,
}

impl Vm {
    /// Makes the VM of this description.
    ///
    /// # Errors
    /// KVM cannot be used.
    pub fn new(guest: &Guest) -> anyhow::Result<Self> {
        ensure!(guest.turns > 0, "no turn of the loop: --turns is 0");
        let kvm = Kvm::new().context("KVM cannot be used")?;
        let vm = kvm.create_vm().context("KVM makes no VM")?;
        let mut memory = Data::new(guest.pages.max(1), guest.seed)?;
        memory.write(&code::of(guest.turns));
        let region = kvm_userspace_memory_region {
            guest_phys_addr: code::START,
            memory_size: memory.bytes() as u64,
            userspace_addr: memory.address(),
            ..Default::default()
        };
        // SAFETY: the memory is mapped until the VM is dropped; its vCPUs borrow it.
        unsafe { vm.set_user_memory_region(region) }.context("KVM does not take the VM's memory")?;
        let page_bytes = page_bytes()?.try_into()?;
        Ok(Self { vm, turns: guest.turns, page_bytes, memory })
    }

    /// Makes the vCPU of this number.
    ///
    /// # Errors
    /// KVM does not make it.
    pub fn vcpu(&self, number: u32) -> anyhow::Result<Vcpu<'_>> {
        Ok(Vcpu { vcpu: code::vcpu(&self.vm, number, self.turns)?, vm: self })
    }
}

impl Vcpu<'_> {
    /// Runs one slice on the calling thread.
    ///
    /// # Errors
    /// It leaves the guest for another reason.
    pub fn slice(&mut self) -> anyhow::Result<()> {
        let exit = self.vcpu.run().context("a vCPU cannot run")?;
        ensure!(code::is_end_of_slice(&exit), "a vCPU left the guest for something else: {exit:?}");
        Ok(())
    }

    /// Has the guest write, on the calling thread; the next slice is an ordinary one.
    ///
    /// # Errors
    /// The pages are not all of the VM's data, whose first page is the code's, or as [`Self::slice`].
    pub fn write(&mut self, write: Write) -> anyhow::Result<()> {
        let Write { from, count, value } = write;
        let pages = self.vm.memory.bytes() as u64 / self.vm.page_bytes;
        ensure!(from > 0 && count > 0, "page 0 is the code's, and 0 pages cannot be written");
        ensure!(u64::from(from) + u64::from(count) <= pages, "the VM has {pages} pages");
        let address = code::START + u64::from(from) * self.vm.page_bytes;
        code::write(&self.vcpu, address, self.vm.page_bytes, count, value)?;
        self.slice()
    }
}

impl Guest {
    /// Runs until all vCPUs have done their slices.
    ///
    /// # Errors
    /// KVM cannot be used, or a vCPU leaves the guest for another reason.
    pub fn run(&self) -> anyhow::Result<()> {
        ensure!(self.vcpus > 0, "no vCPU: --vcpus is 0");
        let vm = Vm::new(self)?;
        let mut commands = self.commands.as_deref().map(writes::listen).transpose()?;
        println!("ready {}", std::process::id());
        std::thread::scope(|scope| {
            let start = |number: u32| {
                let mut vcpu = vm.vcpu(number)?;
                let commands = commands.take();
                let thread = std::thread::Builder::new().name(format!("CPU {number}/KVM"));
                let run = move || {
                    let mut left = self.slices;
                    while left != Some(0) {
                        vcpu.slice()?;
                        commands.as_ref().map_or(Ok(()), |commands| carry_out(&mut vcpu, commands))?;
                        if self.sleep_us > 0 {
                            std::thread::sleep(Duration::from_micros(self.sleep_us));
                        }
                        left = left.map(|left| left - 1);
                    }
                    anyhow::Ok(())
                };
                thread.spawn_scoped(scope, run).context("cannot start a thread")
            };
            let threads = (0..self.vcpus).map(start).collect::<Result<Vec<_>, _>>()?;
            for thread in threads {
                thread.join().map_err(|_| anyhow::anyhow!("a vCPU has panicked"))??;
            }
            Ok(())
        })
    }
}

/// Carries out the commands that have come.
fn carry_out(vcpu: &mut Vcpu<'_>, commands: &Receiver<Write>) -> anyhow::Result<()> {
    for write in commands.try_iter() {
        vcpu.write(write).with_context(|| format!("cannot write {write:?}"))?;
        println!("wrote {} {}", write.from, write.count);
    }
    Ok(())
}

/// Instructions of a slice in the guest.
pub fn instructions(turns: u32) -> u64 {
    u64::from(turns) * crate::known_loop::INSTRUCTIONS_PER_TURN + code::AROUND
}

#[cfg(target_arch = "x86_64")]
mod code {
    //! In real mode; a slice ends with a write to a port (Intel SDM, volume 2). Data segments reach beyond 64 KiB,
    //! which the processor allows once their limit is set.

    use super::{Context, VcpuFd, VmFd};
    use kvm_ioctls::VcpuExit;

    /// Where the code is in the VM.
    pub(super) const START: u64 = 0x1000;
    /// Instructions of a slice besides the loop's.
    pub(super) const AROUND: u64 = 3;
    const PORT: u16 = 0x3f8;
    /// Where the code that writes is, from [`START`].
    const WRITE: usize = 0x40;

    pub(super) fn of(turns: u32) -> Vec<u8> {
        let [a, b, c, d] = turns.to_le_bytes();
        // again: mov ecx, turns; turn: dec ecx; jnz turn; out dx, al; jmp again (32-bit operands in 16-bit code)
        let mut code = vec![0x66, 0xb9, a, b, c, d, 0x66, 0x49, 0x75, 0xfc, 0xee, 0xeb, 0xf3];
        code.resize(WRITE, 0x90);
        // page: mov [edi], eax; add edi, ebx; dec ecx; jnz page; out dx, al; jmp again
        code.extend([0x67, 0x66, 0x89, 0x07, 0x66, 0x01, 0xdf, 0x66, 0x49, 0x75, 0xf5, 0xee, 0xeb, 0xb2]);
        code
    }

    /// Sets a vCPU so that its next slice writes.
    pub(super) fn write(
        vcpu: &VcpuFd,
        address: u64,
        step: u64,
        count: u32,
        value: u32,
    ) -> anyhow::Result<()> {
        let mut regs = vcpu.get_regs()?;
        regs.rip = START + WRITE as u64;
        (regs.rdi, regs.rbx, regs.rcx, regs.rax) = (address, step, count.into(), value.into());
        vcpu.set_regs(&regs).context("KVM does not set the registers")
    }

    pub(super) fn vcpu(vm: &VmFd, number: u32, _turns: u32) -> anyhow::Result<VcpuFd> {
        let vcpu = vm.create_vcpu(number.into()).context("KVM makes no vCPU")?;
        let mut sregs = vcpu.get_sregs()?;
        (sregs.cs.base, sregs.cs.selector) = (0, 0);
        // Counted in pages (granularity): 4 GiB.
        (sregs.ds.limit, sregs.ds.g) = (u32::MAX, 1);
        vcpu.set_sregs(&sregs)?;
        let mut regs = vcpu.get_regs()?;
        (regs.rip, regs.rflags, regs.rdx) = (START, 2, PORT.into());
        vcpu.set_regs(&regs)?;
        Ok(vcpu)
    }

    pub(super) fn is_end_of_slice(exit: &VcpuExit<'_>) -> bool {
        matches!(exit, VcpuExit::IoOut(PORT, _))
    }
}

#[cfg(target_arch = "aarch64")]
mod code {
    //! At EL1 without translation; a slice ends with a write where there is no memory (Arm ARM, C6.2).

    use super::{Context, VcpuFd, VmFd};
    use kvm_bindings::{
        KVM_ARM_VCPU_POWER_OFF, KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_SIZE_U64, kvm_vcpu_init,
    };
    use kvm_ioctls::VcpuExit;

    /// Where the code is in the VM.
    pub(super) const START: u64 = 0x4000_0000;
    /// Instructions of a slice besides the loop's.
    pub(super) const AROUND: u64 = 3;
    /// Where there is no memory.
    const NOWHERE: u64 = 0x1000_0000;
    /// Where the code that writes is, from [`START`], in instructions.
    const WRITE: usize = 16;
    const NOP: u32 = 0xd503_201f;

    /// Offsets in `struct kvm_regs` (arch/arm64/include/uapi/asm/kvm.h): of x0, the program counter, the state, in
    /// bytes.
    const X0: u64 = 0;
    const PC: u64 = 32 * 8;
    const PSTATE: u64 = 33 * 8;
    /// EL1 with its own stack pointer, interrupts masked.
    const EL1H_MASKED: u64 = 0x3c5;

    pub(super) fn of(_turns: u32) -> Vec<u8> {
        let mut code: Vec<u32> = vec![
            0xaa03_03e0, // again: mov x0, x3
            0xf100_0400, // turn: subs x0, x0, #1
            0x54ff_ffe1, // b.ne turn
            0xb900_0041, // str w1, [x2]
            0x17ff_fffc, // b again
        ];
        code.resize(WRITE, NOP);
        code.extend([
            // Skipped where the slice before ended with an access that KVM has emulated: it counts on from there.
            NOP,
            0xb900_0085, // page: str w5, [x4]
            0x8b07_0084, // add x4, x4, x7
            0xf100_04c6, // subs x6, x6, #1
            0x54ff_ffa1, // b.ne page
            0xb900_0041, // str w1, [x2]
            0x17ff_ffea, // b again
        ]);
        code.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    pub(super) fn vcpu(vm: &VmFd, number: u32, turns: u32) -> anyhow::Result<VcpuFd> {
        let vcpu = vm.create_vcpu(number.into()).context("KVM makes no vCPU")?;
        let mut init = kvm_vcpu_init::default();
        vm.get_preferred_target(&mut init)?;
        init.features[0] &= !(1 << KVM_ARM_VCPU_POWER_OFF);
        vcpu.vcpu_init(&init)?;
        set(&vcpu, X0 + 2 * 8, NOWHERE)?;
        set(&vcpu, X0 + 3 * 8, turns.into())?;
        set(&vcpu, PC, START)?;
        set(&vcpu, PSTATE, EL1H_MASKED)?;
        Ok(vcpu)
    }

    fn set(vcpu: &VcpuFd, offset: u64, value: u64) -> anyhow::Result<()> {
        // The offset counts in words of four bytes.
        let id = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | u64::from(KVM_REG_ARM_CORE) | offset / 4;
        vcpu.set_one_reg(id, &value.to_le_bytes()).context("KVM does not set a register")?;
        Ok(())
    }

    /// Sets a vCPU so that its next slice writes.
    pub(super) fn write(
        vcpu: &VcpuFd,
        address: u64,
        step: u64,
        count: u32,
        value: u32,
    ) -> anyhow::Result<()> {
        for (register, content) in [(4, address), (5, value.into()), (6, count.into()), (7, step)] {
            set(vcpu, X0 + register * 8, content)?;
        }
        set(vcpu, PC, START + WRITE as u64 * 4)
    }

    pub(super) fn is_end_of_slice(exit: &VcpuExit<'_>) -> bool {
        matches!(exit, VcpuExit::MmioWrite(NOWHERE, _))
    }
}
