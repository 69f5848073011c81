//! A real VM of a few instructions: which thread is which vCPU, entries, exits and time in the guest,
//! against the kernel's own trace. Needs root, KVM, BTF and tracefs; skipped with a message where they are
//! missing. A KVM that emulates the guest never enters it: there the trace and the probes have to agree on
//! that.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: what fails, panics")]

mod observe_support;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Instant;

use huddle_host::discover::GuestThread;
use huddle_host::{HostRoot, task};
use huddle_model::availability::Availability;
use huddle_observe::probes::program::Program;
use huddle_observe::probes::{ProbeConfig, Probes};
use huddle_testing::output::say;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use libtest_mimic::Failed;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::unistd::gettid;

fn main() {
    // A CI machine without nested virtualisation is no fault of the code.
    let paths = ["/dev/kvm", "/sys/kernel/tracing/events/kvm"];
    if let Some(path) = paths.into_iter().find(|path| !Path::new(path).exists()) {
        say(&format!("skipped: {path} is missing"));
        return;
    }
    observe_support::run(
        observe_support::missing(),
        false,
        &[("a_vcpu_is_found_and_its_entries_and_exits_are_counted", guest)],
    );
}

/// The kernel's trace of KVM's entries and exits, in a separate instance, until it is dropped.
struct Trace(PathBuf);

impl Trace {
    fn start() -> Self {
        let path = PathBuf::from(format!("/sys/kernel/tracing/instances/huddle-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        let trace = Self(path);
        trace.enable("1");
        trace
    }

    fn enable(&self, on: &str) {
        for event in ["kvm_entry", "kvm_exit"] {
            std::fs::write(self.0.join("events/kvm").join(event).join("enable"), on).unwrap();
        }
    }

    /// Number of a thread's events.
    fn count(&self, event: &str, tid: i32) -> u64 {
        let (event, tid) = (format!(": {event}: "), format!("-{tid} "));
        let text = std::fs::read_to_string(self.0.join("trace")).unwrap();
        text.lines().filter(|line| line.contains(&event) && line.contains(&tid)).count() as u64
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.enable("0");
        std::fs::remove_dir(&self.0).unwrap();
    }
}

/// Writes `al` to port 0x3f8 in a loop.
const CODE: [u8; 6] = [0xba, 0xf8, 0x03, 0xee, 0xeb, 0xfd];
const GUEST_ADDRESS: u64 = 0x1000;
const VCPU: u64 = 3;

/// A VM whose one vCPU runs [`CODE`] in real mode.
fn vm() -> (VmFd, VcpuFd) {
    let vm = Kvm::new().unwrap().create_vm().unwrap();
    let length = NonZeroUsize::new(0x1000).unwrap();
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new anonymous mapping touches no existing memory; it is never unmapped, so the VM
    // cannot outlive it.
    let memory = unsafe { mmap_anonymous(None, length, protection, MapFlags::MAP_PRIVATE) }.unwrap();
    // SAFETY: the code fits into the page, which has no other user yet.
    unsafe { memory.as_ptr().cast::<u8>().copy_from_nonoverlapping(CODE.as_ptr(), CODE.len()) };
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: GUEST_ADDRESS,
        memory_size: 0x1000,
        userspace_addr: memory.as_ptr() as u64,
    };
    // SAFETY: the region is the mapping above.
    unsafe { vm.set_user_memory_region(region) }.unwrap();
    let vcpu = vm.create_vcpu(VCPU).unwrap();
    let mut sregs = vcpu.get_sregs().unwrap();
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs).unwrap();
    let mut regs = vcpu.get_regs().unwrap();
    (regs.rip, regs.rflags) = (GUEST_ADDRESS, 2);
    vcpu.set_regs(&regs).unwrap();
    (vm, vcpu)
}

fn guest() -> Result<(), Failed> {
    let root = HostRoot::real();
    let config = ProbeConfig::only(&[Program::KvmEntry, Program::KvmExit]);
    let mut probes = Probes::load(&root, &config).unwrap();
    let Availability::Available(threads) = &mut probes.threads else {
        return Err(format!("{:?}", probes.programs.status()).into());
    };
    let (pid, tid) = (std::process::id().cast_signed(), gettid().as_raw());
    let (_vm, mut vcpu) = vm();
    let own = GuestThread { tid, pid, vcpu_id: Some(VCPU as u32) };
    assert!(!threads.vcpu_threads().unwrap().unwrap().contains(&own));
    threads.watch(&root, pid, task::thread(&root, pid, tid).unwrap().id).unwrap();
    let (trace, begin) = (Trace::start(), Instant::now());
    let writes = 200;
    for _ in 0..writes {
        match vcpu.run().unwrap() {
            VcpuExit::IoOut(0x3f8, data) => assert_eq!(data.len(), 1),
            other => return Err(format!("{other:?}").into()),
        }
    }
    let wall_ns = begin.elapsed().as_nanos() as u64;
    let readings = threads.read(&root).unwrap();
    let guest = &readings[0].guest;
    println!("{guest:?} in {wall_ns} ns");
    let exits: u64 = guest.exits.as_ref().unwrap().values().sum();
    let entries = guest.entries.unwrap();
    assert_eq!((entries, exits), (trace.count("kvm_entry", tid), trace.count("kvm_exit", tid)));
    assert_eq!(threads.vcpu_threads().unwrap().unwrap().contains(&own), entries > 0);
    if entries == 0 {
        println!("not exercised: this KVM emulates every instruction and never enters the guest");
    } else {
        let guest_ns = guest.guest_ns.unwrap();
        assert_eq!(entries, exits, "the guest is left as often as it is entered");
        assert!(guest_ns > 0 && guest_ns < wall_ns);
    }
    assert_eq!(probes.losses.value().unwrap().read().unwrap().total(), 0);
    Ok(())
}
