//! Whether KVM runs guests at native speed. That its device opens says little: inside some VMs it
//! emulates every instruction, and a kernel does not come up in a day.

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use kvm_ioctls::{Kvm, VcpuExit};

/// Turns of the loop: two instructions each, at 0.3 us an emulated instruction half a second.
const TURNS: u32 = 1_000_000;

/// Most time a processor of today takes for it, with much to spare (about 1 ms is usual).
const NATIVE: Duration = Duration::from_millis(60);

/// How long the loop is waited for.
const LIMIT: Duration = Duration::from_secs(3);

/// Runs a short loop in a VM and looks at the clock.
///
/// # Errors
/// Why KVM is not to be used, as one sentence.
pub fn runs_natively() -> Result<Duration, String> {
    let (sender, receiver) = channel();
    // A thread of its own, because nothing ends a KVM_RUN from within; left behind, it ends with us.
    std::thread::Builder::new()
        .name("kvm probe".into())
        .spawn(move || sender.send(run_loop()))
        .map_err(|error| format!("cannot start the probe of KVM: {error}"))?;
    let took = receiver
        .recv_timeout(LIMIT)
        .map_err(|_| format!("{TURNS} turns of a loop did not end within {} s under KVM", LIMIT.as_secs()))?
        .map_err(|error| format!("KVM cannot be used: {error}"))?;
    if took > NATIVE {
        return Err(format!(
            "KVM does not run at native speed here: {TURNS} turns of a loop took {} ms",
            took.as_millis()
        ));
    }
    Ok(took)
}

fn run_loop() -> Result<Duration, String> {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

    /// Where the code lies in the VM.
    const START: u64 = 0x1000;
    const LENGTH: std::num::NonZeroUsize = std::num::NonZeroUsize::MIN.saturating_add(4095);
    let [a, b, c, d] = TURNS.to_le_bytes();
    // mov ecx, TURNS; again: dec ecx; jnz again; hlt (16-bit code with 32-bit operands).
    let code = [0x66, 0xb9, a, b, c, d, 0x66, 0x49, 0x75, 0xfc, 0xf4];

    let text = |error: kvm_ioctls::Error| error.to_string();
    let vm = Kvm::new().map_err(text)?.create_vm().map_err(text)?;
    // SAFETY: a new mapping at an address the kernel chooses.
    let memory = unsafe {
        mmap_anonymous(None, LENGTH, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE)
    }
    .map_err(|errno| errno.to_string())?;
    // SAFETY: the mapping is 4096 bytes long, ours alone, and the code is shorter.
    unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), memory.as_ptr().cast::<u8>(), code.len()) };
    let result = (|| {
        let region = kvm_bindings::kvm_userspace_memory_region {
            guest_phys_addr: START,
            memory_size: LENGTH.get() as u64,
            userspace_addr: memory.as_ptr() as u64,
            ..Default::default()
        };
        // SAFETY: the memory stays mapped until the VM is dropped, below.
        unsafe { vm.set_user_memory_region(region) }.map_err(text)?;
        let mut vcpu = vm.create_vcpu(0).map_err(text)?;
        let mut sregs = vcpu.get_sregs().map_err(text)?;
        (sregs.cs.base, sregs.cs.selector) = (0, 0);
        vcpu.set_sregs(&sregs).map_err(text)?;
        let mut regs = vcpu.get_regs().map_err(text)?;
        (regs.rip, regs.rflags) = (START, 2);
        vcpu.set_regs(&regs).map_err(text)?;
        let begun = Instant::now();
        match vcpu.run().map_err(text)? {
            VcpuExit::Hlt => Ok(begun.elapsed()),
            other => Err(format!("the loop ended with {other:?}")),
        }
    })();
    drop(vm);
    // SAFETY: ours, and nothing refers to it any more.
    let _ = unsafe { munmap(memory, LENGTH.get()) };
    result
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_probe_ends_in_time_and_gives_a_reason_where_it_says_no() {
        let begun = Instant::now();
        let answer = runs_natively();
        assert!(begun.elapsed() < LIMIT + Duration::from_secs(2));
        match answer {
            Ok(took) => assert!(took <= NATIVE),
            Err(why) => assert!(why.contains("KVM"), "{why}"),
        }
    }
}
