//! A real VM of a few instructions: which thread is which vCPU, entries, exits and time in the guest, against the
//! kernel's own trace. Needs root, BTF and tracefs.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use huddle_host::discover::GuestThread;
use huddle_host::{HostRoot, task};
use huddle_model::availability::Availability;
use huddle_observe::probes::program::Program;
use huddle_observe::probes::{ProbeConfig, Probes};
use huddle_workload::guest::{Guest, Vm};
use nix::unistd::gettid;

use crate::Test;

pub(crate) const TESTS: &[Test] =
    &[("kvm::a_vcpu_is_found_and_its_entries_and_exits_are_those_of_the_trace", guest)];

/// The number of the VM's only vCPU.
const VCPU: u32 = 3;

const SLICES: u32 = 200;

/// The kernel's trace of KVM's entries and exits, in a separate instance, until it is dropped.
struct Trace(PathBuf);

impl Trace {
    fn start() -> Self {
        let path = PathBuf::from(format!("/sys/kernel/tracing/instances/huddle-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        let trace = Self(path);
        trace.enable("1");
        trace
    }

    fn enable(&self, on: &str) {
        for event in ["kvm_entry", "kvm_exit"] {
            fs::write(self.0.join("events/kvm").join(event).join("enable"), on).unwrap();
        }
    }

    /// Number of a thread's events.
    fn count(&self, event: &str, tid: i32) -> u64 {
        let (event, tid) = (format!(": {event}: "), format!("-{tid} "));
        let text = fs::read_to_string(self.0.join("trace")).unwrap();
        text.lines().filter(|line| line.contains(&event) && line.contains(&tid)).count() as u64
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.enable("0");
        fs::remove_dir(&self.0).unwrap();
    }
}

fn guest() {
    let root = HostRoot::real();
    let mut probes = Probes::load(&root, &ProbeConfig::only(&[Program::KvmEntry, Program::KvmExit])).unwrap();
    let status = format!("{:?}", probes.programs.status());
    let Availability::Available(threads) = &mut probes.threads else { panic!("{status}") };
    let (pid, tid) = (std::process::id().cast_signed(), gettid().as_raw());
    let guest = Guest { vcpus: 1, turns: 1000, slices: None, sleep_us: 0, pages: 4, seed: 1, commands: None };
    let vm = Vm::new(&guest).unwrap();
    let mut vcpu = vm.vcpu(VCPU).unwrap();
    // ARM64's tracepoint does not say which vCPU enters (arch/arm64/kvm/trace_arm.h, Linux 6.18).
    let vcpu_id = cfg!(target_arch = "x86_64").then_some(VCPU);
    let own = GuestThread { tid, pid, vcpu_id };
    assert!(!threads.vcpu_threads().unwrap().unwrap().contains(&own));
    threads.watch(&root, pid, task::thread(&root, pid, tid).unwrap().id).unwrap();
    let (trace, begin) = (Trace::start(), Instant::now());
    (0..SLICES).for_each(|_| vcpu.slice().unwrap());
    let wall_ns = begin.elapsed().as_nanos() as u64;
    let readings = threads.read(&root).unwrap();
    let guest = &readings[0].guest;
    println!("{guest:?} in {wall_ns} ns");
    let exits: u64 = guest.exits.as_ref().unwrap().values().sum();
    let entries = guest.entries.unwrap();
    assert_eq!((entries, exits), (trace.count("kvm_entry", tid), trace.count("kvm_exit", tid)));
    assert!(entries >= u64::from(SLICES) && entries == exits, "left as often as entered: {guest:?}");
    assert!(threads.vcpu_threads().unwrap().unwrap().contains(&own));
    let guest_ns = guest.guest_ns.unwrap();
    assert!(guest_ns > 0 && guest_ns < wall_ns);
    assert_eq!(probes.losses.value().unwrap().read().unwrap().total(), 0);
}
