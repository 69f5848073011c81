//! Recordings that older versions wrote (`fixtures`).

use super::*;

/// A recording that version 3 wrote: two VMs that processes hold, and a domain of Xen whose number and half of whose
/// UUID are in the columns of processes.
#[test]
fn a_recording_of_version_3_is_read_as_before() {
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/schema-3");
    let mut recording = Recording::open(&run).unwrap();
    assert_eq!((recording.warnings(), recording.manifest().schema_version), (&[] as &[String], 3));
    // Each round has the window that ended in it, and the last window is a step of its own.
    assert_eq!(recording.len(), 5);
    let found = recording.view(1).unwrap();
    let round = &found.round;
    let task = |id, start_ticks| TaskId { id, start_ticks };
    let domain = XenDomainId::partly_known(5, 0x6a8c_3a1e_6e1c_4c0e);
    let ids: Vec<VmId> = round.vms.iter().map(|vm| vm.id).collect();
    let expected = [task(100, 5).into(), task(101, 5).into(), VmId::XenDomain(domain)];
    assert_eq!(ids, expected);
    assert!(round.vms.iter().all(|vm| vm.uuid.is_none()));
    assert_eq!(round.vms[2].vmm, VmmKind::XenPvh);
    let vcpus: Vec<_> = round.vms.iter().map(|vm| (vm.vcpus[0].id, vm.vcpus[0].process)).collect();
    let on_xen = VcpuId::Xen { domain, vcpu: 0 };
    let expected = [
        (task(1100, 6).into(), Some(task(100, 5))),
        (task(1101, 6).into(), Some(task(101, 5))),
        (on_xen, None),
    ];
    assert_eq!(vcpus, expected);
    let matrix = round.matrix.value().unwrap();
    assert_eq!(matrix.vms().iter().map(|vm| vm.id).collect::<Vec<_>>(), some(&ids));
    assert_eq!((matrix.rate(0, 1), matrix.shared_frames(0, 1)), (202.0 / 800.0, Some(202)));
    let seen = found.observation.value().unwrap();
    let vcpus: Vec<_> = seen.vcpus.iter().map(|vcpu| (vcpu.id, vcpu.process)).collect();
    assert_eq!(vcpus, expected);
    assert_eq!(seen.merging.iter().map(|vm| vm.id).collect::<Vec<_>>(), ids);
    assert_eq!(seen.vms.iter().map(|vm| vm.id).collect::<Vec<_>>(), some(&ids));
    // What that version did not record.
    let trial = seen.trial.as_ref().unwrap();
    assert_eq!((trial.trial, trial.arm.as_str(), trial.block), (0, "before", 0));
    // What is not of a VM's identity is as it was.
    let sample = sample_observed::observed(2, 2);
    assert_eq!((&round.ksm, &round.pinning), (&sample.round.ksm, &sample.round.pinning));
    let before = sample_observed::observed(1, 2);
    let was = before.observation.value().unwrap();
    for (found, was) in seen.vcpus.iter().zip(&was.vcpus) {
        assert_eq!((&found.vm, &found.counters, &found.residency), (&was.vm, &was.counters, &was.residency));
    }
}

fn some(ids: &[VmId]) -> Vec<Option<VmId>> {
    ids.iter().copied().map(Some).collect()
}

/// A recording of two processes of which version 4 did not say what of their memory is of files.
#[test]
fn a_recording_of_version_4_is_read_as_before() {
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/schema-4");
    let mut recording = Recording::open(&run).unwrap();
    assert_eq!((recording.warnings(), recording.manifest().schema_version), (&[] as &[String], 4));
    let found = recording.view(recording.len() - 1).unwrap();
    let names: Vec<&str> = found.round.vms.iter().map(|vm| vm.name.as_str()).collect();
    assert_eq!(names, ["web", "db"]);
    assert!(found.round.vms.iter().all(|vm| vm.memory_bytes(MemoryKind::Mergeable) > 0));
    let matrix = found.round.matrix.value().unwrap();
    assert!(matrix.shared_frames(0, 1).is_some_and(|frames| frames > 0));
    assert_eq!(matrix.shared_file_frames(0, 1), None);
    assert!(matrix.vms().iter().all(|vm| vm.memory.unwrap().pages_file.is_none()));
}

/// A recording of three processes, all of which share the same 300 frames, of which version 5 recorded pairs only.
#[test]
fn a_recording_of_version_5_is_read_as_before() {
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/schema-5");
    let mut recording = Recording::open(&run).unwrap();
    assert_eq!((recording.warnings(), recording.manifest().schema_version), (&[] as &[String], 5));
    let found = recording.view(recording.len() - 1).unwrap();
    let names: Vec<&str> = found.round.vms.iter().map(|vm| vm.name.as_str()).collect();
    assert_eq!(names, ["web", "db", "cache"]);
    let matrix = found.round.matrix.value().unwrap();
    assert_eq!((matrix.shared_frames(0, 1), matrix.shared_file_frames(0, 1)), (Some(300), Some(0)));
    assert_eq!(matrix.shared_groups(), None);
    assert_eq!(found.round.plan.value().unwrap().shared_within, Some(300));
}
