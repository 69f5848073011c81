//! Where each vCPU may run, and how its owner bound it.

use huddle_model::binding::{BindingKind, RealTime};

use super::*;
use crate::pin::{Change, Journal, Origin, StateDir, VcpuRef};

const THREADS: &[(i32, &str)] = &[(100, "qemu-system-x86"), (101, "CPU 0/KVM"), (102, "CPU 1/KVM")];

/// A VM of two vCPUs on a host with CPUs 0-3.
fn host() -> Host {
    let host = Host::new();
    host.write("sys/devices/system/cpu/online", "0-3\n");
    let program = "/usr/bin/qemu-system-x86_64";
    host.add(&Process { program, fds: KVM, threads: THREADS, ..Process::default() });
    host.write("sys/fs/cgroup/cpuset.cpus.effective", "0-3\n");
    affinity(&host, 101, "0-3");
    affinity(&host, 102, "0-3");
    host
}

fn affinity(host: &Host, tid: i32, cpus: &str) {
    let text = format!("NSpid:\t{tid}\nCapEff:\t0\nCpus_allowed_list:\t{cpus}\n");
    host.write(&format!("proc/100/task/{tid}/status"), &text);
}

/// Allowed CPUs and binding of each vCPU.
fn limits(discovery: &Discovery) -> Vec<(String, Option<BindingKind>)> {
    let vm = &discovery.vms[0];
    let of = |vcpu: &huddle_model::vm::Vcpu| {
        let binding = vcpu.limits.binding.as_ref();
        (vm.allowed_cpus_of(vcpu).to_string(), binding.map(|binding| binding.kind))
    };
    vm.vcpus.iter().map(of).collect()
}

#[test]
fn vcpus_have_the_cpusets_of_their_own_threads() {
    // As libvirt with emulatorpin and vcpupin: the main thread on CPU 0, vCPUs elsewhere.
    let host = host();
    for (tid, group, cpus) in [(100, "emulator", "0"), (101, "vcpu0", "1"), (102, "vcpu1", "2-3")] {
        host.write(&format!("proc/100/task/{tid}/cgroup"), &format!("0::/vm.scope/libvirt/{group}\n"));
        host.write(&format!("sys/fs/cgroup/vm.scope/libvirt/{group}/cpuset.cpus.effective"), cpus);
        affinity(&host, tid, cpus);
    }
    host.write("proc/100/cgroup", "0::/vm.scope/libvirt/emulator\n");
    let found = found(&host);
    assert_eq!(limits(&found), [("1".into(), None), ("2-3".into(), None)]);
    assert_eq!(found.vms[0].allowed_cpus.to_string(), "1-3");
}

#[test]
fn a_cpuset_that_is_mounted_elsewhere_is_found() {
    let host = host();
    let at = host.dir.path().join("cpusets");
    let line = format!("30 24 0:26 / {} rw shared:9 - cpuset none rw\n", at.display());
    host.write("proc/self/mountinfo", &line);
    host.write("cpusets/guest/effective_cpus", "1\n");
    for tid in [101, 102] {
        host.write(&format!("proc/100/task/{tid}/cgroup"), "3:cpuset:/guest\n0::/\n");
        affinity(&host, tid, "1");
    }
    assert_eq!(limits(&found(&host)), [("1".into(), None), ("1".into(), None)]);
}

#[test]
fn without_a_cpuset_that_can_be_read_the_affinity_says_what_is_allowed() {
    let host = host();
    host.write("proc/100/task/101/cgroup", "0::/../elsewhere\n");
    affinity(&host, 101, "1-2");
    assert_eq!(limits(&found(&host))[0], ("1-2".into(), None));
}

#[test]
fn narrower_affinities_isolated_cpus_and_real_time_policies_are_bindings() {
    let host = host();
    affinity(&host, 101, "1");
    let bound = found(&host);
    assert_eq!(limits(&bound), [("0-3".into(), Some(BindingKind::Affinity)), ("0-3".into(), None)]);
    let note = "qemu-system-x86-100: vCPU 0 is left as its owner bound it, on CPUs 1, with an affinity narrower than \
                the cpuset";
    assert_eq!(bound.vms[0].binding_notes(), [note]);

    // The kernel leaves isolated CPUs out of what all processes begin with.
    host.write("sys/devices/system/cpu/isolated", "3\n");
    affinity(&host, 101, "3");
    affinity(&host, 102, "0-2");
    let isolated = Some(BindingKind::IsolatedCpus);
    assert_eq!(limits(&found(&host)), [("0-3".into(), isolated), ("0-3".into(), None)]);

    let stat = std::fs::read_to_string(host.root.proc("100/task/102/stat")).unwrap();
    host.write("proc/100/task/102/stat", &stat.replace(" 17 1 0 0 ", " 17 1 50 1 "));
    let with_policy = found(&host);
    assert_eq!(limits(&with_policy)[1].1, Some(BindingKind::RealTime(RealTime::Fifo)));

    let options = DiscoverOptions { override_bindings: true, ..DiscoverOptions::default() };
    let all = discover(&host.root, &options).unwrap();
    assert_eq!(limits(&all), [("0-3".into(), None), ("0-3".into(), None)]);
    assert_eq!(all.vms[0].vcpus[1].limits.real_time, Some(RealTime::Fifo));
}

#[test]
fn what_huddle_set_is_no_binding_and_what_was_there_before_is() {
    let host = host();
    host.write("proc/sys/kernel/random/boot_id", "boot\n");
    affinity(&host, 101, "0-1");
    affinity(&host, 102, "0-1");
    let state = host.dir.path().join("state");
    let journal = StateDir::open(Some(&state)).unwrap().lock(&host.root).unwrap();
    let mut journal = Journal::open(&host.root, &journal).unwrap();
    let task = |id: i32| TaskId { id, start_ticks: id as u64 * 10 };
    let change = |tid: i32, before: &str, is_whole| Change::Affinity {
        vm: "a".into(),
        vcpu: 0,
        of: VcpuRef::Thread { process: task(100), thread: task(tid) },
        before: before.parse().unwrap(),
        after: "0-1".parse().unwrap(),
        origin: Origin { is_whole, ..Origin::default() },
    };
    // Of the first it was all there was when CPU 3 was offline; the second was bound by its owner.
    journal.record(&[change(101, "0-2", true), change(102, "1-2", false)]).unwrap();
    let options = DiscoverOptions { state_dir: Some(state), ..DiscoverOptions::default() };
    let found = discover(&host.root, &options).unwrap();
    assert_eq!(limits(&found), [("0-3".into(), None), ("0-3".into(), Some(BindingKind::Affinity))]);
    assert_eq!(found.vms[0].vcpus[1].limits.binding.as_ref().unwrap().cpus.to_string(), "1-2");
}
