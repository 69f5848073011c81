//! What emulated VMs read, as the plugin records it, beside what they are known to read. QEMU and the images of `cargo
//! xtask experiment microbench --guest qemu` are needed; a test that misses them says that it is skipped.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod boot_support;

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use boot_support::image;
use huddle_cache_plugin::stream::MAX_RING_RECORDS;
use huddle_experiments::access_stream::{
    AccessStreams, KeptLine, RingRecords, StreamFile, Streamed, plugin_library,
};
use huddle_experiments::data_pages::{ProcessMemory, VmMemory};
use huddle_experiments::guest::child::ChildGuest;
use huddle_experiments::guest::qemu::{Accelerator, PROGRAM, Plugin, QemuGuestSpec};
use huddle_experiments::guest::{Guest, GuestData, GuestId, Pace, TimeLimits};
use huddle_experiments::interrupt::Interrupt;
use huddle_guest::chase::{self, NODE_WORDS, PAGE_BYTES, PAGE_WORDS};
use huddle_host::HostRoot;
use huddle_host::discover::{DiscoverOptions, NamedProcess, discover};
use huddle_model::cache::{Access, AccessKind};
use huddle_model::vm::Vm;

const MEMORY_MIB: u64 = 128;
const DATA_KIB: u64 = 256;
const SEED: u64 = 5;
const NODES_OF_PAGE: usize = PAGE_WORDS / NODE_WORDS;

/// Few enough accesses that a busy host, on which a test does not drain for a second, loses none.
const PACE: Pace = Pace { burst_reads: 2000, idle_us: 2000 };

/// A VM that holds the data, and its stream.
struct Emulated {
    guest: ChildGuest,
    stream: StreamFile,
    vm: Vm,
    _directory: tempfile::TempDir,
}

impl Emulated {
    fn start(name: &str, image: &Path, vcpus: u32, records: RingRecords) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let stream = StreamFile::create(vcpus as usize, records).unwrap();
        let library = plugin_library(&std::env::current_exe().unwrap()).unwrap();
        let spec = QemuGuestSpec {
            name,
            image,
            accelerator: Accelerator::Tcg,
            memory_mib: MEMORY_MIB,
            vcpus,
            console: directory.path().join("console.log"),
            plugin: Some(Plugin { library, stream: stream.path() }),
            limits: TimeLimits { ready: Duration::from_secs(180), answer: Duration::from_secs(30) },
            interrupt: Interrupt::default(),
        };
        let mut guest = spec.start().unwrap();
        guest.wait_ready().unwrap();
        guest.load(GuestData { seed: SEED, own_seed: 6, kib: DATA_KIB, cold: None }).unwrap();
        let GuestId::Process(pid) = guest.id() else { unreachable!("QEMU is a process") };
        let processes = vec![NamedProcess { name: name.to_owned(), pid }];
        let options = DiscoverOptions { processes, scan_host: false, ..DiscoverOptions::default() };
        let vm = discover(&HostRoot::real(), &options).unwrap().vms.remove(0);
        Self { guest, stream, vm, _directory: directory }
    }

    fn streamed(&self) -> Streamed<'_> {
        Streamed { vm: &self.vm, memory_mib: MEMORY_MIB, stream: &self.stream }
    }

    /// The page of the data on each frame that holds one, by the contents of the VM's memory and by pagemap.
    fn data_frames(&self) -> HashMap<u64, usize> {
        let data = data();
        let nodes: HashMap<Vec<u8>, usize> = (data.chunks(PAGE_WORDS).enumerate())
            .map(|(page, words)| {
                (words[..NODE_WORDS].iter().flat_map(|word| word.to_ne_bytes()).collect(), page)
            })
            .collect();
        let (mut memory, mut found) = (ProcessMemory::new(&HostRoot::real()), Vec::new());
        let each = &mut |address, node: &[u8; 64]| {
            if let Some(page) = nodes.get(node.as_slice()) {
                found.push((address, *page));
            }
        };
        memory.each_page(&self.vm, each).unwrap();
        let pages: Vec<_> = found.iter().map(|(address, _)| (&self.vm, *address)).collect();
        let frames = memory.frames(&pages).unwrap();
        let frames: HashMap<u64, usize> =
            frames.into_iter().zip(&found).map(|(frame, (_, page))| (frame.unwrap(), *page)).collect();
        assert_eq!(frames.len(), nodes.len(), "every page of the data is on one frame");
        frames
    }
}

fn data() -> Vec<u64> {
    let mut data = vec![0; DATA_KIB as usize * 128];
    chase::fill(&mut data, SEED);
    data
}

/// The nodes that a vCPU of so many reads first, of those in the kept line.
fn expected(vcpu: usize, vcpus: usize, reads: u64, line: KeptLine) -> Vec<usize> {
    let data = data();
    let mut position = data.len() / NODE_WORDS * vcpu / vcpus * NODE_WORDS;
    let mut nodes = Vec::new();
    for _ in 0..reads {
        nodes.push(position / NODE_WORDS);
        position = chase::walk(&data, position, 1);
    }
    nodes.retain(|node| node % NODES_OF_PAGE == usize::from(line.number()));
    nodes
}

/// The nodes of a VM's data that a vCPU accessed; all of these accesses are reads.
fn recorded(accesses: &[Access], vcpu: u16, frames: &HashMap<u64, usize>) -> Vec<usize> {
    let of_vcpu = accesses.iter().filter(|access| access.vcpu() == vcpu);
    let page_of = |access: &Access| frames.get(&(access.address() / PAGE_BYTES as u64)).copied();
    of_vcpu
        .filter_map(|access| {
            let page = page_of(access)?;
            assert_eq!(access.kind(), AccessKind::Read);
            Some(page * NODES_OF_PAGE + (access.address() as usize % PAGE_BYTES) / 64)
        })
        .collect()
}

/// Drains until so many VMs record.
fn wait_for_recording(streams: &mut AccessStreams, vms: usize, into: &mut Vec<Access>) {
    let started = Instant::now();
    while streams.next(into).unwrap().recording < vms {
        assert!(started.elapsed() < Duration::from_secs(60), "no recording begins");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn reads_of_two_vms_are_the_kept_lines_of_their_ring_in_its_order() {
    let Some(image) = image() else { return };
    let records = RingRecords::new(MAX_RING_RECORDS).unwrap();
    let mut vms = [("one", 1), ("two", 2)].map(|(name, vcpus)| Emulated::start(name, &image, vcpus, records));
    let frames = vms.each_ref().map(Emulated::data_frames);
    let mut streams = AccessStreams::open(&HostRoot::real(), vms.iter().map(Emulated::streamed)).unwrap();
    assert_eq!([streams.vcpus(0), streams.vcpus(1), streams.vcpus(2)], [Some(0..1), Some(1..3), None]);
    // The second time, code that records is dropped for code that records another line.
    for line in [5, 63].map(|line| KeptLine::new(line).unwrap()) {
        let mut accesses = Vec::new();
        streams.start(line).unwrap();
        wait_for_recording(&mut streams, 2, &mut accesses);
        for vm in &mut vms {
            vm.guest.start(PACE, false).unwrap();
        }
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(700) {
            streams.next(&mut accesses).unwrap();
            std::thread::sleep(Duration::from_millis(2));
        }
        let readings = vms.each_mut().map(|vm| vm.guest.stop_reading().unwrap());
        streams.stop(&mut accesses).unwrap();
        assert_eq!(streams.losses().lost, 0, "{:?}", streams.losses());
        for (number, vm) in vms.iter().enumerate() {
            assert_eq!(vm.data_frames(), frames[number], "frames moved: the test says nothing");
            let vcpus = readings[number].len();
            for (vcpu, reading) in readings[number].iter().enumerate() {
                let of_vcpu = streams.vcpus(number).unwrap().start + vcpu as u16;
                let recorded = recorded(&accesses, of_vcpu, &frames[number]);
                let expected = expected(vcpu, vcpus, reading.reads, line);
                assert!(expected.len() > 64, "{} reads are too few", reading.reads);
                assert_eq!(recorded.len(), expected.len(), "vCPU {of_vcpu}");
                assert!(recorded == expected, "vCPU {of_vcpu}: another order");
            }
        }
        let offset = |access: &Access| access.address() % PAGE_BYTES as u64;
        assert!(accesses.iter().all(|access| offset(access) == line.offset_bytes()));
        for kind in [AccessKind::Write, AccessKind::Fetch] {
            assert!(accesses.iter().any(|access| access.kind() == kind), "the kernel does it too: {kind:?}");
        }
        are_interleaved(&accesses, &frames);
    }
}

/// Whether the reads of both VMs come in turn, and not one VM after the other: a vCPU is no second ahead.
fn are_interleaved(accesses: &[Access], frames: &[HashMap<u64, usize>; 2]) {
    let of =
        |vm: usize| move |access: &Access| frames[vm].contains_key(&(access.address() / PAGE_BYTES as u64));
    let (first, second) = (of(0), of(1));
    let both: Vec<bool> =
        accesses.iter().filter(|access| first(access) || second(access)).map(second).collect();
    let changes = both.windows(2).filter(|two| two[0] != two[1]).count();
    assert!(changes > 20, "{changes} changes from one VM to the other in {} reads", both.len());
}

#[test]
fn what_nobody_drains_is_counted_and_the_stream_is_gone_with_its_vm() {
    let Some(image) = image() else { return };
    let records = RingRecords::new(16).unwrap();
    let mut vm = Emulated::start("slow", &image, 1, records);
    let path = vm.stream.path();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut streams = AccessStreams::open(&HostRoot::real(), [vm.streamed()]).unwrap();
    let mut accesses = Vec::new();
    streams.start(KeptLine::new(0).unwrap()).unwrap();
    wait_for_recording(&mut streams, 1, &mut accesses);
    vm.guest.start(PACE, false).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    accesses.clear();
    let progress = streams.stop(&mut accesses).unwrap();
    // Those of the ring, and those that waited for a vCPU.
    assert!(progress.accesses <= 2 * records.get(), "{progress:?}");
    let reads = vm.guest.stop_reading().unwrap()[0].reads;
    let lost = streams.losses().lost;
    assert!(lost > 100 && lost < reads, "{lost} lost of {reads} reads");
    drop((streams, vm));
    assert!(!path.exists());
}

#[test]
fn a_stream_that_is_none_stops_qemu_with_a_sentence() {
    let Some(_) = image() else { return };
    let library = plugin_library(&std::env::current_exe().unwrap()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let none = directory.path().join("none");
    std::fs::write(&none, [0; 8192]).unwrap();
    let of_three = StreamFile::create(3, RingRecords::new(16).unwrap()).unwrap();
    for (stream, why) in [
        (none, "not usable"),
        (directory.path().join("missing"), "cannot open the stream"),
        (of_three.path(), "for 3 vCPUs, not 1"),
    ] {
        let plugin = format!("file={},stream={}", library.display(), stream.display());
        let output = Command::new(PROGRAM)
            .args(["-accel", "tcg", "-nodefaults", "-display", "none", "-S", "-plugin", &plugin])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(why), "{said}");
    }
}
