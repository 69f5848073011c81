//! Discovery of real processes on this host. Needs no privilege: the processes are our own.

use std::num::NonZeroUsize;
use std::process::{Child, Command};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use huddle_host::HostRoot;
use huddle_host::discover::{DiscoverOptions, Discoverer, NamedComm, NamedProcess};
use huddle_model::vm::{GuestRegion, MemoryKind, Vm, VmmKind};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

struct Sleep(Child);

impl Sleep {
    fn start() -> Self {
        let sleep = Self(Command::new("sleep").arg("600").spawn().expect("sleep is on every host"));
        // Between fork and exec it still is a copy of this test.
        let comm = format!("/proc/{}/comm", sleep.pid());
        let begin = Instant::now();
        while std::fs::read_to_string(&comm).expect("it was just started") != "sleep\n" {
            assert!(begin.elapsed() < Duration::from_secs(10));
            std::thread::yield_now();
        }
        sleep
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).expect("pids are small")
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn discoverer_of(name: &str, pid: i32) -> Discoverer {
    let processes = vec![NamedProcess { name: name.into(), pid }];
    let options = DiscoverOptions { processes, scan_host: false, ..DiscoverOptions::default() };
    Discoverer::new(HostRoot::real(), options)
}

#[test]
fn a_process_is_a_vm_until_it_ends() {
    let sleep = Sleep::start();
    let pid = sleep.pid();
    let mut discoverer = discoverer_of("web", pid);
    let found = discoverer.discover().unwrap();
    let [vm] = found.vms.as_slice() else { panic!("{found:?}") };
    assert_eq!((vm.name.as_str(), vm.process().unwrap().id, vm.vmm), ("web", pid, VmmKind::Process));
    assert_eq!(vm.vcpus.iter().map(|vcpu| vcpu.id.thread()).collect::<Vec<_>>(), [vm.process()]);
    assert!(!vm.vcpus[0].affinity.is_empty() && vm.vcpus[0].affinity.is_subset(&vm.allowed_cpus));
    assert!(vm.memory_bytes(MemoryKind::Anonymous) > 0);
    assert!(vm.cannot_merge[0].contains("not marked mergeable"), "{:?}", vm.cannot_merge);
    drop(sleep);
    let ended = discoverer.discover().unwrap();
    assert_eq!((ended.vms, ended.notes), (vec![], vec![format!("VM web ({pid}) has ended")]));
}

#[test]
fn named_threads_are_the_vcpus_and_marked_memory_is_the_guests() {
    let (stop, stopped) = mpsc::channel::<()>();
    let (ready, started) = mpsc::channel();
    let thread = std::thread::Builder::new().name("CPU 3/KVM".into()).spawn(move || {
        ready.send(()).unwrap();
        let _ = stopped.recv();
    });
    started.recv().unwrap();

    const LENGTH: NonZeroUsize = NonZeroUsize::new(4 << 20).unwrap();
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice; nothing else refers to it.
    let memory = unsafe { mmap_anonymous(None, LENGTH, protection, MapFlags::MAP_PRIVATE) }.unwrap();
    let mut discoverer = discoverer_of("own", i32::try_from(std::process::id()).unwrap());
    let kind = |vm: &Vm| {
        let start = memory.as_ptr() as u64;
        let covers =
            |region: &&GuestRegion| region.start <= start && start + LENGTH.get() as u64 <= region.end;
        vm.memory.iter().find(covers).map(|region| region.kind)
    };
    let before = discoverer.discover().unwrap().vms.remove(0);
    assert_eq!(kind(&before), Some(MemoryKind::Anonymous), "nothing is marked yet");

    // SAFETY: the mapping above; the advice changes nothing that can be seen in it.
    if let Err(errno) = unsafe { madvise(memory, LENGTH.get(), MmapAdvise::MADV_MERGEABLE) } {
        eprintln!("skipped: this kernel has no KSM ({errno})");
    } else {
        let vm = discoverer.discover().unwrap().vms.remove(0);
        assert_eq!(kind(&vm), Some(MemoryKind::Mergeable));
        assert_eq!(vm.memory_bytes(MemoryKind::Anonymous), 0, "what is not marked is not the guest's");
        let vcpus: Vec<(u32, &str)> =
            vm.vcpus.iter().map(|v| (v.index, v.thread_name.as_deref().unwrap())).collect();
        assert_eq!(vcpus, [(3, "CPU 3/KVM")]);
    }
    // SAFETY: the mapping above; nothing refers to it any more.
    unsafe { munmap(memory, LENGTH.get()) }.unwrap();
    drop(stop);
    thread.unwrap().join().unwrap();
}

#[test]
fn the_whole_host_is_looked_at_in_little_time() {
    let sleep = Sleep::start();
    let comms = vec![NamedComm { name: "sleeper".into(), comm: "sleep".into(), uid: None }];
    let options = DiscoverOptions { comms, ..DiscoverOptions::default() };
    let mut discoverer = Discoverer::new(HostRoot::real(), options);
    let begin = Instant::now();
    let found = discoverer.discover().unwrap();
    eprintln!("{} VMs in {:?}; {:?}", found.vms.len(), begin.elapsed(), found.notes);
    assert!(
        found.vms.iter().any(|vm| vm.process().unwrap().id == sleep.pid() && vm.name.starts_with("sleeper"))
    );
    assert!(begin.elapsed() < Duration::from_secs(10));
}
