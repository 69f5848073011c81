//! A VM under KVM that is nothing but the known loop: every vCPU runs it and leaves the guest after each slice.

use std::time::Duration;

use anyhow::{Context, ensure};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use crate::data::Data;

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
}

/// A VM, with its memory.
pub struct Vm {
    vm: VmFd,
    turns: u32,
    // After the VM, which uses it.
    _memory: Data,
}

/// A vCPU of a VM, whose memory has to stay.
pub struct Vcpu<'vm> {
    vcpu: VcpuFd,
    _vm: &'vm Vm,
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
        Ok(Self { vm, turns: guest.turns, _memory: memory })
    }

    /// Makes the vCPU of this number.
    ///
    /// # Errors
    /// KVM does not make it.
    pub fn vcpu(&self, number: u32) -> anyhow::Result<Vcpu<'_>> {
        Ok(Vcpu { vcpu: code::vcpu(&self.vm, number, self.turns)?, _vm: self })
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
}

impl Guest {
    /// Runs until all vCPUs have done their slices.
    ///
    /// # Errors
    /// KVM cannot be used, or a vCPU leaves the guest for another reason.
    pub fn run(&self) -> anyhow::Result<()> {
        ensure!(self.vcpus > 0, "no vCPU: --vcpus is 0");
        let vm = Vm::new(self)?;
        println!("ready {}", std::process::id());
        std::thread::scope(|scope| {
            let start = |number: u32| {
                let mut vcpu = vm.vcpu(number)?;
                let thread = std::thread::Builder::new().name(format!("CPU {number}/KVM"));
                let run = move || {
                    let mut left = self.slices;
                    while left != Some(0) {
                        vcpu.slice()?;
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

/// Instructions of a slice in the guest.
pub fn instructions(turns: u32) -> u64 {
    u64::from(turns) * crate::known_loop::INSTRUCTIONS_PER_TURN + code::AROUND
}

#[cfg(target_arch = "x86_64")]
mod code {
    //! In real mode; a slice ends with a write to a port (Intel SDM, volume 2).

    use super::{Context, VcpuFd, VmFd};
    use kvm_ioctls::VcpuExit;

    /// Where the code is in the VM.
    pub(super) const START: u64 = 0x1000;
    /// Instructions of a slice besides the loop's.
    pub(super) const AROUND: u64 = 3;
    const PORT: u16 = 0x3f8;

    pub(super) fn of(turns: u32) -> Vec<u8> {
        let [a, b, c, d] = turns.to_le_bytes();
        // again: mov ecx, turns; turn: dec ecx; jnz turn; out dx, al; jmp again (32-bit operands in 16-bit code)
        vec![0x66, 0xb9, a, b, c, d, 0x66, 0x49, 0x75, 0xfc, 0xee, 0xeb, 0xf3]
    }

    pub(super) fn vcpu(vm: &VmFd, number: u32, _turns: u32) -> anyhow::Result<VcpuFd> {
        let vcpu = vm.create_vcpu(number.into()).context("KVM makes no vCPU")?;
        let mut sregs = vcpu.get_sregs()?;
        (sregs.cs.base, sregs.cs.selector) = (0, 0);
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

    /// Offsets in `struct kvm_regs` (arch/arm64/include/uapi/asm/kvm.h): of x0, the program counter, the state, in
    /// bytes.
    const X0: u64 = 0;
    const PC: u64 = 32 * 8;
    const PSTATE: u64 = 33 * 8;
    /// EL1 with its own stack pointer, interrupts masked.
    const EL1H_MASKED: u64 = 0x3c5;

    pub(super) fn of(_turns: u32) -> Vec<u8> {
        let code: [u32; 5] = [
            0xaa03_03e0, // again: mov x0, x3
            0xf100_0400, // turn: subs x0, x0, #1
            0x54ff_ffe1, // b.ne turn
            0xb900_0041, // str w1, [x2]
            0x17ff_fffc, // b again
        ];
        code.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    pub(super) fn vcpu(vm: &VmFd, number: u32, turns: u32) -> anyhow::Result<VcpuFd> {
        let vcpu = vm.create_vcpu(number.into()).context("KVM makes no vCPU")?;
        let mut init = kvm_vcpu_init::default();
        vm.get_preferred_target(&mut init)?;
        init.features[0] &= !(1 << KVM_ARM_VCPU_POWER_OFF);
        vcpu.vcpu_init(&init)?;
        let set = |offset: u64, value: u64| {
            // The offset counts in words of four bytes.
            let id = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | u64::from(KVM_REG_ARM_CORE) | offset / 4;
            vcpu.set_one_reg(id, &value.to_le_bytes()).context("KVM does not set a register")
        };
        set(X0 + 2 * 8, NOWHERE)?;
        set(X0 + 3 * 8, turns.into())?;
        set(PC, START)?;
        set(PSTATE, EL1H_MASKED)?;
        Ok(vcpu)
    }

    pub(super) fn is_end_of_slice(exit: &VcpuExit<'_>) -> bool {
        matches!(exit, VcpuExit::MmioWrite(NOWHERE, _))
    }
}
