#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::atomic::Ordering::Relaxed;

use huddle_cache_plugin::stream::StreamWriter;
use huddle_model::vm::{GuestRegion, MemoryKind, TaskId};

use super::*;

const PAGE: u64 = 4096;

/// A VM of 1 MiB whose pages, but the third, are on the frames from `frame` on.
fn vm(root: &HostRoot, pid: i32, frame: u64) -> Vm {
    let process = TaskId { id: pid, start_ticks: 1 };
    let kind = MemoryKind::Mergeable;
    let region = GuestRegion { process: Some(process), start: 0, end: 256 * PAGE, kind };
    std::fs::create_dir_all(root.proc(pid.to_string())).unwrap();
    let entry = |page: u64| if page == 2 { 0 } else { 1 << 63 | (frame + page) };
    let entries: Vec<u8> = (0..256).flat_map(|page| entry(page).to_ne_bytes()).collect();
    std::fs::write(root.proc(format!("{pid}/pagemap")), entries).unwrap();
    Vm::of_process(format!("vm{pid}"), process, vec![region])
}

/// What a plugin would write: an access of a vCPU that has begun so many instructions.
fn record(writer: &StreamWriter, vcpu: usize, instructions: u64, address: u64) {
    let ring = writer.ring(vcpu).unwrap();
    ring.instructions().store(instructions, Relaxed);
    let (space, kind) = (AddressSpace::GuestRam, stream::AccessKind::Write);
    ring.push(Record { instructions, address, space, kind });
}

fn access(vcpu: u16, address: u64) -> Access {
    Access::new(vcpu, address, AccessKind::Write).unwrap()
}

#[test]
fn accesses_of_vms_come_in_one_order_by_frames_and_a_damaged_stream_stops_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let root = HostRoot::at(dir.path());
    let vms = [vm(&root, 1, 1000), vm(&root, 2, 2000)];
    let files = [1, 2].map(|vcpus| StreamFile::create(vcpus, RingRecords::new(16).unwrap()).unwrap());
    let streamed = vms.iter().zip(&files).map(|(vm, stream)| Streamed { vm, memory_mib: 1, stream });
    let mut streams = AccessStreams::of(&root, streamed).unwrap();
    let writers: Vec<_> = files
        .iter()
        .map(|file| StreamWriter::open(&file.path(), file.vcpus(), Duration::ZERO).unwrap())
        .collect();
    let mut accesses = Vec::new();
    streams.start(KeptLine::new(1).unwrap()).unwrap();
    assert_eq!(streams.next(&mut accesses).unwrap(), Progress::default(), "none has begun");
    writers.iter().for_each(|writer| writer.apply(writer.wanted()));

    record(&writers[0], 0, 10, 64);
    record(&writers[0], 0, 30, PAGE + 64);
    record(&writers[1], 0, 20, 64);
    record(&writers[1], 0, 35, 2 * PAGE + 64);
    record(&writers[1], 1, 40, 1 << 20);
    let progress = streams.next(&mut accesses).unwrap();
    assert_eq!(progress, Progress { accesses: 2, recording: 2, waiting: 1, set_forward: 0 });
    assert_eq!(accesses, [access(0, 1000 * PAGE + 64), access(1, 2000 * PAGE + 64)]);
    assert_eq!(streams.losses(), Losses { lost: 0, without_frame: 1, elsewhere: 1 });

    // Back in time: said once, and the other VM goes on.
    record(&writers[1], 0, 5, 64);
    let error = streams.next(&mut accesses).unwrap_err().to_string();
    assert!(error.contains("vm2") && error.contains("damaged"), "{error}");
    (0..20).for_each(|number| record(&writers[0], 0, 50 + number, 64));
    assert_eq!(streams.next(&mut accesses).unwrap().recording, 1);
    accesses.clear();
    streams.stop(&mut accesses).unwrap();
    assert_eq!(accesses.last(), Some(&access(0, 1000 * PAGE + 64)));
    assert_eq!(streams.losses().lost, 4);
    assert!(writers.iter().all(|writer| writer.wanted().is_none()));
}

#[test]
fn a_qemu_that_writes_the_largest_counts_holds_up_no_other_vm() {
    let dir = tempfile::tempdir().unwrap();
    let root = HostRoot::at(dir.path());
    let vms = [vm(&root, 1, 1000), vm(&root, 2, 2000)];
    let files = [1, 1].map(|vcpus| StreamFile::create(vcpus, RingRecords::new(16).unwrap()).unwrap());
    let streamed = vms.iter().zip(&files).map(|(vm, stream)| Streamed { vm, memory_mib: 1, stream });
    let mut streams = AccessStreams::of(&root, streamed).unwrap();
    let [writer, hostile] =
        [0, 1].map(|vm| StreamWriter::open(&files[vm].path(), 1, Duration::ZERO).unwrap());
    let mut accesses = Vec::new();
    streams.start(KeptLine::new(1).unwrap()).unwrap();
    [&writer, &hostile].iter().for_each(|writer| writer.apply(writer.wanted()));

    record(&writer, 0, 10, 64);
    record(&hostile, 0, u64::MAX, 64);
    let error = streams.next(&mut accesses).unwrap_err().to_string();
    assert!(error.contains("vm2") && error.contains("more instructions"), "{error}");
    record(&writer, 0, 20, PAGE + 64);
    // vm2 may be taken for halted by now, and passes time with vm1.
    let set_forward = streams.next(&mut accesses).unwrap().set_forward;
    assert!(set_forward <= 20, "by {set_forward}: only vm1 has a clock, at 20");
    streams.stop(&mut accesses).unwrap();
    assert_eq!(accesses, [access(0, 1000 * PAGE + 64), access(0, 1001 * PAGE + 64)]);

    // Sums stay at the largest, whatever was counted of each.
    for vm in &mut streams.vms {
        vm.lost.fill(u64::MAX);
        (vm.without_frame, vm.elsewhere) = (u64::MAX, u64::MAX);
    }
    let most = Losses { lost: u64::MAX, without_frame: u64::MAX, elsewhere: u64::MAX };
    assert_eq!(streams.losses(), most);
}

#[test]
fn a_plugin_that_was_not_built_is_named_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("huddle-experiment");
    let error = plugin_library(&program).unwrap_err();
    assert!(error.contains("libhuddle_cache_plugin.so") && error.contains("cargo build"), "{error}");
    for place in [dir.path().join(LIBRARY), dir.path().join("deps").join(LIBRARY)] {
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::write(&place, "").unwrap();
        assert_eq!(plugin_library(&program).unwrap(), place);
    }
}
