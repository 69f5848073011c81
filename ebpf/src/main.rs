//! The BPF programs of huddle. Each stands alone: one that a kernel refuses leaves the others working.
//!
//! Offsets into kernel structures are not compiled in: user space reads them from the kernel's BTF and
//! sets them as globals (`.rodata`, frozen), so the verifier sees constants and one object fits every
//! kernel.
#![no_std]
#![no_main]

mod ksm;
mod kvm;
mod loss;
mod passes;
mod sample;
mod sched;
mod task;
mod watch;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
